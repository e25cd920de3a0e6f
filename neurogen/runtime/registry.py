"""Names of classes in graphs: an operator's argument is text, the class behind it is found again.

In: generated neurons and surrogates, as they are defined. Out: the class of a name, also in another
process that can import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from neurogen.errors import BackendError

_classes: dict[str, type[Any]] = {}


def register(cls: type[Any]) -> str:
    """The name of a class, its own even where another one of the same name exists."""
    name = path = f"{cls.__module__}:{cls.__qualname__}"
    again = 1
    while name in _classes:
        again += 1
        name = f"{path}#{again}"
    _classes[name] = cls
    return name


def find(name: str) -> type[Any]:
    """The class of a name.

    Raises:
        BackendError: There is none in this process, and it cannot be imported.
    """
    reason: Exception | str = "its module defines no such class"
    if name not in _classes:
        try:
            import_module(name.partition(":")[0])
        except ImportError as error:
            reason = error
    if name not in _classes:
        raise BackendError(
            f"this graph runs {name}, which is not to be found here ({reason}); generate or load "
            "the same spec first"
        )
    return _classes[name]
