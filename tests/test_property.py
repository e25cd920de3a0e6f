"""Every spec x backend x reset x detach_reset x dtype x surrogate against the reference.

CI runs a pairwise covering array of the product (any two values of any two columns meet in a row);
`--long` runs the whole product. Within a row Hypothesis chooses shapes, layouts, states and values.
"""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from allpairspy import AllPairs
from hypothesis import given, settings

from neurogen.backends.cpp import launch as cpp
from neurogen.backends.cupy import launch as cupy
from neurogen.compiler.pipeline import compile_text
from neurogen.compiler.surrogates import TABLE
from neurogen.runtime import fused
from neurogen.tools.verify import BACKENDS, DTYPES, Case, Comparison, Problem, compare
from neurogen.tools.verify.matrix import GROWING, expectation, hold
from neurogen.tools.verify.nodes import build, running
from neurogen.tools.verify.search import problems
from neurogen.tools.verify.sizes import large

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


def steady(found: Comparison) -> None:
    """Everything holds, and nothing for the reason that its roundings grow: none is chaotic."""
    found.require()
    assert not [finding for finding in found.findings if GROWING in finding.quantity]


def test_matrix(row: tuple[str, Case]) -> None:
    """Spikes, potentials, and the gradients of inputs, initial states and parameters."""
    stem, case = row
    text = text_of(stem)
    # A large problem first, so that each row meets it whatever Hypothesis draws.
    fired = compare(text, case, large(text, case))
    steady(fired)
    silent = "fire: none" in text  # a read-out: its rate is the mean of its outputs
    assert fired.rate > 0.01 and (silent or fired.rate < 0.99), "one that is silent proves nothing"

    examples = settings().max_examples if stem in BASIC else settings().max_examples // 2

    @settings(max_examples=examples)
    @given(problems(text))
    def hold(problem: Problem) -> None:
        steady(compare(text, case, problem))

    hold()


#: Where no input meets a threshold to the bit.
NEVER_MET = {
    "adex": "exp",
    "clif": "sigmoid",
    "coba_lif": "exponential Euler: an exponential in each step",
    "cuba_lif": "exact: propagated by a matrix, which backends sum in another order",
    "eif": "exp",
    "li": "never fires",
    "rf": "exact",
    "srm": "response kernels, which are exact recursions",
    "tempotron": "a response kernel",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stem", [path.stem for path in SPECS])
def test_the_large_problem_meets_thresholds_exactly(stem: str, dtype: torch.dtype) -> None:
    """A neuron with `>` in place of `>=` differs from the reference on it, and vice versa."""
    text, case = text_of(stem), Case("torch", dtype=dtype)
    wanted = expectation(text, case, large(text, case))
    assert (wanted.same.ties == 0) == (stem in NEVER_MET)
    if wanted.same.ties and stem != "ilif":  # whose levels are rounded: no sign decides
        (sign,) = re.findall(r"^fire:.*?(>=?)", text, re.M) or [""]
        other = {">=": ">", ">": ">=", "": "fire: v > v_threshold"}[sign]
        wanted.text = re.sub(r"^(fire:.*?)>=?", rf"\1{other}", text, flags=re.M) if sign else (
            f"{text}\n{other}\n")  # fmt: skip
        with pytest.raises(AssertionError, match=r"v_seq|state|output"):
            hold(wanted, case).require()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stem", [path.stem for path in SPECS])
def test_the_large_problem_is_large(
    stem: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks, the last one cut, and two checkpoints: looked up in what a run allocates."""
    found, allocate = [], fused.allocate
    monkeypatch.setattr(
        fused, "allocate", lambda *given: found.append(allocate(*given)) or found[-1]
    )
    for engine in (cpp, cupy):
        monkeypatch.setattr(engine, "prepare", lambda *_: None)
        monkeypatch.setattr(engine, "forward", lambda *_: None)
    for backend in ("cpp", "cupy"):
        case = Case(backend, dtype=dtype)
        problem = large(text_of(stem), case)
        node = build(text_of(stem), case, problem)
        inputs = [torch.zeros(problem.steps, *problem.shape, dtype=dtype) for _ in node.inputs]
        with running(case):
            node(*(x.requires_grad_() for x in inputs))
        neurons = math.prod(problem.shape)
        assert neurons > cpp.LANES and neurons % cpp.LANES > 0 and neurons > 2 * cupy.BLOCK
        assert found[-1].checkpoints.numel() >= 2 * len(node.states) * neurons
    assert len(found) == 2


def test_distance_sees_a_difference() -> None:
    """The comparison itself must be able to fail."""
    from neurogen.tools.verify import distance

    one = torch.ones(3)
    assert distance(one, one) == 0.0
    assert distance(one + 1e-3, one) > 1e-4
    assert distance(one, torch.zeros(3)) == float("inf")
    assert distance(one * torch.nan, one) != 0.0
    assert distance(one, torch.ones(4)) == float("inf")
