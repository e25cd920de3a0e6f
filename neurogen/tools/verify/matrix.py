"""Hold a generated neuron against the independent reference, one cell of a matrix at a time.

In: a spec, what to run (`Case`), and on what (`Problem`). Out: `Finding`s, a figure and a limit for
each quantity. Spikes and states are compared with the reference at the same dtype, exactly where
the step is arithmetic only; gradients with the float64 reference whose comparisons are forced to
the outcomes of the tested run, since float32 and float64 disagree on some spikes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from neurogen.tools.reference import Reference, Run
from neurogen.tools.verify.cases import Case, Comparison, Finding, Problem, distance, lost
from neurogen.tools.verify.inputs import make_inputs
from neurogen.tools.verify.nodes import (
    Chance,
    build,
    constructor_values,
    is_arithmetic,
    is_plain,
    make_chance,
    reference_of,
)
from neurogen.tools.verify.runs import Outcome, on_node, on_reference

#: Largest error of a gradient, relative to its largest element, by compute dtype.
GRADIENT_LIMIT = {torch.float64: 1e-10, torch.float32: 1e-5}
#: Beyond this no rounding excuses anything.
ROUNDING_LIMIT = 1e-3
#: What is left of terms that cancel, in roundings of what the gradient is where they do not.
CANCELLED = 16
SIGNS = 4  # losses, or roundings, with signs drawn anew, to find out
#: Where small differences grow: as near as one whose inputs are so many roundings away.
CHAOTIC = 8
GROWING = " beside roundings that grow"  # a finding says so
#: States and outputs of steps with transcendental functions, likewise.
STATE_LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5}
#: Noise, which is float32: its logarithm and cosine round, and the argument of the cosine.
NOISE_LIMIT = 1e-6


def compare(text: str, case: Case, problem: Problem) -> Comparison:
    """Run one neuron on one backend, and the reference; compare everything that comes out."""
    return compare_all(text, case, problem, (case.backend,))[case.backend]


def compare_all(
    text: str, case: Case, problem: Problem, backends: Iterable[str]
) -> dict[str, Comparison]:
    """The same problem on several backends; what it should come to is found out once."""
    wanted = expectation(text, on_torch(case), problem)
    return {name: hold(wanted, replace(case, backend=name)) for name in backends}


def on_torch(case: Case) -> Case:
    """The same cell where it needs no compiler."""
    return replace(case, backend="torch", device="cpu")


@dataclass(slots=True)
class Expectation:
    """What a problem comes to, by the reference.

    Attributes:
        arguments: The node's parameters, as the reference takes them.
        chance: What the node draws.
        same: The reference's run at the tested dtype.
        weights: Of everything that comes out, in the loss.
    """

    text: str
    case: Case
    problem: Problem
    reference: Reference
    arguments: dict[str, Any]
    inputs: list[Tensor]
    state: dict[str, Tensor]
    chance: Chance
    same: Run
    weights: dict[str, Tensor]
    _gradients: dict[torch.dtype, dict[str, Tensor]] = field(default_factory=dict)
    _typical: dict[str, float] = field(default_factory=dict)
    _unsteady: dict[str, float] = field(default_factory=dict)
    _eager: Comparison | None = None

    def gradients(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Gradients of the loss by autograd, every comparison forced to the tested outcome."""
        if dtype not in self._gradients:
            self._gradients[dtype] = on_reference(self, dtype, self.weights).gradients
        return self._gradients[dtype]

    @property
    def largest(self) -> float:
        """The largest element of all gradients."""
        return max(map(_largest, self.gradients(torch.float64).values()), default=0.0)

    def typical(self, name: str) -> float:
        """How large a gradient is where its terms do not cancel.

        The terms are those of the loss, and it is the largest element over losses of the same
        weights with signs at random.
        """
        if not self._typical:
            self._typical = dict.fromkeys(self.gradients(torch.float64), 0.0)
            generator = torch.Generator().manual_seed(8)
            for _ in range(SIGNS):
                weights = {
                    key: w * (2 * torch.randint(2, w.shape, generator=generator) - 1)
                    for key, w in self.weights.items()
                }
                for key, g in on_reference(self, torch.float64, weights).gradients.items():
                    self._typical[key] = max(self._typical[key], _largest(g))
        return self._typical[name]

    def unsteady(self, label: str) -> float:
        """How far roundings of the inputs and initial states move a result or gradient.

        Every step rounds, so no more than that is known of a chaotic neuron. In the dtype of the
        case, with every comparison forced; `CHAOTIC` times the most that some at random did.
        """
        if not self._unsteady:
            generator = torch.Generator().manual_seed(9)

            def nudged(value: Tensor) -> Tensor:
                signs = 2 * torch.randint(2, value.shape, generator=generator).to(value) - 1
                return value * (1 + torch.finfo(self.case.compute).eps * signs)

            steady = on_reference(self, torch.float64, self.weights).labelled()
            self._unsteady = dict.fromkeys(steady, 0.0)
            for _ in range(SIGNS):
                moved = on_reference(self, torch.float64, self.weights, nudged).labelled()
                for key, value in moved.items():
                    self._unsteady[key] = max(self._unsteady[key], distance(value, steady[key]))
        moves = self._unsteady[label]
        return min(CHAOTIC * moves, ROUNDING_LIMIT) if math.isfinite(moves) else 0.0

    def eager_error(self, name: str) -> float:
        """What rounding in float32 does to a gradient of torch's own autograd of the step.

        The reference convolves in float64 and is no yardstick for the rounding of a recursion;
        torch is, up to `ROUNDING_LIMIT`. (That the recursion is right is proved in float64.)
        """
        if self._eager is None:
            self._eager = hold(self, on_torch(self.case))
        found = (f for f in self._eager.findings if f.quantity == f"gradient of {name}")
        return next((f.error for f in found), 0.0)


def expectation(text: str, case: Case, problem: Problem) -> Expectation:
    """Run the reference on a problem."""
    node = build(text, case, problem)
    arguments = {
        name: value.detach().clone().requires_grad_() if isinstance(value, Tensor) else value
        for name, value in constructor_values(node).items()
    }
    reference = reference_of(text, case, arguments)
    inputs, state = make_inputs(node, reference, case, problem)
    chance = make_chance(node, problem, case.compute)
    states = chance.starts | {name: value.detach() for name, value in state.items()}
    same = reference.run(
        [x.detach() for x in inputs], states, dtype=case.compute, noise=chance.noise
    )
    generator, weights = torch.Generator().manual_seed(7), {}
    sizes = {"output": (same.outputs, case.dtype)}
    sizes |= {n: (same.sequences[n][-1], case.compute) for n in node.states if n in same.sequences}
    if "v" in same.sequences:
        sizes["v_seq"] = (same.sequences["v"], case.compute)
    for name, (value, dtype) in sizes.items():
        random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        weights[name] = random.to(dtype)
    return Expectation(
        text, case, problem, reference, arguments, inputs, state, chance, same, weights
    )  # fmt: skip


def hold(wanted: Expectation, case: Case) -> Comparison:
    """Run a backend on the problem, and compare."""
    tested = on_node(build(wanted.text, case, wanted.problem), wanted, case)
    same = wanted.same
    fired = same.outputs if same.spikes is None else same.spikes  # a read-out has outputs only
    rate = float((fired.detach() != 0).double().mean()) if fired.numel() else 0.0
    findings = [*_hold_values(wanted, tested, case), *_hold_gradients(wanted, tested, case)]
    return Comparison(findings, rate, same.spikes is not None)


def _hold_values(wanted: Expectation, tested: Outcome, case: Case) -> Iterator[Finding]:
    """Outputs, states and noise against the reference in the same dtype."""
    same = wanted.same
    limit = 0.0 if is_arithmetic(wanted.text) else STATE_LIMIT[case.compute]
    for name, value in tested.results.items():
        label = name if name in ("output", "v_seq") else f"state {name}"
        expected = same.outputs.to(case.dtype) if name == "output" else (
            same.sequences["v"] if name == "v_seq" else same.sequences[name][-1])  # fmt: skip
        # What differs by a rounding may be rounded to half precision the other way.
        rounding = torch.finfo(value.dtype).eps if limit and value.dtype != case.compute else 0.0
        error = distance(value, expected)
        allowed = limit + rounding
        if error > allowed > 0.0 and error <= (grown := wanted.unsteady(label) + rounding):
            label, allowed = label + GROWING, grown
        yield Finding(label, error, allowed, lost(value, expected))
    for name, drawn in wanted.chance.noise.items():
        yield Finding(f"noise {name}", distance(drawn, wanted.chance.own[name]), NOISE_LIMIT)


def _hold_gradients(wanted: Expectation, tested: Outcome, case: Case) -> Iterator[Finding]:
    """Gradients against the float64 reference, each relative to its largest element.

    One that is left over where terms cancel is relative to what it is where they do not: to itself,
    so that none hides behind a larger one. What is tiny beside another may share its prelude (a
    matrix exponential), and is known to that one's rounding in float64.
    """
    compute, right = case.compute, wanted.gradients(torch.float64)
    for name, gradient in tested.gradients.items():
        # A gradient of an input is rounded to the input's dtype at the end, and may overflow there:
        # what lies beyond its numbers counts as the largest one.
        rounding = torch.finfo(gradient.dtype).eps if gradient.dtype not in GRADIENT_LIMIT else 0.0
        expected, found, gone = right[name], gradient, lost(gradient, right[name])
        if rounding:
            expected, found = (_saturated(g, gradient.dtype) for g in (expected, gradient))
        label, limit = f"gradient of {name}", GRADIENT_LIMIT[compute] + rounding
        error = distance(found, expected)
        if error > limit:  # stiff: held against torch's own autograd in this dtype
            own = distance(wanted.gradients(compute)[name], right[name])
            limit = max(limit, 4 * own + rounding)
            if not is_plain(wanted.text) and compute == torch.float32:
                eager = ROUNDING_LIMIT if case.backend == "torch" else 4 * wanted.eager_error(name)
                limit = max(limit, min(eager, ROUNDING_LIMIT))
        if error > limit:  # terms cancel, and their rounding is left
            for beside, scale, dtype in (
                ("the terms that cancel", wanted.typical(name), compute),
                ("the largest gradient", wanted.largest, torch.float64),
            ):
                left, rest = distance(found, expected, scale), CANCELLED * torch.finfo(dtype).eps
                if left <= rest:
                    label, error, limit = f"{label} beside {beside}", left, rest
                    break
        if error > limit and error <= (grown := wanted.unsteady(label) + rounding):
            label, limit = label + GROWING, grown
        yield Finding(label, error, limit, gone)


def _largest(gradient: Tensor) -> float:
    finite = gradient[gradient.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _saturated(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    kind = torch.finfo(dtype)
    return gradient.clamp(kind.min, kind.max).to(dtype)
