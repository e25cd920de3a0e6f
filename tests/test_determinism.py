"""No bit of a result depends on the number of threads, on chance, or on how a batch is cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from neurogen.backends.cpp import launch
from neurogen.loading import load

STEPS, CHANNELS = 12, 6
ROWS = 140 * launch.LANES // (2 * CHANNELS) + 7  # many blocks, the last one cut
SHAPE = (2, CHANNELS, ROWS)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(dtype: torch.dtype, layout: str = "contiguous") -> list[Tensor]:
    """Outputs, states and every gradient of neurons with parameters of many shapes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    x, weight = 2 * random(STEPS, *SHAPE), random(STEPS, *SHAPE)
    if layout == "channels_last":
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    x.requires_grad_()
    found = []
    for v_threshold, v_reset in (
        (1 + 0.1 * random(1), 0.1 * random(1)),  # one for all
        (1 + 0.1 * random(CHANNELS, 1), 0.1 * random(CHANNELS, 1)),  # one a channel
        (1 + 0.1 * random(2, 1, ROWS), 0.1 * random(2, 1, ROWS)),  # no run of neighbours
        (1 + 0.1 * random(*SHAPE), 0.1 * random(*SHAPE)),
    ):
        node = load("plif")(
            init_tau=1.7,
            v_threshold=nn.Parameter(v_threshold),
            v_reset=nn.Parameter(v_reset),
            step_mode="m",
            backend="cpp",
        ).to(dtype)
        y = node(x)
        leaves = [x, *node.parameters()]
        assert len(leaves) == 4
        loss = (y * weight).sum() + (node.v * weight[0]).sum()
        found += [y, node.v, *torch.autograd.grad(loss, leaves)]
    return [value.detach() for value in found]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, layout: str) -> None:
    torch.set_num_threads(1)
    alone = results(dtype, layout)
    for count in (2, 3, 2):
        torch.set_num_threads(count)
        assert launch.threads(STEPS * 2 * CHANNELS * ROWS) == count, "else this proves nothing"
        for a, b in zip(alone, results(dtype, layout), strict=True):
            assert torch.equal(a, b)


def test_a_neuron_does_not_depend_on_its_neighbours() -> None:
    """Vector lanes and the rest of a loop, blocks and their ends: the same bits."""
    generator = torch.Generator().manual_seed(1)
    size = launch.LANES + 19
    x = (2 * torch.rand(STEPS, size, generator=generator)).requires_grad_()

    def run(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        node = load("lif")(step_mode="m", backend="cpp")
        y = node(part)
        (gradient,) = torch.autograd.grad((y * torch.arange(STEPS).unsqueeze(1)).sum(), part)
        return y, node.v, gradient

    whole = run(x)
    for cut in (slice(0, 1), slice(3, 20), slice(size - 18, size), slice(5, launch.LANES + 6)):
        part = x[:, cut].detach().clone().requires_grad_()
        for a, b in zip(run(part), whole, strict=True):
            assert torch.equal(a, b[..., cut])
