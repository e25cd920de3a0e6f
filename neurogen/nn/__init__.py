"""What people build networks with; each module is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurogen.nn import (
        encoding,
        event,
        functional,
        layer,
        monitor,
        surrogate,
        visualizing,
    )
    from neurogen.nn.conversion import convert

__all__ = [
    "convert",
    "encoding",
    "event",
    "functional",
    "layer",
    "monitor",
    "surrogate",
    "visualizing",
]


def __getattr__(name: str) -> Any:
    if name == "convert":
        return import_module(f"{__name__}.conversion").convert
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
