"""`neurogen verify`: every check holds on the zoo, and can fail; what it prints and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from neurogen.cli import main
from neurogen.nn import surrogate
from neurogen.runtime import functions
from neurogen.tools.verify import Case, determinism, search, smooth, suite, transpose
from neurogen.tools.verify.example import example, expected_of

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
F64 = torch.float64
SQUARE = "name: Square\ncharge: 0.5 * v + x**3\n"
EXPECT = "name: A\nstates: {v: 0.0}\ncharge: 0.5 * v + x\nexpect: "


def text_of(stem: str) -> str:
    return (SPECS[0].parent / f"{stem}.yaml").read_text(encoding="utf-8")


# ---------------------------------------------------------------- expect


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize(
    "path", [p for p in SPECS if "\nexpect:" in p.read_text("utf-8")], ids=lambda path: path.stem
)
def test_examples_of_the_zoo(path: Path, backend: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert expected_of(text) is not None
    for dtype in (F64, torch.float32):
        findings = example(text, Case(backend, dtype=dtype))
        assert findings
        assert [finding for finding in findings if not finding.holds] == []


@pytest.mark.parametrize(
    ("expect", "holds"),
    [
        ("{input: [0.5, 0.75, 1.0], spikes: [1, 2]}", True),
        ("{input: [0.5, 0.75, 1.0], spikes: [1]}", False),
        ("{input: [0.5, 0.75, 1.0], spikes: [0, 1, 2]}", False),
        ("{input: [0.5, 0.25, 0.25], states: {v: [0.5, 0.5, 0.5]}}", True),
        ("{input: [0.5, 0.25, 0.25], states: {v: [0.5, 0.5, 0.51]}}", False),
        ("{input: [0.5, 1.0], spikes: [1], states: {v: [0.5, 0.0]}}", True),
        ("{input: {x: [0.5, 1.0]}, spikes: []}", False),
    ],
)
def test_an_example_is_checked(expect: str, holds: bool) -> None:
    findings = example(EXPECT + expect, Case("torch", dtype=F64))
    assert all(finding.holds for finding in findings) == holds


def test_spikes_are_not_expected_of_another_output() -> None:
    text = f"{EXPECT}{{input: [2.0], spikes: [0]}}\noutput: v\n"
    (finding,) = example(text, Case("torch", dtype=F64))
    assert not finding.holds
    assert "no spike" in finding.quantity


# ---------------------------------------------------------------- each check can fail


def test_finite_differences_see_a_wrong_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("torch", dtype=F64)
    assert all(finding.holds for finding in smooth.smooth(SQUARE, case))
    monkeypatch.setattr(functions, "power", lambda a, n: a.detach() * a * a)
    assert not all(finding.holds for finding in smooth.smooth(SQUARE, case))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SQUARE, ""),
        ("name: A\ncharge: v + detach(x) + x", "detach"),
        ("name: A\ncharge: v + x\nfire: {when: v >= 1, kind: multilevel, levels: 2}\nreset: soft",
         "levels"),
        ("name: A\nstates: {v: 0.0, n: {init: 0, integer: true}}\n"
         "charge: {v: v + x, n: n + 1}\noutput: spike * n", "detach"),
    ],
)  # fmt: skip
def test_where_finite_differences_say_nothing(text: str, reason: str) -> None:
    assert (reason in smooth.differs_by_design(text)) and bool(reason) == bool(
        smooth.differs_by_design(text)
    )


@pytest.mark.parametrize("stem", ["plif", "srm", "lif_refractory"])
def test_transpose_identity(stem: str) -> None:
    for backend in ("cpp", "cupy"):
        (finding,) = transpose.transpose(text_of(stem), Case(backend, dtype=F64))
        assert finding.holds, finding


def test_transpose_identity_sees_a_wrong_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurogen.runtime import fused

    right = fused.backward

    def wrong(*arguments: Any) -> list[torch.Tensor | None]:
        first, *rest = right(*arguments)
        return [None if first is None else first * 1.001, *rest]

    monkeypatch.setattr(fused, "backward", wrong)
    (finding,) = transpose.transpose(SQUARE, Case("cpp", dtype=F64))
    assert not finding.holds


def test_threads_and_hash_seeds() -> None:
    findings = determinism.threads(SQUARE, Case("cpp", dtype=F64)) + determinism.hash_seeds(SQUARE)
    assert [finding.error for finding in findings] == [0.0, 0.0]


# ---------------------------------------------------------------- the matrix, the search


def test_the_matrix_is_whole() -> None:
    cells = suite.cells(text_of("lif"))
    assert len(cells) == len(set(cells)) == 3 * 2 * 2 * 4 * 2  # with its flag both ways
    assert len(suite.cells("name: A\ncharge: v + x\nreset: hard\n")) == 3 * 2 * 4


def test_a_failure_is_made_small_and_written_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = Case("torch", dtype=F64)
    assert search.failing(SQUARE, case, 0, 3) is None
    monkeypatch.setattr(functions, "power", lambda a, n: a * a)
    problem = search.failing(SQUARE, case, 0, 20)
    assert problem is not None
    assert (problem.steps, problem.shape) == (1, (1,))
    spec = tmp_path / "square.yaml"
    spec.write_text(SQUARE, encoding="utf-8")
    script = search.script(str(spec), case, problem, SQUARE)
    assert " > " in script.splitlines()[0]
    assert "# x = [[" in script
    with pytest.raises(AssertionError, match=" > "):
        exec(compile(script, "script", "exec"), {})
    monkeypatch.undo()
    exec(compile(script, "script", "exec"), {})


# ---------------------------------------------------------------- the command


def test_the_command_says_what_holds(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text(EXPECT + "{input: [0.5, 1.0], spikes: [1]}\n", encoding="utf-8")
    command = ["verify", str(spec), "--backend", "torch", "--budget", "0", "--seed", "3"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    for word in (
        "float64",
        "bfloat16",
        "soft, detached",
        "transpose",
        "expect",
        "everything holds",
    ):
        assert word in done.output


def test_the_command_says_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "square.yaml"
    spec.write_text(SQUARE, encoding="utf-8")
    monkeypatch.setattr(functions, "power", lambda a, n: a * a)
    command = ["verify", str(spec), "--backend", "torch", "--budget", "0", "-o", str(tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "fail" in done.output
    script = tmp_path / "square_fails.py"
    run = subprocess.run([sys.executable, str(script)], check=False)
    assert run.returncode == 0, "here, in another process, nothing is broken"


def test_the_command_refuses(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text("name: A\ncharge: v + y\n", encoding="utf-8")
    assert "NG012" in CliRunner().invoke(main, ["verify", str(spec)]).output
    unknown = CliRunner().invoke(main, ["verify", str(spec), "--backend", "gpu"])
    assert unknown.exit_code == 2
    assert CliRunner().invoke(main, ["verify"]).exit_code == 2
    missing = CliRunner().invoke(main, ["verify", str(tmp_path / "none.yaml")])
    assert missing.exit_code == 1
    assert "NG001" in missing.output


def test_a_surrogate_in_smooth_mode_stays_with_its_node() -> None:
    smooth.smooth(SQUARE, Case("torch", dtype=F64))
    assert surrogate.Sigmoid().spiking
