"""A spec as a class, in memory: nothing is written but the user's compile cache.

In: a path, or text. Out: the generated class. The same text gives the same class object, so that
instances can be compared; they can be copied and pickled, also from one process to another.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache, partialmethod
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsIndex

from neurogen.compiler.pipeline import Compiled, compile_text, read_file

#: Where loaded modules stand in `sys.modules`.
_HOME = "neurogen.loaded."


def load(spec: str | Path) -> type[Any]:
    """The neuron of a spec file.

    Args:
        spec: Path of a YAML file, or the bare name of a neuron that comes with neurogen (`"lif"`).

    Raises:
        SpecError: The file cannot be read, or the spec is wrong; says where.
    """
    path = path_of(spec)
    return load_text(read_file(path), str(path))


def path_of(spec: str | Path) -> Path:
    """The file of a spec: a path, or the name of a neuron that comes with neurogen."""
    # Path.exists would raise of a name that is too long.
    if isinstance(spec, str) and re.fullmatch(r"\w+", spec) and not os.path.exists(spec):
        return zoo() / f"{spec}.yaml"
    return Path(spec)


def load_text(text: str, file: str = "<text>") -> type[Any]:
    """The neuron of a spec's text.

    Args:
        text: YAML.
        file: What messages call it.

    Raises:
        SpecError: The spec is wrong; says where.
    """
    return _load(text, file)


def zoo() -> Path:
    """The folder of the specs that come with neurogen."""
    installed = Path(__file__).parent / "specs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "specs"


@cache
def compiled_of(text: str, file: str = "<text>") -> Compiled:
    """A compiled spec, once in a process; see `compile_text`."""
    return compile_text(text, file)


@cache
def _load(text: str, file: str) -> type[Any]:
    compiled = compiled_of(text, file)
    module = _module(compiled)
    for cls in [c for c in vars(module).values() if isinstance(c, type)]:
        if cls.__module__ == module.__name__:
            cls.__reduce_ex__ = partialmethod(_reduce, text, file)  # type: ignore[assignment, method-assign]
    neuron: type[Any] = getattr(module, f"{compiled.model.spec.name}Node")
    return neuron


def _reduce(instance: Any, text: str, file: str, protocol: SupportsIndex) -> Any:
    """How an instance is pickled: no module can be imported for its class, so with the spec."""
    cls = type(instance)
    if cls.__module__ not in sys.modules or not cls.__module__.startswith(_HOME):
        return object.__reduce_ex__(instance, protocol)  # a subclass, written somewhere
    return _again, (text, file, cls.__name__), instance.__getstate__()


def _again(text: str, file: str, name: str) -> Any:
    """The beginning of an unpickled instance."""
    cls = getattr(sys.modules[_load(text, file).__module__], name)
    return cls.__new__(cls)


def _module(compiled: Compiled) -> ModuleType:
    """Execute the generated module; its kernels stay in memory."""
    from dataclasses import replace  # noqa: PLC0415

    spec = compiled.model.spec
    name = f"{_HOME}{spec.name}_{spec.digest}"
    if name in sys.modules:
        return sys.modules[name]
    texts = {artefact.path: artefact.text for artefact in compiled.artefacts}
    module = ModuleType(name)
    module.__file__ = f"<{spec.name}>"
    exec(compile(texts.pop("__init__.py"), module.__file__, "exec"), module.__dict__)
    neuron = getattr(module, f"{spec.name}Node")
    neuron.kernels = replace(neuron.kernels, texts=tuple(sorted(texts.items())))
    sys.modules[name] = module
    return module
