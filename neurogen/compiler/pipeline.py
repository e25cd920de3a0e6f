"""START HERE: from the text of a spec to the files of a neuron, one stage a line.

    source     text          -> YAML data that knows its places     source.py
    spec       YAML data     -> Spec: names, numbers, equations     reader.py, spec.py
    model      Spec          -> Model: charge, fire, reset          model.py
    adjoint    Model         -> Program: the step and its transpose adjoint.py, program.py
    warnings   Model         -> what is legal and looks wrong       trial.py, warnings.py
    emit       Program       -> text, a file a backend              backends/*/emit.py
    artefact   text          -> file, if it changed                 artefact.py

Every stage is a pure function over frozen data. This is the only module that knows them all, and
the place where backends are found: a folder of `neurogen.backends` with an `emit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from neurogen.compiler.adjoint import build_program
from neurogen.compiler.artefact import Artefact
from neurogen.compiler.model import Model, build_model
from neurogen.compiler.program import Program
from neurogen.compiler.reader import read_spec
from neurogen.compiler.warnings import find_warnings
from neurogen.errors import Location, Mistake, SpecError

MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled neuron: what it means, and its files relative to the neuron's own folder."""

    model: Model
    program: Program
    artefacts: tuple[Artefact, ...]


def compile_text(text: str, file: str = "<text>") -> Compiled:
    """Compile a spec.

    Args:
        text: The YAML text.
        file: What messages call it.

    Raises:
        SpecError: With every mistake of the text.
    """
    model = build_model(*read_spec(text, file))
    program = build_program(model)
    *kernels, module = _emitters()
    texts = tuple(emit(model, program) for emit in kernels)
    return Compiled(model, program, (*texts, module(model, program, texts)))


def check_file(path: Path) -> tuple[Mistake, ...]:
    """Every mistake of a spec file; its warnings, if it has no mistakes. Writes nothing."""
    try:
        compiled = compile_file(path)
    except SpecError as error:
        return error.mistakes
    return find_warnings(compiled.model, compiled.program)


def compile_file(path: Path) -> Compiled:
    """Compile a spec file; see `compile_text`."""
    return compile_text(read_file(path), str(path))


def read_file(path: Path) -> str:
    """The text of a spec file.

    Raises:
        SpecError: There is no such file, or it is no UTF-8 text of reasonable size.
    """

    def fail(message: str, hint: str = "") -> SpecError:
        return SpecError((Mistake("NG001", message, Location(str(path), 1, 1), "", hint),))

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except IsADirectoryError:
        raise fail("is a directory", f"name its files: {path}/*.yaml") from None
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        raise fail(f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > MAX_FILE:
        raise fail(f"is larger than {MAX_FILE} bytes; a spec is a few lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(f"is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None


def files(compiled: Compiled, only: tuple[str, ...]) -> tuple[Artefact, ...]:
    """The files of some backends, in the order of `backends()`."""
    pairs = zip(backends(), compiled.artefacts, strict=True)
    return tuple(artefact for name, artefact in pairs if name in only)


def surrogate_table() -> Artefact:
    """The rendered table of surrogates, relative to the package."""
    artefact: Artefact = import_module("neurogen.backends.torch.surrogates").surrogate_table()
    return artefact


def backends() -> tuple[str, ...]:
    """The backends with an emitter, in a fixed order; the module's last, it knows the others."""
    folder = Path(__file__).parent.parent / "backends"
    names = (path.parent.name for path in folder.glob("*/emit.py"))
    return tuple(sorted(names, key=lambda name: (name == "torch", name)))


def _emitters() -> tuple[Callable[..., Artefact], ...]:
    return tuple(import_module(f"neurogen.backends.{name}.emit").emit for name in backends())
