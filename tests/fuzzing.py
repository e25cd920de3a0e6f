"""Fuzzing of the front end: whatever the text, the outcome is a neuron or a `SpecError`.

    python tests/fuzzing.py --inputs 200000                    # Hypothesis: specs, equations, text
    python tests/fuzzing.py --inputs 200000 --engine atheris   # libFuzzer, guided by coverage

Any other exception, more than 2 s of processor time for one input, 500 MB more in all, a file
touched, a process started or a connection opened ends the run with the input. `test_hostile.py`
runs the Hypothesis part in short. Atheris is no dependency: `pip install atheris` for it.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
SECONDS, MEGABYTES = 2.0, 500

#: Whole specs to start from.
CORPUS = [
    path.read_text(encoding="utf-8")
    for folder in ("specs", "tests/specs/valid", "tests/specs/invalid", "tests/specs/warned")
    for path in sorted((ROOT / folder).glob("*.yaml"))
]
_PIECES = """v x spike prev(spike) step(v) heaviside(v) detach(x) 0 -1 1e300 1e-300 **2 **-2 * / + -
( ) if else and or not >= > == exp(x) log(v) sqrt(v) max(v,1) round(v) v_rest dt output none hard
fire: reset: charge: states: learnable: parameters: flags: dynamics: scheme: kernels: surrogate:
expect: { } [ ] : , ' " | & * ! # % @ null true ~ ? --- tau w u s v-v 0*v x/(v-v) 1e300*v*1e300
init: default: name: let: inputs: integer: where: transform: bounds: noise: kind:"""
PIECES = [*_PIECES.split(), "\n", "\n  ", "\t", "\0", "\u202e", "- "]


# -- what is tried ---------------------------------------------------------------------------------


@st.composite
def mutated_specs(draw: st.DrawFn) -> str:
    """A spec of the repository with one to four changes."""
    text = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 4)):
            case 0:
                text = text[:place] + text[place + draw(st.integers(1, 12)) :]
            case 1:
                text = text[:place] + draw(st.sampled_from(PIECES)) + text[place:]
            case 2:
                text = text[:place] + draw(st.characters()) + text[place:]
            case 3:
                lines = text.split("\n")
                lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)))
                text = "\n".join(lines)
            case 4:
                words = list(re.finditer(r"[A-Za-z_]\w*|[-+*/]|\d+\.?\d*", text))
                if words:
                    word = draw(st.sampled_from(words))
                    other = draw(st.sampled_from([w[0] for w in words] + PIECES))
                    text = text[: word.start()] + other + text[word.end() :]
    return text


def quoted(text: str) -> str:
    """Text as a YAML scalar between single quotes."""
    return "'" + text.replace("'", "''") + "'"


def with_equation(text: str) -> str:
    """A spec with this equation."""
    parameters = "parameters: {tau: {default: 2, where: tau > 0}}"
    return f"name: A\n{parameters}\ncharge: {quoted(f'v + x / tau + {text}')}\n"


_INFIX = ("+", "-", "*", "/", "**", "<", "<=", ">", ">=", "==", "and", "or")
_CALLS = ("exp", "log", "sqrt", "abs", "erf", "round", "detach", "heaviside", "step", "prev", "not")
_LEAVES = ("v", "x", "tau", "0", "1", "2", "-1.5", "1e300", "1e-300", "dt", "v_rest", "v_threshold",
           "prev(v)", "prev(spike)", "spike")  # fmt: skip


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(_INFIX), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(st.sampled_from(_CALLS), inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"
        ),
        st.tuples(inner, inner, inner).map(lambda parts: "({} if {} else {})".format(*parts)),
    )


trees = st.recursive(st.sampled_from(_LEAVES), _larger, max_leaves=12)
texts = st.text(max_size=200) | st.text("name:charge{}[]()v+x*-/ \n#'\"|>&!", max_size=120)
equations = st.text("vx()+-*/.,<>=!0123456789e if else and not exp min\n", max_size=60)
inputs = mutated_specs() | mutated_specs() | texts | (equations | trees).map(with_equation)


# -- what may happen -------------------------------------------------------------------------------


def outcome(text: str, *, whole: bool = True) -> str:
    """`neuron`, or the codes of the mistakes; anything else is an exception.

    Args:
        text: The spec.
        whole: Derive the neuron and its warnings too, instead of giving the spec a meaning only.
    """
    from neurogen.compiler.model import build_model
    from neurogen.compiler.pipeline import compile_text
    from neurogen.compiler.reader import read_spec
    from neurogen.compiler.warnings import find_warnings
    from neurogen.errors import SpecError
    from neurogen.mistakes import CODES

    try:
        if not whole:
            build_model(*read_spec(text, "fuzz.yaml"))
            return "neuron"
        compiled = compile_text(text)
        found = find_warnings(compiled.model, compiled.program)
    except SpecError as error:
        assert error.mistakes
        assert not any(mistake.is_warning for mistake in error.mistakes)
        found = error.mistakes
    for mistake in found:
        assert (
            mistake.code in CODES and mistake.message.isprintable() and mistake.hint.isprintable()
        )
        assert all(line.isprintable() for line in str(mistake).split("\n"))
        assert mistake.location.line >= 1 and mistake.location.column >= 1
    errors = sorted({mistake.code for mistake in found if not mistake.is_warning})
    if whole and not errors:
        for artefact in compiled.artefacts:
            if artefact.path.endswith(".py"):
                ast.parse(artefact.text)
    return " ".join(errors) or "neuron"


class Escape(BaseException):
    """An input reached out of the compiler, or took too long; no handler catches it."""


#: Events of the interpreter that no spec may cause. (Importing a module lists its folder.)
_FORBIDDEN = re.compile(
    r"os\.(?!listdir|scandir)|subprocess|socket|shutil|tempfile|ctypes|urllib|pty|webbrowser"
)
_watched = threading.local()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: modules and templates may be loaded when first needed, nothing else opened."""
    if not getattr(_watched, "now", False):
        return
    if event == "open":
        path, flags = str(arguments[0]), int(arguments[2] or 0)
        if flags & (os.O_WRONLY | os.O_RDWR) or not path.endswith((".py", ".pyc", ".jinja", ".so")):
            raise Escape(f"opened {path!r}")
    elif event == "exec":
        files = (getattr(arguments[0], "co_filename", ""), sys._getframe(1).f_code.co_filename)
        if not files[0].endswith(".py") and "sympy" not in files[1]:  # which unrolls polynomials
            raise Escape(f"executed {arguments[0]!r}")
    elif _FORBIDDEN.match(event):
        raise Escape(f"{event} {arguments!r:.200}")


sys.addaudithook(_watch)


def _out_of_time(*_: object) -> None:
    raise Escape(f"took more than {SECONDS:g} s")


@contextmanager
def sandbox() -> Iterator[None]:
    """Nothing in here may open a file, start a process, or take long; memory is bounded."""
    before = signal.signal(signal.SIGVTALRM, _out_of_time)
    # Again and again: what is raised inside a callback of the interpreter is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 0.5)
    _watched.now = True
    try:
        yield
    finally:
        _watched.now = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# -- long runs -------------------------------------------------------------------------------------


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak() -> int:
    """The most memory that this process held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class _Run:
    """Counts outcomes; every tenth text that has a meaning is derived, too."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        for text in CORPUS[:: len(CORPUS) // 40]:  # loads what is loaded when first needed
            outcome(text)
        self.tried = self.derived = 0
        self.slowest, self.start = (0.0, ""), time.monotonic()

    def __call__(self, text: str) -> None:
        self.tried += 1
        try:
            result = self.timed(text, whole=False)
            if result == "neuron" and zlib.crc32(text.encode(errors="replace")) % 10 == 0:
                self.derived += 1
                result = self.timed(text, whole=True)
        except BaseException:
            found = Path(tempfile.gettempdir()) / f"neurogen-fuzz-{os.getpid()}.yaml"
            found.write_bytes(text.encode(errors="surrogatepass"))
            print(f"after {self.tried} inputs, written to {found}:\n{text!r}", file=sys.stderr)
            raise
        for code in result.split():
            self.outcomes[code] += 1

    def timed(self, text: str, *, whole: bool) -> str:
        gc.disable()  # what Hypothesis keeps is searched for garbage between inputs
        begun = time.process_time()
        with sandbox():
            result = outcome(text, whole=whole)
        self.slowest = max(self.slowest, (time.process_time() - begun, text))
        gc.enable()
        return result

    def report(self) -> str:
        return (
            f"{self.tried} inputs in {time.monotonic() - self.start:.0f} s: "
            f"{self.outcomes['neuron']} neurons, {self.derived} of them derived, "
            f"{len(self.outcomes) - 1} codes; slowest {self.slowest[0]:.2f} s, peak {_peak()} MB\n"
            f"slowest: {self.slowest[1]!r}\n"
            + ", ".join(f"{code} {count}" for code, count in sorted(self.outcomes.items()))
        )


def _hypothesis(run: Callable[[str], None], count: int) -> None:
    checks = settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck))  # fmt: skip

    def one(text: str) -> None:
        run(text)

    checks(given(inputs)(one))()


def _atheris(count: int) -> None:
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["neurogen.compiler"]):
        import neurogen.compiler.pipeline  # noqa: F401
    run = _Run()
    folder = Path(tempfile.mkdtemp())
    (folder / "corpus").mkdir()
    for k, text in enumerate(CORPUS):
        (folder / "corpus" / str(k)).write_text(text, encoding="utf-8")
    words = [piece for piece in PIECES if piece.isprintable() and piece.isascii()]
    (folder / "words").write_text(
        "".join('"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"\n' for w in words)
    )

    def one(data: bytes) -> None:
        run(data.decode("utf-8", errors="ignore"))
        if run.tried % 20_000 == 0 or run.tried >= count:
            print(run.report(), flush=True)
        if run.tried >= count:
            os._exit(0)  # libFuzzer knows no other end

    arguments = [sys.argv[0], str(folder / "corpus"), f"-dict={folder / 'words'}", "-max_len=2000",
                 f"-rss_limit_mb={_peak() + MEGABYTES}", "-timeout=60"]  # fmt: skip
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def main() -> None:
    """Run until so many inputs are tried, or one of them is a find."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--inputs", type=int, default=20_000)
    options.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    chosen = options.parse_args()
    if chosen.engine == "atheris":
        _atheris(chosen.inputs)
    run = _Run()
    _bound_memory()
    _hypothesis(run, chosen.inputs)
    print(run.report())


if __name__ == "__main__":
    main()
