"""Whether an expression is 0: a finite field against SymPy's algebra."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from neurogen.compiler.identity import is_zero
from neurogen.compiler.parsing import parse

leaves = st.sampled_from(["x", "y", "2", "0.5", "-3", "1e-30"])
polynomials = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda a: f"({a})**2"),
    ),
    max_leaves=8,
)


@given(polynomials, polynomials)
def test_agrees_with_expansion(a: str, b: str) -> None:
    for text in (f"x + {a}", f"({a}) * ({b}) - ({b}) * ({a}) + 0 * x", f"({a}) - ({b}) + 0 * x"):
        exact = sympy.sympify(text, rational=True)
        assert is_zero(parse(text)) == (sympy.expand(exact) == 0)


@pytest.mark.parametrize(
    "text",
    [
        "x / y - 1 / (y / x)",
        "(x**2 - y**2) / (x - y) - x - y",
        "exp(x + y) - exp(y + x)",
        "0.1 + 0.2 - 0.3 + 0 * x",
        "x**-2 * x**2 - 1",
        "where(x > 0, y, y) - y",
        "tanh((x + y)**2) - tanh(x**2 + 2 * x * y + y**2)",
    ],
)
def test_is_zero(text: str) -> None:
    assert is_zero(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x * 1e-300",
        "x - y",
        "exp(x) - exp(y)",
        "exp(x) - tanh(x)",
        "min(x, y) - min(y, x)",  # equal, but nothing says so
        "where(x > 0, x, y) - x",
        "x / (y - y)",  # nowhere defined
        "1e-60 * x * (x + y + 1)**32",
        "x**2 - x**4",
    ],
)
def test_is_not_zero(text: str) -> None:
    assert not is_zero(parse(text))
