"""What an equation is: a small immutable tree that keeps the order in which it was written.

In: nothing. Out: `Number`, `Name` and `Apply` nodes, and the table of operators. Separate because
the tree, not SymPy, is what is printed: evaluation order is part of the contract. `parsing.py`
makes trees of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, as the float64 nearest to what was written."""

    value: float
    at: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A name: parameter, state, input, temporary or flag."""

    name: str
    at: int = field(default=0, compare=False, repr=False)


_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or function of `OPERATORS` applied to its arguments.

    `at` is the offset of the first character in the equation's text, for messages.
    `depth` counts its operators from here to the furthest leaf, `size` all of them and all leaves.
    They, the names, the operators and the hash are computed once: later stages ask by the thousand.
    """

    operator: str
    arguments: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False)
    depth: int = field(default=0, init=False, compare=False, repr=False)
    size: int = field(default=0, init=False, compare=False, repr=False)
    names: frozenset[str] = field(default=_NONE, init=False, compare=False, repr=False)
    operators: frozenset[str] = field(default=_NONE, init=False, compare=False, repr=False)
    _hash: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        inner = [a for a in self.arguments if isinstance(a, Apply)]
        leaves = len(self.arguments) - len(inner)
        found = frozenset((self.operator,)).union(*(a.operators for a in inner))
        object.__setattr__(self, "names", _NONE.union(*map(names, self.arguments)))
        object.__setattr__(self, "operators", found)
        object.__setattr__(self, "depth", 1 + max((a.depth for a in inner), default=0))
        object.__setattr__(self, "size", 1 + leaves + sum(a.size for a in inner))
        object.__setattr__(self, "_hash", hash((self.operator, self.arguments)))

    def __hash__(self) -> int:
        return self._hash

    def of(self, arguments: tuple[Expression, ...]) -> Apply:
        """The same operator on other arguments; this node itself where none differs."""
        if all(map(is_, arguments, self.arguments)):
            return self
        return Apply(self.operator, arguments, self.at)

    def __reduce__(self) -> tuple[Any, ...]:
        return Apply, (self.operator, self.arguments, self.at)  # hashes differ between processes


Expression = Number | Name | Apply


@dataclass(frozen=True, slots=True)
class Operator:
    """What the type checker and the printers need to know of an operator.

    Attributes:
        takes: Kind of each argument, `real` or `condition`.
        gives: Kind of the result.
        binds: Precedence for infix printing, higher binds tighter; 0 for functions.
    """

    takes: tuple[str, ...]
    gives: str = "real"
    binds: int = 0


_REAL, _CONDITION = "real", "condition"
COMPARISON = 5  # precedence of comparisons
ATOM = 10  # precedence of numbers, names and calls

OPERATORS: Mapping[str, Operator] = {
    "where": Operator((_CONDITION, _REAL, _REAL), binds=1),
    "or": Operator((_CONDITION, _CONDITION), _CONDITION, 2),
    "and": Operator((_CONDITION, _CONDITION), _CONDITION, 3),
    "not": Operator((_CONDITION,), _CONDITION, 4),
    **{
        symbol: Operator((_REAL, _REAL), _CONDITION, COMPARISON)
        for symbol in ("<", "<=", ">", ">=", "==", "!=")
    },
    "+": Operator((_REAL, _REAL), binds=6),
    "-": Operator((_REAL, _REAL), binds=6),
    "*": Operator((_REAL, _REAL), binds=7),
    "/": Operator((_REAL, _REAL), binds=7),
    "neg": Operator((_REAL,), binds=8),
    "**": Operator((_REAL, _REAL), binds=9),
    **{
        f: Operator((_REAL,))
        for f in (
            "exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "sigmoid", "softplus",
            "erf", "atan", "abs", "sign", "relu", "floor", "round",
            "prev", "detach", "heaviside", "step",
        )
    },
    "min": Operator((_REAL, _REAL)),
    "max": Operator((_REAL, _REAL)),
    "clip": Operator((_REAL, _REAL, _REAL)),
}  # fmt: skip

#: Functions that equations may call; the rest of `OPERATORS` is written infix.
FUNCTIONS = (*sorted(name for name, entry in OPERATORS.items() if entry.binds == 0), "where")

#: Operators that only later stages introduce; equations cannot write them.
INTERNAL: Mapping[str, Operator] = {
    "fire": Operator((_CONDITION, _REAL)),  # 1 where the condition holds; slope of the surrogate
    "slope": Operator((_REAL,)),  # the surrogate's slope
    "gaussian": Operator((_REAL,)),  # exp(-x**2), accurate for large |x|
    "phi": Operator((_REAL,)),  # (exp(x) - 1) / x, 1 at 0
    "phi_slope": Operator((_REAL,)),  # its derivative
    "element": Operator(
        (_REAL, _REAL, _REAL)
    ),  # matrix, row, column: an element of its exponential
}


def operator(name: str) -> Operator:
    """The table entry of an operator, internal ones included."""
    return OPERATORS[name] if name in OPERATORS else INTERNAL[name]


def walk(expression: Expression) -> Iterator[Expression]:
    """Every node of the tree, parents before children, left to right."""
    stack = [expression]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Apply):
            stack.extend(reversed(node.arguments))


def names(expression: Expression) -> frozenset[str]:
    """The names that occur in the tree."""
    match expression:
        case Apply():
            return expression.names
        case Name(name=name):
            return frozenset((name,))
    return _NONE


def operators(expression: Expression) -> frozenset[str]:
    """The operators that occur in the tree."""
    return expression.operators if isinstance(expression, Apply) else _NONE


def substitute(expression: Expression, values: Mapping[str, Expression]) -> Expression:
    """The tree with names replaced."""
    match expression:
        case Name(name=name):
            return values.get(name, expression)
        case Apply(arguments=arguments) if not expression.names.isdisjoint(values):
            return expression.of(tuple([substitute(a, values) for a in arguments]))
    return expression


def infix(expression: Expression) -> str:
    """The tree as equation text again, with the brackets it needs: for notes and messages."""

    def show(node: Expression, binds: int) -> str:
        match node:
            case Number(value=value):
                short = value.is_integer() and abs(value) < 1e6
                text = repr(int(value)) if short else repr(value)
                return f"({text})" if value < 0 and binds > 6 else text
            case Name(name=name):
                return name
        assert isinstance(node, Apply)
        entry = OPERATORS.get(node.operator) or INTERNAL.get(node.operator) or Operator(())
        own, a = entry.binds, node.arguments
        if node.operator == "where":
            text = f"{show(a[1], own + 1)} if {show(a[0], own + 1)} else {show(a[2], own)}"
        elif own == 0:
            return f"{node.operator}({', '.join(show(argument, 0) for argument in a)})"
        elif node.operator in {"neg", "not"}:
            text = ("-" if node.operator == "neg" else "not ") + show(a[0], own)
        elif node.operator == "**":
            text = f"{show(a[0], own + 1)}**{show(a[1], own + 1)}"
        else:
            left = own + (own == COMPARISON)  # a < b < c would mean a chain
            text = f"{show(a[0], left)} {node.operator} {show(a[1], own + 1)}"
        return f"({text})" if own < binds else text

    return show(expression, 0)
