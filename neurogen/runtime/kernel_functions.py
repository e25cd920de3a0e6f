"""The functions under a neuron: one step, all steps, their Jacobian, and the way back.

In: a generated class. Out: what its module exports beside it, made when it is first asked for:
`hard_reset_forward`, `soft_reset_fptt_with_grad`, `bptt`, `JACOBIAN`, …, the same with the neuron's
name in front in the historical order of arguments, and `torch.autograd.Function`s over them. See
docs/kernel_functions.md. Separate from the neuron: people build their own autograd on these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from neurogen.runtime import historical, linearised
from neurogen.runtime.kernel_autograd import autograd_function, packed
from neurogen.runtime.neuron import Neuron
from neurogen.runtime.surrogate import Surrogate
from neurogen.runtime.surrogate.lookup import find

_FRAME = ("self", "surrogate_function", "detach_reset", "step_mode", "backend", "store_v_seq",
          "monitor_state", "shape")  # fmt: skip
_KINDS = ("forward", "fptt", "forward_with_grad", "fptt_with_grad")
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_NONE = inspect.Parameter.empty

Arguments = dict[str, Any]


def export(
    cls: type[Neuron], module: Mapping[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a generated module."""
    historical.extend(cls)
    functions = KernelFunctions(cls)

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name.startswith("__"):
            raise AttributeError(f"module {cls.__module__!r} has no attribute {name!r}")
        return getattr(functions, name)

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*module, *dir(functions)})

    return __getattr__, __dir__


class KernelFunctions:
    """The kernel-level functions of a neuron as attributes; generated modules hand them on.

    Args:
        cls: A generated class.
    """

    def __init__(self, cls: type[Neuron]) -> None:
        self._cls, self.home = cls, cls.__module__
        self.name = cls.__name__.removesuffix("Node")
        # No resets but these: a spec that writes its own has one, told by whether it has a v_reset.
        given = inspect.signature(cls.__init__).parameters
        both = cls.v_reset_may_be_none and "hard_reset" in cls.flags
        self._resets = ("hard", "soft") if both else ("hard",) if "v_reset" in given else ("soft",)
        self._defaults: Arguments = {
            **{n: p.default for n, p in given.items() if n not in _FRAME},
            **dict.fromkeys((n for n in cls.learnable if n not in given), None),
        }
        self._made: dict[str, Any] = {}
        self._nodes: dict[Any, Neuron] = {}

    def __dir__(self) -> list[str]:
        names = [f"{reset}_reset_{kind}" for reset in self._resets for kind in _KINDS]
        names += ["backward", "bptt"]
        prefixed = [f"{self.name}_{name}" for name in names]
        prefixed += [f"{self.name}{name}" for name in ("Step", "MultiStep")]
        return sorted(["JACOBIAN", *names, *prefixed, *historical.nodes(self.name)])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._made:
            if name not in dir(self):
                raise AttributeError(self._why_not(name))
            self._made[name] = self._make(name)
        return self._made[name]

    def _why_not(self, name: str) -> str:
        message = f"{self.name} has no {name!r}"
        for reset, other in (("hard", "soft"), ("soft", "hard")):
            if f"{reset}_reset_" in name and reset not in self._resets:
                message += f": its spec fixes the reset; use {other}_reset_…"
        return message

    def _make(self, name: str) -> Any:
        if name == "JACOBIAN":
            return tuple(block for block, _, _ in self._cls.blocks.step)
        if name in historical.nodes(self.name):
            return historical.node(self._cls, name)
        bare = name.removeprefix(self.name)
        if bare in ("Step", "MultiStep"):
            return autograd_function(self, name, bare == "MultiStep")
        prefixed, bare = bare != name, bare.removeprefix("_")
        if bare in ("backward", "bptt"):
            return self._way_back(name, bare == "bptt", prefixed)
        reset, _, kind = bare.partition("_reset_")
        return self._way_forth(name, reset, kind.startswith("fptt"), "grad" in kind, prefixed)

    # -- arguments ---------------------------------------------------------------------------

    def _own(self, without: tuple[str, ...] = ()) -> list[inspect.Parameter]:
        """The neuron's own arguments, learnables last, None being their initial value."""
        leading = ("v_threshold", "v_reset", *without)
        return [_parameter(n, d) for n, d in self._defaults.items() if n not in leading]

    def _leading(self, reset: str) -> list[inspect.Parameter]:
        names = ["v_threshold", "v_reset"] if reset == "hard" else ["v_threshold"]
        return [_parameter(n, self._defaults[n]) for n in names if n in self._defaults]

    def _surrogate_arguments(self, prefixed: bool) -> list[inspect.Parameter]:
        alpha = "surrogate_alpha" if "alpha" in self._defaults else "alpha"
        index = "grad_surrogate_function_index" if prefixed else "surrogate"
        return [_parameter(alpha, None), _parameter("detach_reset", False), _parameter(index, None)]

    def _node(self, given: Arguments, reset: str | None = None) -> Neuron:
        """A neuron with these arguments; nothing is remembered by it."""
        own = {n: given[n] for n in self._defaults if n in given}
        if reset == "soft" and self._cls.v_reset_may_be_none:
            own["v_reset"] = None
        elif reset == "hard" and own.get("v_reset", 0.0) is None:
            raise ValueError(f"{self.name}: v_reset is a number or a tensor under hard reset")
        frame = {n: value for n, value in given.items() if n not in self._defaults}
        surrogate = frame.get("grad_surrogate_function_index", frame.get("surrogate"))
        alpha = frame.get("surrogate_alpha" if "alpha" in self._defaults else "alpha")
        if surrogate is None and alpha is not None:
            surrogate = type(self._cls.default_surrogate(self._cls.__new__(self._cls))).__name__
        if surrogate is not None:
            module = isinstance(surrogate, Surrogate)
            surrogate = (find if module else _shared)(surrogate, alpha)
        detach, backend = bool(frame.get("detach_reset", False)), frame.get("backend", "auto")
        values = tuple(own.items())
        chance = "seed" in own and own["seed"] is None  # another one each call
        if chance or any(isinstance(value, Tensor) for _, value in values):
            return self._new(own, surrogate, detach, backend)
        key = (values, surrogate, detach, backend)
        if key not in self._nodes:
            if len(self._nodes) >= 64:
                self._nodes.clear()
            self._nodes[key] = self._new(own, surrogate, detach, backend)
        return self._nodes[key]

    def _new(
        self, own: Arguments, surrogate: Surrogate | None, detach: bool, backend: str
    ) -> Neuron:
        learnt = {n: own.pop(n) for n in tuple(own) if n in self._cls.learnable}
        if "shape" in inspect.signature(self._cls.__init__).parameters:
            own["shape"] = {entry.per: (1,) for entry in self._cls.learnable.values()}
        node = self._cls(
            **own,
            surrogate_function=surrogate,
            detach_reset=detach,
            step_mode="m",
            backend=backend,
        )
        for name, value in learnt.items():
            if value is not None:
                setattr(node, name, value)
        return node

    def _tuple(self, name: str, value: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        """One value as it is, several as a tuple."""
        if len(names) == 1:
            return value if isinstance(value, tuple) and len(value) == 1 else (value,)
        if not isinstance(value, tuple | list) or len(value) != len(names):
            raise TypeError(
                f"{self.name}: {name} is a tuple of {len(names)} ({', '.join(names)}), not "
                f"{f'{len(value)} values' if isinstance(value, tuple | list) else type(value)}"
            )
        return tuple(value)

    def _sequences(self, name: str, value: Any, steps: bool) -> tuple[Tensor, ...]:
        """The inputs as `[T, N, *]`."""
        inputs = self._tuple(name, value, self._cls.inputs)
        for x in inputs:
            if not isinstance(x, Tensor):
                raise TypeError(f"{self.name}: {name} is a tensor, not {type(x).__name__}")
            if x.dim() < 1 + steps:
                shape = "[T, N, *]" if steps else "[N, *]"
                raise ValueError(
                    f"{self.name}: {name} has shape {shape}; this one has {list(x.shape)}"
                )
        return inputs if steps else tuple(x.unsqueeze(0) for x in inputs)

    def _state(self, value: Any, like: Tensor) -> Arguments:
        """The states before the first step by name; None is the initial value."""
        states = dict(zip(self._cls.states, self._tuple("v", value, self._cls.states), strict=True))
        for name, v in states.items():
            if isinstance(v, Tensor) and v.dim() and v.shape != like.shape[1:]:
                raise ValueError(
                    f"{self.name}: the state {name} has shape {list(v.shape)}, one time step of "
                    f"the input {list(like.shape[1:])}"
                )
        return states

    # -- forwards ----------------------------------------------------------------------------

    def _way_forth(
        self, name: str, reset: str, steps: bool, with_grad: bool, prefixed: bool
    ) -> Callable[..., Any]:
        x = "x_seq" if steps else "x"
        parameters = [_parameter(x), _parameter("v"), *self._leading(reset)]
        surrogate = self._surrogate_arguments(prefixed) if with_grad else []
        own = self._own(("v_reset",))
        parameters += [*surrogate, *own] if prefixed else [*own, *surrogate]
        blocks = "".join(f", {block}" for block in self.JACOBIAN) if with_grad else ""
        doc = (
            f"{self.name}, {'all time steps' if steps else 'one time step'}, {reset} reset: "
            f"({x}, v) -> (spike{'_seq' if steps else ''}, v_next{blocks}).\n\n"
            f"{x} is `{'[T, N, *]' if steps else '[N, *]'}`{self.several('inputs')}; v is "
            f"`[N, *]` or a number{self.several('states')}. Not differentiable."
        )

        @torch.no_grad()
        def run(given: Arguments, explicit: frozenset[str]) -> Any:
            node = self._node(given, reset)
            inputs = self._sequences(x, given[x], steps)
            state = self._state(given["v"], inputs[0])
            run_steps = linearised.forward_with_grad if with_grad else linearised.forward
            spike, final, *rest = run_steps(node, inputs, state)
            found = rest[0] if rest else ()
            if not steps:
                spike, found = spike[0], tuple(block[0] for block in found)
            return spike, packed(final), *found

        return self._function(name, parameters, doc, run, prefixed)

    def several(self, kind: str) -> str:
        """What docstrings say where a neuron has several inputs or states."""
        names = getattr(self._cls, kind)
        return f", a tuple of them ({', '.join(names)})" if len(names) > 1 else ""

    # -- backwards ---------------------------------------------------------------------------

    def _way_back(self, name: str, steps: bool, prefixed: bool) -> Callable[..., Any]:
        end = "_seq" if steps else ""
        cls, uses = self._cls, self._cls.blocks.uses
        grads = [f"grad_spike{end}", "grad_v_next", *self.JACOBIAN]
        if prefixed:
            grads[0] = "grad_spike"
        read = [f"{n}{end}" for n in cls.inputs if n in uses]
        needed = [n for n in self._defaults if n in uses and n not in cls.learnable]
        needed += ["v_reset"] if "hard_reset" in uses and "v_reset" not in needed else []
        parameters = [_parameter(n) for n in (*grads, *read, *needed)]
        parameters += [_parameter(n, None) for n in self._defaults if n in uses and n not in needed]
        rest = [n for n in self._defaults if n not in uses and n not in needed]
        parameters += [_parameter(n, self._defaults[n], _KEYWORD) for n in rest]
        names = [*read, *(n for n in self._defaults if n in uses or n in needed)]
        why = f"dH/dX and dH/dV of {self.name} depend on {', '.join(names)}" if names else ""
        doc = (
            f"{self.name}, back through {'all time steps' if steps else 'one time step'}: "
            f"({', '.join(grads)}) -> (grad_x{end}, grad_v).\n\n"
            f"dL/dH = dL/dS dS/dH + dL/dV dV/dH, then dH/dX and dH/dV. {why + '.' if why else ''}"
        ).strip()

        @torch.no_grad()
        def run(given: Arguments, explicit: frozenset[str]) -> Any:
            self._require_learnt(name, given, explicit, why)
            node = self._node(given)
            tensors = [given[n] for n in (grads[0], *self.JACOBIAN, *read)]
            for label, value in zip((grads[0], *self.JACOBIAN, *read), tensors, strict=True):
                if not isinstance(value, Tensor):
                    raise TypeError(f"{name}: {label} is a tensor, not {type(value).__name__}")
                if value.shape != tensors[0].shape or value.dim() < 1 + steps:
                    raise ValueError(
                        f"{name}: {grads[0]} has shape {list(tensors[0].shape)}, {label} "
                        f"{list(value.shape)}; both are {'[T, N, *]' if steps else '[N, *]'}"
                    )
            if steps and not tensors[0].shape[0]:
                raise ValueError(f"{name}: {grads[0]} has no time steps (T = 0)")
            if not steps:
                tensors = [value.unsqueeze(0) for value in tensors]
            grad_states = self._tuple("grad_v_next", given["grad_v_next"], cls.states)
            for g in grad_states:
                if g is not None and g.shape != tensors[0].shape[1:]:
                    raise ValueError(
                        f"{name}: grad_v_next has shape {list(g.shape)}, one time step of "
                        f"{grads[0]} {list(tensors[0].shape[1:])}"
                    )
            count = 1 + len(self.JACOBIAN)
            given_inputs = dict(zip(read, tensors[count:], strict=True))
            inputs = [given_inputs.get(f"{n}{end}") for n in cls.inputs]
            grad_x, grad_v = linearised.backward(
                node, tensors[0], grad_states, tensors[1:count], inputs
            )
            return packed(grad_x if steps else tuple(g[0] for g in grad_x)), packed(grad_v)

        return self._function(name, parameters, doc, run, prefixed, why)

    def _require_learnt(
        self, name: str, given: Arguments, explicit: frozenset[str], why: str
    ) -> None:
        """A learnable behind dH/dX or dH/dV is given, or what it starts from is."""
        node = self._node({n: v for n, v in given.items() if n not in self._cls.learnable})
        for learnt, entry in self._cls.learnable.items():
            if learnt not in self._cls.blocks.uses or given.get(learnt) is not None:
                continue
            origins = [n for n in entry.init.__code__.co_names if n in self._defaults]
            if node._learns(learnt) and not (origins and explicit.issuperset(origins)):
                start = f" (or {', '.join(origins)}, where it starts)" if origins else ""
                raise TypeError(f"{name}: missing {learnt!r}{start}: {why}")

    # -- functions ---------------------------------------------------------------------------

    def _function(
        self, name: str, parameters: list[inspect.Parameter], doc: str,
        run: Callable[[Arguments, frozenset[str]], Any], prefixed: bool, why: str = "",
    ) -> Callable[..., Any]:  # fmt: skip
        """A Python function with a signature of its own."""
        aliases = historical.ALIASES.get(self.name, {})
        shown = {alias.name: alias for alias in aliases.values()} if prefixed else {}
        parameters = [
            shown[p.name].rename(p) if p.name in shown else p for p in parameters
        ] + [_parameter("backend", "auto", _KEYWORD)]  # fmt: skip
        signature = self.signature(name, parameters)

        def function(*arguments: Any, **keywords: Any) -> Any:
            keywords = historical.translate(name, keywords, signature.parameters, aliases)
            try:
                bound = signature.bind(*arguments, **keywords)
            except TypeError as error:
                hint = f": {why}" if why and "missing" in str(error) else ""
                raise TypeError(f"{name}: {error}{hint}") from None
            explicit = frozenset(bound.arguments)
            bound.apply_defaults()
            return run(self.translated(name, bound.arguments), explicit)

        function.__name__ = function.__qualname__ = name
        function.__module__ = self._cls.__module__
        function.__doc__ = doc
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    def signature(self, name: str, parameters: Sequence[inspect.Parameter]) -> inspect.Signature:
        """The signature of one of the functions.

        Raises:
            AttributeError: The spec gave the neuron a parameter or flag called like an argument.
        """
        names = [parameter.name for parameter in parameters]
        twice = sorted({repr(argument) for argument in names if names.count(argument) > 1})
        if twice:
            raise AttributeError(
                f"{self.name} has no {name!r}: {', '.join(twice)} would be an argument of it and "
                f"one of the neuron's own; rename the neuron's in its spec"
            )
        return inspect.Signature(parameters)

    def translated(self, name: str, given: Arguments) -> Arguments:
        """Arguments under the spec's names."""
        aliases = historical.ALIASES.get(self.name, {})
        return historical.translate(name, given, self._defaults, aliases)

    def differentiable(self, given: Arguments, steps: bool) -> tuple[Tensor, ...]:
        """Spikes and states with their graph, through the backend's fused passes."""
        hard = given["v_reset"] is not None
        given = {n: v for n, v in given.items() if n in self._defaults or v is not None}
        node = self._node(given, "hard" if hard else "soft")
        inputs = self._sequences("x", given["x"], steps)
        spike, final = linearised.forward(node, inputs, self._state(given["v"], inputs[0]))
        return (spike if steps else spike[0], *final)

    def apply_arguments(self) -> list[inspect.Parameter]:
        """The historical order of `apply`; what a neuron does not have is None."""
        leading = [_parameter(n) for n in ("x", "v", "v_threshold", "v_reset")]
        surrogate = [_parameter(p.name) for p in self._surrogate_arguments(True)]
        aliases = {a.name: a for a in historical.ALIASES.get(self.name, {}).values()}
        own = [aliases[p.name].rename(p) if p.name in aliases else p for p in self._own()]
        return [*leading, *surrogate, *own, _parameter("backend", "auto", _KEYWORD)]


@cache
def _shared(surrogate: str | int, alpha: float | None) -> Surrogate:
    """One module for a name, so that neurons made with it can be found again."""
    return find(surrogate, alpha)


def _parameter(name: str, default: Any = _NONE, kind: Any = _EITHER) -> inspect.Parameter:
    return inspect.Parameter(name, kind, default=default)
