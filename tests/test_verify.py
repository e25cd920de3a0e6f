"""`neurogen verify`: every check holds on the zoo, and can fail; what it prints and writes."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from neurogen.backends.cpp import launch as cpp
from neurogen.cli import main
from neurogen.nn import surrogate
from neurogen.runtime import functions, fused
from neurogen.runtime.abi import Operand
from neurogen.runtime.layout import Layout
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify import (
    BACKENDS,
    Case,
    Comparison,
    Finding,
    Problem,
    compare,
    compare_all,
    determinism,
    matrix,
    module,
    report,
    script,
    search,
    smooth,
    suite,
    transpose,
)
from neurogen.tools.verify.example import example, expected_of
from neurogen.tools.verify.nodes import build

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
F64 = torch.float64
#: The checks of `module`.
BESIDE = ("step modes", "reset", "two halves", "arriving gradients", "values per channel",
          "past the caches")  # fmt: skip
STREAMED = 5  # of a kernel's arguments: whether rows are written past the caches
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
    case = Case("cpp", dtype=F64)
    findings = determinism.threads(SQUARE, case) + determinism.hash_seeds(SQUARE, case)
    assert [finding.error for finding in findings] == [0.0, 0.0]


def test_threads_see_a_sum_that_depends_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of blocks in the order in which two threads might come to it."""
    right = cpp.sum

    def wrong(kernels: Any, variant: Any, shares: Tensor, *rest: Any) -> None:
        halves = shares.reshape(-1).chunk(torch.get_num_threads())
        right(kernels, variant, torch.cat(halves[::-1]).reshape(shares.shape), *rest)

    text = "name: A\nlearnable: {w: 0.3}\ncharge: 0.5 * v + w * x\n"
    case = Case("cpp", dtype=F64)
    assert all(finding.holds for finding in determinism.threads(text, case))
    monkeypatch.setattr(cpp, "sum", wrong)
    (finding,) = determinism.threads(text, case)
    assert 0 < finding.error < 1e-12, "other bits, and nothing worse"


def test_hash_seeds_see_the_order_of_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: Hashed\ncharge: 0.5 * v + x\n"
    seeded = determinism._DIGEST.replace("a.text for", "a.text + str({'a', 'b', 'c', 'd'}) for")
    monkeypatch.setattr(determinism, "_DIGEST", seeded)
    monkeypatch.setattr(determinism, "HASH_SEEDS", ("0", "1"))
    determinism.digests.cache_clear()
    assert len(determinism.digests(text)) > 1
    (finding,) = determinism.hash_seeds(text, Case("torch", dtype=F64))
    assert not finding.holds
    determinism.digests.cache_clear()


# ---------------------------------------------------------------- a node beside one run

STATEFUL = "name: A\nstates: {v: v_rest, a: 0.0}\ncharge: {v: 0.5 * v + x - a, a: 0.5 * a + v}\n"


@pytest.mark.parametrize(
    ("stem", "backend"),
    [("lif_refractory", "torch"), ("noisy_lif", "cpp"), ("srm", "cupy"), ("glif", "cpp")],
)
def test_a_node_beside_one_run(stem: str, backend: str) -> None:
    for name in BESIDE:
        found = suite.check(name, text_of(stem), Case(backend, dtype=F64))
        if not isinstance(found, str):
            found.require()


def test_step_modes_see_a_state_that_is_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("torch", dtype=F64)
    assert all(finding.holds for finding in module.step_modes(STATEFUL, case))
    single = Neuron.single_step_forward

    def wrong(self: Neuron, *inputs: Tensor, t: int | None = None) -> Tensor:
        self.a = torch.zeros_like(inputs[0])
        return single(self, *inputs, t=t)

    monkeypatch.setattr(Neuron, "single_step_forward", wrong)
    assert not all(finding.holds for finding in module.step_modes(STATEFUL, case))


def test_step_modes_see_a_gradient_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = Neuron._remember
    monkeypatch.setattr(Neuron, "_remember", lambda self, following: remember(
        self, following | {"a": following["a"].detach()}))  # fmt: skip
    wrong = [f for f in module.step_modes(STATEFUL, Case("torch", dtype=F64)) if not f.holds]
    assert wrong
    assert all(f.quantity.startswith("gradient") for f in wrong)


def test_reset_sees_what_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("torch", dtype=F64)
    assert all(finding.holds for finding in module.reset(STATEFUL, case))
    right = Neuron.reset

    def wrong(self: Neuron) -> None:
        kept = self._memories.get("a")
        right(self)
        if kept is not None:
            self.a = kept

    monkeypatch.setattr(Neuron, "reset", wrong)
    assert not all(finding.holds for finding in module.reset(STATEFUL, case))


def test_halves_see_a_state_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("torch", dtype=F64)
    assert all(finding.holds for finding in module.halves(STATEFUL, case))
    right = Neuron.functional

    def wrong(self: Neuron, *inputs: Tensor, **keywords: Any) -> Any:
        outputs, state = right(self, *inputs, **keywords)
        return outputs, state | {"a": torch.zeros_like(state["a"])}

    monkeypatch.setattr(Neuron, "functional", wrong)
    assert not all(finding.holds for finding in module.halves(STATEFUL, case))


@pytest.mark.parametrize("name", ["v_seq", "output"])
def test_arriving_gradients_are_read_with_their_strides(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("cpp", dtype=F64)
    assert all(finding.holds for finding in module.arriving(STATEFUL, case))

    def wrong(self: Layout, sequence: Tensor) -> tuple[Tensor, int]:
        return sequence, sequence.stride(0) if name == "output" else self.neurons

    if name == "output":
        monkeypatch.setattr(Layout, "rows", wrong)
    else:
        monkeypatch.setattr(fused, "_dense", lambda layout, sequence: layout.rows(sequence)[0])
    wrong_ones = [finding for finding in module.arriving(STATEFUL, case) if not finding.holds]
    assert wrong_ones


def test_channels_see_a_value_of_another_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    text, case = text_of("lif"), Case("cpp", dtype=F64)
    right = Layout.operand

    def wrong(self: Layout, value: Tensor) -> Operand:
        found = right(self, value)
        return replace(found, inner=1)

    monkeypatch.setattr(Layout, "operand", wrong)
    assert not all(finding.holds for finding in module.channels(text, case))


def test_streams_see_a_row_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    text, case = text_of("lif"), Case("cpp", dtype=F64)
    right, seen = cpp.forward, []

    def wrong(kernels: Any, variant: Any, neurons: int, arguments: list[int], device: Any) -> None:
        right(kernels, variant, neurons, arguments, device)
        seen.append(arguments[STREAMED])
        if arguments[STREAMED]:
            ctypes.memset(arguments[-4], 0, 8 * neurons)

    monkeypatch.setattr(cpp, "forward", wrong)
    found = module.streamed(text, case)
    assert seen == [1]
    assert not isinstance(found, str)
    assert not all(finding.holds for finding in found)
    assert cpp.STREAM_BYTES > 0


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
    result = suite.Result("reference", case, compare(SQUARE, case, problem), failing=problem)
    text = script.script(spec, SQUARE, result, 0)
    assert " > " in text.splitlines()[1]
    assert "# x = [[" in text
    with pytest.raises(AssertionError, match=" > "):
        exec(compile(text, "script", "exec"), {})
    monkeypatch.undo()
    exec(compile(text, "script", "exec"), {})


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


def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer cells and checks, a shorter search."""
    few = ("step modes", "values per channel")
    monkeypatch.setattr(suite, "DTYPES", (F64,))
    monkeypatch.setattr(suite, "CHECKS", {name: suite.CHECKS[name] for name in few})
    monkeypatch.setattr(search, "failing", partial(search.failing, seconds=3.0))


#: A cube that is a square, for a script in a process of its own.
BREAK = """
from neurogen.runtime import functions, fused
from neurogen.runtime.abi import Operand
from neurogen.runtime.layout import Layout
from neurogen.runtime.neuron import Neuron
functions.power = lambda a, n: a * a
"""


def test_the_command_says_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "folder"
    spec = tmp_path / "square.yaml"
    spec.write_text(SQUARE, encoding="utf-8")
    monkeypatch.setattr(functions, "power", lambda a, n: a * a)
    quicker(monkeypatch)
    command = ["verify", str(spec), "--backend", "torch", "--budget", "0", "-o", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "checks fail" in done.output
    written = sorted(path.name for path in out.iterdir())
    assert written == ["square_fails.py", "square_values_per_channel_fails.py"]
    texts = [(out / name).read_text("utf-8") for name in written]
    assert "# x = [[" in texts[0]
    for text in texts:
        told = text.splitlines()[1].split(": ", 1)[1]
        assert re.search(r"[\de.-]+ > [\de.-]+$", told)
        with pytest.raises(AssertionError, match=re.escape(told)):
            exec(compile(text, "script", "exec"), {})
    monkeypatch.undo()
    for text in texts:
        exec(compile(text, "script", "exec"), {})
    broken = subprocess.run(
        [sys.executable, "-c", BREAK + texts[0]], capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert texts[0].splitlines()[1].split(": ", 1)[1] in broken.stderr


@pytest.mark.parametrize(
    ("check", "problem"),
    [*((name, None) for name in (*suite.CHECKS, "reference")), ("reference", Problem(1, (1,)))],
    ids=str,
)
def test_every_failure_has_a_script(
    check: str, problem: Problem | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the same question again, whatever is written in the spec."""
    monkeypatch.setattr(determinism, "HASH_SEEDS", ("5",))
    text = EXPECT + '{input: [0.5, 1.0], spikes: [1]}\ndoc: "two \\" quotes, \'"\n'
    path, case = Path("a/square.yaml"), Case("cpp", dtype=F64)
    result = suite.Result(check, case, raised="ValueError: [bold]\nno", failing=problem)
    target = script.target(tmp_path, path, check)
    target.write_text(script.script(path, text, result, 3), encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(compile(target.read_text("utf-8"), "script", "exec"), namespace)
    assert namespace["text"] == text
    assert script.target(tmp_path, path, check) == target
    assert script.target(tmp_path, Path("b/square.yaml"), check) != target


def test_what_raises_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One backend of two: a cell that says so, and a script that raises the same."""

    def broken(*_: Any) -> None:
        raise RuntimeError("the device [red]burns[/red]")

    spec = tmp_path / "[bold]a.yaml"
    spec.write_text(SQUARE, encoding="utf-8")
    monkeypatch.setattr(cpp, "forward", broken)
    monkeypatch.setattr(cpp, "prepare", lambda *_: None)
    quicker(monkeypatch)
    command = ["verify", str(spec), "--backend", "torch", "--backend", "cpp", "--budget", "0",
               "-o", str(tmp_path)]  # fmt: skip
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "raises" in done.output
    assert "cpp, float64, hard reset: RuntimeError: the device [red]burns[/red]" in done.output
    assert f"{spec}: " in done.output.replace("\n", "")
    text = (tmp_path / "[bold]a_fails.py").read_text("utf-8")
    with pytest.raises(RuntimeError, match="burns"):
        exec(compile(text, "script", "exec"), {})


def test_a_folder_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    spec, taken = tmp_path / "a.yaml", tmp_path / "taken"
    spec.write_text(SQUARE, encoding="utf-8")
    taken.write_text("", encoding="utf-8")
    done = CliRunner().invoke(main, ["verify", str(spec), "-o", str(taken / "folder")])
    assert done.exit_code == 1
    assert "no script can be written to" in done.output


@pytest.mark.parametrize("bound", ["p < 1", "p > 0.98 and p < 1", "p >= 0.99", "p == 0.99"])
@pytest.mark.parametrize("dyadic", [False, True])
def test_parameters_spread_where_their_bounds_admit_it(bound: str, dyadic: bool) -> None:
    text = f"name: A\nparameters: {{p: {{default: 0.99, where: {bound}}}}}\ncharge: p * v + x\n"
    case, problem = Case("torch", dtype=F64), Problem(shape=(40,), learnt="neuron", dyadic=dyadic)
    compare(text, case, problem).require()
    p = build(text, case, problem).p.detach()
    narrow = bound.startswith("p >") and "<" in bound
    assert (p.unique().numel() == 1) == (narrow or "==" in bound)
    assert p.dtype == F64
    assert 0.99 in p or not dyadic


@pytest.mark.parametrize(
    ("fire", "words"),
    [("v >= 1e9", "never fired"), ("v >= -1e9", "fired at every step"), ("v >= 1", "")],
)
def test_silence_is_said(fire: str, words: str) -> None:
    text = f"name: A\ncharge: 0.5 * v + x\nfire: {fire}\n"
    case = Case("torch", dtype=F64)
    results = [suite.Result("reference", case, compare(text, case, Problem()))]
    assert results[0].holds
    said = report.verdict(results, 0)
    assert words in said
    assert ("not proved" in said) == bool(words)


def test_what_is_lost_is_said() -> None:
    text = "name: A\ncharge: 0.5 * v + x * (v - v) / (v - v)\nfire: none\noutput: v\n"
    case = Case("torch", dtype=F64)
    results = [suite.Result("reference", case, compare(text, case, Problem()))]
    assert results[0].holds
    assert any("all values of output are NaN" in line for line in report.doubts(results))
    half = Comparison([Finding("a", 0.0, 0.0, 0.5), Finding("b", 0.0, 0.0)])
    assert report.doubts([suite.Result("reference", case, half)]) == []
    assert "50% NaN" in str(report._cell([suite.Result("reference", case, half)]))


def test_the_worst_is_nearest_to_its_limit() -> None:
    near, large, broken = (Finding("near", 9e-6, 1e-5), Finding("large", 1e-3, 1e-2),
                           Finding("broken", 1e-9, 0.0))  # fmt: skip
    assert Comparison([large, near]).worst == near
    assert Comparison([large, broken, near]).worst == broken
    assert Comparison([Finding("nan", float("nan"), 1.0), near]).worst != near


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_no_gradient_hides_behind_a_larger_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ("name: A\nparameters: {p: 1.0, q: 1.0}\ncharge: 0.5 * v + 100000 * p * x + q * x\n"
            "fire: none\noutput: v\n")  # fmt: skip
    case, right = Case("torch", dtype=dtype), matrix.build
    compare(text, case, Problem()).require()

    def wrong(*given: Any) -> Neuron:
        node = right(*given)
        node.q.register_hook(lambda gradient: 1.01 * gradient)
        return node

    monkeypatch.setattr(matrix, "build", wrong)
    with pytest.raises(AssertionError, match=r"gradient of q: 0\.01 > "):
        compare(text, case, Problem()).require()


def test_what_cancels_is_measured_beside_its_terms() -> None:
    """-0.014 is what is left of terms of about 5: rounding moves it by 7e-5 of itself."""
    case = Case("torch", "soft", True, torch.float32, "sigmoid")
    problem = Problem(steps=44, shape=(3,), seed=2040, given_state=False)
    found = compare(text_of("qif"), case, problem)
    found.require()
    beside = [f.quantity for f in found.findings if "beside" in f.quantity]
    assert beside == ["gradient of v_threshold beside the terms that cancel"]


CHAOTIC = "name: A\ncharge: 'v * exp(2.9 * (1 - v)) + 0.001 * tanh(x)'\nfire: none\noutput: v\n"


def test_what_is_chaotic_is_held_to_what_rounding_does() -> None:
    """Ricker's map (1954): a rounding grows e-fold in two steps; a wrong step is seen at once."""
    case, limit = Case("cpp", dtype=F64), matrix.STATE_LIMIT[F64]
    found = compare(CHAOTIC, case, Problem(steps=55, shape=(3,)))
    found.require()
    beyond = {f.quantity for f in found.findings if f.error > limit}
    growing = ("state v", "gradient of x", "gradient of initial v")
    assert beyond == {quantity + matrix.GROWING for quantity in growing}

    wanted = matrix.expectation(CHAOTIC, case, Problem(steps=4, shape=(3,)))
    assert wanted.unsteady("state v") < 1e-13  # nothing has grown yet
    wanted.text = CHAOTIC.replace("2.9", "2.9000000001")
    with pytest.raises(AssertionError, match="state v"):
        matrix.hold(wanted, case).require()
    wanted = matrix.expectation(CHAOTIC, case, Problem(steps=400, shape=(3,)))
    assert wanted.unsteady("state v") == matrix.ROUNDING_LIMIT  # and no more, however it grows


def test_flags_are_flipped_each_alone() -> None:
    text = ("name: A\nflags: {a: true, b: false, c: true}\n"
            "charge: v + (x if a else 2 * x) + (x if b else 0) - (0 if c else v)\n")  # fmt: skip
    flags = {tuple(value for _, value in case.flags) for case in suite.cells(text)}
    assert flags == {(True, False, True), (False, False, True), (True, True, True),
                     (True, False, False), (False, True, False)}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("charge", ["0.5 * v + x", "0.5 * v + tanh(x)"])
def test_outputs_in_half_precision(charge: str, dtype: torch.dtype) -> None:
    """That are no spikes: rounded once, to the nearest."""
    text = f"name: A\ncharge: {charge}\nfire: none\noutput: v\n"
    for found in compare_all(text, Case("torch", dtype=dtype), Problem(), BACKENDS).values():
        found.require()


def test_half_precision_that_cuts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: A\ncharge: 0.5 * v + x\nfire: none\noutput: v\n"
    case, right = Case("torch", dtype=torch.float16), torch.stack
    monkeypatch.setattr(torch, "stack", lambda rows, *rest: right(rows, *rest) * (1 + 2**-10))
    with pytest.raises(AssertionError, match="output"):
        compare(text, case, Problem()).require()


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
