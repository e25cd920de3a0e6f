"""The surrogates of the reference stepper: smooth steps S(u) and their slopes, written by hand.

In: u = a - b of a comparison, float64, any shape. Out: S(u) and dS/du, the same.
Separate from the compiler's table so that one can judge the other; apart from `reference` because
it is a table. Slopes keep their relative accuracy for |u| up to 1e6 and beyond: nothing cancels.
Where S does not rise from 0 to 1 it is the integral of the slope from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Decide = Callable[[Tensor], Tensor]
Curve = Callable[[Tensor, Decide], tuple[Tensor, Tensor]]


def _ramp(u: Tensor, inside: Tensor, inner: float, outer: float, half: float) -> Tensor:
    """Integrate the slope `inner` where |u| < `half`, `outer` elsewhere; 0 at u = 0."""
    return torch.where(inside, inner * u, u.sign() * (inner * half + outer * (u.abs() - half)))


def _rect(u: Tensor, decide: Decide, alpha: float) -> tuple[Tensor, Tensor]:
    inside = decide(u.abs() < 1 / (2 * alpha))
    return 0.5 + _ramp(u, inside, alpha, 0.0, 1 / (2 * alpha)), inside.to(u.dtype) * alpha


def _piecewise_leaky_relu(u: Tensor, decide: Decide, w: float, c: float) -> tuple[Tensor, Tensor]:
    inside = decide(u.abs() <= w)
    slope = torch.where(inside, u.new_tensor(1 / (2 * w)), u.new_tensor(c))
    return 0.5 + _ramp(u, inside, 1 / (2 * w), c, w), slope


def _leaky_k_relu(u: Tensor, decide: Decide, leak: float, k: float) -> tuple[Tensor, Tensor]:
    slope = torch.where(decide(u < 0), u.new_tensor(leak), u.new_tensor(k))
    return slope * u, slope


def _s2nn(u: Tensor, decide: Decide, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    below, above = decide(u < 0), u.clamp(min=0)
    smooth = torch.sigmoid(alpha * u) * torch.sigmoid(-alpha * u)
    value = torch.where(below, torch.sigmoid(alpha * u), beta * torch.log1p(above) + 0.5)
    return value, torch.where(below, alpha * smooth, beta / (1 + above))


def _log_tailed_relu(u: Tensor, decide: Decide, alpha: float) -> tuple[Tensor, Tensor]:
    below, middle, above = decide(u <= 0), decide(u <= 1), u.clamp(min=1)
    value = torch.where(middle, u, 1 + torch.log(above))
    slope = torch.where(middle, torch.ones_like(u), 1 / above)
    return torch.where(below, alpha * u, value), torch.where(below, u.new_tensor(alpha), slope)


def _tails(u: Tensor, tail: Tensor) -> Tensor:
    """Join the lower half `tail` = S(-|u|) of a step with its mirror image 1 - S(-|u|)."""
    return torch.where(u < 0, tail, 1 - tail)


# name: (defaults, (u, decide, parameters) -> (S(u), dS/du)); only slopes that jump decide anything
CURVES: dict[str, tuple[dict[str, float], Callable[..., tuple[Tensor, Tensor]]]] = {
    "sigmoid": (
        {"alpha": 4.0},
        lambda u, _, alpha: (
            torch.sigmoid(alpha * u),
            alpha * torch.sigmoid(alpha * u) * torch.sigmoid(-alpha * u),
        ),
    ),
    "atan": (
        {"alpha": 2.0},
        lambda u, _, alpha: (
            torch.atan(math.pi / 2 * alpha * u) / math.pi + 0.5,
            alpha / 2 / (1 + (math.pi / 2 * alpha * u) ** 2),
        ),
    ),
    "piecewise_quadratic": (
        {"alpha": 1.0},
        lambda u, _, alpha: (
            _tails(u, 0.5 * (1 - alpha * u.abs()).clamp(min=0) ** 2),
            alpha * (1 - alpha * u.abs()).clamp(min=0),
        ),
    ),
    "piecewise_exp": (
        {"alpha": 1.0},
        lambda u, _, alpha: (
            _tails(u, 0.5 * torch.exp(-alpha * u.abs())),
            alpha / 2 * torch.exp(-alpha * u.abs()),
        ),
    ),
    "soft_sign": (
        {"alpha": 2.0},
        lambda u, _, alpha: (
            _tails(u, 0.5 / (1 + alpha * u.abs())),
            1 / (2 * alpha * (1 / alpha + u.abs()) ** 2),
        ),
    ),
    "super_spike": (
        {"alpha": 1.0},
        lambda u, _, alpha: (alpha * u / (1 + u.abs()), alpha / (1 + u.abs()) ** 2),
    ),
    "fast_sigmoid": (
        {"alpha": 25.0},
        lambda u, _, alpha: (u / (1 + alpha * u.abs()), 1 / (1 + alpha * u.abs()) ** 2),
    ),
    "erf": (
        {"alpha": 2.0},
        lambda u, _, alpha: (
            0.5 * torch.erfc(-alpha * u),
            alpha / math.sqrt(math.pi) * torch.exp(-((alpha * u) ** 2)),
        ),
    ),
    "rect": ({"alpha": 1.0}, _rect),
    "piecewise_leaky_relu": ({"w": 1.0, "c": 0.01}, _piecewise_leaky_relu),
    "leaky_k_relu": ({"leak": 0.0, "k": 1.0}, _leaky_k_relu),
    "s2nn": ({"alpha": 4.0, "beta": 1.0}, _s2nn),
    "log_tailed_relu": ({"alpha": 0.0}, _log_tailed_relu),
    "nonzero_sign_log_abs": (
        {"alpha": 1.0},
        lambda u, _, alpha: (u.sign() * torch.log1p(alpha * u.abs()), 1 / (1 / alpha + u.abs())),
    ),
    "q_pseudo_spike": (
        {"alpha": 2.0},
        lambda u, _, alpha: (
            _tails(u, 0.5 * (1 + 2 / (alpha - 1) * u.abs()) ** (1 - alpha)),
            (1 + 2 / (alpha - 1) * u.abs()) ** -alpha,
        ),
    ),
}
