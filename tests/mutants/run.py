"""Break a copy of the package, ask the checks, say which of them noticed: one process a mutant.

In: names of mutants (none: all), `--every` to ask every check instead of the mutant's own,
`--cache=FOLDER` of compiled kernels to share with runs at the same time. Out: a line of JSON for
each: who caught it, in which way, and what was said. Torch and SymPy are loaded once and shared by
forking, so that a mutant costs little more than what it takes to notice it.

The way is the name of an exception. A mutant is to be silent: what is meant to notice it is a check
that compares and sees a difference, `SEEN`. One that only crashes proves little, as anything that
runs the line would notice; where that is the point, `caught` says which exception it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 120  # seconds: a mutant that hangs is one that is noticed
SEEN = "AssertionError"  # of a check, not of the package
#: Whoever compiles must not find what a broken compiler driver left behind.
OWN_CACHE = ("neurogen/backends/toolchain.py",)


def mutants() -> list[dict[str, str]]:
    """The list: name, file, old text, new text, why, check; `caught`, where it is not `SEEN`."""
    import yaml

    listed: list[dict[str, str]] = yaml.safe_load((HERE / "mutants.yaml").read_text("utf-8"))
    return listed


def applied(mutant: dict[str, str]) -> str:
    """The broken text.

    Raises:
        LookupError: The text to replace does not occur exactly once: the mutant is out of date.
    """
    text = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    found = text.count(mutant["old"])
    if found != 1:
        raise LookupError(f"'{mutant['old']}' occurs {found} times in {mutant['file']}")
    return text.replace(mutant["old"], mutant["new"])


def run(mutant: dict[str, str] | None, names: list[str], cache: str) -> dict[str, Any]:
    """Ask checks about a mutant (None: the package as it is); stops at the first that notices."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "neurogen", Path(folder, "neurogen"))
        if mutant is not None:
            target = Path(folder, mutant["file"])
            target.unlink()
            target.write_text(applied(mutant), encoding="utf-8")
            if mutant["file"] in OWN_CACHE:
                cache = str(Path(folder, "cache"))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(folder, names, cache, writing)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
    if said:
        result: dict[str, Any] = json.loads(said)
        return result
    signalled = f"signal {-os.waitstatus_to_exitcode(status)}"
    return {"caught by": "crash", "way": signalled, "said": signalled}


def _child(folder: str, names: list[str], cache: str, writing: int) -> None:
    """In the forked process: never returns."""
    signal.alarm(LIMIT)
    sys.path[:0] = [folder, str(HERE), str(HERE.parent)]
    os.environ |= {"NEUROGEN_CACHE": cache, "PYTHONPATH": folder}
    sys.dont_write_bytecode = True
    result = {"caught by": "", "way": "", "said": ""}
    name = "import"
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                from checks import CHECKS

                for name in names or CHECKS:
                    CHECKS[name]()
        except BaseException as error:  # whatever it is, it was noticed
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = str(error).strip().splitlines() or [last.line or ""]
            way = _way(error, last.filename, folder)
            result = {"caught by": name, "way": way, "said": f"{way}: {said[0][:160]}"}
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    os._exit(0)


def _way(error: BaseException, raised_in: str, folder: str) -> str:
    """How a mutant was noticed; an assertion of the package's own is a crash like any other."""
    inside = Path(raised_in).is_relative_to(Path(folder, "neurogen"))
    judged = not inside or Path(raised_in).is_relative_to(Path(folder, "neurogen", "tools"))
    return type(error).__name__ + ("" if judged or type(error).__name__ != SEEN else " inside")


def main(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Outcomes, the package as it is first: what notices nothing there may judge a mutant."""
    import jinja2  # noqa: F401
    import sympy  # noqa: F401
    import torch

    torch.set_num_threads(1)
    every = "--every" in arguments
    wanted = [name for name in arguments if not name.startswith("-")]
    chosen = [m for m in mutants() if not wanted or m["name"] in wanted]
    given = [a.removeprefix("--cache=") for a in arguments if a.startswith("--cache=")]
    with tempfile.TemporaryDirectory() as own:
        cache = given[0] if given else own
        needed = sorted({mutant["check"] for mutant in chosen})
        yield {"name": "", **run(None, [] if every else needed, cache)}
        for mutant in chosen:
            names = [] if every else [mutant["check"]]
            try:
                outcome = run(mutant, names, cache)
            except LookupError as error:
                outcome = {"caught by": "", "way": "", "said": f"out of date: {error}"}
            yield {"name": mutant["name"], **outcome}


if __name__ == "__main__":
    for outcome in main(sys.argv[1:]):
        print(json.dumps(outcome), flush=True)
