"""The steps of a neuron as its spec says: dynamics, let, charge, fire, reset, output, in turn.

In: the YAML text of a (valid) spec and the arguments a node's constructor would get, then inputs.
Out: outputs, states and every decision taken. Separate from `equations`, which evaluates.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from neurogen.tools.reference.dynamics import Dynamics
from neurogen.tools.reference.equations import Decisions, Prelude, Step
from neurogen.tools.reference.kernels import Responses
from neurogen.tools.reference.reading import (
    long_form,
    read_curve,
    read_fire,
    read_flag,
    read_number,
)
from neurogen.tools.reference.syntax import FUNCTIONS, TRANSFORMS, apply, names_in, parse

KEYS = {
    *("name", "summary", "reference", "doc", "expect"),
    *("states", "inputs", "parameters", "learnable", "flags", "dt"),
    *("let", "kernels", "dynamics", "scheme", "charge", "noise"),
    *("fire", "reset", "output", "surrogate"),
}
EQUATIONS = ("states", "learnable", "let", "charge", "fire", "reset", "output")
RESETS = {"hard": "spike*v_reset + (1 - spike)*v", "soft": "v - spike*v_threshold"}
ROOT_OF_DT = ast.parse("sqrt(dt)", mode="eval").body


@dataclass(frozen=True, slots=True)
class Run:
    """What `Reference.run` returns; all floating tensors have the compute dtype.

    Attributes:
        outputs: [T, N, *], the spec's `output` (the spikes by default: 0 or 1, -1 ... 1 or levels).
        sequences: State name -> [T, N, *], values after the reset of each step.
        state: State name -> [N, *], values after the last step, to start another run from; with
            the last "spike" if the spec uses `prev(spike)`.
        spikes: [T, N, *], what the neuron fired, None if it never does.
        decisions: Outcome of every comparison (bool) and every floor and round (number), in order
            of evaluation, each broadcastable to [N, *].
        ties: How often `fire` met its threshold exactly (a = b), or a level half way.
    """

    outputs: Tensor
    sequences: dict[str, Tensor]
    state: dict[str, Tensor]
    spikes: Tensor | None
    decisions: list[Tensor]
    ties: int


class Reference:
    """A neuron, as its spec says.

    Args:
        text: The YAML text of a valid spec.
        given: Arguments by name, as below; those that are called like an option of this class.
        surrogate: A name, (name, parameters) or a function S(u); None is the spec's, or sigmoid.
        detach_reset: Whether no gradient flows through `spike` inside `reset`.
        arguments: What the node's constructor takes: parameters, `v_threshold`, `v_reset` (floats
            or tensors, `v_reset` also None), `dt` where it matters (an equation names it, or there
            are dynamics or kernels) and flags (bool); and the raw value, a tensor, of each
            learnable that an equation of this variant uses. `per` channel expects [C], per neuron
            [*], per step [T]; any other tensor broadcasts to [N, *]. Gradients flow to tensors that
            require them.
    """

    def __init__(
        self,
        text: str,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        surrogate: str | tuple[str, Mapping[str, float]] | Callable[[Tensor], Tensor] | None = None,
        detach_reset: bool = False,
        **arguments: float | Tensor | None,
    ) -> None:
        spec = yaml.load(text, Loader=yaml.BaseLoader)
        if not isinstance(spec, dict) or spec.keys() - KEYS:
            raise ValueError("not a spec that is understood")
        if not spec.keys() & {"charge", "dynamics"}:
            raise ValueError("neither charge nor dynamics")
        self.detach_reset = detach_reset
        self.curve = read_curve(
            spec.get("surrogate", "sigmoid") if surrogate is None else surrogate
        )
        self._read_constants(spec, {**(given or {}), **arguments})
        self._read_step(spec)

    def _read_constants(self, spec: dict[str, Any], given: dict[str, Any]) -> None:
        """Collect what keeps its value for a run: flags, parameters, learnables, thresholds."""
        self.flags: dict[str, bool] = {}
        for name, short in spec.get("flags", {}).items():
            default = long_form(short, "default", "doc")["default"]
            self.flags[name] = given.pop(name, read_flag(default))
            if not isinstance(self.flags[name], bool):
                raise ValueError(f"flag {name} is True or False, not {self.flags[name]!r}")
        self.values: dict[str, Any] = {"v_threshold": 1.0, "v_reset": 0.0}
        self.per: dict[str, str] = {}
        for name, short in spec.get("parameters", {}).items():
            entry = long_form(short, "default", "where unit doc per")
            self.values[name] = read_number(entry["default"])
            self.per[name] = entry.get("per", "layer")
        self.definitions: dict[str, ast.expr] = {}  # constants that follow from others
        for name, short in spec.get("learnable", {}).items():
            entry = long_form(short, "init", "per transform bounds where unit doc")
            raw = f"raw value of {name}, a tensor"
            self.values.pop(name, None)  # v_threshold can be learnable, too
            if isinstance(value := given.pop(name, None), Tensor):
                self.values[raw] = value
            elif value is not None:
                raise ValueError(f"a learnable is given by its raw value, a tensor: {name}")
            self.per[raw] = entry.get("per", "layer")
            bounds = [parse(bound, self.flags) for bound in entry.get("bounds", ())]
            transform = entry.get("transform", "identity")
            if transform == "sigmoid" and bounds:
                transform = "bounded sigmoid"
            self.definitions[name] = apply(TRANSFORMS[transform], [ast.Name(raw), *bounds])
        if "dt" in {*self.values, *self.definitions}:
            raise ValueError("dt is the time step, not a parameter")
        dt = read_number(spec.get("dt", "1.0"))
        equations = " ".join(str(spec.get(key)) for key in EQUATIONS)
        self.rests = "v_rest" in f"{equations} {spec.get('dynamics')}"
        if spec.keys() & {"dynamics", "kernels"} or re.search(r"\bdt\b", equations):
            self.values["dt"] = dt
        for name, value in given.items():
            number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
            if name not in self.values or not (number or (name == "v_reset" and value is None)):
                raise ValueError(f"not an argument of this neuron: {name}={value!r}")
            self.values[name] = value
        self.values.setdefault("dt", dt)

    def _read_step(self, spec: dict[str, Any]) -> None:
        """Collect what happens in a step: dynamics, assignments, fire, reset, output."""
        self.inputs: list[str] = spec.get("inputs", ["x"])
        self.initial: dict[str, ast.expr | None] = {}
        self.integers: set[str] = set()  # counters, through which no gradient flows
        for name, short in spec.get("states", {"v": "v_rest"}).items():
            entry = long_form(short, "init", "integer")
            init = entry["init"]
            self.initial[name] = None if isinstance(init, dict) else parse(init, self.flags)
            if read_flag(entry.get("integer", "false")):
                self.integers.add(name)
        self.kernels = {name: parse(h, self.flags) for name, h in spec.get("kernels", {}).items()}
        self.noise: dict[str, str] = {
            name: str(long_form(short, "kind", "eval")["kind"])
            for name, short in spec.get("noise", {}).items()
        }
        self.fire = read_fire(spec.get("fire", "v >= v_threshold"), self._parse)
        self._read_resets(spec.get("reset", "auto"))
        let, charge = spec.get("let", {}), spec.get("charge", {})
        charge = charge if isinstance(charge, dict) else {"v": charge}
        taken = {"spike", *self.inputs, *self.initial, *self.flags, *self.constants(), *FUNCTIONS}
        for name in (*self.noise, *self.kernels, *let, *(charge.keys() - self.initial.keys())):
            if name in taken:
                raise ValueError(f"{name!r} is assigned, and something else already")
            taken.add(name)
        self.lets, self.charges = self._read_assignments(let), self._read_assignments(charge)
        self.output = self._parse(spec.get("output", "spike"))
        slopes: dict[str, ast.expr] = {}
        self.dynamics = None
        if spec.keys() & {"dynamics", "scheme"}:
            equations = spec.get("dynamics")
            if not isinstance(equations, dict):
                raise ValueError(f"dynamics are state: dx/dt, not {equations!r}")
            slopes = {name: self._parse(text) for name, text in equations.items()}
            if not slopes or slopes.keys() - (self.initial.keys() - self.integers):
                raise ValueError(f"dynamics are of states: {sorted(slopes)}")
            self.dynamics = Dynamics(spec.get("scheme"), slopes, self.lets, self.constants())
        self._look_around(slopes)

    def constants(self) -> set[str]:
        """Return the names of all that keeps its value for a run."""
        return {*self.values, *self.definitions}

    def _parse(self, text: object) -> ast.expr:
        """Parse an equation of the step, in which kernels can be called."""
        return parse(text, self.flags, self.kernels)

    def _read_assignments(self, texts: Mapping[str, object]) -> list[tuple[str, ast.expr]]:
        """Return the assignments in order; temporaries that are constants become definitions."""
        assignments = []
        for name, text in texts.items():
            tree = self._parse(text)
            if name not in self.initial and names_in(tree) <= self.constants():
                self.definitions[name] = tree
            else:
                assignments.append((name, tree))
        return assignments

    def _read_resets(self, reset: object) -> None:
        """Find the equations of the reset, and with its mode what `v_reset` and `v_rest` are."""
        resets, mode = (dict(reset), "auto") if isinstance(reset, dict) else ({}, reset)
        v_reset = self.values.get("v_reset", 0.0)
        if mode == "auto":
            mode = "as written" if "v" in resets else "soft" if v_reset is None else "hard"
        may_be_none = mode == "soft" or (mode != "hard" and self.rests)
        if mode not in ("as written", "none", *RESETS) or (v_reset is None and not may_be_none):
            raise ValueError(f"not a reset: {reset!r} with v_reset={v_reset!r}")
        if mode in RESETS and "v" in self.initial and self.fire is not None:
            resets["v"] = RESETS[str(mode)]
        if mode == "soft" or v_reset is None:
            self.values.pop("v_reset", None)
            self.values["v_rest"] = 0.0
        else:
            self.definitions["v_rest"] = ast.Name("v_reset")
        self.resets = {name: self._parse(text) for name, text in resets.items()}
        if self.resets.keys() - self.initial.keys():
            raise ValueError(f"reset of what is no state: {sorted(self.resets)}")

    def _look_around(self, slopes: Mapping[str, ast.expr]) -> None:
        """Find what has to be remembered: spikes, and whatever kernels are called on."""
        noisy = [*slopes.values(), *(tree for _, tree in self.charges)]
        quiet = [*(tree for _, tree in self.lets), *self.resets.values(), self.output]
        if self.fire is not None:
            quiet += [self.fire.when, *([self.fire.guard] if self.fire.guard is not None else [])]
        if any(names_in(tree) & self.noise.keys() for tree in quiet):
            raise ValueError("noise is for charge and dynamics")
        stirred = any(names_in(tree) & self.noise.keys() for tree in slopes.values())
        if stirred and self.dynamics is not None and self.dynamics.scheme != "euler":
            raise ValueError(f"noise in dynamics needs euler, not {self.dynamics.scheme}")
        if any(kind != "normal" for kind in self.noise.values()):
            raise ValueError(f"noise is normal, not {self.noise}")
        if self.kernels and "s" in self.constants():
            raise ValueError("s is the time since an event")
        calls = [node for tree in noisy + quiet for node in ast.walk(tree)]
        self.calls: set[tuple[str, str]] = set()
        self.remembers = False
        for node in calls:
            match node:
                case ast.Call(func=ast.Name(id="prev"), args=[ast.Name(id="spike")]):
                    self.remembers = True
                case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=source)]) if (
                    name in self.kernels
                ):
                    if source not in (*self.inputs, "spike"):
                        raise ValueError(f"a kernel is for an input or spike: {name}({source})")
                    self.calls.add((name, source))
        listens = self.remembers or any(source == "spike" for _, source in self.calls)
        if listens and self.fire is None:
            raise ValueError("past spikes of a neuron that never fires")

    def run(
        self,
        inputs: Tensor | Sequence[Tensor],
        state: Mapping[str, Tensor | None] | None = None,
        *,
        dtype: torch.dtype,
        noise: Mapping[str, Tensor] | None = None,
        forced: Sequence[Tensor] | None = None,
        spiking: bool = True,
    ) -> Run:
        """Run all time steps.

        Args:
            inputs: One tensor [T, N, *] or as many as the spec has inputs, on the CPU.
            state: State name -> [N, *]; None or left out: the spec's initial value. What kernels
                remember cannot be given: each run starts from silence.
            dtype: Compute dtype, float32 or float64; everything is cast to it first.
            noise: Name -> [T, N, *], the normal numbers to use, of each name in the spec's `noise`.
            forced: The `decisions` of another run of this neuron on inputs of the same shape:
                each comparison then has that outcome, whatever the numbers say.
            spiking: False makes the forward pass smooth: a spike is S(u), or the quotient that is
                not rounded, so that the surrogate's gradient is the exact gradient.
        """
        inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(inputs)} inputs given, the neuron has {self.inputs}")
        noise = dict(noise or {})
        if noise.keys() != self.noise.keys() or any(
            len(n) != len(inputs[0]) for n in noise.values()
        ):
            raise ValueError(f"numbers for each step of {list(self.noise)} are needed in `noise`")
        shapes = [x.shape[1:] for x in inputs]
        shape: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        decisions = Decisions(forced)
        constants = {
            name: _constant(value, self.per.get(name, "layer"), len(shape), dtype)
            for name, value in self.values.items()
        }
        prelude = Prelude({**constants, **self.definitions}, decisions)
        step = Step(prelude, len(shape), dtype, self.curve, spiking)
        now = self._first(step, dict(state or {}), shape)
        responses = Responses(self.kernels, self.calls, step)
        evolve = None if self.dynamics is None else self.dynamics.start(step)

        outputs: list[Tensor] = []
        spikes: list[Tensor] = []
        sequences: dict[str, list[Tensor]] = {name: [] for name in self.initial}
        names = (*self.inputs, *noise)
        given = [x.to(dtype).unbind(0) for x in (*inputs, *noise.values())]
        for step.t, values in enumerate(zip(*given, strict=True)):
            outer = dict(zip(names, values, strict=True))
            responses.record(outer)
            step.start, step.names = now, {**outer, **responses.values()}
            output, now = self._advance(step, evolve, shape)
            if self.fire is not None:
                responses.record({"spike": step.names["spike"]})
                spikes.append(step.names["spike"].broadcast_to(shape))
            outputs.append(output)
            for name, sequence in sequences.items():
                sequence.append(now[name])
        if forced is not None and len(forced) != len(decisions.taken):
            raise ValueError(f"{len(forced)} forced decisions, {len(decisions.taken)} were taken")
        stacked = {name: torch.stack(sequence) for name, sequence in sequences.items()}
        fired = torch.stack(spikes) if spikes else None
        return Run(torch.stack(outputs), stacked, now, fired, decisions.taken, step.ties)

    def _first(
        self, step: Step, given: dict[str, Tensor | None], shape: torch.Size
    ) -> dict[str, Tensor]:
        """Return the states before the first step."""
        now: dict[str, Tensor] = {}
        for name, init in self.initial.items():
            if (value := given.pop(name, None)) is not None:
                now[name] = value.to(step.dtype).broadcast_to(shape)
            elif init is not None:
                now[name] = step.value(init).broadcast_to(shape)
            else:
                raise ValueError(f"the initial value of {name} is random: give it in `state`")
        if self.remembers:
            last = given.pop("spike", None)
            last = torch.zeros((), dtype=step.dtype) if last is None else last.to(step.dtype)
            now["spike"] = last.broadcast_to(shape)
        if given:
            raise ValueError(f"not states of this neuron: {sorted(given)}")
        return now

    def _advance(
        self, step: Step, evolve: Callable[[], dict[str, Tensor]] | None, shape: torch.Size
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step: dynamics, let and charge in order, fire, reset all at once, output."""
        step.names |= {name: step.start[name] for name in self.initial}
        if evolve is not None:
            held = step.names
            scaled = {name: held[name] / step.value(ROOT_OF_DT) for name in self.noise}
            step.names = {**held, **scaled}
            step.names = {**held, **evolve()}
        for name, tree in (*self.lets, *self.charges):
            value = step.value(tree)
            step.names[name] = value.detach() if name in self.integers else value
        if self.fire is not None:
            step.names["spike"] = step.fire(self.fire)
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
