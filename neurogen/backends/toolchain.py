"""The system's C++ compiler, and the user's own cache of what it built.

In: source text and flags. Out: the path of a shared library that is whole. The cache is private to
the user, keyed by everything that matters (text, headers, flags, compiler, processor), and can be
deleted at any time; two processes that need the same library compile it once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from neurogen.errors import BackendError
from neurogen.runtime.abi import ABI

#: No fast-math, no contraction: the step is evaluated as written. (No operation of a kernel reads
#: the floating-point exception flags or errno, so those need not be kept.)
FLAGS = (
    "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared",
    "-march=native", "-Wall", "-Wextra",
)  # fmt: skip
INCLUDE = Path(__file__).parents[1] / "runtime" / "include"
INSTALL = (
    "no C++ compiler was found (set CXX, or install one: `apt install g++`, `dnf install gcc-c++`, "
    "`xcode-select --install`)."
)


def shared_library(text: str, surrogate: str, flags: tuple[str, ...]) -> Path:
    """Compile C++ text, or find it compiled.

    Args:
        text: The translation unit; it may include `neurogen/*.h`.
        surrogate: Text of `primitive` and `slope`, included as `neurogen/surrogate.h`.
        flags: Flags and macros besides `FLAGS`.

    Raises:
        BackendError: No compiler, no usable cache folder, or the compiler refused.
    """
    command = compiler()
    if command is None:
        raise BackendError(INSTALL)
    flags = (*FLAGS, *flags)
    digest = hashlib.sha256()
    for part in (str(ABI), text, surrogate, headers(), *flags, command, identity(command),
                 processor()):  # fmt: skip
        digest.update(part.encode() + b"\0")
    target = cache_folder() / f"{digest.hexdigest()[:32]}.so"
    if _is_intact(target):
        return target
    from filelock import FileLock  # noqa: PLC0415 - only when something is compiled

    with FileLock(f"{target}.lock"):
        if not _is_intact(target):
            _compile(command, flags, text, surrogate, target)
    return target


def _compile(command: str, flags: tuple[str, ...], text: str, surrogate: str, target: Path) -> None:
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
        built.chmod(0o700)
        checksum = hashlib.sha256(built.read_bytes()).hexdigest()
        replace(target.with_suffix(".sha256"), checksum.encode())
        os.replace(built, target)


def replace(target: Path, data: bytes) -> None:
    """Put a file in place atomically."""
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
        kept = sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
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
            f"the compile cache {folder} cannot be used ({error.strerror}); set NEUROGEN_CACHE to "
            "a folder of your own"
        ) from None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise BackendError(
            f"the compile cache {folder} can be written by others; set NEUROGEN_CACHE to a folder "
            f"that only you can write (chmod 700)"
        )
    return folder
