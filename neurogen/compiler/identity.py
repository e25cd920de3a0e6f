"""Is an expression 0 whatever its names are? Asked of a finite field, not of algebra.

In: an expression. Out: whether it is 0. To expand the power of a sum may take more memory than
there is; to evaluate it does not. Names become random elements of a field of p elements, in which
literals are exact. A quotient of polynomials of degree d that is not 0 vanishes there with a
probability of at most d/p, about 1e-35 here (Schwartz, 1980, Fast probabilistic algorithms for
verification of polynomial identities). A function may be anything: equal arguments, equal values.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

from neurogen.compiler.expression import Apply, Expression, Name, Number

PRIME = 2**127 - 1


def is_zero(expression: Expression) -> bool:
    """Whether an expression is 0 wherever it is defined, as far as arithmetic tells."""
    try:
        return _value(expression, {}) == 0
    except ZeroDivisionError:  # defined nowhere
        return False


def _value(node: Expression, known: dict[Expression, int]) -> int:
    """The element of the field that an expression comes to."""
    if isinstance(node, Number):
        exact = Fraction(repr(node.value))
        return _quotient(exact.numerator % PRIME, exact.denominator)
    if isinstance(node, Name):
        return _random(node.name)
    if node not in known:
        known[node] = _apply(node.operator, [_value(a, known) for a in node.arguments], node)
    return known[node]


def _apply(operator: str, values: list[int], node: Apply) -> int:
    match operator:
        case "+":
            return (values[0] + values[1]) % PRIME
        case "-":
            return (values[0] - values[1]) % PRIME
        case "neg":
            return -values[0] % PRIME
        case "*":
            return values[0] * values[1] % PRIME
        case "/":
            return _quotient(values[0], values[1])
        case "**":
            exponent = node.arguments[1]
            assert isinstance(exponent, Number)
            power = pow(values[0], abs(int(exponent.value)), PRIME)
            return power if exponent.value > 0 else _quotient(1, power)
        case "where":
            chosen, taken, untaken = values
            return (chosen * taken + (1 - chosen) * untaken) % PRIME
    return _random(f"{operator}{values}")


def _quotient(above: int, below: int) -> int:
    if below == 0:
        raise ZeroDivisionError
    return above * pow(below, -1, PRIME) % PRIME


def _random(text: str) -> int:
    """An element that only the text decides: the same text gives the same neuron everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big") % PRIME
