"""Equation string -> tree.

In: text such as `v + (x - v) / tau`. Out: an `Expression`. Parsing walks the `ast` of the text
against a whitelist; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from functools import lru_cache

from neurogen.compiler.expression import (
    FUNCTIONS,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
)
from neurogen.compiler.tokens import (
    APART,
    MAX_DEPTH,
    MAX_NAME,
    TOKEN,
    ExpressionError,
    check_tokens,
    did_you_mean,
    too_deep,
    wrong,
)

MAX_CHARACTERS = 2000
MAX_EXPONENT = 32
MAX_DEGREE = 256
#: What peers have, and one neuron cannot: sums over others.
_SUMS = frozenset(("sum", "mean", "dot", "matmul", "einsum", "conv"))

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


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
            known = [*FUNCTIONS, *self.kernels]
            hint = APART if name in _SUMS else did_you_mean(name, known)
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
