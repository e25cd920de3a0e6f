"""Equation string -> a small immutable tree that keeps the order in which it was written.

In: text such as `v + (x - v) / tau`. Out: `Number`, `Name` and `Apply` nodes. Separate because the
tree, not SymPy, is what is printed: evaluation order is part of the contract. Parsing walks the
`ast` of the text against a whitelist; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

MAX_CHARACTERS = 4000
MAX_DEPTH = 60
MAX_EXPONENT = 32


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
    """

    operator: str
    arguments: tuple[Expression, ...]
    at: int = field(default=0, compare=False, repr=False)


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
FUNCTIONS = tuple(sorted(name for name, op in OPERATORS.items() if op.binds == 0)) + ("where",)

#: Operators that only later stages introduce; equations cannot write them.
INTERNAL: Mapping[str, Operator] = {
    "fire": Operator((_CONDITION, _REAL)),  # 1 where the condition holds; slope of the surrogate
    "slope": Operator((_REAL,)),  # the surrogate's slope
    "gaussian": Operator((_REAL,)),  # exp(-x**2), accurate for large |x|
}

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class ExpressionError(ValueError):
    """An equation's text is wrong: stable code, message, offset in the text, hint."""

    def __init__(self, code: str, message: str, at: int = 0, hint: str = "", width: int = 1):
        super().__init__(message)
        self.code, self.message, self.at, self.hint, self.width = code, message, at, hint, width


def operator(name: str) -> Operator:
    """The table entry of an operator, internal ones included."""
    return OPERATORS[name] if name in OPERATORS else INTERNAL[name]


def did_you_mean(word: str, known: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """`did you mean 'tau'?`, or an empty string where nothing known is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
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
    depth = 0
    for at, character in enumerate(text):
        if character == "#" or not (" " <= character <= "~" or character in "\n\t"):
            raise ExpressionError(
                "NG021",
                f"character {character!r} is not allowed in an equation",
                at,
                "equations are plain ASCII without comments",
            )
        depth += (character == "(") - (character == ")")
        if depth < 0:
            raise ExpressionError("NG021", "')' closes nothing", at)
    # One pair of brackets lets an equation span lines; it shifts every offset by one.
    try:
        tree = ast.parse(f"({text}\n)", mode="eval").body
    except (RecursionError, MemoryError):
        raise _too_deep() from None
    except SyntaxError as error:
        if "nested" in str(error.msg) or "complex" in str(error.msg):
            raise _too_deep() from None
        lines = text.split("\n")
        row = min(max((error.lineno or 1) - 1, 0), len(lines) - 1)
        column = (error.offset or 1) - 1 - (row == 0)
        at = min(sum(len(line) + 1 for line in lines[:row]) + max(column, 0), len(text))
        raise ExpressionError(
            "NG021", f"not an equation: {error.msg}", at, "see docs/language.md for the grammar"
        ) from None
    except ValueError as error:
        raise ExpressionError("NG021", f"not an equation: {error}") from None
    return _Walk(text, kernels).walk(tree, 0)


def _too_deep(at: int = 0) -> ExpressionError:
    return ExpressionError(
        "NG020",
        f"the equation is nested more than {MAX_DEPTH} deep",
        at,
        "split it with `let` or named steps of `charge`",
    )


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
            raise _too_deep(at)

        def inner(child: ast.expr) -> Expression:
            return self.walk(child, depth + 1)

        match node:
            case ast.Constant():
                return self.number(node, at)
            case ast.Name(id=name):
                if not IDENTIFIER.fullmatch(name):
                    raise ExpressionError("NG021", f"{name!r} cannot be a name", at)
                return Name(name, at)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                symbol = _BINARY[type(op)]
                first, second = inner(left), inner(right)
                return self.power(first, second, at) if symbol == "**" else Apply(
                    symbol, (first, second), at
                )
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = inner(operand)
                return Number(-value.value, at) if isinstance(value, Number) else Apply(
                    "neg", (value,), at
                )
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return inner(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Apply("not", (inner(operand),), at)
            case ast.BoolOp(op=op, values=values):
                symbol = "and" if isinstance(op, ast.And) else "or"
                return self.chain(symbol, [inner(value) for value in values], at)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                if any(type(op) not in _COMPARE for op in ops):
                    raise ExpressionError("NG021", "only < <= > >= == != compare numbers", at)
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
        raise ExpressionError(
            "NG021",
            f"'{self.source(node)[:40]}' is not part of the equation language",
            at,
            "allowed are numbers, names, + - * / **, comparisons, and/or/not, "
            "a if c else b, and calls of " + ", ".join(FUNCTIONS),
            max(1, len(self.source(node).split("\n")[0])),
        )

    def number(self, node: ast.Constant, at: int) -> Expression:
        written = self.source(node)
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ExpressionError(
                "NG021", f"{written[:40]} is not a number", at, width=len(written.split("\n")[0])
            )
        try:
            value = float(written)
        except ValueError:
            raise ExpressionError("NG021", f"{written[:40]} is not a decimal number", at) from None
        if not math.isfinite(value):
            raise ExpressionError("NG021", f"{written[:40]} is larger than any float64", at)
        return Number(value, at)

    def power(self, base: Expression, exponent: Expression, at: int) -> Expression:
        if not isinstance(exponent, Number) or exponent.value != int(exponent.value):
            raise ExpressionError(
                "NG022",
                "the exponent of ** must be a whole number",
                exponent.at,
                "write sqrt(a), or exp(b * log(a)) for a real exponent",
            )
        if abs(exponent.value) > MAX_EXPONENT:
            raise ExpressionError(
                "NG022",
                f"the exponent {exponent.value:g} is beyond ±{MAX_EXPONENT}",
                exponent.at,
                "powers are expanded into products; write exp(n * log(a))",
            )
        if exponent.value == 0:
            raise ExpressionError("NG022", "a power of 0 is always 1", exponent.at, "write 1")
        return base if exponent.value == 1 else Apply("**", (base, exponent), at)

    def call(self, name: str, arguments: list[Expression], at: int) -> Expression:
        if name in self.kernels:
            if len(arguments) != 1:
                raise ExpressionError("NG023", f"kernel '{name}' takes one argument", at)
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
        if name in ("min", "max") and len(arguments) > 2:
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
                text = repr(int(value)) if value == int(value) and abs(value) < 1e6 else repr(value)
                return f"({text})" if value < 0 and binds > 6 else text
            case Name(name=name):
                return name
        assert isinstance(node, Apply)
        own = OPERATORS.get(node.operator, INTERNAL.get(node.operator, Operator(()))).binds
        a = node.arguments
        if node.operator == "where":
            text = f"{show(a[1], own + 1)} if {show(a[0], own + 1)} else {show(a[2], own)}"
        elif own == 0:
            return f"{node.operator}({', '.join(show(argument, 0) for argument in a)})"
        elif node.operator in ("neg", "not"):
            text = ("-" if node.operator == "neg" else "not ") + show(a[0], own)
        elif node.operator == "**":
            text = f"{show(a[0], own + 1)}**{show(a[1], own + 1)}"
        else:
            text = f"{show(a[0], own)} {node.operator} {show(a[1], own + 1)}"
        return f"({text})" if own < binds else text

    return show(expression, 0)
