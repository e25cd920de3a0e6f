"""Gradients against finite differences, spikes replaced by the smooth step S(u).

In: a spec and a case. Out: a finding for each input, initial state and parameter. With a smooth
forward pass the surrogate's slope is the true derivative, so that differences reach through spikes
and resets, which they cannot in a spiking network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from neurogen.compiler.expression import Apply, Name, walk
from neurogen.compiler.program import DETACH_RESET
from neurogen.loading import compiled_of
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify.cases import Case, Finding, Problem
from neurogen.tools.verify.inputs import make_inputs
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    reference_of,
    running,
)

SIZE = Problem(steps=5, shape=(2,))
#: One must do: small ones for functions that bend much or have a kink nearby, large ones for noise.
DISTANCES = (1e-5, 1e-6, 1e-4, 1e-7)
LIMIT = 1e-6  # relative to the largest derivative


def differs_by_design(text: str) -> str:
    """Why a gradient of this spec is no derivative of its smooth forward pass; empty if it is."""
    model = compiled_of(text).model
    if model.spec.fire is not None and model.spec.fire.kind == "multilevel":
        return "levels are rounded straight through"
    for assign in model.statements:
        for node in walk(assign.expression):
            if isinstance(node, Apply) and node.operator in ("detach", "heaviside"):
                inside = {n.name for n in walk(node) if isinstance(n, Name)}
                if DETACH_RESET not in inside and assign.name != "reset_spike":
                    return f"{node.operator}() cuts its gradient"
    return ""


def smooth(text: str, case: Case, seed: int = 0) -> list[Finding] | str:
    """Compare every gradient with central differences, in float64; or why that says nothing."""
    if reason := differs_by_design(text):
        return reason
    node = build(text, case, SIZE)
    for parameter in node.parameters():  # a reset to exactly 0 would end on the kink of abs
        parameter.data += 0.01
    reference = reference_of(text, case, constructor_values(node))
    inputs, state = make_inputs(node, reference, case, replace(SIZE, seed=seed))
    node.surrogate_function.set_spiking_mode(False)
    with running(case):
        moved = [x.detach().to(case.device) for x in inputs]
        starts = {name: value.detach().to(case.device) for name, value in state.items()}
        return differences(node, moved, starts)


def differences(node: Neuron, inputs: list[Tensor], state: dict[str, Tensor]) -> list[Finding]:
    """Findings for a node in float64 whose surrogate is smooth.

    Args:
        node: The neuron; its parameters are judged, too.
        inputs: `[T, N]` each.
        state: Where the run starts.
    """
    flows = dict(zip(node.states, node.differentiable, strict=True))
    leaves = dict(zip(node.inputs, inputs, strict=True))
    leaves |= {f"initial {name}": value for name, value in state.items() if flows[name]}
    for leaf in leaves.values():
        leaf.requires_grad_()
    leaves |= dict(node.named_parameters())
    loss, size = weighted(node, inputs, state)
    noise = 1e-14 * size / DISTANCES[0]
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    findings = []
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        error, best, limit = torch.full_like(gradient, torch.inf), float("inf"), LIMIT
        for distance in DISTANCES:
            expected = central(lambda: weighted(node, inputs, state)[0], leaf, distance)
            error = torch.fmin(error, (gradient - expected).abs())
            scale = max(1.0, float(expected.abs().max()))
            limit, best = LIMIT + noise / scale, min(best, float(error.max()) / scale)
            if best <= limit:
                break
        findings.append(Finding(f"derivative by {name}", best, limit))
    return findings


def central(value: Callable[[], Tensor], leaf: Tensor, step: float) -> Tensor:
    """The derivative of a value with respect to each element of a leaf."""
    flat = leaf.detach().reshape(-1)  # a view: writes go to the leaf
    result = torch.empty_like(flat)
    with torch.no_grad():
        for k, middle in enumerate(flat.tolist()):
            around, h = [], step * (min(1.0, abs(middle)) or 1.0)
            for shifted in (middle + h, middle - h):
                flat[k] = shifted
                around.append((value(), flat[k].item()))
            flat[k] = middle
            (above, high), (below, low) = around
            result[k] = (above - below) / (high - low)
    return result.reshape(leaf.shape)


def weighted(
    node: Neuron, inputs: list[Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, float]:
    """A fixed weighted sum of outputs and final states; and of their magnitudes."""
    outputs, final = node.functional(*inputs, state=dict(state))
    generator = torch.Generator().manual_seed(6)
    total, size = torch.zeros((), dtype=torch.float64), 0.0
    flows = dict(zip(node.states, node.differentiable, strict=True))
    for value in (outputs, *(final[name] for name in node.states if flows[name])):
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        total = total + (value.cpu() * weight).sum()
        size += (value.detach().cpu() * weight).abs().sum().item()
    return total, size
