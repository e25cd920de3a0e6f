"""Forward and backward of one problem: of a generated neuron, and of the reference.

In: an `Expectation`. Out: results and gradients by name. Separate from `matrix`, which says how far
the two may be apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify.cases import Case
from neurogen.tools.verify.nodes import running

if TYPE_CHECKING:
    from neurogen.tools.verify.matrix import Expectation


@dataclass(slots=True)
class Outcome:
    """What comes out of a run.

    Attributes:
        results: `output`, the states after the last step by name, and `v_seq`.
        gradients: Of the loss, by input, `initial` state and parameter.
    """

    results: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def labelled(self) -> dict[str, Tensor]:
        """All of it, by the names that findings have."""
        whole = ("output", "v_seq")
        named = {n if n in whole else f"state {n}": v for n, v in self.results.items()}
        return named | {f"gradient of {name}": g for name, g in self.gradients.items()}


def _loss(results: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """A weighted sum of everything that comes out, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in results.items():
        if name in weights:
            total = total + (value.cpu().double() * weights[name].double()).sum()
    return total


def on_node(node: Neuron, wanted: Expectation, case: Case) -> Outcome:
    """Forward and backward of the node; every weight of the loss is a random number.

    Hidden states (of kernels, the last spike) take no part in the loss: the reference has its own.
    """
    inputs, state = wanted.inputs, wanted.state
    for name, value in state.items():
        setattr(node, name, value.to(case.device))
    with running(case):
        output = node(*(x.to(case.device) for x in inputs))
        results = {"output": output}
        results |= {name: getattr(node, name) for name in node.states if name in wanted.weights}
        if node.v_seq is not None:
            results["v_seq"] = node.v_seq
        leaves: dict[str, Tensor] = dict(zip(node.inputs, inputs, strict=True))
        leaves |= {f"initial {name}": value for name, value in state.items() if value.requires_grad}
        leaves |= dict(node.named_parameters())
        grads: tuple[Tensor | None, ...] = tuple(None for _ in leaves)
        loss = _loss(results, wanted.weights)
        if loss.requires_grad:  # a state may, where the output is detached
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return Outcome(results, _or_zeros(leaves, grads))


def on_reference(
    wanted: Expectation, dtype: torch.dtype, weights: Mapping[str, Tensor],
    nudged: Callable[[Tensor], Tensor] = lambda value: value,
) -> Outcome:  # fmt: skip
    """Forward and backward of the reference, every comparison forced to the tested outcome.

    Args:
        wanted: The problem.
        dtype: Of all arithmetic.
        weights: Of what comes out, in the loss.
        nudged: Applied to inputs, and to initial states with a gradient, before the run.
    """
    xs = [nudged(x.detach().to(dtype)).requires_grad_() for x in wanted.inputs]
    starts = {name: value.detach().to(dtype) for name, value in wanted.chance.starts.items()}
    for name, value in wanted.state.items():
        start = value.detach().to(dtype)  # a counter has no gradient, and is a whole number
        starts[name] = nudged(start).requires_grad_() if value.requires_grad else start
    reference = wanted.reference
    run = reference.run(xs, starts, dtype=dtype, noise=wanted.chance.noise,
                        forced=wanted.same.decisions)  # fmt: skip
    results = {"output": run.outputs} | {n: values[-1] for n, values in run.sequences.items()}
    if "v" in run.sequences:
        results["v_seq"] = run.sequences["v"]
    leaves: dict[str, Tensor] = dict(zip(reference.inputs, xs, strict=True))
    leaves |= {f"initial {name}": value for name, value in starts.items() if value.requires_grad}
    leaves |= {name: v for name, v in wanted.arguments.items() if isinstance(v, Tensor)}
    loss = _loss(results, weights)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if (
        loss.requires_grad) else tuple(None for _ in leaves)  # fmt: skip
    return Outcome(results, _or_zeros(leaves, grads))


def _or_zeros(
    leaves: Mapping[str, Tensor], grads: Iterable[Tensor | None]
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name; one that nothing depends on is 0."""
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
