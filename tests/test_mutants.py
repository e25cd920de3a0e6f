"""The tests can fail: the compiler is broken in many ways, and each of them must be noticed.

The ways are data, in `mutants/mutants.yaml`; a mutant whose text is gone fails, too. Each one names
the check that is to notice it, by a comparison unless it says otherwise; `--long` asks every check.
What caught what is in the test report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from together import backward_variant

from neurogen.backends.cpp import launch as cpp
from neurogen.backends.cupy import launch as cupy
from neurogen.tools.verify import Case
from neurogen.tools.verify.nodes import build

sys.path.insert(0, str(Path(__file__).parent / "mutants"))

from checks import LARGE, STREAMED, spec
from run import SEEN, applied, mutants

HERE = Path(__file__).parent / "mutants"
MUTANTS = mutants()
PARTS = 6  # processes that share the work, side by side


def test_there_are_many() -> None:
    names = [mutant["name"] for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 40
    assert len({mutant["file"] for mutant in MUTANTS}) >= 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_mutants_apply(mutant: dict[str, str]) -> None:
    assert applied(mutant) and mutant["new"] != mutant["old"] and mutant["why"]


def test_large_problems_have_several_of_everything_and_a_rest() -> None:
    case = Case("torch", dtype=torch.float64)
    node = build(spec("lif"), case, LARGE)
    variant = backward_variant(node, case, len(LARGE.shape))
    for engine in (cpp, cupy):
        every = engine.checkpoint_every(node.kernels, variant)
        assert (LARGE.steps - 1) // every >= 2 and LARGE.steps % every, engine.__name__
    for problem in (LARGE, STREAMED):
        neurons = problem.shape[0]
        assert neurons > cpp.LANES and neurons % cpp.LANES, "one block, or no rest"
    row, last = 4 * STREAMED.shape[0], 4 * (STREAMED.shape[0] % cpp.LANES)
    assert sum(t * row % 32 == 0 for t in range(STREAMED.steps)) >= 2, "rows that are streamed"
    assert last > 64 and last % 32, "whole streams, and a tail"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_mutant_is_caught(
    part: int,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    chosen = [mutant["name"] for mutant in MUTANTS[part::PARTS]]
    options = ["--every"] if request.config.getoption("--long") else []
    folder = tmp_path_factory.getbasetemp()  # of a worker, or of all of them
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    run = subprocess.run(
        [sys.executable, str(HERE / "run.py"), f"--cache={folder / 'kernels'}", *options, *chosen],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not run.returncode, run.stderr
    unbroken, *outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    assert not unbroken["caught by"], f"the package as it is: {unbroken}"
    assert [outcome["name"] for outcome in outcomes] == chosen
    for outcome in outcomes:
        record_property("mutant", outcome)
    survivors = {o["name"]: o["said"] for o in outcomes if not o["caught by"]}
    assert not survivors
    meant = {m["name"]: (m["check"], m.get("caught", SEEN)) for m in MUTANTS}
    found = {o["name"]: (o["caught by"], o["way"]) for o in outcomes}
    crashed = {name: way for name, way in found.items() if way != meant[name]}
    assert options or not crashed, "a check is to see a difference; or `caught` is to say how"
