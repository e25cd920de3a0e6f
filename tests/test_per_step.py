"""Parameters with a value per time step, per channel and per neuron: values, gradients, mistakes.

Expected values come from loops and sums written by hand, and from the reference.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.backends.cpp import launch
from neurogen.backends.cupy.launch import emulated
from neurogen.loading import load, load_text
from neurogen.tools.verify import BACKENDS, LAYOUTS, Case, Problem, compare

every_backend = pytest.mark.parametrize("backend", BACKENDS)

#: Linear in every parameter, so that gradients are sums.
LINEAR = """
name: Linear
parameters:
  gain: {default: 1.0, per: step}
  offset: {default: 0.0, per: channel}
  decay: {default: 0.5, per: neuron}
charge: decay * v + gain * x + offset
fire: none
output: v
"""
GRADED = """
name: Graded
parameters:
  tau: {default: 2.0, where: tau > 1, per: step}
  v_threshold: {default: 1.0, per: channel}
  v_reset: {default: 0.1, per: neuron}
learnable:
  w: {init: 0.5, per: step, transform: softplus}
  a: {init: 0.3, per: channel}
  b: {init: 0.1, per: neuron}
  c: {init: 0.2, per: layer}
let: {mixed: w * a + tau * c}
charge: v + (mixed * x - (v - v_rest)) / tau + b
"""
EXACT = """
name: Exact
states: {i: 0.0, v: 0.0}
parameters:
  tau_s: {default: 3.0, per: step}
  tau_m: {default: 8.0, per: channel}
dynamics: {i: (x - i) / tau_s, v: (i - v) / tau_m}
scheme: exact
fire: v >= 0.5 * v_threshold
"""


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """The CUDA text runs on the CPU where there is no GPU."""
    with emulated():
        yield


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.25


def linear(x: Tensor, gain: Any, offset: Any, decay: Any) -> Tensor:
    """V[t] for t = 0 ... T-1 of `LINEAR`, in float64; gain is [T] or a number for each step."""
    v, potentials = torch.zeros_like(x[0]), []
    for t, x_t in enumerate(x.unbind(0)):
        v = decay * v + gain[t] * x_t + offset
        potentials.append(v)
    return torch.stack(potentials)


# -- values and gradients --------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("rows", [1, 3, launch.LANES + 3])
def test_gradients_are_the_sums_over_what_shares_a_value(
    backend: str, layout: str, rows: int
) -> None:
    steps, channels = 37, 3
    shape = (2, channels, rows, 2)
    x = numbers(steps, *shape)
    if layout == "channels_last":
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    weights = numbers(steps, *shape, seed=1)
    leaves = {
        "gain": numbers(steps, seed=2),
        "offset": numbers(channels, seed=3),
        "decay": 0.5 * numbers(channels, rows, 2, seed=4),
    }
    found = []
    for by_hand in (True, False):
        x.requires_grad_()
        given = {name: nn.Parameter(value.clone()) for name, value in leaves.items()}
        if by_hand:
            offset = given["offset"].reshape(-1, 1, 1)
            output = linear(x, given["gain"], offset, given["decay"])
        else:
            output = load_text(LINEAR)(step_mode="m", backend=backend, **given)(x)
        gradients = torch.autograd.grad((output * weights).sum(), [x, *given.values()])
        found.append((output, *gradients))
    for expected, value in zip(*found, strict=True):
        assert expected.shape == value.shape
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@every_backend
@pytest.mark.parametrize("text", [GRADED, EXACT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_way_of_sharing_agrees_with_the_reference(
    backend: str, text: str, dtype: torch.dtype
) -> None:
    for layout, (steps, shape) in zip(
        LAYOUTS, ((19, (2, 3, 211)), (70, (3, 4, 5)), (1, (2, 5)), (6, (3, 2, 2, 3))), strict=True
    ):
        problem = Problem(steps=steps, shape=shape, layout=layout, learnt="neuron")
        compare(text, Case(backend, dtype=dtype), problem).require()


@every_backend
@pytest.mark.parametrize("gain", [0.7, torch.tensor(0.7), nn.Parameter(torch.tensor([0.7]))])
def test_one_value_serves_all_steps(backend: str, gain: Any) -> None:
    gain = copy.deepcopy(gain)
    x = numbers(40, 2, 3, 70).float()
    node = load_text(LINEAR)(gain=gain, step_mode="m", backend=backend)
    output = node(x)
    expected = linear(x.double(), [0.7] * 40, 0.0, 0.5)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    if isinstance(gain, nn.Parameter):
        output.sum().backward()
        twin = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        linear(x.double(), [twin] * 40, 0.0, 0.5).sum().backward()
        assert gain.grad is not None and gain.grad.shape == (1,)
        assert twin.grad is not None
        torch.testing.assert_close(gain.grad[0].double(), twin.grad, rtol=1e-5, atol=0)


@every_backend
@pytest.mark.parametrize("rest", [(3, 1), (2, 1, 5), (5,), (2, 3, 5)])
def test_a_value_per_step_may_differ_within_it(backend: str, rest: tuple[int, ...]) -> None:
    """[T, ...] whose rest broadcasts to one time step, runs of neighbours or not."""
    x, gain = numbers(9, 2, 3, 5), numbers(9, *rest, seed=5)
    gradients = []
    for by_hand in (True, False):
        leaf = nn.Parameter(gain.clone())
        if by_hand:
            output = linear(x, leaf, 0.0, 0.5)
        else:
            output = load_text(LINEAR)(gain=leaf, step_mode="m", backend=backend)(x)
        gradients.append(torch.autograd.grad((output * numbers(9, 2, 3, 5, seed=6)).sum(), leaf))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_tensors_need_no_gradient() -> None:
    x, gain = numbers(9, 2, 3), numbers(9, seed=5)
    found = []
    for given in (gain, nn.Parameter(gain)):
        node = load_text(LINEAR)(gain=given, offset=numbers(3), step_mode="m")
        found.append(node(x).detach())
    assert torch.equal(*found)
    assert torch.equal(found[0], linear(x, gain, numbers(3), 0.5))


@every_backend
def test_single_steps_take_t(backend: str) -> None:
    x, gain = numbers(9, 2, 3), numbers(9, seed=5)
    results = []
    for mode in "ms":
        given = nn.Parameter(gain.clone())
        node = load_text(LINEAR)(gain=given, step_mode=mode, backend=backend)
        if mode == "m":
            output = node(x)
        else:
            output = torch.stack([node(x_t, t=t) for t, x_t in enumerate(x)])
        output.square().sum().backward()
        results.append((output.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=0)
    node = load_text(LINEAR)(gain=gain, step_mode="m")
    halves = [node.functional(x[:4], t=0)]
    halves.append(node.functional(x[4:], t=4, state=halves[0][1]))
    assert torch.equal(torch.cat([output for output, _ in halves]), results[0][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    x = numbers(20, 3, 20 * launch.LANES // 3 + 7).to(dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gain, offset = (nn.Parameter(numbers(n).to(dtype)) for n in (20, x.shape[2]))
            node = load_text(LINEAR)(gain=gain, offset=offset, step_mode="m", backend="cpp")
            node(x).square().sum().backward()
            found.append((gain.grad, offset.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# -- construction ----------------------------------------------------------------------------------


def test_learnables_take_their_shapes_by_kind() -> None:
    sizes = {"step": (7,), "channel": (3,), "neuron": (3, 5)}
    node = load_text(GRADED)(shape=sizes)
    assert {n: tuple(p.shape) for n, p in node.named_parameters()} == {
        "w": (7,), "a": (3,), "b": (3, 5), "c": (1,),
    }  # fmt: skip
    assert tuple(load("glif")(shape=(6,)).conduct.shape) == (6,)
    assert tuple(load("glif")(shape={"step": (6,)}).conduct.shape) == (6,)
    with pytest.raises(ValueError, match=r"'conduct' is learnt per step; give shape= \(T,\)"):
        load("glif")()
    for wrong in (None, (7,), {"step": (7,)}):
        with pytest.raises(ValueError, match=r"learnt per .*give shape= \{"):
            load_text(GRADED)(shape=wrong)


@every_backend
def test_steps_and_channels_that_do_not_fit_are_refused(backend: str) -> None:
    cls = load_text(LINEAR)
    node = cls(gain=numbers(9), step_mode="m", backend=backend)
    with pytest.raises(ValueError, match=r"gain has values for 9 time steps, asked for are 8"):
        node(numbers(8, 2, 3))
    for t in (-1, 9):
        with pytest.raises(ValueError, match=rf"1 from t={t}"):
            node.functional(numbers(1, 2, 3), t=t)
    node.step_mode = "s"
    with pytest.raises(ValueError, match=r"in mode 's' give t=0, 1"):
        node(numbers(2, 3))
    node = cls(offset=numbers(3), step_mode="m", backend=backend)
    with pytest.raises(ValueError, match=r"offset has a value per channel, dimension 1"):
        node(numbers(4, 3))
    with pytest.raises(ValueError, match=r"offset has shape \[3, 1\], which does not broadcast"):
        node(numbers(4, 2, 5, 6))
    with pytest.raises(TypeError, match="takes no t="):
        load("lif")()(numbers(2, 3), t=0)
    with pytest.raises(TypeError, match="'t'"):
        load("lif")(step_mode="m")(numbers(2, 2, 3), t=0)


def test_bounds_hold_for_every_value() -> None:
    sizes = {"step": (4,), "channel": (3,), "neuron": (3, 5)}
    cls = load_text(GRADED)
    cls(tau=torch.tensor([2.0, 3.0, 4.0, 5.0]), shape=sizes)
    with pytest.raises(ValueError, match="tau > 1"):
        cls(tau=torch.tensor([2.0, 3.0, 0.5, 5.0]), shape=sizes)


def test_copies_and_state_dicts_hold_them() -> None:
    x = numbers(5, 2, 3).float()
    node = load("glif")(step_mode="m", shape=(5,))
    with torch.no_grad():
        node.conduct.copy_(torch.arange(5.0))
    twin = load("glif")(step_mode="m", shape=(5,))
    twin.load_state_dict(node.state_dict())
    for other in (twin, copy.deepcopy(node)):
        assert torch.equal(other(4 * x), node(4 * x))
        node.reset()


def test_a_number_without_dimensions_is_loaded() -> None:
    """SpikingJelly saves what its neurons learn without dimensions."""
    text = "name: A\nlearnable: {w: {init: 0.5, per: channel}}\ncharge: v + w * x\n"
    single, several = load("plif")(), load_text(text)(shape=(2,))
    saved = {"0.w": torch.tensor(-1.5, dtype=torch.float64)}
    torch.nn.Sequential(single).load_state_dict(saved)
    assert single.w.tolist() == [-1.5] and not saved["0.w"].dim()
    with pytest.raises(RuntimeError, match="size mismatch for w"):
        several.load_state_dict({"w": torch.tensor(0.5)})


def test_a_stepped_threshold_moves_the_spikes() -> None:
    """The threshold of the base neuron may be declared per step, too."""
    cls = load_text(
        "name: A\nparameters: {v_threshold: {default: 1.0, per: step}}\ncharge: v + x\n"
    )
    x = torch.full((4, 2, 3), 0.6)
    for reset, backend in itertools.product((0.0, None), BACKENDS):
        node = cls(v_threshold=torch.tensor([0.5, 2.0, 1.0, 0.7]), v_reset=reset, step_mode="m",
                   backend=backend)  # fmt: skip
        wanted = [1.0, 0.0, 1.0, 0.0] if reset == 0.0 else [1.0, 0.0, 1.0, 1.0]
        assert node(x)[:, 0, 0].tolist() == wanted
