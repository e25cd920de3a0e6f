"""A trial of the step: do its risks come true within the declared bounds?

In: a `Model`. Out: each `Risk` that does come true, with the values that show it. Operands over
parameters only are tried on points that satisfy every `where` and the range of every transform; a
parameter without `where` stays at its default, for nothing is said about it. Operands over states
and inputs are tried at the defaults, in short runs on inputs of many sizes. Nothing is reported
that was not seen: intervals alone would be wide where quantities depend on one another, and a false
alarm is worse than silence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import mpmath

from neurogen.compiler.expression import (
    Apply,
    Expression,
    Name,
    Number,
    infix,
    names,
    operators,
    walk,
)
from neurogen.compiler.model import Model
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.program import DETACH_RESET, HARD_RESET
from neurogen.compiler.risks import Risk
from neurogen.compiler.transforms import TRANSFORMS, outside

Values = dict[str, float]

STEPS = 4
SCALES = (-1e3, -100.0, -10.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3)
WALK = 200  # points of the random walk through the bounds
_PATTERNS = ((1.0,) * STEPS, (1.0, -1.0) * (STEPS // 2), (0.9, 0.5, -0.4, 0.7))
_NOISE = (0.3, -1.1, 0.8, -0.2)
_FACTORS = (0.01, 0.1, 0.5, 0.9, 1.1, 2.0, 10.0, 100.0)
_OFFSETS = (-10.0, -1.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 1.0, 10.0)
_HALVINGS = 60
_ROWS, _LARGEST = 16, 1e9  # of a matrix whose exponential is tried: a tenth of a second
_EVALUATED = 500_000  # operations: what the trial of a neuron may cost, half a second


@dataclass(frozen=True, slots=True)
class Witness:
    """A risk that came true: the operand's value, and what led to it, in words and values."""

    risk: Risk
    value: float
    circumstances: str
    point: Values = field(default_factory=dict)

    def __str__(self) -> str:
        text = infix(self.risk.written)
        shown = f"{text[:40]}…" if len(text) > 40 else text
        return f"{self.risk.hazard.what} '{shown}', which is {self.value:g} {self.circumstances}"


@dataclass(slots=True)
class _Budget:
    """What is left of the operations that may be evaluated; searches stop where nothing is."""

    left: int = _EVALUATED

    def allows(self, operations: int) -> bool:
        """Whether there is enough left, which is spent then."""
        self.left -= operations
        return self.left >= 0


def trial(model: Model) -> Iterator[Witness]:
    """Every risk that comes true, once."""
    if not model.risks:
        return
    step = {*model.spec.inputs, *(state.name for state in model.states)}
    step |= {noise.name for noise in model.noise}
    step |= {statement.name for statement in model.statements}
    fixed: list[Risk] = []
    moving: list[Risk] = []
    for risk in model.risks:
        (moving if risk.names & step else fixed).append(risk)
    try:
        defaults = _defaults(model)
    except ArithmeticError:  # an exponential that is not tried
        return
    seen: set[tuple[object, ...]] = set()
    for witness in (*_within_bounds(model, fixed, defaults), *_in_runs(model, moving, defaults)):
        place = (witness.risk.path, witness.risk.written.at, witness.risk.hazard.code)
        if place not in seen:  # the stages of a scheme resolve an equation again and again
            seen.add(place)
            yield witness


def _value(risk: Risk, values: Mapping[str, float]) -> float:
    """The operand's value; NaN where a guard keeps the branch from being taken."""
    if all(evaluate(guard, values) for guard in risk.guards):
        return evaluate(risk.operand, values)
    return math.nan


def _defaults(model: Model) -> Values:
    """Parameters, flags, learnables as equations see them, and what is defined by them."""
    values: Values = {p.name: p.default for p in model.parameters}
    values |= {flag.name: flag.default for flag in model.spec.flags}
    values |= {HARD_RESET: True, DETACH_RESET: False}
    for w in model.spec.learnable:
        values[w.name] = evaluate(w.init.expression, values)
    return _define(model, values)


def _define(model: Model, values: Values) -> Values:
    """The values, with those of definitions and constants added."""
    values = dict(values)
    exponentials = {
        m.name: _exponential([[evaluate(e, values) for e in row] for row in m.rows])
        for m in model.matrices
    }

    def plain(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        if node.operator == "element":
            matrix, row, column = node.arguments
            assert isinstance(matrix, Name) and isinstance(row, Number)
            assert isinstance(column, Number)
            return Number(float(exponentials[matrix.name][int(row.value), int(column.value)]))
        return node.of(tuple([plain(a) for a in node.arguments]))

    for name, expression in model.definitions:
        values[name] = evaluate(plain(expression), values)
    for constant in model.constants:
        values[constant.name] = evaluate(plain(constant.expression), values)
    return values


def _exponential(rows: list[list[float]]) -> Any:
    """The exponential of a matrix.

    Raises:
        ArithmeticError: It would take long, or never end: the matrix is large, or not finite.
    """
    if len(rows) > _ROWS or not all(abs(entry) <= _LARGEST for row in rows for entry in row):
        raise ArithmeticError("a matrix that is too large, or not finite")
    return mpmath.fp.expm(mpmath.fp.matrix(rows))


# -- parameters within their bounds ----------------------------------------------------------------


def _within_bounds(model: Model, risks: list[Risk], defaults: Values) -> Iterator[Witness]:
    """Risks over parameters: at the defaults, one step away from them, and on a random walk."""
    elements = {name for name, expression in model.definitions if _is_element(expression)}
    live = [risk for risk in risks if not risk.names & elements]
    start = {name: defaults[name] for name in defaults if name not in dict(model.definitions)}
    budget = _Budget()
    yield from _met(model, live, start, start, "", budget)
    live = [risk for risk in live if risk.hazard.code != "NG103"]  # some extreme overflows any exp
    if not live:
        return
    bounds = [p.where.expression for p in model.spec.parameters if p.where is not None]
    pools = _pools(model, bounds, defaults)

    def holds(point: Values) -> bool:
        return all(evaluate(bound, point) for bound in bounds) and not any(
            outside(w, point[w.name]) for w in model.spec.learnable
        )

    def steps() -> Iterator[tuple[Values, str, float]]:
        placed = ((k, name) for name, pool in pools.items() for k in range(len(pool)))
        yield from ((start, name, pools[name][k]) for k, name in sorted(placed))  # all in turn
        chance, here = random.Random(0), start
        for _ in range(WALK):
            name = chance.choice(list(pools))
            value = chance.choice([*pools[name], *(here[other] for other in pools)])
            yield here, name, value
            if holds(there := {**here, name: value}):
                here = there

    for here, name, value in steps():
        if not budget.allows(2 * _size(bounds)):
            return
        there = {**here, name: value}
        if isinstance(value, bool) == isinstance(here[name], bool) and holds(there):
            for witness in _met(model, live, here, there, name, budget):
                near = {**witness.point, name: round(witness.point[name], 9)}  # tau != 0 forbids 0
                if holds(witness.point) and (isinstance(value, bool) or holds(near)):
                    live.remove(witness.risk)
                    yield witness


def _size(expressions: Iterable[Expression]) -> int:
    """How many operations it takes to evaluate expressions."""
    return sum(e.size if isinstance(e, Apply) else 1 for e in expressions)


def _met(
    model: Model, risks: list[Risk], before: Values, after: Values, moved: str, budget: _Budget
) -> Iterator[Witness]:
    """Risks that come true at a point, or on the way to it, along which one value moved."""
    defining = _size(expression for _, expression in model.definitions)
    for risk in tuple(risks):
        once = defining + _size((risk.operand, *risk.guards))
        if not budget.allows(2 * once):
            return
        found, point = _settled(model, risk, after), after
        if moved and risk.hazard.code == "NG101" and _settled(model, risk, before) * found < 0:
            if not budget.allows(_HALVINGS * once):
                return
            root = _root(partial(_along, model, risk, before, moved), before[moved], after[moved])
            if root is not None:
                found, point = 0.0, {**before, moved: root}
        if risk.hazard.harms(found):
            yield Witness(risk, found, _told(model, risk, point), point)


def _along(model: Model, risk: Risk, before: Values, moved: str, at: float) -> float:
    """The operand at a point on the way."""
    return _settled(model, risk, {**before, moved: at})


def _settled(model: Model, risk: Risk, point: Values) -> float:
    """The operand at a point; NaN where it does not exist."""
    values = dict(point)
    for name, expression in model.definitions:
        if not _is_element(expression):
            values[name] = evaluate(expression, values)
    exists = dict(model.learnable_when).get(str(risk.path[-2])) if len(risk.path) > 1 else None
    if risk.path[0] == "learnable" and exists is not None and not evaluate(exists, values):
        return math.nan
    return _value(risk, values)


def _is_element(expression: Expression) -> bool:
    return "element" in operators(expression)


def _pools(model: Model, bounds: list[Expression], defaults: Values) -> dict[str, list[float]]:
    """Values to try for everything that is declared to vary; bounds sort out the wrong ones."""
    literals = sorted({n.value for b in bounds for n in walk(b) if isinstance(n, Number)})
    flags = (HARD_RESET, *(flag.name for flag in model.spec.flags))
    pools: dict[str, list[float]] = {flag: [True, False] for flag in flags}

    def around(default: float) -> list[float]:
        return [0.0, *(default * f for f in _FACTORS), *(default + d for d in _OFFSETS),
                *(-default * f for f in _FACTORS)]  # fmt: skip

    for parameter in model.spec.parameters:
        if parameter.where is not None:
            near = [literal + offset for literal in literals for offset in _OFFSETS]
            pools[parameter.name] = [*literals, *near, *around(parameter.default)]
    for w in model.spec.learnable:
        entry = TRANSFORMS[w.transform]
        low, high = w.bounds or (entry.low, entry.high)
        inside = [a for a in around(defaults[w.name]) if low < a < high]
        if math.isfinite(high - low):
            inside += [low + (high - low) * f for f in (1e-6, 0.25, 0.5, 0.75, 1 - 1e-6)]
            inside += [low, high] if entry.closed else []
        pools[w.name] = inside
    return pools


def _told(model: Model, risk: Risk, point: Values) -> str:
    """The parameters that the operand is made of."""
    definitions, found = dict(model.definitions), set(names(risk.operand))
    while inner := found & set(definitions):
        found = (found - inner) | {n for name in inner for n in names(definitions[name])}
    return "at " + ", ".join(f"{name} = {point[name]:g}" for name in sorted(found & set(point)))


def _root(function: Callable[[float], float], low: float, high: float) -> float | None:
    """Where a function that changes sign is 0; None where it jumps instead."""
    start = function(low)
    size = max(abs(start), abs(function(high)))
    middle = low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        value = function(middle)
        if not math.isfinite(value):
            return None
        low, high = (middle, high) if value * start > 0 else (low, middle)
    return middle if abs(function(middle)) <= 1e-6 * size else None


# -- states and inputs, in runs at the defaults ----------------------------------------------------


def _in_runs(model: Model, risks: list[Risk], defaults: Values) -> Iterator[Witness]:
    """Risks over states and inputs, in runs from the initial state on scaled patterns of input."""
    if not risks:
        return
    budget = _Budget()
    runs: list[_Runs] = []
    flipped = [{flag: not defaults[flag]} for flag in model.flags]
    for flags in ({}, *flipped):
        try:
            start = _define(model, {**defaults, **flags})
        except ArithmeticError:  # with this flag the other way round, likewise
            continue
        start |= {s.name: evaluate(s.initial, start) for s in model.states}
        runs += [_Runs(model, start, pattern, budget) for pattern in _PATTERNS]
    for risk in risks:
        witnesses = (witness for run in runs for witness in run.witnesses(risk))
        if (first := next(witnesses, None)) is not None:
            yield first


class _Runs:
    """Runs on one pattern of input, at every scale; `budget` is shared with others."""

    def __init__(
        self, model: Model, start: Values, pattern: tuple[float, ...], budget: _Budget
    ) -> None:
        self.model, self.start, self.pattern, self.budget = model, start, pattern, budget
        self.once = STEPS * _size(statement.expression for statement in model.statements)
        self.runs = {scale: self.run(scale) for scale in SCALES}

    def inputs(self, scale: float, t: int) -> Values:
        names_of_inputs = enumerate(self.model.spec.inputs)
        return {name: scale * self.pattern[(t + k) % STEPS] for k, name in names_of_inputs}

    def run(self, scale: float) -> list[Values]:
        """The value of every name in each step, until a state is no longer finite."""
        values, moments = dict(self.start), []
        for t in range(STEPS):
            values |= self.inputs(scale, t) | {n.name: _NOISE[t] for n in self.model.noise}
            for statement in self.model.statements:
                values[statement.name] = evaluate(statement.expression, values)
            moments.append(dict(values))
            values |= {s.name: values[s.following] for s in self.model.states}
            if not all(math.isfinite(values[s.name]) for s in self.model.states):
                break
        return moments

    def witnesses(self, risk: Risk) -> Iterator[Witness]:
        """How a risk comes true in these runs, on small inputs first."""
        for scale in sorted(SCALES, key=abs):
            for t, values in enumerate(self.runs[scale]):
                if risk.hazard.harms(value := _value(risk, values)):
                    yield Witness(risk, value, self.told(scale, t))
        if risk.hazard.code == "NG101":
            yield from self.crossings(risk)

    def crossings(self, risk: Risk) -> Iterator[Witness]:
        """Where the operand is 0 between two scales at which its signs differ."""
        for low, high in pairwise(SCALES):
            for t, (one, other) in enumerate(zip(self.runs[low], self.runs[high], strict=False)):
                if _value(risk, one) * _value(risk, other) < 0:
                    if not self.budget.allows(_HALVINGS * self.once):
                        return
                    root = _root(partial(self.operand, risk, t), low, high)
                    if root is not None:
                        yield Witness(risk, 0.0, self.told(root, t))
                    return  # the next crossing is most likely the same jump

    def operand(self, risk: Risk, t: int, scale: float) -> float:
        """The operand in a step of the run at any scale."""
        run = self.run(scale)
        return _value(risk, run[t]) if t < len(run) else math.nan

    def told(self, scale: float, t: int) -> str:
        """The inputs up to a step."""
        series = [self.inputs(scale, k) for k in range(t + 1)]
        shown = [
            f"{name} = {', '.join(f'{given[name]:.3g}' for given in series)}"
            for name in self.model.spec.inputs
        ]
        return f"in step {t + 1} of {'; '.join(shown)}"
