"""Generated files under adverse conditions: whole or not at all, and the next run heals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import unprivileged

from neurogen.compiler.artefact import Artefact, _machine
from neurogen.compiler.pipeline import compile_file

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "specs" / "lif.yaml"
BUILD = "from neurogen.cli import main\nmain(['build', sys.argv[1], '-o', sys.argv[2]])"


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{program}", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it complained of."""
    _, complaint = process.communicate()
    return process.returncode, complaint


def texts(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones included."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    return {artefact.path: artefact.text for artefact in compile_file(SPEC).artefacts}


def test_many_processes_build_the_same_neuron_at_once(
    tmp_path: Path, built: dict[str, str], request: pytest.FixtureRequest
) -> None:
    running = [
        start(BUILD, SPEC, tmp_path) for _ in range(20 if request.config.getoption("--long") else 6)
    ]
    seen = 0
    while any(process.poll() is None for process in running):  # a reader sees all of a file or none
        for name, text in built.items():
            path = tmp_path / "lif" / name
            if path.exists():
                assert path.read_text(encoding="utf-8") == text
                seen += 1
        time.sleep(0.001)
    for process in running:
        code, complaint = finish(process)
        assert code == 0, complaint
    assert seen and texts(tmp_path / "lif") == built


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "os.fdopen"])
def test_killed_while_writing(tmp_path: Path, built: dict[str, str], where: str) -> None:
    old = tmp_path / "lif" / "kernels.cpp"
    old.parent.mkdir()
    old.write_text("old\n")
    die = f"import os, signal\n{where} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
    assert finish(start(die + BUILD, SPEC, tmp_path))[0] == -signal.SIGKILL
    left = texts(old.parent)
    assert left.pop("kernels.cpp") == "old\n"
    assert len(left) == 1 and next(iter(left)).endswith(".tmp")  # it was killed in the middle
    assert finish(start(BUILD, SPEC, tmp_path))[0] == 0
    assert texts(old.parent) == built


def test_the_file_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    artefact, mine = Artefact("a.txt", "text"), tmp_path / ".a.txt.other.1.x.tmp"
    mine.write_text("")
    artefact.write(tmp_path)
    (name,) = [n for n in texts(tmp_path) if n != "a.txt"]
    assert name == mine.name, "another machine's"
    program = (
        "import os, time\nfrom pathlib import Path\nfrom neurogen.compiler import artefact\n"
        "os.replace = lambda *a: (print(flush=True), time.sleep(60))\n"
        "artefact.Artefact('b.txt', 'theirs').write(Path(sys.argv[1]))"
    )
    other = start(program, tmp_path)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        Artefact("b.txt", "ours").write(tmp_path)
        assert sum(n.startswith(".b.txt") for n in texts(tmp_path)) == 1
    finally:
        other.kill()
        other.communicate()
    Artefact("b.txt", "again").write(tmp_path)
    assert sorted(texts(tmp_path)) == [mine.name, "a.txt", "b.txt"]


def test_what_only_looks_like_a_leftover(tmp_path: Path) -> None:
    start = f".a.txt.{_machine()}"
    for middle in ("9" * 30, "-" + "9" * 30, "0", "x", "999999999"):
        (tmp_path / f"{start}.{middle}.x.tmp").mkdir()
    Artefact("a.txt", "text").write(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 6


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError) as found:
        Artefact("a.txt", "text").write(tmp_path)
    assert found.value.filename == str(tmp_path / "a.txt")
    name = "a" * 240  # and the temporary's is too long
    with pytest.raises(OSError) as found:
        Artefact(name, "text").write(tmp_path)
    assert found.value.filename == str(tmp_path / name)
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk(tmp_path: Path) -> None:
    old = tmp_path / "lif" / "kernels.cpp"
    old.parent.mkdir()
    old.write_text("old\n")
    full = (
        "import resource\nimport neurogen.compiler.pipeline\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
    )
    code, complaint = finish(start(full + BUILD, SPEC, tmp_path))
    assert code == 1
    assert "cannot write" in complaint and str(old.parent) in complaint
    assert "Traceback" not in complaint
    assert texts(old.parent) == {"kernels.cpp": "old\n"}


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "lif").write_text("mine\n")
    code, complaint = finish(start(BUILD, SPEC, tmp_path))
    assert code == 1 and "cannot write" in complaint and "Traceback" not in complaint
    assert (tmp_path / "lif").read_text() == "mine\n"


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its rights as Linux has them")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, complaint = finish(start(f"{unprivileged.PROGRAM}\n{BUILD}", SPEC, tmp_path))
    assert code == 1 and f"cannot write {tmp_path}" in complaint
    assert "Traceback" not in complaint
    assert not list(tmp_path.iterdir())
    tmp_path.chmod(0o700)
    assert finish(start(BUILD, SPEC, tmp_path))[0] == 0
