"""Evaluate an expression over plain float64 numbers, while compiling: folding and default checks.

In: an expression and the values of its names. Out: a float or a bool, with IEEE results (inf, nan)
where Python would raise. Separate from the kernels' arithmetic on purpose: nothing a neuron
computes at run time comes from here except folded literals (`1 / 2`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from neurogen.compiler.expression import Apply, Expression, Name, Number


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a * math.copysign(1, b))
    return a / b


def _sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


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
    "exp": math.exp,
    "log": lambda a: -math.inf if a == 0 else math.log(a),
    "log1p": lambda a: -math.inf if a == -1 else math.log1p(a),
    "expm1": math.expm1,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "erf": math.erf,
    "atan": math.atan,
    "abs": abs,
    "sign": lambda a: float((a > 0) - (a < 0)),
    "relu": lambda a: max(a, 0.0),
    "floor": lambda a: float(math.floor(a)),
    "round": lambda a: float(round(a)),
    "min": min,
    "max": max,
    "clip": lambda a, low, high: min(max(a, low), high),
    "detach": lambda a: a,
    "heaviside": lambda a: float(a >= 0),
}


def evaluate(expression: Expression, values: Mapping[str, float]) -> float:
    """The value of an expression; conditions give True or False.

    Raises:
        KeyError: A name has no value.
    """
    match expression:
        case Number(value=value):
            return value
        case Name(name=name):
            return values[name]
    assert isinstance(expression, Apply)
    if expression.operator == "where":
        condition, taken, untaken = expression.arguments
        return evaluate(taken if evaluate(condition, values) else untaken, values)
    if expression.operator == "**":
        return _power(evaluate(expression.arguments[0], values),
                      int(evaluate(expression.arguments[1], values)))  # fmt: skip
    arguments = [evaluate(argument, values) for argument in expression.arguments]
    try:
        return _FUNCTIONS[expression.operator](*arguments)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


def _power(base: float, exponent: int) -> float:
    """Left to right, like every backend."""
    product = base
    for _ in range(abs(exponent) - 1):
        product *= base
    return product if exponent > 0 else _divide(1.0, product)
