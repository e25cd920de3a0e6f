"""Names of earlier generations of this interface: other spellings, nodes, pure step functions.

In: names and values as people's programs have them. Out: those of a spec. Separate, so that all
that is kept for compatibility stands in one place.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurogen.runtime.neuron import Neuron
from neurogen.runtime.surrogate import Surrogate
from neurogen.runtime.surrogate.lookup import find


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of an argument.

    Attributes:
        old: It.
        name: What the spec calls the argument.
        convert: The old value as the spec's, and the other way round.
    """

    old: str
    name: str
    convert: Callable[[Any], Any]

    def rename(self, parameter: inspect.Parameter) -> inspect.Parameter:
        """The spec's argument in the old spelling."""
        default = parameter.default
        default = default if default is inspect.Parameter.empty else self.convert(default)
        return parameter.replace(name=self.old, default=default)


def _reciprocal(value: Any) -> Any:
    return 1 / value if isinstance(value, Tensor) or value else math.inf


#: The arguments that the extensions called differently, by neuron.
ALIASES: Mapping[str, Mapping[str, Alias]] = {
    "LIF": {
        alias.old: alias
        for alias in (
            Alias("reciprocal_tau", "tau", _reciprocal),
            # The input does not decay: H = V + X - (V - V_reset) / tau. It detaches no gradient.
            Alias("detach_input", "decay_input", lambda value: not value),
        )
    }
}

#: The multi-step nodes of the extensions: own arguments in their order, with their defaults.
NODES: Mapping[str, Mapping[str, Any]] = {"IF": {}, "LIF": {"tau": 100.0, "detach_input": False}}


def translate(
    function: str, given: Mapping[str, Any], known: Mapping[str, Any], aliases: Mapping[str, Alias]
) -> dict[str, Any]:
    """Arguments under the spec's names, where `known` has no argument of the old one."""
    result = dict(given)
    for old, alias in aliases.items():
        if old in result and old not in known:
            if alias.name in result:
                raise TypeError(f"{function}: {old} and {alias.name} say the same; give one")
            result[alias.name] = alias.convert(result.pop(old))
    return result


def nodes(neuron: str) -> tuple[str, ...]:
    """The names of a neuron's multi-step nodes."""
    return (f"MultiStep{neuron}Node",) if neuron in NODES else ()


def node(cls: type[Neuron], name: str) -> type[Neuron]:
    """The multi-step node of a neuron, with the historical arguments."""
    neuron = cls.__name__.removesuffix("Node")
    frame = {"v_threshold": 1.0, "v_reset": 0.0, "surrogate_function": "ATan", "alpha": 2.0,
             "detach_reset": False, "backend": "auto"}  # fmt: skip
    signature = inspect.Signature(
        [
            inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for n, default in {**NODES[neuron], **frame}.items()
        ]
    )

    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
        try:
            bound = signature.bind(*arguments, **_modern(keywords))
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        bound.apply_defaults()
        given = translate(name, bound.arguments, {}, ALIASES.get(neuron, {}))
        alpha, surrogate = given.pop("alpha"), given.pop("surrogate_function")
        if not isinstance(surrogate, Surrogate):
            surrogate = find(surrogate, alpha)
        cls.__init__(self, surrogate_function=surrogate, step_mode="m", **given)

    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
         *signature.parameters.values()]
    )  # fmt: skip
    doc = f"`{cls.__name__}` with all time steps a call, and the arguments of the extensions."
    body = {"__init__": __init__, "__doc__": doc, "__module__": cls.__module__}
    return type(name, (cls,), body)


def _modern(keywords: dict[str, Any]) -> dict[str, Any]:
    if "pulse_soft" in keywords:
        if "surrogate_function" in keywords:
            raise TypeError("pulse_soft and surrogate_function say the same; give one")
        keywords["surrogate_function"] = keywords.pop("pulse_soft")
    return keywords


def extend(cls: type[Neuron]) -> None:
    """What a generated class has besides: `pulse_soft`, and pure step functions."""
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
        construct(self, *arguments, **_modern(keywords))

    cls.__init__ = __init__  # type: ignore[method-assign]
    if cls.matrices or cls.learnable or len(cls.states) > 1:
        return
    own = [flag for flag in cls.flags if flag != "hard_reset"]
    for values in itertools.product((True, False), repeat=len(own)):
        ending = "".join(
            f"_{flag}" if value else f"_no_{flag}" for flag, value in zip(own, values, strict=True)
        )
        for reset in ("hard", "soft") if "hard_reset" in cls.flags else ():
            name = f"jit_eval_single_step_forward_{reset}_reset{ending}"
            flags = {**dict(zip(own, values, strict=True)), "hard_reset": reset == "hard"}
            setattr(cls, name, staticmethod(_pure(cls, name, flags)))


class _Names:
    """Parameters and flags as a prelude reads them."""

    def __init__(self, names: list[str], values: list[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            setattr(self, name, value)


class _Plain:
    """Fires without a surrogate."""

    @staticmethod
    def fire(u: Tensor, condition: Tensor) -> Tensor:
        return condition.to(u.dtype)


def _pure(cls: type[Neuron], name: str, flags: dict[str, bool]) -> Callable[..., Any]:
    """One step of inference: (x, v, v_threshold, v_reset if hard, own…) -> (spike, v)."""
    leading = ("v_threshold", "v_reset")
    names = [n for n in leading if n in cls.parameter_names]
    names = names if flags["hard_reset"] else [n for n in names if n != "v_reset"]
    names += [n for n in cls.parameter_names if n not in leading]
    count = len(cls.inputs) + 1
    order = [flags[flag] for flag in cls.flags]

    def function(*arguments: Any) -> tuple[Tensor, Tensor]:
        if len(arguments) != count + len(names):
            raise TypeError(f"{name} takes ({', '.join((*cls.inputs, 'v', *names))})")
        tensors, values = arguments[:count], arguments[count:]
        given = _Names([*flags, *names], [*flags.values(), *values])
        constants = [
            torch.as_tensor(c.value(given), dtype=tensors[0].dtype, device=tensors[0].device)
            if c.when is None or c.when(given) else 0.0
            for c in cls.constants
        ]  # fmt: skip
        spike, after = cls.step(*tensors, *constants, _Plain, False, *order)
        return spike, after

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"One step, pure: ({', '.join((*cls.inputs, 'v', *names))}) -> (spike, v)."
    return function
