"""Equation string -> a small immutable tree that keeps the order in which it was written.

In: text such as `v + (x - v) / tau`. Out: `Number`, `Name` and `Apply` nodes. Separate because the
tree, not SymPy, is what is printed: evaluation order is part of the contract. Parsing walks the
`ast` of the text against a whitelist; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from neurogen.compiler.tokens import (
    MAX_DEPTH,
    MAX_NAME,
    TOKEN,
    ExpressionError,
    check_tokens,
    too_deep,
    wrong,
)

MAX_CHARACTERS = 2000
MAX_EXPONENT = 32
MAX_DEGREE = 256


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


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or function of `OPERATORS` applied to its arguments.

    `at` is the offset of the first character in the equation's text, for messages.
    `depth` counts its operators from here to the furthest leaf, `size` all of them and all leaves.
    They and the hash are computed once: later stages look trees up by the thousand.
    """

    operator: str
    arguments: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False)
    depth: int = field(default=0, init=False, compare=False, repr=False)
    size: int = field(default=0, init=False, compare=False, repr=False)
    _hash: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        inner = [a for a in self.arguments if isinstance(a, Apply)]
        leaves = len(self.arguments) - len(inner)
        object.__setattr__(self, "depth", 1 + max((a.depth for a in inner), default=0))
        object.__setattr__(self, "size", 1 + leaves + sum(a.size for a in inner))
        object.__setattr__(self, "_hash", hash((self.operator, self.arguments)))

    def __hash__(self) -> int:
        return self._hash

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
ATOM = 10  # precedence of numbers, names and calls

OPERATORS: Mapping[str, Operator] = {
    "where": Operator((_CONDITION, _REAL, _REAL), binds=1),
    "or": Operator((_CONDITION, _CONDITION), _CONDITION, 2),
    "and": Operator((_CONDITION, _CONDITION), _CONDITION, 3),
    "not": Operator((_CONDITION,), _CONDITION, 4),
    **{c: Operator((_REAL, _REAL), _CONDITION, 5) for c in ("<", "<=", ">", ">=", "==", "!=")},
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

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


def operator(name: str) -> Operator:
    """The table entry of an operator, internal ones included."""
    return OPERATORS[name] if name in OPERATORS else INTERNAL[name]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'tau'?`, or an empty string where nothing known is near."""
    candidates = sorted(known)
    near = [name for name in candidates if name.lower() == word.lower()]
    near = near or difflib.get_close_matches(word[:MAX_NAME], candidates, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


@lru_cache(maxsize=4096)
def parse(text: str, kernels: frozenset[str] = frozenset()) -> Expression:
    """Parse an equation.

    Args:
        text: The equation, at most `MAX_CHARACTERS` long, ASCII.
        kernels: Names of response kernels, which may be called like functions.

    Returns:
        The tree, in the order written.

    Raises:
        ExpressionError: The text is no equation of the language; says where.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            "NG020",
            f"the equation has {len(text)} characters, more than {MAX_CHARACTERS}",
            hint="split it with `let` or named steps of `charge`",
        )
    if not text.strip():
        raise ExpressionError("NG021", "the equation is empty")
    check_tokens(text)
    # One pair of brackets lets an equation span lines; it shifts every offset by one.
    try:
        tree = ast.parse(f"({text}\n)", mode="eval").body
    except (RecursionError, MemoryError):
        raise too_deep() from None
    except SyntaxError as error:
        raise _wrong_syntax(text, error) from None
    expression = _Walk(text, kernels).walk(tree, 0)
    if isinstance(expression, Apply) and expression.depth > MAX_DEPTH:
        raise too_deep()
    _degree(expression)
    return expression


def _wrong_syntax(text: str, error: SyntaxError) -> ExpressionError:
    """What is left for Python to refuse: `a + not b`, an `else` on the wrong side of a bracket."""
    lines = text.split("\n")
    row = min(max((error.lineno or 1) - 1, 0), len(lines) - 1)
    column = max((error.offset or 1) - 1 - (row == 0), 0)
    at = min(sum(len(line) + 1 for line in lines[:row]) + column, len(text) - 1)
    token = TOKEN.match(text, at)
    word = token[0].strip()[:MAX_NAME] if token else ""
    return wrong(at, f"wrong syntax at '{word}'" if word else "wrong syntax", "", word)


def _degree(node: Expression) -> int:
    """How often a product repeats a factor at most, powers of powers multiplied out."""
    if not isinstance(node, Apply):
        return 1
    degrees = [_degree(argument) for argument in node.arguments]
    if node.operator in {"*", "/"}:
        degree = sum(degrees)
    elif node.operator == "**":
        exponent = node.arguments[1]
        degree = degrees[0] * abs(int(exponent.value)) if isinstance(exponent, Number) else 1
    else:
        return degrees[0] if node.operator == "neg" else 1
    if degree > MAX_DEGREE:
        raise ExpressionError(
            "NG022", f"a product of {degree} factors, more than {MAX_DEGREE}", node.at,
            "write exp(n * log(a))",
        )  # fmt: skip
    return degree


class _Walk:
    """The whitelist: every kind of syntax that is not named here is refused."""

    def __init__(self, text: str, kernels: frozenset[str]) -> None:
        self.kernels = kernels
        self.starts = [0]
        for line in text.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.text = text

    def at(self, node: ast.expr) -> int:
        row = min(node.lineno - 1, len(self.starts) - 1)
        return max(0, self.starts[row] + node.col_offset - (row == 0))

    def source(self, node: ast.expr) -> str:
        row = min((node.end_lineno or 1) - 1, len(self.starts) - 1)
        return self.text[self.at(node) : self.starts[row] + (node.end_col_offset or 0) - (row == 0)]

    def walk(self, node: ast.expr, depth: int) -> Expression:
        at = self.at(node)
        if depth > MAX_DEPTH:
            raise too_deep(at)

        def inner(child: ast.expr) -> Expression:
            return self.walk(child, depth + 1)

        match node:
            case ast.Constant(value=int() | float()):
                return self.number(node, at)
            case ast.Name(id=name):
                return Name(name, at)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                symbol = _BINARY[type(op)]
                first, second = inner(left), inner(right)
                if symbol == "**":
                    return self.power(first, second, at)
                return Apply(symbol, (first, second), at)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = inner(operand)
                if isinstance(value, Number):
                    return Number(-value.value, at)
                return Apply("neg", (value,), at)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return inner(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Apply("not", (inner(operand),), at)
            case ast.BoolOp(op=op, values=values):
                symbol = "and" if isinstance(op, ast.And) else "or"
                return self.chain(symbol, [inner(value) for value in values], at)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                terms = [inner(term) for term in (left, *comparators)]
                pairs: list[Expression] = [
                    Apply(_COMPARE[type(op)], (a, b), at)
                    for op, a, b in zip(ops, terms, terms[1:], strict=False)
                ]
                return self.chain("and", pairs, at)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return Apply("where", (inner(test), inner(body), inner(orelse)), at)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self.call(name, [inner(argument) for argument in args], at)
        written = self.source(node).split("\n")[0][:40]
        raise ExpressionError(
            "NG021",
            f"'{written}' is not part of the equation language",
            at,
            "allowed are numbers, names, + - * / **, comparisons, and/or/not, a if c else b, calls",
            max(1, len(written)),
        )

    def number(self, node: ast.Constant, at: int) -> Expression:
        written = self.source(node)
        value = float(written)
        if not math.isfinite(value):
            shown = written if len(written) <= 20 else f"{written[:20]}…"
            raise ExpressionError(
                "NG026", f"{shown} is larger than any float64", at, width=len(written)
            )
        return Number(value, at)

    def power(self, base: Expression, exponent: Expression, at: int) -> Expression:
        if not isinstance(exponent, Number) or exponent.value != int(exponent.value):
            raise ExpressionError(
                "NG022",
                "the exponent of ** must be a whole number",
                exponent.at,
                "write sqrt(a), or exp(b * log(a)) for any other exponent",
            )
        if abs(exponent.value) > MAX_EXPONENT:
            raise ExpressionError(
                "NG022",
                f"the exponent {exponent.value:g} is beyond ±{MAX_EXPONENT}",
                exponent.at,
                "a power is a product written out; exp(n * log(a)) is not",
            )
        if exponent.value == 0:
            raise ExpressionError("NG022", "a power of 0 is always 1", exponent.at, "write 1")
        return base if exponent.value == 1 else Apply("**", (base, exponent), at)

    def call(self, name: str, arguments: list[Expression], at: int) -> Expression:
        if name in self.kernels:
            if len(arguments) != 1:
                raise ExpressionError(
                    "NG023",
                    f"the kernel {name}() takes 1 argument, not {len(arguments)}",
                    at,
                    width=len(name),
                )
            return Apply(name, tuple(arguments), at)
        if name not in FUNCTIONS:
            hint = did_you_mean(name, [*FUNCTIONS, *self.kernels])
            raise ExpressionError(
                "NG012",
                f"unknown function '{name}'",
                at,
                hint or "functions are " + ", ".join(FUNCTIONS),
                len(name),
            )
        if name in {"min", "max"} and len(arguments) > 2:
            return self.chain(name, arguments, at)
        expected = len(OPERATORS[name].takes)
        if len(arguments) != expected:
            raise ExpressionError(
                "NG023",
                f"{name}() takes {expected} argument{'s' * (expected > 1)}, not {len(arguments)}",
                at,
                width=len(name),
            )
        return Apply(name, tuple(arguments), at)

    @staticmethod
    def chain(symbol: str, terms: list[Expression], at: int) -> Expression:
        """`a and b and c`, `min(a, b, c)`: the same binary operator from left to right."""
        result = terms[0]
        for term in terms[1:]:
            result = Apply(symbol, (result, term), at)
        return result


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
    return frozenset(node.name for node in walk(expression) if isinstance(node, Name))


def substitute(expression: Expression, values: Mapping[str, Expression]) -> Expression:
    """The tree with names replaced."""
    match expression:
        case Name(name=name):
            return values.get(name, expression)
        case Apply(operator=symbol, arguments=arguments, at=at):
            return Apply(symbol, tuple(substitute(a, values) for a in arguments), at)
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
            left = own + (node.operator in _COMPARE.values())  # a < b < c would mean a chain
            text = f"{show(a[0], left)} {node.operator} {show(a[1], own + 1)}"
        return f"({text})" if own < binds else text

    return show(expression, 0)
