"""The frame around a neuron: keywords, state, parameters, copies, and what is refused.

Expected values come from a LIF step written by hand in plain torch (`by_hand`).
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import gc
import grp
import inspect
import itertools
import math
import os
import pickle
import pwd
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neurogen.backends import toolchain
from neurogen.backends.cpp import launch
from neurogen.compiler.pipeline import compile_file
from neurogen.errors import BackendError
from neurogen.loading import load, load_text
from neurogen.nn import surrogate
from neurogen.runtime import abi, backend
from neurogen.runtime.base import BaseNode
from neurogen.runtime.memory import MemoryModule
from neurogen.runtime.neuron import Neuron

ROOT = Path(__file__).parents[1]
both = pytest.mark.parametrize("runs_on", ["torch", "cpp"])
TWO_INPUTS = "name: Gated\ninputs: [x, gate]\ncharge: v + x * gate"


def lif(**keywords: Any) -> Any:
    return load("lif")(**{"step_mode": "m", **keywords})


def inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Numbers that make a neuron of threshold 1 fire now and then."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.7).to(dtype)


def by_hand(
    x: Tensor, v: Any = None, tau: Any = 2.0, v_threshold: Any = 1.0, v_reset: Any = 0.0,
    decay_input: bool = True, detach_reset: bool = False, alpha: float = 4.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Spikes and potentials of LIF, `[T, *]`; the slope through fire is that of a sigmoid."""
    rest = 0.0 if v_reset is None else v_reset
    if v is None:
        v = torch.zeros_like(x[0]) + rest
    spikes, potentials = [], []
    for x_t in x.unbind(0):
        v = v + (x_t - (v - rest)) / tau if decay_input else v - (v - rest) / tau + x_t
        smooth = torch.sigmoid(alpha * (v - v_threshold))
        spike = (v >= v_threshold).to(x.dtype) + (smooth - smooth.detach())
        seen = spike.detach() if detach_reset else spike
        v = v - seen * v_threshold if v_reset is None else seen * v_reset + (1 - seen) * v
        spikes.append(spike)
        potentials.append(v)
    return torch.stack(spikes), torch.stack(potentials)


# -- keywords --------------------------------------------------------------------------------------


def test_the_constructor_is_that_of_spikingjelly() -> None:
    common = {
        "v_threshold": 1.0, "v_reset": 0.0, "surrogate_function": None, "detach_reset": False,
        "step_mode": "s",
    }  # fmt: skip
    found = inspect.signature(load("lif")).parameters
    last = {"store_v_seq": False, "monitor_state": False}
    wanted = {"tau": 2.0, "decay_input": True, **common, "backend": "auto", **last}
    assert {name: p.default for name, p in found.items()} == wanted
    assert list(found) == list(wanted)
    wanted = {**common, "backend": "torch", **last}
    assert {n: p.default for n, p in inspect.signature(BaseNode).parameters.items()} == wanted


def test_arguments_are_attributes() -> None:
    node = load("lif")(3.0, False, 0.5, -1.0, surrogate.ATan(3.0), True, "m", "cpp", True)
    assert (node.tau, node.decay_input, node.v_threshold, node.v_reset) == (3.0, False, 0.5, -1.0)
    assert (node.detach_reset, node.step_mode, node.backend) == (True, "m", "cpp")
    assert node.store_v_seq
    assert isinstance(node.surrogate_function, surrogate.ATan)
    assert node.surrogate_function in node.children()
    default = load("lif")()
    assert isinstance(default.surrogate_function, surrogate.Sigmoid)
    assert default.surrogate_function.alpha == 4.0
    assert default.surrogate_function is not load("lif")().surrogate_function


def test_the_repr_names_what_differs() -> None:
    text = repr(lif(tau=3.5, v_threshold=nn.Parameter(torch.ones(4, 1)), v_reset=None))
    for part in ("tau=3.5", "v_threshold=tensor[4, 1]", "v_reset=None", "detach_reset=False",
                 "step_mode=m", "backend=auto", "decay_input=True", "Sigmoid(alpha=4"):  # fmt: skip
        assert part in text
    plif = repr(load("plif")())
    assert "w=tensor[1]" in plif
    assert " tau=" not in plif
    assert "v_threshold=1.0" in repr(BaseNode())


def test_supported_backends() -> None:
    assert set(lif().supported_backends) >= {"torch", "cpp"}
    assert BaseNode().supported_backends == ("torch",)


@pytest.mark.parametrize("make", [lif, BaseNode])
def test_unknown_modes_and_backends_list_the_choices(make: Any) -> None:
    with pytest.raises(ValueError, match=r"'s' or 'm', not 'x'"):
        make(step_mode="x")
    node = make()
    with pytest.raises(ValueError, match=r"'s' or 'm', not 1"):
        node.step_mode = 1
    with pytest.raises(ValueError, match=r"torch.*not 'gpu'"):
        node.backend = "gpu"
    assert node.backend in ("auto", "torch")
    with pytest.raises(ValueError, match=r"torch"):
        make(backend="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_backend_that_cannot_run_says_why_and_what_can() -> None:
    with pytest.raises(BackendError, match=r"no CUDA device.*torch, cpp"):
        lif(backend="cupy")


def test_wrong_keywords_and_types() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'taus'"):
        lif(taus=2.0)
    with pytest.raises(TypeError, match=r"tau is a number or a tensor, not str"):
        lif(tau="2")
    with pytest.raises(TypeError, match=r"v_threshold is a number or a tensor, not bool"):
        lif(v_threshold=True)
    with pytest.raises(ValueError, match=r"v_threshold must be a number"):
        lif(v_threshold=None)
    with pytest.raises(TypeError, match=r"decay_input is True or False, not 1"):
        lif(decay_input=1)
    with pytest.raises(TypeError, match=r"surrogate module, not function"):
        lif(surrogate_function=lambda u: u)


# -- the state -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("v_reset", "rest"), [(0.0, 0.0), (-0.25, -0.25), (None, 0.0)])
def test_v_is_a_number_until_the_first_input(runs_on: str, v_reset: Any, rest: float) -> None:
    node = lif(v_reset=v_reset, backend=runs_on)
    for _ in range(2):
        assert isinstance(node.v, float)
        assert node.v == rest
        assert node.v_seq is None
        x = inputs(5, 3, 4)
        y = node(x)
        spikes, potentials = by_hand(x, v_reset=v_reset)
        assert torch.equal(y, spikes)
        assert torch.equal(node.v, potentials[-1])
        node.reset()


@both
def test_single_steps_are_the_multi_step(runs_on: str) -> None:
    x = inputs(9, 2, 3).requires_grad_()
    weight = inputs(9, 2, 3, seed=1)
    many, single = lif(backend=runs_on, store_v_seq=True), lif(backend=runs_on, step_mode="s")
    y = many(x)
    (y * weight).sum().backward()
    gradient, x.grad = x.grad, None
    steps, potentials = [], []
    for x_t in x.unbind(0):
        steps.append(single(x_t))
        potentials.append(single.v)
    (torch.stack(steps) * weight).sum().backward()
    assert torch.equal(torch.stack(steps), y)
    assert torch.equal(torch.stack(potentials), many.v_seq)
    assert torch.equal(single.v, many.v)
    assert torch.equal(x.grad, gradient)  # type: ignore[arg-type]


@both
def test_calls_without_reset_go_on(runs_on: str) -> None:
    x = inputs(8, 5)
    whole, halves = lif(backend=runs_on), lif(backend=runs_on)
    y = whole(x)
    assert torch.equal(torch.cat([halves(x[:3]), halves(x[3:])]), y)
    assert torch.equal(halves.v, whole.v)
    halves.reset()
    assert torch.equal(halves(x), y)


@both
def test_detach_cuts_the_graph_and_keeps_the_value(runs_on: str) -> None:
    x = inputs(3, 4).requires_grad_()
    node = lif(backend=runs_on)
    node(x)
    assert node.v.requires_grad
    before = node.v.detach().clone()
    node.detach()
    assert not node.v.requires_grad
    assert torch.equal(node.v, before)
    node(x[:1]).sum().backward()
    assert x.grad is not None
    assert not x.grad[1:].any()


@both
def test_the_graph_reaches_through_the_state(runs_on: str) -> None:
    x = inputs(6, 4).requires_grad_()
    node = lif(backend=runs_on)
    node(x[:3])
    node(x[3:]).sum().backward()
    gradient = x.grad
    expected = x.detach().requires_grad_()
    by_hand(expected)[0][3:].sum().backward()
    torch.testing.assert_close(gradient, expected.grad, rtol=1e-5, atol=1e-7)


@both
def test_v_seq(runs_on: str) -> None:
    x = inputs(5, 3)
    node = lif(backend=runs_on)
    node(x)
    assert node.v_seq is None
    node.reset()
    node.store_v_seq = True
    node(x)
    assert torch.equal(node.v_seq, by_hand(x)[1])
    assert torch.equal(node.v_seq[-1], node.v)
    node.reset()
    assert node.v_seq is None


@both
def test_gradients_of_v_seq_and_of_the_initial_state(runs_on: str) -> None:
    x = inputs(7, 3, dtype=torch.float64).requires_grad_()
    start = torch.tensor([0.1, -0.3, 0.8], dtype=torch.float64, requires_grad=True)
    weight = inputs(7, 3, dtype=torch.float64, seed=2)
    results = []
    for kind in ("node", "hand"):
        if kind == "node":
            node = lif(backend=runs_on, store_v_seq=True)
            node.v = start
            y, potentials = node(x), node.v_seq
        else:
            y, potentials = by_hand(x, start)
        loss = (y * weight).sum() + (potentials * weight.flip(0)).sum() + potentials[-1].sum()
        results.append((y, potentials, *torch.autograd.grad(loss, (x, start))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@both
def test_a_state_may_be_given_as_a_number_or_0_dim(runs_on: str) -> None:
    x = inputs(4, 3)
    expected = by_hand(x, torch.full((3,), 0.5))[1][-1]
    for value in (0.5, torch.tensor(0.5), torch.full((3,), 0.5)):
        node = lif(backend=runs_on)
        node.v = value
        node(x)
        assert torch.equal(node.v, expected)
    scalar = torch.tensor(0.5, requires_grad=True)
    node.v = scalar
    node(x)
    (gradient,) = torch.autograd.grad(node.v.sum(), scalar)
    full = torch.full((3,), 0.5, requires_grad=True)
    (each,) = torch.autograd.grad(by_hand(x, full)[1][-1].sum(), full)
    torch.testing.assert_close(gradient, each.sum())


def test_the_functional_core_remembers_nothing() -> None:
    x = inputs(6, 3)
    node = lif(backend="cpp")
    y, state = node.functional(x[:2])
    assert isinstance(node.v, float)
    assert list(state) == ["v"]
    rest, state = node.functional(x[2:], state=state, sequences=("v",))
    assert torch.equal(torch.cat([y, rest]), by_hand(x)[0])
    assert torch.equal(state["v_seq"], by_hand(x)[1][2:])
    node.functional(x, state=state)  # what was returned can be given again
    with pytest.raises(ValueError, match=r"no state 'u'; its states are v$"):
        node.functional(x, state={"u": 0.0})


# -- a change acts at the next forward -------------------------------------------------------------

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("v_threshold", 0.5, {"v_threshold": 0.5}),
    ("tau", 3.25, {"tau": 3.25}),
    ("tau", torch.tensor([3.0, 2.0, 1.5]), {"tau": torch.tensor([3.0, 2.0, 1.5])}),
    ("v_reset", 0.25, {"v_reset": 0.25}),
    ("v_reset", None, {"v_reset": None}),
    ("decay_input", False, {"decay_input": False}),
    ("detach_reset", True, {"detach_reset": True}),
    ("surrogate_function", surrogate.Sigmoid(2.0), {"alpha": 2.0}),
    ("surrogate_function.alpha", 1.5, {"alpha": 1.5}),
]


@both
@pytest.mark.parametrize(("name", "value", "keywords"), CHANGES, ids=lambda c: str(c)[:20])
def test_a_change_acts_at_the_next_forward(
    runs_on: str, name: str, value: Any, keywords: dict[str, Any]
) -> None:
    node = lif(backend=runs_on)
    start = torch.full((3,), 0.125)
    for given in ({}, keywords):
        if given:
            owner, _, attribute = name.rpartition(".")
            setattr(getattr(node, owner) if owner else node, attribute, value)
        x = inputs(6, 3).requires_grad_()
        hand = x.detach().clone().requires_grad_()
        node.v = start
        y = node(x)
        expected, potentials = by_hand(hand, start, **given)
        assert torch.equal(y, expected)
        assert torch.equal(node.v, potentials[-1])
        (y.sum() + node.v.sum()).backward()
        (expected.sum() + potentials[-1].sum()).backward()
        torch.testing.assert_close(x.grad, hand.grad, rtol=1e-5, atol=1e-6)


@both
def test_a_flag_may_choose_a_constant(runs_on: str) -> None:
    spec = (
        "name: Chosen\nparameters: {a: 2.0, b: 3.0}\nflags: {first: true}\n"
        "let: {gain: a if first else b}\ncharge: v + gain * x"
    )
    node = load_text(spec)(step_mode="m", backend=runs_on)
    for first, gain in ((True, 2.0), (False, 3.0), (True, 2.0)):
        node.first = first
        node.v = 0.0
        node(torch.full((1, 2), 0.125))
        assert node.v.tolist() == [gain / 8] * 2


def test_v_follows_v_reset_until_the_first_input() -> None:
    for node in (lif(), BaseNode()):
        node.v_reset = -0.5
        assert node.v == -0.5
        node.v_reset = None
        assert node.v == 0.0
        node.v_reset = 0.5
        node.v = 0.125
        node.v_reset = 0.0
        assert node.v == 0.125
        node.reset()
        assert node.v == 0.0


@both
def test_alpha_is_that_of_the_forward_pass(runs_on: str) -> None:
    """An annealed alpha does not reach back into a graph that exists."""
    x = inputs(4, 3).requires_grad_()
    node = lif(backend=runs_on)
    y = node(x)
    node.surrogate_function.alpha = 0.5
    y.sum().backward()
    hand = x.detach().requires_grad_()
    by_hand(hand, alpha=4.0)[0].sum().backward()
    torch.testing.assert_close(x.grad, hand.grad, rtol=1e-5, atol=1e-6)


# -- parameters ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4), (3, 1), (4,), (2, 1, 4)], ids=str)
def test_parameters_are_numbers_tensors_or_learnt(runs_on: str, shape: tuple[int, ...]) -> None:
    x = inputs(5, 2, 3, 4, dtype=torch.float64)
    weight = inputs(5, 2, 3, 4, dtype=torch.float64, seed=3)
    generator = torch.Generator().manual_seed(4)
    values = {
        name: start + 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64)
        for name, start in (("tau", 2.0), ("v_threshold", 0.9), ("v_reset", -0.1))
    }
    node = lif(backend=runs_on, **values)
    assert not list(node.parameters())
    plain = node(x)
    learnt = lif(backend=runs_on, **{n: nn.Parameter(v) for n, v in values.items()})
    leaves = {n: v.clone().requires_grad_() for n, v in values.items()}
    y, (expected, potentials) = learnt(x), by_hand(x, **leaves)
    assert torch.equal(plain, expected)
    assert torch.equal(y, expected)
    assert torch.equal(learnt.v, potentials[-1])
    ((y * weight).sum() + learnt.v.sum()).backward()
    ((expected * weight).sum() + potentials[-1].sum()).backward()
    assert {n for n, _ in learnt.named_parameters()} == set(values)
    for name, leaf in leaves.items():
        found = getattr(learnt, name).grad
        assert found.shape == shape
        torch.testing.assert_close(found, leaf.grad, rtol=1e-9, atol=1e-12)


@both
def test_parameters_that_are_tensors_keep_the_compute_dtype(runs_on: str) -> None:
    """Only float64 inputs or states make the arithmetic float64."""
    x = inputs(4, 3)
    for v_reset in (
        nn.Parameter(torch.zeros(1)),
        torch.zeros(3),
        torch.zeros((), dtype=torch.float64),
    ):
        node = lif(backend=runs_on, v_reset=v_reset)
        assert node(x).dtype == torch.float32
        assert node.v.dtype == torch.float32
        assert torch.equal(node.v, by_hand(x)[1][-1])


def test_a_parameter_can_change_its_kind() -> None:
    node = lif(tau=nn.Parameter(torch.tensor(3.0)))
    assert set(node.state_dict()) == {"tau"}
    node.tau = 4.0
    assert not node.state_dict()
    node.tau = torch.tensor([2.0, 3.0])
    assert not list(node.parameters())
    assert set(node.state_dict()) == {"tau"}
    node.v_reset = nn.Parameter(torch.zeros(1))
    node.v_reset = None
    assert node.v_reset is None
    assert set(node.state_dict()) == {"tau"}


def test_a_learnable_v_reset_makes_the_reset_hard() -> None:
    node = load_text("name: A\nlearnable: {v_reset: 0.25}\ncharge: 0.5 * v + x\n")(step_mode="m")
    assert set(dict(node.named_parameters())) == {"v_reset"}
    x = torch.tensor([[2.0], [0.0], [3.0]])
    assert node(x).flatten().tolist() == [1.0, 0.0, 1.0] and node.v.item() == 0.25
    node.v.sum().backward()
    assert node.v_reset.grad is not None and node.v_reset.grad.item() != 0.0


def test_bounds_hold_at_construction_and_assignment() -> None:
    for wrong in (1.0, 0, float("nan"), torch.tensor([3.0, 0.5]), nn.Parameter(torch.tensor(1.0))):
        with pytest.raises(ValueError, match=r"tau=.* must satisfy tau > 1"):
            lif(tau=wrong)
    node = lif(tau=3.0)
    learnt = nn.Parameter(torch.tensor([3.0, 2.0]))
    for good, wrong in itertools.product((3.0, learnt), (1.0, torch.zeros(2))):
        node.tau = good
        with pytest.raises(ValueError, match=r"LIFNode: tau=.* must satisfy tau > 1"):
            node.tau = wrong
        assert node.tau is good or node.tau == good
        assert len(list(node.parameters())) == (good is learnt)
    with pytest.raises(ValueError, match=r"init_tau > 1 or not constrained"):
        load("plif")(init_tau=0.5)
    assert load("plif")(init_tau=0.5, constrained=False).tau.item() == 2.0


def test_flags_that_need_another_parameter_are_refused() -> None:
    node = load("plif")(init_tau=3.0)
    with pytest.raises(ValueError, match=r"constrained=False.* learns 'tau'.*make a new one"):
        node.constrained = False
    assert node.constrained
    with pytest.raises(ValueError, match=r"'tau' is not learnt with .*constrained=True"):
        node.tau = 2.0
    loose = load("plif")(init_tau=0.5, constrained=False)
    with pytest.raises(ValueError, match=r"init_tau=0.5 must satisfy"):
        loose.constrained = True
    assert not loose.constrained


def test_a_parameter_that_does_not_fit_the_input() -> None:
    for runs_on in ("torch", "cpp"):
        node = lif(tau=torch.full((5,), 2.0), backend=runs_on)
        with pytest.raises(
            ValueError, match=r"tau has shape \[5\].*time step of the input, \[3, 4\]"
        ):
            node(inputs(2, 3, 4))
        node.tau = torch.full((2, 3, 4), 2.0)  # would broadcast, but to something larger
        with pytest.raises(ValueError, match=r"does not broadcast"):
            node(inputs(2, 3, 4))
        node.tau, node.v_reset = 2.0, torch.zeros(5)
        with pytest.raises(ValueError, match=r"\[5\]"):
            node(inputs(2, 3, 4))


@pytest.mark.parametrize(
    ("options", "init", "raw"),
    [
        ("identity", -2.5, -2.5),
        ("sigmoid", 0.25, -math.log(3)),
        ("sigmoid, bounds: [-2, 2]", 1.0, math.log(3)),
        ("softplus", math.log(2), 0.0),
        ("softplus", 40.0, 40.0),
        ("softplus", 800.0, 800.0),
        ("softplus", 1e-6, math.log(math.expm1(1e-6))),
        ("exp", 0.5, -math.log(2)),
        ("clamp, bounds: [0, 1]", 1.0, 1.0),
        ("exp", "2 * log(1 + 2) + sqrt(3 + 1)", math.log(2 * math.log(3) + 2)),
    ],
)
def test_equations_see_init_at_first(options: str, init: float | str, raw: float) -> None:
    text = f"name: A\nlearnable: {{w: {{init: {init}, transform: {options}}}}}\ncharge: w + 0 * x"
    node = load_text(text)(v_threshold=1e9, backend="torch")
    assert node.w.item() == pytest.approx(raw, rel=1e-6, abs=1e-7)
    node(torch.zeros(1))
    seen = init if isinstance(init, float) else 2 * math.log(3) + 2
    assert node.v.item() == pytest.approx(seen, rel=1e-5)


def test_learnables_per_layer_channel_and_neuron() -> None:
    spec = (
        "name: Scaled\nlearnable: {{w: {{init: 0.5, per: {}, transform: {}}}}}\ncharge: v + w * x"
    )
    x = inputs(3, 2, 4, 5, 6)
    with pytest.raises(ValueError, match=r"'w' is learnt per channel; give shape="):
        load_text(spec.format("channel", "identity"))()
    for per, shape in (("channel", (4,)), ("neuron", (4, 5, 6))):
        raw = torch.rand(shape)
        for transform, seen in (("identity", raw), ("exp", raw.exp()), ("sigmoid", raw.sigmoid())):
            node = load_text(spec.format(per, transform))(
                shape=shape, step_mode="m", backend="torch"
            )
            assert node.w.shape == shape
            node.w.data = raw
            node(x)
            factor = seen.reshape(4, 1, 1) if per == "channel" else seen
            same = load_text(spec.format(per, "identity"))(
                shape=(4, 5, 6), step_mode="m", backend="torch"
            )
            same.w = nn.Parameter(factor.expand(4, 5, 6).clone())
            same(x)
            assert torch.equal(node.v, same.v)


# -- copies ----------------------------------------------------------------------------------------


def trained(**keywords: Any) -> tuple[Any, Tensor]:
    """A node after a forward with gradients, and the input it has seen."""
    node = lif(tau=nn.Parameter(torch.tensor(2.5)), store_v_seq=True, **keywords)
    x = inputs(4, 3).requires_grad_()
    node(x)
    return node, x


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_equal_and_independent(duplicate: Any) -> None:
    node, x = trained()
    node.surrogate_function.alpha = 3.0
    twin = duplicate(node)
    assert type(twin) is type(node)
    assert torch.equal(twin.v, node.v)
    assert torch.equal(twin.v_seq, node.v_seq)
    assert not twin.v.requires_grad
    assert node.v.requires_grad
    assert twin.surrogate_function.alpha == 3.0
    assert not twin._filled, "what is computed again is not carried along"
    assert torch.equal(twin(x), node(x))
    with torch.no_grad():
        twin.tau += 1.0
    twin.reset()
    assert node.tau == 2.5
    assert isinstance(node.v, Tensor)
    assert twin.v == 0.0
    assert torch.equal(twin(x), by_hand(x, tau=3.5)[0])


def test_a_shallow_copy_rests_by_itself() -> None:
    node = lif(v_reset=0.25)
    twin = copy.copy(node)
    twin(inputs(4, 3))
    node.v_reset = -0.5
    assert node.v == -0.5, "at rest it follows v_reset, whatever its copy did"


def test_a_copy_keeps_what_hooks_have_kept() -> None:
    node, x = trained()
    node.v_seq = []
    node.register_forward_hook(lambda module, *_: module.v_seq.append(module.v))
    node.store_v_seq = False
    node(x)
    assert torch.equal(copy.deepcopy(node).v_seq[0], node.v)


def test_a_pickle_is_read_by_another_process(tmp_path: Path) -> None:
    """No module can be imported there for a class loaded from text: the spec comes along."""
    spec = "name: Own\nsurrogate: {primitive: sigmoid(k * u), parameters: {k: 2.0}}\ncharge: v + x"
    node = load_text(spec)(step_mode="m", v_threshold=nn.Parameter(torch.tensor(1.5)))
    other = lif(surrogate_function=load_text(spec)().surrogate_function, backend="torch")
    x = inputs(4, 3).requires_grad_()
    node(x)
    other(x)
    (tmp_path / "in").write_bytes(pickle.dumps((other.surrogate_function, other, node, x.detach())))
    script = (
        "import pickle, sys\n"
        "s, other, node, x = pickle.load(open(sys.argv[1], 'rb'))\n"
        "y = node(x)\n"
        "pickle.dump((s.k, y.detach(), node.v.detach(), other(x)), open(sys.argv[2], 'wb'))\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "in", tmp_path / "out"], check=True)
    k, y, v, z = pickle.loads((tmp_path / "out").read_bytes())
    assert k == 2.0
    assert torch.equal(y, node(x))
    assert torch.equal(v, node.v)
    assert torch.equal(z, other(x))


def test_a_subclass_of_a_loaded_class_is_pickled_by_name() -> None:
    twin = pickle.loads(pickle.dumps(Named(tau=3.0)))
    assert type(twin) is Named
    assert twin.tau == 3.0


class Named(load("lif")):  # type: ignore[misc]
    """A subclass that can be imported."""


def test_state_dict_holds_parameters_only() -> None:
    node, _ = trained()
    assert set(node.state_dict()) == {"tau"}
    fresh = lif(tau=nn.Parameter(torch.tensor(9.0)))
    fresh.load_state_dict(node.state_dict())
    assert fresh.tau == 2.5
    assert set(load("plif")().state_dict()) == {"w"}


def test_conversions_move_the_state_but_not_below_float32() -> None:
    node, x = trained()
    node.double()
    assert node.v.dtype == node.v_seq.dtype == node.tau.dtype == torch.float64
    assert node(x.double()).dtype == torch.float64
    node.half()
    assert node.v.dtype == torch.float32
    assert node.tau.dtype == torch.float16
    assert node(x.half()).dtype == torch.float16
    assert node.v.dtype == torch.float32
    node.to(torch.bfloat16)
    assert node.v.dtype == torch.float32
    value = node.v.detach().clone()
    node.to("cpu")
    assert torch.equal(node.v, value)


def test_the_meta_device_and_back() -> None:
    node = lif(tau=nn.Parameter(torch.tensor(2.5))).to("meta")
    assert node(inputs(4, 3).to("meta")).shape == (4, 3)
    assert node.v.is_meta
    node.to_empty(device="cpu")
    assert node.v == 0.0
    kept, _ = trained()
    before = kept.v.detach().clone()
    kept.to_empty(device="cpu")
    assert torch.equal(kept.v, before)


def test_replicas_remember_for_themselves() -> None:
    node, _ = trained()
    replica = node._replicate_for_data_parallel()
    before = node.v
    replica.v = torch.zeros(3)
    assert node.v is before


def test_parameters_can_be_swapped_from_outside() -> None:
    node = lif(tau=nn.Parameter(torch.tensor(2.5)))
    x = inputs(5, 3)
    y = torch.func.functional_call(node, {"tau": torch.tensor(4.0)}, (x,))
    assert torch.equal(y, by_hand(x, tau=4.0)[0])
    node.reset()

    class Shifted(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return raw + 1.5

    nn.utils.parametrize.register_parametrization(node, "tau", Shifted())
    assert torch.equal(node(x), by_hand(x, tau=4.0)[0])


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_storage(runs_on: str, dtype: torch.dtype) -> None:
    x = inputs(6, 5, dtype=dtype).requires_grad_()
    node = lif(backend=runs_on, store_v_seq=True)
    y = node(x)
    spikes, potentials = by_hand(x.detach().float())
    assert y.dtype == dtype
    assert torch.equal(y.float(), spikes)
    assert node.v.dtype == node.v_seq.dtype == torch.float32
    assert torch.equal(node.v_seq, potentials)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


# -- neurons in Python -----------------------------------------------------------------------------


class SquareIFNode(BaseNode):
    """The example of the documentation."""

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v + x**2


@both
@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_neuron_in_python_equals_the_generated_one(
    runs_on: str, v_reset: Any, dtype: torch.dtype
) -> None:
    results = []
    for make in (SquareIFNode, load("square_if")):
        node = make(v_reset=v_reset, step_mode="m", store_v_seq=True)
        if make is not SquareIFNode:
            node.backend = runs_on
        x = (inputs(5, 3) * 0.5).to(dtype).requires_grad_()
        y = node(x)
        (y.sum() + node.v.sum()).backward()
        results.append((y, node.v, node.v_seq, x.grad))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=0)


class Custom(BaseNode):
    """Fires above 2 only, and forgets half of what it has."""

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v + x

    def neuronal_fire(self) -> Tensor:  # noqa: D102
        return (self.v > 2.0).to(self.v.dtype)

    def neuronal_reset(self, spike: Tensor) -> None:  # noqa: D102
        self.v = self.v * 0.5


def test_charge_fire_and_reset_can_be_overridden() -> None:
    node = Custom(step_mode="m", store_v_seq=True)
    y = node(torch.ones(3, 1) * 1.5)
    assert y.flatten().tolist() == [0.0, 1.0, 1.0]  # 1.5, then 0.75 + 1.5, then 1.125 + 1.5
    assert node.v_seq.flatten().tolist() == [0.75, 1.125, 1.3125]
    single = Custom()
    assert [single(torch.tensor([1.5])).item() for _ in range(3)] == [0.0, 1.0, 1.0]
    assert torch.equal(single.v, node.v)


def test_multi_step_forward_loops_by_default() -> None:
    class Sum(MemoryModule):
        def __init__(self) -> None:
            super().__init__("m")
            self.register_memory("total", torch.zeros(2))

        def single_step_forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            self.total = self.total + x
            return self.total

    node = Sum()
    assert torch.equal(node(torch.ones(3, 2)), torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
    assert dict(node.named_memories())["total"] is node.total
    node.reset()
    assert torch.equal(node.total, torch.zeros(2))
    assert torch.equal(next(node.double().memories()), torch.zeros(2, dtype=torch.float64))
    node.reset()
    assert node.total.dtype == torch.float64, "the start value moves, too"
    node.total += 1.0  # in place
    node.reset()
    assert not node.total.any(), "the start value is not what a run works on"
    with pytest.raises(ValueError, match=r"T = 0"):
        node(torch.ones(0, 2))
    with pytest.raises(ValueError, match=r"has an attribute 'forward' already"):
        node.register_memory("forward", 0)
    del node.total
    assert not hasattr(node, "total")
    with pytest.raises(TypeError, match=r"does not define single_step_forward"):
        MemoryModule()(torch.ones(2))


def test_a_neuron_in_python_is_not_fused() -> None:
    with pytest.raises(ValueError, match=r"SquareIFNode is written in Python.*torch, not 'cpp'"):
        SquareIFNode(backend="cpp")
    with pytest.raises(TypeError, match=r"BaseNode does not define neuronal_charge"):
        BaseNode()(torch.ones(2))


def test_a_neuron_in_python_refuses_bad_input() -> None:
    node = SquareIFNode(step_mode="m")
    with pytest.raises(ValueError, match=r"T = 0"):
        node(torch.zeros(0, 3))
    with pytest.raises(TypeError, match=r"floating-point tensor, not torch.int64"):
        node(torch.ones(2, 3, dtype=torch.int64))
    node(torch.ones(2, 1, 3))
    for shape in ((2, 5, 3), (2, 4, 1)):
        with pytest.raises(ValueError, match=r"state v \[1, 3\]; call reset\(\)"):
            node(torch.ones(shape))


@pytest.mark.parametrize("name", ["neuronal_charge", "neuronal_fire", "neuronal_reset", "step"])
def test_equations_in_python_would_be_ignored_by_a_compiled_neuron(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Wrong.{name} would be ignored.*BaseNode"):
        types.new_class("Wrong", (load("lif"),), {}, lambda body: body.update({name: None}))
    mixin = type("Mixin", (), {name: None})
    with pytest.raises(TypeError, match=rf"Mixin.{name} would be ignored: Wrong is compiled"):
        types.new_class("Wrong", (mixin, load("lif")))

    class Fine(load("lif")):  # type: ignore[misc]
        def single_step_forward(self, x: Tensor) -> Tensor:
            return super().single_step_forward(2 * x)  # type: ignore[no-any-return]

    x = inputs(1, 3)
    assert torch.equal(Fine()(x[0]), by_hand(2 * x)[0][0])


def test_code_of_another_abi_is_refused() -> None:
    text = "from neurogen.runtime.neuron import Neuron\n" \
           "abi = {}\n" \
           "class OldNode(Neuron):\n" \
           "    kernels = None\n" \
           "    @staticmethod\n" \
           "    def step(x): return x\n"  # fmt: skip
    exec(text.format(abi.ABI), {"__name__": "fresh"})
    with pytest.raises(ImportError, match=r"OldNode.*ABI -1.*neurogen build"):
        exec(text.format(-1), {"__name__": "stale"})


@pytest.mark.parametrize("file", ["kernels.cpp", "kernels.cu"])
def test_kernels_belong_to_their_module(tmp_path: Path, file: str) -> None:
    compiled = compile_file(ROOT / "specs" / "lif.yaml")
    for artefact in compiled.artefacts:
        artefact.write(tmp_path)
    text, path = (tmp_path / file).read_text(), tmp_path / file
    ours = dataclasses.replace(load("lif").kernels, module=str(tmp_path / "__init__.py"), texts=())
    assert ours.text(file) == text
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert ours.text(file) == text, "Git may end lines so"
    header, _, body = text.partition("\n")
    others = (ROOT / "generated" / "plif" / file).read_text()
    for wrong in (
        others,
        f"{header}\n{body.replace('v + (x', 'v - (x')}",
        text[:-100],
        "",
        "\udcff",
    ):
        path.write_bytes(wrong.encode(errors="surrogateescape"))
        with pytest.raises(
            BackendError, match=rf"{file} is .*not the file.*`neurogen build` again"
        ):
            ours.text(file)
    path.unlink()
    with pytest.raises(BackendError, match=rf"{file} is missing"):
        ours.text(file)


class Straight(surrogate.Sigmoid):
    """A surrogate in Python: its parent's kernel does not know of it."""

    @staticmethod
    def slope(u: Tensor, alpha: float) -> Tensor:  # noqa: D102
        return torch.ones_like(u)


def test_a_surrogate_in_python_runs_on_torch_only() -> None:
    x = inputs(1, 3).requires_grad_()
    with pytest.raises(BackendError, match=r"Straight is written in Python"):
        lif(surrogate_function=Straight(), backend="cpp")(x)
    for runs_on in ("torch", "auto"):
        node = lif(surrogate_function=Straight(), backend=runs_on)
        backend.warn_once.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y = node(x)
        assert len(caught) == (runs_on == "auto")
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, torch.full_like(x, 0.5))  # 1 / tau


# -- what is refused at run time -------------------------------------------------------------------


@both
def test_inputs_are_checked(runs_on: str) -> None:
    node = lif(backend=runs_on)
    with pytest.raises(TypeError, match=r"x is a tensor, not list"):
        node([1.0])
    with pytest.raises(TypeError, match=r"takes 1 inputs \(x\), not 2"):
        node(inputs(2, 3), inputs(2, 3))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=rf"not {dtype}; convert it, e.g. x.float\(\)"):
            node(torch.ones(2, 3, dtype=dtype))
    for wrong in (torch.ones(()), torch.ones(3)):
        with pytest.raises(ValueError, match=r"'m' x has shape \[T, N, \*\].*use step_mode 's'"):
            node(wrong)
    with pytest.raises(ValueError, match=r"no time steps \(T = 0\)"):
        node(torch.ones(0, 3))
    assert isinstance(node.v, float), "a refused input leaves the state as it was"
    node.step_mode = "s"
    with pytest.raises(ValueError, match=r"'s' x has shape \[N, \*\]"):
        node(torch.ones(()))
    assert node(torch.ones(3)).shape == (3,)


@both
def test_several_inputs_are_of_one_kind(runs_on: str) -> None:
    node = load_text(TWO_INPUTS)(step_mode="m", backend=runs_on)
    x = inputs(2, 3)
    for wrong in (x[:, :2], x.double(), x.to("meta")):
        with pytest.raises(
            ValueError, match=r"inputs have one shape, dtype and device; x is .*, gate"
        ):
            node(x, wrong)
    with pytest.raises(TypeError, match=r"takes 2 inputs \(x, gate\), not 1"):
        node(x)


@both
def test_a_state_that_does_not_fit_any_more(runs_on: str) -> None:
    node = lif(backend=runs_on)
    node(inputs(2, 1, 4))
    before = node.v
    for shape in ((2, 3, 4), (2, 4), (2, 1, 1), (2, 1, 4, 1)):
        with pytest.raises(ValueError, match=r"the state v \[1, 4\]; call reset\(\)"):
            node(inputs(*shape))
    assert node.v is before
    node(inputs(2, 1, 4))
    node.reset()
    node(inputs(2, 3, 4))
    node.reset()
    node(inputs(2, 1, 1))
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        node(inputs(2, 5, 1))


def test_a_device_that_a_backend_does_not_know() -> None:
    with pytest.raises(BackendError, match=r"'cpp' cannot run: it runs on the CPU.*on meta"):
        lif(backend="cpp")(inputs(2, 3).to("meta"))
    node = lif()
    node.v = torch.zeros(3, device="meta")
    with pytest.raises(ValueError, match=r"input is on cpu, the state v on meta"):
        node(inputs(2, 3))


@both
def test_backward_twice(runs_on: str) -> None:
    x = inputs(2, 3).requires_grad_()
    node = lif(backend=runs_on)
    y = node(x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match=r"backward through the graph a second time"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match=r"backward through the graph a second time"):
        node(x).sum().backward()  # the state's graph is gone: reset() or detach() was forgotten
    node.reset()
    y = node(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()


def test_double_backward_is_an_error() -> None:
    x = inputs(2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(lif(backend="cpp")(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice|double"):
        ((gradient**2).sum() + x.sum()).backward()


@both
def test_an_input_changed_before_backward(runs_on: str) -> None:
    leaf = inputs(3, 4).requires_grad_()
    x = leaf * 1.0
    y = load("square_if")(step_mode="m", backend=runs_on)(x)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
        y.sum().backward()


# -- memory ----------------------------------------------------------------------------------------


def steps_with_checkpoints() -> int:
    variant = abi.Variant(True, "float", (), False, True, -1, "")
    return 3 * launch.checkpoint_every(load("lif").kernels, variant) + 1


def big_storages(size: int) -> set[int]:
    """Addresses of all living storages of at least so many bytes."""
    gc.collect()
    found = set()
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            if storage.nbytes() >= size and not thing.is_meta:
                found.add(storage.data_ptr())
    return found


def test_training_keeps_the_input_by_reference_and_little_else() -> None:
    steps, neurons = steps_with_checkpoints(), 300
    x = inputs(steps, neurons).requires_grad_()
    node = lif(backend="cpp", tau=nn.Parameter(torch.tensor(2.0)))
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    before = big_storages(4 * steps * neurons)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = node(x)
    assert big_storages(4 * steps * neurons) - before == {y.untyped_storage().data_ptr()}
    whole = [tensor for tensor in saved if tensor.numel() >= steps * neurons]
    assert [tensor.data_ptr() for tensor in whole] == [x.data_ptr()]
    rest = [tensor.numel() for tensor in saved if tensor.numel() < steps * neurons]
    assert 3 * neurons in rest, "the checkpoints"
    assert sum(rest) <= 3 * neurons + neurons + 10, "checkpoints, initial state, constants"
    saved.clear()
    y.sum().backward()
    assert x.grad is not None


class Allocations(TorchDispatchMode):
    """Elements of every tensor that an operation allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.elements.append(result.numel())
        return result


@pytest.mark.parametrize("learnt", [False, True])
def test_inference_keeps_nothing(learnt: bool) -> None:
    steps, neurons = steps_with_checkpoints(), 300
    tau: Any = nn.Parameter(torch.tensor(2.0)) if learnt else 2.0
    node = lif(backend="cpp", tau=tau)
    x = inputs(steps, neurons)
    saved: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor)
    with torch.no_grad(), hooks, Allocations() as allocated:
        y = node(x)
    assert not saved
    assert y.grad_fn is None
    assert sum(allocated.elements) <= steps * neurons + neurons + 20, "output, final state"


# -- the compiler and its cache --------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process that has compiled nothing yet, with an empty cache folder."""
    caches = (toolchain.unusable, backend.warn_once, launch.library)
    monkeypatch.setenv("NEUROGEN_CACHE", str(tmp_path / "cache"))
    for cached in caches:
        cached.cache_clear()
    yield tmp_path / "cache" / "cpp"
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "compiler", lambda: None)
    x = inputs(4, 3)
    node = lif()
    with pytest.warns(RuntimeWarning, match=r"'torch'.*'cpp' cannot run.*apt install g\+\+"):
        assert torch.equal(node(x), by_hand(x)[0])
    node.reset()
    lif()(x)  # a second warning would be an error
    with pytest.raises(BackendError, match=r"cannot run: no C\+\+ compiler.*apt install g\+\+"):
        lif(backend="cpp")
    with pytest.raises(BackendError, match=r"apt install g\+\+"):
        node.backend = "cpp"
    assert node.supported_backends[0] == "torch"
    assert "cpp" not in node.supported_backends


def test_a_compiler_that_fails(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = fresh.parent.parent / "compiler"
    script.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho out of order >&2\nexit 7\n")
    script.chmod(0o700)
    monkeypatch.setattr(toolchain, "compiler", lambda: (str(script),))
    x = inputs(4, 3)
    with pytest.warns(RuntimeWarning, match=r"(?s)could not compile.*\(exit 7\).*out of order"):
        assert torch.equal(lif()(x), by_hand(x)[0])
    with pytest.raises(BackendError, match=r"(?s)exit 7.*out of order"):
        lif(backend="cpp")
    script.unlink()
    toolchain.identity.cache_clear()
    toolchain.unusable.cache_clear()
    with pytest.raises(BackendError, match=r"cannot be started"):
        lif(backend="cpp")


def test_the_environment_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    found = toolchain.compiler.__wrapped__
    monkeypatch.setenv("CXX", "env g++ -O1")
    assert found()[1:] == ("g++", "-O1")
    assert Path(found()[0]).name == "env"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert found() is None
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    assert found() is None


def build(answer: int) -> Path:
    text = f'extern "C" int answer() {{ return {answer}; }}\n'
    return toolchain.shared_library(text, "", ("-O0",))


def test_the_cache_survives_what_happens_to_it(fresh: Path) -> None:
    library = build(1)
    assert library.parent == fresh
    assert fresh.stat().st_mode & 0o777 == 0o700
    assert build(1) == library
    assert build(2) != library
    whole, stamp = library.read_bytes(), library.stat().st_mtime_ns
    assert build(1).stat().st_mtime_ns == stamp, "found, not built again"
    for broken in (whole[:100], b"", bytes([whole[0] ^ 1]) + whole[1:]):
        library.write_bytes(broken)
        assert build(1).read_bytes() == whole
    library.with_suffix(".sha256").write_bytes(b"\xff")
    assert build(1).read_bytes() == whole
    library.with_suffix(".sha256").unlink()
    assert build(1).read_bytes() == whole
    for path in fresh.iterdir():
        path.unlink()
    fresh.rmdir()
    assert build(1).read_bytes() == whole
    assert {path.suffix for path in fresh.iterdir()} == {".so", ".sha256", ".lock"}


def test_a_cache_that_others_can_write(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    for folder in (fresh, fresh.parent):
        for path, mode in ((fresh, 0o700), (fresh.parent, 0o700), (folder, 0o777)):
            path.chmod(mode)
        toolchain.unusable.cache_clear()
        with pytest.raises(BackendError, match=r"can be written by others; set NEUROGEN_CACHE"):
            lif(backend="cpp")
    fresh.parent.chmod(0o1777)  # as /tmp: others cannot rename what is mine
    assert toolchain.cache_folder() == fresh


def test_a_group_that_can_write_beside_the_cache(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.mkdir(parents=True, mode=0o700)
    me = pwd.getpwuid(os.getuid()).pw_name
    groups = {
        "of me alone": (me, [me]), "of two": (me, ["someone", me]), "of all": ("users", []),
    }  # fmt: skip
    for kind, (name, members) in groups.items():
        group = grp.struct_group((name, "x", 1, members))
        monkeypatch.setattr(grp, "getgrgid", lambda gid, group=group: group)
        for mode, trusted in ((0o750, True), (0o1770, True), (0o770, kind == "of me alone")):
            fresh.parent.chmod(mode)
            fresh.parent.parent.chmod(0o770)  # a project's folder, or a home of a cluster's
            if trusted:
                assert toolchain.cache_folder() == fresh
            else:
                with pytest.raises(
                    BackendError, match=f"{fresh.parent} is another's or can be wri"
                ):
                    toolchain.cache_folder()
    fresh.parent.chmod(0o700)
    fresh.parent.parent.chmod(0o777)
    with pytest.raises(BackendError, match=f"as {fresh.parent.parent} is another's or can be writ"):
        toolchain.cache_folder()


def test_links_to_the_cache(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.parent.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(fresh.parent)
    monkeypatch.setenv("NEUROGEN_CACHE", str(tmp_path / "link"))
    assert toolchain.cache_folder() == fresh, "where it leads, now and later"
    if os.getuid():
        pytest.skip("root alone can give a file away")
    os.chown(tmp_path / "link", 12345, -1, follow_symlinks=False)
    with pytest.raises(BackendError, match=f"as {tmp_path / 'link'} is another's"):
        toolchain.cache_folder()
    os.chown(tmp_path / "link", 0, -1, follow_symlinks=False)
    for folder in (fresh.parent, fresh):
        os.chown(folder, 12345, -1)
        with pytest.raises(BackendError, match=rf"as {tmp_path}\S+ is another's"):
            toolchain.cache_folder()
        os.chown(folder, 0, -1)
    assert toolchain.cache_folder() == fresh


@pytest.mark.parametrize("end", [".so", ".sha256", ".so.lock", ".work"])
def test_what_is_no_file_of_the_cache_is_replaced(fresh: Path, end: str) -> None:
    library = build(1)
    path = library.with_suffix(end)
    for other in (library, path):
        other.unlink(missing_ok=True)
    if end == ".work":
        path.write_text("a file where a folder should be")
    else:
        path.mkdir()
        (path / "in it").touch()
    assert build(1).is_file()
    assert {path.suffix for path in fresh.iterdir()} == {".so", ".sha256", ".lock"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CXX", '"', r'CXX=" cannot be read \(No closing quotation\)'),
        ("CXX", "true", "true ended well and wrote no library"),
        (
            "NEUROGEN_CACHE",
            "~nobody-of-this-name/x",
            r"cannot be used.*home.*set NEUROGEN_CACHE",
        ),
    ],
)
def test_an_environment_that_is_wrong(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(toolchain, "compiler", toolchain.compiler.__wrapped__)
    x = inputs(4, 3)
    with pytest.warns(RuntimeWarning, match=rf"running on backend 'torch'.*{said}"):
        assert torch.equal(lif()(x), by_hand(x)[0])
    with pytest.raises(BackendError, match=said):
        lif(backend="cpp")


def test_options_of_the_compiler_are_read_where_it_runs(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(toolchain, "compiler", toolchain.compiler.__wrapped__)
    monkeypatch.setenv("CXX", "g++ -Iown")
    text = '#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n'
    for answer in (1, 2):
        header = tmp_path / str(answer) / "own" / "answer.h"
        header.parent.mkdir(parents=True)
        header.write_text(f"#define ANSWER {answer}\n")
        monkeypatch.chdir(header.parent.parent)
        library = ctypes.CDLL(str(toolchain.shared_library(text, "", ("-O0",))))
        assert library.answer() == answer
    # A compiler that is named by a relative path stays the one that it was.
    (tmp_path / "1" / "compiler").symlink_to("/bin/true")
    monkeypatch.chdir(tmp_path / "1")
    monkeypatch.setenv("CXX", "./compiler")
    assert toolchain.compiler() == (str(tmp_path / "1" / "compiler"),)


def test_a_cache_that_cannot_be_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROGEN_CACHE", os.devnull)
    with pytest.raises(
        BackendError, match=r"cannot be used \(a file is in its place\); set NEUROGEN_CACHE"
    ):
        lif(backend="cpp")
    with pytest.warns(RuntimeWarning, match=r"running on backend 'torch'.*NEUROGEN_CACHE"):
        lif()(inputs(2, 3))


FORK = """
import os, signal, sys, time
import torch
from neurogen.loading import load
torch.set_num_threads(2)
x = torch.rand(64, 4096)
(x.repeat(8, 1) + 1).sum()  # torch's OpenMP pool lives

def check(node):
    child = os.fork()
    if child == 0:
        node(x)
        os._exit(0)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    sys.exit(f"the child of {node} hangs")

node = load("lif")(step_mode="m", backend="auto")  # finds its backend in the child
failed = check(node)
node(x)  # the kernel's pool lives, too
node.reset()
sys.exit(failed or check(node))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_does_not_hang() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_every_generated_class_is_a_neuron() -> None:
    assert issubclass(load("lif"), Neuron)


@both
@pytest.mark.parametrize(("stem", "seed"), [("lif", {}), ("noisy_lif", {"seed": 3})])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_node_that_ran_in_inference_mode_can_be_trained(
    runs_on: str, stem: str, seed: dict[str, int], dtype: torch.dtype
) -> None:
    used, fresh = (load(stem)(step_mode="m", backend=runs_on, **seed) for _ in range(2))
    x = inputs(4, 3, dtype=dtype)
    with torch.inference_mode():
        used(x)
        used.reset()
    x.requires_grad_()
    (after,), (wanted,) = (torch.autograd.grad(node(x).sum(), x) for node in (used, fresh))
    assert wanted.any() and torch.equal(after, wanted)


@both
def test_a_state_is_no_view_of_an_input(runs_on: str) -> None:
    """A delay line fed from one buffer, step by step, is the neuron fed with the sequence."""
    text = "name: Delay\nstates: {v: 0.0, q: 0.0}\ncharge: {v: 0.5 * v + x + q, q: x}\n"
    x = inputs(6, 5)
    whole = load_text(text)(step_mode="m", backend=runs_on)(x)
    node, buffer, spikes = load_text(text)(backend=runs_on), torch.empty(5), []
    with torch.no_grad():
        for step in x:
            spikes.append(node(buffer.copy_(step)).clone())
    assert torch.equal(torch.stack(spikes), whole) and whole.any()


@both
def test_a_state_is_no_view_of_a_parameter(runs_on: str) -> None:
    text = "name: A\nstates: {v: 0.0, q: 0.0}\nlearnable: {w: 1.5}\ncharge: {v: v + x + q, q: w}\n"
    node = load_text(text)(step_mode="m", backend=runs_on)
    node(inputs(3, 5))
    node.detach()
    with torch.no_grad():
        node.w.fill_(9.0)
    assert torch.equal(node.q, torch.full((5,), 1.5))
