"""Mixed precision: half the bits for storage, float32 for states and arithmetic, fused kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.backends.cpp import launch
from neurogen.loading import load
from neurogen.runtime.base import BaseNode

HALVES = [torch.float16, torch.bfloat16]
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)


def inputs(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 1.5 + 0.7


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Storage types of the kernels that run, in order."""
    seen: list[str] = []

    def spy(run: Any) -> Any:
        def wrapper(kernels: Any, variant: Any, *others: Any) -> None:
            seen.append(variant.io)
            run(kernels, variant, *others)

        return wrapper

    for name in ("forward", "backward"):
        monkeypatch.setattr(launch, name, spy(getattr(launch, name)))
    return seen


@halves
@pytest.mark.parametrize("name", ["lif", "plif", "alif", "cuba_lif"])
def test_autocast_runs_the_fused_kernel_in_float32(
    name: str, dtype: torch.dtype, launched: list[str]
) -> None:
    node = load(name)(step_mode="m", store_v_seq=True)
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    x = inputs(4, 3, 6).requires_grad_()
    with torch.autocast("cpu", dtype):
        current = linear(x)
        spikes = node(current)
    assert current.dtype == spikes.dtype == dtype
    states = [getattr(node, state) for state in node.states]
    assert {s.dtype for s in (*states, node.v_seq)} == {torch.float32}
    spikes.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32 and linear.weight.grad.any()
    kind = {torch.float16: "neurogen::half", torch.bfloat16: "neurogen::bfloat16"}[dtype]
    assert launched == [kind, kind]
    # The same in float32, from the same rounded currents: identical spikes and states.
    exact = load(name)(step_mode="m", store_v_seq=True)
    wanted = exact(current.detach().float())
    assert torch.equal(spikes.float(), wanted)
    assert all(torch.equal(getattr(exact, n), s) for n, s in zip(node.states, states, strict=True))


@halves
@pytest.mark.parametrize("runs_on", ["torch", "cpp"])
def test_float32_inputs_under_autocast_stay_float32(dtype: torch.dtype, runs_on: str) -> None:
    plain, cast = (load("plif")(step_mode="m", backend=runs_on) for _ in range(2))
    x = inputs(5, 2, 3)
    with torch.autocast("cpu", dtype):
        found = cast(x)
    assert found.dtype == torch.float32 and torch.equal(found, plain(x))
    assert torch.equal(cast.v, plain.v)


@halves
def test_gradients_come_in_the_dtypes_of_what_they_belong_to(dtype: torch.dtype) -> None:
    node = load("lif")(v_threshold=nn.Parameter(torch.ones(3)), step_mode="m")
    x = inputs(4, 2, 3).to(dtype).requires_grad_()
    v = torch.zeros(2, 3, requires_grad=True)
    outputs, state = node.functional(x, state={"v": v})
    (outputs.float().sum() + state["v"].sum()).backward()
    assert x.grad.dtype == dtype
    assert v.grad.dtype == node.v_threshold.grad.dtype == torch.float32


def test_a_neuron_in_python_keeps_its_state_in_float32() -> None:
    class Leaky(BaseNode):
        def neuronal_charge(self, x: Tensor) -> None:
            self.v = self.v * 0.5 + x

    node = Leaky(step_mode="m")
    assert node(inputs(3, 4).half()).dtype == torch.float16 and node.v.dtype == torch.float32


@pytest.mark.parametrize("runs_on", ["torch", "cpp"])
def test_a_scaled_loss_trains_like_an_unscaled_one(runs_on: str) -> None:
    def train(scale: float | None) -> tuple[list[Tensor], float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), load("plif")(step_mode="m", backend=runs_on))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for seed in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = (net(inputs(4, 3, 6, seed=seed)).float().mean(0) - 0.5).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            net[1].reset()
        return [p.detach() for p in net.parameters()], scaler.get_scale()

    (wanted, _), (found, scale) = train(None), train(1024.0)
    assert scale == 1024.0
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_a_scale_that_overflows_is_taken_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), load("lif")(step_mode="m"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = net[0].weight.detach().clone()
    with torch.autocast("cpu", torch.float16):
        loss = net(inputs(4, 3, 6)).sum()
    scaler.scale(loss).backward()
    assert not net[0].weight.grad.isfinite().all(), "what overflows arrives as inf or nan"
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(net[0].weight, before) and scaler.get_scale() == 2.0**39
