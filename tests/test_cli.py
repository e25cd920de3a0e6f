"""The command line and `neurogen.load`: files, exit codes, messages, freshness."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import neurogen
from neurogen.cli import main
from neurogen.compiler.pipeline import compile_file

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
SQUARE = "name: SquareIF\ncharge: v + x**2\n"


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of `neurogen`."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_what_is_committed_is_fresh() -> None:
    code, output = run("build", "--check", *SPECS, "--surrogates", "-o", ROOT / "generated")
    assert code == 0, output


def test_generated_holds_nothing_else() -> None:
    folders = {path.name for path in (ROOT / "generated").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == {path.stem for path in SPECS}
    for path in SPECS:
        names = {p.name for p in (ROOT / "generated" / path.stem).iterdir()} - {"__pycache__"}
        assert names == {a.path for a in compile_file(path).artefacts}


def test_build_writes_a_package_that_imports(tmp_path: Path) -> None:
    (tmp_path / "square_if.yaml").write_text(SQUARE)
    code, output = run("build", tmp_path / "square_if.yaml", "-o", tmp_path / "out")
    assert code == 0
    assert "SquareIF" in output
    program = (
        "import torch; from out.square_if import SquareIFNode; n = SquareIFNode(step_mode='m');"
        "x = torch.full((3, 2), 0.75, requires_grad=True); y = n(x); y.sum().backward();"
        "print(y[:, 0].tolist(), bool(x.grad.abs().sum() > 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[0.0, 1.0, 0.0] True", done.stderr


def test_check_shows_a_diff_and_the_command(tmp_path: Path) -> None:
    spec, out = tmp_path / "square_if.yaml", tmp_path / "out"
    spec.write_text(SQUARE)
    assert run("build", spec, "-o", out)[0] == 0
    kernel = out / "square_if" / "kernels.cpp"
    kernel.write_text(kernel.read_text().replace("x * x", "x * x * x"))
    before = kernel.read_text()
    code, output = run("build", "--check", spec, "-o", out)
    assert code == 1
    assert "-" in output
    assert "x * x * x" in output
    assert f"neurogen build -o {out} {spec}" in output
    assert kernel.read_text() == before, "--check writes nothing"


def test_a_fresh_file_is_left_alone(tmp_path: Path) -> None:
    spec, out = tmp_path / "square_if.yaml", tmp_path / "out"
    spec.write_text(SQUARE)
    run("build", spec, "-o", out)
    target = out / "square_if" / "kernels.cu"
    os.utime(target, (1, 1))
    run("build", spec, "-o", out)
    assert target.stat().st_mtime == 1
    run("build", "--force", spec, "-o", out)
    assert target.stat().st_mtime > 1


def test_only_the_backends_asked_for(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text(SQUARE)
    assert run("build", spec, "-o", tmp_path / "out", "--backend", "cpp")[0] == 0
    assert [p.name for p in (tmp_path / "out" / "a").iterdir()] == ["kernels.cpp"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"bad\.yaml:1:1: NG002 the file is empty"),
        ("name: A\ncharge: v + ta + x\nparameters: {tau: 1}\n", r"bad\.yaml:2:13: NG012 .*'ta'"),
        ("name: A\nname: B\ncharge: v + x\n", r"bad\.yaml:2:1: NG006 duplicate key 'name'"),
        ("name: A\ncharg: v + x\n", r"bad\.yaml:2:1: NG003 unknown key 'charg'"),
    ],
)
def test_a_wrong_spec_writes_nothing(tmp_path: Path, text: str, expected: str) -> None:
    spec = tmp_path / "bad.yaml"
    spec.write_text(text)
    code, output = run("build", spec, "-o", tmp_path / "out")
    assert code == 1
    assert re.search(expected, output), output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: A\nsummary: caf\xe9\ncharge: v + x\n")
    for spec, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "none.yaml", "cannot be read"),
        (latin, "is not UTF-8 text: byte 20 is 0xe9"),
    ):
        code, output = run("build", spec, "-o", tmp_path / "out")
        assert code == 1 or (code == 2 and "module name" in output)
        assert message in output or "module name" in output


def test_one_wrong_spec_stops_the_others(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(SQUARE)
    bad.write_text("name: A\ncharge: v + y\n")
    assert run("build", good, bad, "-o", tmp_path / "out")[0] == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [
    ["build"], ["build", "--nope"], ["x"],
    *(["build", f"{stem}.yaml"] for stem in  # nothing could import their modules
      ("a-b", "__init__", "__pycache__", "\uff4c\uff49\uff46", "a\x1b")),
    *(["verify", "a.yaml", f"--budget={budget}"] for budget in ("nan", "inf", "-1", "long")),
    *(["verify", "a.yaml", f"--seed={seed}"] for seed in (-1, 2**32, 10**30)),
])  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    code, output = run(*arguments)
    assert code == 2
    assert "\x1b" not in output


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", f"none/{'a' * 300}"])
def test_names_that_no_file_can_have(name: str) -> None:
    for command in ("check", "build", "verify") if "\0" not in name else ():  # no argument has one
        code, output = run(command, f"{name}.yaml")
        assert (code, "cannot be read" in output) == (1, True) or "not a module name" in output
    for spec in (name, f"{name}.yaml", Path(name)):
        with pytest.raises(neurogen.SpecError, match="cannot be read"):
            neurogen.load(spec)


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "[b]:100:"
    folder.mkdir()
    spec = folder / "a.yaml"
    spec.write_text("name: A\ncharge: v + y\n")
    assert f"{spec}:2:13" in run("build", spec, "-o", tmp_path)[1].replace("\n", "")
    for form in ("text", "github"):
        output = run("check", "--format", form, tmp_path / "\x1b[2J\udcff.yaml")[1]
        assert "[2J" in output
        assert "\x1b" not in output
        assert "\udcff" not in output


def test_a_script_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurogen.tools.verify import report

    def run_(*arguments: object) -> bool:
        raise FileNotFoundError(2, "No such file or directory", "none/a_fails.py")

    monkeypatch.setattr(report, "run", run_)
    code, output = run("verify", "a.yaml", "-o", "none")
    assert (code, "cannot write none/a_fails.py" in output) == (1, True)


TRAINED = """
import sys, torch
from contextlib import nullcontext
from neurogen.backends.cupy.launch import emulated
from out.a import ANode
x = torch.rand(3, 2, requires_grad=True)
with emulated() if sys.argv[1] == "cupy" else nullcontext():
    ANode(step_mode="m", backend=sys.argv[1])(x).sum().backward()
"""


@pytest.mark.parametrize(("runs_on", "built"), [("cpp", "cpp"), ("auto", "cpp"), ("cupy", "cupy")])
def test_kernels_that_are_not_the_modules_are_not_run(
    tmp_path: Path, runs_on: str, built: str
) -> None:
    def train() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", TRAINED, runs_on], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    spec, out = tmp_path / "a.yaml", tmp_path / "out"
    spec.write_text("name: A\ncharge: v + x\n")
    assert run("build", spec, "-o", out)[0] == 0
    # Kernels that read more states and constants than the module's call gives them.
    own = "states: {v: 0, a: 0, b: 0}\ncharge: {a: a + k * x, b: b + a, v: v + b}\n"
    spec.write_text(f"name: A\nparameters: {{k: 2.0}}\n{own}")
    assert run("build", spec, "-o", out, "--backend", built)[0] == 0
    done = train()
    assert done.returncode == 1, done
    assert re.search(r"BackendError: .*out/a/kernels\.(cpp|cu) is .*run `neurogen build` again",
                     done.stderr)  # fmt: skip
    assert run("build", spec, "-o", out)[0] == 0
    assert train().returncode == 0


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurogen", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"neurogen, version {neurogen.__version__}"


def test_load_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "square_if.yaml").write_text(SQUARE)
    cls = neurogen.load("square_if.yaml")
    assert cls.__name__ == "SquareIFNode"
    assert neurogen.load("square_if.yaml") is cls
    assert neurogen.load_text(SQUARE, "square_if.yaml") is cls
    assert [p.name for p in tmp_path.iterdir()] == ["square_if.yaml"]
    with pytest.raises(neurogen.SpecError, match="cannot be read"):
        neurogen.load("nothing_of_that_name")


def test_readme_examples_run(tmp_path: Path) -> None:
    """The two-line neuron and the two-state one of the README, as printed there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    specs = [b for b in re.findall(r"```yaml\n(.*?)```", readme, re.S) if "name:" in b]
    assert len(specs) == 3
    x = 20 * torch.rand(64, 4, 10)
    for text in specs:
        node = neurogen.load_text(text)(step_mode="m")
        spikes = node(x.clone().requires_grad_())
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
        spikes.sum().backward()


def test_ci_calls_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    second = re.findall(r"```bash\n(.*?)\n```", readme, re.S)[1]
    assert "pytest" in second
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_examples_of_the_language_page_compile() -> None:
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert examples
    for text in examples:
        node = neurogen.load_text(text)(step_mode="m")
        node(*(20 * torch.rand(20, 3) for _ in node.inputs))


def test_every_key_is_on_the_language_page() -> None:
    from neurogen.compiler.spec import Spec

    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    for key in set(Spec.__slots__) - {"source"}:
        assert f"`{key}`" in page
