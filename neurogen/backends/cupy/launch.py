"""Run the CUDA kernels through CuPy, on torch's current device and stream.

In: kernel text, a variant, packed arguments. Out: results in memory the caller owns. CuPy is
imported when the first CUDA tensor arrives. `emulated()` runs the very same text on the CPU through
`shim.h`, so that its numbers can be tested where there is no GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurogen.backends import toolchain
from neurogen.runtime.abi import Kernels, Variant

BLOCK = 128  # threads of a block
CHUNKS = 256  # partial sums of a constant's gradient
REGISTERS = 16  # values that the backward kernel keeps of its segment of steps

#: IEEE arithmetic as written: no contraction, no flushing of subnormals, exact division and root.
OPTIONS = (
    "-std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true",
)  # fmt: skip

_emulating = False


@contextmanager
def emulated() -> Iterator[None]:
    """Within this context backend 'cupy' takes CPU tensors and runs the CUDA text on the CPU."""
    global _emulating  # noqa: PLW0603 - a switch for tests and `neurogen verify`
    before, _emulating = _emulating, True
    try:
        yield
    finally:
        _emulating = before


# -- the engine's interface (neurogen.runtime.call.Engine) ----------------------------------------


def missing(device: str | None = None) -> str:
    """Why this backend cannot run, empty if it can."""
    if _emulating:
        return toolchain.unusable()
    if device not in (None, "cuda"):
        return f"it runs on CUDA devices, the input is on {device}."
    if not torch.cuda.is_available():
        return "torch sees no CUDA device here."
    return _cupy_missing()


@cache
def _cupy_missing() -> str:
    try:
        import cupy  # noqa: F401, PLC0415
    except ImportError:
        return "CuPy is not installed (`pip install neurogen[cuda]`)."
    return ""


def checkpoint_every(kernels: Kernels, variant: Variant) -> int:
    """As many steps as what the backward kernel keeps fits into registers, whatever is wanted."""
    size = 2 if variant.io == "double" else 1
    return max(2, REGISTERS // (size * max(kernels.rows(wanted=-1), 1)))


def threads(work: int) -> int:
    """Threads are the grid's business."""
    return 1


def streams(size: int) -> bool:
    """A GPU's caches are its own business."""
    return False


def prepare(kernels: Kernels, *variants: Variant) -> None:
    """NVRTC is quick, and compiles a kernel when it is launched."""


def forward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Launch the forward kernel, a thread a neuron."""
    _launch(kernels, variant, "forward", arguments, neurons, device)


def backward(
    kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: torch.device
) -> None:
    """Launch the backward kernel, a thread a neuron."""
    _launch(kernels, variant, "backward", arguments, neurons, device)


def shares(neurons: int, count: int, like: Tensor) -> Tensor:
    """A share a neuron."""
    return torch.empty(neurons, dtype=like.dtype, device=like.device)


def sum(  # noqa: A001 - the engine's name for it
    kernels: Kernels, variant: Variant, shares: Tensor, inner: int, count: int, total: Tensor
) -> None:
    """Sum shares in a fixed order, in two passes."""
    elements = total.numel()
    steps, members = elements // count, shares.numel() // elements
    chunks = max(1, min(CHUNKS, members))
    partial = torch.empty(elements * chunks, dtype=torch.float64, device=shares.device)
    packed = [shares.data_ptr(), steps, members, inner, count, chunks, partial.data_ptr(),
              total.data_ptr()]  # fmt: skip
    _launch(kernels, variant, "sum_chunks", packed, elements * chunks, shares.device)
    _launch(kernels, variant, "sum_partials", packed, elements, shares.device)


def _launch(
    kernels: Kernels, variant: Variant, name: str, arguments: list[int], work: int,
    device: torch.device,
) -> None:  # fmt: skip
    grid = -(-work // BLOCK)
    if device.type == "cpu":
        packed = (ctypes.c_int64 * len(arguments))(*arguments)
        getattr(_emulator(kernels, variant), f"emulate_{name}")(packed, grid, BLOCK)
        return
    import cupy  # noqa: PLC0415

    stream = torch.cuda.current_stream(device)
    fields = np.array(arguments, dtype=np.int64).view([("fields", np.int64, len(arguments))])
    with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream.cuda_stream):
        _module(kernels, variant, device.index).get_function(name)((grid,), (BLOCK,), (fields,))


# -- modules ---------------------------------------------------------------------------------------


def options(kernels: Kernels, variant: Variant) -> tuple[str, ...]:
    """NVRTC's options for a variant, without architecture and include folders."""
    macros = [f"-D{name}={value}" for name, value in variant.macros]
    # NVRTC wants to know of a change in the headers: CuPy's cache looks at text and options only.
    headers = hashlib.sha256((toolchain.headers() + variant.surrogate).encode()).hexdigest()[:16]
    return (*OPTIONS, *macros, f"-DCHECKPOINT_EVERY={checkpoint_every(kernels, variant)}",
            f"-DNEUROGEN_HEADERS=0x{headers}ull")  # fmt: skip


@cache
def _module(kernels: Kernels, variant: Variant, device: int) -> Any:
    import cupy  # noqa: PLC0415

    folder = surrogate_folder(variant.surrogate)
    return cupy.RawModule(
        code=kernels.text("kernels.cu"),
        options=(*options(kernels, variant), f"-I{toolchain.INCLUDE}", f"-I{folder}"),
        backend="nvrtc",
    )


def surrogate_folder(surrogate: str) -> Path:
    """A folder of the cache in which `neurogen/surrogate.h` is this surrogate's text."""
    digest = hashlib.sha256(surrogate.encode()).hexdigest()[:32]
    folder = toolchain.cache_folder() / "surrogates" / digest
    header = folder / "neurogen" / "surrogate.h"
    text = f'#pragma once\n#include "neurogen/kernel.h"\n{surrogate}'
    if not header.is_file() or header.read_text(encoding="utf-8") != text:
        header.parent.mkdir(parents=True, exist_ok=True)
        toolchain.replace(header, text.encode())
    return folder


@cache
def _emulator(kernels: Kernels, variant: Variant) -> ctypes.CDLL:
    """The CUDA text as a CPU library: each kernel's grid as two loops."""
    sums = "neurogen::Sum<real, real>"
    exported = (
        {"backward": "Backward", "sum_chunks": sums, "sum_partials": sums}
        if variant.backward
        else {"forward": "Forward"}
    )
    drivers = "".join(
        f'extern "C" void emulate_{name}(const {type_}* a, unsigned grid, unsigned block) '
        f"{{ emulate({name}, *a, grid, block); }}\n"
        for name, type_ in exported.items()
    )
    shim = (Path(__file__).parent / "shim.h").read_text(encoding="utf-8")
    text = f"{shim}\n{kernels.text('kernels.cu')}\n{drivers}"
    macros = [o for o in options(kernels, variant) if o.startswith("-D")]
    path = toolchain.shared_library(
        text, variant.surrogate, ("-O2", "-Wno-unknown-pragmas", *macros)
    )
    return ctypes.CDLL(str(path))
