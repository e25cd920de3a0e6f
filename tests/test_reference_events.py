"""The reference's response kernels and kinds of fire against formulae, loops and hand-made numbers.

As in `test_reference`, nothing here may come from the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from neurogen.tools.reference import Reference

F32, F64 = torch.float32, torch.float64
SRM = """
name: SRM
parameters: {tau_m: 10.0, tau_s: 2.5, tau_recov: 10.0, eta_0: 1.0}
kernels:
  epsilon: (exp(-s / tau_m) - exp(-s / tau_s)) / (1 - tau_s / tau_m)
  eta: -eta_0 * exp(-s / tau_recov)
charge: v_rest + epsilon(x) + eta(spike)
reset: none
"""
TERNARY = "name: T\ncharge: v + x\nfire: {when: v >= v_threshold, kind: ternary}\nreset: none\n"
LEVELS = TERNARY.replace("ternary", "multilevel, levels: 3")


def flat(tensor: Tensor) -> list[float]:
    return tensor.flatten().tolist()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


def respond(h: str, *more: str) -> str:
    """Return a spec whose output is the response of kernel `h` to the input."""
    return "\n".join(["name: K", f"kernels: {{h: '{h}'}}", "charge: h(x)", "fire: none",
                      "output: v", *more])  # fmt: skip


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize(
    ("text", "h"),
    [
        ("exp(-s / tau)", lambda s: math.exp(-s / 4)),
        ("s / tau * exp(1 - s / tau)", lambda s: s / 4 * math.exp(1 - s / 4)),  # alpha function
        ("exp(-s / tau) * sin(3 * s + 1)", lambda s: math.exp(-s / 4) * math.sin(3 * s + 1)),
        ("s**2 * exp(-s) - 0.5 * cos(s)", lambda s: s * s * math.exp(-s) - 0.5 * math.cos(s)),
        ("2 - s / tau", lambda s: 2 - s / 4),
        ("dt * exp(-s) if on else 0", lambda s: 0.3 * math.exp(-s)),
        ("q * k", lambda s: 0.25),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_responses_are_convolutions(
    text: str, h: Callable[[float], float], dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    x = torch.randn(9, 2, 3).to(dtype)
    more = "parameters: {tau: 4, k: 0.5}\nflags: {on: true}\ndt: 0.3\nlet: {q: 2 / tau}"
    run = Reference(respond(text, more)).run(x, dtype=dtype)
    assert run.outputs.dtype == dtype
    for t in range(9):
        wanted = sum(h(0.3 * k) * x[t - k].double() for k in range(t + 1))
        assert isinstance(wanted, Tensor)
        tolerance = 2e-7 if dtype is F32 else 2e-15
        torch.testing.assert_close(
            run.outputs[t].double(),
            wanted,
            rtol=tolerance,
            atol=4 * tolerance * float(wanted.abs().max()),
        )


def test_kernel_values_are_double_in_float32_too() -> None:
    """One event of size 1: what comes out is h, rounded once."""
    x = torch.zeros(50, 1)
    x[0] = 1
    text = respond("exp(-s / tau) - exp(-s / (tau + 1e-6))", "parameters: {tau: 7.0}")
    expected = [math.exp(-k / 7.0) - math.exp(-k / (7.0 + 1e-6)) for k in range(50)]
    for tau in (7.0, torch.tensor(7.0)):
        run = Reference(text, tau=tau).run(x, dtype=F32)
        assert flat(run.outputs) == pytest.approx(expected, rel=1e-6, abs=1e-16)


def test_a_kernel_on_spikes_starts_with_the_next_step() -> None:
    text = "name: A\nkernels: {h: '8 - s'}\ndt: 2\nfire: v >= 10\nreset: none\n"
    text += "charge: {v: x + h(spike)}"
    run = Reference(text).run(column(10, 0, 10, 0, 0), dtype=F64)
    assert flat(run.sequences["v"]) == [10, 6, 10 + 4, 6 + 2, 4 + 0]
    assert flat(run.outputs) == [1, 0, 1, 0, 0]
    on_input = text.replace("h(spike)", "h(x) + 0 * h(x)").replace("x +", "0 +")
    run = Reference(on_input).run(column(1, 0, 2), dtype=F64)
    assert flat(run.sequences["v"]) == [8, 6, 4 + 16]


def test_a_kernel_can_be_called_on_several_and_anywhere() -> None:
    text = """
name: M
inputs: [x, y]
kernels: {h: 4 - s, g: '1 + 0 * s'}
states: {v: 0, w: 0}
let: {late: g(spike)}
dynamics: {w: h(y) + h(spike)}
scheme: rk2
charge: {v: h(x) + 100 * late}
fire: {when: v >= 4 + g(y), if: g(x) < 9}
reset: {v: v + h(spike)}
output: v + 1000 * w + 0.5 * prev(spike)
"""
    x, y = column(2, 0, 0, 8), column(1, 0, 2, 0)
    run = Reference(text).run((x, y), dtype=F64)
    # h(x): 8 6 4 34, h(y): 4 3 10 7, g(y): 1 1 3 3; fires at once, then by 100 g(spike)
    assert flat(run.sequences["w"]) == [4, 4 + 3 + 3, 10 + 10 + 5, 25 + 7 + 6]
    assert flat(run.sequences["v"]) == [8, 106 + 3, 204 + 3 + 2, 334 + 3 + 2 + 1]
    assert flat(run.outputs) == [4008, 10109.5, 25209.5, 38340.5]
    assert run.state["spike"].item() == 0  # the guard: g(x) is 10


def named(values: Sequence[Tensor]) -> dict[str, Any]:
    """Return the first arguments of SRM, by name."""
    return dict(zip(("tau_m", "tau_s", "tau_recov", "eta_0", "dt"), values, strict=False))


def loop_srm(x: Tensor, tau_m: Tensor, tau_s: Tensor, tau_recov: Tensor, eta_0: Tensor) -> Any:
    """SRM with decaying states in the place of sums over the past."""
    slow = fast = refractory = torch.zeros_like(x[0])
    spikes, vs = [], []
    for x_t in x:
        slow, fast = slow * torch.exp(-1 / tau_m) + x_t, fast * torch.exp(-1 / tau_s) + x_t
        v = (slow - fast) / (1 - tau_s / tau_m) - refractory
        smooth = torch.sigmoid(4 * (v - 1))
        spike = (v >= 1).to(x.dtype) + smooth - smooth.detach()
        refractory = (refractory + eta_0 * spike) * torch.exp(-1 / tau_recov)
        spikes.append(spike)
        vs.append(v)
    return torch.stack(spikes), torch.stack(vs)


def test_srm_is_the_loop() -> None:
    torch.manual_seed(2)
    x = 2 * torch.randn(30, 7, dtype=F64) + 0.5

    def leaves() -> list[Tensor]:
        scalars = [torch.tensor(value, dtype=F64) for value in (10, 2.5, 8, 1.5)]
        return [leaf.clone().requires_grad_() for leaf in (x, *scalars)]

    mine, theirs = leaves(), leaves()
    expected = loop_srm(*mine)
    run = Reference(SRM, **named(theirs[1:])).run(theirs[0], dtype=F64)
    assert 0.1 < run.outputs.mean() < 0.9
    torch.testing.assert_close(run.sequences["v"], expected[1], rtol=1e-11, atol=1e-12)
    assert torch.equal(run.outputs.round(), expected[0].round())
    torch.stack(expected).square().sum().backward()
    torch.stack([run.outputs, run.sequences["v"]]).square().sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-10)


def test_kernels_have_the_gradient_they_say() -> None:
    torch.manual_seed(3)
    x = (2 * torch.randn(6, 2, dtype=F64)).requires_grad_()
    more = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (3.0, 1.5, 2.0, 0.7)]
    more.append(torch.tensor([0.5, 0.8], dtype=F64, requires_grad=True))

    def f(x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        neuron = Reference(SRM, **named(more))
        run = neuron.run(x, dtype=F64, spiking=False)
        return run.outputs, run.sequences["v"]

    assert gradcheck(f, (x, *more))


def test_detach_reset_has_no_say_in_kernels() -> None:
    torch.manual_seed(5)
    x = 2 * torch.randn(20, 5, dtype=F64) + 0.5
    found = []
    for detach_reset in (False, True):
        leaf = x.clone().requires_grad_()
        run = Reference(SRM, detach_reset=detach_reset).run(leaf, dtype=F64)
        run.sequences["v"].square().sum().backward()
        assert run.outputs.sum() > 5
        found.append((run.sequences["v"], leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_runs_with_kernels_start_from_silence() -> None:
    x = torch.zeros(2, 1)
    for state in ({"epsilon_0": x[0]}, {"v": x[0], "eta": x[0]}):
        with pytest.raises(ValueError, match="not states"):
            Reference(SRM).run(x, state, dtype=F32)
    assert Reference(SRM).run(x, {"v": x[0]}, dtype=F32).state.keys() == {"v"}


@pytest.mark.parametrize(
    "text",
    [
        respond("exp(-s)", "inputs: [y]"),
        respond("exp(-s)").replace("h(x)", "h(v)"),
        respond("exp(-s)").replace("h(x)", "h(x + 1)"),
        respond("exp(-s)").replace("h(x)", "h(1)"),
        respond("exp(-s)").replace("h(x)", "h(x, x)"),
        respond("exp(-s)").replace("h(x)", "h(s=x)"),
        respond("exp(-s)").replace("h(x)", "h(prev(x))"),
        respond("exp(-s)").replace("h(x)", "h(spike)"),  # never fires
        respond("exp(-s)").replace("h(x)", "h"),
        respond("exp(-s)").replace("h(x)", "s * x"),
        respond("exp(-s)").replace("h:", "exp:").replace("h(x)", "exp(x)"),
        respond("exp(-s)").replace("h:", "x:").replace("h(x)", "x(x)"),
        respond("exp(-s)", "parameters: {h: 1}"),
        respond("exp(-s)", "parameters: {s: 1}"),
        respond("exp(-s) * x"),
        respond("exp(-s) * v"),
        respond("h(x)"),
        respond("exp(-s / tau)", "parameters: {tau: {default: 1, per: step}}"),
    ],
)
def test_kernels_it_does_not_understand(text: str) -> None:
    arguments: dict[str, Any] = {"tau": torch.ones(3)} if "tau" in text else {}
    with pytest.raises(ValueError, match=r"\w"):
        Reference(text, **arguments).run(torch.zeros(3, 1), dtype=F32)


# ---------------------------------------------------------------- ternary


def slope(u: float) -> float:
    """Return the slope of sigmoid(4 u)."""
    return 4 * math.exp(-4 * abs(u)) / (1 + math.exp(-4 * abs(u))) ** 2


def test_ternary_by_hand() -> None:
    x = torch.tensor([[-2.0, -1.0, -0.75, 0.0, 0.75, 1.0, 2.0]], dtype=F64, requires_grad=True)
    run = Reference(TERNARY).run(x, dtype=F64)
    assert flat(run.outputs) == [-1, -1, 0, 0, 0, 1, 1]
    run.outputs.sum().backward()
    assert x.grad is not None
    expected = [slope(u - 1) + slope(-u - 1) for u in flat(x)]
    assert flat(x.grad) == pytest.approx(expected, rel=1e-14)
    strict = Reference(TERNARY.replace(">=", ">")).run(x, dtype=F64)
    assert flat(strict.outputs) == [-1, 0, 0, 0, 0, 0, 1]
    soft = Reference(TERNARY.replace("reset: none", "reset: soft")).run(
        column(1.5, -2, -0.75, 3), dtype=F64
    )
    assert flat(soft.outputs) == [1, -1, -1, 1]
    assert flat(soft.sequences["v"]) == [0.5, -0.5, -0.25, 1.75]


def test_ternary_threshold_and_guard() -> None:
    """Of `a >= b`: the gradient reaches b from both terms, with their own signs."""
    text = "name: T\ninputs: [x, g]\ncharge: v + x\nreset: none\n"
    text += "fire: {when: v + 1 >= v_threshold, if: g > 0, kind: ternary}"
    theta = torch.tensor(0.5, dtype=F64, requires_grad=True)
    x = torch.tensor([[0.25, -1.25, -1.75, -1.75]], dtype=F64)
    g = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=F64)
    run = Reference(text, v_threshold=theta).run((x, g), dtype=F64)
    assert flat(run.outputs) == [1, 0, -1, 0]
    weights = torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=F64)
    (run.outputs * weights).sum().backward()
    assert theta.grad is not None
    a = [1.25, -0.25, -0.75]
    expected = sum(
        w * (-slope(a - 0.5) + slope(-a - 0.5)) for w, a in zip((1, 10, 100), a, strict=True)
    )
    assert theta.grad.item() == pytest.approx(expected, rel=1e-14)


def test_both_sides_of_a_ternary_spike_can_be_forced() -> None:
    near = Reference(TERNARY).run(torch.tensor([[-3.0, 0.0, 3.0]]), dtype=F32)
    assert len(near.decisions) == 2
    far = Reference(TERNARY).run(torch.zeros(1, 3), dtype=F64, forced=near.decisions)
    assert flat(far.outputs) == [-1, 0, 1]


# ---------------------------------------------------------------- multilevel


def test_multilevel_by_hand() -> None:
    """Halves go to the even level; the derivative is 1 on the closed interval."""
    a = [-3.0, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.5625, 3.0]
    x = torch.tensor([a], dtype=F64, requires_grad=True)
    theta = torch.tensor(0.5, dtype=F64, requires_grad=True)
    for sign in (">=", ">"):
        run = Reference(LEVELS.replace(">=", sign), v_threshold=theta, surrogate="atan").run(
            x, dtype=F64
        )
        assert flat(run.outputs) == [0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
        weights = 1 + torch.arange(11, dtype=F64)
        gradients = torch.autograd.grad((run.outputs * weights).sum(), (x, theta))
        inside = [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
        assert flat(gradients[0]) == [2 * w * i for w, i in zip(flat(weights), inside, strict=True)]
        reach = sum(-w * i * q / 0.25 for w, i, q in zip(flat(weights), inside, a, strict=True))
        assert gradients[1].item() == pytest.approx(reach, rel=1e-15)


def test_multilevel_soft_reset_and_guard() -> None:
    text = LEVELS.replace("reset: none", "reset: soft").replace("levels: 3", "levels: 2, if: x > 0")
    run = Reference(text, v_threshold=2.0).run(column(5, 0.5, -4, 9), dtype=F64)
    # v/2: 2.5 -> 2; 1.5/2 = 0.75 -> 1; not for x < 0; 4.5/2 -> 2
    assert flat(run.outputs) == [2, 1, 0, 2]
    assert flat(run.sequences["v"]) == [1, -0.5, -4.5, 0.5]
    assert math.isnan(Reference(LEVELS).run(column(math.nan), dtype=F64).outputs.item())


def test_levels_can_be_forced() -> None:
    near = Reference(LEVELS).run(torch.tensor([[1.75, 5.0, 1.0]]), dtype=F32)
    x = torch.tensor([[1.25, 1.0, -4.0]], dtype=F64, requires_grad=True)
    far = Reference(LEVELS).run(x, dtype=F64, forced=near.decisions)
    assert flat(far.outputs) == [2, 3, 1]
    far.outputs.sum().backward()
    assert x.grad is not None
    assert flat(x.grad) == [1, 0, 1]


@pytest.mark.parametrize("text", [TERNARY, LEVELS])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_smooth_forward_has_the_gradient_it_says(text: str, reset: str) -> None:
    torch.manual_seed(4)
    x = (2 * torch.randn(6, 3, dtype=F64)).requires_grad_()
    theta = torch.tensor([0.9, 1.1, 0.7], dtype=F64, requires_grad=True)

    def f(x: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        neuron = Reference(text.replace("reset: none", f"reset: {reset}"), v_threshold=theta)
        run = neuron.run(x, dtype=F64, spiking=False)
        return run.outputs, run.sequences["v"]

    assert gradcheck(f, (x, theta))


@pytest.mark.parametrize(
    "fire",
    ["kind: graded", "kind: multilevel", "kind: multilevel, levels: 0", "levels: 3",
     "kind: multilevel, levels: 2.5", "kind: multilevel, levels: n", "kind: ternary, levels: 3"],
)  # fmt: skip
def test_kinds_it_does_not_understand(fire: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Reference(TERNARY.replace("kind: ternary", fire))
