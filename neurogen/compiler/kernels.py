"""Response kernels: h(s) -> its minimal linear ODE, so that convolution is a recursion.

In: a kernel in s. Out: the coefficients of h^(n) = c_0 h + … + c_{n-1} h^(n-1) and the derivatives
of h at 0, as expressions over parameters. With z = (h, h', …) and the companion matrix C, the
response y[t] = sum_k h(k dt) x[t-k] is the first component of

    z[t] = exp(C dt) z[t-1] + (h(0), h'(0), …) x[t],

which stays finite where time constants meet: common factors of the derivatives are cancelled here.
Sums of exponentials, damped sines and alpha functions are such kernels; anything else is refused.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from neurogen.compiler.calculus import Calculus
from neurogen.compiler.expression import Apply, Expression, Name, Number, infix, names
from neurogen.compiler.numeric import evaluate

MAX_ORDER, MAX_TOTAL = 5, 12  # of a kernel, and of all kernels of a neuron together
MAX_OPERATIONS = 150  # of all calls of kernels together
MAX_TERMS, MAX_WORK = 64, 1_000  # written out; products while common factors are looked for
_NO_VALUE = "a term is exp({} s), which has no value at the parameters' defaults"
_FUNCTIONS = {"exp": sympy.exp, "sin": sympy.sin, "cos": sympy.cos, "sqrt": sympy.sqrt}


class KernelError(ValueError):
    """An expression is no response kernel; says why."""


@dataclass(frozen=True, slots=True)
class Response:
    """A kernel as a linear ODE.

    Attributes:
        coefficients: c_0 … c_{n-1}.
        start: h(0), h'(0) … h^(n-1)(0).
    """

    coefficients: tuple[Expression, ...]
    start: tuple[Expression, ...]


def response(kernel: Expression, defaults: Mapping[str, float], room: int = MAX_ORDER) -> Response:
    """Find the minimal ODE of a kernel.

    Args:
        kernel: h as an expression of `s` and parameters.
        defaults: Values of the parameters, to see that the kernel does not grow.
        room: The highest order that is left.

    Raises:
        KernelError: h is not a sum of terms s**p exp(-a s) sin(b s), or it grows.
    """
    _terms(kernel)
    s = sympy.Symbol("s")
    h = _copy(kernel)
    if not h.has(s):
        raise KernelError("it does not depend on s, the time since the event")
    # Whatever is free of s is one symbol while terms are told apart.
    parts: dict[sympy.Symbol, sympy.Expr] = {}
    opaque = _opaque(kernel, parts)
    roots: dict[sympy.Expr, int] = {}
    expanded = sympy.expand(opaque.rewrite(sympy.exp), power_exp=False, power_base=False)
    for term in sympy.Add.make_args(expanded):
        rate, power = _root(sympy.powsimp(term, combine="exp"), s, kernel)
        rate = _cancelled([rate.xreplace(parts)])[0]
        roots[rate] = max(roots.get(rate, 0), power + 1)
    numbers = {sympy.Symbol(name): sympy.sympify(value) for name, value in defaults.items()}
    for rate in roots:
        try:
            value = complex(rate.xreplace(numbers))
        except TypeError:  # infinite
            raise KernelError(_NO_VALUE.format(sympy.sstr(rate))) from None
        if not cmath.isfinite(value):
            raise KernelError(_NO_VALUE.format(sympy.sstr(rate)))
        if value.real > 1e-12:
            raise KernelError(
                f"it grows: a term is exp({sympy.sstr(rate)} s), with a rate of {value.real:g} at "
                "the parameters' defaults"
            )
    order = sum(roots.values())
    if order > room:
        raise KernelError(
            f"its differential equation has order {order}; a kernel's is at most {MAX_ORDER}, and "
            f"that of all together {MAX_TOTAL}"
        )
    polynomial: list[sympy.Expr] = [sympy.Integer(1)]  # of the roots, lowest power first
    for rate in sorted(roots, key=sympy.default_sort_key):
        for _ in range(roots[rate]):
            shifted, scaled = [sympy.Integer(0), *polynomial], [rate * c for c in polynomial]
            polynomial = [a - b for a, b in zip(shifted, [*scaled, 0], strict=True)]
    derivatives, derivative = [], h
    for _ in range(order):
        derivatives.append(derivative.xreplace({s: sympy.Integer(0)}))
        derivative = derivative.diff(s)
    values = _cancelled([*(-c for c in polynomial[:-1]), *derivatives])
    trees = tuple(_tree(value) for value in values)
    return Response(trees[:order], trees[order:])


def _terms(node: Expression) -> int:
    """About how many terms an expression has when it is expanded, if that is not too many."""
    if not isinstance(node, Apply):
        return 1
    counts = [_terms(argument) for argument in node.arguments]
    match node.operator:
        case "+" | "-":
            count = sum(counts)
        case "*" | "/":
            count = math.prod(counts)
        case "**":
            count = int(counts[0] ** abs(evaluate(node.arguments[1], {})))
        case "neg":
            count = counts[0]
        case _:
            count = 2 if node.operator in {"sin", "cos"} else 1
    if count > MAX_TERMS:
        raise KernelError(f"written out it has more than {MAX_TERMS} terms")
    return count


def _root(term: sympy.Expr, s: sympy.Symbol, kernel: Expression) -> tuple[sympy.Expr, int]:
    """Rate and power of a term c s**p exp(rate s)."""
    rate, power = sympy.Integer(0), 0
    for factor in sympy.Mul.make_args(term):
        if not factor.has(s):
            continue
        base, exponent = factor.as_base_exp()
        if base == s and exponent.is_Integer and exponent > 0:
            power += int(exponent)
            continue
        argument = factor.args[0] if isinstance(factor, sympy.exp) else None
        slope = sympy.expand(argument.diff(s)) if argument is not None else None
        if slope is None or slope.has(s):
            raise KernelError(
                f"{infix(kernel)} is not a sum of products of s**p, exp(a s), sin(a s) and cos(a s)"
            )
        rate += slope
    return rate, power


def _opaque(node: Expression, parts: dict[sympy.Symbol, sympy.Expr]) -> sympy.Expr:
    """The kernel in SymPy, each maximal part without s replaced by a symbol, noted in `parts`."""
    if "s" not in names(node):
        symbol = sympy.Symbol(f"part {len(parts)}")
        parts[symbol] = _copy(node)
        return symbol
    if not isinstance(node, Apply):
        return _copy(node)
    if node.operator == "**":
        return _opaque(node.arguments[0], parts) ** _copy(node.arguments[1])
    return _apply(node.operator, [_opaque(argument, parts) for argument in node.arguments])


def _copy(node: Expression) -> sympy.Expr:
    """The kernel in SymPy, with SymPy's own functions."""
    match node:
        case Number(value=value):
            return sympy.Rational(repr(value))
        case Name(name=name):
            return sympy.Symbol(name)
    assert isinstance(node, Apply)
    return _apply(node.operator, [_copy(argument) for argument in node.arguments])


def _apply(operator: str, arguments: list[sympy.Expr]) -> sympy.Expr:
    match operator:
        case "+":
            return arguments[0] + arguments[1]
        case "-":
            return arguments[0] - arguments[1]
        case "*":
            return arguments[0] * arguments[1]
        case "/":
            return arguments[0] / arguments[1]
        case "neg":
            return -arguments[0]
        case "**":
            return arguments[0] ** arguments[1]
        case name if name in _FUNCTIONS:
            return _FUNCTIONS[name](*arguments)
    known = ", ".join(sorted(_FUNCTIONS))
    raise KernelError(f"'{operator}' is not part of a response kernel: + - * / ** and {known} are")


def _cancelled(values: list[sympy.Expr]) -> list[sympy.Expr]:
    """Parameter-only values as fractions without common factors.

    Raises:
        KernelError: Written out they have so many terms that finding the factors takes long.
    """
    together = [sympy.together(value) for value in values]
    work = 0
    for value in together:
        above, below = value.as_numer_denom()
        work += _products(above) * _products(below)
    if work > MAX_WORK:
        raise KernelError("written out, its differential equation has too many terms")
    return [sympy.cancel(value) for value in together]


def _products(value: sympy.Expr) -> int:
    """How many products a polynomial is the sum of when it is written out, at most."""
    if isinstance(value, sympy.Add):
        return sum(map(_products, value.args))
    if isinstance(value, sympy.Mul):
        return math.prod(map(_products, value.args))
    if isinstance(value, sympy.Pow) and isinstance(value.exp, sympy.Integer):
        factors, power = _products(value.base), abs(int(value.exp))
        return math.comb(factors + power - 1, power)
    return 1


def _tree(value: sympy.Expr) -> Expression:
    """A parameter-only value as our tree."""
    calculus = Calculus()
    value = value.xreplace({sympy.E: calculus.function("exp")(1)})
    for name, function in _FUNCTIONS.items():
        if name != "sqrt":
            value = value.replace(function, calculus.function(name))
    root = calculus.function("sqrt")
    value = value.replace(
        lambda e: e.is_Pow and e.exp == sympy.Rational(1, 2), lambda e: root(e.base)
    )
    return calculus.back(value)
