"""Compile the C++ text on first use, keep it in the user's cache, and call it.

In: kernel text, a variant, packed arguments. Out: results in memory the caller owns. Never imports
the compiler. The cache is private to the user, keyed by everything that matters (text, headers,
variant, compiler, processor), and can be deleted at any time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from neurogen.errors import BackendError
from neurogen.runtime.abi import ABI, Kernels, Variant
from neurogen.runtime.backend import warn_once

LANES = 256  # neurons of a block; neurogen/cpu.h has the same
SCRATCH_BYTES = 64 * 1024  # recomputed states of a block, to stay in the second-level cache
GRAIN = 32 * 1024  # neuron-steps below which a second thread costs more than it does

#: No fast-math, no contraction: the step is evaluated as written. (No operation of a kernel reads
#: the floating-point exception flags or errno, so those need not be kept.)
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-fPIC", "-shared", "-fopenmp", "-Wall", "-Wextra",
)  # fmt: skip
INCLUDE = Path(__file__).parents[2] / "runtime" / "include"


# -- the engine's interface (neurogen.runtime.fused.Engine) -----------------------------------------


def missing(device: str | None = None) -> str:
    """Why this backend cannot run, empty if it can."""
    if device not in (None, "cpu"):
        return f"it runs on the CPU, the input is on {device}."
    if compiler() is None:
        return (
            "no C++ compiler was found (set CXX, or install one: `apt install g++`, "
            "`dnf install gcc-c++`, `xcode-select --install`)."
        )
    return ""


def checkpoint_every(variant: Variant, states: int) -> int:
    """As many steps as a block's recomputed states fit into the cache."""
    size = 8 if variant.io == "double" else 4
    return max(4, SCRATCH_BYTES // (LANES * size * max(states, 1)))


def threads(work: int) -> int:
    """Threads for so many neuron-steps; one in a forked child, whose OpenMP pool is gone."""
    if _forked or work <= GRAIN:
        return 1
    return min(torch.get_num_threads(), -(-work // GRAIN))


def forward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Run the forward kernel on packed arguments."""
    library(kernels, variant).forward((ctypes.c_int64 * len(arguments))(*arguments))


def backward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Run the backward kernel on packed arguments."""
    library(kernels, variant).backward((ctypes.c_int64 * len(arguments))(*arguments))


def shares(neurons: int, count: int, like: Tensor) -> Tensor:
    """A share a block, in float64, where one number is read by all; else one a neuron."""
    if count == 1:
        return torch.empty(-(-neurons // LANES), dtype=torch.float64)
    return torch.empty(neurons, dtype=like.dtype)


def sum(  # noqa: A001 - the engine's name for it
    kernels: Kernels, variant: Variant, shares: Tensor, inner: int, count: int, total: Tensor
) -> None:
    """Sum shares in a fixed order, the same for any number of threads."""
    members = shares.numel() // count
    partial = torch.empty(count, dtype=torch.float64)
    packed = (shares.data_ptr(), members, inner, count, 1, partial.data_ptr(), total.data_ptr())
    built = library(kernels, variant)
    blocks = shares.dtype == torch.float64 and (variant.io != "double" or count == 1)
    run = built.sum_blocks if blocks else built.sum_neurons
    run((ctypes.c_int64 * len(packed))(*packed), threads(shares.numel()))


# -- compiling ----------------------------------------------------------------------------------


@cache
def library(kernels: Kernels, variant: Variant) -> ctypes.CDLL:
    """The compiled kernel: from this process, the cache, or the compiler."""
    path = compile_library(kernels.text("kernels.cpp"), variant)
    loaded = ctypes.CDLL(str(path))
    for name in ("forward", "backward"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p]
        getattr(loaded, name).restype = None
    for name in ("sum_blocks", "sum_neurons"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p, ctypes.c_int64]
        getattr(loaded, name).restype = None
    _check_thread_pools()
    return loaded


def compile_library(text: str, variant: Variant, extra: tuple[str, ...] = ()) -> Path:
    """Compile kernel text into the cache, once, whoever else is doing the same."""
    command = compiler()
    if command is None:
        raise BackendError(f"backend='cpp' cannot run: {missing()}")
    macros = [f"-D{name}={value}" for name, value in variant.macros]
    flags = [*FLAGS, *extra, *macros]
    digest = hashlib.sha256()
    for part in (str(ABI), text, variant.surrogate, headers(), *flags, command, identity(command),
                 processor()):  # fmt: skip
        digest.update(part.encode() + b"\0")
    folder = cache_folder()
    target = folder / f"{digest.hexdigest()[:32]}.so"
    if _is_intact(target):
        return target
    from filelock import FileLock  # noqa: PLC0415 - only when something is compiled

    with FileLock(f"{target}.lock"):
        if not _is_intact(target):
            _compile(command, flags, text, variant.surrogate, target)
    return target


def _compile(command: str, flags: list[str], text: str, surrogate: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        source, built = Path(work, "kernels.cpp"), Path(work, "kernels.so")
        Path(work, "neurogen").mkdir()
        source.write_text(text, encoding="utf-8")
        Path(work, "neurogen", "surrogate.h").write_text(
            f'#pragma once\n#include "neurogen/kernel.h"\n{surrogate}', encoding="utf-8"
        )
        run = subprocess.run(
            [command, *flags, f"-I{work}", f"-I{INCLUDE}", str(source), "-o", str(built)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if run.returncode:
            raise BackendError(
                f"{command} could not compile the kernel (exit {run.returncode}):\n"
                f"{run.stderr[-4000:]}"
            )
        checksum = hashlib.sha256(built.read_bytes()).hexdigest()
        _replace(target.with_suffix(".sha256"), checksum.encode())
        os.chmod(built, 0o700)
        os.replace(built, target)


def _replace(target: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    os.replace(temporary, target)


def _is_intact(target: Path) -> bool:
    """Whether a cached library is whole: a truncated one would crash the process."""
    try:
        expected = target.with_suffix(".sha256").read_text(encoding="ascii")
        return hashlib.sha256(target.read_bytes()).hexdigest() == expected
    except (OSError, UnicodeDecodeError):
        return False


@cache
def compiler() -> str | None:
    """The system's C++ compiler: CXX, or the first of g++, clang++, c++."""
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    return None


@cache
def identity(command: str) -> str:
    """The compiler's version, part of the cache key."""
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=False,
                         stdin=subprocess.DEVNULL)  # fmt: skip
    return run.stdout


@cache
def headers() -> str:
    """The text of the headers, part of the cache key."""
    return "".join(p.read_text(encoding="utf-8") for p in sorted(INCLUDE.rglob("*.h")))


@cache
def processor() -> str:
    """What `-march=native` means here, part of the cache key."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kept = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        kept = []
    return "\n".join([platform.machine(), platform.processor(), *kept])


@cache
def cache_folder() -> Path:
    """The user's own folder for compiled kernels.

    Raises:
        BackendError: The folder cannot be made, or others can write to it.
    """
    from platformdirs import user_cache_path  # noqa: PLC0415

    asked = os.environ.get("NEUROGEN_CACHE")
    folder = (Path(asked) if asked else user_cache_path("neurogen")) / "cpp"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise BackendError(
            f"the compile cache {folder} cannot be used ({error.strerror}); set NEUROGEN_CACHE to a "
            f"folder of your own"
        ) from None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise BackendError(
            f"the compile cache {folder} can be written by others; set NEUROGEN_CACHE to a folder "
            f"that only you can write (chmod 700)"
        )
    return folder


# -- threads --------------------------------------------------------------------------------------

_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 - set once, in a child
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _check_thread_pools() -> None:
    """Warn where the kernels' OpenMP is another copy than torch's: two pools would compete."""
    if not sys.platform.startswith("linux"):
        return
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    pools = sorted({line.split()[-1] for line in maps.splitlines() if "libgomp" in line})
    if len(pools) > 1:
        warn_once(f"two OpenMP thread pools are loaded ({', '.join(pools)}); kernels and torch "
                  "operators will compete for cores")  # fmt: skip
