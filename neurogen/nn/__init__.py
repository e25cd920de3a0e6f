"""What people build networks with; each module is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

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

__all__ = ["encoding", "event", "functional", "layer", "monitor", "surrogate", "visualizing"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
