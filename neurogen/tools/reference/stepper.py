"""The steps of a neuron as its spec says: let, charge, fire, reset, output, one after the other.

In: the YAML text of a (valid) spec and the arguments a node's constructor would get, then inputs.
Out: outputs, states and every decision taken. Separate from `equations`, which evaluates.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from neurogen.tools.reference.curves import CURVES, Curve, Decide
from neurogen.tools.reference.equations import (
    FUNCTIONS,
    TRANSFORMS,
    Decisions,
    Prelude,
    Step,
    apply,
    names_in,
    parse,
)

KEYS = {
    *("name", "summary", "reference", "doc", "expect"),
    *("states", "inputs", "parameters", "learnable", "flags", "dt"),
    *("let", "charge", "fire", "reset", "output", "surrogate"),
}
NOT_YET = {"dynamics", "scheme", "kernels", "noise"}
RESETS = {"hard": "spike*v_reset + (1 - spike)*v", "soft": "v - spike*v_threshold"}


@dataclass(frozen=True, slots=True)
class Run:
    """What `Reference.run` returns; all floating tensors have the compute dtype.

    Attributes:
        outputs: [T, N, *], the spec's `output` (the spikes, 0 or 1, by default).
        sequences: State name -> [T, N, *], values after the reset of each step.
        state: State name -> [N, *], values after the last step, to start another run from; with
            the last "spike" if the spec uses `prev(spike)`.
        decisions: Outcome of every comparison (bool) and every floor and round (number), in order
            of evaluation, each broadcastable to [N, *].
    """

    outputs: Tensor
    sequences: dict[str, Tensor]
    state: dict[str, Tensor]
    decisions: list[Tensor]


class Reference:
    """A neuron, as its spec says.

    Args:
        text: The YAML text of a valid spec.
        surrogate: A name, (name, parameters) or a function S(u); None is the spec's, or sigmoid.
        detach_reset: Whether no gradient flows through `spike` inside `reset`.
        arguments: What the node's constructor takes: parameters, `v_threshold`, `v_reset` (floats
            or tensors, `v_reset` also None) and flags (bool); and the raw value, a tensor, of each
            learnable that an equation of this variant uses. `per` channel expects [C], per neuron
            [*], per step [T]; any other tensor broadcasts to [N, *]. Gradients flow to tensors that
            require them.
    """

    def __init__(
        self,
        text: str,
        *,
        surrogate: str | tuple[str, Mapping[str, float]] | Callable[[Tensor], Tensor] | None = None,
        detach_reset: bool = False,
        **arguments: float | Tensor | None,
    ) -> None:
        spec = yaml.load(text, Loader=yaml.BaseLoader)
        if not isinstance(spec, dict) or spec.keys() - KEYS - NOT_YET:
            raise ValueError("not a spec that is understood")
        if not_yet := spec.keys() & NOT_YET or {"charge"} - spec.keys():
            raise ValueError(f"not yet: {sorted(not_yet)}")
        self.detach_reset = detach_reset
        self.curve = _curve(spec.get("surrogate", "sigmoid") if surrogate is None else surrogate)
        self._read_constants(spec, dict(arguments))
        self._read_step(spec)

    def _read_constants(self, spec: dict[str, Any], given: dict[str, Any]) -> None:
        """Collect what keeps its value for a run: flags, parameters, learnables, thresholds."""
        self.flags: dict[str, bool] = {}
        for name, short in spec.get("flags", {}).items():
            self.flags[name] = given.pop(name, _flag(_entry(short, "default", "doc")["default"]))
            if not isinstance(self.flags[name], bool):
                raise ValueError(f"flag {name} is True or False, not {self.flags[name]!r}")
        self.values: dict[str, Any] = {"v_threshold": 1.0, "v_reset": 0.0}
        self.per: dict[str, str] = {}
        for name, short in spec.get("parameters", {}).items():
            entry = _entry(short, "default", "where unit doc per")
            self.values[name] = _number(entry["default"])
            self.per[name] = entry.get("per", "layer")
        self.definitions: dict[str, ast.expr] = {}  # constants that follow from others
        for name, short in spec.get("learnable", {}).items():
            entry = _entry(short, "init", "per transform bounds where unit doc")
            raw = f"raw value of {name}, a tensor"
            self.values.pop(name, None)  # v_threshold can be learnable, too
            if isinstance(value := given.pop(name, None), Tensor):
                self.values[raw] = value
            elif value is not None:
                raise ValueError(f"a learnable is given by its raw value, a tensor: {name}")
            self.per[raw] = entry.get("per", "layer")
            bounds = [parse(bound, self.flags) for bound in entry.get("bounds", ())]
            transform = entry.get("transform", "identity")
            self.definitions[name] = apply(TRANSFORMS[transform], [ast.Name(raw), *bounds])
        for name, value in given.items():
            number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
            if name not in self.values or not (number or (name == "v_reset" and value is None)):
                raise ValueError(f"not an argument of this neuron: {name}={value!r}")
            self.values[name] = value
        self.values["dt"] = _number(spec.get("dt", "1.0"))

    def _read_step(self, spec: dict[str, Any]) -> None:
        """Collect what happens in a step: assignments, fire, reset, output."""
        self.inputs: list[str] = spec.get("inputs", ["x"])
        states = {
            name: _entry(entry, "init", "integer")["init"]
            for name, entry in spec.get("states", {"v": "v_rest"}).items()
        }
        self.integers = {  # counters, through which no gradient flows
            name
            for name, entry in spec.get("states", {}).items()
            if isinstance(entry, dict) and _flag(entry.get("integer", "false"))
        }
        fire = _entry(spec.get("fire", "v >= v_threshold"), "when", "if kind levels")
        if fire.get("kind", "binary") != "binary":
            raise ValueError("not yet: a fire that is not binary")
        reset = spec.get("reset", "auto")
        resets, mode = ({}, reset) if isinstance(reset, str) else (dict(reset), "auto")
        v_reset = self.values.get("v_reset", 0.0)
        if mode == "auto":
            mode = "as written" if "v" in resets else "soft" if v_reset is None else "hard"
        if mode not in ("as written", "none", *RESETS) or (v_reset is None and mode != "soft"):
            raise ValueError(f"not a reset: {reset!r} with v_reset={v_reset!r}")
        if mode in RESETS and "v" in states and fire["when"] != "none":
            resets["v"] = RESETS[mode]
        if mode == "soft":
            self.values.pop("v_reset", None)
            self.values["v_rest"] = 0.0
        else:
            self.definitions["v_rest"] = ast.Name("v_reset")

        taken = {"spike", *self.inputs, *states, *self.flags, *self.values, *self.definitions}
        charge = spec["charge"] if isinstance(spec["charge"], dict) else {"v": spec["charge"]}
        self.assignments: list[tuple[str, ast.expr]] = []
        let = spec.get("let", {})
        for name, text in (*let.items(), *charge.items()):
            if name in (taken | FUNCTIONS) - (states.keys() - let.keys()):
                raise ValueError(f"{name!r} is assigned, and something else already")
            taken.add(name)
            tree = parse(text, self.flags)
            if name not in states and names_in(tree) <= {*self.values, *self.definitions}:
                self.definitions[name] = tree
            else:
                self.assignments.append((name, tree))
        self.fire = None if fire["when"] == "none" else parse(fire["when"], self.flags)
        self.guard = parse(fire["if"], self.flags) if "if" in fire else None
        self.resets = {name: parse(text, self.flags) for name, text in resets.items()}
        if self.resets.keys() - states.keys():
            raise ValueError(f"reset of what is no state: {sorted(self.resets)}")
        self.output = parse(spec.get("output", "spike"), self.flags)
        self.initial: dict[str, ast.expr | None] = {
            name: None if isinstance(init, dict) else parse(init, self.flags)
            for name, init in states.items()
        }
        trees = [*dict(self.assignments).values(), *self.resets.values(), self.output]
        trees += [tree for tree in (self.fire, self.guard) if tree is not None]
        self.remembers = any("prev(spike)" in ast.unparse(tree) for tree in trees)
        if self.remembers and self.fire is None:
            raise ValueError("prev(spike) of a neuron that never fires")

    def run(
        self,
        inputs: Tensor | Sequence[Tensor],
        state: Mapping[str, Tensor | None] | None = None,
        *,
        dtype: torch.dtype,
        forced: Sequence[Tensor] | None = None,
        spiking: bool = True,
    ) -> Run:
        """Run all time steps.

        Args:
            inputs: One tensor [T, N, *] or as many as the spec has inputs, on the CPU.
            state: State name -> [N, *]; None or left out: the spec's initial value.
            dtype: Compute dtype, float32 or float64; everything is cast to it first.
            forced: The `decisions` of another run of this neuron on inputs of the same shape:
                each comparison then has that outcome, whatever the numbers say.
            spiking: False makes the forward pass smooth: a spike is S(u), so that the surrogate's
                gradient is the exact gradient.
        """
        inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(inputs)} inputs given, the neuron has {self.inputs}")
        shapes = [x.shape[1:] for x in inputs]
        shape: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        decisions = Decisions(forced)
        constants = {
            name: _constant(value, self.per.get(name, "layer"), len(shape), dtype)
            for name, value in self.values.items()
        }
        prelude = Prelude({**constants, **self.definitions}, decisions)
        step = Step(prelude, len(shape), dtype, self.curve, spiking)

        given = dict(state or {})
        now: dict[str, Tensor] = {}
        for name, init in self.initial.items():
            if (value := given.pop(name, None)) is not None:
                now[name] = value.to(dtype).broadcast_to(shape)
            elif init is not None:
                now[name] = step.value(init).broadcast_to(shape)
            else:
                raise ValueError(f"the initial value of {name} is random: give it in `state`")
        if self.remembers:
            last = given.pop("spike", None)
            last = torch.zeros((), dtype=dtype) if last is None else last.to(dtype)
            now["spike"] = last.broadcast_to(shape)
        if given:
            raise ValueError(f"not states of this neuron: {sorted(given)}")

        outputs: list[Tensor] = []
        sequences: dict[str, list[Tensor]] = {name: [] for name in self.initial}
        for step.t, xs in enumerate(zip(*(x.to(dtype).unbind(0) for x in inputs), strict=True)):
            output, now = self._advance(step, dict(zip(self.inputs, xs, strict=True)), now, shape)
            outputs.append(output)
            for name, sequence in sequences.items():
                sequence.append(now[name])
        if forced is not None and len(forced) != len(decisions.taken):
            raise ValueError(f"{len(forced)} forced decisions, {len(decisions.taken)} were taken")
        stacked = {name: torch.stack(sequence) for name, sequence in sequences.items()}
        return Run(torch.stack(outputs), stacked, now, decisions.taken)

    def _advance(
        self, step: Step, inputs: dict[str, Tensor], state: dict[str, Tensor], shape: torch.Size
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step: let and charge in order, fire, reset all at once, output."""
        step.start = state
        step.names = {**inputs, **{name: state[name] for name in self.initial}}
        for name, tree in self.assignments:
            value = step.value(tree)
            step.names[name] = value.detach() if name in self.integers else value
        if self.fire is not None:
            step.names["spike"] = step.fire(self.fire, self.guard)
        charged = step.names
        if self.detach_reset and "spike" in charged:
            step.names = {**charged, "spike": charged["spike"].detach()}
        after = {name: step.value(tree) for name, tree in self.resets.items()}
        step.names = {**charged, **after}
        for name in self.integers:
            step.names[name] = step.names[name].detach()
        now = {name: step.names[name].broadcast_to(shape) for name in self.initial}
        if self.remembers:
            now["spike"] = charged["spike"].broadcast_to(shape)
        return step.value(self.output).broadcast_to(shape), now


def _constant(value: float | Tensor, per: str, ndim: int, dtype: torch.dtype) -> Tensor:
    """Return a float as 0-dim float64, a tensor at compute dtype, shaped for steps [N, *].

    A value per step gets the leading dimension T, that is one more than a step has.
    """
    if not isinstance(value, Tensor):
        return torch.tensor(float(value), dtype=torch.float64)
    value = value.to(dtype)
    if value.numel() == 1:
        return value.reshape(1)
    match per:
        case "layer" | "neuron":
            return value
        case "channel" if ndim >= 2:
            return value.reshape(-1, *(1,) * (ndim - 2))
        case "step":
            return value.reshape(-1, *(1,) * ndim)
    raise ValueError(f"not a way to share a parameter: per {per} with {ndim}-dimensional steps")


def _entry(entry: object, key: str, others: str) -> dict[str, Any]:
    """Return the long form of an entry: text becomes {key: text}; unknown keys are refused."""
    entry = entry if isinstance(entry, dict) else {key: entry}
    if unknown := entry.keys() - {key, *others.split()}:
        raise ValueError(f"not understood: {sorted(unknown)}")
    return entry


def _autograd(primitive: Callable[[Tensor, Decide], Tensor]) -> Curve:
    """Take the slope of a primitive S(u) from torch autograd."""

    def curve(u: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.requires_grad_()
            smooth = primitive(u, decide)
            (slope,) = torch.autograd.grad(smooth.sum(), u)
        return smooth.detach(), slope

    return curve


def _curve(choice: object) -> Curve:
    """Make a curve of a name, a mapping as in a spec, (name, parameters) or a function S(u)."""
    if callable(choice):
        return _autograd(lambda u, _: choice(u))
    if isinstance(choice, tuple):
        name, given = choice
    elif isinstance(choice, dict) and "primitive" in choice:
        entry = _entry(choice, "primitive", "parameters")
        tree = parse(entry["primitive"], {})
        names: dict[str, Tensor | ast.expr] = {
            key: parse(_entry(short, "default", "doc")["default"], {})
            for key, short in entry.get("parameters", {}).items()
        }
        return _autograd(lambda u, decide: Prelude({**names, "u": u}, decide).value(tree))
    elif isinstance(choice, dict):
        name = choice.get("name")
        given = {key: _number(text) for key, text in choice.items() if key != "name"}
    else:
        name, given = choice, {}
    if name not in CURVES or given.keys() - CURVES[name][0].keys():
        raise ValueError(f"not a surrogate: {name!r} with {sorted(given)}")
    defaults, function_of = CURVES[name]
    return functools.partial(function_of, **(defaults | given))


def _number(text: object) -> float:
    """Read a number from YAML text."""
    if not isinstance(text, str) or not re.fullmatch(
        r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip()
    ):
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def _flag(text: object) -> bool:
    """Read true or false from YAML text."""
    if text not in ("true", "false"):
        raise ValueError(f"a flag is true or false, not {text!r}")
    return text == "true"
