"""Problems that reach what small ones do not: several blocks, a cut one, several checkpoints.

In: a spec and a case. Out: a `Problem`. Sizes follow from what the backends do with the neuron, so
that they stay large enough when those change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from neurogen.backends.cpp.launch import GRAIN, LANES
from neurogen.runtime.call import call_of
from neurogen.tools.verify.cases import Case, Problem
from neurogen.tools.verify.nodes import build, is_arithmetic

FUSED = ("cpp", "cupy")
THREADS = 3  # that have work on a `crowded` problem


def large(text: str, case: Case, seed: int = 0) -> Problem:
    """More than a block of neurons, three segments between checkpoints, thresholds that are met.

    Parameters are learnt, a value a neuron.
    """
    shape = (3, LANES // 3 + 6)  # one block and a few neurons
    return Problem(
        2 * checkpoint_every(text, case, shape) + 3, shape, seed=seed, learnt="neuron",
        dyadic=is_arithmetic(text),
    )  # fmt: skip


def crowded(text: str, case: Case, seed: int = 0) -> Problem:
    """As `large`, with a block and enough work for each of `THREADS`; one value for all neurons."""
    steps = large(text, case).steps
    neurons = max(LANES, (THREADS - 1) * GRAIN // (THREADS * steps)) + 7
    return Problem(steps, (THREADS, neurons), seed=seed)


def checkpoint_every(text: str, case: Case, shape: tuple[int, ...]) -> int:
    """Steps between the checkpoints of the fused backend that has fewer of them."""
    node = build(text, replace(case, backend="torch"), Problem(1, shape, learnt="neuron"))
    surrogate: Any = node.surrogate_function
    cls: Any = type(node)
    kind: Any = type(surrogate)
    first = torch.empty(1, *shape, dtype=case.dtype)
    constants = node.prelude(case.compute, torch.device("cpu"), len(shape))
    wants = (*(True for _ in (*node.inputs, *node.states)), *(c.requires_grad for c in constants))
    flags = tuple(bool(getattr(node, flag)) for flag in node.flags)
    return max(
        call_of(
            cls, backend, flags, node.detach_reset, kind, surrogate.spiking,
            surrogate.arguments, tuple(False for _ in node.states),
        ).plan(first, wants).every
        for backend in FUSED
    )  # fmt: skip
