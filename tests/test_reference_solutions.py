"""The reference's solutions of differential equations against SciPy and closed forms.

As in `test_reference`, nothing here may come from the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.autograd import gradcheck

from neurogen.tools.reference import Reference
from neurogen.tools.reference.dynamics import SCHEMES, phi1

F32, F64 = torch.float32, torch.float64
QUIET = "fire: none\noutput: v\n"
CUBA = """
name: CubaLIF
states: {i: 0.0, v: v_rest}
parameters: {tau_s: 5.0, tau_m: 10.0}
dynamics: {i: (-i + x) / tau_s, v: (-(v - v_rest) + i) / tau_m}
scheme: exact
"""


def flat(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


def scalar(f: str, scheme: str, more: str = "") -> str:
    """Return a spec of one differential equation, dv/dt = f, that never fires."""
    return f"name: D\ndynamics: {{v: '{f}'}}\nscheme: {scheme}\n{QUIET}{more}"


def leaf(value: float | list[list[float]]) -> Tensor:
    return torch.tensor(value, dtype=F64, requires_grad=True)


def gradient(tensor: Tensor) -> list[float]:
    assert tensor.grad is not None
    return flat(tensor.grad)


def integrate(f: Callable[..., Any], start: list[float], inputs: list[float], dt: float) -> Any:
    """Solve dy/dt = f(y, x) with x held over each step: states after each step, [T, states]."""
    states, y = [], np.array(start)
    for x in inputs:
        solution = solve_ivp(
            lambda _, y, x=x: f(y, x), (0, dt), y, method="DOP853", rtol=1e-13, atol=1e-13
        )
        y = solution.y[:, -1]
        states.append(y)
    return np.array(states)


# ---------------------------------------------------------------- SciPy


@pytest.mark.parametrize(
    ("scheme", "order"), [("euler", 1), ("exponential_euler", 1), ("rk2", 2), ("rk4", 4)]
)
def test_order_of_convergence(scheme: str, order: int) -> None:
    def f(y: Any, x: float) -> Any:
        return [y[0] - y[0] ** 3 / 3 - y[1] + x, (y[0] + 0.7 - 0.8 * y[1]) / 12.5]

    text = "name: FitzHughNagumo\nstates: {v: -1.0, w: -0.4}\n"
    text += (
        f"dynamics: {{v: v - v**3 / 3 - w + x, w: (v + 0.7 - 0.8 * w) / 12.5}}\nscheme: {scheme}\n"
    )
    v, w = integrate(f, [-1.0, -0.4], [0.5, -0.3], 4.0)[-1]
    errors = []
    for halvings in (5, 6, 7):
        n = 2**halvings
        x = torch.tensor([0.5] * n + [-0.3] * n, dtype=F64).unsqueeze(1)
        run = Reference(text + QUIET, dt=4 / n).run(x, dtype=F64)
        errors.append(math.hypot(run.state["v"].item() - v, run.state["w"].item() - w))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2**order, rel=0.1)


def test_exponential_euler_of_one_equation_is_of_second_order() -> None:
    (v,) = integrate(lambda y, x: [x - y[0] ** 3], [0.5], [2.0], 2.0)[-1]
    errors = []
    for n in (32, 64, 128):
        run = Reference(scalar("x - v**3", "exponential_euler"), dt=2 / n).run(
            torch.full((n, 1), 2.0), {"v": torch.full((1,), 0.5)}, dtype=F64
        )
        errors.append(abs(run.state["v"].item() - v))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("tau_s", [5.0, 9.9999, 10.0, 0.3])
def test_exact_is_the_solution(tau_s: float) -> None:
    xs, dt = [1.0, -2.0, 0.0, 3.5, 0.0], 1.7
    expected = integrate(
        lambda y, x: [(-y[0] + x) / tau_s, (-(y[1] - 0.25) + y[0]) / 10], [0.0, 0.25], xs, dt
    )
    run = Reference(CUBA + QUIET, dt=dt, tau_s=tau_s, v_reset=0.25).run(column(*xs), dtype=F64)
    assert flat(run.sequences["i"]) == pytest.approx(list(expected[:, 0]), abs=1e-11)
    assert flat(run.sequences["v"]) == pytest.approx(list(expected[:, 1]), abs=1e-11)


@pytest.mark.parametrize("k", [0.7, -0.7])
def test_exact_of_three_states_that_oscillate(k: float) -> None:
    text = """
name: R
states: {v: 0.5, w: -1, u: 2, held: 0.125}
inputs: [x, y]
parameters: {omega: 3.0, g: 0.2, k: 0.7}
flags: {coupled: true}
let: {pull: omega * w - g * v, both: pull + x, push: y if y > 0 else held + y**2}
dynamics:
  v: both
  w: -omega * v + (u / 4 if coupled else 0) + push
  u: 2 * (k - (u + v) if k > 0 else u) * g - w * -k
scheme: exact
"""
    xs, ys, dt = [1.0, -2.0, 0.0, 3.5], [-0.5, 0.25, 1.0, -2.0], 0.9

    def f(z: Any, x: tuple[float, float]) -> Any:
        v, w, u = z
        push = x[1] if x[1] > 0 else 0.125 + x[1] ** 2
        return [
            3 * w - 0.2 * v + x[0],
            -3 * v + u / 4 + push,
            0.4 * (k - u - v if k > 0 else u) + k * w,
        ]

    expected = integrate(f, [0.5, -1, 2], list(zip(xs, ys, strict=True)), dt)  # type: ignore[arg-type]
    run = Reference(text + QUIET, dt=dt, k=k).run((column(*xs), column(*ys)), dtype=F64)
    for i, name in enumerate("vwu"):
        assert flat(run.sequences[name]) == pytest.approx(list(expected[:, i]), abs=1e-10)
    assert flat(run.sequences["held"]) == [0.125] * 4


def test_exact_of_one_equation_per_neuron_and_per_step() -> None:
    torch.manual_seed(2)
    x = torch.randn(6, 2, 3, dtype=F64)
    for per, shape in (("channel", (3,)), ("neuron", (2, 3)), ("step", (6,))):
        w = (1 + torch.rand(shape, dtype=F64)).requires_grad_()
        more = f"learnable: {{w: {{init: 1, per: {per}}}}}\n"
        for scheme in ("exact", "exponential_euler"):
            run = Reference(scalar("(x - v) / w", scheme, more), w=w, dt=0.5).run(x, dtype=F64)
            rate = torch.exp(-0.5 / (w.reshape(6, 1, 1) if per == "step" else w).detach())
            v = torch.zeros(2, 3, dtype=F64)
            for t in range(6):
                keep = rate[t] if per == "step" else rate
                v = v * keep + x[t] * (1 - keep)
                torch.testing.assert_close(run.outputs[t], v, rtol=1e-13, atol=1e-13)
            (found,) = torch.autograd.grad(run.outputs.sum(), w)
            assert found.shape == shape
            assert found.abs().min() > 0


# ---------------------------------------------------------------- closed forms


def test_exact_at_coinciding_time_constants_is_an_alpha_function() -> None:
    run = Reference(CUBA + QUIET, tau_s=10.0, dt=0.5).run(
        torch.zeros(40, 1), {"i": torch.ones(1)}, dtype=F64
    )
    expected = [t / 10 * math.exp(-t / 10) for t in np.arange(1, 41) * 0.5]
    assert flat(run.sequences["v"]) == pytest.approx(expected, rel=1e-13)


def test_exact_without_decay() -> None:
    """The matrix has no inverse; nothing divides by it."""
    assert flat(Reference(scalar("x", "exact"), dt=0.5).run(column(1, 2), dtype=F64).outputs) == [
        0.5,
        1.5,
    ]
    text = f"name: N\nstates: {{v: 1, i: 2}}\ndynamics: {{v: i, i: x}}\nscheme: exact\n{QUIET}"
    run = Reference(text, dt=0.5).run(column(4), dtype=F64)
    assert run.state["v"].item() == pytest.approx(1 + 2 * 0.5 + 4 * 0.5**2 / 2, rel=1e-15)
    assert run.state["i"].item() == 4


def test_exact_holds_what_was_before_the_step() -> None:
    run = Reference(scalar("x - v + prev(v)", "exact"), dt=0.5).run(column(2, 3), dtype=F64)
    assert flat(run.outputs) == pytest.approx([-2 * math.expm1(-0.5), -5 * math.expm1(-0.5)])


def test_linear_equations_agree() -> None:
    torch.manual_seed(3)
    x = torch.randn(20, 4, dtype=F64)
    runs = {s: Reference(scalar("(x - v) / 3", s)).run(x, dtype=F64).outputs for s in SCHEMES}
    torch.testing.assert_close(runs["exponential_euler"], runs["exact"], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(runs["rk4"], runs["exact"], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(runs["euler"], runs["exact"], rtol=1e-2)


def test_float32_rounds_the_propagator_once() -> None:
    x = torch.linspace(-2, 2, 99).unsqueeze(0)
    keep = math.exp(-0.1 / 3)
    run = Reference(scalar("(x - v) / tau", "exact", "parameters: {tau: 3.0}\n"), dt=0.1).run(
        x, {"v": x[0]}, dtype=F32
    )
    phi = torch.tensor(3 * (1 - keep))
    expected = torch.tensor(keep) * x + phi * (x / torch.tensor(3.0))
    assert torch.equal(run.outputs, expected)


def test_infinity_stays_where_the_equations_leave_it() -> None:
    start = {"i": torch.ones(1), "v": torch.full((1,), math.inf)}
    run = Reference(CUBA + QUIET).run(column(0), start, dtype=F64)
    assert run.state["v"].item() == math.inf
    assert run.state["i"].item() == pytest.approx(math.exp(-0.2), rel=1e-15)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("tau_s", [2.0, 5.0])
def test_smooth_forward_has_the_gradient_it_says(scheme: str, tau_s: float) -> None:
    torch.manual_seed(4)
    x = (3 * torch.randn(4, 2, dtype=F64)).requires_grad_()
    v0, i0 = torch.randn(2, 2, dtype=F64).requires_grad_().unbind()
    more = [leaf(value) for value in (tau_s, 5.0, 0.7, -0.25)]

    def f(x: Tensor, i: Tensor, v: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        given: dict[str, Any] = dict(zip(("tau_s", "tau_m", "dt", "v_reset"), more, strict=True))
        neuron = Reference(CUBA.replace("exact", scheme), **given)
        run = neuron.run(x, {"i": i, "v": v}, dtype=F64, spiking=False)
        return run.outputs, run.sequences["i"], run.state["v"]

    assert gradcheck(f, (x, i0, v0, *more))


@pytest.mark.parametrize("shared", [True, False])
def test_exponential_euler_of_a_steep_equation(shared: bool) -> None:
    """The slope depends on state, input and parameters, and its gradient does."""
    torch.manual_seed(5)
    text = """
name: A
states: {v: v_rest, g: 0.5}
parameters: {delta: 0.5, tau: 2.0}
let: {up: delta * exp((v - 1) / delta), leak: 'max(g, 0.25) * (v - v_rest) + abs(v)'}
dynamics: {v: (up - leak + x * tanh(v)) / tau, g: -g**2 * v + relu(x)}
scheme: exponential_euler
"""
    shape = () if shared else (3,)
    x = torch.randn(4, 3, dtype=F64).requires_grad_()
    start = [(0.5 * torch.randn(3, dtype=F64)).requires_grad_() for _ in "vg"]
    more = [torch.full(shape, value, dtype=F64).requires_grad_() for value in (0.5, 2.0, 0.4)]

    def f(x: Tensor, v: Tensor, g: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        given: dict[str, Any] = dict(zip(("delta", "tau", "dt"), more, strict=True))
        neuron = Reference(text, surrogate="atan", **given)
        run = neuron.run(x, {"v": v, "g": g}, dtype=F64, spiking=False)
        return run.outputs, run.sequences["v"], run.sequences["g"]

    assert gradcheck(f, (x, *start, *more))


def test_exponential_euler_by_hand() -> None:
    """The value: x + dt phi1(dt a) f, with a that of each equation alone."""
    text = f"""
name: H
states: {{v: 0.5, w: 2}}
dynamics: {{v: w * w - v**3 * x, w: 'v - max(w, 1) + floor(w) * abs(w)'}}
scheme: exponential_euler
{QUIET}"""
    run = Reference(text, dt=0.25).run(column(3), dtype=F64)
    for state, start, f, a in (
        ("v", 0.5, 4 - 0.125 * 3, -3 * 0.25 * 3),
        ("w", 2.0, 0.5 - 2 + 4, -1 + 2),
    ):
        expected = start + f * math.expm1(0.25 * a) / a
        assert run.state[state].item() == pytest.approx(expected, rel=1e-15)
    assert not run.outputs.requires_grad


def test_exponential_euler_where_nothing_decays() -> None:
    g = leaf(0.0)
    spec = scalar("x + g * v", "exponential_euler", "parameters: {g: 1}\n")
    run = Reference(spec, g=g, dt=0.5).run(column(2), {"v": column(3)[0]}, dtype=F64)
    run.outputs.sum().backward()
    assert run.outputs.item() == 4
    assert gradient(g) == [pytest.approx(0.5 * 3 + 2 * 0.5**2 / 2, rel=1e-15)]
    for f, v in (("x", 1.0), ("floor(v) + x", 1.0), ("round(x)", 1.0), ("1 + 0 * x", 0.5)):
        run = Reference(scalar(f, "exponential_euler"), dt=0.5).run(column(2), dtype=F64)
        assert run.outputs.item() == v


def test_exponential_euler_without_a_gradient() -> None:
    neuron = Reference(scalar("x - v**3", "exponential_euler"), dt=0.5)
    x = leaf([[1.0], [2.0]])
    free = neuron.run(x.detach(), dtype=F64).outputs
    with torch.no_grad():
        still = neuron.run(x, dtype=F64).outputs
    bound = neuron.run(x, dtype=F64).outputs
    assert [t.requires_grad for t in (free, still, bound)] == [False, False, True]
    assert torch.equal(free, still)
    assert torch.equal(free, bound)


def test_phi1_is_accurate() -> None:
    z = torch.tensor([s * m for m in (0, 1e-300, 1e-9, 1e-5, 0.01, 0.5, 0.999999, 1, 1.5, 30, 700)
                      for s in (-1, 1)], dtype=F64).requires_grad_()  # fmt: skip
    value = phi1(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    mpmath.mp.dps = 700
    for at, got, got_slope in zip(flat(z), flat(value), flat(slope), strict=True):
        w = mpmath.mpf(at)
        wanted = (mpmath.expm1(w) / w, (w * mpmath.exp(w) - mpmath.expm1(w)) / w**2) if w else (
            1, mpmath.mpf(1) / 2)  # fmt: skip
        assert got == pytest.approx(float(wanted[0]), rel=1e-15)
        assert got_slope == pytest.approx(float(wanted[1]), rel=2e-15)
    mpmath.mp.dps = 15
    single = torch.linspace(-3, 3, 999)
    assert torch.equal(phi1(single), phi1(single.double()).float())
    assert flat(phi1(torch.tensor([-math.inf, math.nan])))[0] == 0
    assert phi1(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize(
    "f",
    ["-v * v", "square", "x * v", "v / x", "x / v", "exp(v)", "v**2", "v - relu(v)", "v * prev(v)",
     "v if v > 0 else x", "v if x > 0 else 2 * v", "detach(v)", "max(v, x)", "round(v)"],
)  # fmt: skip
def test_exact_is_for_linear_equations(f: str) -> None:
    with pytest.raises(ValueError, match="not linear"):
        Reference(scalar(f, "exact", "let: {square: v * v}\n"))
