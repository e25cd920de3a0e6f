"""Acting on every neuron of a network at once, and running modules over a sequence.

Modules are found by what they offer, not by their class, so that networks which mix these neurons
with other libraries' stateful modules work: anything with a method `reset()` or `detach()`, or a
writable attribute `step_mode` or `backend`, takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from neurogen.runtime.memory import STEP_MODES

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


def reset_net(net: nn.Module) -> None:
    """Take every stateful module of a network back to its start: call it between two sequences.

    Without it the next batch goes on from the states (and the graph) of the last one.

    Args:
        net: Any module; `reset()` of it and of its submodules is called where there is one.

    Raises:
        TypeError: `net` is not a module.
    """
    for reset in _methods(net, "reset"):
        reset()


def detach_net(net: nn.Module) -> None:
    """Cut the graph behind every state, keeping its value: truncated backpropagation in time.

    Args:
        net: Any module; `detach()` of it and of its submodules is called where there is one.

    Raises:
        TypeError: `net` is not a module.
    """
    for detach in _methods(net, "detach"):
        detach()


def set_step_mode(net: nn.Module, step_mode: str) -> None:
    """Let every module take one time step a call, or all of them.

    Of a container (`neurogen.nn.layer.StepModeContainer` and its like) only its own mode changes:
    the modules inside stay single-step.

    Args:
        net: Any module; `step_mode` of it and of its submodules is set where there is one.
        step_mode: 's' for inputs of shape `[N, *]`, 'm' for `[T, N, *]`.

    Raises:
        TypeError: `net` is not a module.
        ValueError: An unknown step mode, or one that a module refuses; nothing has changed then.
    """
    if step_mode not in STEP_MODES:
        choices = " or ".join(repr(mode) for mode in STEP_MODES)
        raise ValueError(f"step_mode is {choices}, not {step_mode!r}")
    _modules(net)
    _assign([m for m in outside(net) if _writable(m, "step_mode")], "step_mode", step_mode)


def set_backend(
    net: nn.Module,
    backend: str,
    instance: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
) -> None:
    """Choose what runs the neurons.

    Args:
        net: Any module; `backend` of it and of its submodules is set where there is one.
        backend: 'auto' (the fused one for the input's device), or a backend's name.
        instance: Class or classes of the modules to change; None for all of them.

    Raises:
        TypeError: `net` is not a module.
        ValueError: A module does not know this backend; nothing has changed then.
        neurogen.errors.BackendError: It cannot run on this machine; nothing has changed then.
    """
    chosen = [m for m in _modules(net) if instance is None or isinstance(m, instance)]
    _assign([m for m in chosen if _writable(m, "backend")], "backend", backend)


def multi_step_forward(x_seq: Sequences, modules: Modules) -> Any:
    """Run single-step modules on each time step in turn.

    Args:
        x_seq: `[T, *]`; a tuple of sequences gives the first module several arguments.
        modules: A module or function of one time step, or a list or tuple of them.

    Returns:
        Their outputs, stacked: `[T, *]`, or a tuple where the last module returns a tuple.

    Raises:
        TypeError: `x_seq` is no tensor or tuple of tensors.
        ValueError: No time steps, tensors of different T, or a module of step mode 'm'.
    """
    chain = _chain(modules)
    _check_single_step("multi_step_forward", chain)
    return each_step(x_seq, chain)


def seq_to_ann_forward(x_seq: Sequences, modules: Modules) -> Any:
    """Run stateless modules on all time steps at once, as one batch of T·N samples.

    Batch normalization in `train()` thereby takes its statistics over T·N samples.

    Args:
        x_seq: `[T, N, *]`; a tuple of sequences gives the first module several arguments.
        modules: A module or function of `[N, *]`, or a list or tuple of them.

    Returns:
        Their outputs, `[T, N, *]`, or a tuple where the last module returns a tuple.

    Raises:
        TypeError: `x_seq` is no tensor or tuple of tensors.
        ValueError: No time steps, tensors of different T or N, a module of step mode 'm' or with
            a state, or one that does not keep the batch dimension.
    """
    chain = _chain(modules)
    _check_single_step("seq_to_ann_forward", chain)
    check_stateless("seq_to_ann_forward", chain)
    return as_batch(x_seq, chain)


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
        if hasattr(part, "step_mode") and _is_method(getattr(part, "reset", None)):
            raise ValueError(
                f"{where} runs all time steps as one batch, and {type(part).__name__} remembers "
                "from step to step; run it by itself, by multi_step_forward, or in a "
                "MultiStepContainer"
            )


def _check_single_step(where: str, modules: Iterable[Any]) -> None:
    for part in (p for m in modules if isinstance(m, nn.Module) for p in outside(m)):
        if getattr(part, "step_mode", "s") != "s":
            raise ValueError(
                f"{where} takes single-step modules, and {type(part).__name__} has step_mode "
                f"{part.step_mode!r}; call set_step_mode(module, 's') first, or the module itself"
            )


def _chain(modules: Modules) -> list[Callable[..., Any]]:
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


def _modules(net: nn.Module) -> Iterable[nn.Module]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a torch.nn.Module, not {type(net).__name__}")
    return net.modules()


def _methods(net: nn.Module, name: str) -> list[Callable[[], object]]:
    """The methods of this name in a network; a submodule of this name is none."""
    found = (getattr(module, name, None) for module in _modules(net))
    return [method for method in found if _is_method(method)]


def _is_method(found: Any) -> TypeGuard[Callable[[], object]]:
    """Whether an attribute is a method; a submodule of its name is none."""
    return callable(found) and not isinstance(found, nn.Module)


def _writable(module: nn.Module, name: str) -> bool:
    declared = getattr(type(module), name, None)
    settable = not isinstance(declared, property) or declared.fset is not None
    return settable and hasattr(module, name)


def _assign(modules: list[nn.Module], name: str, value: Any) -> None:
    """Set an attribute of all modules, or, where one refuses, of none."""
    before = [getattr(module, name) for module in modules]
    try:
        for module in modules:
            setattr(module, name, value)
    except Exception:
        for module, old in zip(modules, before, strict=True):
            if getattr(module, name) != old:
                setattr(module, name, old)
        raise
