"""Evaluate an expression over plain float64 numbers, while compiling: folding and default checks.

In: an expression and the values of its names. Out: a float or a bool, with IEEE results (inf, nan)
where Python would raise. Separate from the kernels' arithmetic on purpose: nothing a neuron
computes at run time comes from here except folded literals (`1 / 2`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from neurogen.compiler.expression import Expression, Name, Number


def _divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * _side(b)


def _side(zero: float) -> float:
    return math.copysign(1.0, zero)


def _exp(a: float, function: Callable[[float], float] = math.exp) -> float:
    try:
        return function(a)
    except OverflowError:
        return math.inf


def _log(a: float, function: Callable[[float], float] = math.log, pole: float = 0.0) -> float:
    if a == pole:
        return -math.inf
    return math.nan if a < pole else function(a)


def _sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a >= 0 else _exp(a) / (1 + _exp(a))


def _step(a: float, function: Callable[[float], float]) -> float:
    return float(function(a)) if math.isfinite(a) else a


def _extreme(a: float, b: float, choose: Callable[[float, float], float]) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else choose(a, b)


_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "neg": lambda a: -a,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "exp": _exp,
    "log": _log,
    "log1p": lambda a: _log(a, math.log1p, -1.0),
    "expm1": lambda a: _exp(a, math.expm1),
    "sqrt": lambda a: math.nan if a < 0 else math.sqrt(a),
    "sin": lambda a: math.sin(a) if math.isfinite(a) else math.nan,
    "cos": lambda a: math.cos(a) if math.isfinite(a) else math.nan,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "erf": math.erf,
    "atan": math.atan,
    "abs": abs,
    "sign": lambda a: float((a > 0) - (a < 0)),
    "relu": lambda a: max(a, 0.0),
    "floor": lambda a: _step(a, math.floor),
    "round": lambda a: _step(a, round),  # ties to even, like every backend
    "min": lambda a, b: _extreme(a, b, min),
    "max": lambda a, b: _extreme(a, b, max),
    "clip": lambda a, low, high: _extreme(_extreme(a, low, max), high, min),
    "detach": lambda a: a,
    "heaviside": lambda a: float(a >= 0),
    "fire": lambda condition, u: float(condition),
    "phi": lambda a: _divide(_exp(a, math.expm1), a) if a else 1.0,
}


def evaluate(expression: Expression, values: Mapping[str, float]) -> float:
    """The value of an expression; conditions give True or False.

    Raises:
        KeyError: A name has no value.
    """
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Name):
        return values[expression.name]
    symbol, arguments = expression.operator, expression.arguments
    if symbol == "where":
        return evaluate(arguments[1 if evaluate(arguments[0], values) else 2], values)
    given = [evaluate(argument, values) for argument in arguments]
    if symbol == "**":
        return _power(given[0], int(given[1]))
    return _FUNCTIONS[symbol](*given)


def _power(base: float, exponent: int) -> float:
    """Left to right, like every backend."""
    product = base
    for _ in range(abs(exponent) - 1):
        product *= base
    return product if exponent > 0 else _divide(1.0, product)
