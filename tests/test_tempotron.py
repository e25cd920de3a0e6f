"""The tempotron against a direct evaluation of its formulas, which holds `[batch, in, T]`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neurogen.examples import tempotron as example
from neurogen.nn import functional
from neurogen.nn.event import Tempotron

T = 60
kinds = pytest.mark.parametrize("whole", [True, False], ids=["integer", "fractional"])
constants = pytest.mark.parametrize("tau_s", [15.0 / 4, 15.0, 15.0001, 40.0])


def times(batch: int, count: int, whole: bool, seed: int = 0) -> Tensor:
    """Times over all of [0, T), the ends included, and some that are no spike."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, count, generator=generator, dtype=torch.float64) * (T + 8) - 8
    x = torch.where(x < 0, x, x.clamp(max=T - 0.25))
    x = x.floor() if whole else x
    x[0, 0], x[0, 1], x[-1, 0] = 0.0, T - 1, -1.0
    return x


def direct(x: Tensor, weight: Tensor, tau: float, tau_s: float, v_threshold: float) -> Tensor:
    """V(t) = sum w v0 K(t - t_i), term by term; at tau = tau_s its limit."""
    s = torch.arange(T, dtype=x.dtype) - x[..., None]
    if tau == tau_s:
        kernel = v_threshold * s / tau * torch.exp(1 - s / tau)
    else:
        t_max = tau * tau_s * math.log(tau / tau_s) / (tau - tau_s)
        v0 = v_threshold / (math.exp(-t_max / tau) - math.exp(-t_max / tau_s))
        kernel = v0 * (torch.exp(-s / tau) - torch.exp(-s / tau_s))
    kernel = torch.where((s >= 0) & (x[..., None] >= 0), kernel, torch.zeros_like(kernel))
    return torch.einsum("oi,bit->bot", weight, kernel)


def relative(tested: Tensor, expected: Tensor) -> float:
    return float((tested.double() - expected).detach().abs().max() / expected.detach().abs().max())


@kinds
@constants
@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-11)])
def test_potential_and_gradients(
    whole: bool, tau_s: float, backend: str, dtype: torch.dtype, limit: float
) -> None:
    model = Tempotron(40, 3, T, tau_s=tau_s, v_threshold=0.7, backend=backend).to(dtype)
    x = times(5, 40, whole).to(dtype).requires_grad_()
    weight = model.fc.weight.detach().double().requires_grad_()
    exact = x.detach().double().requires_grad_()
    v, expected = model(x), direct(exact, weight, 15.0, tau_s, 0.7)
    assert v.shape == (5, 3, T)
    assert v.dtype == dtype
    limit *= 1e4 if tau_s == 15.0001 and dtype == torch.float64 else 1  # the formula cancels
    assert relative(v, expected) <= limit
    g = torch.randn(v.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((v * g.to(dtype)).sum(), (model.fc.weight, x))
    wanted = torch.autograd.grad((expected * g).sum(), (weight, exact))
    assert found[1].abs().max() > 0
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) <= 10 * limit


@kinds
def test_times_need_no_gradient(whole: bool) -> None:
    model = Tempotron(9, 2, T).double()
    x = times(4, 9, whole)
    assert torch.allclose(model(x), model(x.clone().requires_grad_()), rtol=1e-13, atol=1e-15)


def test_normalisation_follows_from_the_kernel() -> None:
    """t_max is where dK/ds = 0, and v0 K(t_max) = v_threshold, by SymPy from the formula of K."""
    s, tau, tau_s = sympy.symbols("s tau tau_s", positive=True)
    kernel = sympy.exp(-s / tau) - sympy.exp(-s / tau_s)
    t_max = tau * tau_s * sympy.log(tau / tau_s) / (tau - tau_s)
    numbers = {tau: 12, tau_s: sympy.Rational(7, 2)}
    assert abs(kernel.diff(s).subs(s, t_max).subs(numbers).evalf(40)) < 1e-30
    model = Tempotron(1, 1, T, tau=12.0, tau_s=3.5, v_threshold=0.8)
    assert model.t_max == pytest.approx(float(t_max.subs(numbers)), rel=1e-14)
    peak = float(kernel.subs(s, t_max).subs(numbers))
    assert model.v0 == pytest.approx(0.8 / peak, rel=1e-14)
    assert Tempotron(1, 1, T, tau=4.0, tau_s=4.0).v0 == math.inf
    assert Tempotron(1, 1, T, tau=4.0, tau_s=4.0).t_max == 4.0


def test_kernel() -> None:
    t = torch.tensor([-1e5, -1.0, 0.0, 1.0, 7.5], dtype=torch.float64, requires_grad=True)
    k = Tempotron.psp_kernel(t, 10.0, 2.5)
    wanted = [0.0, 0.0, 0.0] + [math.exp(-s / 10) - math.exp(-s / 2.5) for s in (1.0, 7.5)]
    assert k.tolist() == pytest.approx(wanted, rel=1e-14)
    k.sum().backward()
    assert torch.isfinite(t.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "out"), [(5, 1), (1, 1), (1, 3), (0, 2)])
def test_only_time_is_squeezed(batch: int, out: int) -> None:
    model = Tempotron(4, out, T)
    x = torch.rand(batch, 4) * T
    assert model(x, "v").shape == (batch, out, T)
    assert model(x, "v_max").shape == (batch, out)
    assert model(x, "spikes").shape == (batch, out)


def test_no_spike_leaves_rest() -> None:
    model = Tempotron(4, 2, T)
    assert model(torch.full((3, 4), -1.0)).abs().max() == 0
    assert model(torch.full((3, 4), -1.0), "spikes").tolist() == [[-1.0, -1.0]] * 3


def test_times_of_the_maxima() -> None:
    model = Tempotron(30, 4, T).double()
    torch.nn.init.normal_(model.fc.weight, std=0.6)
    x = times(9, 30, True)
    v, y = model(x), model(x, "spikes")
    largest, at = v.detach().max(-1)
    wanted = torch.where(largest >= 1, at, torch.where(at == 0, -1, -at)).double()
    assert torch.equal(model(x, "v_max"), largest)
    assert torch.equal(y, wanted)
    fires = largest >= 1
    assert fires.any()
    assert not fires.all()
    # Backwards the soft argmax, with the sign that the hard one got.
    g = torch.randn(y.shape, dtype=torch.float64)
    soft = (torch.softmax(v * T, -1) * torch.arange(T)).sum(-1) * torch.where(fires, 1.0, -1.0)
    wanted_grad = torch.autograd.grad((soft * g).sum(), model.fc.weight, retain_graph=True)[0]
    found = torch.autograd.grad((y * g).sum(), model.fc.weight)[0]
    assert relative(found, wanted_grad) <= 1e-13


def test_times_are_whole_in_float32() -> None:
    """Rounding of soft + (hard - soft) would move a spike between two steps."""
    model = Tempotron(30, 64, T)
    y = model(times(50, 30, True).float(), "spikes")
    assert torch.equal(y, y.round())


def test_layers_stack() -> None:
    """Gradients reach the first layer through the times it hands on."""
    torch.manual_seed(0)
    first, second = Tempotron(20, 8, T).double(), Tempotron(8, 2, T).double()
    torch.nn.init.uniform_(first.fc.weight, 0.1, 0.4)
    x = times(6, 20, True)
    y = first(x, "spikes")
    assert (y >= 0).any()
    loss = (second(y, "v_max") ** 2).sum()
    found = torch.autograd.grad(loss, first.fc.weight, retain_graph=True)[0]
    s = direct(y, second.fc.weight, 15.0, 15.0 / 4, 1.0).max(-1).values
    wanted = torch.autograd.grad((s**2).sum(), first.fc.weight)[0]
    assert found.abs().max() > 0
    assert relative(found, wanted) <= 1e-10


def test_loss() -> None:
    v_max = torch.tensor([[1.5, 0.2], [0.4, 0.9], [1.0, 1.3]], requires_grad=True)
    label = torch.tensor([0, 1, 0])
    # Wrong: neuron 1 of the second pattern is silent, neuron 1 of the third fires.
    loss = Tempotron.mse_loss(v_max, 1.0, label, 2)
    assert float(loss.detach()) == pytest.approx((0.1**2 + 0.3**2) / 3, rel=1e-5)
    thresholds = torch.tensor([[2.0, 0.1], [0.5, 1.0], [0.5, 2.0]])
    loss = Tempotron.mse_loss(v_max, thresholds, label, 2)
    assert float(loss.detach()) == pytest.approx((0.5**2 + 0.1**2 + 0.1**2) / 3, rel=1e-5)


class Largest(TorchDispatchMode):
    """Bytes of the largest floating tensor that an operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return result


@kinds
def test_memory(whole: bool) -> None:
    """No tensor of size batch * in * T, forwards or backwards."""
    batch, afferents, out = 8, 500, 3
    model = Tempotron(afferents, out, T)
    x = times(batch, afferents, whole).float().requires_grad_()
    with Largest() as largest:
        model(x, "v_max").sum().backward()
    naive = 4 * batch * afferents * T
    bound = 8 * batch * (2 * afferents + 2 * out * (T + 1))
    assert 0 < largest.bytes <= bound < naive / 10


def test_refusals() -> None:
    model = Tempotron(4, 2, 10)
    with pytest.raises(ValueError, match=r"ret_type is 'v', 'v_max', 'spikes'; not 'vmax'"):
        model(torch.zeros(1, 4), "vmax")
    for late in (10.0, 1e9, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"lie in \[0, T = 10\).* the largest is"):
            model(torch.tensor([[0.0, 1.0, late, 2.0]]))
    for shape in ((4,), (1, 5), (1, 4, 1), ()):
        with pytest.raises(ValueError, match=r"has shape \[batch, 4\]"):
            model(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"are times, not torch.bool"):
        model(torch.zeros(1, 4, dtype=torch.bool))
    for wrong in ({"T": 0}, {"tau": -1.0}, {"tau_s": 0.0}, {"v_threshold": math.inf},
                  {"in_features": 2.5}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Tempotron(**{"in_features": 4, "out_features": 2, "T": 10, **wrong})
    v_max = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"v_max has shape \[batch, 4\]"):
        Tempotron.mse_loss(v_max, 1.0, torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"label has shape \[3\]"):
        Tempotron.mse_loss(v_max, 1.0, torch.zeros(3, 1), 2)
    with pytest.raises(ValueError, match=r"v_threshold is a number or has v_max's shape"):
        Tempotron.mse_loss(v_max, torch.ones(2), torch.zeros(3), 2)


def test_it_is_a_module_like_others() -> None:
    model = Tempotron(4, 2, 10)
    assert list(model.state_dict()) == ["fc.weight"]
    functional.reset_net(model)
    assert model(torch.zeros(1, 4, dtype=torch.long)).dtype == torch.float32
    assert "T=10" in repr(model)


def test_random_patterns_are_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    """Gütig & Sompolinsky (2006): as many random patterns as afferents are told apart."""
    for afferents in (10, 40):
        share, epochs = example.learn(afferents, load=1.0, seed=1)
        assert share >= 0.95
        assert epochs > 0
    example.main(["--afferents", "10", "--epochs", "1"])
    assert "of 10 patterns" in capsys.readouterr().out
