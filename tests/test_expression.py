"""Equation text, the tree, and text again; and plain numbers from it."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurogen.compiler.expression import (
    FUNCTIONS,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    infix,
    names,
    substitute,
    walk,
)
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.parsing import parse
from neurogen.compiler.tokens import MAX_DEPTH, ExpressionError, did_you_mean

V, X, TWO = Name("v"), Name("x"), Number(2.0)


# -- parsing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("v", V),
        ("2", TWO),
        ("-2", Number(-2.0)),
        ("+v", V),
        ("-v", Apply("neg", (V,))),
        ("1e-3", Number(1e-3)),
        (".5", Number(0.5)),
        ("5.", Number(5.0)),
        ("v + x * 2", Apply("+", (V, Apply("*", (X, TWO))))),
        ("v - x - 2", Apply("-", (Apply("-", (V, X)), TWO))),
        ("v / x / 2", Apply("/", (Apply("/", (V, X)), TWO))),
        ("-v**2", Apply("neg", (Apply("**", (V, TWO)),))),
        ("v**-2", Apply("**", (V, Number(-2.0)))),
        ("v**1", V),
        ("x if v > 2 else v", Apply("where", (Apply(">", (V, TWO)), X, V))),
        ("where(v > 2, x, v)", Apply("where", (Apply(">", (V, TWO)), X, V))),
        ("v < x < 2", Apply("and", (Apply("<", (V, X)), Apply("<", (X, TWO))))),
        ("not v > x or f", Apply("or", (Apply("not", (Apply(">", (V, X)),)), Name("f")))),
        ("a and b and c", Apply("and", (Apply("and", (Name("a"), Name("b"))), Name("c")))),
        ("max(v, x, 2)", Apply("max", (Apply("max", (V, X)), TWO))),
        ("clip(v, x, 2)", Apply("clip", (V, X, TWO))),
        ("  v\n +\tx ", Apply("+", (V, X))),
        ("(v)", V),
        ("beta * I", Apply("*", (Name("beta"), Name("I")))),
        ("register + real", Apply("+", (Name("register"), Name("real")))),
    ],
)
def test_text_is_read_in_the_order_written(text: str, tree: Expression) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "code", "at", "part"),
    [
        ("", "NG021", 0, "is empty"),
        (" \n ", "NG021", 0, "is empty"),
        ("v +", "NG021", 2, "breaks off after '+'"),
        ("v + * x", "NG021", 4, "something is missing before '*'"),
        ("v x", "NG021", 2, "an operator is missing before 'x'"),
        ("v 2", "NG021", 2, "an operator is missing before '2'"),
        ("2 (x)", "NG021", 2, "an operator is missing before '('"),
        ("(v) x", "NG021", 4, "an operator is missing before 'x'"),
        ("v not x", "NG021", 2, "an operator is missing before 'not'"),
        ("2x", "NG021", 0, "'2x' is not a number"),
        ("1if v > 0 else x", "NG021", 0, "'1if' is not a number"),
        ("0x10", "NG021", 0, "'0x10' is not a number"),
        ("1_000", "NG021", 0, "'1_000' is not a number"),
        ("1.2.3", "NG021", 0, "'1.2.3' is not a number"),
        ("2j", "NG021", 0, "'2j' is not a number"),
        ("012", "NG021", 0, "'012' is not a number"),
        ("(v", "NG021", 0, "'(' is never closed"),
        ("v)", "NG021", 1, "')' closes nothing"),
        ("()", "NG021", 1, "something is missing before ')'"),
        ("exp(v,)", "NG021", 6, "something is missing before ')'"),
        ("v, x", "NG021", 1, "',' stands outside a call"),
        ("0,5 * v", "NG021", 1, "',' stands outside a call"),
        ("v = x", "NG021", 2, "'=' is not allowed"),
        ("v := x", "NG021", 2, "':' is not allowed"),
        ("v.real", "NG021", 1, "'.' is not allowed"),
        ("v[0]", "NG021", 1, "'[' is not allowed"),
        ("{v}", "NG021", 0, "'{' is not allowed"),
        ("'v'", "NG021", 0, "''' is not allowed"),
        ("v # x", "NG021", 2, "'#' is not allowed"),
        ("v\0", "NG021", 1, "U+0000 is not allowed"),
        ("v + \u202ex", "NG021", 4, "U+202E is not allowed"),
        ("v // x", "NG021", 3, "something is missing before '/'"),
        ("v @ x", "NG021", 2, "'@' is not allowed"),
        ("v <> x", "NG021", 3, "something is missing before '>'"),
        ("lambda: v", "NG021", 0, "'lambda' cannot be a name"),
        ("v is x", "NG021", 2, "'is' cannot be a name"),
        ("True", "NG021", 0, "'True' cannot be a name"),
        ("_v", "NG021", 0, "'_v' cannot be a name"),
        ("__import__(v)", "NG021", 0, "'__import__' cannot be a name"),
        ("a" * 61, "NG021", 0, "cannot be a name"),
        ("x if v > 0", "NG021", 2, "an 'if' without its 'else'"),
        ("x else v", "NG021", 2, "an 'else' without its 'if'"),
        ("(x if v > 0) else v", "NG021", 1, "wrong syntax"),
        ("v + not x", "NG021", 4, "wrong syntax at 'not'"),
        ("foo(v)", "NG012", 0, "unknown function 'foo'"),
        ("v(x)", "NG012", 0, "unknown function 'v'"),
        ("exp()", "NG023", 0, "exp() takes 1 argument, not 0"),
        ("clip(v, 0)", "NG023", 0, "clip() takes 3 arguments, not 2"),
        ("exp(*v)", "NG021", 4, "something is missing before '*'"),
        ("v**x", "NG022", 3, "must be a whole number"),
        ("v**0.5", "NG022", 3, "must be a whole number"),
        ("v**0", "NG022", 3, "is always 1"),
        ("v**33", "NG022", 3, "is beyond ±32"),
        ("9**9**9**9", "NG022", 6, "must be a whole number"),
        ("((v**16)**16)**2", "NG022", 0, "a product of 512 factors"),
        ("1e400", "NG026", 0, "1e400 is larger than any float64"),
        ("v" * 1 + " + v" * MAX_DEPTH + " + v", "NG020", 0, "nested more than 60 deep"),
        ("(" * 61 + "v" + ")" * 61, "NG020", 60, "nested more than 60 deep"),
        ("-" * 70 + "v", "NG020", 60, "nested more than 60 deep"),
        ("v + " * 600, "NG020", 0, "2400 characters, more than 2000"),
    ],
)
def test_what_is_no_equation_is_refused_with_its_place(
    text: str, code: str, at: int, part: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    error = caught.value
    assert (error.code, error.at) == (code, at) and part in error.message
    assert error.width >= 1 and error.at + error.width <= max(len(text), 1)


def test_every_node_knows_where_it_stands() -> None:
    text = "v + (x -\n  tau) * exp(\n rate)"
    for node in walk(parse(text)):
        if isinstance(node, Name):
            assert text[node.at :].startswith(node.name)
        elif isinstance(node, Apply) and node.operator in FUNCTIONS:
            assert text[node.at :].startswith(f"{node.operator}(")


def test_kernels_are_called_like_functions() -> None:
    assert parse("v + epsilon(x)", frozenset({"epsilon"})) == (
        Apply("+", (V, Apply("epsilon", (X,))))
    )
    with pytest.raises(ExpressionError, match="takes 1 argument, not 2"):
        parse("epsilon(x, v)", frozenset({"epsilon"}))
    with pytest.raises(ExpressionError, match="unknown function 'epsilon'"):
        parse("epsilon(x)")


def test_did_you_mean() -> None:
    assert did_you_mean("ta", ["tau", "rho"]) == "did you mean 'tau'?"
    assert did_you_mean("V", ["v", "x"]) == "did you mean 'v'?"
    assert did_you_mean("zzz", ["tau", "rho"]) == ""
    assert did_you_mean("a" * 100_000, ["a" * 50, "tau"]) == f"did you mean '{'a' * 50}'?"


# -- printing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("v+(x-(v-2))/tau", "v + (x - (v - 2)) / tau"),
        ("v-(x-2)", "v - (x - 2)"),
        ("(v-x)-2", "v - x - 2"),
        ("v/(x*2)", "v / (x * 2)"),
        ("-(v+x)", "-(v + x)"),
        ("-v*x", "-v * x"),
        ("-(v*x)", "-(v * x)"),
        ("v - -2", "v - (-2)"),
        ("v * -2", "v * (-2)"),
        ("(-v)**2", "(-v)**2"),
        ("-v**2", "-v**2"),
        ("(v**2)**2", "(v**2)**2"),
        ("v**-2", "v**(-2)"),
        ("where(f and not g, v, x)", "v if f and not g else x"),
        ("(v if f else x) if g else 2", "(v if f else x) if g else 2"),
        ("v if f else x if g else 2", "v if f else x if g else 2"),
        ("v + (x if f else 2)", "v + (x if f else 2)"),
        ("not (f or g) and f", "not (f or g) and f"),
        ("f and (g or f)", "f and (g or f)"),
        ("max(v, x, 2)", "max(max(v, x), 2)"),
        ("1e-7 + 1e30 + 1e6 + 0.1", "1e-07 + 1e+30 + 1000000.0 + 0.1"),
    ],
)
def test_printing_has_the_brackets_it_needs_and_no_others(text: str, printed: str) -> None:
    assert infix(parse(text)) == printed
    assert parse(printed) == parse(text)


_CONDITIONS = [name for name, entry in OPERATORS.items() if entry.gives == "condition"]
_REALS = [
    name for name, entry in OPERATORS.items() if entry.gives == "real" and name not in {"**", "neg"}
]


@st.composite
def trees(draw: st.DrawFn, kind: str = "real", depth: int = 4) -> Expression:
    """Well-typed trees as parsing makes them: a minus before a number is part of the number."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        if kind == "condition":
            return Name(draw(st.sampled_from(["f", "g"])))
        number = st.floats(allow_nan=False, allow_infinity=False)
        return draw(st.sampled_from([V, X, Name("tau")]) | number.map(Number))
    operator = draw(st.sampled_from(_CONDITIONS if kind == "condition" else [*_REALS, "neg", "**"]))
    if operator == "**":
        exponent = draw(st.sampled_from([2.0, 3.0, -1.0, -2.0]))
        return Apply("**", (draw(trees("real", min(depth - 1, 2))), Number(exponent)))
    inner = tuple(draw(trees(kind, depth - 1)) for kind in OPERATORS[operator].takes)
    if operator == "neg" and isinstance(inner[0], Number):
        return inner[0]
    return Apply(operator, inner)


@given(trees() | trees("condition"))
@settings(max_examples=150)
def test_printing_and_parsing_are_inverse(tree: Expression) -> None:
    text = infix(tree)
    assert parse(text) == tree
    assert infix(parse(text)) == text


# -- trees -----------------------------------------------------------------------------------------


def test_trees_compare_by_what_they_say() -> None:
    first, second = parse("v + x * 2"), parse("  v+(x*2.0)")
    assert first == second and hash(first) == hash(second) and first is not second
    assert first != parse("x * 2 + v")
    copy = pickle.loads(pickle.dumps(first))
    assert copy == first and hash(copy) == hash(first)
    assert {first: 1}[copy] == 1


def test_trees_know_their_size() -> None:
    tree = parse("exp(v + x) * 2 if v > x else x")
    assert isinstance(tree, Apply)
    assert tree.size == len(list(walk(tree))) == 11
    assert tree.depth == 4
    assert names(tree) == {"v", "x"}


def test_substitution_replaces_names_only() -> None:
    tree = substitute(parse("v + exp(v) * x"), {"v": parse("a - b"), "exp": TWO})
    assert tree == parse("(a - b) + exp(a - b) * x")


# -- plain numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("-2**2", -4.0),
        ("2**-2", 0.25),
        ("3**5", 243.0),
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("0 / 0", math.nan),
        ("0**-1", math.inf),
        ("exp(1000)", math.inf),
        ("expm1(-1000)", -1.0),
        ("log(0)", -math.inf),
        ("log(-1)", math.nan),
        ("log1p(-1)", -math.inf),
        ("sqrt(-1)", math.nan),
        ("sin(1 / 0)", math.nan),
        ("floor(-1.5) + round(2.5) + round(-0.5)", 0.0),
        ("floor(-1 / 0)", -math.inf),
        ("sigmoid(-1000) + sigmoid(1000) + sigmoid(0)", 1.5),
        ("softplus(-1000) + softplus(1000)", 1000.0),
        ("tanh(1 / 0) + atan(0) + erf(1 / 0)", 2.0),
        ("min(0 / 0, 1)", math.nan),
        ("max(1, 0 / 0)", math.nan),
        ("clip(5, 0, 1) + clip(-5, 0, 1) + relu(-1) + abs(-2) + sign(-3)", 2.0),
        ("heaviside(0) + heaviside(-1) + detach(3)", 4.0),
        ("1 if 2 > 1 and not 3 > 4 or 1 == 2 else 0", 1.0),
        ("log(2.718281828459045) + log1p(0) + cos(0)", 2.0),
    ],
)
def test_numbers_are_those_of_ieee_arithmetic(text: str, value: float) -> None:
    assert evaluate(parse(text), {}) == pytest.approx(value, abs=0, nan_ok=True)


def test_names_take_their_values() -> None:
    assert evaluate(parse("v + x / tau if f else v"), {"v": 1, "x": 3, "tau": 2, "f": True}) == 2.5
    with pytest.raises(KeyError, match="tau"):
        evaluate(parse("tau"), {})


def test_an_untaken_branch_is_not_evaluated() -> None:
    assert evaluate(parse("1 if v > 0 else missing"), {"v": 1.0}) == 1.0
