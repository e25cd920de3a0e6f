"""A slower kernel is noticed without a stopwatch: its vector loops are counted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from neurogen.loading import load
from neurogen.runtime.abi import Variant
from neurogen.runtime.surrogate import ATan
from neurogen.tools import cost

RECORD = json.loads((Path(__file__).parent / "data/kernel_cost.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.skipif(
    cost.compiler() != RECORD["compiler"],
    reason=f"recorded with {RECORD['compiler']}, this is {cost.compiler() or 'another'}",
)


@pytest.mark.parametrize("stem", RECORD["neurons"])
def test_no_kernel_became_slower(stem: str) -> None:
    """Within 15 %; agreed anew by `python -m neurogen.tools.cost --record` and the file's path."""
    agreed = RECORD["neurons"][stem]
    now = cost.cost(stem)
    assert now.keys() == agreed.keys()
    for name, count in now.items():
        assert 0.85 * agreed[name] <= count <= 1.15 * agreed[name], (name, count, agreed[name])


def test_a_slower_kernel_would_be_noticed() -> None:
    """Three more operations of LIF's step, and a loop that cannot be vectorised."""
    cls = load("lif")
    variant = Variant(
        False, "float", tuple((name, True) for name in cls.flags), False, True, 0, ATan.kernel
    )
    text = cls.kernels.text("kernels.cpp")
    agreed = RECORD["neurons"]["lif"]["forward instructions"]

    def instructions(changed: str) -> int:
        assert changed != text
        kernels = dataclasses.replace(cls.kernels, texts=(("kernels.cpp", changed),))
        return sum(map(len, cost.vector_loops(cost.assembly(kernels, variant))))

    slower = text.replace("v_next_ = next_v;", "v_next_ = (next_v * x + v) / (x + v);", 1)
    assert instructions(slower) > 1.15 * agreed
    # A step that the compiler may not reorder is run for one neuron at a time.
    barrier = 'asm volatile("" ::: "memory"); v_next_ = next_v;'
    scalar = text.replace("#pragma omp simd", "").replace("v_next_ = next_v;", barrier)
    assert instructions(scalar) < 0.85 * agreed
