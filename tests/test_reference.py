"""The reference stepper against sequences worked out by hand, closed forms and hand-written loops.

Everything generated is judged by the reference, so nothing here may come from the compiler.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from neurogen.tools import reference
from neurogen.tools.reference import Reference
from neurogen.tools.reference.curves import CURVES

F32, F64 = torch.float32, torch.float64
IF = "name: IF\ncharge: v + x\n"
LIF = """
name: LIF
parameters:
  tau: {default: 2.0, where: tau > 1, unit: steps, doc: Membrane time constant.}
flags:
  decay_input: {default: true, doc: Whether the input decays too.}
charge: v + (x - (v - v_rest)) / tau if decay_input else v - (v - v_rest) / tau + x
"""
ALIF = """
name: ALIF
states: {v: 0.0, a: 0.0}
parameters: {alpha: 0.95, rho: 0.99, beta: 1.8}
charge:
  v: alpha * v + (1 - alpha) * x
fire: v >= v_threshold + beta * a
reset:
  v: v - spike * v_threshold
  a: rho * a + (1 - rho) * spike
"""


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


def flat(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()


def evaluate(expression: str, *xs: Sequence[float], spec: str = "", **options: Any) -> Any:
    """Evaluate an expression of x, y in float64 at several points: (run, gradient of each)."""
    inputs = [torch.tensor([x], dtype=F64, requires_grad=True) for x in xs]
    text = f"name: E\ninputs: {list('xyz'[: len(xs)])}\ncharge: {expression}\nfire: none\noutput: v"
    run = Reference(f"{text}\n{spec}", **options).run(inputs, dtype=F64)
    if run.outputs.requires_grad:
        run.outputs.sum().backward()
    return run, [[0.0] * len(x[0]) if x.grad is None else flat(x.grad) for x in inputs]


# ---------------------------------------------------------------- by hand, exact in binary


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("text", "arguments", "x", "spikes", "v"),
    [
        (IF, {}, (0.5, 0.75, 0.25, 2, -1), (0, 1, 0, 1, 0), (0.5, 0, 0.25, 0, -1)),
        (
            IF,
            {"v_reset": None},
            (0.5, 0.75, 0.25, 2, -1),
            (0, 1, 0, 1, 0),
            (0.5, 0.25, 0.5, 1.5, 0.5),
        ),
        (IF, {}, (0.5, 0.5, 0.25), (0, 1, 0), (0.5, 0, 0.25)),  # v == v_threshold fires
        (IF + "fire: v > v_threshold", {}, (0.5, 0.5, 0.25), (0, 0, 1), (0.5, 1, 0)),
        (IF, {"v_threshold": 0.5, "v_reset": -1.0}, (2, 1, 0.5), (1, 0, 1), (-1, 0, -1)),
        (IF + "reset: none", {}, (1, 1), (1, 1), (1, 2)),
        (IF + "reset: soft", {}, (1.5, 1), (1, 1), (0.5, 0.5)),
        (LIF, {}, (1, 1.5, 2, 1), (0, 1, 1, 0), (0.5, 0, 0, 0.5)),
        (LIF, {"decay_input": False}, (0.5, 0.5, 1), (0, 0, 1), (0.5, 0.75, 0)),
        (LIF, {"v_reset": -1.0}, (4, 0, 1), (1, 0, 0), (-1, -1, -0.5)),
        (LIF, {"v_reset": None, "tau": 4.0}, (6, 2, 1), (1, 0, 0), (0.5, 0.875, 0.90625)),
    ],
)
def test_sequences_by_hand(
    text: str, arguments: dict[str, Any], x: Any, spikes: Any, v: Any, dtype: torch.dtype
) -> None:
    run = Reference(text, **arguments).run(column(*x), dtype=dtype)
    assert flat(run.outputs) == list(spikes)
    assert flat(run.sequences["v"]) == list(v)
    assert run.state["v"].tolist() == [v[-1]]
    assert run.outputs.dtype == run.sequences["v"].dtype == dtype
    assert len(run.decisions) == len(x)  # flags decide nothing at run time


def test_refractory_neuron_by_hand() -> None:
    text = """
name: Refractory
states: {v: 0.0, r: {init: 0, integer: true}}
charge: {v: v + x, r: 'max(r - 1, 0)'}
fire: {when: v >= v_threshold, if: r <= 0}
reset: {r: 2 if spike else r}
"""
    run = Reference(text).run(column(1, 1, 1, 1, 0.5, 0.5), dtype=F64)
    assert flat(run.outputs) == [1, 0, 1, 0, 1, 0]
    assert flat(run.sequences["r"]) == [2, 1, 2, 1, 2, 1]
    assert flat(run.sequences["v"]) == [0, 1, 0, 1, 0, 0.5]


def test_a_guard_multiplies_spike_and_slope() -> None:
    x = torch.tensor([[2.0, 2.0]], requires_grad=True)
    run = Reference(IF + "inputs: [x, g]\nfire: {when: v >= 1, if: g > 0}").run(
        (x, torch.tensor([[1.0, 0.0]])), dtype=F32
    )
    run.outputs.sum().backward()
    assert flat(run.outputs) == [1, 0]
    assert x.grad is not None
    assert x.grad[0, 0] > 0
    assert x.grad[0, 1] == 0


def test_reset_is_simultaneous_and_output_sees_what_it_leaves() -> None:
    text = (
        "name: S\nstates: {v: 0, a: 8}\ncharge: v + x\nreset: {v: a, a: v + spike}\noutput: v - a"
    )
    run = Reference(text).run(column(2, 0), dtype=F64)
    assert flat(run.sequences["v"]) == [8, 3]
    assert flat(run.sequences["a"]) == [3, 9]
    assert flat(run.outputs) == [5, -6]


def test_let_charge_and_prev_in_order() -> None:
    text = """
name: P
states: {v: 1, w: 2}
let: {sum: v + w, double: 2 * sum}
charge: {v: v + x, h: v + w, w: h + prev(v) + double + sum}
fire: none
output: h
"""
    run = Reference(text).run(column(4, 0), dtype=F64)
    assert flat(run.outputs) == [7, 5 + 7 + 1 + 3 + 6]
    assert flat(run.sequences["w"]) == [7 + 1 + 6 + 3, 22 + 5 + 44 + 22]


def test_prev_spike_is_a_state_that_carries_on() -> None:
    text = "name: D\ncharge: v + x + 0.25 * prev(spike)\nreset: hard"
    x = column(1, 0, 0.75, 0, 1, 0)
    whole = Reference(text).run(x, dtype=F64)
    assert flat(whole.sequences["v"]) == [0, 0.25, 0, 0.25, 0, 0.25]
    first = Reference(text).run(x[:3], dtype=F64)
    assert first.state["spike"].tolist() == [1]
    second = Reference(text).run(x[3:], first.state, dtype=F64)
    assert torch.equal(torch.cat([first.outputs, second.outputs]), whole.outputs)
    assert flat(second.sequences["v"]) == flat(whole.sequences["v"])[3:]
    assert flat(Reference(text).run(x[3:], dtype=F64).sequences["v"])[0] == 0
    guarded = Reference(IF + "fire: {when: v >= 1, if: prev(spike) < 1}")
    assert flat(guarded.run(column(1, 1, 0, 1), dtype=F64).outputs) == [1, 0, 1, 0]


@pytest.mark.parametrize("f", [True, False])
@pytest.mark.parametrize("g", [True, False])
def test_flags_decide_when_the_neuron_is_made(f: bool, g: bool) -> None:
    for condition in ("f and g", "f or g", "not f or not (g and f)", "not f"):
        text = "name: F\nflags: {f: true, g: {default: false}}\nfire: none\noutput: v\n"
        text += f"charge: v + (x if {condition} else 0)"
        run = Reference(text, f=f, g=g).run(column(3), dtype=F64)
        assert run.outputs.item() == (3 if eval(condition) else 0)
        assert run.decisions == []
    text = IF + "flags: {f: true, g: false}\nfire: {when: v >= 1, if: x < 3 and f or g}"
    run = Reference(text, f=f, g=g).run(column(2, 4), dtype=F64)
    assert flat(run.outputs) == [f or g, g]


def test_a_condition_on_the_spike_is_arithmetic() -> None:
    torch.manual_seed(6)
    x = torch.randn(9, 5, dtype=F64)
    found = []
    for reset in ("hard", "{v: v_reset if spike else v}", "{v: 'where(spike, v_reset, v)'}"):
        leaf = x.clone().requires_grad_()
        run = Reference(f"{IF}reset: {reset}", v_reset=0.5).run(leaf, dtype=F64)
        run.sequences["v"].square().sum().backward()
        assert leaf.grad is not None
        found.append((run.sequences["v"], leaf.grad))
    for v, gradient in found[1:]:
        assert torch.equal(v, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-13, atol=0)


def test_time_step_and_literals_are_double() -> None:
    run = Reference(IF.replace("+ x", "+ dt * x * 0.1") + "dt: 0.3").run(column(1), dtype=F64)
    assert run.state["v"].item() == 0.3 * 0.1


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("tau", [1.5, 2.0, 20.0])
def test_lif_decays_geometrically(tau: float) -> None:
    steps, v0, drive = 40, 3.0, 0.7
    tau_tensor = torch.tensor(tau, dtype=F64, requires_grad=True)
    run = Reference(LIF, tau=tau_tensor, v_threshold=math.inf).run(
        torch.full((steps, 1), drive, dtype=F64), {"v": torch.tensor([v0])}, dtype=F64
    )
    decay = 1 - 1 / tau
    expected = [drive + (v0 - drive) * decay**n for n in range(1, steps + 1)]
    assert flat(run.sequences["v"]) == pytest.approx(expected, rel=1e-13)
    run.state["v"].sum().backward()
    slope = (v0 - drive) * steps * decay ** (steps - 1) / tau**2
    assert tau_tensor.grad is not None
    assert tau_tensor.grad.item() == pytest.approx(slope, rel=1e-12)


# ---------------------------------------------------------------- hand-written loops


def spike_of(u: Tensor, fired: Tensor) -> Tensor:
    """Value 0 or 1, slope of sigmoid(4 u); written without any help from the reference."""
    smooth = torch.sigmoid(4 * u)
    return fired.to(u.dtype) + (smooth - smooth.detach())


def loop_lif(
    x: Tensor,
    v: Tensor,
    tau: Tensor,
    theta: Tensor,
    rest: Tensor | None,
    decay_input: bool,
    detach: bool,
) -> tuple[Tensor, Tensor]:
    spikes, potentials = [], []
    for t in range(len(x)):
        base = torch.zeros((), dtype=x.dtype) if rest is None else rest
        h = v + (x[t] - (v - base)) / tau if decay_input else v - (v - base) / tau + x[t]
        s = spike_of(h - theta, h >= theta)
        r = s.detach() if detach else s
        v = h - r * theta if rest is None else r * rest + (1 - r) * h
        spikes.append(s)
        potentials.append(v)
    return torch.stack(spikes), torch.stack(potentials)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_lif_is_the_loop(dtype: torch.dtype, decay_input: bool, soft: bool, detach: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(17, 3, 35).to(dtype) * 2 + 0.5
    v0 = torch.randn(3, 35).to(dtype)
    weight = torch.randn(2, 17, 3, 35).to(dtype)

    def leaves() -> list[Tensor]:
        scalars = [torch.tensor(value, dtype=dtype) for value in (2.3, 0.9, -0.1)]
        return [leaf.clone().requires_grad_() for leaf in (x, v0, *scalars)]

    a, v, tau, theta, rest = mine = leaves()
    expected = loop_lif(a, v, tau, theta, None if soft else rest, decay_input, detach)
    (torch.stack(expected) * weight).sum().backward()
    a, v, tau, theta, rest = theirs = leaves()
    run = Reference(
        LIF,
        decay_input=decay_input,
        detach_reset=detach,
        tau=tau,
        v_threshold=theta,
        v_reset=None if soft else rest,
    ).run(a, {"v": v}, dtype=dtype)
    (torch.stack([run.outputs, run.sequences["v"]]) * weight).sum().backward()

    assert 0.1 < run.outputs.mean() < 0.9
    assert torch.equal(run.outputs, expected[0])
    assert torch.equal(run.sequences["v"], expected[1])
    for reached, wanted in zip(theirs, mine, strict=True):
        if wanted.grad is None:
            assert soft
            assert reached.grad is None
            continue
        assert reached.grad is not None
        tolerance = (1e-4 if dtype is F32 else 1e-13) * wanted.grad.abs().max()
        assert (reached.grad - wanted.grad).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("detach", [True, False])
def test_alif_is_the_loop(dtype: torch.dtype, detach: bool) -> None:
    torch.manual_seed(2)
    x = torch.randn(40, 33).to(dtype) * 8 + 2

    def loop(x: Tensor, rounded: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        alpha, beta, rho, one = (torch.tensor(c, dtype=dtype) for c in (0.95, 1.8, 0.99, 1.0))
        gain, share = (torch.tensor(c, dtype=dtype) for c in (1 - 0.95, 1 - 0.99))
        if not rounded:
            gain, share = one - alpha, one - rho
        v = a = torch.zeros(33, dtype=dtype)
        outputs = []
        for t in range(len(x)):
            h = alpha * v + gain * x[t]
            threshold = one + beta * a
            s = spike_of(h - threshold, h >= threshold)
            r = s.detach() if detach else s
            v, a = h - r * one, rho * a + share * r
            outputs.append((s, v, a))
        s, v, a = (torch.stack(sequence) for sequence in zip(*outputs, strict=True))
        return s, v, a

    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    expected = loop(mine)
    run = Reference(ALIF, detach_reset=detach).run(theirs, dtype=dtype)
    assert 0 < run.outputs.mean() < 0.9
    for reached, wanted in zip((run.outputs, *run.sequences.values()), expected, strict=True):
        assert torch.equal(reached, wanted)
    if dtype is F32:  # the constant 1 - alpha taken in float32 is another neuron
        assert not torch.equal(run.sequences["v"], loop(x, rounded=False)[1])
    torch.stack(expected).square().sum().backward()
    torch.stack([run.outputs, *run.sequences.values()]).square().sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    tolerance = (1e-4 if dtype is F32 else 1e-13) * mine.grad.abs().max()
    assert (theirs.grad - mine.grad).abs().max() <= tolerance


def test_tensors_and_floats_meet_as_torch_promotes_them() -> None:
    """A tensor makes a constant a float32 one, floats among themselves stay float64 until then."""
    x = torch.linspace(-1, 1, 101).unsqueeze(0)
    alpha = torch.tensor(0.95)
    text = (
        "name: C\nparameters: {alpha: 0.95, tau: 3}\ncharge: (1 - alpha) * x\nfire: none\noutput: v"
    )
    as_float = Reference(text).run(x, dtype=F32).outputs
    assert torch.equal(as_float, torch.tensor(1 - 0.95) * x)
    as_tensor = Reference(text, alpha=alpha).run(x, dtype=F32).outputs
    assert torch.equal(as_tensor, (1 - alpha) * x)
    assert not torch.equal(as_float, as_tensor)
    text = text.replace("(1 - alpha) * x", "x * (exp(-dt / tau) * alpha)")
    factor = torch.tensor(math.exp(-1 / 3)) * alpha
    assert torch.equal(Reference(text, alpha=alpha).run(x, dtype=F32).outputs, x * factor)
    let = text.replace("charge:", "let: {q: exp(-dt / tau), p: 1 - q}\ncharge:")
    let = let.replace("x * (exp(-dt / tau) * alpha)", "x * p")
    once = torch.tensor(1 - math.exp(-1 / 3))
    assert torch.equal(Reference(let).run(x, dtype=F32).outputs, x * once)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_integer_powers_are_products(dtype: torch.dtype) -> None:
    x = torch.randn(1, 999).to(dtype)
    for power, product in {
        "x**1": x,
        "x**3": x * x * x,
        "x**4": x * x * x * x,
        "x**-2": torch.ones((), dtype=dtype) / (x * x),
        "-x**2": -(x * x),
        "x**0": torch.ones_like(x),
    }.items():
        text = f"name: P\ncharge: {power}\nfire: none\noutput: v"
        assert torch.equal(Reference(text).run(x, dtype=dtype).outputs, product), power
    assert not torch.equal(x**4, x * x * x * x)


# ---------------------------------------------------------------- smooth forward


@pytest.mark.parametrize("arguments", [{}, {"v_reset": None}, {"decay_input": False}])
@pytest.mark.parametrize(
    "text", [LIF, LIF + "fire: {when: v > v_threshold + 0.1 * v**2, if: x > 0}"]
)
def test_smooth_forward_has_the_gradient_it_says(text: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(3)
    x = torch.randn(6, 2, dtype=F64, requires_grad=True)
    v0 = torch.randn(2, dtype=F64, requires_grad=True)
    scalars = [torch.tensor(value, dtype=F64, requires_grad=True) for value in (2.5, 0.8, -0.2)]

    def f(x: Tensor, v0: Tensor, tau: Tensor, theta: Tensor, rest: Tensor) -> tuple[Tensor, ...]:
        chosen = {"tau": tau, "v_threshold": theta, "v_reset": rest, **arguments}
        run = Reference(text, **chosen).run(x, {"v": v0}, dtype=F64, spiking=False)
        return run.outputs, run.sequences["v"]

    if "v_reset" in arguments:
        scalars[2].requires_grad_(False)
    assert gradcheck(f, (x, v0, *scalars))


def test_smooth_forward_of_two_states() -> None:
    torch.manual_seed(4)
    x = (3 * torch.randn(5, 3, dtype=F64)).requires_grad_()
    beta = torch.tensor(1.8, dtype=F64, requires_grad=True)

    def f(x: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        run = Reference(ALIF, beta=beta, surrogate="atan").run(x, dtype=F64, spiking=False)
        return run.outputs, run.state["a"]

    assert gradcheck(f, (x, beta))


# ---------------------------------------------------------------- surrogates


@pytest.mark.parametrize("name", sorted(CURVES))
def test_slope_is_the_derivative_of_the_primitive(name: str) -> None:
    u = torch.tensor([-3.1, -1.3, -0.45, -0.2, -0.01, 0.01, 0.2, 0.45, 1.3, 3.1], dtype=F64)
    defaults, curve = CURVES[name]
    for scale in (1.0, 1.7):
        given = {key: value * scale for key, value in defaults.items()}
        up, down = (curve(u + h, lambda c: c, **given)[0] for h in (1e-6, -1e-6))
        slope = curve(u, lambda c: c, **given)[1]
        torch.testing.assert_close(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("sigmoid", 1.0),
        ("atan", 1.0),
        ("piecewise_quadratic", 1.0),
        ("piecewise_exp", 0.5),
        ("soft_sign", 1.0),
        ("super_spike", 1.0),
        ("fast_sigmoid", 1.0),
        ("erf", 2 / math.sqrt(math.pi)),
        ("rect", 1.0),
        ("piecewise_leaky_relu", 0.5),
        ("leaky_k_relu", 1.0),
        ("nonzero_sign_log_abs", 1.0),
        ("q_pseudo_spike", 1.0),
    ],
)
def test_slope_at_the_threshold(name: str, middle: float) -> None:
    x = torch.ones(1, 1, dtype=F64, requires_grad=True)
    Reference(IF + "reset: none", surrogate=name).run(x, dtype=F64).outputs.sum().backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(middle, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("soft_sign", lambda u: 1 / (4 * (Fraction(1, 2) + abs(u)) ** 2)),
        ("super_spike", lambda u: 1 / (1 + abs(u)) ** 2),
        ("fast_sigmoid", lambda u: 1 / (1 + 25 * abs(u)) ** 2),
        ("q_pseudo_spike", lambda u: 1 / (1 + 2 * abs(u)) ** 2),
    ],
)
def test_slopes_far_out(name: str, slope: Callable[[Fraction], Fraction]) -> None:
    for u in (1e4, -1e4, 1e6, -1e6, 0.125):
        got = CURVES[name][1](torch.tensor(u, dtype=F64), lambda c: c, **CURVES[name][0])[1].item()
        assert got == pytest.approx(float(slope(Fraction(u))), rel=1e-15)
    u, alpha = torch.tensor(-9.0, dtype=F64), 4.0
    steep = CURVES["sigmoid"][1](u, lambda c: c, alpha=alpha)[1].item()
    assert steep == pytest.approx(alpha * math.exp(-36) / (1 + math.exp(-36)) ** 2, rel=1e-14)
    assert CURVES["sigmoid"][1](-u, lambda c: c, alpha=alpha)[1].item() == steep


def test_ways_to_say_a_surrogate() -> None:
    def slope(text: str = IF + "reset: none", surrogate: Any = None) -> float:
        x = torch.tensor([[1.5]], dtype=F64, requires_grad=True)
        Reference(text, surrogate=surrogate).run(x, dtype=F64).outputs.sum().backward()
        assert x.grad is not None
        return x.grad.item()

    spec = IF + "reset: none\nsurrogate: "
    text = "{primitive: 'where(u < 0, exp(b * u) / 2, 1 - exp(-b * u) / 2)', parameters: {b: 3.0}}"
    expected = 1.5 * math.exp(-1.5)
    assert slope() == pytest.approx(4 * math.exp(-2) / (1 + math.exp(-2)) ** 2)
    for got in (
        slope(surrogate=("piecewise_exp", {"alpha": 3.0})),
        slope(
            surrogate=lambda u: torch.where(u < 0, 0.5 * (3 * u).exp(), 1 - 0.5 * (-3 * u).exp())
        ),
        slope(spec + "{name: piecewise_exp, alpha: 3.0}"),
        slope(spec + text),
    ):
        assert got == pytest.approx(expected, rel=1e-14)
    assert slope(spec + "atan") == slope(surrogate="atan")
    assert slope(spec + "atan", "erf") == slope(surrogate="erf")


# ---------------------------------------------------------------- conventions


@pytest.mark.parametrize(
    ("expression", "xs", "values", "gradients"),
    [
        ("max(x, y)", [(1, 2, 3), (2, 2, 2)], (2, 2, 3), [(0, 0.5, 1), (1, 0.5, 0)]),
        ("min(x, y)", [(1, 2, 3), (2, 2, 2)], (1, 2, 2), [(1, 0.5, 0), (0, 0.5, 1)]),
        ("max(2*x, x)", [(-1, 0, 1)], (-1, 0, 2), [(1, 1.5, 2)]),
        ("clip(x, -1, 1)", [(-2, -1, 0, 1, 2)], (-1, -1, 0, 1, 1), [(0, 1, 1, 1, 0)]),
        ("relu(x)", [(-1, 0, 2)], (0, 0, 2), [(0, 0, 1)]),
        ("abs(x)", [(-2, 0, 2)], (2, 0, 2), [(-1, 0, 1)]),
        ("sign(x) * x", [(-2, 0, 2)], (2, 0, 2), [(-1, 0, 1)]),
        ("floor(x) * x", [(-1.5, 2.5)], (3, 5), [(-2, 2)]),
        ("round(x) * x", [(-1.5, 2.5)], (3, 5), [(-2, 2)]),
        ("heaviside(x) * x", [(-1, 0, 2)], (0, 0, 2), [(0, 1, 1)]),
        ("detach(x) * x", [(3,)], (9,), [(3,)]),
        ("step(x) * 2", [(-1e9, 0, 1e9)], (0, 2, 2), [(0, 2, 0)]),
        ("where(x > 0 and not y > 1, x, -y)", [(1, 1, 0), (1, 2, 0)], (1, -2, 0),
         [(1, 0, 0), (0, -1, -1)]),
        ("x if 0 < x <= 1 else 2 * x", [(0, 1, 2)], (0, 1, 4), [(2, 1, 2)]),
        # an untaken branch has no say, even if its derivative is inf or nan
        ("where(x > 0, sqrt(x), 0)", [(4, 0, -4)], (2, 0, 0), [(0.25, 0, 0)]),
        ("where(x > 0, where(x < 9, log(x), y / (x - x)), y)", [(1, -1), (5, 5)], (0, 5),
         [(1, 0), (0, 1)]),
        ("where(x > 0, where(y > 0, sqrt(x), x), 2*x)", [(4, -1), (1, 1)], (2, -2),
         [(0.25, 2), (0, 0)]),
        ("max(sqrt(x), 1)", [(4, 0)], (2, 1), [(0.25, 0)]),
        ("relu(log(x))", [(math.e, 0)], (1, 0), [(1 / math.e, 0)]),
    ],
)  # fmt: skip
def test_conventions(expression: str, xs: Any, values: Any, gradients: Any) -> None:
    run, gradients_found = evaluate(expression, *xs)
    assert flat(run.outputs) == pytest.approx(list(values))
    for got, wanted in zip(gradients_found, gradients, strict=True):
        assert got == pytest.approx(list(wanted))


def test_parameters_in_untaken_branches() -> None:
    p = torch.tensor(0.0, dtype=F64, requires_grad=True)
    evaluate("where(x > 0, sqrt(p * x), p)", (-1, -2), spec="parameters: {p: 1}", p=p)
    assert p.grad is not None
    assert p.grad.item() == 2


@pytest.mark.parametrize("function", ["relu", "abs", "max", "min", "clip", "floor", "round"])
def test_nan_goes_through(function: str) -> None:
    more = {"max": ", 1", "min": ", 1", "clip": ", 0, 1"}.get(function, "")
    assert math.isnan(evaluate(f"{function}(x{more})", (math.nan,))[0].outputs.item())
    assert math.isnan(evaluate("max(1, x)", (math.nan,))[0].outputs.item())


def test_infinite_potential_under_hard_reset_is_nan() -> None:
    assert math.isnan(Reference(IF).run(column(math.inf), dtype=F64).state["v"].item())
    assert evaluate("max(x, x)", (math.inf,))[0].outputs.item() == math.inf


@pytest.mark.parametrize("dtype", [F32, F64])
def test_roots_are_rounded_correctly(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    x = torch.rand(1, 9999, dtype=dtype) * 9
    text = "name: R\nparameters: {p: 2}\ncharge: CHARGE\nfire: none\noutput: v"
    roots = Reference(text.replace("CHARGE", "sqrt(x)")).run(x, dtype=dtype).outputs
    assert torch.equal(roots[0], torch.tensor([math.sqrt(v) for v in flat(x)], dtype=dtype))
    constant = Reference(text.replace("CHARGE", "sqrt(p) + 0 * x")).run(x[:, :1], dtype=dtype)
    assert constant.outputs.item() == torch.tensor(math.sqrt(2), dtype=dtype).item()
    run, gradients = evaluate("sqrt(x)", (4, 0, math.inf, -1))
    assert flat(run.outputs)[:3] == [2, 0, math.inf]
    assert gradients[0][:3] == [0.25, math.inf, 0]
    assert math.isnan(flat(run.outputs)[3])


def test_functions_of_the_language() -> None:
    for name in ("exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "erf"):
        expected = getattr(math, name)(0.7)
        assert evaluate(f"{name}(x)", (0.7,))[0].outputs.item() == pytest.approx(
            expected, rel=1e-14
        )
        assert evaluate(f"{name}(0.7) + 0*x", (1,))[0].outputs.item() == pytest.approx(expected)
    for x in (-800.0, -30.0, 0.3, 25.0, 800.0):
        softplus = max(x, 0) + math.log1p(math.exp(-abs(x)))
        run, grads = evaluate("softplus(x)", (x,))
        assert run.outputs.item() == pytest.approx(softplus, rel=1e-14)
        assert grads[0][0] == pytest.approx(0.5 * (1 + math.tanh(x / 2)), abs=1e-14)
    assert evaluate("sigmoid(x)", (0,))[0].outputs.item() == 0.5


# ---------------------------------------------------------------- parameters that are shared


def test_learnables_and_how_they_are_shared() -> None:
    torch.manual_seed(5)
    x = torch.randn(3, 2, 4, 5, dtype=F64)
    for per, shape in {
        "layer": (),
        "channel": (4,),
        "neuron": (4, 5),
        "step": (3,),
    }.items():
        text = f"name: L\nlearnable: {{w: {{init: 0, per: {per}}}}}\ncharge: v + (1 + w) * x"
        w = torch.randn(shape, dtype=F64, requires_grad=True)
        run = Reference(text + "\nfire: none\noutput: v", w=w).run(x, dtype=F64)
        run.outputs.sum().backward()
        aligned = {"channel": (4, 1), "step": (3, 1, 1, 1)}.get(per, shape)
        expected = ((1 + w.detach().reshape(aligned)) * x).cumsum(0)
        torch.testing.assert_close(run.outputs, expected, rtol=1e-14, atol=1e-14)
        left = torch.arange(3, 0, -1, dtype=F64).reshape(3, 1, 1, 1) * x
        dims = {"layer": (0, 1, 2, 3), "channel": (0, 1, 3), "neuron": (0, 1), "step": (1, 2, 3)}
        torch.testing.assert_close(w.grad, left.sum(dims[per]))


@pytest.mark.parametrize(
    ("transform", "value", "slope"),
    [
        ("identity", 3.0, 1.0),
        ("sigmoid", 1 / (1 + math.exp(-3)), math.exp(-3) / (1 + math.exp(-3)) ** 2),
        (
            "sigmoid, bounds: [-1, 4]",
            -1 + 5 / (1 + math.exp(-3)),
            5 * math.exp(-3) / (1 + math.exp(-3)) ** 2,
        ),
        ("softplus", math.log1p(math.exp(3)), 1 / (1 + math.exp(-3))),
        ("exp", math.exp(3), math.exp(3)),
        ("clamp, bounds: [0, 2]", 2.0, 0.0),
        ("clamp, bounds: [0, 3]", 3.0, 1.0),
    ],
)
def test_transforms(transform: str, value: float, slope: float) -> None:
    w = torch.tensor(3.0, dtype=F64, requires_grad=True)
    spec = f"learnable: {{w: {{init: 0, transform: {transform}}}}}"
    assert evaluate("w * x", (1,), spec=spec, w=w)[0].outputs.item() == pytest.approx(value)
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(slope)


def test_extremes_of_several_take_them_from_left_to_right() -> None:
    run, gradients = evaluate("max(x, y, 2) + min(1, x, y)", (5, 1, 2), (3, 1, 9))
    assert flat(run.outputs) == [6, 3, 10]
    assert gradients == [[1, 0.25, 0], [0, 0.5, 1]]


def test_a_magnitude_of_a_parameter_keeps_its_dtype() -> None:
    """Abs is a condition here; inside it a literal must stay a number without dimensions."""
    x, omega = torch.ones(1, 101), torch.linspace(-1, 1, 101)
    text = "name: C\nparameters: {w: 3}\ncharge: (1 - abs(w)**2) * x\nfire: none\noutput: v"
    assert torch.equal(Reference(text, w=omega).run(x, dtype=F32).outputs, (1 - omega * omega) * x)


def test_float32_leaves_of_a_float64_run_get_gradients() -> None:
    x, tau = torch.full((3, 2), 2.0, requires_grad=True), torch.nn.Parameter(torch.tensor(2.0))
    run = Reference(LIF, tau=tau, v_threshold=torch.tensor([1.0, 9.0])).run(x, dtype=F64)
    run.outputs.sum().backward()
    assert run.outputs.dtype == F64
    assert x.grad is not None
    assert tau.grad is not None
    assert x.grad.dtype == tau.grad.dtype == F32
    assert run.outputs[:, 1].sum() == 0


# ---------------------------------------------------------------- decisions


def test_forced_decisions_win_over_the_numbers() -> None:
    x = torch.full((10, 1), 0.1, dtype=F64)
    single, double = (Reference(IF).run(x, dtype=dtype) for dtype in (F32, F64))
    assert single.outputs.sum() == 1  # ten times 0.1 reaches 1 in float32, and not in float64
    assert double.outputs.sum() == 0
    forced = Reference(IF).run(x, dtype=F64, forced=single.decisions)
    assert torch.equal(forced.outputs, single.outputs.double())
    assert forced.state["v"].item() == 0
    assert all(torch.equal(a, b) for a, b in zip(forced.decisions, single.decisions, strict=True))


@pytest.mark.parametrize(
    ("expression", "near", "far", "value", "slope"),
    [
        ("abs(x)", -2.0, 3.0, -3.0, -1.0),
        ("relu(x)", -2.0, 3.0, 0.0, 0.0),
        ("max(x, 1)", 0.0, 3.0, 1.0, 0.0),
        ("max(x, 1)", 1.0, 3.0, 2.0, 0.5),
        ("min(x, 1)", 0.0, 3.0, 3.0, 1.0),
        ("clip(x, 0, 1)", 0.5, 3.0, 3.0, 1.0),
        ("floor(x)", 0.9, 1.1, 0.0, 0.0),
        ("round(x) * x", 0.9, 1.6, 1.6, 1.0),
        ("where(x > 0, x, 2*x)", -1.0, 1.0, 2.0, 2.0),
        ("heaviside(x) * x", -1.0, 1.0, 0.0, 0.0),
        ("sign(x) * x", -1.0, 1.0, -1.0, -1.0),
    ],
)
def test_every_branch_can_be_forced(
    expression: str, near: float, far: float, value: float, slope: float
) -> None:
    decisions = evaluate(expression, (near,))[0].decisions
    text = f"name: E\ncharge: {expression}\nfire: none\noutput: v"
    x = torch.tensor([[far]], dtype=F64, requires_grad=True)
    run = Reference(text).run(x, dtype=F64, forced=decisions)
    assert run.outputs.item() == pytest.approx(value)
    gradient = torch.autograd.grad(run.outputs.sum() + 0 * x.sum(), x)[0]
    assert gradient.item() == slope


def test_forcing_asks_for_the_right_number_and_kind() -> None:
    x = torch.zeros(3, 2)
    decisions = Reference(IF).run(x, dtype=F32).decisions
    for wrong in (
        decisions[:2],
        [*decisions, decisions[0]],
        [d[:1] for d in decisions],
        [d.float() for d in decisions],
    ):
        with pytest.raises(ValueError, match="decision"):
            Reference(IF).run(x, dtype=F32, forced=wrong)


def test_slopes_that_jump_are_decided_too() -> None:
    x = torch.tensor([[0.9]], dtype=F64, requires_grad=True)
    neuron = Reference(IF + "reset: none", surrogate="leaky_k_relu")
    forced = neuron.run(torch.ones(1, 1), dtype=F64).decisions
    neuron.run(x, dtype=F64, forced=forced).outputs.sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 1  # its own slope, below the threshold, would be 0


# ---------------------------------------------------------------- what is not understood


@pytest.mark.parametrize(
    "text",
    [
        IF + "colour: red",
        IF + "noise: {xi: normal}",
        IF + "fire: v < 1",
        IF + "fire: v >= 1 and x > 0",
        IF + "reset: sometimes",
        IF + "reset: {w: v}",
        IF + "fire: none",
        IF + "surrogate: nobody",
        IF + "surrogate: {name: atan, beta: 2}",
        IF + "parameters: {tau: two}",
        IF + "flags: {f: 1}",
        IF.replace("x", "w * x") + "learnable: {w: {init: 1}}",
        IF + "let: {v: x}",
        IF + "output: prev(x)",
        "name: A\ncharge: v + y",
        "name: A\ncharge: v + spike",
        "name: A\ncharge: v + (x > 1)",
        "name: A\ncharge: v + True",
        "name: A\ncharge: x if v else 0",
        "name: A\ncharge: gamma(x)",
        "name: A\ncharge: x.real",
        "name: A\ncharge: max(x + v)",
        "name: A\ncharge: x // 2",
        "name: A\ncharge: (v + x",
        "name: A\ncharge: '[x for x in v]'",
        "name: A\nreset: soft\ncharge: v + x - v_reset",
        "name: A\nstates: {v: {init: {uniform: [0, 1]}}}\ncharge: v + x",
    ],
)
def test_never_guesses(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Reference(text).run(torch.zeros(1, 1), dtype=F32)


def test_arguments_it_does_not_know() -> None:
    for arguments in ({"tau": 2.0}, {"v_threshold": None}, {"v_threshold": True}, {"dt": 1.0}):
        with pytest.raises(ValueError, match="argument"):
            Reference(IF, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learnable"):
        Reference(IF + "learnable: {w: {init: 1}}", w=1.0)
    assert Reference(IF + "learnable: {w: {init: 1}}").run(column(1), dtype=F64)  # w has no part
    with pytest.raises(ValueError, match="True or False"):
        Reference(LIF, decay_input=1.0)
    with pytest.raises(ValueError, match="v_reset"):
        Reference(ALIF, v_reset=None)
    with pytest.raises(ValueError, match="not states"):
        Reference(IF).run(torch.zeros(1, 1), {"w": torch.zeros(1)}, dtype=F32)
    with pytest.raises(ValueError, match="inputs"):
        Reference(IF).run((torch.zeros(1, 1),) * 2, dtype=F32)


def test_shares_no_code_with_what_it_judges() -> None:
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                assert not module.startswith("neurogen") or module.startswith(reference.__name__)
