"""The reference's differential equations against hand-made numbers and loops.

As in `test_reference`, nothing here may come from the compiler.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurogen.tools.reference import Reference

F32, F64 = torch.float32, torch.float64
QUIET = "fire: none\noutput: v\n"
FITZHUGH = """
name: FitzHughNagumo
states: {v: -1.0, w: -0.4}
parameters: {a: 0.7, b: 0.8, tau: 12.5}
let: {cubic: v * v * v / 3, drive: x - w}
dynamics: {v: v - cubic + drive, w: (v + a - b * w) / tau}
scheme: SCHEME
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


# ---------------------------------------------------------------- by hand, exact in binary


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("scheme", "v"),
    [
        ("euler", 1 + 1.5 * 3),
        ("rk2", 1 + 1.5 * (4 - (1 + 0.75 * 3) ** 2)),
        # slopes 3, 4 - 3.25^2 = -6.5625, 4 - (-3.921875)^2, ...
        ("rk4", 1 + 0.25 * (3 - 2 * 6.5625 + 2 * -11.381103515625 + 4 - 16.0716552734375**2)),
    ],
)
def test_one_step_by_hand(scheme: str, v: float, dtype: torch.dtype) -> None:
    neuron = Reference(scalar("x - v * v", scheme), dt=1.5)
    run = neuron.run(column(4), {"v": torch.ones(1)}, dtype=dtype)
    assert run.outputs.item() == pytest.approx(v, rel=1e-7 if dtype is F32 else 1e-15)
    assert run.outputs.dtype == dtype
    assert not run.outputs.requires_grad


def test_order_of_a_step() -> None:
    """Dynamics, let, charge, fire, reset; `prev` is what was before all of them."""
    text = """
name: O
states: {v: 1, w: 2, r: 4}
let: {sum: v + w, old: prev(v)}
dynamics: {v: sum + x, w: prev(v) + v + r + old}
scheme: euler
dt: 0.5
charge: {v: v + 10 * sum, r: r + w + prev(w)}
fire: v >= 1000
output: sum + 100 * old
"""
    v, w = 1 + 0.5 * (3 + 8), 2 + 0.5 * (1 + 1 + 4 + 1)
    run = Reference(text).run(column(8), dtype=F64)
    assert run.state["v"].item() == v + 10 * (v + w)
    assert run.state["w"].item() == w
    assert run.state["r"].item() == 4 + w + 2
    assert run.outputs.item() == v + w + 100


def test_states_move_together_and_temporaries_follow() -> None:
    text = "name: S\nstates: {v: 1, w: 2}\nlet: {p: v * w, q: p + x}\n"
    text += f"dynamics: {{v: q, w: p - v}}\nscheme: rk2\n{QUIET}dt: 2\n"
    run = Reference(text).run(column(3), dtype=F64)
    v, w = 1 + 1.0 * 5, 2 + 1.0 * 1  # halfway
    assert run.state["v"].item() == 1 + 2 * (v * w + 3)
    assert run.state["w"].item() == 2 + 2 * (v * w - v)


def test_fires_and_resets_after_the_dynamics() -> None:
    text = "name: L\ndynamics: {v: (x - v) / 2}\nscheme: euler\n"
    for v_reset, after in ((0.0, [0.5, 0, 0.5]), (None, [0.5, 0.25, 0.625])):
        run = Reference(text, v_reset=v_reset).run(column(1, 2, 1), dtype=F64)
        assert flat(run.outputs) == [0, 1, 0]
        assert flat(run.sequences["v"]) == after


def test_dt_is_an_argument_where_it_matters() -> None:
    euler = scalar("x - v", "euler", "dt: 0.25\n")
    for dt, v in ((None, 0.25), (0.5, 0.5), (torch.tensor(0.125), 0.125)):
        given: dict[str, Any] = {} if dt is None else {"dt": dt}
        assert Reference(euler, **given).run(column(1), dtype=F64).outputs.item() == v
    assert Reference(euler.replace("dt: 0.25", "")).run(column(1), dtype=F64).outputs.item() == 1
    for equations in (
        "charge: v + dt * x",
        "let: {h: dt * x}\ncharge: v + h",
        "charge: v + 3 * x\noutput: v * dt / 3",
        "charge: v + x\nfire: v > dt\nreset: none\noutput: v / 4",
        "kernels: {h: exp(-s)}\ncharge: v + x + 0 * h(x)\noutput: v / 4",
    ):
        more = "" if "fire" in equations else "fire: none\n"
        more += "" if "output" in equations else "output: v\n"
        run = Reference(f"name: C\n{equations}\n{more}", dt=0.25).run(column(1), dtype=F64)
        assert run.outputs.item() == 0.25
    with pytest.raises(ValueError, match="argument"):
        Reference("name: C\ncharge: v + x\ndt: 0.5\ndoc: dt is not used\n", dt=0.5)
    step = leaf(0.5)
    run = Reference(scalar("x - v", "rk2"), dt=step).run(column(3), dtype=F64)
    run.outputs.sum().backward()
    assert gradient(step) == pytest.approx([3 * (1 - 0.5)], rel=1e-15)  # v = 3 dt - 3 dt^2/2


# ---------------------------------------------------------------- the same operations


def loop(scheme: str, h: float, x: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """FitzHugh-Nagumo without any help from the reference."""
    a, b, tau, three, two, dt, half, sixth = (
        torch.tensor(c, dtype=x.dtype) for c in (0.7, 0.8, 12.5, 3, 2, h, 0.5 * h, h / 6)
    )

    def f(v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return v - v * v * v / three + (x[t] - w), (v + a - b * w) / tau

    vs, ws = [], []
    for t in range(len(x)):  # noqa: B007
        p1, q1 = f(v, w)
        if scheme == "euler":
            v, w = v + dt * p1, w + dt * q1
        elif scheme == "rk2":
            p2, q2 = f(v + half * p1, w + half * q1)
            v, w = v + dt * p2, w + dt * q2
        else:
            p2, q2 = f(v + half * p1, w + half * q1)
            p3, q3 = f(v + half * p2, w + half * q2)
            p4, q4 = f(v + dt * p3, w + dt * q3)
            v = v + sixth * (p1 + two * p2 + two * p3 + p4)
            w = w + sixth * (q1 + two * q2 + two * q3 + q4)
        vs.append(v)
        ws.append(w)
    return torch.stack(vs), torch.stack(ws)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("scheme", ["euler", "rk2", "rk4"])
def test_runge_kutta_is_the_loop(scheme: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    dt = 0.3
    x = torch.randn(12, 301).to(dtype)
    leaves = [[x.clone(), torch.randn(301).to(dtype), torch.randn(301).to(dtype)] for _ in "ab"]
    leaves[1] = [tensor.clone() for tensor in leaves[0]]
    for tensor in (*leaves[0], *leaves[1]):
        tensor.requires_grad_()
    expected = loop(scheme, dt, *leaves[0])
    text = FITZHUGH.replace("SCHEME", scheme) + QUIET
    run = Reference(text, dt=dt).run(
        leaves[1][0], {"v": leaves[1][1], "w": leaves[1][2]}, dtype=dtype
    )
    for reached, wanted in zip(run.sequences.values(), expected, strict=True):
        assert torch.equal(reached, wanted)
    torch.stack(expected).square().sum().backward()
    torch.stack([*run.sequences.values()]).square().sum().backward()
    for mine, theirs in zip(*leaves, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-4 if dtype is F32 else 1e-12,
                                   atol=1e-6 if dtype is F32 else 1e-12)  # fmt: skip


def test_constants_of_a_scheme_are_double_until_rounded() -> None:
    x, h = torch.linspace(-2, 2, 999).unsqueeze(0), 0.9
    half, sixth = (torch.tensor(c) for c in (0.5 * h, h / 6))
    assert sixth != torch.tensor(h) / 6  # in float32 it is another number
    run = Reference(scalar("x * 1", "rk4"), dt=h).run(x, dtype=F32)
    assert torch.equal(run.outputs, sixth * (x + 2 * x + 2 * x + x))
    run = Reference(scalar("x * v + x", "rk2"), dt=h).run(x, dtype=F32)
    assert torch.equal(run.outputs, torch.tensor(h) * (x * (half * x) + x))
    # a constant slope: dt * (1 / tau) is one constant
    run = Reference(scalar("1 / tau", "euler", "parameters: {tau: 5}\n"), dt=h).run(x, dtype=F32)
    assert run.outputs[0, 0].item() == torch.tensor(h * (1 / 5)).item()
    assert run.outputs[0, 0].item() != (torch.tensor(h) * torch.tensor(1 / 5)).item()


# ---------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("scheme", "times"), [("euler", 1), ("rk2", 2), ("rk4", 4), ("exponential_euler", 1)]
)
def test_decisions_of_each_stage_can_be_forced(scheme: str, times: int) -> None:
    text = scalar("where(v > x, -v, x)", scheme)
    x = torch.full((1, 1), 1.0, dtype=F64)
    run = Reference(text, dt=0.5).run(x, {"v": torch.zeros(1)}, dtype=F64)
    assert len(run.decisions) == times
    far = Reference(text, dt=0.5).run(
        x, {"v": torch.full((1,), 8.0)}, dtype=F64, forced=run.decisions
    )
    assert far.outputs.item() == 8 + run.outputs.item()  # the slope is x, whatever v is


# ---------------------------------------------------------------- noise


def test_noise_by_hand() -> None:
    text = "name: N\nnoise: {xi: normal, eta: normal}\nparameters: {sigma: 0.5}\n"
    xi, eta, x = column(1, -2), column(4, 8), column(3, 5)
    charge = text + f"charge: {{n: sigma * xi, v: v + x + n - eta}}\n{QUIET}"
    run = Reference(charge).run(x, dtype=F64, noise={"eta": eta, "xi": xi})
    assert flat(run.outputs) == [3 + 0.5 - 4, -0.5 + 5 - 1 - 8]
    both = text + f"dynamics: {{v: x + sigma * xi}}\nscheme: euler\ncharge: v + eta + xi\n{QUIET}"
    run = Reference(both, dt=0.25).run(x, dtype=F64, noise={"xi": xi, "eta": eta})
    first = 0.25 * (3 + 0.5 * 1 / 0.5) + 4 + 1
    assert flat(run.outputs) == [first, first + 0.25 * (5 + 0.5 * -2 / 0.5) + 8 - 2]


@pytest.mark.parametrize("dtype", [F32, F64])
def test_noise_is_divided_by_one_constant(dtype: torch.dtype) -> None:
    xi, x = torch.randn(2, 1, 500).to(dtype).unbind()
    spec = scalar("x + xi", "euler", "noise: {xi: normal}\n")
    run = Reference(spec, dt=0.3).run(x.unsqueeze(0), dtype=dtype, noise={"xi": xi.unsqueeze(0)})
    dt, root = (torch.tensor(c, dtype=dtype) for c in (0.3, math.sqrt(0.3)))
    assert torch.equal(run.outputs[0], dt * (x + xi / root))


def test_noise_must_be_given() -> None:
    text = "name: N\nnoise: {xi: normal}\ncharge: v + x + xi\n"
    x = torch.zeros(3, 2)
    for noise in (None, {}, {"xi": x, "zeta": x}, {"zeta": x}, {"xi": x[:2]}):
        with pytest.raises(ValueError, match="noise"):
            Reference(text).run(x, dtype=F32, noise=noise)
    assert Reference(text).run(x, dtype=F32, noise={"xi": x}).outputs.sum() == 0


# ---------------------------------------------------------------- what is not understood


@pytest.mark.parametrize(
    "text",
    [
        "name: A\n",
        "name: A\ndynamics: {v: -v}",
        "name: A\nscheme: euler",
        "name: A\nscheme: euler\ncharge: v + x",
        "name: A\ndynamics: {}\nscheme: exact",
        "name: A\ndynamics: -v\nscheme: euler",
        "name: A\ndynamics: {w: -v}\nscheme: euler",
        "name: A\nstates: {v: {init: 0, integer: true}}\ndynamics: {v: -v}\nscheme: euler",
        scalar("-v", "leapfrog"),
        scalar("-v + spike", "euler"),
        scalar("-w", "euler"),
        scalar("-h", "euler", "charge: {h: x}\n"),
        scalar("-v + xi", "rk2", "noise: {xi: normal}\n"),
        scalar("-v + xi", "exact", "noise: {xi: normal}\n"),
        scalar("-v + n", "euler", "noise: {xi: normal}\nlet: {n: 2 * xi}\n"),
        scalar("-v + xi", "euler", "noise: {xi: uniform}\n"),
        scalar("-v", "euler", "parameters: {dt: 1}\n"),
        scalar("detach(v) - v", "exponential_euler"),
        scalar("w - v", "exponential_euler", "let: {w: 2 * step(v - x)}\n"),
    ],
)
def test_never_guesses(text: str) -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"\w"):
        Reference(text).run(x, dtype=F32, noise={"xi": x} if "noise" in text else None)
