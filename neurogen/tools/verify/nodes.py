"""The neuron of a case: its node, its reference, and what it draws.

In: a spec's text, a `Case`, a `Problem`. Out: nodes and references. Separate from `matrix` because
every check needs them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from neurogen.backends.cupy.launch import emulated
from neurogen.compiler.expression import Expression, operators
from neurogen.compiler.surrogates import TABLE
from neurogen.loading import compiled_of, load_text
from neurogen.nn import surrogate as surrogates
from neurogen.runtime.neuron import Neuron
from neurogen.runtime.noise import normal
from neurogen.runtime.stochastic import StochasticNeuron
from neurogen.tools.reference import Reference
from neurogen.tools.reference import noise as own_noise
from neurogen.tools.verify.cases import GRID, Case, Problem

#: Whose last bits differ between libraries.
TRANSCENDENTAL = frozenset(
    ("exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "softplus", "erf", "atan")
)


@cache
def is_arithmetic(text: str) -> bool:
    """Whether the step is + - * / sqrt, powers and comparisons: spikes and states bit-identical."""
    compiled = compiled_of(text)
    if compiled.program.matrices or compiled.model.spec.scheme == "exponential_euler":
        return False  # a recursion and a convolution round differently
    step = [assign.expression for assign in compiled.program.forward.body]
    constants = [constant.expression for constant in compiled.program.constants]
    transforms = {learnt.transform for learnt in compiled.model.spec.learnable}
    # torch and the reference have formulas of their own for this one, also of a constant.
    own_formula = "softplus" in transforms or _mentions(constants, frozenset({"softplus"}))
    return not own_formula and not _mentions(step, TRANSCENDENTAL)


@cache
def is_plain(text: str) -> bool:
    """Whether no function stands between a parameter and the step either: gradients are exact."""
    constants = [constant.expression for constant in compiled_of(text).program.constants]
    return is_arithmetic(text) and not _mentions(constants, TRANSCENDENTAL | {"sqrt"})


def _mentions(expressions: Iterable[Expression], among: frozenset[str]) -> bool:
    return any(not operators(expression).isdisjoint(among) for expression in expressions)


@contextlib.contextmanager
def running(case: Case) -> Iterator[None]:
    """Within this context a case runs where it says: the CUDA text on the CPU through its shim."""
    if case.backend != "cupy" or case.device != "cpu":
        yield
        return
    with emulated():
        yield


def build(text: str, case: Case, problem: Problem) -> Neuron:
    """The node of a case, with the parameters that the problem makes learnable."""
    cls = load_text(text)
    keywords: dict[str, Any] = {**dict(case.flags), "step_mode": "m"}
    if case.surrogate is not None:
        chosen = getattr(surrogates, TABLE[case.surrogate].class_name)
        keywords["surrogate_function"] = chosen()
    if cls.v_reset_may_be_none:
        keywords["v_reset"] = None if case.reset == "soft" else 0.0
    keywords |= sizes_of(cls, problem.steps, problem.shape)
    if issubclass(cls, StochasticNeuron):
        keywords["seed"] = problem.seed
    with running(case):
        node: Neuron = cls(
            detach_reset=case.detach_reset, backend=case.backend,
            store_v_seq="v" in cls.states, **keywords,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(problem.seed)
    if problem.learnt != "none":
        used = {use for constant in cls.constants for use in constant.uses}
        for name in cls.parameter_names:
            value = node._current(name)
            if isinstance(value, float) and name in used:
                size = _size(problem, cls.sharing.get(name, ""))
                _set(node, name, _spreads(value, size, generator, problem.dyadic), case.compute)
    for parameter in node.parameters():
        parameter.data = parameter.data.to(case.device, case.compute)
    return node


def _size(problem: Problem, per: str) -> tuple[int, ...]:
    """Shape of a parameter; what the spec says it belongs to comes first."""
    channels = problem.shape[1:2] or (1,)
    if problem.learnt == "scalar":
        return (1,)
    if per in ("step", "channel"):
        return (problem.steps,) if per == "step" else channels
    if problem.learnt == "channel" and not per:
        return (*channels, *(1 for _ in problem.shape[2:]))
    return problem.shape


def _spreads(
    value: float, size: tuple[int, ...], generator: torch.Generator, dyadic: bool
) -> Iterator[Tensor]:
    """A parameter's values around its default, the first choice first; the last is the default.

    A bound (`where`) may admit values on one side only, or none but the default. On the grid half
    of the neurons keep the default: a time constant that is no power of two rounds.
    """
    unit = torch.rand(size, generator=generator, dtype=torch.float64)
    if dyadic:
        width = 2.0 ** math.floor(math.log2(abs(value) or 1.0)) / GRID
        unit = unit.round()
    else:
        width = 0.05 * (abs(value) or 1.0)
    for side in (math.copysign(1.0, value), -math.copysign(1.0, value), 0.0):
        yield value + side * width * unit


def _set(node: Neuron, name: str, choices: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Make a parameter learnable, with the first of these values that its bounds admit."""
    refused: ValueError | None = None
    for value in choices:
        try:
            setattr(node, name, nn.Parameter(value.to(dtype)))
        except ValueError as error:
            refused = error
        else:
            return
    assert refused is not None
    raise refused


def sizes_of(cls: type[Neuron], steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """The constructor's `shape`, for inputs `[steps, *shape]`, if the neuron takes one."""
    if all(entry.per == "layer" for entry in cls.learnable.values()):
        return {}
    return {"shape": {"step": (steps,), "channel": shape[1:2] or (1,), "neuron": shape[1:] or (1,)}}


@dataclass(slots=True)
class Chance:
    """What a node draws: its noise, the same numbers by the reference, random initial states."""

    noise: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, Tensor] = field(default_factory=dict)


def make_chance(node: Neuron, problem: Problem, compute: torch.dtype) -> Chance:
    """The numbers of a run: the reference takes the node's, once they are held against its own."""
    chance = Chance()
    if not isinstance(node, StochasticNeuron):
        return chance
    seed, steps, shape = node.seed, problem.steps, torch.Size(problem.shape)
    for stream, name in enumerate(node.noises):
        chance.noise[name] = normal(node.noise_state, stream, steps, shape, torch.device("cpu"))
        chance.own[name] = own_noise.normal(seed, 0, steps, shape, stream)
    for stream, (name, (low, high)) in enumerate(node.random_starts.items(), len(node.noises)):
        unit = own_noise.uniform(seed, shape, stream).to(compute)
        chance.starts[name] = low + (high - low) * unit
        if not node.differentiable[node.states.index(name)]:
            chance.starts[name] = chance.starts[name].floor()
    return chance


def constructor_values(node: Neuron) -> dict[str, Any]:
    """What the reference needs to know of a node: parameters, raw learnables, flags."""
    values = {name: node._current(name) for name in (*node.parameter_names, *node.learnable)}
    # A learnable that this variant does not have is named by no equation of it.
    values |= {n: torch.zeros(1) for n in node.learnable if values[n] is None}
    values |= {flag: getattr(node, flag) for flag in node.flags if flag != "hard_reset"}
    return values


def reference_of(text: str, case: Case, arguments: Mapping[str, Any]) -> Reference:
    """The reference with a node's parameters."""
    return Reference(text, arguments, surrogate=case.surrogate, detach_reset=case.detach_reset)
