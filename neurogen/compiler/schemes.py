"""The table of schemes: name -> how dx/dt = f(x) becomes x[t+1].

In: a `System`, the right-hand sides as functions of stage values. Out: the new value of each state.
A new scheme is one function and one entry of `SCHEMES`. Inputs are held over a step of length dt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from neurogen.compiler.calculus import at_zero, differentiate
from neurogen.compiler.expression import Apply, Expression, Name, Number, infix, names, operators
from neurogen.compiler.identity import is_zero
from neurogen.compiler.program import Matrix
from neurogen.compiler.scope import Scope

Values = dict[str, Expression]
_ZERO, _ONE, _DT = Number(0.0), Number(1.0), Name("dt")


class SchemeError(ValueError):
    """A scheme does not apply to a system: the state whose equation is at fault, and why."""

    def __init__(self, state: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.state, self.message, self.hint = state, message, hint


class Slopes(Protocol):
    """The right-hand sides at stage values; temporaries of `let` are evaluated on the way."""

    def __call__(self, values: Values, stage: str) -> Values:
        """F for each state."""


@dataclass(frozen=True, slots=True)
class System:
    """dx/dt = f(x) over one step.

    Attributes:
        scope: For new names and constants.
        states: The states with an equation, which hold x[t] under their own names.
        slopes: f.
        assign: Appends a statement and gives its name back.
        written_out: An expression with every temporary replaced by what it stands for.
    """

    scope: Scope
    states: tuple[str, ...]
    slopes: Slopes
    assign: Callable[[str, Expression, str], Name]
    written_out: Callable[[Expression], Expression]

    @property
    def start(self) -> Values:
        """x[t]."""
        return {x: Name(x) for x in self.states}

    def constant(self, name: str, value: Expression) -> Name:
        """A name for a parameter-only expression."""
        fresh = self.scope.fresh(name)
        self.scope.definitions[fresh] = value
        return Name(fresh)


def _plus(a: Expression, b: Expression) -> Expression:
    return Apply("+", (a, b))


def _times(a: Expression, b: Expression) -> Expression:
    return Apply("*", (a, b))


def euler(system: System) -> Values:
    """X + dt f(x); order 1."""
    f = system.slopes(system.start, "0")
    return {x: _plus(Name(x), _times(_DT, f[x])) for x in system.states}


def _stage(system: System, k: Values, step: Expression, stage: str) -> Values:
    """Stage values x + step k, named."""
    return {
        x: system.assign(f"{x}_stage{stage}", _plus(Name(x), _times(step, k[x])), "stage value")
        for x in system.states
    }


def _slopes(system: System, values: Values, stage: str) -> Values:
    """Slopes at stage values, named k1, k2 and so on."""
    f = system.slopes(values, stage)
    return {x: system.assign(f"k{stage}_{x}", f[x], f"slope {stage}") for x in system.states}


def rk2(system: System) -> Values:
    """Explicit midpoint: x + dt f(x + dt/2 f(x)); order 2."""
    half = system.constant("half_dt", _times(Number(0.5), _DT))
    k1 = _slopes(system, system.start, "1")
    k2 = _slopes(system, _stage(system, k1, half, "2"), "2")
    return {x: _plus(Name(x), _times(_DT, k2[x])) for x in system.states}


def rk4(system: System) -> Values:
    """The classical Runge-Kutta method; order 4."""
    half = system.constant("half_dt", _times(Number(0.5), _DT))
    sixth = system.constant("sixth_dt", Apply("/", (_DT, Number(6.0))))
    k1 = _slopes(system, system.start, "1")
    k2 = _slopes(system, _stage(system, k1, half, "2"), "2")
    k3 = _slopes(system, _stage(system, k2, half, "3"), "3")
    k4 = _slopes(system, _stage(system, k3, _DT, "4"), "4")
    two = Number(2.0)
    return {
        x: _plus(
            Name(x),
            _times(
                sixth, _plus(_plus(_plus(k1[x], _times(two, k2[x])), _times(two, k3[x])), k4[x])
            ),
        )
        for x in system.states
    }


def exponential_euler(system: System) -> Values:
    """X + dt phi(dt a) f(x), a = df/dx: exact where f is linear in its own state; order 1.

    Raises:
        SchemeError: An equation is not linear in its own state.
    """
    f = system.slopes(system.start, "0")
    result: Values = {}
    for x in system.states:
        rate = differentiate(system.written_out(f[x]), x)
        if not _is_free(rate, x):
            raise SchemeError(
                x,
                f"d{x}/dt is not linear in {x}, so `exponential_euler` does not apply",
                "schemes that apply: euler, rk2, rk4",
            )
        step: Expression = _DT
        if rate != _ZERO:
            z = _times(_DT, rate)
            if system.scope.is_constant(rate):
                step = system.constant(f"step_{x}", _times(_DT, Apply("phi", (z,))))
            else:
                named = system.assign(f"z_{x}", z, f"dt df/d{x}")
                phi = Apply("phi", (named,))
                step = system.assign(f"step_{x}", _times(_DT, phi), "dt (exp(z) - 1) / z")
        result[x] = _plus(Name(x), _times(step, f[x]))
    return result


def _is_free(expression: Expression, name: str) -> bool:
    """Whether it is proved that an expression does not depend on a name."""
    if name not in names(expression):
        return True
    return "slope" not in operators(expression) and is_zero(differentiate(expression, name))


def exact(system: System) -> Values:
    """exp(A dt) x + (integral of exp(A s) over a step) b, for dx/dt = A x + b.

    Both matrices come from one matrix exponential, in float64, once per call: accurate where time
    constants coincide, and differentiable there.

    Raises:
        SchemeError: The system is not linear, proved by derivatives, or A depends on more than
            parameters.
    """
    f = {x: system.written_out(e) for x, e in system.slopes(system.start, "0").items()}
    states = system.states
    size = len(states)
    a: list[list[Expression]] = []
    drive: list[Expression] = []
    for x in states:
        row = [differentiate(f[x], y) for y in states]
        for y, entry in zip(states, row, strict=True):
            if not system.scope.is_constant(entry):
                what = sorted(names(entry) - system.scope.known_constants)
                raise SchemeError(
                    x,
                    f"d{x}/dt is not linear: its derivative by {y} is {infix(entry)[:60]}, which "
                    f"depends on {', '.join(what)}, so `exact` does not apply",
                    "schemes that apply: euler, rk2, rk4, and exponential_euler where each "
                    "equation is linear in its own state",
                )
        a.append(row)
        drive.append(at_zero(f[x], states))
    zero_row = [_ZERO] * (2 * size)
    rows = [
        tuple(
            [_ZERO if e == _ZERO else _times(_DT, e) for e in a[i]]
            + [_DT if i == j else _ZERO for j in range(size)]
        )
        for i in range(size)
    ] + [tuple(zero_row)] * size
    matrix = system.scope.fresh("flow")
    system.scope.matrices.append(Matrix(matrix, tuple(rows)))
    reach = _reachable([[entry != _ZERO for entry in row] for row in a])
    inputs = {
        x: system.assign(f"drive_{x}", b, f"d{x}/dt at 0")
        if not isinstance(b, Name | Number)
        else b
        for x, b in zip(states, drive, strict=True)
    }
    result: Values = {}
    for i, x in enumerate(states):
        terms: list[Expression] = []
        for j, y in enumerate(states):
            if reach[i][j]:
                terms.append(_times(_element(system, matrix, f"flow_{x}_{y}", i, j), Name(y)))
        for j, y in enumerate(states):
            if reach[i][j] and inputs[y] != _ZERO:
                held = _element(system, matrix, f"held_{x}_{y}", i, size + j)
                terms.append(_times(held, inputs[y]))
        total = terms[0]
        for term in terms[1:]:
            total = _plus(total, term)
        result[x] = total
    return result


def _element(system: System, matrix: str, name: str, row: int, column: int) -> Name:
    element = Apply("element", (Name(matrix), Number(float(row)), Number(float(column))))
    return system.constant(name, element)


def _reachable(edges: list[list[bool]]) -> list[list[bool]]:
    """Where exp of a matrix with this pattern may be non-zero: a path, or the diagonal."""
    size = len(edges)
    reach = [[edges[i][j] or i == j for j in range(size)] for i in range(size)]
    for k in range(size):
        for i in range(size):
            for j in range(size):
                reach[i][j] = reach[i][j] or (reach[i][k] and reach[k][j])
    return reach


SCHEMES: Mapping[str, Callable[[System], Values]] = {
    "euler": euler,
    "rk2": rk2,
    "rk4": rk4,
    "exponential_euler": exponential_euler,
    "exact": exact,
}
