"""One step's Jacobian over whole sequences, and the chain rule back through time.

In: a node, inputs, states. Out: spikes, states and the blocks of the Jacobian; or, from those
blocks, the gradients of inputs and of the states before the first step:

    dL/dH[t] = dL/dS[t] dS/dH + dL/dV[t] dV/dH,
    dL/dX[t] = dL/dH[t] dH/dX,    dL/dV[t-1] = dL/dH[t] dH/dV.

What runs where: spikes and states come from the backend's fused pass. Given the states before each
step, no block needs another step: they are evaluated by torch operations on whole sequences. The
way back is a recursion and runs step by step, a few torch operations each. Nothing here is
differentiable; `Neuron.functional` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neurogen.runtime.neuron import Neuron

#: (d what, d by what) -> a number, or a tensor that broadcasts to `[T, N, *]`.
Blocks = Mapping[tuple[str, str], Any]


def forward(
    node: Neuron, inputs: tuple[Tensor, ...], state: Mapping[str, Any]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs `[T, N, *]` and the states after the last step, `[N, *]`."""
    outputs, after = node.functional(*inputs, state=dict(state))
    return outputs, tuple(after[name] for name in node.states)


def forward_with_grad(
    node: Neuron, inputs: tuple[Tensor, ...], state: Mapping[str, Any]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`forward`, and the blocks that `node.blocks.step` lists, `[T, N, *]` each."""
    outputs, after = node.functional(*inputs, state=dict(state), sequences=node.states)
    final = tuple(after[name] for name in node.states)
    first, like = inputs[0], final[0]
    chance = node._chance({})
    before = []
    for name in node.states:
        start = state.get(name)
        if start is None:
            start = node._initial(name, like.shape, like.dtype, like.device, chance)
        start = torch.as_tensor(start).to(like)
        sequence = after[f"{name}_seq"]
        before.append(torch.cat([start.expand(sequence[:1].shape), sequence[:-1]]))
    blocks = node.linearise(
        *(x.to(like.dtype) for x in inputs), *before, *node._draw(chance, first, like.dtype),
        *_constants(node, like, len(first)), node.surrogate_function, node.detach_reset,
        *_flags(node),
    )  # fmt: skip
    return outputs, final, tuple(torch.as_tensor(b).to(like).expand(first.shape) for b in blocks)


def backward(
    node: Neuron,
    grad_output: Tensor,
    grad_states: Sequence[Tensor | None],
    blocks: Sequence[Tensor],
    inputs: Sequence[Tensor | None],
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Gradients of the inputs `[T, N, *]` and of the states before the first step `[N, *]`.

    Args:
        node: Whose parameters stand in dH/dX and dH/dV.
        grad_output: dL/dS, `[T, N, *]`.
        grad_states: dL/dV of each state after the last step; None is 0.
        blocks: What `forward_with_grad` returned.
        inputs: Each that `node.blocks.uses` names, `[T, N, *]`; None for the others.
    """
    steps = len(grad_output)
    like = blocks[0][0] if blocks else grad_output[0].float()
    charge = node.linearise_charge(
        *(x if x is None else x.to(like.dtype) for x in inputs),
        *_constants(node, like, steps), like, *_flags(node),
    )  # fmt: skip
    rows = [
        (of, by, _rows(value, steps, like.dim()))
        for (_, of, by), value in zip(
            (*node.blocks.step, *node.blocks.charge), (*blocks, *charge), strict=True
        )
    ]
    targets = {
        kind: [(f"{kind}.{name}", [(of, r) for of, by, r in rows if by == f"{kind}.{name}"])
               for name in names]
        for kind, names in (("H", node.states), ("X", node.inputs), ("V", node.states))
    }  # fmt: skip
    carried: dict[str, Tensor | None] = {
        f"V.{name}": None if g is None else g.to(like)
        for name, g in zip(node.states, grad_states, strict=True)
    }
    history: dict[str, list[Tensor]] = {by: [] for by, _ in targets["X"]}
    for t in reversed(range(steps)):
        carried["S"] = grad_output[t].to(like)
        for by, terms in targets["H"]:
            carried[by] = _dot(terms, carried, t)
        for by, terms in targets["X"]:
            gradient = _dot(terms, carried, t)
            history[by].append(torch.zeros_like(like) if gradient is None else gradient)
        carried = {by: _dot(terms, carried, t) for by, terms in targets["V"]}
    grad_inputs = tuple(
        torch.stack([row.expand(like.shape) for row in reversed(rows)]).to(grad_output.dtype)
        for rows in history.values()
    )
    finals = []
    for name, flows in zip(node.states, node.differentiable, strict=True):
        gradient = carried[f"V.{name}"]
        empty = torch.zeros_like(like) if flows else None
        finals.append(empty if gradient is None else gradient)
    return grad_inputs, tuple(finals)


def _dot(
    terms: list[tuple[str, Sequence[Any]]], arriving: Mapping[str, Tensor | None], t: int
) -> Tensor | None:
    """The sum of block * gradient over what a step's value acts on; None where nothing arrives."""
    total: Tensor | None = None
    for of, rows in terms:
        gradient = arriving.get(of)
        if gradient is None:
            continue
        block = rows[t]
        term = gradient if isinstance(block, int | float) and block == 1 else gradient * block
        total = term if total is None else total + term
    return total


def _rows(value: Any, steps: int, dims: int) -> Sequence[Any]:
    """A block's value at each step."""
    if isinstance(value, Tensor) and value.dim() == dims + 1:
        return value.unbind(0)
    return [value] * steps


def _constants(node: Neuron, like: Tensor, steps: int) -> tuple[Tensor, ...]:
    read = node._steps(torch.Size((steps, *like.shape)), None)
    return node.prelude(like.dtype, like.device, like.dim(), read)


def _flags(node: Neuron) -> list[bool]:
    return [bool(getattr(node, flag)) for flag in node.flags]
