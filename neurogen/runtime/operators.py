"""The fused pass as registered operators: what `torch.compile`, `torch.export` and opcheck see.

`neurogen::fused` and `neurogen::fused_backward` run the functions of `fused.py`; their fake
implementations allocate the same results and run nothing. What is no tensor is a plain argument:
classes go by their registered names, so that a graph reads well, and works in another process.
Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurogen.runtime import fused, registry
from neurogen.runtime.call import Call, call_of
from neurogen.runtime.memory import check_not_repeated

_SETTINGS = (
    "str neuron, str backend, bool[] flags, bool detach_reset, str surrogate, bool spiking, "
    "float[] shape, bool[] sequences, int? drawn, bool remembers, bool[] wants"
)
#: Kernels are compiled for the memory order that the fake implementation saw.
_TAGS = (getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),)

torch.library.define(
    "neurogen::fused", f"(Tensor[] tensors, Tensor? chance, {_SETTINGS}) -> Tensor[]", tags=_TAGS
)
torch.library.define(
    "neurogen::fused_backward",
    "(Tensor[] tensors, Tensor? chance, Tensor checkpoints, Tensor?[] gradients, "
    f"{_SETTINGS}) -> Tensor[]",
    tags=_TAGS,
)


class Settings(NamedTuple):
    """The operators' arguments after the tensors; see `call_of`."""

    neuron: str
    backend: str
    flags: Sequence[bool]
    detach_reset: bool
    surrogate: str
    spiking: bool
    shape: Sequence[float]
    sequences: Sequence[bool]
    drawn: int | None
    remembers: bool
    wants: Sequence[bool]

    @property
    def call(self) -> Call:
        """The call with the classes of these names."""
        neuron: Any = registry.find(self.neuron)
        surrogate: Any = registry.find(self.surrogate)
        return call_of(
            neuron, self.backend, tuple(self.flags), self.detach_reset, surrogate,
            self.spiking, tuple(self.shape), tuple(self.sequences), self.drawn,
            self.remembers,
        )  # fmt: skip


def run(tensors: Sequence[Tensor], chance: Tensor | None, *settings: Any) -> list[Tensor]:
    """Output, final states, asked-for sequences; differentiable, in graphs.

    Args:
        tensors: As `fused.run` takes them.
        chance: As `fused.run` takes it.
        settings: Those of `Settings`, without `wants`.
    """
    grad = torch.is_grad_enabled()
    wants = [grad and tensor.requires_grad for tensor in tensors]
    results: list[Tensor] = torch.ops.neurogen.fused(list(tensors), chance, *settings, wants)
    return results[:-1]


def _forward(tensors: list[Tensor], chance: Tensor | None, *settings: Any) -> list[Tensor]:
    given = Settings(*settings)
    if given.remembers:
        check_not_repeated(given.neuron)
    return _with_checkpoints(fused.forward(given.call, tensors, chance, given.wants, fused.SPARE))


def _forward_fake(tensors: list[Tensor], chance: Tensor | None, *settings: Any) -> list[Tensor]:
    given = Settings(*settings)
    return _with_checkpoints(fused.allocate(given.call, tensors, given.wants, fused.SPARE))


def _with_checkpoints(results: fused.Results) -> list[Tensor]:
    """Checkpoints stand last, also where there are none."""
    checkpoints = results.checkpoints
    if checkpoints is None:
        checkpoints = results.finals[0].new_empty(0)
    return [*results.outward, checkpoints]


def _backward(
    tensors: list[Tensor], chance: Tensor | None, checkpoints: Tensor,
    gradients: list[Tensor | None], *settings: Any,
) -> list[Tensor]:  # fmt: skip
    given = Settings(*settings)
    found = fused.backward(given.call, tensors, chance, checkpoints, given.wants, gradients)
    return [gradient for gradient in found if gradient is not None]


def _backward_fake(
    tensors: list[Tensor], chance: Tensor | None, checkpoints: Tensor,
    gradients: list[Tensor | None], *settings: Any,
) -> list[Tensor]:  # fmt: skip
    given = Settings(*settings)
    return fused.allocate_gradients(given.call, tensors, given.wants)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, chance, *settings = inputs
    given = Settings(*settings)
    needs = ctx.needs_input_grad[: len(tensors)]  # of a list, one after another
    if any(need and not want for need, want in zip(needs, given.wants, strict=True)):
        raise RuntimeError(
            f"this graph of {given.neuron} was made without the gradients that are now asked for; "
            "compile or export it again with gradients enabled"
        )
    ctx.settings, ctx.chance = settings, chance
    ctx.save_for_backward(output[-1], *tensors)
    ctx.set_materialize_grads(False)
    finals = zip(output[1:], given.call.differentiable, strict=False)
    ctx.mark_non_differentiable(output[-1], *(final for final, flows in finals if not flows))


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> Any:
    checkpoints, *tensors = ctx.saved_tensors
    given = Settings(*ctx.settings)
    found = torch.ops.neurogen.fused_backward(
        tensors, ctx.chance, checkpoints, gradients[:-1], *ctx.settings
    )
    results: list[Tensor | None] = [None] * len(tensors)
    for place, gradient in zip(given.call.targets(given.wants), found, strict=True):
        results[place] = gradient
    # An empty list counts as a list of tensors, and has as many gradients.
    return (results, None, *([] if setting == [] else None for setting in ctx.settings))


for _name, _run, _fake in (
    ("neurogen::fused", _forward, _forward_fake),
    ("neurogen::fused_backward", _backward, _backward_fake),
):
    torch.library.impl(_name, ("cpu", "cuda"))(_run)
    torch.library.register_fake(_name)(_fake)
torch.library.register_autograd("neurogen::fused", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("neurogen::fused_backward", fused.refuse_second)
