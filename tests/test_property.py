"""Every spec x backend x reset x detach_reset x dtype x surrogate against the reference.

CI runs a pairwise covering array of the product (any two values of any two columns meet in a row);
`--long` runs the whole product. Within a row Hypothesis chooses shapes, layouts, states and values.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
from allpairspy import AllPairs
from hypothesis import given, settings
from hypothesis import strategies as st

from neurogen.compiler.pipeline import compile_text
from neurogen.compiler.surrogates import TABLE
from neurogen.tools.verify import BACKENDS, DTYPES, LAYOUTS, Case, Problem, compare

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
#: The basic neurons meet every surrogate in CI; the others take them in turn.
BASIC = ("if", "lif", "plif", "rif", "square_if")
ZOO = tuple(path.stem for path in SPECS if path.stem not in BASIC)
SURROGATES = (None, *TABLE)
FLAGS = (True, False)  # every flag of the spec at its default, or all flipped
COLUMNS = (list(BACKENDS), ["hard", "soft"], [False, True], list(DTYPES), list(FLAGS))


@cache
def text_of(stem: str) -> str:
    """The text of a spec."""
    return (SPECS[0].parent / f"{stem}.yaml").read_text(encoding="utf-8")


@cache
def flags_of(stem: str, default: bool) -> tuple[tuple[str, bool], ...]:
    """The flags of a spec, at their defaults or flipped."""
    flags = compile_text(text_of(stem)).model.spec.flags
    return tuple((f.name, f.default if default else not f.default) for f in flags)


def rows(long: bool) -> list[tuple[str, Case]]:
    """The rows of the matrix: the product, or arrays in which every pair of values occurs."""
    if long:
        product = itertools.product([*BASIC, *ZOO], SURROGATES, *COLUMNS)
    else:
        zoo = AllPairs([list(ZOO), *COLUMNS])
        turn = itertools.cycle(SURROGATES)
        product = itertools.chain(
            AllPairs([list(BASIC), list(SURROGATES), *COLUMNS]),
            ([stem, next(turn), *rest] for stem, *rest in zoo),
        )
    return [
        (stem, Case(backend, reset, detach, dtype, surrogate, flags_of(stem, default)))
        for stem, surrogate, backend, reset, detach, dtype, default in product
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize(
            "row",
            rows(metafunc.config.getoption("--long")),
            ids=lambda row: (
                f"{row[0]}-{row[1].backend}-{row[1].reset}-{row[1].surrogate}-"
                f"{str(row[1].dtype)[6:]}{'-detached' * row[1].detach_reset}"
            ),
        )


problems = st.builds(
    Problem,
    steps=st.integers(1, 70),
    shape=st.sampled_from(
        # zero, one, odd sizes over several blocks of lanes and threads, and several dimensions
        [(0,), (1,), (3,), (257,), (771,), (2, 0), (5, 11), (4, 3, 5, 7), (2, 1, 3, 1), (1, 1031)]
    ),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
    given_state=st.booleans(),
    dyadic=st.booleans(),
    learnt=st.sampled_from(["none", "scalar", "neuron"]),
)


def test_matrix(row: tuple[str, Case]) -> None:
    """Spikes, potentials, and the gradients of inputs, initial states and parameters."""
    stem, case = row
    text = text_of(stem)
    # Several blocks and checkpoints first, so that each row meets them whatever Hypothesis draws.
    fired = compare(text, case, Problem(steps=23, shape=(3, 521), learnt="neuron", dyadic=True))
    fired.require()
    silent = "fire: none" in text  # a read-out: its rate is the mean of its outputs
    assert fired.rate > 0.01 and (silent or fired.rate < 0.99), "one that is silent proves nothing"

    examples = settings().max_examples if stem in BASIC else settings().max_examples // 2

    @settings(max_examples=examples)
    @given(problems)
    def hold(problem: Problem) -> None:
        compare(text, case, problem).require()

    hold()


def test_distance_sees_a_difference() -> None:
    """The comparison itself must be able to fail."""
    from neurogen.tools.verify import distance

    one = torch.ones(3)
    assert distance(one, one) == 0.0
    assert distance(one + 1e-3, one) > 1e-4
    assert distance(one, torch.zeros(3)) == float("inf")
    assert distance(one * torch.nan, one) != 0.0
    assert distance(one, torch.ones(4)) == float("inf")
