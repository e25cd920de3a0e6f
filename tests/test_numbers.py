"""Numbers at the edge: NaN, infinities, denormals, extreme parameters, no or few elements.

Every spec, every backend: what comes out is what the reference has, and no NaN is hidden.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from together import compiled_together
from torch import Tensor

from neurogen.backends import toolchain
from neurogen.backends.cpp import launch as cpp
from neurogen.backends.cupy import launch as cupy
from neurogen.runtime.abi import Kernels, Variant
from neurogen.runtime.layout import Layout
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify import Case, Problem
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    is_arithmetic,
    make_chance,
    reference_of,
    running,
)

TEXTS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
}
FUSED = ("cpp", "cupy")
FILES = {"cpp": "kernels.cpp", "cupy": "kernels.cu"}
Change = Callable[[Neuron], Neuron]
#: Beside the torch backend, where a function rounds differently; float32.
CLOSE = 1e-5

#: What a neuron gets once, at the second of the time steps; before and after it, half a unit.
EDGES = (
    math.nan, math.inf, -math.inf, 3e38, -3e38, 1e20, -1e20, 1e-20, 1.17549435e-38, 1e-40, -1e-45,
    0.0, -0.0,
)  # fmt: skip


@dataclass(slots=True)
class Run:
    """What came out of a forward and a backward pass."""

    values: dict[str, Tensor]
    gradients: tuple[Tensor, ...]


def run(node: Neuron, case: Case, inputs: list[Tensor]) -> Run:
    """Everything that comes out, and the gradient of its sum."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with running(case):
        values = {"output": node(*leaves)}
        values |= {name: getattr(node, name) for name in node.states}
        if node.v_seq is not None:
            values["v_seq"] = node.v_seq
        loss = torch.stack([v.sum() for v in values.values() if v.requires_grad]).sum()
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return Run({name: value.detach() for name, value in values.items()}, gradients)


def check_equal(name: str, value: Tensor, expected: Tensor, *, exactly: bool) -> None:
    """Equal, or close beside the largest; NaN where NaN is expected, and only there."""
    limit = 0 if exactly else CLOSE
    finite = expected[expected.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    torch.testing.assert_close(
        value, expected.to(value.dtype), rtol=limit, atol=limit * max(largest, 1.0),
        equal_nan=True, msg=lambda text: f"{name}: {text}\n{value}\n{expected}",
    )  # fmt: skip


def check_backends(text: str, problem: Problem, inputs: list[Tensor], change: Change) -> Run:
    """The fused backends give what the torch backend gives; `change` prepares each node."""
    wanted = run(change(build(text, Case("torch"), problem)), Case("torch"), inputs)
    for backend in FUSED:
        case = Case(backend)
        found = run(change(build(text, case, problem)), case, inputs)
        for name, value in found.values.items():
            check_equal(
                f"{backend} {name}", value, wanted.values[name], exactly=is_arithmetic(text)
            )
        for k, both in enumerate(zip(found.gradients, wanted.gradients, strict=True)):
            # Beyond the largest number it depends on the order of sums which of inf and NaN comes.
            lost = [torch.where(g.isfinite(), g, math.nan) for g in both]
            check_equal(f"{backend} gradient {k}", *lost, exactly=False)
    return wanted


def as_it_is(node: Neuron) -> Neuron:
    return node


@pytest.mark.parametrize("stem", TEXTS)
def test_a_number_at_the_edge(stem: str) -> None:
    text = TEXTS[stem]
    problem = Problem(steps=4, shape=(len(EDGES),), learnt="none", given_state=False)
    node = build(text, Case("torch"), problem)
    inputs = [torch.full((4, len(EDGES)), 0.5) for _ in node.inputs]
    for x in inputs:
        x[1] = torch.tensor(EDGES)
    with compiled_together(text, Case("cpp"), problem):
        found = check_backends(text, problem, inputs, as_it_is).values
    chance = make_chance(node, problem, torch.float32)
    wanted = reference_of(text, Case("torch"), constructor_values(node)).run(
        inputs, chance.starts, dtype=torch.float32, noise=chance.noise
    )
    exactly = is_arithmetic(text)
    check_equal("output", found["output"], wanted.outputs.detach(), exactly=exactly)
    for name in wanted.sequences.keys() & found.keys():
        check_equal(name, found[name], wanted.sequences[name][-1].detach(), exactly=exactly)


@pytest.mark.parametrize("backend", ("torch", *FUSED))
def test_a_nan_stays_where_it_fell(backend: str) -> None:
    case, x = Case(backend), torch.full((5, 7), 0.4)
    x[2, 3] = math.nan
    found = run(build(TEXTS["lif"], case, Problem(5, (7,), learnt="none")), case, [x])
    lost = torch.zeros(5, 7, dtype=torch.bool)
    lost[2:, 3] = True
    assert torch.equal(found.values["v_seq"].isnan(), lost)
    assert found.gradients[0][:3, 3].isnan().all()
    assert not found.gradients[0][:, :3].isnan().any()
    assert not found.values["output"].isnan().any()  # NaN >= v_threshold is false: no spike


# -- parameters ------------------------------------------------------------------------------------

FACTORS = (1e-30, 1e-6, 1e6, 1e30, -1e30)


@pytest.mark.parametrize("stem", TEXTS)
def test_extreme_parameters(stem: str) -> None:
    """Each parameter in turn huge, tiny, at its bound: what is allowed runs alike everywhere."""
    text = TEXTS[stem]
    problem = Problem(steps=6, shape=(9,), learnt="none", given_state=False)
    node = build(text, Case("torch"), problem)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(6, 9, generator=generator) * 3 for _ in node.inputs]
    allowed = 0
    with compiled_together(text, Case("cpp"), problem):
        for name in node.parameter_names:
            before = node._current(name)
            if not isinstance(before, float):
                continue
            for value in (0.0, 1 + 1e-6, *((before or 1.0) * factor for factor in FACTORS)):
                try:
                    setattr(node, name, value)
                except ValueError as error:
                    assert "must satisfy" in str(error)
                    assert node._current(name) == before
                    continue
                allowed += 1

                def change(node: Neuron, name: str = name, value: float = value) -> Neuron:
                    setattr(node, name, value)
                    return node

                try:
                    check_backends(text, problem, inputs, change)
                except AssertionError as error:
                    raise AssertionError(f"{name}={value:g}: {error}") from None
                setattr(node, name, before)
    numbers = [name for name in node.parameter_names if isinstance(node._current(name), float)]
    assert allowed >= 2 * len(numbers)


# -- few and many ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ("torch", *FUSED))
@pytest.mark.parametrize("shape", [(1, 0), (1, 1), (3, 0, 2), (1, 1025), (2, 1024)])
def test_few_steps_and_neurons(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape) * 3
    case, problem = Case(backend), Problem(shape[0], shape[1:], learnt="scalar", given_state=False)
    found = run(build(TEXTS["lif"], case, problem), case, [x])
    assert found.values["output"].shape == found.gradients[0].shape == shape
    node, spikes = build(TEXTS["lif"], Case("torch"), problem), []
    tau, v_threshold, v_reset = (p.detach() for p in (node.tau, node.v_threshold, node.v_reset))
    v = v_reset.expand(shape[1:])
    for row in x:  # the equation, by hand
        h = v + (row - (v - v_reset)) / tau
        spikes.append((h >= v_threshold).float())
        v = spikes[-1] * v_reset + (1 - spikes[-1]) * h
    assert torch.equal(found.values["output"], torch.stack(spikes))


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="mappings elsewhere take memory")
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # from Python 3.13 on it has a name
FAR = 2**32 + 8  # elements between rows, and before the first neuron: beyond 32 bits, signed or not


def mapping(elements: int) -> Tensor:
    """Zeros, float32, that take no memory before they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return torch.frombuffer(mmap.mmap(-1, 4 * elements, flags=flags), dtype=torch.float32)


@on_linux
@pytest.mark.parametrize("backend", FUSED)
def test_rows_farther_apart_than_32_bits_count(backend: str) -> None:
    near, g = torch.rand(3, 5) * 3, torch.rand(3, 5)
    far = [mapping(2 * FAR + 5).as_strided((3, 5), (FAR, 1)) for _ in range(2)]
    far[0].copy_(near)
    far[1].copy_(g)
    case, problem = Case(backend), Problem(3, (5,), learnt="none", given_state=False)
    found = []
    for x, gradient in ((near, g), far):
        x.requires_grad_()
        node = build(TEXTS["lif"], case, problem)
        with running(case):
            y = node(x)
            found.append((y, torch.autograd.grad(y, x, gradient)[0]))
    assert found[0][0].any()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


#: Runs one block of neurons, the last one, of a kernel.
LAST = {
    "cpp": """
extern "C" void last(const {arguments}* a, int64_t first) {{
  {scratch}
  {name}_block<true>(*a, first, a->neurons_ - first{passed});
}}
""",
    "cupy": """
extern "C" void last(const {arguments}* a, int64_t first) {{
  blockDim.x = 8;
  blockIdx.x = (unsigned)(first / 8);
  for (threadIdx.x = 0; threadIdx.x < 8; ++threadIdx.x) {name}(*a);
}}
""",
}


@on_linux
@pytest.mark.parametrize("backend", FUSED)
def test_more_neurons_than_32_bits_count(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last neurons of 2^32 + 8; the grid that would come before them is left out."""
    launcher = {"cpp": cpp, "cupy": cupy}[backend]
    shim = "" if backend == "cpp" else (Path(cupy.__file__).parent / "shim.h").read_text("utf-8")

    def launch(name: str) -> Callable[..., None]:
        def run_last(
            kernels: Kernels, variant: Variant, neurons: int, packed: list[int], _: object
        ) -> None:  # fmt: skip
            scratch = name == "backward"
            driver = LAST[backend].format(
                name=name, arguments=name.capitalize(),
                scratch="neurogen::Scratch<real> s(4 * (a->every_ + 1) * LANES);" * scratch,
                passed=", s.data" * scratch,
            )  # fmt: skip
            text = f"{shim}\n{kernels.text(FILES[backend])}\n{driver}"
            macros = [f"-D{key}={value}" for key, value in variant.macros]
            every = cupy.checkpoint_every(kernels, variant)
            flags = ("-O1", "-Wno-unused", *macros, f"-DCHECKPOINT_EVERY={every}")
            built = ctypes.CDLL(str(toolchain.shared_library(text, variant.surrogate, flags)))
            built.last((ctypes.c_int64 * len(packed))(*packed), ctypes.c_int64(neurons - 8))

        return run_last

    def empty(self: Layout, steps: int | None, *_: Any) -> Tensor:
        shape = self.shape if steps is None else (steps, *self.shape)
        return mapping(math.prod(shape)).reshape(shape)

    near, g = torch.rand(2, 8).mul_(3).requires_grad_(), torch.rand(2, 8)
    case, problem = Case(backend), Problem(2, (8,), learnt="none", given_state=False)
    node, far = (build(TEXTS["if"], case, problem) for _ in range(2))
    far.store_v_seq = False
    with running(case):
        expected = node(near)
        (slope,) = torch.autograd.grad(expected, near, g)
    assert expected.any()
    assert slope.any()

    for name in ("forward", "backward"):
        monkeypatch.setattr(launcher, name, launch(name))
    monkeypatch.setattr(launcher, "prepare", lambda *_: None)
    monkeypatch.setattr(Layout, "empty", empty)
    x, gradient = mapping(2 * FAR).reshape(2, FAR), mapping(2 * FAR).reshape(2, FAR)
    x[:, -8:], gradient[:, -8:] = near.detach(), g
    x.requires_grad_()
    with running(case):
        y = far(x)
        (found,) = torch.autograd.grad(y, x, gradient)
    assert torch.equal(y[:, -8:], expected)
    assert torch.equal(far.v[-8:], node.v)
    assert torch.equal(found[:, -8:], slope)
