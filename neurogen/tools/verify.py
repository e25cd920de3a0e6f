"""Hold a generated neuron against the independent reference, one cell of a matrix at a time.

In: a spec, what to run (`Case`), and on what (`Problem`). Out: `Finding`s, a figure and a limit for
each quantity. Spikes and states are compared with the reference at the same dtype, exactly where
the step is arithmetic only; gradients with the float64 reference whose comparisons are forced to
the outcomes of the tested run, since float32 and float64 disagree on some spikes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from neurogen.loading import load_text
from neurogen.nn import surrogate as surrogates
from neurogen.runtime.neuron import Neuron
from neurogen.runtime.noise import normal
from neurogen.runtime.stochastic import StochasticNeuron
from neurogen.tools.reference import Reference, Run
from neurogen.tools.reference import noise as own_noise

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ("torch", "cpp", "cupy")
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")

#: Largest error of a gradient, relative to its largest element, by compute dtype.
GRADIENT_LIMIT = {torch.float64: 1e-10, torch.float32: 1e-5}
#: Beyond this no rounding in float32 excuses a gradient.
ROUNDING_LIMIT = 1e-3
#: States and outputs of steps with transcendental functions, likewise.
STATE_LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5}
#: Noise, which is float32: its logarithm and cosine round, and the argument of the cosine.
NOISE_LIMIT = 1e-6


@dataclass(frozen=True, slots=True)
class Case:
    """One cell: what is compiled.

    Attributes:
        reset: 'hard' or 'soft' where the neuron offers both, else ignored.
        surrogate: Name in the table of surrogates; None for the spec's own.
        flags: Values of the spec's flags, those not named at their default.
    """

    backend: str
    reset: str = "hard"
    detach_reset: bool = False
    dtype: torch.dtype = torch.float32
    surrogate: str | None = None
    flags: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What it is run on: shapes, layout, values.

    Attributes:
        steps: T.
        shape: One time step.
        layout: Memory order of the inputs, one of `LAYOUTS`.
        seed: Of every random number.
        given_state: Whether the run starts from a random state that takes a gradient.
        dyadic: Whether inputs lie on a grid of 1/8, so that thresholds are hit exactly.
        learnt: Parameters that are `nn.Parameter`s: 'none', 'scalar' or 'neuron' (one each).
    """

    steps: int = 7
    shape: tuple[int, ...] = (3, 5)
    layout: str = "contiguous"
    seed: int = 0
    given_state: bool = True
    dyadic: bool = False
    learnt: str = "scalar"


@dataclass(frozen=True, slots=True)
class Finding:
    """One compared quantity: `error` must not exceed `limit`."""

    quantity: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the quantity is within its limit; NaN is not."""
        return self.error <= self.limit


@dataclass(slots=True)
class Comparison:
    """The findings of a case, and how often the neuron fired."""

    findings: list[Finding] = field(default_factory=list)
    rate: float = 0.0

    def require(self) -> None:
        """Raise AssertionError with every finding that does not hold."""
        wrong = [f for f in self.findings if not f.holds]
        if wrong:
            raise AssertionError(
                "; ".join(f"{f.quantity}: {f.error:.3g} > {f.limit:.3g}" for f in wrong)
            )


def compare(text: str, case: Case, problem: Problem) -> Comparison:
    """Run one neuron on one backend, and the reference; compare everything that comes out."""
    node = build(text, case, problem)
    compute = torch.float64 if case.dtype == torch.float64 else torch.float32
    arguments = {
        name: value.detach().clone().requires_grad_() if isinstance(value, Tensor) else value
        for name, value in constructor_values(node).items()
    }
    reference = reference_of(text, case, arguments)
    chance = make_chance(node, problem, compute)
    inputs, state = make_inputs(node, reference, case, problem, compute, chance)
    tested = _run(node, inputs, state, tuple(reference.initial))
    state = chance.starts | state
    states = {name: value.detach() for name, value in state.items()}
    same = reference.run([x.detach() for x in inputs], states, dtype=compute, noise=chance.noise)
    comparison = Comparison(rate=float(tested.output.detach().double().mean()) if (
        tested.output.numel()) else 0.0)  # fmt: skip
    for name, drawn in chance.noise.items():
        error = distance(drawn, chance.own[name])
        comparison.findings.append(Finding(f"noise {name}", error, NOISE_LIMIT))
    exact = is_arithmetic(text)
    limit = 0.0 if exact else STATE_LIMIT[compute]
    wanted = same.outputs.detach().to(case.dtype)
    comparison.findings.append(Finding("output", distance(tested.output, wanted), limit))
    for name in node.states:
        if name in same.sequences:
            final = same.sequences[name][-1].detach()
            comparison.findings.append(
                Finding(f"state {name}", distance(tested.final[name], final), limit)
            )
    if "v_seq" in tested.final:
        comparison.findings.append(
            Finding("v_seq", distance(tested.final["v_seq"], same.sequences["v"].detach()), limit)
        )
    run = (reference, inputs, state, arguments, same, tested.weights, chance.noise)
    expected = _reference_gradients(*run, torch.float64)
    own: dict[str, Tensor] | None = None
    for name, gradient in tested.gradients.items():
        # A gradient of an input is rounded to the input's dtype at the end.
        rounding = torch.finfo(gradient.dtype).eps if gradient.dtype not in GRADIENT_LIMIT else 0.0
        error, limit = distance(gradient, expected[name]), GRADIENT_LIMIT[compute] + rounding
        if error > limit:  # stiff: held against torch's own autograd in this dtype
            own = own or _reference_gradients(*run, compute)
            limit = max(limit, 4 * distance(own[name], expected[name]) + rounding)
            if not exact and compute == torch.float32:
                limit = max(limit, _own_error(text, case, problem, name))
        comparison.findings.append(Finding(f"gradient of {name}", error, limit))
    return comparison


def _own_error(text: str, case: Case, problem: Problem, name: str) -> float:
    """What rounding in float32 may do to a gradient of a step with functions or recursions.

    The reference convolves in float64 and is no yardstick; torch's own autograd of the recursion
    is, up to `ROUNDING_LIMIT`. (That the recursion is right is proved in float64, to 1e-10.)
    """
    if case.backend == "torch":
        return ROUNDING_LIMIT
    eager = compare(text, replace(case, backend="torch"), problem)
    own = next(f.error for f in eager.findings if f.quantity == f"gradient of {name}")
    return min(4 * own, ROUNDING_LIMIT)


def distance(tested: Tensor, expected: Tensor) -> float:
    """max|tested - expected| / max|expected|; 0 for equal (NaN equals NaN), inf if it cannot be."""
    if tested.shape != expected.shape:
        return float("inf")
    a, b = tested.detach().double().cpu(), expected.detach().double().cpu()
    if torch.equal(torch.nan_to_num(a, nan=1e300), torch.nan_to_num(b, nan=1e300)):
        return 0.0
    difference = (a - b).abs().max()
    scale = b.abs().max()
    return float(difference / scale) if scale > 0 else float("inf") if difference > 1e-30 else 0.0


def build(text: str, case: Case, problem: Problem) -> Neuron:
    """The node of a case, with the parameters that the problem makes learnable."""
    cls = load_text(text)
    surrogate = None
    if case.surrogate is not None:
        table = import_module("neurogen.compiler.surrogates").TABLE
        surrogate = getattr(surrogates, table[case.surrogate].class_name)()
    keywords: dict[str, Any] = {**dict(case.flags), "step_mode": "m"}
    if cls.v_reset_may_be_none:
        keywords["v_reset"] = None if case.reset == "soft" else 0.0
    keywords |= sizes_of(cls, problem.steps, problem.shape)
    if issubclass(cls, StochasticNeuron):
        keywords["seed"] = problem.seed
    with emulation(case.backend):
        node: Neuron = cls(
            surrogate_function=surrogate, detach_reset=case.detach_reset, backend=case.backend,
            store_v_seq="v" in cls.states, **keywords,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(problem.seed)
    dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    if problem.learnt != "none":
        for name in cls.parameter_names:
            value = node._current(name)
            uses = {use for constant in cls.constants for use in constant.uses}
            if isinstance(value, float) and name in uses:
                per = cls.sharing.get(name, "")
                whole = problem.learnt == "neuron"
                sizes = {"step": (problem.steps,), "channel": problem.shape[1:2] or (1,)}
                size = sizes.get(per, problem.shape) if whole else (1,)
                spread = 1 + 0.05 * torch.rand(size, generator=generator, dtype=torch.float64)
                setattr(node, name, nn.Parameter((value * spread).to(dtype)))
    for parameter in node.parameters():
        if dtype == torch.float64:
            parameter.data = parameter.data.double()
    return node


def sizes_of(cls: type[Neuron], steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """The constructor's `shape`, for inputs `[steps, *shape]`, if the neuron takes one."""
    if all(entry.per == "layer" for entry in cls.learnable.values()):
        return {}
    return {"shape": {"step": (steps,), "channel": shape[1:2] or (1,), "neuron": shape[1:] or (1,)}}


def constructor_values(node: Neuron) -> dict[str, Any]:
    """What the reference needs to know of a node: parameters, raw learnables, flags."""
    values = {name: node._current(name) for name in (*node.parameter_names, *node.learnable)}
    # A learnable that this variant does not have is named by no equation of it.
    values |= {n: torch.zeros(1) for n in node.learnable if values[n] is None}
    values |= {flag: getattr(node, flag) for flag in node.flags if flag != "hard_reset"}
    return values


def reference_of(text: str, case: Case, arguments: Mapping[str, Any]) -> Reference:
    """The reference with a node's parameters."""
    return Reference(
        text, surrogate=case.surrogate, detach_reset=case.detach_reset, **dict(arguments)
    )


def is_arithmetic(text: str) -> bool:
    """Whether the step is + - * / sqrt, powers and comparisons: spikes and states bit-identical."""
    pipeline = import_module("neurogen.compiler.pipeline")
    expression = import_module("neurogen.compiler.expression")
    compiled = pipeline.compile_text(text)
    program = compiled.program
    if program.matrices or compiled.model.spec.scheme == "exponential_euler":
        return False  # a recursion and a convolution round differently
    if any("abs" in expression.infix(constant.expression) for constant in program.constants):
        return False  # the reference rounds a branch of a constant on its own
    transcendental = {"exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "softplus",
                      "erf", "atan"}  # fmt: skip
    return not any(
        isinstance(node, expression.Apply) and node.operator in transcendental
        for assign in program.forward.body
        for node in expression.walk(assign.expression)
    )


@contextlib.contextmanager
def emulation(backend: str) -> Iterator[None]:
    """Run backend 'cupy' on the CPU where there is no GPU."""
    if backend != "cupy" or torch.cuda.is_available():
        yield
        return
    with import_module("neurogen.backends.cupy.launch").emulated():
        yield


@dataclass(slots=True)
class Chance:
    """What a node draws: its noise, the same numbers by the reference, random initial states."""

    noise: dict[str, Tensor]
    own: dict[str, Tensor]
    starts: dict[str, Tensor]


def make_chance(node: Neuron, problem: Problem, compute: torch.dtype) -> Chance:
    """The numbers of a run: the reference takes the node's, once they are held against its own."""
    chance = Chance({}, {}, {})
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


def make_inputs(
    node: Neuron, reference: Reference, case: Case, problem: Problem, compute: torch.dtype,
    chance: Chance,
) -> tuple[list[Tensor], dict[str, Tensor]]:  # fmt: skip
    """Random inputs of a size that makes the neuron fire, and a random state near rest."""
    generator = torch.Generator().manual_seed(problem.seed + 1)
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
            [x.detach() for x in inputs], chance.starts, dtype=compute, noise=chance.noise
        )
        if not float(run.outputs.detach().double().mean()) < 0.02:
            break
    if problem.given_state:
        differentiable = dict(zip(node.states, node.differentiable, strict=True))
        for name in node.states:
            if name in reference.initial:
                start = 0.3 * torch.randn(problem.shape, generator=generator, dtype=torch.float64)
                if not differentiable[name]:
                    start = start.abs().round()
                state[name] = start.to(compute).requires_grad_(differentiable[name])
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


@dataclass(slots=True)
class _Tested:
    output: Tensor
    final: dict[str, Tensor]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def _loss(output: Tensor, final: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """A weighted sum of everything that comes out, in float64."""
    total = (output.double() * weights["output"].double()).sum()
    for name, value in final.items():
        total = total + (value.double() * weights[name].double()).sum()
    return total


def _run(
    node: Neuron, inputs: list[Tensor], state: Mapping[str, Tensor], visible: tuple[str, ...]
) -> _Tested:  # fmt: skip
    """Forward and backward of the node; every weight of the loss is a random number.

    Hidden states (of kernels, the last spike) take no part in the loss: the reference has its own.
    """
    for name, value in state.items():
        setattr(node, name, value)
    backend = node.backend
    with emulation(backend):
        output = node(*inputs)
        final = {name: getattr(node, name) for name in node.states if name in visible}
        if node.v_seq is not None:
            final["v_seq"] = node.v_seq
        generator = torch.Generator().manual_seed(7)
        weights = {
            name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
            for name, value in {"output": output, **final}.items()
        }
        leaves: dict[str, Tensor] = dict(zip(node.inputs, inputs, strict=True))
        leaves |= {f"initial {name}": value for name, value in state.items() if value.requires_grad}
        leaves |= dict(node.named_parameters())
        grads: tuple[Tensor | None, ...] = tuple(None for _ in leaves)
        if output.requires_grad:
            grads = torch.autograd.grad(_loss(output, final, weights), list(leaves.values()),
                                        allow_unused=True)  # fmt: skip
    gradients = {
        name: torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), grads, strict=True)
    }
    return _Tested(output, final, gradients, weights)


def _reference_gradients(
    reference: Reference, inputs: list[Tensor], state: Mapping[str, Tensor],
    arguments: Mapping[str, Any], same: Run, weights: Mapping[str, Tensor],
    noise: Mapping[str, Tensor], dtype: torch.dtype,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of the same loss by autograd, every comparison forced to the tested outcome."""
    xs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    starts = {
        name: value.detach().to(dtype).requires_grad_(value.requires_grad)
        for name, value in state.items()
    }
    run = reference.run(xs, starts, dtype=dtype, noise=noise, forced=same.decisions)
    final = {name: run.sequences[name][-1] for name in run.sequences}
    final |= {n: s for n, s in run.state.items() if n not in final}
    if "v_seq" in weights:
        final["v_seq"] = run.sequences["v"]
    final = {name: value for name, value in final.items() if name in weights}
    leaves: dict[str, Tensor] = dict(zip(reference.inputs, xs, strict=True))
    leaves |= {f"initial {name}": value for name, value in starts.items() if value.requires_grad}
    leaves |= {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    loss = _loss(run.outputs, final, weights)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if (
        loss.requires_grad) else tuple(None for _ in leaves)  # fmt: skip
    return {
        name: torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), grads, strict=True)
    }
