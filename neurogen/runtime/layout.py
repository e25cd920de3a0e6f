"""How tensors lie in memory: kernels see rows of neurons in whatever dense order the input has.

In: tensors of one time step's shape. Out: the same data as rows `[T, N]` and operands `[N]`,
without a copy where the strides admit it. Channels-last input stays channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurogen.runtime.abi import Operand


@dataclass(frozen=True, slots=True)
class Layout:
    """The dense memory order of one time step.

    Attributes:
        shape: Shape of a time step.
        strides: Its strides; a permutation of a contiguous tensor's.
        neurons: Elements of one time step.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    neurons: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", math.prod(self.shape))

    def empty(self, steps: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A new tensor of one time step (None) or of `steps` of them."""
        if steps is None:
            return torch.empty_strided(self.shape, self.strides, dtype=dtype, device=device)
        return torch.empty_strided(
            (steps, *self.shape), (self.neurons, *self.strides), dtype=dtype, device=device
        )

    def rows(self, sequence: Tensor) -> tuple[Tensor, int]:
        """`[T, *]` in this order, and the distance between its time steps; a copy if it must be."""
        if self._holds(sequence.stride()[1:]):
            return sequence, sequence.stride(0)
        if sequence.stride(0) == 0 and sequence.shape[0] > 1:  # the same row at every step
            return self.step(sequence[0]), 0
        copy = self.empty(sequence.shape[0], sequence.dtype, sequence.device)
        return copy.copy_(sequence), self.neurons

    def step(self, value: Tensor) -> Tensor:
        """One time step in this order; a copy if it must be."""
        if self._holds(value.stride()):
            return value
        return self.empty(None, value.dtype, value.device).copy_(value)

    def operand(self, value: Tensor) -> Operand:
        """A tensor that broadcasts to one time step, as kernels read it.

        Kernels index `n // inner % count`. That covers a tensor that varies over neighbouring
        dimensions (a scalar, a channel, a neuron); any other is written out. One dimension more
        than a time step has is that of the steps, and leads.
        """
        if value.numel() == 1:
            return Operand(value, 1, 1)
        order = self._order
        steps, own = _split(value.shape, len(order))
        wide = value.reshape(*steps, *(1,) * (len(order) - len(own)), *own)
        wide = wide.permute(*range(len(steps)), *(len(steps) + d for d in order))
        shape = wide.shape[len(steps) :]
        varying = [place for place, size in enumerate(shape) if size > 1]
        low, high = min(varying, default=0), max(varying, default=-1) + 1
        sizes = [self.shape[d] for d in order]
        if any(shape[place] != sizes[place] for place in range(low, high)):
            return Operand(wide.expand(*steps, *sizes).contiguous(), 1, self.neurons)
        return Operand(wide.contiguous(), math.prod(sizes[high:]), own.numel())

    def scatter(self, elements: Tensor, operand: Operand, shape: torch.Size) -> Tensor:
        """`operand` backwards: values of its elements, in the shape of the tensor it came from."""
        order = self._order
        steps, own = _split(shape, len(order))
        written_out = operand.count != own.numel()
        aligned = (1,) * (len(order) - len(own)) + tuple(own)
        sizes = self.shape if written_out else aligned
        ordered = elements.reshape(*steps, *(sizes[d] for d in order))
        back = [len(steps) + order.index(d) for d in range(len(order))]
        full = ordered.permute(*range(len(steps)), *back)
        if written_out:
            full = full.double().sum_to_size(*steps, *aligned).to(elements.dtype)
        return full.reshape(shape).contiguous()

    def places(self, device: torch.device) -> Tensor | None:
        """Index of each neuron in a contiguous time step, in this order; None if it is its own."""
        if self._holds(_dense(self.shape, range(len(self.shape)))):
            return None
        return self.step(torch.arange(self.neurons, device=device).reshape(self.shape))

    @property
    def _order(self) -> list[int]:
        """The dimensions, outermost first."""
        return sorted(range(len(self.shape)), key=lambda d: -self.strides[d])

    def _holds(self, strides: tuple[int, ...]) -> bool:
        """Whether a tensor with these strides has this order: a dimension of size 1 has any."""
        return (
            strides == self.strides
            or not self.neurons
            or all(
                size == 1 or mine == given
                for size, mine, given in zip(self.shape, self.strides, strides, strict=True)
            )
        )


def _split(shape: torch.Size, dims: int) -> tuple[torch.Size, torch.Size]:
    """Dimensions of the time steps (none, or one), and of a value in one of them."""
    lead = max(len(shape) - dims, 0)
    return shape[:lead], shape[lead:]


def layout_of(step_shape: torch.Size, strides: tuple[int, ...]) -> Layout:
    """The layout of a time step: its own order where that is dense, else contiguous."""
    shape = tuple(step_shape)
    contiguous = _dense(shape, range(len(shape)))
    order = sorted(range(len(shape)), key=lambda d: (-strides[d], d))
    wide = [d for d in order if shape[d] != 1]
    own = _dense(shape, order)
    if wide == sorted(wide) or any(own[d] != strides[d] for d in wide):
        return Layout(shape, contiguous)
    return Layout(shape, own)


def _dense(shape: tuple[int, ...], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps, for dimensions in this order."""
    strides, distance = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = distance
        distance *= max(shape[d], 1)
    return tuple(strides)
