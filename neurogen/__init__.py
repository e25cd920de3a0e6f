"""Write the equation, get the neuron.

    import neurogen
    LIFNode = neurogen.load("specs/lif.yaml")

Importing this package loads neither torch nor SymPy; its names do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurogen import nn
    from neurogen.errors import BackendError, NeurogenError, SpecError
    from neurogen.loading import load, load_text

__version__ = "0.1.0"
__all__ = ["BackendError", "NeurogenError", "SpecError", "load", "load_text", "nn"]

_HOMES = {
    "load": "neurogen.loading",
    "load_text": "neurogen.loading",
    "BackendError": "neurogen.errors",
    "NeurogenError": "neurogen.errors",
    "SpecError": "neurogen.errors",
}


def __getattr__(name: str) -> Any:
    if name == "nn":
        return import_module("neurogen.nn")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'neurogen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
