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
from neurogen.runtime.layout import Layout, layout_of

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

    def prepare(self, kernels: Kernels, *variants: Variant) -> None:
        """Compile what will be launched, if that takes long."""

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
class Plan:
    """What a call does with tensors of one shape, dtype and memory order, worked out once.

    Attributes:
        forward: The forward kernel.
        backward: The backward kernel.
        every: Steps between checkpoints.
        floats: The surrogate's shape parameters, packed.
    """

    layout: Layout
    forward: Variant
    backward: Variant
    every: int
    floats: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)  # `call_of` gives the same one for the same settings
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

    def plan(self, first: Tensor, wants: Sequence[bool]) -> Plan:
        """The plan for inputs like `first`, and for the tensors that want gradients."""
        geometry = (first.dtype, first.shape, first.stride(), tuple(wants))
        try:
            return _plan(self, *geometry)
        except TypeError:  # the symbolic sizes of a graph that is being made have no hash
            return _plan.__wrapped__(self, *geometry)

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
        self, plan: Plan, first: Tensor, operands: list[Operand], chance: Tensor | None,
        places: Tensor | None,
    ) -> list[int]:  # fmt: skip
        """The fields that both directions' arguments begin with."""
        steps, neurons = first.shape[0], plan.layout.neurons
        threads = self.engine.threads(steps * neurons)
        streamed = self.engine.streams(steps * neurons * first.element_size())
        uniform = all(operand.count == 1 for operand in operands[self.states :])
        head = [steps, neurons, threads, plan.every, uniform, streamed, *plan.floats]
        if chance is not None and self.drawn is not None:
            head += [*chance.tolist(), self.drawn, 0 if places is None else places.data_ptr()]
        return head

    def pack(self, operands: list[Operand]) -> list[int]:
        """Initial states and constants as the kernels read them."""
        packed: list[int] = []
        for operand in operands[: self.states]:
            packed += operand.packed
        for operand, by_step in zip(operands[self.states :], self.stepped, strict=True):
            packed += operand.packed
            if by_step:
                packed.append(operand.stride)
        return packed


@lru_cache(maxsize=4096)
def _plan(
    call: Call, dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...],
    wants: tuple[bool, ...],
) -> Plan:  # fmt: skip
    io, surrogate = IO_TYPES[dtype], _NO_SURROGATE if call.spiking else call.surrogate
    forward = Variant(False, io, call.flags, False, call.spiking, 0, surrogate)
    _, _, constants = call.split(wants)
    wanted = sum(1 << k for k, want in enumerate(constants) if want)
    backward = Variant(
        True, io, call.flags, call.detach_reset, call.spiking, wanted, call.surrogate
    )
    layout = layout_of(shape[1:], strides[1:])
    every = call.engine.checkpoint_every(call.kernels, backward)
    return Plan(layout, forward, backward, every, pack_floats(call.shape))


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
