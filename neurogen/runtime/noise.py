"""Random numbers that are a function of where they stand: seed, neuron, time step and stream.

In: a seed, a place. Out: for each neuron the same number on every backend, in any memory order, as
often as it is asked for, so that nothing random is stored for backward. The bits of
`include/neurogen/noise.h`, from torch operations.

Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3) of
the counter (neuron low, neuron high, step, stream) under the 64-bit seed; uniform and normal
numbers (Box & Muller 1958) come from its first two words. They are float32, whatever the compute
dtype, and of + - * / sqrt and bits only, so that no library's logarithm decides about a spike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurogen.runtime import functions as fn

MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
#: Elements that are drawn at once: enough to fill vector units, not more than caches hold.
AT_ONCE = 1 << 16


def fresh_seed() -> int:
    """A seed from torch's default generator, so that `torch.manual_seed` reproduces it."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))


def normal(
    state: Tensor, stream: int, steps: int, shape: torch.Size, device: torch.device
) -> Tensor:
    """Standard normal numbers.

    Args:
        state: int64 `[2]`: the seed, and the time steps drawn before.
        stream: Which of the neuron's noises.
        steps: T.
        shape: One time step.
        device: Of the result.

    Returns:
        float32 `[T, *shape]`.
    """
    seed, first = state.to(device).unbind(0)
    count = shape.numel()
    neurons = torch.arange(count, device=device)
    drawn = []
    at_once = max(1, AT_ONCE // max(count, 1))
    for begin in range(0, steps, at_once):
        step = torch.arange(begin, min(begin + at_once, steps), device=device)
        words = philox(seed, neurons, (first + step).unsqueeze(1), stream)
        drawn.append(_box_muller(*words))
    return torch.cat(drawn).reshape(steps, *shape)


def uniform(state: Tensor, stream: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Numbers from (0, 1), one for each neuron and seed; float32, of this shape."""
    seed = state[0].to(device)
    neurons = torch.arange(shape.numel(), device=device)
    return _unit(philox(seed, neurons, torch.zeros_like(seed), stream)[0]).reshape(shape)


def philox(seed: Tensor, neuron: Tensor, step: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """The first two words of the counter's block; all int64, the words below 2^32."""
    a, b, c = neuron & MASK, neuron >> 32 & MASK, step & MASK
    d, k, m = torch.full_like(seed, stream), seed & MASK, seed >> 32 & MASK
    for _ in range(10):
        (high_a, low_a), (high_c, low_c) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
        k, m = k + KEY_STEPS[0] & MASK, m + KEY_STEPS[1] & MASK
    return a, b


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The two words of a product, by halves: no intermediate result exceeds int64."""
    low, high = (word & 0xFFFF) * factor, (word >> 16) * factor
    return high + (low >> 16) >> 16, ((high & 0xFFFF) << 16) + low & MASK


def _unit(word: Tensor) -> Tensor:
    """The middle of one of 2^23 equal parts of (0, 1)."""
    return ((word >> 9).float() + 0.5) * 2.0**-23


def _box_muller(first: Tensor, second: Tensor) -> Tensor:
    return fn.sqrt(-2 * _log(_unit(first))) * _cos(6.2831855 * _unit(second))


# `log` and `cos` of neurogen/math.h for the arguments that occur here, operation by operation.


def _log(x: Tensor) -> Tensor:
    """log(x) of float32 between 2^-24 and 1."""
    bits = x.view(torch.int32) + (0x3F800000 - 0x3F3504F3)
    k = ((bits >> 23) - 127).float()
    f = ((bits & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1
    s = f / (2 + f)
    h = 0.5 * f * f
    z = s * s
    tail = z * ((0.6666666 + z * 0.40000933) + z * z * (0.28503516 + z * 0.24151592))
    rest = s * (h + tail) + k * 1.42860677e-6
    return k * 0.693145752 - ((h - rest) - f)


def _cos(x: Tensor) -> Tensor:
    """cos(x) of float32 between 0 and 2 pi."""
    shifted = x * 0.636619772 + 12582912.0
    n, quadrant = shifted - 12582912.0, (shifted.view(torch.int32) - 0x4B400000) + 1
    wide = n.double()
    r = ((x.double() - wide * 1.5707963267341256) - wide * 6.077100506506192e-11).float()
    z = r * r
    sine = r + r * (z * ((-0.16666648 + z * 0.008331725) + z * z * -0.00019457846))
    tail = (0.041666634 + z * -0.0013886766) + z * z * 2.4371722e-5
    cosine = 1 - (0.5 * z - z * z * tail)
    result = torch.where((quadrant & 1).bool(), cosine, sine)
    return torch.where((quadrant & 2).bool(), -result, result)
