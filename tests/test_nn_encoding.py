"""Latency, weighted phase and periodic encoders: published answers, and refused inputs."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from neurogen.nn import functional
from neurogen.nn.encoding import (
    LatencyEncoder,
    PeriodicEncoder,
    PoissonEncoder,
    WeightedPhaseEncoder,
)

PATTERN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
MAKERS: list[Callable[..., Any]] = [
    lambda **k: LatencyEncoder(5, **k),
    lambda **k: LatencyEncoder(5, "log", **k),
    lambda **k: WeightedPhaseEncoder(5, **k),
    lambda **k: PeriodicEncoder(PATTERN, **k),
]


def image() -> Tensor:
    return torch.rand(2, 2, generator=torch.Generator().manual_seed(0)) * 0.9


def steps(encoder: Any, x: Tensor, T: int) -> Tensor:
    return torch.stack([encoder(x) for _ in range(T)])


# -- codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["linear", "log"])
@pytest.mark.parametrize("T", [1, 2, 7, 20])
def test_latency_is_its_formula(function: str, T: int) -> None:
    x = torch.linspace(0, 1, 301, dtype=torch.float64)
    spikes = LatencyEncoder(T, function, "m")(x)
    assert torch.equal(spikes.sum(0), torch.ones_like(x))
    alpha = math.exp(T - 1) - 1
    for value, found in zip(x.tolist(), spikes.argmax(0).tolist(), strict=True):
        exact = (T - 1) * (1 - value)
        if function == "log":
            exact = T - 1 - math.log(alpha * value + 1)
        assert abs(found - exact) <= 0.5 + 1e-9


def test_latency_of_a_published_example() -> None:
    # x = 1 fires at once, x = 0 last; T = 4, linear: t = 3 (1 - x).
    spikes = LatencyEncoder(4, step_mode="m")(torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    assert torch.equal(spikes, torch.eye(4).flip(0))


@pytest.mark.parametrize("T", [100, 1000])
def test_log_latency_does_not_overflow(T: int) -> None:
    spikes = LatencyEncoder(T, "log", "m")(torch.tensor([0.0, 1e-30, 0.5, 1.0]))
    exact = [T - 1, None, T - 1 - (math.log(0.5) + T - 1), 0]
    assert spikes.sum(0).tolist() == [1.0] * 4
    for found, want in zip(spikes.argmax(0).tolist(), exact, strict=True):
        assert want is None or abs(found - want) <= 0.51


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("K", [1, 3, 8, 40])
def test_weighted_phases_are_binary_digits(dtype: torch.dtype, K: int) -> None:
    x = (torch.rand(50, dtype=torch.float64) * (1 - 2.0**-K)).to(dtype)
    x = x[x.double() <= 1 - 2.0**-K]
    spikes = WeightedPhaseEncoder(K, "m")(x)
    assert spikes.dtype == dtype
    for value, digits in zip(x.tolist(), spikes.T.tolist(), strict=True):
        whole = int(Fraction(value) * 2**K)
        assert [int(d) for d in digits] == [whole >> (K - 1 - i) & 1 for i in range(K)]


def test_weighted_phase_of_the_papers_table() -> None:
    x = torch.tensor([192, 1, 128, 255]) / 256
    expected = ["11000000", "00000001", "10000000", "11111111"]
    spikes = WeightedPhaseEncoder(8, "m")(x).int().T.tolist()
    assert ["".join(map(str, row)) for row in spikes] == expected


def test_periodic_goes_round() -> None:
    encoder = PeriodicEncoder(PATTERN)
    assert torch.equal(torch.stack([encoder() for _ in range(7)]), PATTERN[[0, 1, 2, 0, 1, 2, 0]])
    encoder.step_mode = "m"
    assert torch.equal(encoder(), PATTERN[[1, 2, 0]])
    encoder.reset()
    assert torch.equal(encoder(torch.rand(9)), PATTERN)
    assert encoder.state_dict() == {}
    assert encoder.double()().dtype == torch.float64


# -- what all share --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_step_modes_agree_and_the_code_begins_anew(make: Callable[..., Any]) -> None:
    encoder, x = make(), image()
    T = encoder.T
    found = steps(encoder, x, 2 * T + 1)
    whole = make(step_mode="m")(x)
    assert torch.equal(found[:T], whole)
    assert torch.equal(found[T : 2 * T], whole)
    assert encoder.t == 1
    functional.set_step_mode(encoder, "m")
    assert torch.equal(encoder(x), whole.roll(-1, 0))
    functional.reset_net(encoder)
    assert torch.equal(encoder(x), whole)
    assert encoder.t == 0


@pytest.mark.parametrize("make", MAKERS[:3])
def test_a_new_input_counts_at_once(make: Callable[..., Any]) -> None:
    encoder = make()
    encoder(image())
    other = 0.9 - image()
    whole = make(step_mode="m")(other)
    assert torch.equal(encoder(other), whole[1])
    assert torch.equal(encoder(), whole[2])
    assert torch.equal(encoder(other[:1]), whole[3, :1])


@pytest.mark.parametrize("make", MAKERS[:3])
def test_types_gradients_and_the_input(make: Callable[..., Any]) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x = image().to(dtype).requires_grad_()
        before = x.detach().clone()
        spikes = make(step_mode="m")(x)
        assert spikes.dtype == dtype
        assert not spikes.requires_grad
        assert set(spikes.flatten().tolist()) <= {0.0, 1.0}
        assert torch.equal(x, before)
    assert make()(torch.zeros(0, 3)).shape == (0, 3)
    assert make(step_mode="m")(torch.tensor(0.5)).shape == (5,)


@pytest.mark.parametrize("make", MAKERS)
def test_it_is_a_module_like_others(make: Callable[..., Any]) -> None:
    encoder, x = make(), image()
    encoder(x)
    assert f"T={encoder.T}" in repr(encoder)
    for clone in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert clone.t == 1
        assert torch.equal(clone(x), make(step_mode="m")(x)[1])
    assert encoder.t == 1


# -- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS[:3])
def test_values_outside_are_refused(make: Callable[..., Any]) -> None:
    for wrong in (-0.01, 1.01, 255.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"takes intensities in \[0, .*scale them first"):
            make()(torch.tensor([0.5, wrong]))
    with pytest.raises(TypeError, match="floating-point tensor"):
        make()(torch.ones(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="nothing to encode yet"):
        make()()


@pytest.mark.parametrize("K", [3, 30, 53])
def test_what_the_digits_cannot_hold_is_refused(K: int) -> None:
    x = torch.tensor([1.0])
    with pytest.raises(ValueError, match=rf"scale them first, e.g. x \* \(1 - 2\*\*-{K}\)"):
        WeightedPhaseEncoder(K)(x)
    WeightedPhaseEncoder(K)(x.double() * (1 - 2.0**-K))


def test_wrong_arguments() -> None:
    for T in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="T is a positive number of steps"):
            LatencyEncoder(T)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'linear' or 'log', not 'cubic'"):
        LatencyEncoder(3, "cubic")
    with pytest.raises(ValueError, match="K is at most 53"):
        WeightedPhaseEncoder(54)
    with pytest.raises(TypeError, match=r"takes a tensor .* not list"):
        PeriodicEncoder([1.0])  # type: ignore[arg-type]
    for empty in (torch.zeros(0, 3), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="T >= 1"):
            PeriodicEncoder(empty)
    for make in (*MAKERS, PoissonEncoder):
        with pytest.raises(ValueError, match="'s' or 'm', not 'x'"):
            make(step_mode="x")
