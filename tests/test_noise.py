"""Noise and random initial states: the published generator, its statistics, and what replays it.

Expected values come from the answers that the authors of Philox publish, from the reference's own
generator in numpy (`neurogen.tools.reference.noise`), from closed forms, and from scipy.
"""

from __future__ import annotations

import copy
import ctypes
import io
import itertools
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neurogen.backends import toolchain
from neurogen.backends.cpp import launch
from neurogen.backends.cupy.launch import emulated
from neurogen.loading import load, load_text
from neurogen.runtime import noise
from neurogen.tools.reference import Reference
from neurogen.tools.reference import noise as own
from neurogen.tools.verify import BACKENDS, Case, Problem, compare

CPU = torch.device("cpu")
every_backend = pytest.mark.parametrize("backend", BACKENDS)

SILENT = """
name: Silent
parameters: {tau: 2.0, sigma: 0.5}
noise: {xi: normal}
charge: v + (x - v) / tau + sigma * xi
fire: none
output: v
"""
TRAINING_ONLY = """
name: TrainingOnly
parameters: {sigma: 0.5}
noise: {xi: {kind: normal, eval: false}, eta: normal}
charge: 0.5 * v + x + sigma * xi + 0.1 * eta
"""
DIFFUSION = """
name: Diffusion
states: {v: 0.0, w: 0.0}
parameters: {tau: 10.0, sigma: 0.4}
noise: {xi: normal, eta: normal}
dt: 0.25
dynamics: {v: (x - v) / tau + sigma * xi, w: (v - w) / tau + sigma * xi * eta}
scheme: euler
charge: {u: w + 0.1 * eta, v: v + 0.1 * u}
"""
RANDOM_START = """
name: RandomStart
states:
  v: {init: {uniform: [-0.5, 1.5]}}
  age: {init: {uniform: [0, 4]}, integer: true}
noise: {xi: normal}
charge: 0.5 * v + x + 0.1 * xi
reset: {age: "min(age + 1, 3)"}
output: spike + 0.25 * age
"""


@pytest.fixture(autouse=True)
def on_the_cpu(backend: str | None = None) -> Iterator[None]:
    """The CUDA text runs on the CPU where there is no GPU."""
    with emulated():
        yield


def normal(seed: int, first: int, stream: int, steps: int, *shape: int) -> Tensor:
    state = torch.tensor([seed - (seed >> 63 << 64), first])
    return noise.normal(state, stream, steps, torch.Size(shape), CPU)


def made(text: str, **keywords: Any) -> Any:
    cls = load("noisy_lif") if text == "noisy_lif" else load_text(text)
    return cls(**{"step_mode": "m", "backend": "cpp", "seed": 11, **keywords})


def inputs(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2


# -- the generator ---------------------------------------------------------------------------------

#: philox4x32 10 in kat_vectors of Random123: counter, key, block.
PUBLISHED = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip

HEADER = """
#include "neurogen/cpu.h"
#include "neurogen/noise.h"
extern "C" void block(unsigned* w, const unsigned* key) {
  const neurogen::Words r = neurogen::philox({w[0], w[1], w[2], w[3]}, key[0], key[1]);
  w[0] = r.a; w[1] = r.b; w[2] = r.c; w[3] = r.d;
}
extern "C" void fill(float* to, int64_t seed, int64_t first, int64_t stream, int64_t steps,
                     int64_t n) {
  const neurogen::Noise noise{seed, first, -1, nullptr};
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t i = 0; i < n; i += neurogen::LANES)
      neurogen::draw(to + t * n + i, noise, t, stream, i, neurogen::least(n - i, neurogen::LANES));
}
extern "C" void each(float* to, int64_t seed, int64_t first, int64_t stream, int64_t steps,
                     int64_t n) {
  const neurogen::Noise noise{seed, first, -1, nullptr};
  for (int64_t k = 0; k < steps * n; ++k) to[k] = noise.at(k % n, k / n, stream);
}
"""


@pytest.fixture(scope="module")
def header() -> ctypes.CDLL:
    """The header's functions, with the flags of the kernels."""
    return ctypes.CDLL(str(toolchain.shared_library(HEADER, "", ("-O3", "-fopenmp"))))


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "block"), PUBLISHED)
def test_the_generator_gives_the_published_answers(
    header: ctypes.CDLL, counter: str, key: str, block: str
) -> None:
    place, (k0, k1), expected = words(counter), words(key), words(block)
    found = (ctypes.c_uint * 4)(*place)
    header.block(found, (ctypes.c_uint * 2)(k0, k1))
    assert [*found] == expected
    arrays = [np.array([word], dtype=np.uint64) for word in place]
    assert [int(word[0]) for word in own.philox(arrays, (k0, k1))] == expected

    def signed(low: int, high: int) -> Tensor:
        return torch.tensor(np.array([low | high << 32], dtype=np.uint64).view(np.int64)[0])

    first = noise.philox(signed(k0, k1), signed(*place[:2]), torch.tensor(place[2]), place[3])
    assert [int(word) for word in first] == expected[:2]


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 2**32 - 3])
def test_torch_and_kernels_draw_the_same_bits(header: ctypes.CDLL, seed: int, first: int) -> None:
    steps, size = 6, 5003
    expected = own.normal(seed, first, steps, (size,), 2)
    drawn = normal(seed, first, 2, steps, size)
    for function in (header.fill, header.each):  # as vector lanes, and one by one
        found = torch.empty(steps, size)
        numbers = (ctypes.c_uint64(n) for n in (seed, first, 2, steps, size))
        function(ctypes.c_void_p(found.data_ptr()), *numbers)
        assert torch.equal(found, drawn)
    assert float((drawn.double() - expected).abs().max()) < 4e-6  # of 5.8, in float32


def test_every_corner_of_the_uniform_square_agrees() -> None:
    """The ends of (0, 1) and of each quadrant, where logarithm and cosine change their form."""
    ends = [0, 1, 2**22 - 1, 2**22, 2**23 - 2, 2**23 - 1, 5931641, 5931642]
    ends += [k * 2**20 + d for k in range(8) for d in (0, 1, -1) if k or d >= 0]
    pairs = list(itertools.product(ends, ends))
    first, second = (torch.tensor([pair[k] << 9 for pair in pairs]) for k in range(2))
    found = noise._box_muller(first, second).double()
    u1, u2 = ((torch.tensor([p[k] for p in pairs]).double() + 0.5) / 2**23 for k in range(2))
    expected = torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)
    assert float((found - expected).abs().max()) < 4e-6


# -- statistics ------------------------------------------------------------------------------------


def test_draws_are_standard_normal() -> None:
    drawn = normal(2024, 0, 0, 64, 4096).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.001
    count = drawn.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = float((drawn**power).mean()) - moment
        assert abs(error) < 4 * math.sqrt(variance / count)
    assert drawn.unique().numel() > 0.99 * count


@pytest.mark.parametrize("what", ["streams", "steps", "neurons", "seeds"])
def test_draws_are_independent(what: str) -> None:
    """Neither values nor magnitudes of neighbours are correlated, and their sums are normal."""
    whole = normal(7, 0, 0, 65, 4097)
    a, b = {
        "streams": lambda: (whole, normal(7, 0, 1, 65, 4097)),
        "steps": lambda: (whole[1:], whole[:-1]),
        "neurons": lambda: (whole[:, 1:], whole[:, :-1]),
        "seeds": lambda: (whole, normal(8, 0, 0, 65, 4097)),
    }[what]()
    a, b = a.double().flatten(), b.double().flatten()
    for x, y in ((a, b), (a.abs(), b.abs()), (a, b.abs())):
        correlation = float(torch.corrcoef(torch.stack([x, y]))[0, 1])
        assert abs(correlation) < 4 / math.sqrt(a.numel())
    half = slice(None, None, 2)  # each number in one sum only
    assert stats.kstest(((a + b)[half] / math.sqrt(2)).numpy(), "norm").pvalue > 0.001


def test_the_count_of_steps_goes_on() -> None:
    assert torch.equal(normal(5, 0, 0, 9, 10)[4:], normal(5, 4, 0, 5, 10))
    assert torch.equal(normal(5, 0, 0, 3, 12).reshape(3, 3, 4), normal(5, 0, 0, 3, 3, 4))


@every_backend
def test_the_potential_has_the_variance_of_theory(backend: str) -> None:
    """An autoregressive process of order 1: sigma^2 / (1 - (1 - 1/tau)^2)."""
    tau, sigma, neurons = 4.0, 0.7, 20_000
    node = made(SILENT, tau=tau, sigma=sigma, backend=backend)
    node(torch.zeros(40, neurons))
    expected = sigma**2 / (1 - (1 - 1 / tau) ** 2)
    found = float(node.v.double().var())
    assert abs(found / expected - 1) < 4 * math.sqrt(2 / neurons)


def test_dynamics_scale_noise_by_the_root_of_the_time_step() -> None:
    """After a time of 10 the variance is that of the Ornstein-Uhlenbeck process, for any dt."""
    text = SILENT.replace("charge: v + (x - v) / tau + sigma * xi", "scheme: euler")
    text += "dynamics: {v: (x - v) / tau + sigma * xi}\n"
    sigma, neurons = 0.7, 40_000
    for dt, steps in ((0.1, 100), (0.02, 500)):
        node = made(text, tau=2.0, sigma=sigma, dt=dt)
        node(torch.zeros(steps, neurons))
        factor = 1 - dt / 2.0
        expected = sigma**2 * dt * (1 - factor ** (2 * steps)) / (1 - factor**2)
        assert abs(expected - sigma**2 * 2.0 / 2) < 0.03 * expected  # dt is small
        assert abs(float(node.v.double().var()) / expected - 1) < 4 * math.sqrt(2 / neurons)


# -- one neuron on every backend -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["noisy_lif", SILENT, TRAINING_ONLY, DIFFUSION, RANDOM_START])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
@every_backend
def test_outputs_states_and_gradients_are_those_of_the_reference(
    text: str, backend: str, dtype: torch.dtype
) -> None:
    if text == "noisy_lif":
        path = toolchain.INCLUDE.parents[2] / "specs" / "noisy_lif.yaml"
        text = path.read_text(encoding="utf-8")
    for problem in (
        Problem(steps=19, shape=(2, 3, 211), layout="channels_last", learnt="neuron"),
        Problem(steps=70, shape=(7,), seed=2**31, given_state=False),
        Problem(steps=1, shape=(2, 0), given_state=False),
    ):
        found = compare(text, Case(backend, dtype=dtype), problem)
        found.require()
        assert any(f.quantity.startswith("noise") for f in found.findings)


@every_backend
@pytest.mark.parametrize("text", ["noisy_lif", RANDOM_START])
def test_memory_order_draws_nothing_else(backend: str, text: str) -> None:
    x = inputs(9, 2, 5, 3, 7)
    outputs = []
    for order in ([0, 1, 2, 3, 4], [0, 1, 3, 4, 2], [0, 4, 2, 1, 3]):
        back = [order.index(d) for d in range(5)]
        laid_out = x.permute(order).contiguous().permute(back)
        assert torch.equal(laid_out, x)
        node = made(text, backend=backend)
        outputs.append((node(laid_out), node.v))
    for output, v in outputs[1:]:
        assert torch.equal(output, outputs[0][0])
        assert torch.equal(v, outputs[0][1])


def test_double_sees_the_noise_of_float() -> None:
    xi = [made(SILENT, sigma=1.0, tau=1.0)(torch.zeros(5, 9, dtype=dtype)) for dtype in (
        torch.float32, torch.float64)]  # fmt: skip
    assert torch.equal(xi[0].double(), xi[1])
    assert torch.equal(xi[0], normal(11, 0, 0, 5, 9))


# -- backward replays it ---------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("steps", [3, 9, 150])  # fewer and more than between two checkpoints
def test_the_gradient_of_sigma_is_the_noise_that_was_seen(backend: str, steps: int) -> None:
    """v[T] = sum (1 - 1/tau)^(T-1-k) (x/tau + sigma xi[k]): linear in sigma."""
    tau, shape = 3.0, (2, 301)
    sigma = nn.Parameter(torch.full((301,), 0.3, dtype=torch.float64))
    node = made(SILENT, tau=tau, sigma=sigma, backend=backend)
    weights = inputs(*shape).double()
    node(torch.zeros(steps, *shape, dtype=torch.float64))
    (found,) = torch.autograd.grad((node.v * weights).sum(), sigma)
    decay = (1 - 1 / tau) ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    xi = normal(11, 0, 0, steps, *shape).double()
    assert float((xi - own.normal(11, 0, steps, shape, 0)).abs().max()) < 4e-6
    expected = (decay[:, None, None] * xi * weights).sum((0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_backend
def test_backward_after_other_calls_still_sees_its_own_noise(backend: str) -> None:
    gradients = []
    for between in (False, True):
        sigma = nn.Parameter(torch.tensor([0.3]))
        node = made("noisy_lif", sigma=sigma, backend=backend)
        output = node(inputs(30, 40))
        if between:
            node(inputs(4, 40))
            node.reset()
            node.seed = 5
            node.eval()
        output.sum().backward()
        gradients.append(sigma.grad)
    assert gradients[0] is not None and torch.equal(gradients[0], gradients[1])


def test_the_number_of_threads_changes_no_bit() -> None:
    x = inputs(20, 40 * launch.LANES)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sigma = nn.Parameter(torch.tensor([0.3]))
            output = made("noisy_lif", sigma=sigma)(x)
            output.sum().backward()
            found.append((output, sigma.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# -- seed and count --------------------------------------------------------------------------------


@every_backend
def test_single_steps_and_pieces_are_one_run(backend: str) -> None:
    x = inputs(12, 3, 40)
    whole = made("noisy_lif", backend=backend)
    expected = whole(x)
    pieces = made("noisy_lif", backend=backend)
    assert torch.equal(torch.cat([pieces(x[:7]), pieces(x[7:])]), expected)
    single = made("noisy_lif", backend=backend, step_mode="s")
    assert torch.equal(torch.stack([single(x_t) for x_t in x]), expected)
    for node in (whole, pieces, single):
        assert node.noise_state.tolist() == [11, 12]
        assert torch.equal(node.v, whole.v)


def test_a_given_seed_repeats_after_reset() -> None:
    node, x = made("noisy_lif"), inputs(12, 40)
    first = node(x)
    node.reset()
    assert node.noise_state.tolist() == [11, 0]
    assert torch.equal(node(x), first)
    node.seed = 12
    node.reset()
    assert not torch.equal(node(x), first)
    assert node.seed == 12
    large = made("noisy_lif", seed=2**64 - 1)
    assert large.seed == 2**64 - 1
    assert not torch.equal(large(x), first)


def test_without_a_seed_every_reset_takes_one_from_torch() -> None:
    x = inputs(12, 40)

    def runs() -> list[Tensor]:
        torch.manual_seed(4)
        node = made("noisy_lif", seed=None)
        found = [node(x)]
        node.reset()
        return [*found, node(x)]

    one, two = runs()
    assert not torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(runs(), (one, two), strict=True))
    fixed = made("noisy_lif")
    fixed.seed = None
    assert fixed.seed != 11
    a, b = made("noisy_lif", seed=None), made("noisy_lif", seed=None)
    assert a.seed != b.seed


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict", "file"])
@pytest.mark.parametrize("seed", [11, None])
def test_copies_keep_seed_and_count(how: str, seed: int | None) -> None:
    node, x = made(SILENT, seed=seed), inputs(6, 40)
    node(x)
    if how == "deepcopy":
        twin = copy.deepcopy(node)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(node))
    else:
        state = node.state_dict()
        if how == "file":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        twin = made(SILENT, seed=99)
        twin(x)
        twin.load_state_dict(state)
        twin.v = node.v
    assert torch.equal(twin(x), node(x))
    assert twin.noise_state.tolist() == node.noise_state.tolist() == [node.seed, 12]
    twin.reset()
    assert (twin.seed == 11) == (seed == 11)
    assert node.noise_state.tolist()[1] == 12, "a copy shares nothing"


def test_moves_and_casts_leave_the_noise_alone() -> None:
    node = made("noisy_lif").to(torch.bfloat16).double()
    assert node.noise_state.tolist() == [11, 0]
    with torch.device("meta"):
        meta = made(RANDOM_START)
    assert meta.noise_state.device.type == "cpu"


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "1"])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        made("noisy_lif", seed=seed)
    node = made("noisy_lif")
    with pytest.raises((ValueError, TypeError)):
        node.seed = seed
    assert node.seed == 11


def test_only_neurons_with_chance_take_a_seed() -> None:
    with pytest.raises(TypeError, match="seed"):
        load("lif")(seed=1)
    with pytest.raises(ValueError, match="no state 'noise_state'"):
        load("lif")(step_mode="m").functional(inputs(2, 3), state={"noise_state": None})


# -- eval ------------------------------------------------------------------------------------------


@every_backend
def test_noise_for_training_only_is_off_in_eval(backend: str) -> None:
    x = inputs(9, 50)
    node = made(TRAINING_ONLY, backend=backend)
    trained = node(x)
    node.reset()
    node.eval()
    tested = node(x)
    assert not torch.equal(trained, tested)
    zeros, eta = torch.zeros(9, 50), normal(11, 0, 1, 9, 50)
    expected = Reference(TRAINING_ONLY).run(x, dtype=torch.float32, noise={"xi": zeros, "eta": eta})
    assert torch.equal(tested, expected.outputs)
    assert torch.equal(node.v, expected.state["v"])
    assert node.noise_state.tolist() == [11, 9], "the count goes on, drawn or not"


def test_other_noise_is_drawn_in_eval() -> None:
    x = inputs(9, 50)
    assert torch.equal(made("noisy_lif")(x), made("noisy_lif").eval()(x))


# -- the functional core ---------------------------------------------------------------------------


@every_backend
def test_the_functional_core_remembers_nothing(backend: str) -> None:
    node, x = made("noisy_lif", backend=backend), inputs(12, 40)
    whole, end = node.functional(x)
    assert torch.equal(node.functional(x)[0], whole)
    assert node.noise_state.tolist() == [11, 0]
    assert end["noise_state"].tolist() == [11, 12]
    first, middle = node.functional(x[:5])
    second, _ = node.functional(x[5:], state=middle)
    assert torch.equal(torch.cat([first, second]), whole)


def test_activation_checkpointing_sees_the_same_noise() -> None:
    x = inputs(12, 40)
    gradients = []
    for again in (False, True):
        sigma = nn.Parameter(torch.tensor([0.3]))
        node = made("noisy_lif", sigma=sigma)

        def forward(x: Tensor, node: Any = node) -> Tensor:
            outputs: Tensor = node.functional(x)[0]
            return outputs

        output = checkpoint(forward, x, use_reentrant=False) if again else forward(x)
        output.sum().backward()
        gradients.append(sigma.grad)
    assert gradients[0] is not None and torch.equal(gradients[0], gradients[1])


# -- random initial states -------------------------------------------------------------------------


@every_backend
def test_initial_states_are_uniform(backend: str) -> None:
    text = RANDOM_START.replace("0.5 * v + x + 0.1 * xi", "v + x + 0 * xi")
    node = made(text, backend=backend, v_threshold=9.0)
    assert node.v is None
    node(torch.zeros(1, 3, 9000))
    v = node.v.double().flatten()
    assert stats.kstest(v.numpy(), stats.uniform(-0.5, 2.0).cdf).pvalue > 0.001
    assert -0.5 < float(v.min()) < -0.49 and 1.49 < float(v.max()) < 1.5
    expected = -0.5 + 2.0 * own.uniform(11, (3, 9000), 1)
    torch.testing.assert_close(node.v.double(), expected, rtol=0, atol=1e-6)
    ages = node.functional(torch.zeros(1, 90_000))[1]["age"]
    counts = torch.bincount(ages.long())  # one step older, 3 at most
    assert counts.tolist()[0] == 0
    assert stats.chisquare(counts[1:].numpy(), [22_500, 22_500, 45_000]).pvalue > 0.001
    correlation = torch.corrcoef(torch.stack([v, (node.age.double()).flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(v.numel())


def test_initial_states_are_drawn_anew_by_reset() -> None:
    x = torch.zeros(1, 50)
    node = made(RANDOM_START, seed=None)
    node(x)
    first = node.v
    node.reset()
    assert node.v is None
    node(x)
    assert not torch.equal(node.v, first)
    node.reset()
    node.v, node.age = torch.full((50,), 0.25), torch.zeros(50)
    output = node(x)
    assert torch.equal(output, torch.full((1, 50), 0.25))


def test_a_single_step_starts_where_many_do() -> None:
    x = inputs(1, 3, 50)
    many, one = made(RANDOM_START), made(RANDOM_START, step_mode="s")
    assert torch.equal(many(x)[0], one(x[0]))
