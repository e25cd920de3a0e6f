"""Which backend runs a neuron: found by name under `neurogen.backends`, chosen by device.

In: the name that the user asked for, and a device. Out: the backend's `launch` module, or an error
that says what to install. Falling back is said once, aloud.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

from neurogen.errors import BackendError

#: The fused backend of each device type, where there is one.
FUSED = {"cpu": "cpp", "cuda": "cupy"}
NAMES = ("torch", *FUSED.values())


@cache
def launcher(name: str) -> ModuleType:
    """The `launch` module of a backend."""
    return import_module(f"neurogen.backends.{name}.launch")


def missing(name: str, device: str | None = None) -> str:
    """Why a backend cannot run here (on that device type), empty if it can."""
    if name == "torch":
        return ""
    return str(launcher(name).missing(device))


def supported() -> tuple[str, ...]:
    """The backends that this machine can run."""
    return tuple(name for name in NAMES if not missing(name))


def choose(asked: str, device: str) -> str:
    """The backend for a call.

    Args:
        asked: 'auto' or a backend's name.
        device: Device type of the input.

    Raises:
        BackendError: An explicit backend cannot run on this device or machine.
    """
    if asked != "auto":
        reason = missing(asked, device)
        if reason:
            raise BackendError(f"backend='{asked}' cannot run: {reason}")
        return asked
    fused = FUSED.get(device)
    if fused is None:
        return "torch"
    reason = missing(fused, device)
    if reason:
        warn_once(
            f"running on backend 'torch', step by step, because '{fused}' cannot run: {reason}"
        )
        return "torch"
    return fused


#: What `torch.compiler.assume_constant_result` does, without loading Dynamo for it: a graph that is
#: being made takes the choice of this process.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


_forks: list[bool] = []

if hasattr(os, "register_at_fork"):  # here, and not in a launcher: those are imported late
    os.register_at_fork(after_in_child=lambda: _forks.append(True))


def forked() -> bool:
    """Whether this process is a fork: the threads of its parent's OpenMP pool are gone."""
    return bool(_forks)


@cache
def warn_once(message: str) -> None:
    """The same warning at most once in a process."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)
