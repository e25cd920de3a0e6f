"""One C++ compilation for both directions of both fused backends: a quarter of the time.

In: a case and a problem. Out: the libraries that the launchers would have compiled one by one, put
in their place. Optimisation is off: no result depends on it. Warnings are errors.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from neurogen.backends import toolchain
from neurogen.backends.cpp import launch as cpp
from neurogen.backends.cupy import launch as cupy
from neurogen.runtime.abi import Kernels, Variant
from neurogen.runtime.call import IO_TYPES
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify import Case, Problem
from neurogen.tools.verify.nodes import build

FLAGS = ("-O0", "-fopenmp", "-Werror", "-Wno-unknown-pragmas")
RENAMED = ("forward", "backward", "sum")


def backward_variant(node: Neuron, case: Case, dims: int) -> Variant:
    """The backward kernel that a node's training step asks for."""
    constants = node.prelude(case.compute, torch.device("cpu"), dims)
    surrogate = node.surrogate_function
    return Variant(
        True,
        IO_TYPES[case.dtype],
        tuple((flag, bool(getattr(node, flag))) for flag in node.flags),
        node.detach_reset,
        surrogate.spiking,
        sum(1 << k for k, constant in enumerate(constants) if constant.requires_grad),
        type(surrogate).kernel,
    )


def library(kernels: Kernels, variant: Variant) -> ctypes.CDLL:
    """Both directions of `kernels.cpp` and `kernels.cu` in one translation unit."""
    shim = (Path(cupy.__file__).parent / "shim.h").read_text(encoding="utf-8")
    sums = "neurogen::Sum<real, real>"
    types = {"forward": "Forward", "backward": "Backward", "sum_chunks": sums, "sum_partials": sums}

    def part(file: str, backward: bool, before: str = "", after: str = "") -> str:
        """One text in a namespace of its own."""
        return (
            f"#define BACKWARD {int(backward)}\n{before}"
            f"namespace part_{Path(file).suffix[1:]}_{int(backward)} {{\n"
            f"{kernels.text(file)}\n{after}}}\n#undef BACKWARD\n"
        )

    def driver(name: str) -> str:
        return (
            f'extern "C" void emulate_{name}(const {types[name]}* a, unsigned grid, unsigned block)'
            f" {{ emulate({name}, *a, grid, block); }}\n"
        )

    renaming = "".join(f"#define {name} cpp_{name}\n" for name in RENAMED)
    back = "".join(f"#undef {name}\n" for name in RENAMED)
    text = (
        '#include "neurogen/cpu.h"\n#include "neurogen/noise.h"\n#include "neurogen/surrogate.h"\n'
        + renaming + part("kernels.cpp", False) + part("kernels.cpp", True) + back
        + shim.replace("#pragma once", "")
        + part("kernels.cu", False, after=driver("forward"))
        + part("kernels.cu", True, after="".join(driver(name) for name in list(types)[1:]))
    )  # fmt: skip
    every = cupy.checkpoint_every(kernels, variant)
    macros = [f"-D{n}={v}" for n, v in variant.macros if n != "BACKWARD"]
    path = toolchain.shared_library(
        text, variant.surrogate, (*FLAGS, *macros, f"-DCHECKPOINT_EVERY={every}")
    )
    return ctypes.CDLL(str(path))


def _as_launched(built: ctypes.CDLL) -> Any:
    """The C++ kernels under the names that the launcher uses."""
    named = SimpleNamespace(forward=built.cpp_forward, backward=built.cpp_backward,
                            sum_blocks=built.sum_blocks, sum_neurons=built.sum_neurons)  # fmt: skip
    for name, function in vars(named).items():
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64][: 1 + ("sum" in name)]
    return named


@contextlib.contextmanager
def compiled_together(text: str, case: Case, problem: Problem) -> Iterator[None]:
    """Within this context the fused backends run the case from one library."""
    node = build(text, case, problem)
    built = library(node.kernels, backward_variant(node, case, len(problem.shape)))
    kept = cpp.library, cupy._emulator
    cpp.library, cupy._emulator = lambda *_: _as_launched(built), lambda *_: built  # type: ignore[assignment]
    try:
        yield
    finally:
        cpp.library, cupy._emulator = kept  # type: ignore[assignment]
