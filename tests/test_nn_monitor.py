"""Monitors: what is recorded, in which order, under which name, and how they let go."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurogen import load
from neurogen.nn import functional, layer
from neurogen.nn.monitor import (
    AttributeMonitor,
    GradInputMonitor,
    GradOutputMonitor,
    InputMonitor,
    Monitor,
    OutputMonitor,
)
from neurogen.runtime.base import BaseNode

T, N = 4, 3
LIFNode = load("lif")


class IFNode(BaseNode):
    """H[t] = V[t-1] + X[t]."""

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v + x


def network(mode: str = "m") -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(5, 4), LIFNode(), layer.Linear(4, 2), LIFNode())
    for part in (net[0], net[2]):
        nn.init.uniform_(part.weight, 0.0, 2.0)
    functional.set_step_mode(net, mode)
    return net


def hooks(net: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in net.modules()
    )


# -- records ---------------------------------------------------------------------------------------


def test_outputs_and_inputs_in_order_and_by_name() -> None:
    net, x = network(), torch.rand(T, N, 5)
    outputs, inputs = OutputMonitor(net, LIFNode), InputMonitor(net, LIFNode)
    with torch.no_grad():
        y = net(x)
    functional.reset_net(net)
    hidden = net[1](net[0](x))
    assert outputs.monitored_layers == inputs.monitored_layers == ["1", "3"]
    assert isinstance(outputs.records, list)
    assert len(outputs) == 3  # the last is of the line above
    assert torch.equal(outputs[0], hidden)
    assert torch.equal(outputs[1], y)
    assert torch.equal(outputs["1"][1], hidden)
    assert [len(outputs[name]) for name in ("1", "3")] == [2, 1]
    assert outputs["3"][0] is outputs.records[1] is outputs[1]
    assert torch.equal(inputs[0], net[0](x))
    assert [value.shape for value in outputs[0:2]] == [(T, N, 4), (T, N, 2)]


def test_a_function_chooses_what_is_kept() -> None:
    net = network()
    rates = OutputMonitor(net, LIFNode, function_on_output=lambda s: s.mean().item())
    sizes = InputMonitor(net, (nn.Linear, LIFNode), function_on_input=lambda x: x.shape[-1])
    y = net(torch.rand(T, N, 5))
    assert rates[-1] == y.mean().item()
    assert sizes.records == [5, 4, 4, 2]
    assert sizes.monitored_layers == ["0", "1", "2", "3"]


def test_without_a_class_it_is_that_of_the_net() -> None:
    node = LIFNode()
    monitor = OutputMonitor(node)
    y = node(torch.rand(N, 2))
    assert monitor.monitored_layers == [""]
    assert monitor[""][0] is y


def test_attributes_before_and_after() -> None:
    net, x = network("s"), torch.rand(T, N, 5)
    before = AttributeMonitor("v", True, net, LIFNode)
    after = AttributeMonitor("v", pre_forward=False, net=net, instance=LIFNode)
    for x_t in x:
        net(x_t)
    assert before["1"][0] == 0.0
    for t in range(T - 1):
        assert torch.equal(before["3"][t + 1], after["3"][t])
    assert torch.equal(after["3"][-1], net[3].v)


def test_potentials_of_all_steps() -> None:
    net, x = network(), torch.rand(T, N, 5)
    for node in (net[1], net[3]):
        node.store_v_seq = True
    monitor = AttributeMonitor("v_seq", pre_forward=False, net=net, instance=LIFNode)
    net(x)
    functional.reset_net(net)
    functional.set_step_mode(net, "s")
    for x_t in x:
        net(x_t)
    assert monitor["1"][0].shape == (T, N, 4)
    assert torch.equal(monitor["3"][0][-1], net[3].v)


def test_what_is_not_stored_says_how_to_store_it() -> None:
    net = network()
    monitor = AttributeMonitor("v_seq", False, net, LIFNode)
    with pytest.raises(ValueError, match=r"'v_seq' of layer '1' .* set store_v_seq = True"):
        net(torch.rand(T, N, 5))
    monitor.disable()
    net(torch.rand(T, N, 5))
    unknown = AttributeMonitor("nonsense", False, net, LIFNode)
    with pytest.raises(AttributeError, match="nonsense"):
        net(torch.rand(T, N, 5))
    unknown.remove_hooks()


def test_attributes_that_a_users_hook_made() -> None:
    node = LIFNode()

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        module.v_seq.append(module.v)
        module.s_seq.append(output)

    node.v_seq, node.s_seq = [], []
    node.register_forward_hook(keep)
    monitor = AttributeMonitor("s_seq", False, node, function_on_attribute=len)
    for x_t in torch.rand(T, N, 2):
        node(x_t)
    assert monitor.records == [1, 2, 3, 4]
    assert torch.equal(node.v_seq[-1], node.v)


# -- gradients -------------------------------------------------------------------------------------


def test_gradients_are_those_of_autograd() -> None:
    net, x = network(), torch.rand(T, N, 5)
    grad_outputs, grad_inputs = GradOutputMonitor(net, LIFNode), GradInputMonitor(net, LIFNode)
    values: list[Tensor] = []
    y = x
    for module in net:
        y = module(y)
        y.retain_grad()
        values.append(y)
    (y * torch.rand(T, N, 2)).sum().backward()
    assert grad_outputs.monitored_layers == ["1", "3"]
    assert torch.equal(grad_outputs["3"][0], values[3].grad)
    assert torch.equal(grad_outputs["1"][0], values[1].grad)
    assert torch.equal(grad_inputs["3"][0], values[2].grad)
    assert torch.equal(grad_inputs["1"][0], values[0].grad)
    assert torch.equal(grad_outputs[0], values[3].grad)  # the last layer comes first
    assert grad_inputs["1"][0].abs().max() > 0


def test_gradients_in_mode_s_come_a_step_at_a_time_last_first() -> None:
    net, x = network(), torch.rand(T, N, 5)
    whole = GradOutputMonitor(net, LIFNode), GradInputMonitor(net, LIFNode)
    weights = torch.rand(T, N, 2)
    (net(x) * weights).sum().backward()
    expected = [monitor["1"][0] for monitor in whole]
    functional.reset_net(net)
    functional.set_step_mode(net, "s")
    for monitor in whole:
        monitor.clear_recorded_data()
    (torch.stack([net(x_t) for x_t in x]) * weights).sum().backward()
    for monitor, want in zip(whole, expected, strict=True):
        found = torch.stack(monitor["1"][::-1])
        assert torch.allclose(found, want, rtol=1e-5, atol=1e-6)


def test_gradients_where_an_input_is_used_twice() -> None:
    x = torch.ones(2, requires_grad=True)
    net = nn.Identity()
    inputs, outputs = GradInputMonitor(net), GradOutputMonitor(net)
    y = net(x)
    (3 * y + 5 * x).sum().backward()
    assert inputs[0].tolist() == [3.0, 3.0]  # what passes through the module
    assert outputs[0].tolist() == [3.0, 3.0]


def test_functions_on_gradients() -> None:
    net = network()
    norms = GradInputMonitor(net, LIFNode, function_on_grad_input=torch.linalg.vector_norm)
    maxima = GradOutputMonitor(net, LIFNode, function_on_grad_output=lambda g: float(g.max()))
    net(torch.rand(T, N, 5)).sum().backward()
    assert [value.shape for value in norms.records] == [(), ()]
    assert maxima[0] == 1.0


def test_no_gradient_no_record() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    monitor, outputs = GradInputMonitor(net, nn.Linear), GradOutputMonitor(net, nn.Linear)
    with pytest.warns(UserWarning, match="Full backward hook"):
        net(torch.rand(1, 2)).sum().backward()
    assert monitor.records == []
    assert len(outputs) == 1
    with torch.no_grad():
        net(torch.rand(1, 2))
    assert len(outputs) == 1


def test_several_outputs_and_inputs() -> None:
    class Both(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return a + b, a * b

    net = Both()
    inputs, outputs = InputMonitor(net), OutputMonitor(net)
    to, fro = GradOutputMonitor(net), GradInputMonitor(net)
    a, b = torch.full((2,), 3.0, requires_grad=True), torch.full((2,), 5.0, requires_grad=True)
    plus, times = net(a, b)
    (2 * plus + 7 * times).sum().backward()
    assert inputs[0] == (a, b)
    assert torch.equal(outputs[0][1], times)
    assert [g.tolist() for g in to[0]] == [[2.0, 2.0], [7.0, 7.0]]
    assert [g.tolist() for g in fro[0]] == [[37.0, 37.0], [23.0, 23.0]]


# -- life ------------------------------------------------------------------------------------------

EVERY: list[Any] = [
    lambda net: OutputMonitor(net, LIFNode),
    lambda net: InputMonitor(net, LIFNode),
    lambda net: AttributeMonitor("v", False, net, LIFNode),
    lambda net: AttributeMonitor("v", True, net, LIFNode),
    lambda net: GradOutputMonitor(net, LIFNode),
    lambda net: GradInputMonitor(net, LIFNode),
]


def run(net: nn.Module) -> None:
    functional.reset_net(net)
    net(torch.rand(T, N, 5)).sum().backward()


@pytest.mark.parametrize("make", EVERY)
def test_enable_disable_clear_remove(make: Any) -> None:
    net = network()
    monitor = make(net)
    assert monitor.is_enable()
    run(net)
    assert len(monitor.records) == 2
    monitor.disable()
    assert not monitor.is_enable()
    run(net)
    assert len(monitor.records) == 2
    monitor.enable()
    run(net)
    assert [len(monitor[name]) for name in ("1", "3")] == [2, 2]
    monitor.clear_recorded_data()
    assert monitor.records == monitor["1"] == monitor["3"] == []
    run(net)
    monitor.remove_hooks()
    assert hooks(net) == 0
    assert monitor.hooks == []
    run(net)
    assert len(monitor.records) == 2  # what was recorded stays
    monitor.remove_hooks()


@pytest.mark.parametrize("make", EVERY)
def test_hooks_go_with_the_monitor(make: Any) -> None:
    net = network()
    monitor = make(net)
    run(net)
    watcher = weakref.ref(monitor)
    del monitor
    assert watcher() is None
    assert hooks(net) == 0
    run(net)


@pytest.mark.parametrize("make", EVERY)
def test_a_monitor_is_a_context(make: Any) -> None:
    net = network()
    with make(net) as monitor:
        run(net)
    run(net)
    assert len(monitor.records) == 2
    assert hooks(net) == 0


@pytest.mark.parametrize("make", EVERY)
def test_copies_of_a_network_do_not_report(make: Any) -> None:
    net = network()
    monitor = make(net)
    run(copy.deepcopy(net))
    assert monitor.records == []
    run(net)
    assert len(monitor.records) == 2


def test_a_watched_module_can_be_pickled() -> None:
    linear = nn.Linear(2, 2)
    monitors = [
        OutputMonitor(linear),
        GradInputMonitor(linear),
        AttributeMonitor("bias", True, linear),
    ]
    clone = pickle.loads(pickle.dumps(linear))
    x = torch.rand(3, 2, requires_grad=True)
    clone(x).sum().backward()
    assert [monitor.records for monitor in monitors] == [[], [], []]
    assert torch.equal(clone(x), linear(x))
    assert len(monitors[0]) == 1


def test_a_graph_from_before_records_nothing_after_removal() -> None:
    net = network()
    monitors = [GradOutputMonitor(net, LIFNode), GradInputMonitor(net, LIFNode)]
    loss = net(torch.rand(T, N, 5)).sum()
    for monitor in monitors:
        monitor.remove_hooks()
    loss.backward()
    assert [monitor.records for monitor in monitors] == [[], []]


def test_clearing_the_records_is_safe() -> None:
    net = network()
    monitor = OutputMonitor(net, LIFNode, lambda s: s.shape[-1])
    run(net)
    monitor.records.clear()
    assert monitor["1"] == []
    run(net)
    assert (monitor["1"], monitor["3"]) == ([4], [2])
    del monitor.records[0]  # the oldest
    assert (monitor["1"], monitor["3"]) == ([], [2])
    run(net)
    assert (monitor["1"], monitor["3"]) == ([4], [2, 2])
    assert monitor.records.pop() == 2  # the newest
    assert (monitor["1"], monitor["3"]) == ([4], [2])
    del monitor.records[:2]
    assert (monitor["1"], monitor["3"]) == ([], [])


def test_watching_changes_nothing() -> None:
    net, x = network(), torch.rand(T, N, 5)
    expected = net(x)
    functional.reset_net(net)
    monitors = [make(net) for make in EVERY]
    assert torch.equal(net(x), expected)
    assert len(monitors) == len(EVERY)
    gc.collect()
    assert list(net.state_dict()) == list(network().state_dict())


# -- wrong use -------------------------------------------------------------------------------------


def test_nothing_to_watch_is_an_error() -> None:
    with pytest.raises(ValueError, match="is an instance of Conv2d; it has LIFNode, Linear"):
        OutputMonitor(network(), nn.Conv2d)
    with pytest.raises(TypeError, match=r"net is a torch\.nn\.Module, not list"):
        OutputMonitor([LIFNode()])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="abstract"):
        Monitor(nn.Identity(), None, lambda x: x)


def test_a_module_that_never_ran() -> None:
    net = network()
    monitor = OutputMonitor(net, LIFNode)
    with pytest.raises(IndexError, match=r"no record 0: 0 were made .*'1', '3'. Run the network"):
        monitor[0]
    with pytest.raises(LookupError, match=r"layer '1'.*its forward has not run. Run the network"):
        monitor["1"]
    monitor.disable()
    with pytest.raises(IndexError, match=r"call enable\(\)"):
        monitor[0]
    monitor.remove_hooks()
    with pytest.raises(IndexError, match="make a new monitor"):
        monitor[0]
    with pytest.raises(KeyError, match="layer '2' is not monitored; these are: '1', '3'"):
        monitor["2"]


# -- monitor_state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [LIFNode, IFNode, load("alif"), load("cuba_lif")])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_monitor_state(make: Any, backend: str) -> None:
    if make is IFNode:
        backend = "torch"
    x = torch.rand(T, N, 5) * 2
    found = {}
    for mode in ("s", "m"):
        node = make(step_mode=mode, backend=backend, monitor_state=True)
        y = node(x) if mode == "m" else torch.stack([node(x_t) for x_t in x])
        assert node.v_seq is None
        assert not node.store_v_seq
        found[mode] = node.monitor
        assert list(node.monitor) == ["v", "s"]
        for recorded in node.monitor.values():
            assert [type(a) for a in recorded] == [np.ndarray] * T
            assert [a.shape for a in recorded] == [(N, 5)] * T
        assert np.array_equal(np.stack(node.monitor["s"]), y.numpy())
        last = node.v.clone()
        node.v += 1.0
        assert np.array_equal(node.monitor["v"][-1], last.numpy())
        node.reset()
        assert node.monitor == {"v": [], "s": []}
    assert all(np.array_equal(*pair) for pair in zip(found["s"]["v"], found["m"]["v"], strict=True))


def test_monitor_state_is_the_stored_sequence() -> None:
    node = LIFNode(step_mode="m", store_v_seq=True, monitor_state=True)
    x = torch.rand(T, N, 5, requires_grad=True)
    node(x)
    node(x)
    assert len(node.monitor["v"]) == 2 * T
    assert np.array_equal(np.stack(node.monitor["v"][T:]), node.v_seq.detach().numpy())


def test_monitor_state_off_and_on() -> None:
    node = LIFNode()
    assert node.monitor is False
    node(torch.rand(N))
    node.reset()
    assert node.monitor is False
    node.set_monitor(True)
    node(torch.rand(N).bfloat16())
    assert node.monitor["s"][0].dtype == np.float32
    clone = copy.deepcopy(node)
    assert len(clone.monitor["v"]) == 1
    node.set_monitor(False)
    assert node.monitor is False
    assert len(clone.monitor["v"]) == 1
    functional.reset_net(clone)
    assert clone.monitor == {"v": [], "s": []}


def test_monitor_state_of_a_neuron_without_v() -> None:
    node = load("elementwise_recurrent_lif")(monitor_state=True)
    node(torch.rand(N, 2))
    assert len(node.monitor["s"]) == 1


def test_an_error_leaves_the_settings() -> None:
    node = LIFNode(step_mode="m", monitor_state=True)
    with pytest.raises(ValueError, match="T, N"):
        node(torch.rand(N))
    assert not node.store_v_seq
    assert node.monitor == {"v": [], "s": []}
