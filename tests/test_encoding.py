"""Poisson encoding: shapes, types, seeds, rates, and refused inputs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from neurogen.nn import functional
from neurogen.nn.encoding import PoissonEncoder


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("mode", "steps", "given", "expected"),
    [
        ("s", None, (4, 3), (4, 3)),
        ("s", 5, (4, 3), (4, 3)),
        ("m", 5, (4, 3), (5, 4, 3)),
        ("m", 1, (4, 3, 2), (1, 4, 3, 2)),
        ("m", None, (5, 4, 3), (5, 4, 3)),
        ("s", None, (), ()),
        ("m", 5, (), (5,)),
        ("m", 5, (0, 3), (5, 0, 3)),
    ],
)
def test_shapes(
    mode: str, steps: int | None, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert PoissonEncoder(mode, T=steps)(torch.full(given, 0.5)).shape == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_spikes_are_0_and_1_in_the_inputs_dtype(dtype: torch.dtype) -> None:
    x = torch.rand(50, 7).to(dtype)
    spikes = PoissonEncoder("m", T=20, generator=seeded())(x)
    assert spikes.dtype == dtype
    assert set(spikes.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_spike_has_probability_x(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 2.0**-12, 0.1, 0.5, 0.9, 1.0], dtype=dtype)
    steps = 100_000
    rate = PoissonEncoder("m", T=steps, generator=seeded())(x).double().mean(0)
    p = x.double()
    assert ((rate - p).abs() <= 5 * (p * (1 - p) / steps).sqrt()).all()
    assert rate[0] == 0
    assert rate[-1] == 1


def test_steps_and_elements_are_independent() -> None:
    spikes = PoissonEncoder("m", T=2000, generator=seeded())(torch.full((30,), 0.5))
    correlation = torch.corrcoef(torch.cat([spikes[:-1], spikes[1:]], dim=1).T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.15


def test_a_generator_makes_it_repeatable() -> None:
    x = torch.rand(8, 3)
    encoder = PoissonEncoder("m", T=10, generator=seeded(7))
    first, second = encoder(x), encoder(x)
    assert not torch.equal(first, second)
    assert torch.equal(PoissonEncoder("m", T=10, generator=seeded(7))(x), first)
    assert encoder.generator is not None
    encoder.generator.manual_seed(7)
    assert torch.equal(encoder(x), first)


def test_a_generator_leaves_the_default_one_alone() -> None:
    before = torch.get_rng_state()
    PoissonEncoder("m", T=10, generator=seeded())(torch.rand(8, 3, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torchs_seed_counts() -> None:
    x = torch.rand(8, 3)
    torch.manual_seed(3)
    first = PoissonEncoder()(x)
    torch.manual_seed(3)
    assert torch.equal(PoissonEncoder()(x), first)


def test_the_input_stays_as_it_is_and_gets_no_gradient() -> None:
    x = torch.rand(8, 3, requires_grad=True)
    before = x.detach().clone()
    assert not PoissonEncoder("m", T=4)(x).requires_grad
    assert torch.equal(x, before)


def test_any_strides() -> None:
    x = torch.rand(3, 8, generator=seeded())
    spikes = PoissonEncoder("m", T=9, generator=seeded())(x.T)
    assert torch.equal(spikes, PoissonEncoder("m", T=9, generator=seeded())(x.T.contiguous()))


@pytest.mark.parametrize("wrong", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_values_outside_0_and_1_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\].* scale them first"):
        PoissonEncoder()(torch.tensor([0.5, wrong]))


@pytest.mark.parametrize("wrong", [torch.ones(3, dtype=torch.uint8), torch.ones(3).bool(), [0.5]])
def test_only_floating_point_tensors(wrong: Any) -> None:
    with pytest.raises(TypeError, match="floating-point tensor"):
        PoissonEncoder()(wrong)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="'s' or 'm', not 'x'"):
        PoissonEncoder("x")
    with pytest.raises(ValueError, match="positive number of time steps, not 0"):
        PoissonEncoder("m", T=0)


def test_it_is_a_module_like_others() -> None:
    encoder = PoissonEncoder(T=4, generator=seeded())
    functional.set_step_mode(encoder, "m")
    functional.reset_net(encoder)
    assert "step_mode=m, T=4" in repr(encoder)
    assert encoder.state_dict() == {}
    copies: list[PoissonEncoder] = [copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]
    x: Tensor = torch.rand(3, 2)
    spikes = encoder(x)
    assert all(torch.equal(other(x), spikes) for other in copies)
