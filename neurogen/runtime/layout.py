"""How tensors lie in memory: kernels see rows of neurons in whatever dense order the input has.

In: tensors of one time step's shape. Out: the same data as rows `[T, N]` and operands `[N]`, without
a copy where the strides admit it. Channels-last input stays channels-last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neurogen.runtime.abi import Operand


@dataclass(frozen=True, slots=True)
class Layout:
    """The dense memory order of one time step.

    Attributes:
        shape: Shape of a time step.
        strides: Its strides; a permutation of a contiguous tensor's.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def neurons(self) -> int:
        """Elements of one time step."""
        return math.prod(self.shape)

    def empty(self, steps: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A new tensor of one time step (None) or of `steps` of them."""
        if steps is None:
            return torch.empty_strided(self.shape, self.strides, dtype=dtype, device=device)
        return torch.empty_strided(
            (steps, *self.shape), (self.neurons, *self.strides), dtype=dtype, device=device
        )

    def rows(self, sequence: Tensor) -> tuple[Tensor, int]:
        """`[T, *]` in this order, and the distance between its time steps; a copy if it must be."""
        if sequence.stride()[1:] == self.strides or self.neurons == 0:
            return sequence, sequence.stride(0)
        if sequence.stride(0) == 0 and sequence.shape[0] > 1:  # the same row at every step
            return self.step(sequence[0]), 0
        copy = self.empty(sequence.shape[0], sequence.dtype, sequence.device)
        return copy.copy_(sequence), self.neurons

    def step(self, value: Tensor) -> Tensor:
        """One time step in this order; a copy if it must be."""
        if value.stride() == self.strides or self.neurons == 0:
            return value
        return self.empty(None, value.dtype, value.device).copy_(value)

    def operand(self, value: Tensor) -> Operand:
        """A tensor that broadcasts to one time step, as kernels read it.

        Kernels index `n // inner % count`. That covers a tensor that varies over neighbouring
        dimensions (a scalar, a channel, a neuron); any other is written out.
        """
        if value.numel() == 1:
            return Operand(value, 1, 1)
        order = sorted(range(len(self.shape)), key=lambda d: -self.strides[d])
        expanded = value.expand(self.shape).permute(order)
        varying = [d for d in range(len(order)) if expanded.shape[d] > 1 and expanded.stride(d)]
        if not varying:
            return Operand(value.reshape(-1)[:1], 1, 1)
        low, high = varying[0], varying[-1] + 1
        inside = [d for d in range(low, high) if expanded.shape[d] > 1]
        if inside != varying:
            return Operand(expanded.contiguous(), 1, self.neurons)
        index = tuple(slice(None) if low <= d < high else 0 for d in range(len(order)))
        data = expanded[index].contiguous()
        return Operand(data, math.prod(expanded.shape[high:]), data.numel())

    def scatter(self, elements: Tensor, operand: Operand, shape: torch.Size) -> Tensor:
        """`operand` backwards: values of its elements, in the shape of the tensor it came from."""
        if shape.numel() == operand.count:
            return self._unflatten(elements, operand).reshape(shape)
        if operand.count == 1:  # every element of the tensor was one number, expanded
            return torch.nn.functional.pad(elements, (0, shape.numel() - 1)).reshape(shape)
        full = self._unflatten(elements, operand)
        return full.double().sum_to_size(shape).to(elements.dtype)

    def _unflatten(self, elements: Tensor, operand: Operand) -> Tensor:
        order = sorted(range(len(self.shape)), key=lambda d: -self.strides[d])
        shape, place = [1] * len(order), len(order)
        inner = size = 1
        while inner < operand.inner:
            place -= 1
            inner *= self.shape[order[place]]
        while size < operand.count:
            place -= 1
            shape[place] = self.shape[order[place]]
            size *= shape[place]
        return elements.reshape(shape).permute([order.index(d) for d in range(len(order))])


def layout_of(step_shape: torch.Size, strides: tuple[int, ...]) -> Layout:
    """The layout of a time step: its own strides where they are dense, else contiguous."""
    shape = tuple(step_shape)
    expected = 1
    for size, stride in sorted(
        zip(shape, strides, strict=True), key=lambda pair: (pair[1], pair[0])
    ):
        if size == 1:
            continue
        if stride != expected:
            return Layout(shape, _contiguous(shape))
        expected *= size
    # A dimension of size 1 may have any stride; give it the contiguous one.
    if any(size == 1 for size in shape):
        wide = [s for s, size in zip(strides, shape, strict=True) if size > 1]
        if wide == sorted(wide, reverse=True):
            return Layout(shape, _contiguous(shape))
    return Layout(shape, strides)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, distance = [], 1
    for size in reversed(shape):
        strides.append(distance)
        distance *= max(size, 1)
    return tuple(reversed(strides))
