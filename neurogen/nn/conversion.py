"""Neurons of another library, or other neurons of this one, replaced in a network.

In: a network, and which class becomes which. Out: the network with its neurons replaced, and a
warning that lists what could not be. Nothing is known of any library: values go by their names, and
surrogates by the slope that they have.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from neurogen.nn import surrogate
from neurogen.nn.sequence import is_method
from neurogen.runtime.neuron import Neuron

__all__ = ["ConversionWarning", "convert"]

#: What a class of neurons becomes: a generated class, or a function of the old neuron.
Replacement: TypeAlias = Callable[..., nn.Module]

#: Arguments that are about this library, or are carried over by themselves.
_NOT_CARRIED = frozenset({"backend", "monitor_state", "shape", "surrogate_function"})


class ConversionWarning(UserWarning):
    """Something of a network has no counterpart; the text lists all of it."""


class _UnmappedError(Exception):
    """Why a neuron is left as it is."""


def convert(net: nn.Module, classes: Mapping[type[nn.Module], Replacement]) -> nn.Module:
    """Replace all neurons of the given classes, carrying their parameters over.

    Carried are: what the new class's constructor takes and the old neuron has as an attribute
    (`tau`, `v_threshold`, `detach_reset`, `step_mode`, ...), learnable parameters by name, with
    their dtype, device and `requires_grad`, potentials, `training`, and the surrogate, if one of
    `neurogen.nn.surrogate` with its name has its slope. Only the very class is replaced, no
    subclass: that may have other equations.

        net = convert(net, {spikingjelly.activation_based.neuron.LIFNode: LIFNode})

    Make optimizers afterwards: learnable parameters are new ones.

    Args:
        net: Any module; its submodules are replaced in place.
        classes: For each class of neurons to replace a generated class, or, where names differ, a
            function that makes the new neuron from the old one:
            `{snntorch.Leaky: lambda old: LeakyNode(beta=old.beta, v_threshold=old.threshold)}`.
            What it leaves at the default is carried over by name, as without a function.

    Returns:
        `net`, or what it was replaced by where it is such a neuron itself.

    Raises:
        TypeError: `net` is no module, or `classes` names something else than classes of modules.
        ValueError: The new class refuses a value; nothing has changed then.

    Warns:
        ConversionWarning: Neurons that were left as they are, with the reason (a surrogate or
            learnable parameter without counterpart, a class that was not named), and what was not
            carried over of those replaced.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a torch.nn.Module, not {type(net).__name__}")
    for old_class, new in classes.items():
        if not (isinstance(old_class, type) and issubclass(old_class, nn.Module) and callable(new)):
            raise TypeError(
                "classes maps a class of modules to a neuron class, or to a function that makes "
                f"one; not {old_class!r} to {new!r}"
            )
    replaced: dict[nn.Module, nn.Module] = {}
    remarks: list[str] = []
    for path, module in net.named_modules():
        label = f"{path or 'the network itself'} ({type(module).__name__})"
        if type(module) not in classes:
            if _is_neuron(module, tuple(classes)):
                remarks.append(f"{label} is left as it is: its class was not named")
            continue
        new_class = classes[type(module)]
        try:
            replaced[module] = _replacement(module, new_class)
        except _UnmappedError as reason:
            remarks.append(f"{label} is left as it is: {reason}")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{label}: {error}") from error
        else:
            lost = [*_not_carried(module, replaced[module])] if _by_name(new_class) else []
            remarks += [f"{label}: {what}" for what in (*lost, *_hooks(module))]
    if remarks:
        listed = "".join(f"\n  {remark}" for remark in remarks)
        warnings.warn(ConversionWarning(f"could not be mapped:{listed}"), stacklevel=2)
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    return replaced.get(net, net)


def _replacement(old: nn.Module, new_class: Replacement) -> nn.Module:
    """A neuron that does what `old` does; what a function sets is trusted."""
    new: nn.Module
    if _by_name(new_class):
        new = new_class(**dict(_arguments(old, new_class)))
        _carry_learnables(old, new)
    else:
        new = new_class(old)
        if isinstance(new, Neuron):
            _carry_defaults(old, new)
    for state in getattr(type(new), "states", ()):
        if isinstance(value := getattr(old, state, None), Tensor):
            setattr(new, state, value)
    return new.train(old.training)


def _by_name(new_class: Replacement) -> TypeGuard[type[Neuron]]:
    """Whether values go by their names: to a generated class, not through a function."""
    return isinstance(new_class, type) and issubclass(new_class, Neuron)


def _values(old: nn.Module, new_class: type[Neuron]) -> Iterator[tuple[str, Any]]:
    """Keywords of the new class's constructor that are attributes of the old neuron."""
    for name in inspect.signature(new_class).parameters:
        if name not in _NOT_CARRIED and name not in new_class.learnable and hasattr(old, name):
            yield name, getattr(old, name)


def _arguments(old: nn.Module, new_class: type[Neuron]) -> Iterator[tuple[str, Any]]:
    """All keywords of the new class's constructor that the old neuron knows a value of."""
    yield from _values(old, new_class)
    if isinstance(function := getattr(old, "surrogate_function", None), nn.Module):
        yield "surrogate_function", _counterpart(function)
    if "shape" in inspect.signature(new_class).parameters:
        yield (
            "shape",
            {
                entry.per: tuple(value.shape)
                for name, entry in new_class.learnable.items()
                if entry.per != "layer" and isinstance(value := getattr(old, name, None), Tensor)
            },
        )


def _carry_defaults(old: nn.Module, new: Neuron) -> None:
    """What a function left at its default, from where names do not differ."""
    defaults = inspect.signature(type(new)).parameters
    for name, value in _values(old, type(new)):
        present = getattr(new, name)
        if not isinstance(present, Tensor) and present == defaults[name].default:
            setattr(new, name, value)
    function = getattr(old, "surrogate_function", None)
    left = repr(new.surrogate_function) == repr(new.default_surrogate())
    if left and isinstance(function, nn.Module):
        new.surrogate_function = _counterpart(function)


def _counterpart(old: nn.Module) -> surrogate.Surrogate:
    """The surrogate of this name, with the same shape parameters, if its slope is the same."""
    name = type(old).__name__
    if name not in surrogate.__all__:
        raise _UnmappedError(f"neurogen.nn.surrogate has no {name}")
    new_class = getattr(surrogate, name)
    taken = {n: getattr(old, n) for n in inspect.signature(new_class).parameters if hasattr(old, n)}
    new: surrogate.Surrogate = new_class(**{
        n: v.item() if isinstance(v, Tensor) else v for n, v in taken.items()
    })  # fmt: skip
    if not torch.allclose(_slope(old), _slope(new), rtol=1e-4, atol=1e-6):
        raise _UnmappedError(f"neurogen.nn.surrogate.{name} has another slope than this {name}")
    return new


def _slope(function: nn.Module) -> Tensor:
    """dS/du at some places; none of them is where a piecewise surrogate has a kink."""
    u = torch.linspace(-3.17, 3.31, 129, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(u).sum(), u)
    return slope


def _carry_learnables(old: nn.Module, new: nn.Module) -> None:
    """Values of learnable parameters and buffers, by name."""
    targets = dict(new.named_parameters(recurse=False)) | dict(new.named_buffers(recurse=False))
    for name, value in (
        *old.named_parameters(recurse=False), *old.named_buffers(recurse=False),
    ):  # fmt: skip
        target = targets.get(name)
        if target is value:  # given to the constructor
            continue
        if target is None or target.numel() != value.numel():
            shape = "" if target is None else f" of shape {list(value.shape)}"
            raise _UnmappedError(f"{type(new).__name__} has no parameter {name}{shape}")
        carried = value.detach().clone().reshape(target.shape)
        if isinstance(target, nn.Parameter):
            carried = nn.Parameter(carried, value.requires_grad)
        setattr(new, name, carried)


def _not_carried(old: nn.Module, new: nn.Module) -> Iterator[str]:
    """What the old neuron was made with, and the new one does not have."""
    for name in inspect.signature(type(old)).parameters:
        value = getattr(old, name, None)
        if name not in _NOT_CARRIED and value is not None and not hasattr(new, name):
            yield f"{name}={value} has no counterpart in {type(new).__name__}"


def _hooks(old: nn.Module) -> Iterator[str]:
    """Hooks that see nothing any more."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if hooks := sum(len(getattr(old, kind)) for kind in kinds):
        yield f"{hooks} hooks are not carried over; make monitors after the conversion"


def _is_neuron(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module that was not named is a neuron of another library."""
    remembers = is_method(getattr(module, "reset", None)) and hasattr(module, "v")
    return isinstance(module, classes) or (remembers and not isinstance(module, Neuron))
