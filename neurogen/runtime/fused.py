"""The fused pass: kernels in, gradients out, whatever the backend.

In: a call, tensors, and a backend's compiled kernel. Out: outputs, final states and asked-for state
sequences, differentiable. Kept for backward: the inputs by reference, the initial states, the
constants, and O(N T / K) checkpoints.

`forward` and `backward` are plain functions of tensors: those are the inputs `[T, N, *]`, the
states (0-dim or of one time step's shape) and the constants (broadcastable to one) in turn. Eager
code reaches them through an `autograd.Function`, graphs through the operators of `operators.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurogen.runtime.abi import Operand
from neurogen.runtime.call import Call, Plan
from neurogen.runtime.layout import Layout

#: See `allocate`.
SPARE = 2


class Results(NamedTuple):
    """Memory for what the forward kernel writes.

    Attributes:
        plan: How it lies.
        sequences: One for each state; None where it is not asked for.
        checkpoints: States before steps `every`, 2 `every`, …, `[(T - 1) // every, states, N]`.
    """

    plan: Plan
    output: Tensor
    finals: list[Tensor]
    sequences: list[Tensor | None]
    checkpoints: Tensor | None

    @property
    def outward(self) -> list[Tensor]:
        """Output, final states, asked-for sequences."""
        return [self.output, *self.finals, *(s for s in self.sequences if s is not None)]


def allocate(
    call: Call, tensors: Sequence[Tensor], wants: Sequence[bool], spare: int = 0
) -> Results:
    """Memory for a forward pass; all that can be said without values.

    Args:
        call: What to run.
        tensors: Inputs, states, constants.
        wants: For each of them, whether its gradient will be asked for.
        spare: Elements beyond the checkpoints. Graphs have `SPARE`: of memory that may be empty, or
            of one element, they ask whether it is, and have another graph for another T.
    """
    first, compute = tensors[0], tensors[call.inputs].dtype
    steps, device = first.shape[0], first.device
    plan = call.plan(first, wants)
    layout, checkpoints = plan.layout, None
    if any(wants):
        size = (steps - 1) // plan.every * call.states * layout.neurons
        checkpoints = torch.empty(size + spare, dtype=compute, device=device)
    return Results(
        plan, layout.empty(steps, first.dtype, device),
        [layout.empty(None, compute, device) for _ in range(call.states)],
        [layout.empty(steps, compute, device) if asked else None for asked in call.sequences],
        checkpoints,
    )  # fmt: skip


def forward(
    call: Call, tensors: Sequence[Tensor], chance: Tensor | None, wants: Sequence[bool],
    spare: int = 0,
) -> Results:  # fmt: skip
    """Run the forward kernel.

    Args:
        call: What to run.
        tensors: Inputs, states, constants.
        chance: Seed and time steps drawn before, int64 `[2]`; None for a neuron without noise.
        wants: For each tensor, whether its gradient will be asked for.
        spare: Elements beyond the checkpoints; they are set to 0.
    """
    results = allocate(call, tensors, wants, spare)
    if spare and results.checkpoints is not None:
        results.checkpoints[-spare:].zero_()
    plan, first = results.plan, tensors[0]
    layout = plan.layout
    if not layout.neurons:
        return results
    if any(wants):
        call.engine.prepare(call.kernels, plan.forward, plan.backward)
    rows = [layout.rows(x) for x in tensors[: call.inputs]]
    operands = [layout.operand(t) for t in tensors[call.inputs :]]
    places = None if chance is None else layout.places(first.device)
    arguments = call.head(plan, first, operands, chance, places)
    for x, stride in rows:
        arguments += (x.data_ptr(), stride)
    arguments += call.pack(operands)
    arguments += (results.output.data_ptr(), _pointer(results.checkpoints))
    for final, sequence in zip(results.finals, results.sequences, strict=True):
        arguments += (final.data_ptr(), _pointer(sequence))
    call.engine.forward(call.kernels, plan.forward, layout.neurons, arguments, first.device)
    return results


def backward(
    call: Call, tensors: Sequence[Tensor], chance: Tensor | None, checkpoints: Tensor,
    wants: Sequence[bool], gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    """Run the backward kernel.

    Args:
        call: What was run.
        tensors: Inputs, states, constants.
        chance: Seed and time steps drawn before.
        checkpoints: As the forward pass wrote them.
        wants: As the forward pass was told.
        gradients: Of output, final states and asked-for sequences; None for 0.

    Returns:
        For each tensor its gradient, None where none is wanted.
    """
    states, first = call.states, tensors[0]
    steps, device = first.shape[0], first.device
    inputs, initial, constants = call.split(tensors)
    _, _, wanted = call.split(wants)
    compute = initial[0].dtype
    plan = call.plan(first, wants)
    layout, variant = plan.layout, plan.backward
    rows = [layout.rows(x) for x in inputs]
    operands = [layout.operand(t) for t in tensors[call.inputs :]]
    grad_output = gradients[0]
    if grad_output is None:
        grad_output = torch.zeros((), dtype=first.dtype, device=device).expand(first.shape)
    output_row, output_stride = layout.rows(grad_output)
    grad_finals = [None if g is None else layout.step(g) for g in gradients[1 : states + 1]]
    asked = iter(gradients[states + 1 :])
    grad_sequences = [next(asked) if kept else None for kept in call.sequences]
    grad_sequences = [None if g is None else _dense(layout, g) for g in grad_sequences]
    grad_inputs = [layout.empty(steps, x.dtype, device) for x in inputs]
    grad_initial = [
        layout.empty(None, compute, device) if want and flows else None
        for want, flows in zip(wants[call.inputs :], call.differentiable, strict=False)
    ]
    shares = [
        _each(call.engine.shares(layout.neurons, operand.count, constant), steps * by_step)
        if want else None
        for want, operand, constant, by_step in zip(
            wanted, operands[states:], constants, call.stepped, strict=True
        )
    ]  # fmt: skip
    if layout.neurons:
        places = None if chance is None else layout.places(device)
        arguments = call.head(plan, first, operands, chance, places)
        for x, stride in rows:
            arguments += (x.data_ptr(), stride)
        arguments += call.pack(operands)
        arguments += (output_row.data_ptr(), output_stride, _pointer(checkpoints))
        for k in range(states):
            arguments += (_pointer(grad_finals[k]), _pointer(grad_sequences[k]),
                          _pointer(grad_initial[k]))  # fmt: skip
        arguments += [g.data_ptr() for g in grad_inputs]
        arguments += [_pointer(s) for s in shares]
        call.engine.backward(call.kernels, variant, layout.neurons, arguments, device)

    def total(shares: Tensor, operand: Operand, by_step: bool = False) -> Tensor:
        size = operand.count * (steps if by_step else 1)
        summed = torch.zeros(size, dtype=compute, device=device)
        if layout.neurons:
            call.engine.sum(call.kernels, variant, shares, operand.inner, operand.count, summed)
        if by_step and not operand.stride:  # all steps read the same
            summed = summed.reshape(steps, -1).double().sum(0).to(compute)
        return summed

    results: list[Tensor | None]
    results = [g if want else None for g, want in zip(grad_inputs, wants, strict=False)]
    for g, operand, tensor in zip(grad_initial, operands, initial, strict=False):
        whole = g is None or tensor.shape == g.shape
        results.append(g if g is None or whole else total(g, operand).reshape(tensor.shape))
    for s, operand, tensor, by_step in zip(
        shares, operands[states:], constants, call.stepped, strict=True
    ):
        results.append(
            None if s is None else layout.scatter(total(s, operand, by_step), operand, tensor.shape)
        )
    return results


def allocate_gradients(
    call: Call, tensors: Sequence[Tensor], wants: Sequence[bool]
) -> list[Tensor]:  # fmt: skip
    """Memory like that of the gradients that `backward` returns; those that are None left out."""
    first = tensors[0]
    layout = call.plan(first, wants).layout
    inputs, initial, constants = call.split(tensors)
    like = [layout.empty(first.shape[0], x.dtype, x.device) for x in inputs]
    like += [layout.empty(None, s.dtype, s.device) if s.dim() else s.new_empty(()) for s in initial]
    like += [constant.new_empty(constant.shape) for constant in constants]
    return [like[place] for place in call.targets(wants)]


def run(call: Call, tensors: tuple[Tensor, ...], chance: Tensor | None) -> tuple[Tensor, ...]:
    """Output, final states, asked-for sequences; differentiable, in eager code.

    Args:
        call: What to run.
        tensors: Inputs `[T, *]` of one shape and dtype; states, 0-dim or of one time step's shape,
            and constants, broadcastable to one, in the compute dtype.
        chance: Seed and time steps drawn before, int64 `[2]`; None for a neuron without noise.
    """
    if not torch.is_grad_enabled():  # a parameter asks for its gradient here, too
        tensors = tuple(tensor.detach() for tensor in tensors)
    result: tuple[Tensor, ...] = _Fused.apply(call, chance, *tensors)  # type: ignore[no-untyped-call]
    return result


def refuse_second(*_: Any) -> Any:
    """The backward pass of a backward pass."""
    raise RuntimeError(
        "a fused neuron cannot be differentiated twice (double backward); "
        "use backend='torch' for second derivatives"
    )


class _FirstOnly(torch.autograd.Function):
    """A gradient that cannot be differentiated again, and says so."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *leaves: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return refuse_second(ctx, *gradients)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, chance: Tensor | None, *tensors: Tensor) -> Any:
        wants = ctx.needs_input_grad[2:]
        results = forward(call, tensors, chance, wants)
        if any(wants):
            ctx.call, ctx.wants = call, wants
            ctx.save_for_backward(chance, results.checkpoints, *tensors)
            ctx.set_materialize_grads(False)
            finals = zip(results.finals, call.differentiable, strict=True)
            ctx.mark_non_differentiable(*(final for final, flows in finals if not flows))
        return tuple(results.outward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        chance, checkpoints, *tensors = ctx.saved_tensors
        with torch.no_grad():
            results = backward(ctx.call, tensors, chance, checkpoints, ctx.wants, gradients)
        if torch.is_grad_enabled():
            # create_graph=True: whoever differentiates these again is told that it cannot be done.
            leaves = [t for t in (*tensors, *gradients) if t is not None and t.requires_grad]
            results = [
                r if r is None else _FirstOnly.apply(r, *leaves)  # type: ignore[no-untyped-call]
                for r in results
            ]
        return (None, None, *results)


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _each(shares: Tensor, steps: int) -> Tensor:
    """Memory for the shares of each of so many steps; 0 for one share of all."""
    return shares.new_empty(steps * shares.numel()) if steps else shares


def _dense(layout: Layout, sequence: Tensor) -> Tensor:
    """A sequence whose time steps are N apart."""
    rows, stride = layout.rows(sequence)
    if stride == layout.neurons or sequence.shape[0] == 1:
        return rows
    return layout.empty(sequence.shape[0], sequence.dtype, sequence.device).copy_(sequence)
