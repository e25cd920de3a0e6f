"""The fused pass as one `autograd.Function`: kernels in, gradients out, whatever the backend.

In: a neuron's declaration, tensors, and a backend's compiled kernel. Out: outputs, final states and
asked-for state sequences, differentiable. Kept for backward: the inputs by reference, the initial
states, the constants, and O(N T / K) checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from neurogen.runtime.abi import Kernels, Operand, Variant, pack_floats
from neurogen.runtime.layout import Layout, layout_of

IO_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "neurogen::half",
    torch.bfloat16: "neurogen::bfloat16",
}


#: A step that spikes needs no surrogate forwards: one compiled kernel serves all of them.
_NO_SURROGATE = """
template <typename real>
NEUROGEN_FN real primitive(const real u, const real*) { return u; }
template <typename real>
NEUROGEN_FN real slope(const real u, const real*) { return u; }
"""


class Engine(Protocol):
    """What a backend's `launch.py` offers to the fused pass."""

    def checkpoint_every(self, kernels: Kernels, variant: Variant) -> int:
        """Steps between checkpoints, for a variant of the backward kernel."""

    def threads(self, work: int) -> int:
        """Threads for so many neuron-steps."""

    def streams(self, size: int) -> bool:
        """Whether results of so many bytes are written past the caches."""

    def forward(self, kernels: Kernels, variant: Variant, neurons: int, arguments: list[int],
                device: torch.device) -> None:  # fmt: skip
        """Run the forward kernel."""

    def backward(self, kernels: Kernels, variant: Variant, neurons: int, arguments: list[int],
                 device: torch.device) -> None:  # fmt: skip
        """Run the backward kernel."""

    def shares(self, neurons: int, count: int, like: Tensor) -> Tensor:
        """Memory for the shares of neurons in the gradient of an operand of `count` elements."""

    def sum(self, kernels: Kernels, variant: Variant, shares: Tensor, inner: int, count: int,
            total: Tensor) -> None:  # fmt: skip
        """Sum the shares of each of `count` elements into `total`, in a fixed order."""


@dataclass(slots=True)
class Call:
    """One call of a neuron: what is not a tensor that autograd tracks.

    Attributes:
        differentiable: For each state, whether a gradient flows through it.
        sequences: For each state, whether its sequence is asked for.
        stepped: For each constant, whether it may differ from step to step.
        noise: Seed and time steps drawn before, int64 `[2]`, and bit k: noise k is drawn; None
            for a neuron without noise.
    """

    engine: Engine
    kernels: Kernels
    flags: tuple[tuple[str, bool], ...]
    detach_reset: bool
    spiking: bool
    surrogate: str
    shape: tuple[float, ...]
    inputs: int
    differentiable: tuple[bool, ...]
    sequences: tuple[bool, ...]
    stepped: tuple[bool, ...]
    noise: tuple[Tensor, int] | None = None

    def forward_variant(self, dtype: torch.dtype) -> Variant:
        """The forward kernel for a storage type."""
        surrogate = _NO_SURROGATE if self.spiking else self.surrogate
        return Variant(False, IO_TYPES[dtype], self.flags, False, self.spiking, 0, surrogate)

    def wanted(self, wants: Sequence[bool]) -> int:
        """Which constants (bits) want gradients, of all tensors that may."""
        constants = wants[self.inputs + len(self.differentiable) :]
        return sum(1 << k for k, want in enumerate(constants) if want)

    def backward_variant(self, dtype: torch.dtype, wanted: int) -> Variant:
        """The backward kernel for a storage type and a set of constants' gradients."""
        return Variant(True, IO_TYPES[dtype], self.flags, self.detach_reset, self.spiking, wanted,
                       self.surrogate)  # fmt: skip

    def head(
        self, steps: int, layout: Layout, every: int, operands: list[Operand], size: int,
        places: Tensor | None,
    ) -> list[int]:  # fmt: skip
        """The fields that both directions' arguments begin with."""
        noise = []
        if self.noise is not None:
            state, on = self.noise
            noise = [*state.tolist(), on, _pointer(places)]
        threads = self.engine.threads(steps * layout.neurons)
        uniform = all(operand.count == 1 for operand in operands[len(self.differentiable) :])
        streamed = self.engine.streams(steps * layout.neurons * size)
        return [
            steps, layout.neurons, threads, every, int(uniform), int(streamed),
            *pack_floats(self.shape), *noise,
        ]  # fmt: skip

    def pack(self, operands: list[Operand]) -> list[int]:
        """Initial states and constants as the kernels read them."""
        packed: list[int] = []
        stepped = (*(False for _ in self.differentiable), *self.stepped)
        for operand, by_step in zip(operands, stepped, strict=True):
            packed += operand.packed
            packed += [operand.stride] * by_step
        return packed

    def places(self, layout: Layout, device: torch.device) -> Tensor | None:
        """What a neuron's noise goes by, where that is not its place in memory."""
        return None if self.noise is None else layout.places(device)


def run(call: Call, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...],
        constants: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # fmt: skip
    """Output, final states, asked-for sequences.

    Args:
        call: What to run.
        inputs: `[T, *]` each, of one shape and dtype.
        states: 0-dim or of one time step's shape, in the compute dtype.
        constants: Broadcastable to one time step, in the compute dtype.
    """
    tensors = (*inputs, *states, *constants)
    if not torch.is_grad_enabled():  # a parameter asks for its gradient here, too
        tensors = tuple(tensor.detach() for tensor in tensors)
    result: tuple[Tensor, ...] = _Fused.apply(call, *tensors)  # type: ignore[no-untyped-call]
    return result


class _FirstOnly(torch.autograd.Function):
    """A gradient that cannot be differentiated again, and says so."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *leaves: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "a fused neuron cannot be differentiated twice (double backward); "
            "use backend='torch' for second derivatives"
        )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        first = tensors[0]
        count, steps = call.inputs, first.shape[0]
        layout = layout_of(first.shape[1:], first.stride()[1:])
        compute = tensors[count].dtype
        rows = [layout.rows(x) for x in tensors[:count]]
        operands = [layout.operand(t) for t in tensors[count:]]
        output = layout.empty(steps, first.dtype, first.device)
        finals = [layout.empty(None, compute, first.device) for _ in call.differentiable]
        sequences = [
            layout.empty(steps, compute, first.device) if asked else None
            for asked in call.sequences
        ]
        variant = call.forward_variant(first.dtype)
        needed = any(ctx.needs_input_grad)
        wanted = call.wanted(ctx.needs_input_grad[1:])
        every = call.engine.checkpoint_every(
            call.kernels, call.backward_variant(first.dtype, wanted)
        )
        checkpoints = None
        if needed and steps > every:
            checkpoints = torch.empty(
                ((steps - 1) // every, len(finals), layout.neurons),
                dtype=compute, device=first.device,
            )  # fmt: skip
        if layout.neurons:
            places = call.places(layout, first.device)
            arguments = call.head(steps, layout, every, operands, first.element_size(), places)
            for x, stride in rows:
                arguments += (x.data_ptr(), stride)
            arguments += call.pack(operands)
            arguments += (output.data_ptr(), _pointer(checkpoints))
            for final, sequence in zip(finals, sequences, strict=True):
                arguments += (final.data_ptr(), _pointer(sequence))
            call.engine.forward(call.kernels, variant, layout.neurons, arguments, first.device)
        if needed:
            ctx.call, ctx.layout, ctx.every = call, layout, every
            ctx.save_for_backward(*tensors, checkpoints)
            ctx.set_materialize_grads(False)
            unused = [f for f, flows in zip(finals, call.differentiable, strict=True) if not flows]
            ctx.mark_non_differentiable(*unused)
        return (output, *finals, *(s for s in sequences if s is not None))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            results = _Fused.adjoint(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        # create_graph=True: whoever differentiates these again is told that it cannot be done.
        leaves = [t for t in (*ctx.saved_tensors, *gradients) if t is not None and t.requires_grad]
        return tuple(
            r if r is None else _FirstOnly.apply(r, *leaves)  # type: ignore[no-untyped-call]
            for r in results
        )

    @staticmethod
    def adjoint(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The backward kernel on what was saved."""
        call, layout, every = ctx.call, ctx.layout, ctx.every
        *tensors, checkpoints = ctx.saved_tensors
        count, states = call.inputs, len(call.differentiable)
        first = tensors[0]
        steps, compute = first.shape[0], tensors[count].dtype
        wants = ctx.needs_input_grad[1:]
        rows = [layout.rows(x) for x in tensors[:count]]
        operands = [layout.operand(t) for t in tensors[count:]]
        variant = call.backward_variant(first.dtype, call.wanted(wants))
        grad_output = gradients[0]
        if grad_output is None:
            grad_output = torch.zeros((), dtype=first.dtype, device=first.device).expand(
                first.shape
            )
        output_row, output_stride = layout.rows(grad_output)
        grad_finals = [None if g is None else layout.step(g) for g in gradients[1 : states + 1]]
        asked = iter(gradients[states + 1 :])
        grad_sequences = [next(asked) if wanted else None for wanted in call.sequences]
        grad_sequences = [None if g is None else _dense(layout, g) for g in grad_sequences]
        grad_inputs = [layout.empty(steps, x.dtype, x.device) for x in tensors[:count]]
        grad_states = [
            layout.empty(None, compute, first.device) if want and flows else None
            for want, flows in zip(wants[count:], call.differentiable, strict=False)
        ]
        shares = [
            _each(call.engine.shares(layout.neurons, operand.count, constant), steps * by_step)
            if want else None
            for want, operand, constant, by_step in zip(
                wants[count + states :], operands[states:], tensors[count + states :],
                call.stepped, strict=True,
            )
        ]  # fmt: skip
        if layout.neurons:
            places = call.places(layout, first.device)
            arguments = call.head(steps, layout, every, operands, first.element_size(), places)
            for x, stride in rows:
                arguments += (x.data_ptr(), stride)
            arguments += call.pack(operands)
            arguments += (output_row.data_ptr(), output_stride, _pointer(checkpoints))
            for k in range(states):
                arguments += (_pointer(grad_finals[k]), _pointer(grad_sequences[k]),
                              _pointer(grad_states[k]))  # fmt: skip
            arguments += [g.data_ptr() for g in grad_inputs]
            arguments += [_pointer(s) for s in shares]
            call.engine.backward(call.kernels, variant, layout.neurons, arguments, first.device)

        def total(shares: Tensor | None, operand: Operand, by_step: bool = False) -> Tensor:
            size = operand.count * (steps if by_step else 1)
            summed = torch.zeros(size, dtype=compute, device=first.device)
            if layout.neurons and shares is not None:
                call.engine.sum(call.kernels, variant, shares, operand.inner, operand.count, summed)
            if by_step and not operand.stride:  # all steps read the same
                summed = summed.reshape(steps, -1).double().sum(0).to(compute)
            return summed

        results = [g if want else None for g, want in zip(grad_inputs, wants, strict=False)]
        for g, operand, tensor in zip(grad_states, operands, tensors[count:], strict=False):
            whole = g is None or tensor.shape == g.shape
            results.append(g if whole else total(g, operand).reshape(tensor.shape))
        for s, operand, tensor, by_step in zip(
            shares, operands[states:], tensors[count + states :], call.stepped, strict=True
        ):
            summed = None if s is None else total(s, operand, by_step)
            results.append(
                None if summed is None else layout.scatter(summed, operand, tensor.shape)
            )
        return (None, *results)


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
