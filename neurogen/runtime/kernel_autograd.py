"""`LIFStep`, `LIFMultiStep`: a neuron's step and its pass over time as `torch.autograd.Function`s.

In: a neuron's kernel-level functions. Out: classes whose `apply` takes arguments in the historical
order. Separate from `kernel_functions`, because these carry gradients, parameters' included.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neurogen.runtime.kernel_functions import KernelFunctions


def packed(values: tuple[Any, ...]) -> Any:
    """One value as it is, several as a tuple."""
    return values if len(values) > 1 else values[0]


class _Fused(torch.autograd.Function):
    """Forward and backward are the backend's fused passes, on a graph of this call's own.

    A subclass has `functions`, `steps` (whether it takes all time steps) and a `signature`.
    """

    functions: KernelFunctions
    steps: bool
    signature: inspect.Signature

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[dict[str, Any]], tuple[Tensor, ...]], given: dict[str, Any],
        places: list[tuple[str, int | None]], *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        needed = ctx.needs_input_grad[3:]
        leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
        for (argument, index), leaf in zip(places, leaves, strict=True):
            if index is None:
                given[argument] = leaf
            else:
                given[argument][index] = leaf
        with torch.set_grad_enabled(any(needed)):
            results = run(given)
        ctx.set_materialize_grads(False)
        ctx.leaves = [leaf for leaf in leaves if leaf.requires_grad]
        ctx.results = results
        values = tuple(result.detach() for result in results)
        pairs = zip(values, results, strict=True)
        ctx.mark_non_differentiable(*(v for v, r in pairs if not r.requires_grad))
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            name = type(ctx).__name__.removesuffix("Backward")
            raise RuntimeError(
                f"{name} cannot be differentiated twice; the node can, with backend='torch'"
            )
        arrived = [(r, g) for r, g in zip(ctx.results, gradients, strict=True) if g is not None]
        found: tuple[Tensor | None, ...] = (None,) * len(ctx.leaves)
        if arrived:
            outputs, weights = zip(*arrived, strict=True)
            found = torch.autograd.grad(
                outputs, ctx.leaves, weights, retain_graph=True, allow_unused=True
            )
        rest = iter(found)
        return None, None, None, *(next(rest) if n else None for n in ctx.needs_input_grad[3:])

    @classmethod
    def apply(cls, *arguments: Any, **keywords: Any) -> Any:
        """(x, v, v_threshold, v_reset, …) -> (spike, v_next); see the class."""
        try:
            bound = cls.signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}.apply: {error}") from None
        bound.apply_defaults()
        given = cls.functions.translated(f"{cls.__name__}.apply", bound.arguments)
        given |= {k: list(v) for k, v in given.items() if isinstance(v, tuple)}
        places: list[tuple[str, int | None]] = []
        for name, value in given.items():
            if isinstance(value, Tensor):
                places.append((name, None))
            elif isinstance(value, list):
                places += [(name, i) for i, v in enumerate(value) if isinstance(v, Tensor)]
        tensors = [given[k] if i is None else given[k][i] for k, i in places]
        run = partial(cls.functions.differentiable, steps=cls.steps)
        spike, *final = super().apply(run, given, places, *tensors)  # type: ignore[no-untyped-call]
        return spike, packed(tuple(final))


def autograd_function(functions: KernelFunctions, name: str, steps: bool) -> type:
    """`LIFStep` or `LIFMultiStep`."""
    signature = functions.signature(name, functions.apply_arguments())
    several = functions.several("states")
    doc = (
        f"{functions.name}, {'all time steps' if steps else 'one time step'}, differentiable: "
        f"`apply({', '.join(signature.parameters)}) -> (spike, v_next)`.\n\n"
        f"v_reset=None is the soft reset; what the neuron lacks is None"
        f"{several and f'; v is one value{several}'}."
    )
    body = {"functions": functions, "steps": steps, "signature": signature, "__doc__": doc,
            "__module__": functions.home}  # fmt: skip
    metaclass: Any = type(torch.autograd.Function)  # it makes the class of the backward node
    made: type = metaclass(name, (_Fused,), body)
    return made
