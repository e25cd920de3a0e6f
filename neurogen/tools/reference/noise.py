"""The numbers that noise should be: Philox 4x32-10, and normal numbers from it.

In: a seed, and how many. Out: for each time step and neuron a number, in float64. Separate from the
stepper, which takes the numbers as an argument; written from the paper (Salmon, Moraes, Dror & Shaw
2011, Parallel random numbers: as easy as 1, 2, 3), with numpy's 64-bit words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
LOW = np.uint64(0xFFFFFFFF)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Return the four words of a block for four counter words, uint64 below 2^32, of any shape."""
    x0, x1, x2, x3 = counter
    for i in range(10):
        k0, k1 = ((k + i * step) % 2**32 for k, step in zip(key, KEY_STEPS, strict=True))
        a, b = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1 = (b >> np.uint64(32)) ^ x1 ^ np.uint64(k0), b & LOW
        x2, x3 = (a >> np.uint64(32)) ^ x3 ^ np.uint64(k1), a & LOW
    return [x0, x1, x2, x3]


def normal(seed: int, first: int, steps: int, shape: Sequence[int], stream: int) -> Tensor:
    """Return standard normal numbers, float64 [T, *shape]; `first` steps were drawn before."""
    r0, r1, _, _ = _block(seed, np.arange(first, first + steps), shape, stream)
    u1, u2 = _unit(r0), _unit(r1)
    return torch.from_numpy(np.sqrt(-2 * np.log(u1)) * np.cos(2 * math.pi * u2))


def uniform(seed: int, shape: Sequence[int], stream: int) -> Tensor:
    """Return numbers between 0 and 1, float64 [*shape]."""
    return torch.from_numpy(_unit(_block(seed, np.zeros(1), shape, stream)[0])[0])


def _block(seed: int, steps: NDArray[Any], shape: Sequence[int], stream: int) -> list[Words]:
    neurons = np.arange(math.prod(shape), dtype=np.uint64).reshape(1, *shape)
    times = steps.astype(np.uint64).reshape(-1, *(1,) * len(shape))
    low, high = neurons & LOW, neurons >> np.uint64(32)
    counter = np.broadcast_arrays(low, high, times & LOW, np.uint64(stream))
    return philox(counter, (seed % 2**32, seed >> 32))


def _unit(word: Words) -> NDArray[np.float64]:
    """Return the middle of the part of (0, 1), one of 2^23, that a word stands for."""
    return ((word >> np.uint64(9)).astype(np.float64) + 0.5) / 2**23
