"""Look for an input on which a case fails, and make it small.

In: a spec, a case, a seed. Out: the smallest `Problem` that Hypothesis finds, or None.
"""

from __future__ import annotations

import math
import time
from random import Random

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from neurogen.tools.verify.cases import LAYOUTS, LEARNT, Case, Problem
from neurogen.tools.verify.matrix import compare
from neurogen.tools.verify.nodes import is_arithmetic

#: Zero, one, odd sizes over several blocks of lanes and threads, and several dimensions.
SHAPES = (
    (1,), (3,), (0,), (257,), (771,), (2, 0), (5, 11), (4, 3, 5, 7), (2, 1, 3, 1), (1, 1031),
)  # fmt: skip


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
        learnt=st.sampled_from(LEARNT),
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
    """Why a case fails on a problem, be it by an exception; empty if it holds."""
    try:
        compare(text, case, problem).require()
    except AssertionError as wrong:
        return str(wrong)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
