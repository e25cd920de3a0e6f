"""Surrogates: every slope against a formula written by hand, at any precision, on every backend."""

from __future__ import annotations

import ctypes
import math
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurogen.backends import toolchain
from neurogen.backends.cupy.launch import emulated
from neurogen.compiler.surrogates import TABLE
from neurogen.loading import load, load_text
from neurogen.nn import surrogate

MAX_ULP = 8.0
mp = mpmath.mp.clone()
mp.dps = 40


class Entry(NamedTuple):
    """What a surrogate should be: its slope, and two choices of shape parameters."""

    slope: Callable[..., Any]
    default: tuple[float, ...]
    other: tuple[float, ...]
    largest: float = 1.0


def bell(u: Any, a: Any) -> Any:
    """The slope of sigmoid(a u), without 1 - s."""
    e = mp.exp(-a * abs(u))
    return a * e / (1 + e) ** 2


# The other choice of parameters is dyadic: then a*u has no rounding error, which an exponential
# would multiply by a*u (see test_any_alpha_is_accurate_where_it_matters).
EXPECTED: dict[str, Entry] = {
    "sigmoid": Entry(bell, (4.0,), (32.0,)),
    "atan": Entry(lambda u, a: (a / 2) / (1 + (mp.pi * a * u / 2) ** 2), (2.0,), (3.1,)),
    "piecewise_quadratic": Entry(lambda u, a: max(0, a - a**2 * abs(u)), (1.0,), (2.0,)),
    "piecewise_exp": Entry(lambda u, a: a / 2 * mp.exp(-a * abs(u)), (1.0,), (4.0,), 0.5),
    "soft_sign": Entry(lambda u, a: 1 / (2 * a * (1 / a + abs(u)) ** 2), (2.0,), (5.3,)),
    "super_spike": Entry(lambda u, a: a / (1 + abs(u)) ** 2, (1.0,), (0.3,)),
    "erf": Entry(
        lambda u, a: a / mp.sqrt(mp.pi) * mp.exp(-((a * u) ** 2)),
        (2.0,), (0.5,), 2 / math.sqrt(math.pi),
    ),
    "rect": Entry(lambda u, a: a if abs(u) < 1 / (2 * a) else 0, (1.0,), (4.0,)),
    "leaky_k_relu": Entry(lambda u, leak, k: k if u >= 0 else leak, (0.0, 1.0), (0.1, 0.7)),
    "fast_sigmoid": Entry(lambda u, a: 1 / (1 + a * abs(u)) ** 2, (25.0,), (3.3,)),
    "s2nn": Entry(
        lambda u, a, b: bell(u, a) if u < 0 else b / (1 + u), (4.0, 1.0), (8.0, 0.3)
    ),
    "log_tailed_relu": Entry(
        lambda u, a: a if u <= 0 else 1 if u <= 1 else 1 / u, (0.0,), (0.1,)
    ),
    "nonzero_sign_log_abs": Entry(lambda u, a: 1 / (1 / a + abs(u)), (1.0,), (2.7,)),
}  # fmt: skip
MODULES = {name: getattr(surrogate, TABLE[name].class_name) for name in TABLE}
every = pytest.mark.parametrize("name", TABLE)
DTYPES = {"float": torch.float32, "double": torch.float64}


@cache
def points(ctype: str) -> Tensor:
    """Arguments of all sizes up to 1e6, many of ordinary size, and those next to every kink."""
    random = np.random.default_rng(3)
    magnitudes = 10.0 ** random.uniform(-9, 6, 60)
    u = [*magnitudes, *-magnitudes, *random.uniform(-6, 6, 80), 0.0, -0.0, 1e6, -1e6]
    kinks = [s * k for k in (0.0, 0.125, 0.25, 0.5, 1.0) for s in (1, -1)]
    u += [k + d for k in kinks for d in (1e-3, -1e-3, 0.0)]
    return torch.tensor(u, dtype=torch.float64).to(DTYPES[ctype])


@cache
def exact(name: str, shape: tuple[float, ...], ctype: str) -> list[Any]:
    """The slope by hand, with parameters as the dtype holds them."""
    held = [mp.mpf(torch.tensor(p, dtype=DTYPES[ctype]).item()) for p in shape]
    return [mp.mpf(EXPECTED[name].slope(mp.mpf(u), *held)) for u in points(ctype).tolist()]


def ulps(got: Tensor, wanted: list[Any], shape: tuple[float, ...]) -> list[float]:
    """Errors in units of the last place.

    None where a factor is below the smallest normal number: torch's sigmoid(-90) is 0 in float32.
    """
    info = torch.finfo(got.dtype)
    smallest = max(1.0, *shape) * info.tiny
    errors = []
    for value, true in zip(got.tolist(), wanted, strict=True):
        error, spacing = abs(mp.mpf(value) - true), mp.ldexp(1, mp.mag(true) - 1) * info.eps
        errors.append(float(error / spacing) if error > smallest else 0.0)
    return errors


def gradient(module: nn.Module, u: Tensor) -> Tensor:
    u = u.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(u).sum(), u)
    return found


# -- the table -------------------------------------------------------------------------------------


def test_every_entry_is_exported_in_both_forms() -> None:
    assert set(TABLE) == set(EXPECTED)
    for name in TABLE:
        assert issubclass(MODULES[name], surrogate.Surrogate)
        assert issubclass(getattr(surrogate, name), torch.autograd.Function)
        assert MODULES[name]().arguments == EXPECTED[name].default
    assert surrogate.Sigmoid(alpha=4.0).alpha == surrogate.Sigmoid(4.0).alpha == 4.0


@every
@pytest.mark.parametrize("ctype", DTYPES)
@pytest.mark.parametrize("which", ["default", "other"])
def test_the_slope_in_torch(name: str, ctype: str, which: str) -> None:
    shape = getattr(EXPECTED[name], which)
    u = points(ctype)
    found = gradient(MODULES[name](*shape), u)
    assert found.dtype == u.dtype
    errors = ulps(found, exact(name, shape, ctype), shape)
    worst = int(np.argmax(errors))
    assert errors[worst] <= MAX_ULP, (u[worst], found[worst])


@cache
def library() -> ctypes.CDLL:
    """The kernel text of every entry, as loops over arrays."""
    parts = ['#include "neurogen/kernel.h"\n']
    for name, module in MODULES.items():
        parts.append(f"namespace entry_{name} {{{module.kernel}}}\n")
        for ctype in DTYPES:
            for function in ("slope", "primitive"):
                parts.append(
                    f'extern "C" void {function}_{name}_{ctype}(const {ctype}* u, '
                    f"const {ctype}* p, {ctype}* y, long n) {{ for (long i = 0; i < n; ++i) "
                    f"y[i] = entry_{name}::{function}(u[i], p); }}\n"
                )
    return ctypes.CDLL(str(toolchain.shared_library("".join(parts), "", ("-O2",))))


def in_cpp(function: str, name: str, ctype: str, u: Tensor, shape: tuple[float, ...]) -> Tensor:
    held, result = torch.tensor(shape, dtype=u.dtype), torch.empty_like(u)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (u.contiguous(), held, result)]
    getattr(library(), f"{function}_{name}_{ctype}")(*pointers, ctypes.c_long(u.numel()))
    return result


@every
@pytest.mark.parametrize("ctype", DTYPES)
@pytest.mark.parametrize("which", ["default", "other"])
def test_the_slope_in_kernels(name: str, ctype: str, which: str) -> None:
    shape = getattr(EXPECTED[name], which)
    u = points(ctype)
    found = in_cpp("slope", name, ctype, u, shape)
    errors = ulps(found, exact(name, shape, ctype), shape)
    worst = int(np.argmax(errors))
    assert errors[worst] <= MAX_ULP, (u[worst], found[worst])
    # The primitive, against torch: both were derived from one text, the slope tests that text.
    u = u[u.abs() < 100]
    smooth = MODULES[name](*shape, spiking=False)(u)
    scale = {"rtol": 4 * torch.finfo(u.dtype).eps, "atol": 4 * torch.finfo(u.dtype).eps}
    torch.testing.assert_close(in_cpp("primitive", name, ctype, u, shape), smooth, **scale)


@every
def test_any_alpha_is_accurate_where_it_matters(name: str) -> None:
    """With any parameters the error is below a few ulp of the largest slope."""
    shape = tuple(p * 1.37 + 0.01 for p in EXPECTED[name].default)
    held = [mp.mpf(torch.tensor(p).item()) for p in shape]
    largest = max(EXPECTED[name].slope(mp.mpf(u), *held) for u in (-1.0, 0.0, 1.0))
    u = points("float")
    wanted = torch.tensor([float(e) for e in exact(name, shape, "float")], dtype=torch.float64)
    kinks = (u.double().abs() * shape[0] - 0.5).abs() < 1e-6  # where rect jumps
    for found in (gradient(MODULES[name](*shape), u), in_cpp("slope", name, "float", u, shape)):
        error = (found.double() - wanted).abs()[~kinks]
        assert float(error.max()) <= MAX_ULP * 2**-23 * float(largest)


@every
def test_the_largest_slope_is_1_by_default(name: str) -> None:
    entry = EXPECTED[name]
    u = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    u[3000] = 0.0
    assert gradient(MODULES[name](), u).max().item() == pytest.approx(entry.largest, rel=1e-12)
    doc = " ".join(str(MODULES[name].__doc__).split())
    assert ("Largest slope" in doc) == (entry.largest != 1.0)


@every
def test_spiking_off_gives_the_primitive_of_the_slope(name: str) -> None:
    for shape in (EXPECTED[name].default, EXPECTED[name].other):
        smooth = MODULES[name](*shape, spiking=False)
        u = torch.tensor([-7.1, -1.3, -0.45, -0.09, -0.01, 0.013, 0.07, 0.3, 0.77, 1.9, 30.1])
        u = u.double().requires_grad_()
        assert torch.autograd.gradcheck(smooth, u, eps=1e-6, atol=1e-8, rtol=1e-6)
        (derivative,) = torch.autograd.grad(smooth(u).sum(), u)
        spiking = MODULES[name](*shape)
        torch.testing.assert_close(derivative, gradient(spiking, u.detach()), rtol=1e-9, atol=1e-14)
        smooth.set_spiking_mode(True)
        assert torch.equal(smooth(u), spiking(u))


@every
def test_steps_rise_from_left_to_right(name: str) -> None:
    smooth = MODULES[name](spiking=False)
    u = torch.linspace(-2, 2, 1001, dtype=torch.float64)
    assert (smooth(u).diff() >= 0).all()


# -- both forms ------------------------------------------------------------------------------------


@every
def test_forward_is_the_heaviside_step(name: str) -> None:
    u = torch.tensor([-torch.inf, -1.0, -1e-38, -0.0, 0.0, 1e-38, 2.0, torch.inf, torch.nan])
    wanted = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    shape = EXPECTED[name].default
    assert torch.equal(MODULES[name]()(u), wanted)
    assert torch.equal(getattr(surrogate, name).apply(u, *shape), wanted)


@every
def test_the_function_form_equals_the_module(name: str) -> None:
    weight = torch.rand(points("float").shape)
    for shape in (EXPECTED[name].default, EXPECTED[name].other):
        found = []
        for form in (getattr(surrogate, name).apply, None):
            u = points("float").clone().requires_grad_()
            y = MODULES[name](*shape)(u) if form is None else form(u, *shape)
            (y * weight).sum().backward()
            found.append((y, u.grad))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    u = torch.linspace(-1, 1, 9, requires_grad=True)
    getattr(surrogate, name).apply(u).sum().backward()  # defaults
    assert torch.equal(u.grad, gradient(MODULES[name](), u.detach()))  # type: ignore[arg-type]


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(name: str, dtype: torch.dtype) -> None:
    u = torch.linspace(-3, 3, 41).to(dtype)
    module = MODULES[name]()
    found = gradient(module, u)
    assert module(u).dtype == found.dtype == dtype
    assert torch.equal(found, gradient(module, u.float()).to(dtype))
    smooth = MODULES[name](spiking=False)
    assert torch.equal(smooth(u), smooth(u.float()).to(dtype))


def test_shape_parameters_are_checked() -> None:
    module = surrogate.Sigmoid()
    for wrong in ("4", None, True, [4.0]):
        with pytest.raises(TypeError, match=r"Sigmoid.alpha is a number, not"):
            module.alpha = wrong
    for wrong in (math.nan, math.inf, torch.tensor(-math.inf)):
        with pytest.raises(ValueError, match=r"Sigmoid.alpha must be finite"):
            module.alpha = wrong
        with pytest.raises(ValueError, match=r"must be finite"):
            surrogate.Sigmoid(wrong)
        with pytest.raises(ValueError, match=r"must be finite"):
            surrogate.sigmoid.apply(torch.ones(2), wrong)
    with pytest.raises(ValueError, match=r"one number, not 2 of them"):
        module.alpha = torch.ones(2)
    assert module.alpha == 4.0
    for right in (2, torch.tensor(2.0), np.float32(2.0), nn.Parameter(torch.ones(1) * 2)):
        module.alpha = right
        assert module.alpha == 2.0
        assert isinstance(module.alpha, float)
    with pytest.raises(TypeError, match=r"Sigmoid has 1 shape parameters"):
        surrogate.sigmoid.apply(torch.ones(2), 1.0, 2.0)
    with pytest.raises(TypeError, match=r"unexpected keyword"):
        surrogate.Sigmoid(beta=1.0)


def test_the_module_holds_no_tensors_and_shows_its_parameters() -> None:
    module = surrogate.S2NN(beta=0.5)
    assert not module.state_dict()
    assert repr(module) == "S2NN(alpha=4.0, beta=0.5, spiking=True)"
    twin = pickle.loads(pickle.dumps(module))
    assert twin.arguments == (4.0, 0.5)
    with pytest.raises(TypeError, match=r"abstract"):
        surrogate.Surrogate(spiking=False)(torch.ones(2))


def test_a_subclass_in_python_has_no_kernel() -> None:
    class Bent(surrogate.Sigmoid):
        @staticmethod
        def slope(u: Tensor, alpha: float) -> Tensor:
            return torch.full_like(u, 3.0)

    class Renamed(surrogate.Sigmoid):
        pass

    assert not Bent.kernel
    assert Renamed.kernel == surrogate.Sigmoid.kernel
    assert torch.equal(gradient(Bent(), torch.zeros(2)), torch.full((2,), 3.0))


# -- declared in a spec ----------------------------------------------------------------------------

OWN = """
name: Own
surrogate:
  primitive: where(u < shift, 0, (k * (u - shift))**2 / (1 + (k * (u - shift))**2))
  parameters: {k: 1.7, shift: -0.4}
charge: v + x
"""


def own_slope(u: Tensor, k: float = 1.7, shift: float = -0.4) -> Tensor:
    z = (u - shift) * k
    return torch.where(u < shift, torch.zeros_like(u), 2 * k * z / (1 + z**2) ** 2)


@pytest.mark.parametrize("backend", ["torch", "cpp", "cupy"])
def test_a_spec_declares_its_own_surrogate(backend: str) -> None:
    cls = load_text(OWN)
    module = cls().surrogate_function
    assert module.arguments == (1.7, -0.4)
    u = torch.linspace(-2, 2, 33, dtype=torch.float64)
    torch.testing.assert_close(gradient(module, u), own_slope(u), rtol=1e-13, atol=1e-15)
    x = torch.linspace(-1.5, 3.5, 400, dtype=torch.float64).unsqueeze(0)
    with emulated():
        for node in (
            cls(step_mode="m", backend=backend),
            load("lif")(step_mode="m", backend=backend, surrogate_function=module),
        ):
            gain = 1.0 if type(node) is cls else 0.5  # LIF has 1 / tau before the input
            inputs = x.clone().requires_grad_()
            node.detach_reset = True
            y = node(inputs)
            assert torch.equal(y, (x * gain >= 1.0).double())
            y.sum().backward()
            wanted = gain * own_slope(x * gain - 1.0)
            torch.testing.assert_close(inputs.grad, wanted, rtol=1e-12, atol=1e-15)
            node.reset()
            node.surrogate_function.k = 3.0
            (found,) = torch.autograd.grad(node(inputs).sum(), inputs)
            wanted = gain * own_slope(x * gain - 1.0, k=3.0)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
            module.k = 1.7


def test_the_spec_chooses_parameters_of_the_table() -> None:
    cls = load_text("name: Steep\nsurrogate: {name: atan, alpha: 5}\ncharge: v + x")
    assert isinstance(cls().surrogate_function, surrogate.ATan)
    assert cls().surrogate_function.alpha == 5.0


def test_the_guide_lists_every_surrogate_and_its_defaults() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "language.md").read_text(encoding="utf-8")
    section = guide.split("## Surrogates\n")[1].split("\n##")[0]
    for name, entry in TABLE.items():
        defaults = ", ".join(f"{shape} = {value:g}" for shape, value in entry.parameters)
        assert f"| `{name}` | {defaults} |" in section
