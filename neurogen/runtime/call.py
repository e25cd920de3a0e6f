"""What a call of a neuron says besides its tensors, and what a backend offers to run it.

In: a generated class and the settings of a node. Out: a `Call`, which chooses kernel variants and
packs arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from neurogen.runtime.abi import Kernels, Operand, Variant, pack_floats
from neurogen.runtime.backend import launcher
from neurogen.runtime.layout import Layout

T_ = TypeVar("T_")

IO_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "neurogen::half",
    torch.bfloat16: "neurogen::bfloat16",
}

#: A step that spikes needs no surrogate forwards: one compiled kernel serves all of them.
_NO_SURROGATE = """
template <typename real>
NEUROGEN_FN real primitive(const real u, const real*) { return u; }
template <typename real>
NEUROGEN_FN real slope(const real u, const real*) { return u; }
"""


class Engine(Protocol):
    """What a backend's `launch.py` offers to the fused pass."""

    def checkpoint_every(self, kernels: Kernels, variant: Variant) -> int:
        """Steps between checkpoints, for a variant of the backward kernel."""

    def threads(self, work: int) -> int:
        """Threads for so many neuron-steps."""

    def streams(self, size: int) -> bool:
        """Whether results of so many bytes are written past the caches."""

    def forward(self, kernels: Kernels, variant: Variant, neurons: int, arguments: list[int],
                device: torch.device) -> None:  # fmt: skip
        """Run the forward kernel."""

    def backward(self, kernels: Kernels, variant: Variant, neurons: int, arguments: list[int],
                 device: torch.device) -> None:  # fmt: skip
        """Run the backward kernel."""

    def shares(self, neurons: int, count: int, like: Tensor) -> Tensor:
        """Memory for the shares of neurons in the gradient of an operand of `count` elements."""

    def sum(self, kernels: Kernels, variant: Variant, shares: Tensor, inner: int, count: int,
            total: Tensor) -> None:  # fmt: skip
        """Sum the shares of each of `count` elements into `total`, in a fixed order."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a neuron: all that is not a tensor.

    Attributes:
        differentiable: For each state, whether a gradient flows through it.
        sequences: For each state, whether its sequence is asked for.
        stepped: For each constant, whether it may differ from step to step.
        drawn: Bit k: noise k is drawn; None for a neuron without noise.
        remembers: Whether a module remembers the states: then the call must not be repeated.
    """

    engine: Engine
    kernels: Kernels
    flags: tuple[tuple[str, bool], ...]
    detach_reset: bool
    spiking: bool
    surrogate: str
    shape: tuple[float, ...]
    inputs: int
    differentiable: tuple[bool, ...]
    sequences: tuple[bool, ...]
    stepped: tuple[bool, ...]
    drawn: int | None
    remembers: bool

    @property
    def states(self) -> int:
        """How many states."""
        return len(self.differentiable)

    def forward_variant(self, dtype: torch.dtype) -> Variant:
        """The forward kernel for a storage type."""
        surrogate = _NO_SURROGATE if self.spiking else self.surrogate
        return Variant(False, IO_TYPES[dtype], self.flags, False, self.spiking, 0, surrogate)

    def backward_variant(self, dtype: torch.dtype, wants: Sequence[bool]) -> Variant:
        """The backward kernel for a storage type and the tensors that want gradients."""
        _, _, constants = self.split(wants)
        wanted = sum(1 << k for k, want in enumerate(constants) if want)
        return Variant(True, IO_TYPES[dtype], self.flags, self.detach_reset, self.spiking, wanted,
                       self.surrogate)  # fmt: skip

    def split(self, values: Sequence[T_]) -> tuple[Sequence[T_], Sequence[T_], Sequence[T_]]:
        """What belongs to the inputs, the states and the constants."""
        end = self.inputs + self.states
        return values[: self.inputs], values[self.inputs : end], values[end:]

    def targets(self, wants: Sequence[bool]) -> list[int]:
        """Which tensors get a gradient: those that want one, and are not integer states."""
        counters = [not flows for flows in self.differentiable]
        stopped = [False] * self.inputs + counters + [False] * len(self.stepped)
        return [k for k, want in enumerate(wants) if want and not stopped[k]]

    def head(
        self, steps: int, layout: Layout, every: int, operands: list[Operand], size: int,
        chance: Tensor | None, places: Tensor | None,
    ) -> list[int]:  # fmt: skip
        """The fields that both directions' arguments begin with."""
        noise: list[int] = []
        if chance is not None and self.drawn is not None:
            noise = [*chance.tolist(), self.drawn, 0 if places is None else places.data_ptr()]
        threads = self.engine.threads(steps * layout.neurons)
        uniform = all(operand.count == 1 for operand in operands[self.states :])
        streamed = self.engine.streams(steps * layout.neurons * size)
        return [
            steps, layout.neurons, threads, every, int(uniform), int(streamed),
            *pack_floats(self.shape), *noise,
        ]  # fmt: skip

    def pack(self, operands: list[Operand]) -> list[int]:
        """Initial states and constants as the kernels read them."""
        packed: list[int] = []
        for operand in operands[: self.states]:
            packed += operand.packed
        for operand, by_step in zip(operands[self.states :], self.stepped, strict=True):
            packed += operand.packed
            packed += [operand.stride] * by_step
        return packed


@lru_cache(maxsize=4096)
def call_of(
    neuron: type[Any], backend: str, flags: tuple[bool, ...], detach_reset: bool,
    surrogate: type[Any], spiking: bool, shape: tuple[float, ...], sequences: tuple[bool, ...],
    drawn: int | None = None, remembers: bool = False,
) -> Call:  # fmt: skip
    """The call of a generated class (or a subclass) with these settings.

    Args:
        neuron: The class.
        backend: Name of the backend.
        flags: Values of the class's flags, in order.
        detach_reset: Whether the gradient through the spike inside the reset is dropped.
        surrogate: Class of the surrogate.
        spiking: Whether it steps forwards.
        shape: Its shape parameters.
        sequences: For each state, whether its sequence is asked for.
        drawn: Bit k: noise k is drawn; None for a neuron without noise.
        remembers: Whether a module remembers the states.
    """
    return Call(
        cast(Engine, launcher(backend)), neuron.kernels,
        tuple(zip(neuron.flags, flags, strict=True)), detach_reset, spiking, surrogate.kernel,
        shape, len(neuron.inputs), neuron.differentiable, sequences,
        tuple(constant.stepped for constant in neuron.constants), drawn, remembers,
    )  # fmt: skip
