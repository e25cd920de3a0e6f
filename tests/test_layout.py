"""Memory orders: kernels index what torch broadcasting means, and dense input is not copied.

The expected values come from a loop over multi-indices, written out by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neurogen.loading import load
from neurogen.runtime.layout import Layout, layout_of

Shape = tuple[int, ...]
SHAPES: list[Shape] = [
    (5,),
    (2, 3),
    (4, 1),
    (1, 3, 1),
    (2, 3, 4),
    (1, 1),
    (2, 1, 3, 1),
    (2, 3, 2, 2),
]

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def places(layout: Layout) -> Iterator[tuple[Shape, int]]:
    """(multi-index of a neuron, its place in a row)."""
    for index in itertools.product(*map(range, layout.shape)):
        yield index, sum(i * s for i, s in zip(index, layout.strides, strict=True))


def dense(x: Tensor) -> bool:
    """Whether the time steps of a sequence have neither gaps nor overlaps."""
    offsets = [0]
    for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True):
        offsets = [o + i * stride for o in offsets for i in range(size)]
    return sorted(offsets) == list(range(len(offsets)))


def numbered(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


@st.composite
def sequences(draw: st.DrawFn) -> Tensor:
    """A sequence `[T, *]` in some memory order: permuted, sliced, expanded, every second step."""
    shape = (draw(st.integers(1, 3)), *draw(shapes))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    wide = numbered(*(shape[d] * steps[d] for d in order))
    x = wide.permute([order.index(d) for d in range(len(shape))])
    x = x[tuple(slice(None, None, step) for step in steps)]
    for d in range(len(shape)):
        if draw(st.integers(0, 5)) == 0:
            x = x.narrow(d, 0, 1).expand_as(x)
    return x


@given(sequences())
@settings(max_examples=300)
def test_rows_hold_every_element_in_its_place(x: Tensor) -> None:
    layout = layout_of(x.shape[1:], x.stride()[1:])
    assert sorted(place for _, place in places(layout)) == list(range(layout.neurons))
    data, stride = layout.rows(x)
    rows = data.as_strided((len(x), layout.neurons), (stride, 1), data.storage_offset())
    for t, (index, place) in itertools.product(range(len(x)), places(layout)):
        assert rows[t, place] == x[(t, *index)]
    if x[0].is_contiguous():
        assert layout.strides == numbered(*x.shape[1:]).stride()
    if dense(x):
        assert data.data_ptr() == x.data_ptr(), "dense input must not be copied"


@given(sequences())
@settings(max_examples=100)
def test_a_step_is_brought_into_the_same_order(x: Tensor) -> None:
    layout = layout_of(x.shape[1:], x.stride()[1:])
    value = numbered(*x.shape[1:])
    brought = layout.step(value)
    flat = brought.as_strided((layout.neurons,), (1,), brought.storage_offset())
    for index, place in places(layout):
        assert flat[place] == value[index]
    assert torch.equal(brought, value)
    assert layout.step(brought).data_ptr() == brought.data_ptr()


@given(sequences(), st.data())
@settings(max_examples=300)
def test_an_operand_reads_and_sums_as_broadcasting_does(x: Tensor, data: st.DataObject) -> None:
    layout = layout_of(x.shape[1:], x.stride()[1:])
    shape = tuple(data.draw(st.sampled_from([1, size])) for size in layout.shape)
    shape = shape[data.draw(st.integers(0, len(shape))) :]
    value = numbered(*shape) + 1.0
    if value.dim() > 1 and data.draw(st.booleans()):
        value = value.transpose(0, -1).contiguous().transpose(0, -1)
    operand = layout.operand(value)
    elements = operand.data.reshape(-1)
    assert elements.numel() == operand.count
    assert operand.data.is_contiguous()
    expected, shares = value.expand(layout.shape), torch.zeros(operand.count)
    gradient = torch.randn(layout.shape, dtype=torch.float64).to(torch.float32).round(decimals=1)
    for index, place in places(layout):
        element = place // operand.inner % operand.count
        assert elements[element] == expected[index]
        shares[element] += gradient[index]
    scattered = layout.scatter(shares, operand, value.shape)
    assert scattered.shape == value.shape
    torch.testing.assert_close(scattered, gradient.sum_to_size(value.shape), rtol=0, atol=1e-4)


@given(shapes, st.data())
@settings(max_examples=60)
def test_an_expanded_parameter_gets_its_gradient(shape: Shape, data: st.DataObject) -> None:
    """A tensor with strides of 0 has more elements than the kernel reads."""
    layout = layout_of(torch.Size(shape), numbered(*shape).stride())
    dim = data.draw(st.integers(0, len(shape) - 1))
    value = numbered(*shape).narrow(dim, 0, 1).expand(shape)
    operand = layout.operand(value)
    shares = torch.zeros(operand.count)
    for _, place in places(layout):
        shares[place // operand.inner % operand.count] += 1.0
    scattered = layout.scatter(shares, operand, value.shape)
    base = numbered(*shape).narrow(dim, 0, 1).clone().requires_grad_()
    base.expand(shape).backward(scattered)
    assert base.grad is not None
    assert torch.equal(base.grad, torch.full_like(base, float(shape[dim])))


def test_no_neurons() -> None:
    for shape in [(0,), (2, 0), (0, 3), (2, 0, 3)]:
        x = torch.zeros(4, *shape)
        layout = layout_of(x.shape[1:], x.stride()[1:])
        assert layout.neurons == 0
        assert layout.rows(x)[0].shape == x.shape
        assert layout.step(x[0]).shape == x[0].shape
        assert layout.empty(4, x.dtype, x.device).shape == x.shape
        for parameter in [(), (1,), (1, *shape[1:]), shape]:
            value = torch.ones(parameter)
            operand = layout.operand(value)
            summed = torch.zeros(operand.count)
            assert layout.scatter(summed, operand, value.shape).shape == value.shape


# -- through the neurons ---------------------------------------------------------------------------


def lif(**keywords: object) -> torch.nn.Module:
    node: torch.nn.Module = load("lif")(step_mode="m", backend="cpp", **keywords)
    return node


def orders(x: Tensor) -> dict[str, Tensor]:
    """The same values in several memory orders."""
    last = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
    wide[..., ::2] = x
    late = torch.full((2 * x.shape[0], *x.shape[1:]), torch.nan)
    late[::2] = x
    return {
        "channels_last": last,
        "transposed": x.transpose(0, 1).contiguous().transpose(0, 1),
        "batch_last": x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        "strided": wide[..., ::2],
        "time_strided": late[::2],
        "time_last": x.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3),
    }


def test_the_order_of_memory_changes_no_bit() -> None:
    torch.manual_seed(0)
    plain = torch.randn(5, 3, 4, 5, 2) + 0.5
    weight, taus = torch.randn_like(plain), 1.5 + torch.rand(4, 1, 1)
    results = {}
    for name, values in {"plain": plain, **orders(plain)}.items():
        assert torch.equal(values, plain)
        x = values.detach().requires_grad_()
        tau = torch.nn.Parameter(taus.clone())
        node = lif(tau=tau, v_threshold=torch.nn.Parameter(torch.ones(3, 4, 5, 2)))
        y = node(x)
        (y * weight).sum().backward()
        results[name] = (y, node.v, x.grad, tau.grad, node.v_threshold.grad)
    for name, found in results.items():
        for a, b in zip(found, results["plain"], strict=True):
            # Shared parameters sum their neurons in the order of memory.
            exact = a.shape != taus.shape
            torch.testing.assert_close(a, b, rtol=0 if exact else 1e-6, atol=0, msg=name)


def test_channels_last_stays_channels_last() -> None:
    x = torch.rand(3, 2, 4, 5, 6)
    last = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).requires_grad_()
    node = lif(store_v_seq=True)
    y = node(last)
    y.sum().backward()
    for step in (y[0], node.v, node.v_seq[1], last.grad[2]):
        assert step.is_contiguous(memory_format=torch.channels_last)
        assert not step.is_contiguous()


def test_a_second_call_in_another_order() -> None:
    """The state of a channels-last call meets a contiguous input."""
    x = torch.rand(2, 3, 2, 4, 5)
    a, b = lif(), lif()
    a(x.to(copy=True).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3))
    b(x)
    assert torch.equal(a(x), b(x))
    assert torch.equal(a.v, b.v)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parameters_broadcast_as_in_torch(shape: Shape) -> None:
    """Every pattern of broadcasting: the value in the forward pass, the sum in the backward one."""
    torch.manual_seed(1)
    x, weight = torch.randn(4, *shape) + 0.5, torch.randn(4, *shape)
    patterns = {
        pattern[start:]
        for pattern in itertools.product(*({1, size} for size in shape))
        for start in range(len(shape) + 1)
    }
    for pattern in sorted(patterns):
        values = 1.5 + torch.rand(pattern)
        shared, full = (torch.nn.Parameter(v) for v in (values, values.expand(shape).clone()))
        one, each = lif(tau=shared), lif(tau=full)
        for node in (one, each):
            (node(x) * weight).sum().backward()
        assert torch.equal(one.v, each.v)
        assert shared.grad is not None
        assert full.grad is not None
        summed = full.grad.double().sum_to_size(pattern).float()
        torch.testing.assert_close(shared.grad, summed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 0), (0,), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_an_empty_batch(shape: Shape, backend: str) -> None:
    x = torch.zeros(5, *shape, requires_grad=True)
    tau = torch.nn.Parameter(torch.tensor(2.0))
    node = load("lif")(tau=tau, step_mode="m", backend=backend)
    y = node(x)
    assert y.shape == x.shape
    assert node.v.shape == shape
    y.sum().backward()
    assert tau.grad == 0.0
    assert x.grad is not None
    assert x.grad.shape == x.shape
