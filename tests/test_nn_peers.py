"""SpikingJelly 2.0 beside ours: layers, containers, monitors, encoders, each other's functions.

Skipped where SpikingJelly is not installed. Where ours refuses what it takes silently,
`docs/networks.md` says so.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen import load
from neurogen.nn import convert, encoding, functional, layer, monitor

pytest.importorskip("loguru")  # spikingjelly installed without its dependencies
sj_layer = pytest.importorskip("spikingjelly.activation_based.layer")
sj_neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
sj_monitor = pytest.importorskip("spikingjelly.activation_based.monitor")
sj_surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
sj_functional = pytest.importorskip("spikingjelly.activation_based.functional")
sj_encoding = pytest.importorskip("spikingjelly.activation_based.encoding")

LIFNode, IFNode, PLIFNode, QIFNode = map(load, ("lif", "if", "plif", "qif"))
T, N = 5, 3

LIBRARIES = {"ours": (layer, LIFNode), "theirs": (sj_layer, sj_neuron.LIFNode)}
FUNCTIONS = {"ours": functional, "theirs": sj_functional}


def network(layers: Any, node: Any) -> nn.Sequential:
    """Convolutional, with a container; the same weights every time, large enough for spikes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.Conv2d(1, 4, 3, padding=1, bias=False),
        layers.BatchNorm2d(4),
        node(),
        layers.StepModeContainer(False, "s", nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)),
        layers.StepModeContainer(True, "s", node(v_reset=None)),
        layers.MaxPool2d(2),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Linear(16, 6),
        node(tau=3.0, decay_input=False, detach_reset=True),
    )
    with torch.no_grad():
        net[8].weight.mul_(8)
    return net


def trained(net: nn.Module, functions: Any, mode: str) -> list[Tensor]:
    """Two steps of training: outputs, then gradients and buffers."""
    functions.set_step_mode(net, mode)
    torch.manual_seed(1)
    results = []
    for _ in range(2):
        x, weights = torch.rand(T, N, 1, 6, 6) * 2, torch.rand(T, N, 6)
        y = net(x) if mode == "m" else torch.stack([net(x_t) for x_t in x])
        (y * weights).sum().backward()
        functions.reset_net(net)
        results.append(y.detach())
    results += [p.grad for p in net.parameters()]
    return [*results, *net.buffers()]


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    assert 0.02 < expected[0].mean() < 0.98
    assert [torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True)] == [True, True]
    for a, b in zip(found[2:], expected[2:], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_converted_network(mode: str) -> None:
    net = network(sj_layer, sj_neuron.LIFNode)
    expected = trained(copy.deepcopy(net), sj_functional, mode)
    net = convert(net, {sj_neuron.LIFNode: LIFNode})  # says nothing: warnings are errors
    assert sum(isinstance(module, LIFNode) for module in net.modules()) == 3
    assert not any(isinstance(module, sj_neuron.LIFNode) for module in net.modules())
    agree(trained(net, sj_functional, mode), expected)
    spikes = sj_monitor.OutputMonitor(net, LIFNode)
    net(torch.rand(*((T,) if mode == "m" else ()), N, 1, 6, 6))
    assert len(spikes["2"]) == 1 and spikes.monitored_layers == ["2", "4.0", "9"]


SURROGATES = """
    Sigmoid ATan PiecewiseQuadratic PiecewiseExp SoftSign SuperSpike Erf Rect LeakyKReLU
    NonzeroSignLogAbs S2NN LogTailedReLU
"""


@pytest.mark.parametrize("name", SURROGATES.split())
def test_surrogates_are_carried(name: str) -> None:
    theirs = getattr(sj_surrogate, name)()
    node = convert(sj_neuron.IFNode(surrogate_function=theirs), {sj_neuron.IFNode: IFNode})
    assert type(node.surrogate_function).__name__ == name


def test_learnable_neurons_are_carried() -> None:
    theirs = sj_neuron.ParametricLIFNode(init_tau=3.0, decay_input=False, step_mode="m")
    ours = convert(copy.deepcopy(theirs), {sj_neuron.ParametricLIFNode: PLIFNode})
    x = torch.rand(T, N, 4) * 2
    found, expected = ours(x), theirs(x)
    (found.sum() + ours.v.sum()).backward()
    (expected.sum() + theirs.v.sum()).backward()
    assert torch.equal(found, expected) and 0 < found.mean() < 1
    assert torch.allclose(ours.w.grad, theirs.w.grad, rtol=1e-5)
    with torch.no_grad():
        theirs.w.fill_(0.75)
    ours.load_state_dict(theirs.state_dict())
    assert ours.w.tolist() == [0.75]
    theirs.load_state_dict(PLIFNode(init_tau=2.0).state_dict())
    assert theirs.w.item() == 0.0


def test_neurons_with_other_names_are_carried() -> None:
    """The example of docs/networks.md."""
    theirs = sj_neuron.QIFNode(
        tau=3.0, v_c=0.7, a0=0.9, v_threshold=0.8, v_rest=0.1, v_reset=-0.1, step_mode="m",
        detach_reset=True, surrogate_function=sj_surrogate.ATan(),
    )  # fmt: skip
    ours = convert(copy.deepcopy(theirs), {sj_neuron.QIFNode: lambda old: QIFNode(
        tau=old.tau, a_0=old.a0, v_leak=old.v_rest, v_c=old.v_c)})  # fmt: skip
    x = (torch.rand(T, N, 4) * 4).requires_grad_()
    found, expected = ours(x), theirs(x)
    assert torch.equal(found, expected) and 0.02 < found.mean() < 1
    pairs = [torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)]
    assert torch.allclose(*pairs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("layers", LIBRARIES)
@pytest.mark.parametrize("neurons", LIBRARIES)
def test_networks_of_either_library(neurons: str, layers: str, functions: str, mode: str) -> None:
    net = network(LIBRARIES[layers][0], LIBRARIES[neurons][1])
    theirs = network(sj_layer, sj_neuron.LIFNode)
    agree(trained(net, FUNCTIONS[functions], mode), trained(theirs, sj_functional, mode))
    assert list(net.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("layers", LIBRARIES)
def test_containers_keep_their_modules(layers: str, functions: str) -> None:
    library, node = LIBRARIES[layers]
    net = nn.Sequential(
        library.StepModeContainer(True, "s", node()), library.MultiStepContainer(node()), node()
    )
    FUNCTIONS[functions].set_step_mode(net, "m")
    net(torch.rand(T, N, 2))
    assert [net[0].step_mode, net[2].step_mode] == ["m", "m"]
    assert [m[0].step_mode for m in net[:2]] == ["s", "s"]
    assert net(torch.rand(T, N, 2)).shape == (T, N, 2)


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("neurons", LIBRARIES)
def test_detach_and_reset(neurons: str, functions: str) -> None:
    node = LIBRARIES[neurons][1]
    net = nn.Sequential(nn.Linear(2, 2), node())
    for _ in range(3):
        FUNCTIONS[functions].detach_net(net)
        net(torch.rand(N, 2)).sum().backward()
    assert net[1].v.shape == (N, 2)
    FUNCTIONS[functions].reset_net(net)
    assert net[1].v == 0.0


@pytest.mark.parametrize("name", ["multi_step_forward", "seq_to_ann_forward"])
def test_forwards_over_a_sequence(name: str) -> None:
    x = torch.rand(T, N, 1, 6, 6)
    conv, pool = nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)
    ours, theirs = getattr(functional, name), getattr(sj_functional, name)
    for modules in (conv, [conv, nn.ReLU()], nn.Sequential(conv, nn.ReLU())):
        assert torch.equal(ours(x, modules), theirs(x, modules))
    for found, expected in zip(functional.seq_to_ann_forward(x, pool),
                               sj_functional.seq_to_ann_forward(x, pool), strict=True):  # fmt: skip
        assert torch.equal(found, expected)


def test_multi_step_forward_of_the_other_librarys_neuron() -> None:
    x = torch.rand(T, N, 4) * 2
    expected = sj_neuron.LIFNode(step_mode="m")(x)
    assert torch.equal(functional.multi_step_forward(x, sj_neuron.LIFNode()), expected)
    assert torch.equal(sj_functional.multi_step_forward(x, LIFNode()), expected)
    assert torch.equal(layer.MultiStepContainer(sj_neuron.LIFNode())(x), expected)
    assert torch.equal(sj_layer.MultiStepContainer(LIFNode())(x), expected)


def test_every_layer_takes_their_keywords() -> None:
    """What theirs takes by name, ours takes, with the default of `torch.nn`."""
    common = {n for n in layer.__all__ if hasattr(sj_layer, n) and not n.endswith("Container")}
    assert {"Conv2d", "BatchNorm1d", "MaxUnpool3d", "Dropout"} <= common
    for name in common:
        ours = inspect.signature(getattr(layer, name)).parameters
        theirs = inspect.signature(getattr(sj_layer, name)).parameters
        assert set(theirs) <= set(ours), name
        for key, parameter in theirs.items():
            if (name, key) != ("Dropout2d", "p"):  # theirs is 0.2
                assert ours[key].default == parameter.default, (name, key)


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_dropout_draws_the_same_mask(name: str, mode: str) -> None:
    x, results = torch.rand(T, N, 8, 4, 4), []
    for library in (layer, sj_layer):
        module = getattr(library, name)(p=0.5, step_mode=mode)
        torch.manual_seed(2)
        y = [module(x) if mode == "m" else torch.stack([module(x_t) for x_t in x])]
        module.reset()
        y += [module(x if mode == "m" else x[0])]
        results.append(y)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# -- monitors --------------------------------------------------------------------------------------

MONITORS: dict[str, Any] = {
    "output": lambda m, net, node: m.OutputMonitor(net, node),
    "input": lambda m, net, node: m.InputMonitor(net, node),
    "rate": lambda m, net, node: m.OutputMonitor(net, node, function_on_output=torch.mean),
    "v_seq": lambda m, net, node: m.AttributeMonitor("v_seq", False, net, node),
    "v before": lambda m, net, node: m.AttributeMonitor(
        "v", pre_forward=True, net=net, instance=node
    ),
    "grad output": lambda m, net, node: m.GradOutputMonitor(net, node),
    "grad input": lambda m, net, node: m.GradInputMonitor(
        net, node, function_on_grad_input=lambda g: g
    ),
    "layers": lambda m, net, node: m.OutputMonitor(net, (nn.Linear, node)),
}


@pytest.mark.parametrize("kind", MONITORS)
@pytest.mark.parametrize("neurons", LIBRARIES)
def test_monitors_record_the_same(kind: str, neurons: str) -> None:
    sj_monitor = pytest.importorskip("spikingjelly.activation_based.monitor")
    library, node = LIBRARIES[neurons]
    torch.manual_seed(0)
    net = nn.Sequential(library.Linear(6, 5), node(), library.Linear(5, 4), node())
    with torch.no_grad():
        net[2].weight.abs_().mul_(2)
        net[0].weight.abs_().mul_(2)
    for m in (net[1], net[3]):
        m.store_v_seq = True
    functional.set_step_mode(net, "m")
    x, weights = torch.rand(T, N, 6), torch.rand(T, N, 4)
    ours, theirs = MONITORS[kind](monitor, net, node), MONITORS[kind](sj_monitor, net, node)
    for _ in range(2):
        (net(x) * weights).sum().backward()
        functional.detach_net(net)
    assert ours.monitored_layers == theirs.monitored_layers
    assert len(ours.records) == len(theirs.records) >= 4
    for found, expected in zip(ours.records, theirs.records, strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    for name in ours.monitored_layers:
        pairs = zip(ours[name], theirs[name], strict=True)
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)
    theirs.remove_hooks()
    ours.remove_hooks()


# -- encoders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 8, 30])
def test_encoders_give_the_same(T: int) -> None:
    x = torch.rand(N, 200)
    small = x * (1 - 2.0**-T) * 0.999
    for make, inputs in (
        (lambda m: m.LatencyEncoder(T), x),
        (lambda m: m.LatencyEncoder(T, enc_function="log"), x),
        (lambda m: m.WeightedPhaseEncoder(T), small),
        (lambda m: m.PeriodicEncoder((x[:, :T].T > 0.5).float().clone()), (x[:, :T].T > 0.5) * 1.0),
    ):
        ours, theirs = make(encoding), make(sj_encoding)
        for _ in range(T + 2):
            assert torch.equal(ours(inputs), theirs(inputs))
        ours.reset()
        theirs.reset()
        assert torch.equal(ours(inputs), theirs(inputs))


def test_a_neuron_of_another_library_by_a_function() -> None:
    """As the docstring of `convert` has it."""
    snntorch = pytest.importorskip("snntorch")
    LeakyNode = load("leaky")
    old = snntorch.Leaky(beta=0.75, threshold=0.5)
    net = convert(
        nn.Sequential(old),
        {snntorch.Leaky: lambda n: LeakyNode(beta=float(n.beta), v_threshold=float(n.threshold))},
    )  # fmt: skip
    x, potential, expected = torch.rand(T, N, 4), old.init_leaky(), []
    for step in x:
        spikes, potential = old(step, potential)
        expected.append(spikes)
    functional.set_step_mode(net, "m")
    assert torch.equal(net(x), torch.stack(expected)) and torch.stack(expected).any()
