"""Functions of the equation language that torch lacks or defines differently.

In: tensors of one floating dtype. Out: tensors of that dtype, with the documented subgradients:
ties of max/min share ½ each, clip passes 1 at its bounds, an untaken branch contributes exactly 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def number(value: float, like: Tensor) -> Tensor:
    """A literal as a 0-dim tensor of the compute dtype, on the device of `like`."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shape: torch.Size) -> Tensor:
        ctx.shape = value.shape
        return value.expand(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        if gradient.shape != ctx.shape:
            wide = gradient if gradient.device.type == "mps" else gradient.double()
            gradient = wide.sum_to_size(ctx.shape).to(gradient.dtype)
        return gradient, None


def spread(value: Tensor, shape: torch.Size) -> Tensor:
    """`value.expand(shape)`, with the gradient of a shared value summed in float64."""
    result: Tensor = _Spread.apply(value, shape)  # type: ignore[no-untyped-call]
    return result


def taken(condition: Tensor, value: Tensor) -> Tensor:
    """`value`, with a gradient only where `condition` holds: chosen, not multiplied by 0."""
    return torch.where(condition, value, value.detach())


def power(base: Tensor, exponent: int) -> Tensor:
    """base**exponent as products from left to right (torch's `**` rounds differently)."""
    product = base
    for _ in range(abs(exponent) - 1):
        product = product * base
    return product if exponent > 0 else 1 / product


class _Sqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        # On the CPU torch's square root is not always correctly rounded; a wider one, rounded, is.
        wide = a.double() if a.dtype == torch.float32 else a.to(torch.complex128)
        root = wide.sqrt()
        result = (root.real if root.is_complex() else root).to(a.dtype)
        result = torch.where(a < 0, torch.full_like(a, torch.nan), result)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        root: Tensor = ctx.saved_tensors[0]
        return gradients[0] / (2 * root)


def sqrt(a: Tensor) -> Tensor:
    """The correctly rounded square root; NaN below 0."""
    if a.device.type != "cpu":
        root: Tensor = torch.sqrt(a)
        return root
    result: Tensor = _Sqrt.apply(a)  # type: ignore[no-untyped-call]
    return result


def sign(a: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN."""
    return torch.where(torch.isnan(a), a, torch.sign(a))


def softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)) without overflow; derivative sigmoid(a)."""
    return torch.logaddexp(a, torch.zeros_like(a))


def min(a: Tensor, b: Tensor) -> Tensor:  # noqa: A001 - the language's name
    """The smaller; NaN if either is."""
    return torch.minimum(a, b)


def max(a: Tensor, b: Tensor) -> Tensor:  # noqa: A001 - the language's name
    """The larger; NaN if either is."""
    return torch.maximum(a, b)


def clip(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """min(max(a, low), high), with derivative 1 at the bounds."""
    return torch.clamp(a, low, high)


def gaussian(a: Tensor) -> Tensor:
    """exp(-a**2); the square is split, so that its rounding is not amplified for large |a|."""
    splitter = 4097.0 if a.dtype == torch.float32 else 134217729.0
    scaled = a.clamp(-30.0, 30.0)  # exp(-900) is 0 in every dtype
    high = splitter * scaled - (splitter * scaled - scaled)
    low = scaled - high
    return torch.exp(-(high * high)) * torch.exp(-(low * (high + scaled)))


def detach(a: Tensor) -> Tensor:
    """The value without its gradient."""
    return a.detach()


def phi(a: Tensor) -> Tensor:
    """(exp(a) - 1) / a, 1 at 0, with an accurate derivative everywhere."""
    near = a.abs() < 0.5
    small = torch.where(near, a, torch.zeros_like(a))  # what overflows has a slope of NaN
    series = torch.ones_like(a)
    for n in range(14, 0, -1):
        series = 1 + small / (n + 1) * series
    away = torch.where(near, torch.ones_like(a), a)
    return torch.where(near, series, torch.expm1(away) / away)


def phi_slope(a: Tensor) -> Tensor:
    """The derivative of phi, (exp(a) - phi(a)) / a; by its series where that cancels."""
    near = a.abs() < 1
    small = torch.where(near, a, torch.zeros_like(a))
    series = torch.zeros_like(a)
    for n in range(18, -1, -1):
        series = series * small + 1 / (math.factorial(n) * (n + 2))
    away = torch.where(near, torch.ones_like(a), a)
    return torch.where(near, series, (torch.exp(away) - phi(away)) / away)
