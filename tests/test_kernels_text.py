"""The kernel texts of every spec, as compilers see them: no warning, no spill, on every target."""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.backends import toolchain
from neurogen.backends.cupy import launch as cupy_launch
from neurogen.loading import load
from neurogen.nn import surrogate
from neurogen.runtime.abi import Variant
from neurogen.runtime.call import IO_TYPES
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify import BACKENDS, Case, Problem, compare_all
from neurogen.tools.verify.nodes import sizes_of

SPECS = sorted(path.stem for path in (Path(__file__).parents[1] / "specs").glob("*.yaml"))
every = pytest.mark.parametrize("stem", SPECS)
BASIC = ("if", "lif", "plif", "rif", "square_if")
ARCHITECTURES = ("sm_70", "sm_80", "sm_90")

#: (detach_reset, spiking, gradients of all constants): any two values of any two occur together.
CHOICES = ((False, True, True), (True, True, False), (True, False, True), (False, False, False))


def variants(cls: type[Neuron]) -> Iterator[Variant]:
    """Every combination of flags and storage types in both directions; the rest pairwise."""
    everything = (1 << len(cls.constants)) - 1
    flags = itertools.product((True, False), repeat=len(cls.flags))
    for values, io in itertools.product(flags, IO_TYPES.values()):
        named = tuple(zip(cls.flags, values, strict=True))
        for spiking in (True, False):
            yield Variant(False, io, named, False, spiking, 0, "")
        for detach, spiking, wanted in CHOICES:
            yield Variant(True, io, named, detach, spiking, everything * wanted, "")


def one_unit(cls: type[Neuron]) -> str:
    """All variants as one translation unit: a namespace each, and names of their own."""
    text = cls.kernels.text("kernels.cpp")
    headers = ("cpu", "noise", "surrogate")
    parts = ["".join(f'#include "neurogen/{header}.h"\n' for header in headers)]
    exported = ("forward", "backward", "sum_blocks", "sum_neurons")
    for index, variant in enumerate(variants(cls)):
        macros = (*variant.macros, *((name, f"{name}_{index}") for name in exported))
        defined = "".join(f"#define {name} {value}\n" for name, value in macros)
        undefined = "".join(f"#undef {name}\n" for name, _ in macros)
        parts.append(f"{defined}namespace variant_{index} {{\n{text}\n}}\n{undefined}")
    return "".join(parts)


def syntax(text: str, folder: Path) -> str:
    """What the compiler says of a translation unit, with all warnings as errors."""
    source = folder / "unit.cpp"
    source.write_text(text, encoding="utf-8")
    header = folder / "neurogen" / "surrogate.h"
    header.parent.mkdir()
    header.write_text(f'#pragma once\n#include "neurogen/kernel.h"\n{surrogate.ATan.kernel}')
    command = toolchain.compiler()
    assert command is not None
    run = subprocess.run(
        [*command, *toolchain.FLAGS, "-fopenmp", "-fsyntax-only", "-Werror", f"-I{folder}",
         f"-I{toolchain.INCLUDE}", str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bool(run.returncode) == bool(run.stderr)
    return run.stderr


@every
def test_cpp_compiles_without_a_warning(stem: str, tmp_path: Path) -> None:
    assert {"-Wall", "-Wextra"} <= set(toolchain.FLAGS)
    assert not syntax(one_unit(load(stem)), tmp_path)


def test_a_warning_would_be_seen(tmp_path: Path) -> None:
    text = one_unit(load("if")).replace("output_ = ", "real nothing; output_ = ")
    assert re.search(r"unused variable .nothing. ", syntax(text, tmp_path))


#: Names that the kernel texts, their headers or the C library use themselves, in every role.
ODD = """
name: A
inputs: [x, grad_output, x_grad, output_grad, gradient, gradientrow, wanted]
states: {v: 0, x_row: 0, grad_output_row: 0, v_grad: 0, lam_v: 0, lanes: 0}
parameters: {uniform: 1.25, PART: 0.5, same: 0.75, strdupa: 1.5, LANES: 0.5, WANTED_1: 0.25}
learnable:
  Steps: {init: 1.5, per: step}
  Row: {init: 0.5, per: step}
  wanted_1: 0.5
flags: {sum: true, forward_block: false, backward_block: true, emulate: true, sum_chunks: false}
noise: {draw: normal}
charge:
  reduce: x * uniform + grad_output * PART - x_grad * same + output_grad * strdupa + 0.1 * draw
  x_row: 0.5 * x_row + reduce * Steps
  grad_output_row: 0.5 * grad_output_row - gradient * LANES if sum else reduce
  v_grad: 0.5 * v_grad + gradientrow * WANTED_1 if backward_block else reduce
  lam_v: 0.5 * lam_v + wanted * wanted_1 if emulate else reduce
  lanes: 0.5 * lanes + x_row * lam_v if not sum_chunks else reduce
  v: 0.5 * v + Row * (x_row + v_grad + lam_v + lanes + grad_output_row if not forward_block else 1)
surrogate: {primitive: 1 / (1 + exp(-torch * fn * u)), parameters: {torch: 2.0, fn: 1.5}}
"""
#: More constants than the bits of a word.
MANY = f"""
name: A
parameters: {{{", ".join(f"p{k}: 0.{k + 1:02}" for k in range(40))}}}
learnable: {{{", ".join(f"w{k}: 0.{k + 1:02}" for k in range(40))}}}
charge:
  a: {" + ".join(f"p{k} * x" for k in range(40))}
  b: {" + ".join(f"w{k} * v" for k in range(40))}
  v: 0.1 * a + 0.05 * b
"""


@pytest.mark.parametrize("text", [ODD, MANY], ids=["odd names", "80 constants"])
def test_what_a_spec_names_is_no_name_of_the_kernels(text: str) -> None:
    for result in compare_all(
        text, Case("torch", dtype=torch.float64), Problem(), BACKENDS
    ).values():
        result.require()
        assert 0 < result.rate < 1


def nvrtc_log(stem: str, variant: Variant, architecture: str) -> str:
    """Compile for an architecture, to machine code; what ptxas says of registers and stack."""
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    kernels = load(stem).kernels
    program = nvrtc.createProgram(kernels.text("kernels.cu"), "kernels.cu", [], [])
    options = (
        *cupy_launch.options(kernels, variant),
        f"-I{toolchain.INCLUDE}",
        f"-I{cupy_launch.surrogate_folder(variant.surrogate)}",
        f"--gpu-architecture={architecture}",
        "--ptxas-options=-v",
    )
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(f"{stem} {variant.macros} {architecture}:\n{nvrtc.getProgramLog(program)}")
    assert nvrtc.getCUBIN(program)
    return str(nvrtc.getProgramLog(program))


@every
def test_cuda_compiles_for_every_architecture(stem: str, request: pytest.FixtureRequest) -> None:
    """Storage types and flags take turns; no kernel puts a value into local memory.

    Of the zoo's neurons each direction is compiled for one architecture, unless run with --long.
    """
    cls = load(stem)
    turn = SPECS.index(stem)
    all_of_them = stem in BASIC or request.config.getoption("--long")
    halves = ("neurogen::half", "neurogen::bfloat16")
    for backward in (False, True):
        types = ("float", "double", halves[(turn + backward) % 2])
        for place, architecture in enumerate(ARCHITECTURES):
            if not all_of_them and (place + turn + backward) % 3:
                continue
            io = types[(place + turn // 3) % 3]
            flags = tuple((name, bool((place + turn) % 2)) for name in cls.flags)
            wanted = (1 << len(cls.constants)) - 1 if backward else 0
            variant = Variant(
                backward, io, flags, False, True, wanted, surrogate.ATan.kernel
            )  # fmt: skip
            log = nvrtc_log(stem, variant, architecture)
            stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", log)
            assert len(stacks) == (3 if backward else 1), "backward comes with the sums"
            assert set(stacks) == {("0", "0")}, log
            strange = [w for w in re.findall(r": warning.*", log) if "never referenced" not in w]
            assert all("Architectures prior to" in w for w in strange), log


# -- on a GPU --------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@every
def test_a_gpu_computes_the_same_bits(stem: str) -> None:
    """Outputs and states equal those of the C++ kernel; gradients are close."""
    cls = load(stem)
    resets: list[dict[str, Any]] = [{}, {"v_reset": None}] if cls.v_reset_may_be_none else [{}]
    sizes = [(3, 263), (2, 4, 5, 7), (1,), (0,)]
    for dtype, keywords, shape in itertools.product(IO_TYPES, resets, sizes):
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        more = keywords | sizes_of(cls, 23, shape)
        node = cls(step_mode="m", backend="cpp", store_v_seq=True, **more).to(compute)
        used = {name for constant in cls.constants for name in constant.uses}
        for name in cls.parameter_names:
            if isinstance(getattr(node, name), float) and name in used:
                value = torch.tensor([getattr(node, name)], dtype=compute)
                setattr(node, name, nn.Parameter(value))
        twin = copy.deepcopy(node).to("cuda")
        twin.backend = "cupy"
        generator = torch.Generator().manual_seed(8)
        xs = [4 * torch.rand((23, *shape), generator=generator).to(dtype) for _ in cls.inputs]
        found: list[list[Tensor]] = []
        for one, device in ((node, "cpu"), (twin, "cuda")):
            inputs = [x.to(device).requires_grad_() for x in xs]
            output = one(*inputs)
            states = [getattr(one, name) for name in cls.states]
            output.float().sum().backward()
            gradients = [x.grad for x in (*inputs, *one.parameters()) if x.grad is not None]
            found.append([t.detach().cpu() for t in (output, *states, *gradients)])
        exact = 1 + len(cls.states)
        for place, (a, b) in enumerate(zip(*found, strict=True)):
            if place < exact:
                assert torch.equal(a, b)
            else:
                scale = float(a.double().abs().max()) if a.numel() else 0.0
                limit = 1e-10 if a.dtype == torch.float64 else max(1e-5, torch.finfo(a.dtype).eps)
                torch.testing.assert_close(a, b, rtol=0, atol=limit * scale + 1e-30)
