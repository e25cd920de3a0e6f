"""Profiles and fixtures: CI runs a derandomised, short form, `--long` the proofs in full."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Threads that wait must not spin: tests run side by side. Read when OpenMP is loaded, by torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import HealthCheck, settings

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))

settings.register_profile(
    "short", derandomize=True, deadline=None, max_examples=6, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
settings.register_profile(
    "long", deadline=None, max_examples=200, suppress_health_check=list(HealthCheck)
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run every proof in its long form")
    parser.addoption(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="random specs for so long, in all (N workers are done in an Nth of it)",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")
    torch.set_num_threads(1)  # a test of threads sets its own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker that is done takes over from one that has long tests waiting (`pytest -n auto`)."""
    from xdist.scheduler import WorkStealingScheduling  # installed, or this is never called

    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if budget := config.getoption("--budget"):
        for item in items:
            item.add_marker(pytest.mark.timeout(budget + float(config.getini("timeout"))))
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="long form of a proof: run with --long"))


@pytest.fixture(params=[path.stem for path in SPECS])
def spec(request: pytest.FixtureRequest) -> str:
    """The text of each spec in `specs/`."""
    return (SPECS[0].parent / f"{request.param}.yaml").read_text(encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the searches tried, and which check caught which mutant."""
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, [])]
    found = [entry for r in reports if r.when == "call" for entry in r.user_properties]
    specs = {text for name, texts in found if name == "random specs" for text in texts}
    mutants = [value for name, value in found if name == "mutant"]
    if specs:
        terminalreporter.section("random specs")
        terminalreporter.line(f"{len(specs)} different specs built, compared on every backend")
    if mutants:
        caught = [mutant for mutant in mutants if mutant["caught by"]]
        seen = sum(mutant["way"] == "AssertionError" for mutant in caught)
        terminalreporter.section(
            f"mutants: {len(caught)} of {len(mutants)} caught, {seen} by a comparison"
        )
        for mutant in sorted(mutants, key=lambda mutant: str(mutant["name"])):
            by = mutant["caught by"] or "NOBODY"
            terminalreporter.line(f"{mutant['name']}  [{by}]  {mutant['said'][:90]}")
