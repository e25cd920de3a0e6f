"""Acting on every neuron of a network at once, and running modules over a sequence.

Modules are found by what they offer, not by their class, so that networks which mix these neurons
with other libraries' stateful modules work: anything with a method `reset()` or `detach()`, or a
writable attribute `step_mode` or `backend`, takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from neurogen.nn.sequence import (
    Modules,
    Sequences,
    as_batch,
    chain_of,
    check_single_step,
    check_stateless,
    each_step,
    is_method,
    outside,
)
from neurogen.runtime.memory import STEP_MODES

__all__ = [
    "detach_net",
    "multi_step_forward",
    "reset_net",
    "seq_to_ann_forward",
    "set_backend",
    "set_step_mode",
]


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
    chain = chain_of(modules)
    check_single_step("multi_step_forward", chain)
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
    chain = chain_of(modules)
    check_single_step("seq_to_ann_forward", chain)
    check_stateless("seq_to_ann_forward", chain)
    return as_batch(x_seq, chain)


def _modules(net: nn.Module) -> Iterable[nn.Module]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a torch.nn.Module, not {type(net).__name__}")
    return net.modules()


def _methods(net: nn.Module, name: str) -> list[Callable[[], object]]:
    """The methods of this name in a network; a submodule of this name is none."""
    found = (getattr(module, name, None) for module in _modules(net))
    return [method for method in found if is_method(method)]


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
