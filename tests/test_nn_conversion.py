"""Neurons replaced in a network: values and surrogates carried over, the rest said."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from neurogen import load, load_text
from neurogen.nn import convert, layer, surrogate
from neurogen.nn.conversion import ConversionWarning

LIFNode, IFNode, PLIFNode = load("lif"), load("if"), load("plif")


def converted(net: nn.Module, classes: dict[Any, Any]) -> tuple[nn.Module, str]:
    """The network after, and what was said ('' if nothing)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net = convert(net, classes)
    assert {w.category for w in said} <= {ConversionWarning}
    assert all(w.filename == __file__ for w in said)
    return net, "\n".join(str(w.message) for w in said)


class OldNode(nn.Module):
    """A neuron of some other library."""

    def __init__(self, tau: float = 3.0, gain: float = 1.0, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.tau, self.gain, self.v_threshold = tau, gain, v_threshold
        self.v: Any = 0.0

    def reset(self) -> None:
        """As the old library does it."""
        self.v = 0.0


class OlderNode(OldNode):
    """The same with other equations, for all that anybody knows."""


class OldPLIFNode(OldNode):
    """One that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.25))


def test_values_go_by_their_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), OldNode(tau=5.0, v_threshold=0.5))
    net.eval()
    net[1].v = torch.tensor([0.25])
    after, said = converted(net, {OldNode: LIFNode})
    assert after is net and type(net[1]) is LIFNode and not net[1].training
    assert (net[1].tau, net[1].v_threshold, net[1].v_reset) == (5.0, 0.5, 0.0)
    assert net[1].v.item() == 0.25
    assert said.endswith("1 (OldNode): gain=1.0 has no counterpart in LIFNode")


def test_between_our_own_nothing_is_lost() -> None:
    old = LIFNode(
        tau=torch.full((4,), 3.0), v_threshold=nn.Parameter(torch.tensor(0.5)), v_reset=None,
        surrogate_function=surrogate.ATan(3.0, spiking=False), detach_reset=True, step_mode="m",
        store_v_seq=True, decay_input=False,
    )  # fmt: skip
    new, said = converted(old, {LIFNode: LIFNode})
    assert new is not old and not said
    assert new.v_threshold is old.v_threshold and repr(new) == repr(old)
    assert new.store_v_seq and torch.equal(new.tau, old.tau)
    x = torch.rand(5, 2, 4) * 2
    assert torch.equal(new(x), old(x)) and new.v_seq is not None


def test_a_neuron_in_two_places_stays_one() -> None:
    node = OldNode()
    net = nn.Sequential(node, nn.Sequential(nn.ReLU(), node))
    converted(net, {OldNode: IFNode})
    assert net[0] is net[1][1] and type(net[0]) is IFNode


def test_learnable_parameters_are_carried_with_all_that_they_are() -> None:
    old = OldPLIFNode().double()
    old.w.requires_grad_(False)
    new, _ = converted(old, {OldPLIFNode: PLIFNode})
    assert new.w.shape == (1,) and new.w.dtype == torch.float64 and new.w.item() == 0.25
    assert not new.w.requires_grad and set(new.state_dict()) == {"w"}


PER_CHANNEL = """
name: Gated
learnable: {w: {init: 0.5, per: channel}}
charge: v + w * x
"""


def test_the_shape_of_what_is_learnt_per_channel() -> None:
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    new, said = converted(Old(), {Old: load_text(PER_CHANNEL)})
    assert new.w.tolist() == [1.0, 2.0, 3.0] and not said


def test_where_names_differ_a_function_makes_the_neuron() -> None:
    net = nn.Sequential(OldNode(tau=4.0, gain=0.5))
    net[0].register_buffer("threshold", torch.tensor(1.0))  # the function need not carry it
    _, said = converted(net, {OldNode: lambda old: LIFNode(tau=old.tau, v_threshold=1 / old.gain)})
    assert not said
    assert (net[0].tau, net[0].v_threshold) == (4.0, 2.0)


def test_what_a_function_leaves_at_its_default_goes_by_its_name() -> None:
    old = LIFNode(
        tau=4.0, v_threshold=0.5, v_reset=None, decay_input=False, detach_reset=True,
        step_mode="m", store_v_seq=True, surrogate_function=surrogate.ATan(3.0),
    )  # fmt: skip
    old.v = torch.tensor([0.25])
    node, said = converted(old, {LIFNode: lambda old: LIFNode(tau=old.tau)})
    wanted, _ = converted(old, {LIFNode: LIFNode})
    assert not said and repr(node) == repr(wanted) != repr(LIFNode(tau=4.0))
    x = torch.rand(5, 1) * 2
    assert torch.equal(node(x), wanted(x)) and torch.equal(node.v_seq, wanted.v_seq)

    def otherwise(old: Any) -> Any:
        return LIFNode(tau=3.0, v_threshold=torch.tensor(0.75),
                       surrogate_function=surrogate.Erf())  # fmt: skip

    old.surrogate_function = Sharp(2.0)  # without counterpart, and not asked for
    node, said = converted(old, {LIFNode: otherwise})
    assert (node.tau, node.v_threshold.item(), node.step_mode) == (3.0, 0.75, "m")
    assert not said and type(node.surrogate_function) is surrogate.Erf
    node, said = converted(old, {LIFNode: lambda old: LIFNode(tau=old.tau)})
    assert node is old and "is left as it is: neurogen.nn.surrogate has no Sharp" in said


class Sharp(surrogate.Sigmoid):
    """Of no name that the table has."""


class Sigmoid(surrogate.ATan):
    """Of a name that the table has, and another slope."""


class ATan(nn.Module):
    """Of a name and an alpha that the table has, and a slope that is a little larger."""

    alpha = 2.0

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """A step of 1.01."""
        step: torch.Tensor = 1.01 * surrogate.ATan(2.0)(u)
        return step


@pytest.mark.parametrize(
    "function", [Sharp(2.0), Sigmoid(2.0), ATan()], ids=["unknown", "another", "larger"]
)
def test_a_surrogate_without_counterpart_leaves_the_neuron(function: nn.Module) -> None:
    old = OldNode()
    old.surrogate_function = function
    net, said = converted(nn.Sequential(old, OldNode()), {OldNode: IFNode})
    assert net[0] is old and type(net[1]) is IFNode
    assert "0 (OldNode) is left as it is: neurogen.nn.surrogate" in said


def test_a_parameter_without_counterpart_leaves_the_neuron() -> None:
    net, said = converted(nn.Sequential(OldPLIFNode()), {OldPLIFNode: LIFNode})
    assert type(net[0]) is OldPLIFNode
    assert "0 (OldPLIFNode) is left as it is: LIFNode has no parameter w" in said


def test_classes_that_were_not_named_are_said() -> None:
    net, said = converted(nn.Sequential(OlderNode(), layer.Dropout(0.5)), {OldNode: IFNode})
    assert type(net[0]) is OlderNode
    assert said.splitlines()[1:] == ["  0 (OlderNode) is left as it is: its class was not named"]


def test_hooks_are_said() -> None:
    net = nn.Sequential(LIFNode())
    net[0].register_forward_hook(lambda *_: None)
    _, said = converted(net, {LIFNode: LIFNode})
    assert "0 (LIFNode): 1 hooks are not carried over" in said


def test_a_value_that_is_refused_changes_nothing() -> None:
    net = nn.Sequential(OldNode(), OldNode(tau=0.5))
    with pytest.raises(ValueError, match=r"1 \(OldNode\): LIFNode: tau=0.5 must satisfy tau > 1"):
        convert(net, {OldNode: LIFNode})
    assert all(type(node) is OldNode for node in net)


@pytest.mark.parametrize(
    ("net", "classes"), [("lif", {}), (nn.ReLU(), {"LIF": LIFNode}), (nn.ReLU(), {nn.ReLU: 3})]
)
def test_wrong_arguments(net: Any, classes: Any) -> None:
    with pytest.raises(TypeError, match=r"net is a torch\.nn\.Module|classes maps"):
        convert(net, classes)
