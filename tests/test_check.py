"""`neurogen check` and `neurogen explain`: warnings where they are due and nowhere else.

`specs/warned/NG1xx_name.yaml` says in its first lines what must be warned of and where; the file of
the same name in `specs/valid` is its mended version, which must be silent.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from neurogen import messages
from neurogen.cli import main
from neurogen.compiler import reader, surrogates, transforms
from neurogen.compiler.pipeline import check_file, compile_file, compile_text
from neurogen.compiler.warnings import find_warnings
from neurogen.errors import Location, Mistake, SpecError
from neurogen.loading import load_text
from neurogen.mistakes import CODES, FIRST_WARNING, MISTAKES

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tests" / "specs"
WARNED = sorted((HERE / "warned").glob("*.yaml"))
SILENT = sorted([*(ROOT / "specs").glob("*.yaml"), *(HERE / "valid").glob("quiet_*.yaml"),
                 *(HERE / "valid" / path.name for path in WARNED)])  # fmt: skip


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and error of `neurogen`."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def found_in(text: str) -> list[str]:
    """`CODE line:column message` of every mistake, or of every warning."""
    try:
        compiled = compile_text(text)
    except SpecError as error:
        found = error.mistakes
    else:
        found = find_warnings(compiled.model, compiled.program)
    return [f"{m.code} {m.location.line}:{m.location.column} {m.message}" for m in found]


# -- warnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WARNED, ids=lambda path: path.stem)
def test_warnings_are_found_where_they_stand(path: Path) -> None:
    expected = re.findall(r"^# expect: (NG\d{3} \d+:\d+ .*)$", path.read_text(), re.MULTILINE)
    found = found_in(path.read_text())
    assert len(found) == len(expected) > 0
    for part, line in zip(sorted(expected), sorted(found), strict=True):
        place, words = part.split(" ", 2)[:2], part.split(" ", 2)[2]
        assert line.split(" ", 2)[:2] == place and words in line, (part, line)


@pytest.mark.parametrize("path", SILENT, ids=lambda path: path.stem)
def test_a_good_spec_is_silent(path: Path) -> None:
    assert check_file(path) == ()


def test_every_warning_has_a_pair() -> None:
    warned = {path.name.split("_")[0] for path in WARNED}
    assert warned == {code for code in CODES if code >= FIRST_WARNING}


@pytest.mark.parametrize(
    ("spec", "code"),
    [  # near misses, one side of a line and the other
        ("parameters: {a: {default: 1, where: a >= 0}}\ncharge: v + sqrt(a) * x", ""),
        ("parameters: {a: {default: 1, where: a >= -1}}\ncharge: v + sqrt(a) * x", "NG102"),
        ("parameters: {a: {default: 1, where: a != 0}}\ncharge: v + x / a", ""),
        ("parameters: {a: {default: 1, where: a < 2}}\ncharge: v + x / a", "NG101"),
        ("parameters: {a: 1}\ncharge: v + x / a", ""),
        ("parameters: {a: 0}\ncharge: v + x / a", "NG101"),
        ("parameters: {a: {default: 3, where: 2 < a and a < 4}}\ncharge: v + x / (a - 2)", ""),
        ("parameters: {a: {default: 3, where: 2 < a and a < 4}}\ncharge: v + x / (a - 3.7)",
         "NG101"),
        ("learnable: {a: {init: 1, transform: exp}}\ncharge: v + x / (a + 1)", ""),
        ("learnable: {a: {init: 1, transform: exp}}\ncharge: v + x / (a - 0.3)", "NG101"),
        ("parameters: {a: {default: 2, where: a > 1}}\nlearnable: {w: -log(a - 1)}\n"
         "charge: v + x * sigmoid(w)", ""),
        ("parameters: {a: {default: 2, where: a >= 1}}\nlearnable: {w: -log(a - 1)}\n"
         "charge: v + x * sigmoid(w)", "NG102"),
        ("states: {v: 0.0, a: 0.0}\ncharge: v + x / (1 + a)\nreset: {a: 0.9 * a + spike}", ""),
        ("states: {v: 0.0, a: 0.0}\ncharge: v + x / a\nreset: {a: 0.9 * a + spike}", "NG101"),
        ("charge: v + exp(min(x, 88))", ""),
        ("charge: v + exp(min(x, 89))", "NG103"),
        ("charge: v + x * exp(-dt / 2)", ""),
        ("flags: {f: false}\ncharge: v + log(x) if f else v + x", "NG102"),
        ("charge: v + (log(x) if x > 0 else 0)", ""),
        ("charge: v + (log(x) if x >= 0 else 0)", "NG102"),
        ("learnable: {w: 0.5}\ncharge: v + x\nfire: v >= w", ""),
        ("learnable: {w: 0.5}\ncharge: v + x * floor(w)", "NG104"),
        ("learnable: {w: 0.5}\nstates: {v: w}\ncharge: v + x", ""),
        ("learnable: {a: 0.5}\ndynamics: {v: -v * a + x}\nscheme: exact", ""),
        ("charge: x\nfire: v >= 1", "NG106"),
        ("charge: x\nfire: {when: v >= 1, if: x > 0}\nreset: {v: prev(v) * spike}", ""),
        ("charge: v + x\nfire: {when: x >= 1, kind: ternary}\nreset: soft", "NG105"),
        ("charge: v + x\nfire: {when: x >= 1 - prev(spike)}", ""),
    ],
)  # fmt: skip
def test_both_sides_of_a_warning(spec: str, code: str) -> None:
    found = {line.split()[0] for line in found_in(f"name: A\n{spec}\n")}
    # NG105 and NG106 also go with what is tested here: a spec may deserve two warnings.
    assert found == ({code} if code else set()), found


# -- resets, bounds, shapes ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ternary", "multilevel, levels: 3"])
def test_the_hard_reset_is_for_binary_spikes(kind: str) -> None:
    spec = f"name: A\ncharge: v + x\nfire: {{when: v >= v_threshold, kind: {kind}}}\n"
    for reset in ("", "reset: auto", "reset: hard"):
        (found,) = found_in(spec + reset)
        assert found.startswith("NG042")
    for reset in ("reset: soft", "reset: none", "reset: {v: v * (1 - abs(spike))}"):
        assert not found_in(spec + reset)


def test_a_subtracted_ternary_spike_acts_both_ways() -> None:
    """What NG042 is about: after a spike of -1 the membrane is nearer to rest, not further."""
    import torch

    text = "name: A\ncharge: v + x\nfire: {when: v >= v_threshold, kind: ternary}\nreset: soft"
    node = load_text(text)()
    assert node(torch.tensor([-1.5, 1.5, 0.5])).tolist() == [-1, 1, 0]
    assert node.v.tolist() == [-0.5, 0.5, 0.5]


def test_transforms_are_those_of_the_runtime() -> None:
    from neurogen.runtime.prelude import TRANSFORMS

    assert set(transforms.TRANSFORMS) == set(TRANSFORMS)


@pytest.mark.parametrize("name", sorted(surrogates.TABLE))
def test_shapes_without_slope_are_refused(name: str) -> None:
    from neurogen.nn import surrogate

    entry = surrogates.TABLE[name]
    cls = getattr(surrogate, entry.class_name)
    assert cls.positive == entry.positive
    for shape in entry.positive:
        for value in (0.0, -1.0):
            with pytest.raises(ValueError, match=f"{shape} must be above 0, not {value:g}"):
                cls(**{shape: value})
            text = f"name: A\ncharge: v + x\nsurrogate: {{name: {name}, {shape}: {value}}}"
            assert found_in(text)[0].startswith("NG033 3:")
    for shape in set(cls.shape) - set(entry.positive):
        assert getattr(cls(**{shape: 0.0}), shape) == 0


# -- explanations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", MISTAKES)
def test_the_example_of_each_code_shows_it_and_its_mended_form_nothing(code: str) -> None:
    entry = MISTAKES[code]
    assert bool(entry.bad) == bool(entry.good)
    assert entry.text.endswith(".") and not entry.title.endswith(".")
    if entry.bad:
        assert {line.split()[0] for line in found_in(entry.bad)} == {code}
        assert found_in(entry.good) == []
    else:
        assert code == "NG001"  # it is about files


@pytest.mark.parametrize("code", MISTAKES)
def test_markdown_of_an_explanation_has_no_accidents(code: str) -> None:
    prose = re.sub("`[^`]*`", "", MISTAKES[code].text + MISTAKES[code].title)
    assert not set("*`<>") & set(prose)


def test_the_page_of_mistakes_is_fresh() -> None:
    page = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    assert page == messages.page() == run("explain", "--markdown")[1]


def test_explain() -> None:
    code, output, _ = run("explain", "ng012")
    assert code == 0
    assert "unknown name" in output and "(x - v) / ta" in output and "(x - v) / tau" in output
    assert run("explain")[1].splitlines() == [f"{code}  {title}" for code, title in CODES.items()]
    code, _, complaint = run("explain", "NG999")
    assert code == 2 and "NG999" in complaint


def test_every_code_in_the_compiler_is_in_the_table() -> None:
    sources = "".join(p.read_text() for p in Path(reader.__file__).parent.glob("*.py"))
    assert set(re.findall(r'"(NG\d{3})"', sources)) == set(CODES)


# -- the command -----------------------------------------------------------------------------------

BAD = "name: A\nparameters: {tau: 2.0}\ncharge: v + x / ta\nfire: v\n"
ODD = "name: B\ncharge: v + sqrt(x)\n"
GOOD = "name: C\ncharge: v + x\n"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.yaml" for name in ("bad", "odd", "good")]
    for path, text in zip(paths, (BAD, ODD, GOOD), strict=True):
        path.write_text(text)
    return paths


def test_exit_codes(three: list[Path], tmp_path: Path) -> None:
    good = three[2]
    assert [run("check", spec)[0] for spec in three] == [1, 0, 0]
    assert [run("check", "--strict", spec)[0] for spec in three] == [1, 1, 0]
    assert run("check", good, tmp_path / "none.yaml")[0] == 1
    assert run("check")[0] == run("check", "--format", "xml", good)[0] == 2
    assert sorted(tmp_path.iterdir()) == sorted(three), "check writes nothing"


def test_text_shows_all_files(three: list[Path]) -> None:
    code, output, summary = run("check", *three)
    assert code == 1
    assert summary == "3 specs, 2 mistakes, 1 warning\n"
    bad, odd, _ = three
    for line in (f"{bad}:3:17: NG012 charge: unknown name 'ta'", "    charge: v + x / ta",
                 " " * 20 + "^^", "    hint: did you mean 'tau'?", f"{bad}:4:7: NG024 fire",
                 f"{odd}:2:18: warning NG102 charge: sqrt of 'x', which is -0.3"):  # fmt: skip
        assert any(shown.startswith(line) for shown in output.splitlines()), line
    assert run("check", three[2])[1:] == ("", "1 spec, 0 mistakes, 0 warnings\n")


def test_json_is_complete(three: list[Path]) -> None:
    _, output, _ = run("check", "--format", "json", *three)
    first, *_, last = found = json.loads(output)
    assert len(found) == 3
    assert first == {
        "file": str(three[0]), "line": 3, "column": 17, "end_column": 19, "code": "NG012",
        "severity": "error", "field": "charge", "message": "unknown name 'ta'",
        "hint": "did you mean 'tau'?", "text": "charge: v + x / ta",
    }  # fmt: skip
    assert (last["severity"], last["code"]) == ("warning", "NG102")
    assert json.loads(run("check", "--format", "json", three[2])[1]) == []


def test_github_annotations(three: list[Path]) -> None:
    _, output, _ = run("check", "--format", "github", *three)
    first, *_, last = output.splitlines()
    place = "line=3,endLine=3,col=17,endColumn=19"
    assert first == (f"::error file={three[0]},{place},title=NG012 charge::unknown name 'ta'"
                     "%0Ahint: did you mean 'tau'?")  # fmt: skip
    assert last.startswith(f"::warning file={three[1]},line=2,")


def test_nothing_leaves_an_annotation() -> None:
    place = Location("a,b:c%\n::error::x.yaml", 1, 1, "")
    shown = messages.github([Mistake("NG012", "100%\r\n::error file=x::y", place, "p", "a\nb")])
    assert shown.count("\n") == shown.count("\r") == 0
    properties, message = shown.removeprefix("::error ").split("::", 1)
    assert properties.startswith("file=a%2Cb%3Ac%25%0A%3A%3Aerror%3A%3Ax.yaml,line=1,")
    assert message == "100%25%0D%0A::error file=x::y%0Ahint: a%0Ab"


def test_check_loads_no_torch(three: list[Path]) -> None:
    program = (
        "import sys; from neurogen.cli import main\n"
        f"main(['check', {str(three[2])!r}], standalone_mode=False)"
    )
    program = (
        f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n{program}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n", done.stderr


def test_warnings_do_not_stop_a_build(three: list[Path], tmp_path: Path) -> None:
    assert run("build", three[1], "-o", tmp_path / "out")[0] == 0
    assert compile_file(three[1]).model.spec.name == "B"
