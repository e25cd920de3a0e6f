"""Derivatives: copies of our trees in SymPy, and the way back.

In: an expression and a name. Out: the derivative as an expression. This is the only module that
hands anything to SymPy, and nothing that SymPy reordered is ever part of a forward pass as written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import sympy

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    substitute,
)
from neurogen.compiler.parsing import parse
from neurogen.errors import InternalError

#: d f(a, b, …) / d each argument, as equation text. Ties: max/min ½ each, clip 1, relu 0, abs 0.
DERIVATIVES: Mapping[str, tuple[str, ...]] = {
    "exp": ("exp(a)",),
    "expm1": ("exp(a)",),
    "log": ("1 / a",),
    "log1p": ("1 / (1 + a)",),
    "sqrt": ("0.5 / sqrt(a)",),
    "sin": ("cos(a)",),
    "cos": ("-sin(a)",),
    "tanh": ("(1 - tanh(a)) * (1 + tanh(a))",),
    "sigmoid": ("sigmoid(a) * sigmoid(-a)",),
    "softplus": ("sigmoid(a)",),
    "erf": (f"{2 / math.sqrt(math.pi)!r} * gaussian(a)",),
    "gaussian": ("-2 * a * gaussian(a)",),
    "atan": ("1 / (1 + a * a)",),
    "phi": ("phi_slope(a)",),
    "abs": ("sign(a)",),
    "sign": ("0",),
    "floor": ("0",),
    "round": ("0",),
    "relu": ("0 if a <= 0 else 1",),
    "min": ("1 if a < b else (0 if a > b else 0.5)", "1 if a > b else (0 if a < b else 0.5)"),
    "max": ("1 if a > b else (0 if a < b else 0.5)", "1 if a < b else (0 if a > b else 0.5)"),
    "clip": (
        "1 if a >= b and a <= c else 0",
        "1 if a < b and b < c else 0",
        "1 if a > c or c < b else 0",  # bounds that cross: the upper one wins
    ),
    "detach": ("0",),
    "fire": ("0", "slope(b)"),
}

_ONE = Number(1.0)


def differentiate(expression: Expression, name: str) -> Expression:
    """D expression / d name, as SymPy orders it."""
    return Calculus().partial(expression, name)


def at_zero(expression: Expression, zeros: tuple[str, ...]) -> Expression:
    """The expression with some names set to 0."""
    calculus = Calculus()
    copy = calculus.there(expression)
    zero = sympy.Integer(0)
    return calculus.back(copy.xreplace({sympy.Symbol(name): zero for name in zeros}))


class NotFiniteError(ArithmeticError):
    """An expression divides by what is always 0, or has a number beyond float64."""


class Where(sympy.Function):  # type: ignore[misc]
    """c ? a : b with an opaque condition; the derivative chooses last."""


def _derivative(node: sympy.Expr, symbol: sympy.Symbol) -> sympy.Expr:
    """D node / d symbol.

    As `node.diff(symbol)`, whose rule for powers asks whether a logarithm times 0 is finite; in
    fractions that nest the answer can take SymPy half a minute.
    """
    if symbol not in node.free_symbols:
        return sympy.Integer(0)
    if node == symbol:
        return sympy.Integer(1)
    if isinstance(node, sympy.Add):
        return sympy.Add(*(_derivative(term, symbol) for term in node.args))
    if isinstance(node, sympy.Mul):
        return sympy.Add(*(
            sympy.Mul(*node.args[:k], _derivative(factor, symbol), *node.args[k + 1 :])
            for k, factor in enumerate(node.args) if symbol in factor.free_symbols
        ))  # fmt: skip
    if isinstance(node, sympy.Pow) and isinstance(node.exp, sympy.Integer):
        return sympy.Mul(node.exp, node.base ** (node.exp - 1), _derivative(node.base, symbol))
    if isinstance(node, Where):
        condition, *branches = node.args
        first, second = (_derivative(branch, symbol) for branch in branches)
        return first if first == second else Where(condition, first, second)
    if isinstance(node, sympy.Function):
        return sympy.Add(*(
            sympy.Mul(_derivative(argument, symbol), node.fdiff(k))
            for k, argument in enumerate(node.args, 1) if symbol in argument.free_symbols
        ))  # fmt: skip
    raise InternalError("adjoint", f"no rule for the derivative of a {type(node).__name__}")


class Calculus:
    """Copies of our trees in SymPy, and the way back.

    Whatever SymPy returns unchanged comes back as the tree that was written (`original`), so that
    a function value already computed forwards is recognised, and shared, backwards.
    """

    def __init__(self) -> None:
        self.original: dict[sympy.Basic, Expression] = {}
        self.conditions: dict[Expression, sympy.Symbol] = {}
        self.functions: dict[str, type[sympy.Function]] = {"where": Where}
        self.copies: dict[Expression, sympy.Basic] = {}
        self.partials: dict[tuple[Expression, str], Expression] = {}

    def partial(self, expression: Expression, name: str) -> Expression:
        """D expression / d name; adjoint and Jacobian ask for the same ones."""
        key = (expression, name)
        if key not in self.partials:
            self.partials[key] = self.back(_derivative(self.there(expression), sympy.Symbol(name)))
        return self.partials[key]

    def there(self, node: Expression) -> sympy.Basic:
        """Our tree as a SymPy expression; where it came from is remembered."""
        match node:
            case Number(value=value):
                return sympy.Rational(repr(value))
            case Name(name=name):
                return sympy.Symbol(name)
        assert isinstance(node, Apply)
        if node not in self.copies:
            self.copies[node] = self.copy(node)
        return self.copies[node]

    def copy(self, node: Apply) -> sympy.Basic:
        """The same operator in SymPy, on copies of the arguments."""
        entry = OPERATORS.get(node.operator) or INTERNAL[node.operator]
        arguments = [
            self.condition(a) if takes == "condition" else self.there(a)
            for a, takes in zip(node.arguments, entry.takes, strict=True)
        ]
        match node.operator:
            case "+":
                result = arguments[0] + arguments[1]
            case "-":
                result = arguments[0] - arguments[1]
            case "*":
                result = arguments[0] * arguments[1]
            case "/":
                result = arguments[0] / arguments[1]
            case "neg":
                result = -arguments[0]
            case "**":
                result = arguments[0] ** arguments[1]
            case _:
                result = self.function(node.operator)(*arguments)
        if not result.is_Number:  # x / x is 1, but no 1 is x / x
            self.original.setdefault(result, node)
        return result

    def condition(self, node: Expression) -> sympy.Symbol:
        """A condition is opaque to SymPy: a symbol that stands for its tree."""
        if node not in self.conditions:
            symbol = sympy.Symbol(f"condition {len(self.conditions):04d}")
            self.conditions[node] = symbol
            self.original[symbol] = node
        return self.conditions[node]

    def function(self, name: str) -> type[sympy.Function]:
        """A function that SymPy differentiates by our table and otherwise leaves alone."""
        if name not in self.functions:
            calculus = self

            def fdiff(self: sympy.Function, argindex: int = 1) -> sympy.Basic:
                rules = DERIVATIVES.get(name)
                if rules is None:
                    raise InternalError("adjoint", f"{name} has no derivative")
                arguments = {
                    letter: calculus.back(argument)
                    for letter, argument in zip("abc", self.args, strict=False)
                }
                rule = _internal_parse(rules[argindex - 1])
                return calculus.there(substitute(rule, arguments))

            self.functions[name] = type(f"{name}_", (sympy.Function,), {"fdiff": fdiff})
        return self.functions[name]

    def back(self, node: sympy.Basic) -> Expression:
        """SymPy -> our tree, terms and factors in a fixed order, quotients as divisions."""
        if node in self.original:
            return self.original[node]
        if isinstance(node, sympy.Rational):
            try:
                return Number(node.p / node.q)
            except OverflowError:
                raise NotFiniteError("a number beyond float64") from None
        if node in (sympy.zoo, sympy.oo, -sympy.oo, sympy.nan):
            raise NotFiniteError("a division by 0")
        if isinstance(node, sympy.Symbol):
            return Name(node.name)
        if isinstance(node, sympy.Add):
            return self.sum(node)
        if isinstance(node, sympy.Mul | sympy.Pow):
            return self.product(node)
        if isinstance(node, sympy.Function):
            symbol = "where" if isinstance(node, Where) else type(node).__name__.rstrip("_")
            return Apply(symbol, tuple(self.back(argument) for argument in node.args))
        raise InternalError("adjoint", f"SymPy returned a {type(node).__name__}")

    def sum(self, node: sympy.Add) -> Expression:
        """Positive terms first, each group in a fixed order."""
        terms = sorted(node.args, key=sympy.default_sort_key)
        positive = [t for t in terms if not t.could_extract_minus_sign()]
        negative = [t for t in terms if t.could_extract_minus_sign()]
        if not positive:
            return Apply("neg", (self.back(-node),))
        result = self.back(positive[0])
        for term in positive[1:]:
            result = Apply("+", (result, self.back(term)))
        for term in negative:
            result = Apply("-", (result, self.back(-term)))
        return result

    def product(self, node: sympy.Expr) -> Expression:
        """Factors in a fixed order, negative powers below one fraction bar."""
        coefficient, rest = node.as_coeff_Mul()
        if coefficient.is_negative:
            return Apply("neg", (self.back(-node),))
        above: list[Expression] = []
        below: list[Expression] = []
        if coefficient != 1:
            above.append(self.back(coefficient))
        for factor in sorted(sympy.Mul.make_args(rest), key=sympy.default_sort_key):
            base, exponent = factor.as_base_exp()
            if factor in self.original or not isinstance(exponent, sympy.Integer):
                above.append(self.original.get(factor) or self.back(factor))
                continue
            power = abs(int(exponent))
            value = self.back(base)
            value = value if power == 1 else Apply("**", (value, Number(float(power))))
            (above if exponent > 0 else below).append(value)
        result = _multiply(above)
        return Apply("/", (result, _multiply(below))) if below else result


def _multiply(factors: list[Expression]) -> Expression:
    result = factors[0] if factors else _ONE
    for factor in factors[1:]:
        result = Apply("*", (result, factor))
    return result


@cache
def _internal_parse(text: str) -> Expression:
    """A rule of the derivative table; it may call internal functions."""
    return parse_internal(text)


def parse_internal(text: str) -> Expression:
    """Parse text of our own tables, in which internal functions may be called."""

    def restore(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        return Apply(node.operator, tuple(restore(argument) for argument in node.arguments))

    return restore(parse(text, frozenset(name for name in INTERNAL if name != "fire")))
