"""Look for an input on which a case fails, make it small, and write it down as a script.

In: a spec, a case, a seed. Out: the smallest `Problem` that Hypothesis finds, or None; and the text
of a script that shows it.
"""

from __future__ import annotations

import math
import time
from random import Random

import torch
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from neurogen.tools.verify.cases import LAYOUTS, Case, Problem
from neurogen.tools.verify.matrix import compare, expectation
from neurogen.tools.verify.nodes import is_arithmetic

#: Zero, one, odd sizes over several blocks of lanes and threads, and several dimensions.
SHAPES = (
    (1,), (3,), (0,), (257,), (771,), (2, 0), (5, 11), (4, 3, 5, 7), (2, 1, 3, 1), (1, 1031),
)  # fmt: skip
SHOWN = 40  # numbers that a script lists


def problems(text: str) -> st.SearchStrategy[Problem]:
    """Shapes, layouts, states and values; shrinks to one step of one neuron.

    Only where nothing rounds differently thresholds are met exactly.
    """
    return st.builds(
        Problem,
        steps=st.integers(1, 70),
        shape=st.sampled_from(SHAPES),
        layout=st.sampled_from(LAYOUTS),
        seed=st.integers(0, 2**31),
        given_state=st.booleans(),
        dyadic=st.booleans() if is_arithmetic(text) else st.just(False),
        learnt=st.sampled_from(("none", "scalar", "neuron")),
    )


def failing(
    text: str, case: Case, start: int, examples: int, seconds: float = 20.0
) -> Problem | None:
    """The smallest problem found on which the case fails, within so many attempts.

    Args:
        text: YAML of the spec.
        case: The cell.
        start: Seed of the search.
        examples: Problems to try.
        seconds: How long to make a failing problem smaller.
    """
    known: set[Problem] = set()
    end = math.inf

    def fails(problem: Problem) -> bool:
        nonlocal end
        if time.monotonic() < end and problem not in known and reason(text, case, problem):
            known.add(problem)
            end = min(end, time.monotonic() + seconds)
        return problem in known

    profile = settings(
        max_examples=examples, database=None, deadline=None, derandomize=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        return find(problems(text), fails, settings=profile, random=Random(start))
    except NoSuchExample:
        return None


def reason(text: str, case: Case, problem: Problem) -> str:
    """Why a case fails on a problem; empty if it holds."""
    try:
        compare(text, case, problem).require()
    except AssertionError as wrong:
        return str(wrong)
    return ""


def script(path: str, case: Case, problem: Problem, text: str) -> str:
    """A script that runs a case on a problem and fails, with the numbers it is about."""
    wanted = expectation(text, case, problem)
    lines = [f"# {name} = {_numbers(x)}" for name, x in zip(
        wanted.reference.inputs, wanted.inputs, strict=True)]  # fmt: skip
    lines += [f"# {name} before the first step = {_numbers(s)}" for name, s in wanted.state.items()]
    lines += [
        f"# {name} = {_numbers(value) if isinstance(value, torch.Tensor) else value}"
        for name, value in wanted.arguments.items()
    ]
    listed = "\n".join(lines)
    return f'''"""{reason(text, case, problem) or "holds"}"""

from pathlib import Path

import torch

from neurogen.tools.verify import Case, Problem, compare

{listed}
text = Path({path!r}).read_text(encoding="utf-8")
case = {case!r}
problem = {problem!r}
compare(text, case, problem).require()
'''


def _numbers(value: torch.Tensor) -> str:
    if value.numel() > SHOWN:
        return f"{list(value.shape)} random numbers"
    return str(value.detach().tolist())
