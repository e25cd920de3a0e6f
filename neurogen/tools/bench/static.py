"""What can be said of CUDA kernels without a GPU: compiled by NVRTC, executed by nobody.

In: a generated class. Out: for each direction and storage type the bytes that a neuron-step moves,
and for each architecture registers, spills, local and shared memory, and occupancy. The kernels and
their arguments are those that one training step of the class launches: they are recorded where
`backends/cupy/launch.py` would hand them to CuPy.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from neurogen.backends import toolchain
from neurogen.backends.cupy import launch
from neurogen.errors import BackendError
from neurogen.runtime.abi import Kernels, Variant
from neurogen.tools.bench.ptx import Kernel, Traffic
from neurogen.tools.verify.nodes import sizes_of

INSTALL = (
    "bench --static compiles CUDA kernels with NVRTC (no GPU is needed), which is not installed: "
    "pip install 'neurogen[bench]'"
)
DTYPES = {"float32": torch.float32, "float16": torch.float16}
DIRECTIONS = ("forward", "backward")
COMPUTE = 4  # bytes of a state, whatever the storage type


@dataclass(frozen=True, slots=True)
class Architecture:
    """The limits of a multiprocessor: CUDA C++ Programming Guide, table of compute capabilities."""

    name: str
    threads: int
    blocks: int
    shared: int
    registers: int = 65536


@dataclass(frozen=True, slots=True)
class Part:
    """A GPU as its maker sells it: bandwidth in GB/s by its data sheet."""

    name: str
    bandwidth: int


ARCHITECTURES = (
    Architecture("sm_80", threads=2048, blocks=32, shared=164 * 1024),
    Architecture("sm_89", threads=1536, blocks=24, shared=100 * 1024),
    Architecture("sm_90", threads=2048, blocks=32, shared=228 * 1024),
)
PARTS = (
    Part("A100 40GB", 1555),
    Part("A100 80GB SXM", 2039),
    Part("H100 SXM", 3350),
    Part("RTX 4090", 1008),
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas says of a kernel: registers of a thread, bytes of the rest."""

    registers: int
    spills: int
    local: int
    shared: int

    def occupancy(self, on: Architecture, block: int) -> float:
        """The share of a multiprocessor's warps that can be resident.

        Args:
            on: The multiprocessor. Registers are given to warps 256 at a time, out of four parts.
            block: Threads of a block.
        """
        warps = -(-block // 32)
        of_a_warp = -(-self.registers * 32 // 256) * 256
        by_registers = 4 * (on.registers // 4 // of_a_warp) // warps
        by_threads = on.threads // (32 * warps)
        by_shared = on.shared // (self.shared + 1024)  # 1 KiB of each block is the system's
        return min(by_registers, by_threads, by_shared, on.blocks) * warps / (on.threads // 32)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel as a training step launches it."""

    direction: str
    variant: Variant
    arguments: tuple[int, ...]

    @property
    def packed(self) -> bytes:
        """The arguments as they lie in memory."""
        return struct.pack(f"<{len(self.arguments)}Q", *(a % 2**64 for a in self.arguments))


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of a neuron-step.

    Attributes:
        loads: From global memory.
        stores: To it.
        checkpoints: How many of both are for states at the borders of segments.
    """

    loads: float
    stores: float
    checkpoints: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.loads + self.stores

    def picoseconds(self, part: Part) -> float:
        """How long they take at the bandwidth of a data sheet: a bound, no measurement."""
        return self.total / part.bandwidth * 1e3


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel of one neuron.

    Attributes:
        spec: Stem of the spec.
        direction: forward or backward.
        dtype: float32 or float16.
        bytes: Of a neuron-step.
        resources: For each architecture.
    """

    spec: str
    direction: str
    dtype: str
    bytes: Bytes
    resources: dict[str, Resources]


def report(stem: str, cls: type[Any]) -> Iterator[Row]:
    """The rows of a neuron.

    Raises:
        BackendError: NVRTC is not installed.
    """
    for dtype, direction in itertools.product(DTYPES, DIRECTIONS):
        variant = launches(cls, DTYPES[dtype], 1)[direction].variant
        found, ptx = {}, ""
        for architecture in ARCHITECTURES:
            log, ptx = compiled(cls.kernels, variant, architecture.name)
            found[architecture.name] = resources(log)
        yield Row(stem, direction, dtype, count(cls, ptx, direction, DTYPES[dtype]), found)


# -- launches --------------------------------------------------------------------------------------


def launches(cls: type[Any], dtype: torch.dtype, steps: int) -> dict[str, Launch]:
    """What forward and backward of so many steps launch, with the class's own defaults.

    Args:
        cls: A generated class.
        dtype: Of the inputs.
        steps: T.
    """
    neurons = (1, launch.BLOCK)
    with _recording() as found:
        node = cls(step_mode="m", backend="cupy", **sizes_of(cls, steps, neurons))
        inputs = [torch.zeros(steps, *neurons, dtype=dtype).requires_grad_() for _ in cls.inputs]
        output = node(*inputs)
        torch.autograd.backward(output, torch.ones_like(output))
    return {one.direction: one for one in found}


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    """Within this context backend 'cupy' takes CPU tensors, and launches nothing."""
    found: list[Launch] = []

    def record(direction: str) -> Any:
        def run(
            kernels: Kernels, variant: Variant, neurons: int, arguments: list[int], device: Any
        ) -> None:
            found.append(Launch(direction, variant, tuple(arguments)))

        return run

    ours = {
        "missing": lambda device=None: "",
        "sum": lambda *arguments: None,
        **{direction: record(direction) for direction in DIRECTIONS},
    }
    before = {name: getattr(launch, name) for name in ours}
    for name, function in ours.items():
        setattr(launch, name, function)
    try:
        yield found
    finally:
        for name, function in before.items():
            setattr(launch, name, function)


def count(cls: type[Any], ptx: str, direction: str, dtype: torch.dtype) -> Bytes:
    """The bytes of a neuron-step of a kernel, what is moved once per neuron left out.

    Args:
        cls: A generated class.
        ptx: Its kernel of that direction and storage type.
        direction: forward or backward.
        dtype: The storage type.
    """
    kernel = Kernel(ptx, direction)
    every = launch.checkpoint_every(
        cls.kernels, launches(cls, dtype, 1)["backward"].variant
    )  # fmt: skip
    states, inputs, constants = len(cls.states), len(cls.inputs), len(cls.constants)
    # The field `checkpoints_` of Forward and of Backward (arguments.h.jinja), from their ends.
    field = {"forward": 2 * states, "backward": 3 * states + inputs + constants}[direction] + 1

    def traffic(steps: int) -> Traffic:
        one = launches(cls, dtype, steps)[direction]
        begin = one.arguments[-field]
        size = (steps - 1) // every * states * launch.BLOCK * COMPUTE
        return kernel.traffic(one.packed, launch.BLOCK, range(begin, begin + size))

    few, many = traffic(2 * every), traffic(6 * every)
    return Bytes(*(
        (getattr(many, name) - getattr(few, name)) / (4 * every)
        for name in ("loads", "stores", "marked")
    ))  # fmt: skip


# -- NVRTC -----------------------------------------------------------------------------------------


@cache
def _nvrtc() -> Any:
    """CuPy's binding of NVRTC, once it is known to work."""
    try:
        from cupy_backends.cuda.libs import nvrtc  # noqa: PLC0415

        nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendError(f"{INSTALL} ({error})") from error
    return nvrtc


def version() -> str:
    """The version of NVRTC, `12.9`.

    Raises:
        BackendError: NVRTC is not installed.
    """
    return ".".join(map(str, _nvrtc().getVersion()))


def compiled(kernels: Kernels, variant: Variant, architecture: str) -> tuple[str, str]:
    """Compile a kernel to machine code as the runtime does; what ptxas says of it, and its PTX.

    Raises:
        BackendError: NVRTC is not installed, or refuses the kernel.
    """
    options = (
        *launch.options(kernels, variant),
        f"-I{toolchain.INCLUDE}",
        f"-I{launch.surrogate_folder(variant.surrogate)}",
    )
    return compiled_text(kernels.text("kernels.cu"), options, architecture)


def compiled_text(text: str, options: tuple[str, ...], architecture: str) -> tuple[str, str]:
    """Compile CUDA text to machine code; what ptxas says of it, and its PTX.

    Raises:
        BackendError: NVRTC is not installed, or refuses the text.
    """
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(text, "kernels.cu", [], [])
    try:
        more = (f"--gpu-architecture={architecture}", "--ptxas-options=-v")
        nvrtc.compileProgram(program, (*options, *more))
        return str(nvrtc.getProgramLog(program)), nvrtc.getPTX(program).decode()
    except nvrtc.NVRTCError:
        log = nvrtc.getProgramLog(program)
        raise BackendError(f"NVRTC refuses a kernel for {architecture}:\n{log}") from None
    finally:
        nvrtc.destroyProgram(program)


_PTXAS = re.compile(
    r"(?P<local>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n.*Used (?P<registers>\d+) registers"
    r"(?:.*?(?P<shared>\d+) bytes smem)?"
)


def resources(log: str) -> Resources:
    """What ptxas said of the kernel with most registers; of spills and memory the sum of all.

    The small kernels that sum gradients are compiled along with each backward kernel.
    """
    found = [
        {name: int(value or 0) for name, value in match.groupdict().items()}
        for match in _PTXAS.finditer(log)
    ]
    if not found:
        raise BackendError(f"ptxas reported no kernel:\n{log}")
    return Resources(
        max(kernel["registers"] for kernel in found),
        sum(kernel["stores"] + kernel["loads"] for kernel in found),
        sum(kernel["local"] for kernel in found),
        max(kernel["shared"] for kernel in found),
    )
