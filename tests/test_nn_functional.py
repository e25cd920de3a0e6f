"""Functions that act on every neuron of a network, found by duck typing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.nn import functional, layer
from neurogen.runtime.base import BaseNode


class IFNode(BaseNode):
    """H[t] = V[t-1] + X[t]."""

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v + x


class Foreign(nn.Module):
    """A stateful module of another library."""

    def __init__(self) -> None:
        super().__init__()
        self.step_mode, self.backend = "s", "auto"
        self.calls: list[str] = []

    def reset(self) -> None:  # noqa: D102
        self.calls.append("reset")

    def detach(self) -> None:  # noqa: D102
        self.calls.append("detach")


class Picky(Foreign):
    """Refuses what its class cannot do."""

    def __setattr__(self, name: str, value: Any) -> None:
        if (name == "step_mode" and value == "m") or (name == "backend" and value == "torch"):
            raise ValueError(f"Picky cannot: {name}={value}")
        super().__setattr__(name, value)


class ReadOnly(nn.Module):
    """Has both attributes, and lets nobody set them."""

    @property
    def step_mode(self) -> str:  # noqa: D102
        return "m"

    @property
    def backend(self) -> str:  # noqa: D102
        return "mine"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), IFNode(), nn.Sequential(nn.Linear(4, 2), IFNode()))


def nodes(net: nn.Module) -> list[IFNode]:
    return [module for module in net.modules() if isinstance(module, IFNode)]


def test_reset_takes_every_state_back_to_its_start() -> None:
    net = network()
    first = net(torch.ones(5, 3))
    assert all(node.v.shape[0] == 5 for node in nodes(net))
    functional.reset_net(net)
    assert [node.v for node in nodes(net)] == [0.0, 0.0]
    assert torch.equal(net(torch.ones(5, 3)), first)


def test_after_a_reset_another_batch_size_fits() -> None:
    net = network()
    net(torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        net(torch.ones(4, 3))
    functional.reset_net(net)
    net(torch.ones(4, 3))


def test_detach_keeps_values_and_cuts_the_graph() -> None:
    net = network()
    net(torch.ones(5, 3))
    before = [node.v.clone() for node in nodes(net)]
    assert all(v.requires_grad for v in before)
    functional.detach_net(net)
    after = [node.v for node in nodes(net)]
    assert not any(v.requires_grad for v in after)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    net(torch.ones(5, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        net(torch.ones(5, 3)).sum().backward()


def test_other_libraries_modules_take_part_once_each() -> None:
    foreign = Foreign()
    net = nn.ModuleList([foreign, nn.Sequential(foreign)])
    functional.reset_net(net)
    functional.detach_net(net)
    functional.set_step_mode(net, "m")
    functional.set_backend(net, "cupy")
    assert foreign.calls == ["reset", "detach"]
    assert (foreign.step_mode, foreign.backend) == ("m", "cupy")


def test_a_submodule_called_reset_is_no_method() -> None:
    net = nn.Module()
    net.reset = nn.Linear(2, 2)
    net.detach = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    functional.reset_net(net)
    functional.detach_net(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("mode", ["s", "m"])
def test_set_step_mode(mode: str) -> None:
    net = network()
    functional.set_step_mode(net, mode)
    assert [node.step_mode for node in nodes(net)] == [mode, mode]
    assert not hasattr(net[0], "step_mode")


def test_step_modes_agree() -> None:
    x, net = torch.rand(6, 5, 3), network()
    steps = torch.stack([net(x_t) for x_t in x])
    functional.reset_net(net)
    functional.set_step_mode(net, "m")
    assert torch.equal(net(x), steps)


@pytest.mark.parametrize("mode", ["x", "", None, "S"])
def test_an_unknown_step_mode_says_the_choices(mode: Any) -> None:
    net = network()
    with pytest.raises(ValueError, match="'s' or 'm'"):
        functional.set_step_mode(net, mode)
    assert [node.step_mode for node in nodes(net)] == ["s", "s"]


def test_read_only_attributes_are_left_alone() -> None:
    net = ReadOnly()
    functional.set_step_mode(net, "s")
    functional.set_backend(net, "torch")
    assert (net.step_mode, net.backend) == ("m", "mine")


def test_set_backend_of_one_class() -> None:
    first, second = IFNode(), Foreign()
    net = nn.Sequential(first, second)
    functional.set_backend(net, "auto", instance=IFNode)
    assert (first.backend, second.backend) == ("auto", "auto")
    functional.set_backend(net, "cpp", instance=(Foreign, nn.Linear))
    assert (first.backend, second.backend) == ("auto", "cpp")


def test_an_unknown_backend_says_the_choices() -> None:
    net = network()
    with pytest.raises(ValueError, match="torch, not 'fortran'"):
        functional.set_backend(net, "fortran")
    assert [node.backend for node in nodes(net)] == ["torch", "torch"]


@pytest.mark.parametrize(
    ("change", "value"), [(functional.set_step_mode, "m"), (functional.set_backend, "torch")]
)
def test_where_one_module_refuses_none_is_changed(
    change: Callable[[nn.Module, str], None], value: str
) -> None:
    first = Foreign()
    with pytest.raises(ValueError, match="Picky cannot"):
        change(nn.Sequential(first, Picky(), Foreign()), value)
    assert (first.step_mode, first.backend) == ("s", "auto")


@pytest.mark.parametrize("net", [[IFNode()], None, torch.zeros(2)])
def test_what_is_no_module_is_refused(net: Any) -> None:
    calls: list[tuple[Callable[..., None], tuple[str, ...]]] = [
        (functional.reset_net, ()),
        (functional.detach_net, ()),
        (functional.set_step_mode, ("m",)),
        (functional.set_backend, ("torch",)),
    ]
    for call, arguments in calls:
        with pytest.raises(TypeError, match=r"net is a torch\.nn\.Module"):
            call(net, *arguments)


# -- modules over a sequence -----------------------------------------------------------------------

BOTH = [functional.multi_step_forward, functional.seq_to_ann_forward]


@pytest.mark.parametrize("run", BOTH)
def test_a_module_a_function_or_several(run: Any) -> None:
    x = torch.randint(-8, 9, (5, 2, 4)) / 8
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_((parameter * 8).round() / 8)
    expected = torch.stack([linear(x_t).relu() for x_t in x])
    for modules in (
        nn.Sequential(linear, nn.ReLU()),
        [linear, nn.ReLU()],
        (linear, torch.relu),
        nn.ModuleList([linear, nn.ReLU()]),
        lambda x_t: linear(x_t).relu(),
    ):
        assert torch.equal(run(x, modules), expected)
    assert torch.equal(run(x, ()), x)


def test_multi_step_forward_goes_step_by_step_and_keeps_state() -> None:
    node, x = IFNode(), torch.rand(5, 2, 4)
    y = functional.multi_step_forward(x, node)
    v = node.v
    node.reset()
    node.step_mode = "m"
    assert torch.equal(node(x), y)
    assert torch.equal(node.v, v)


def test_seq_to_ann_forward_is_one_batch() -> None:
    shapes: list[torch.Size] = []

    def look(x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return x[..., :2]

    assert functional.seq_to_ann_forward(torch.rand(5, 2, 4), look).shape == (5, 2, 2)
    assert shapes == [torch.Size([10, 4])]


@pytest.mark.parametrize("run", BOTH)
def test_several_sequences_in_and_out(run: Any) -> None:
    a, b = torch.rand(2, 5, 2, 4)
    assert torch.equal(run((a, b), lambda p, q: 2 * p + q), 2 * a + b)
    plus, minus = run((a, b), [lambda p, q: (p + q, p - q), lambda pair: pair])
    assert torch.equal(plus, a + b)
    assert torch.equal(minus, a - b)
    with pytest.raises(ValueError, match=r"\[T, batch_size\] leading dimensions"):
        run((a, b[:3]), torch.add)
    with pytest.raises(ValueError, match="no sequence"):
        run((), torch.add)


@pytest.mark.parametrize("run", BOTH)
def test_sequences_that_are_none(run: Any) -> None:
    with pytest.raises(ValueError, match=r"no time steps \(T = 0\)"):
        run(torch.rand(0, 2, 4), nn.Identity())
    with pytest.raises(TypeError, match=r"a sequence is a tensor .* not list"):
        run([torch.rand(2, 4)], nn.Identity())
    with pytest.raises(ValueError, match=r"shape \[T, .*this one has \[\]"):
        run(torch.tensor(1.0), nn.Identity())


@pytest.mark.parametrize("run", BOTH)
def test_multi_step_modules_are_refused(run: Any) -> None:
    for module in (IFNode(step_mode="m"), nn.Sequential(layer.Linear(4, 4, step_mode="m"))):
        with pytest.raises(ValueError, match=r"has step_mode 'm'; call set_step_mode\(module, 's'"):
            run(torch.rand(5, 2, 4), (nn.Identity(), module))


def test_seq_to_ann_forward_refuses_what_remembers() -> None:
    x = torch.rand(5, 2, 4)
    for module in (IFNode(), nn.Sequential(IFNode()), Foreign(), layer.Dropout()):
        with pytest.raises(ValueError, match="remembers from step to step; run it by itself"):
            functional.seq_to_ann_forward(x, [nn.Identity(), module])
    with pytest.raises(ValueError, match=r"T\*N = 5\*2 samples .* shape \[4\]; modules keep"):
        functional.seq_to_ann_forward(x, lambda y: y.sum(0))
    with pytest.raises(ValueError, match=r"shape \[\]; modules keep"):
        functional.seq_to_ann_forward(x, torch.sum)


def test_set_step_mode_stops_at_containers() -> None:
    shared = IFNode()
    net = nn.Sequential(shared, layer.StepModeContainer(True, nn.Sequential(IFNode())))
    functional.set_step_mode(net, "m")
    assert (shared.step_mode, net[1].step_mode, net[1][0][0].step_mode) == ("m", "m", "s")
    functional.set_step_mode(net[1][0], "m")  # asked for by itself
    assert net[1][0][0].step_mode == "m"


def test_modules_are_loaded_when_asked_for() -> None:
    code = (
        "import sys, neurogen.nn as nn\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(nn.__all__) <= set(dir(nn))\n"
        "assert nn.surrogate.ATan().alpha == 2.0 and 'torch' in sys.modules\n"
        "assert nn.functional.reset_net and nn.encoding.PoissonEncoder\n"
        "assert nn.layer.Conv2d and nn.monitor.OutputMonitor and nn.visualizing.surrogate\n"
        "from neurogen.runtime import surrogate\n"
        "assert sorted(nn.surrogate.__all__) == sorted(surrogate.__all__)\n"
        "assert not hasattr(nn, 'nonsense')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
