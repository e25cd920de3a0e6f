"""Run the C++ kernels: compiled on first use with the system's compiler, called by raw pointers.

In: kernel text, a variant, packed arguments. Out: results in memory the caller owns. Never imports
the spec compiler.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from neurogen.backends import toolchain
from neurogen.runtime.abi import Kernels, Variant
from neurogen.runtime.backend import forked, warn_once

LANES = 1024  # neurons of a block; neurogen/cpu.h has the same
SCRATCH_BYTES = 128 * 1024  # recomputed states of a block, to stay in the second-level cache
STREAM_BYTES = 12 * 1024 * 1024  # results from here on are written past the caches
GRAIN = 32 * 1024  # neuron-steps below which a second thread costs more than it does


# -- the engine's interface (neurogen.runtime.call.Engine) ----------------------------------------


def missing(device: str | None = None) -> str:
    """Why this backend cannot run, empty if it can."""
    if device not in (None, "cpu"):
        return f"it runs on the CPU, the input is on {device}."
    return toolchain.unusable()


def checkpoint_every(kernels: Kernels, variant: Variant) -> int:
    """As many steps as what the backward kernel keeps of a block fits into the cache."""
    size = 8 if variant.io == "double" else 4
    return max(4, SCRATCH_BYTES // (LANES * size * max(kernels.rows(variant.wanted), 1)))


def threads(work: int) -> int:
    """Threads for so many neuron-steps; one in a forked child, whose OpenMP pool is gone."""
    if forked() or work <= GRAIN:
        return 1
    return min(torch.get_num_threads(), -(-work // GRAIN))


def streams(size: int) -> bool:
    """Whether results of so many bytes exceed what a following consumer finds in the cache."""
    return size >= STREAM_BYTES


@cache
def prepare(kernels: Kernels, *variants: Variant) -> None:
    """Compile both directions at the same time: the first training step waits for the slower."""
    with ThreadPoolExecutor(len(variants)) as compilers:
        list(compilers.map(partial(library, kernels), variants))


def forward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Run the forward kernel on packed arguments."""
    packed = array("q", arguments)
    library(kernels, variant).forward(packed.buffer_info()[0])


def backward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Run the backward kernel on packed arguments."""
    packed = array("q", arguments)
    library(kernels, variant).backward(packed.buffer_info()[0])


def shares(neurons: int, count: int, like: Tensor) -> Tensor:
    """A share a block, in float64, where one number is read by all; else one a neuron."""
    if count == 1:
        return torch.empty(-(-neurons // LANES), dtype=torch.float64)
    return torch.empty(neurons, dtype=like.dtype)


def sum(  # noqa: A001 - the engine's name for it
    kernels: Kernels, variant: Variant, shares: Tensor, inner: int, count: int, total: Tensor
) -> None:
    """Sum shares in a fixed order, the same for any number of threads."""
    steps, members = total.numel() // count, shares.numel() // total.numel()
    chunks = torch.empty(total.numel(), dtype=torch.float64)
    packed = array("q", (shares.data_ptr(), steps, members, inner, count, 1, chunks.data_ptr(),
                         total.data_ptr()))  # fmt: skip
    built = library(kernels, variant)
    blocks = shares.dtype == torch.float64 and (variant.io != "double" or count == 1)
    run = built.sum_blocks if blocks else built.sum_neurons
    run(packed.buffer_info()[0], threads(shares.numel()))


# -- libraries ------------------------------------------------------------------------------------


@cache
def library(kernels: Kernels, variant: Variant) -> ctypes.CDLL:
    """The compiled kernel of a variant, loaded."""
    macros = tuple(f"-D{name}={value}" for name, value in variant.macros)
    text = kernels.text("kernels.cpp")
    path = toolchain.shared_library(text, variant.surrogate, ("-O3", "-fopenmp", *macros))
    loaded = ctypes.CDLL(str(path))
    names = ("backward", "sum_blocks", "sum_neurons") if variant.backward else ("forward",)
    for name in names:
        getattr(loaded, name).restype = None
        getattr(loaded, name).argtypes = [ctypes.c_void_p, ctypes.c_int64][: 1 + ("sum" in name)]
    _check_thread_pools()
    return loaded


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
