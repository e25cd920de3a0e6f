"""What can go wrong with the numbers of a step: operands that must not be 0, negative or large.

In: a node of an equation as it is resolved. Out: the `Risk` in it, if it is of a kind that has one.
Whether it comes true within the declared bounds is found out by `trial.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neurogen.compiler.expression import Apply, Expression, Number, names
from neurogen.compiler.source import Path

OVERFLOW = 88.0  # exp of more is infinite in float32
_NEGATIVE = -1e-9  # what rounding makes of 0 is no mistake


@dataclass(frozen=True, slots=True)
class Hazard:
    """One kind of risk.

    Attributes:
        code: Of the warning.
        what: What is done with the operand, for messages.
        place: Which argument is the operand.
        harms: Whether a value of the operand does harm.
        hint: What to do about it.
    """

    code: str
    what: str
    place: int
    harms: Callable[[float], bool]
    hint: str


def _hazard(
    code: str, what: str, harms: Callable[[float], bool], hint: str, place: int = 0
) -> Hazard:
    return Hazard(code, what, place, harms, hint)


_DECLARE = "declare bounds that forbid it, or "
_DIVISION = ("NG101", "division by", lambda a: a == 0, _DECLARE + "keep the divisor away from 0")
_CLAMP = "clamp it, as in exp(min(a, 20))"

#: By the operator of a node; a power with a negative exponent is a division.
HAZARDS: Mapping[str, Hazard] = {
    "/": _hazard(*_DIVISION, place=1),
    "**": _hazard(*_DIVISION),
    "sqrt": _hazard("NG102", "sqrt of", lambda a: a < _NEGATIVE, _DECLARE + "write sqrt(relu(a))"),
    "log": _hazard("NG102", "log of", lambda a: a <= 0, _DECLARE + "write log(max(a, 1e-6))"),
    "log1p": _hazard("NG102", "log1p of", lambda a: a <= -1, _DECLARE + "write log1p(relu(a))"),
    "exp": _hazard("NG103", "exp of", lambda a: a > OVERFLOW, _CLAMP),
    "expm1": _hazard("NG103", "expm1 of", lambda a: a > OVERFLOW, _CLAMP),
}


@dataclass(frozen=True, slots=True)
class Risk:
    """An operand that must keep to a domain.

    Attributes:
        path: The equation it stands in.
        written: The operand as written, which knows its place in the equation.
        operand: The same over the names of the step.
        guards: Conditions under which it is taken.
        hazard: What must not happen.
    """

    path: Path
    written: Expression
    operand: Expression
    guards: tuple[Expression, ...]
    hazard: Hazard

    @property
    def names(self) -> frozenset[str]:
        """The names of the step that the operand and its guards are made of."""
        return frozenset().union(*(names(e) for e in (self.operand, *self.guards)))


def risk(
    path: Path, node: Apply, arguments: tuple[Expression, ...], guards: tuple[Expression, ...]
) -> Risk | None:
    """The risk of a node whose arguments are resolved, if it has one."""
    hazard = HAZARDS.get(node.operator)
    exponent = arguments[-1]
    power = node.operator == "**" and isinstance(exponent, Number) and exponent.value > 0
    if hazard is None or power or path[0] in {"kernels", "surrogate"} or path[-1] == "where":
        return None
    place = hazard.place
    return Risk(path, node.arguments[place], arguments[place], guards, hazard)
