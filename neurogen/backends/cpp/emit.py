"""Program -> `kernels.cpp`."""

from __future__ import annotations

from neurogen.backends.clike import context
from neurogen.backends.render import render
from neurogen.compiler.artefact import Artefact
from neurogen.compiler.model import Model
from neurogen.compiler.program import Program


def emit(model: Model, program: Program) -> Artefact:
    """The C++ text of both directions of time."""
    return Artefact("kernels.cpp", render("cpp", "kernels.cpp.jinja", context(model, program)))
