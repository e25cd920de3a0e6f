"""The neuron of a case: its node, its reference, and inputs that make it fire.

In: a spec's text, a `Case`, a `Problem`. Out: nodes, references, tensors. Separate from `matrix`
because every check needs them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from neurogen.backends.cupy.launch import emulated
from neurogen.compiler.expression import Apply, Expression, walk
from neurogen.compiler.surrogates import TABLE
from neurogen.loading import compiled_of, load_text
from neurogen.nn import surrogate as surrogates
from neurogen.runtime.neuron import Neuron
from neurogen.runtime.noise import normal
from neurogen.runtime.stochastic import StochasticNeuron
from neurogen.tools.reference import Reference
from neurogen.tools.reference import noise as own_noise
from neurogen.tools.verify.cases import Case, Problem

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
    return not _mentions(step, TRANSCENDENTAL)


@cache
def is_plain(text: str) -> bool:
    """Whether no function stands between a parameter and the step either: gradients are exact."""
    constants = [constant.expression for constant in compiled_of(text).program.constants]
    return is_arithmetic(text) and not _mentions(constants, TRANSCENDENTAL | {"sqrt"})


def _mentions(expressions: Iterable[Expression], operators: Collection[str]) -> bool:
    nodes = (node for expression in expressions for node in walk(expression))
    return any(isinstance(node, Apply) and node.operator in operators for node in nodes)


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
                per = {"step": (problem.steps,), "channel": problem.shape[1:2] or (1,)}
                whole = problem.learnt == "neuron"
                size = per.get(cls.sharing.get(name, ""), problem.shape) if whole else (1,)
                spread = 1 + 0.05 * torch.rand(size, generator=generator, dtype=torch.float64)
                setattr(node, name, nn.Parameter((value * spread).to(case.compute)))
    for parameter in node.parameters():
        parameter.data = parameter.data.to(case.device, case.compute)
    return node


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


def make_inputs(
    node: Neuron, reference: Reference, case: Case, problem: Problem
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Random inputs of a size that makes the neuron fire, and a random state near rest."""
    generator = torch.Generator().manual_seed(problem.seed + 1)
    chance = make_chance(node, problem, case.compute)
    size = (problem.steps, *problem.shape)
    noise = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in node.inputs]
    state: dict[str, Tensor] = {}
    scale = 1.0
    for scale in (1.0, 4.0, 16.0, 64.0, 256.0):
        xs = [(0.5 + n) * scale for n in noise]
        if problem.dyadic:
            xs = [torch.round(x * 8) / 8 for x in xs]
        inputs = [_laid_out(x.to(case.dtype), problem.layout) for x in xs]
        run = reference.run(
            [x.detach() for x in inputs], chance.starts, dtype=case.compute, noise=chance.noise
        )
        if run.spikes is None or not float(run.spikes.detach().abs().double().mean()) < 0.02:
            break
    if problem.given_state:
        differentiable = dict(zip(node.states, node.differentiable, strict=True))
        for name in node.states:
            if name in reference.initial:
                start = 0.3 * torch.randn(problem.shape, generator=generator, dtype=torch.float64)
                if not differentiable[name]:
                    start = start.abs().round()
                state[name] = start.to(case.compute).requires_grad_(differentiable[name])
    return [x.requires_grad_() for x in inputs], state


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory order."""
    match layout:
        case "channels_last" if x.dim() >= 3:
            order = [0, 1, *range(3, x.dim()), 2]
            back = sorted(range(x.dim()), key=order.__getitem__)
            return x.permute(order).contiguous().permute(back)
        case "strided":
            wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        case "expanded":
            return x[:1].expand(x.shape)
    return x
