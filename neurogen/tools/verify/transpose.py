"""The backward kernel against the forward derivative: <Jx, y> = <x, J'y> for random x and y.

In: a spec and a case in float64. Out: one finding. J'y is the backward pass of the tested backend;
Jx, the derivative along x, comes from torch: J'y is linear in y, so autograd of it is J. Spikes
stay spikes, several blocks and checkpoints take part.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from neurogen.tools.verify.cases import Case, Finding, Problem
from neurogen.tools.verify.inputs import make_inputs
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    reference_of,
    running,
)
from neurogen.tools.verify.sizes import large

LIMIT = 1e-10


def transpose(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Compare both sides of the identity, relative to the sizes of their terms."""
    problem = large(text, case, seed)
    eager = replace(case, backend="torch", device="cpu")
    probe = build(text, eager, problem)
    reference = reference_of(text, eager, constructor_values(probe))
    inputs, state = make_inputs(probe, reference, eager, problem)
    outputs, leaves = _outputs(text, eager, problem, inputs, state)
    generator = torch.Generator().manual_seed(seed + 2)

    def random(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    x, y = [random(leaf) for leaf in leaves], [random(output) for output in outputs]
    cotangents = [value.clone().requires_grad_() for value in y]
    pulled = torch.autograd.grad(
        outputs, leaves, cotangents, create_graph=True, materialize_grads=True
    )
    pushed = torch.autograd.grad(pulled, cotangents, x, materialize_grads=True)
    tested, own = _outputs(text, case, problem, inputs, state)
    arriving = [value.to(case.device) for value in y]
    back = torch.autograd.grad(tested, own, arriving, materialize_grads=True)
    left = torch.stack([(a * b).sum() for a, b in zip(pushed, y, strict=True)])
    right = torch.stack([(a * b.cpu()).sum() for a, b in zip(x, back, strict=True)])
    size = max(float(left.abs().sum()), float(right.abs().sum()), 1e-30)
    error = abs(float(left.sum() - right.sum())) / size
    return [Finding("<Jx, y> - <x, J'y>", error, LIMIT)]


def _outputs(
    text: str, case: Case, problem: Problem, inputs: list[Tensor], state: dict[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Everything differentiable that comes out of a run, and the leaves that it depends on."""
    node = build(text, case, problem)
    with running(case):
        moved = {name: value.to(case.device) for name, value in state.items()}
        output, final = node.functional(*(x.to(case.device) for x in inputs), state=moved)
    results = [output, *(final[name] for name in node.states)]
    leaves = [*inputs, *(s for s in state.values() if s.requires_grad), *node.parameters()]
    return [value for value in results if value.requires_grad], leaves
