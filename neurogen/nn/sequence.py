"""Running single-step modules over a sequence: step by step, or all steps as one batch.

In: sequences `[T, *]` and modules. Out: their outputs as sequences. Separate from `functional`
because containers and layers run by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

#: What runs on a sequence: a module or function, or several, one after the other.
Modules: TypeAlias = Callable[..., Any] | list[Any] | tuple[Any, ...] | nn.ModuleList
#: One sequence, or several that the first module takes as its arguments.
Sequences: TypeAlias = Tensor | tuple[Tensor, ...]

#: Classes whose submodules take single steps, whatever step mode the container has; also
#: SpikingJelly's, by name, so that its networks work without importing it.
CONTAINERS = frozenset(
    ("MultiStepContainer", "SeqToANNContainer", "StepModeContainer", "TLastMultiStepContainer",
     "TLastSeqToANNContainer", "ElementWiseRecurrentContainer", "LinearRecurrentContainer")
)  # fmt: skip


def one_step(x: Sequences, chain: Iterable[Callable[..., Any]]) -> Any:
    """Single-step modules, one after the other."""
    return _run(x if isinstance(x, tuple) else (x,), chain)


def each_step(x_seq: Sequences, chain: Iterable[Callable[..., Any]]) -> Any:
    """`multi_step_forward` of modules that are known to be single-step."""
    sequences = _sequences(x_seq, 1, "[T, *]")
    steps = [_run(step, chain) for step in zip(*(s.unbind(0) for s in sequences), strict=True)]
    if isinstance(steps[0], tuple):
        return tuple(torch.stack(outputs) for outputs in zip(*steps, strict=True))
    return torch.stack(steps)


def as_batch(x_seq: Sequences, chain: Iterable[Callable[..., Any]]) -> Any:
    """`seq_to_ann_forward` of modules that are known to be single-step and stateless."""
    sequences = _sequences(x_seq, 2, "[T, N, *]")
    size = tuple(sequences[0].shape[:2])
    outputs = _run(tuple(s.flatten(0, 1) for s in sequences), chain)
    for y in outputs if isinstance(outputs, tuple) else (outputs,):
        if y.dim() == 0 or y.shape[0] != size[0] * size[1]:
            raise ValueError(
                f"the T*N = {size[0]}*{size[1]} samples of a sequence came out with shape "
                f"{list(y.shape)}; modules keep the batch dimension here, or run by "
                "multi_step_forward"
            )
    if isinstance(outputs, tuple):
        return tuple(y.unflatten(0, size) for y in outputs)
    return outputs.unflatten(0, size)


def outside(net: nn.Module) -> Iterator[nn.Module]:
    """A module and its submodules, once each, but not those inside containers."""
    seen: set[int] = set()
    waiting = [net]
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        if CONTAINERS.isdisjoint(cls.__name__ for cls in type(module).__mro__):
            waiting.extend(reversed(list(module.children())))


def check_stateless(where: str, modules: Iterable[Any]) -> None:
    """Refuse modules that remember from step to step: T·N samples at once have no steps."""
    for part in (p for m in modules if isinstance(m, nn.Module) for p in m.modules()):
        if hasattr(part, "step_mode") and is_method(getattr(part, "reset", None)):
            raise ValueError(
                f"{where} runs all time steps as one batch, and {type(part).__name__} remembers "
                "from step to step; run it by itself, by multi_step_forward, or in a "
                "MultiStepContainer"
            )


def check_single_step(where: str, modules: Iterable[Any]) -> None:
    """Refuse modules of step mode 'm', which would take N samples for time steps."""
    for part in (p for m in modules if isinstance(m, nn.Module) for p in outside(m)):
        if getattr(part, "step_mode", "s") != "s":
            raise ValueError(
                f"{where} takes single-step modules, and {type(part).__name__} has step_mode "
                f"{part.step_mode!r}; call set_step_mode(module, 's') first, or the module itself"
            )


def chain_of(modules: Modules) -> list[Callable[..., Any]]:
    """The modules to run, in order."""
    several = isinstance(modules, list | tuple | nn.ModuleList)
    return list(modules) if several else [modules]  # type: ignore[arg-type,list-item]


def _run(inputs: tuple[Tensor, ...], chain: Iterable[Callable[..., Any]]) -> Any:
    """The first module takes all inputs, each other one the output of the one before."""
    outputs: Any = inputs if len(inputs) > 1 else inputs[0]
    for module in chain:
        outputs = module(*inputs)
        inputs = (outputs,)
    return outputs


def _sequences(x_seq: Sequences, dims: int, shape: str) -> tuple[Tensor, ...]:
    """The sequences as a tuple, held against their shape."""
    sequences = x_seq if isinstance(x_seq, tuple) else (x_seq,)
    for x in sequences:
        if not isinstance(x, Tensor):
            raise TypeError(f"a sequence is a tensor {shape}, not {type(x).__name__}")
        if x.dim() < dims:
            raise ValueError(f"a sequence has shape {shape}; this one has {list(x.shape)}")
        if x.shape[:dims] != sequences[0].shape[:dims]:
            shapes = ", ".join(str(list(s.shape)) for s in sequences)
            raise ValueError(
                f"sequences given together have the same [T, batch_size] leading dimensions; "
                f"these have shapes {shapes}"
            )
    if not sequences:
        raise ValueError("there is no sequence to run on")
    if sequences[0].shape[0] == 0:
        raise ValueError("the sequence has no time steps (T = 0)")
    return sequences


def is_method(found: Any) -> TypeGuard[Callable[[], object]]:
    """Whether an attribute is a method; a submodule of its name is none."""
    return callable(found) and not isinstance(found, nn.Module)
