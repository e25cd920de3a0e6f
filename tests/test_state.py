"""State between forwards: saved, moved, cut, carried through functions and copies of a module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neurogen.loading import load, load_text
from neurogen.nn import functional
from neurogen.runtime.base import BaseNode

both = pytest.mark.parametrize("runs_on", ["torch", "cpp"])


def inputs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 1.5 + 0.7).to(dtype)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), load("plif")(step_mode="m"), nn.Linear(6, 3), load("alif")(step_mode="m")
    )


class Leaky(BaseNode):
    """A neuron in Python."""

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v * 0.5 + x


# -- state_dict ----------------------------------------------------------------------------------


def persist(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, BaseNode):
            module.persistent = True


def test_state_dict_is_without_state_by_default() -> None:
    net = network()
    before = list(net.state_dict())
    net(inputs(3, 2, 4))
    assert list(net.state_dict()) == before
    assert "1.w" in before and not any(key.endswith((".v", ".v_seq", ".a")) for key in before)


def test_state_dict_keeps_state_when_asked(tmp_path: Path) -> None:
    net, twin = network(), network()
    persist(net)
    persist(twin)
    assert list(net.state_dict()) == list(network().state_dict()), "states at rest are not held"
    net(inputs(3, 2, 4))
    net[3].a = 0.5
    assert {"1.v", "3.v", "3.a"} <= set(net.state_dict())
    assert not any(value.requires_grad for value in net.state_dict().values())
    torch.save(net.state_dict(), tmp_path / "net.pt")
    twin(inputs(3, 5, 4))  # of another batch
    assert twin.load_state_dict(torch.load(tmp_path / "net.pt")).missing_keys == []
    x = inputs(4, 2, 4, seed=1)
    assert torch.equal(twin(x), net(x))
    assert twin[1].v is not net[1].v
    twin.load_state_dict(network().state_dict())
    assert twin[1].v == 0.0 and twin[3].a == 0.0, "what a checkpoint does not hold is at rest"


def test_a_state_in_a_checkpoint_is_not_dropped_silently() -> None:
    net = network()
    persist(net)
    net(inputs(3, 2, 4))
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"1\.v"'):
        network().load_state_dict(net.state_dict())


def test_neurons_in_python_keep_their_state_too() -> None:
    node, twin = Leaky(), Leaky(store_v_seq=True)
    node.persistent = twin.persistent = True
    node(inputs(2, 3))
    assert list(node.state_dict()) == ["v"]
    twin.load_state_dict(node.state_dict())
    assert torch.equal(twin(inputs(2, 3)), node(inputs(2, 3)))
    node.register_memory("notes", None)
    node.notes = ["spiked"]
    with pytest.raises(TypeError, match="'notes' is a list"):
        node.state_dict()


# -- moves and copies ------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_a_copy_within_training_goes_on_alike(duplicate: Any, runs_on: str) -> None:
    net = network()
    functional.set_backend(net, runs_on, BaseNode)
    net(inputs(3, 2, 4).requires_grad_())
    assert net[1].v.requires_grad
    twin = duplicate(net)
    assert not twin[1].v.requires_grad
    x = inputs(3, 2, 4, seed=1)
    assert torch.equal(twin(x), net(x))


def test_half_a_network_keeps_float32_states() -> None:
    net = network().half()
    x = inputs(3, 2, 4, dtype=torch.float16)
    y = net(x)
    y.float().sum().backward()
    assert y.dtype == torch.float16 and net[1].v.dtype == torch.float32
    assert net[1].w.dtype == net[1].w.grad.dtype == torch.float16
    net.float()
    assert net[1].v.dtype == torch.float32


def test_from_the_meta_device_to_memory() -> None:
    with torch.device("meta"):
        net = network()
    assert net(torch.empty(3, 2, 4, device="meta")).is_meta
    assert all(parameter.is_meta for parameter in net.parameters())
    net.to_empty(device="cpu")
    net[1].reset_parameters()
    assert torch.equal(net[1].w, network()[1].w)
    net.load_state_dict(network().state_dict())
    x = inputs(3, 2, 4)
    assert torch.equal(net(x), network()(x)), "what was computed on the meta device is not kept"


def test_replicas_leave_the_original_at_rest() -> None:
    net = network()
    replica = net[1]._replicate_for_data_parallel()
    replica.w = net[1].w * 1.0  # torch hands every replica its share of the parameters like this
    replica(inputs(3, 2, 6)).sum().backward()
    assert net[1].v == 0.0 and net[1].w.grad is not None
    net[1].v_reset = -0.5
    assert net[1].v == -0.5, "a neuron at rest follows its parameters"
    assert replica.v_reset == 0.0


# -- truncated backpropagation, functions ----------------------------------------------------------


@both
def test_truncated_backpropagation(runs_on: str) -> None:
    net, whole = network(), network()
    functional.set_backend(net, runs_on, BaseNode)
    chunks = [inputs(5, 2, 4, seed=s) for s in range(3)]
    for x in chunks:
        net(x).sum().backward()
        functional.detach_net(net)
    state: list[dict[str, Any]] = [{}, {}]
    for x in chunks:  # the same by hand: states are handed on without their graph
        y, first = whole[1].functional(whole[0](x), state=state[0])
        y, second = whole[3].functional(whole[2](y), state=state[1])
        y.sum().backward()
        state = [{n: v.detach() for n, v in s.items()} for s in (first, second)]
    for found, wanted in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


@both
def test_forwards_without_reset_accumulate(runs_on: str) -> None:
    node, x = load("lif")(step_mode="m", backend=runs_on), inputs(6, 3).requires_grad_()
    whole = node(x)
    (wanted,) = torch.autograd.grad(whole.cos().sum(), x)
    node.reset()
    parts = torch.cat([node(x[:2]), node(x[2:3]), node(x[3:])])
    assert torch.equal(parts, whole)
    (found,) = torch.autograd.grad(parts.cos().sum(), x)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_functional_call_takes_other_parameters() -> None:
    net, other = network(), network()
    weights = {name: p.detach() + 0.25 for name, p in net.named_parameters()}
    other.load_state_dict({**other.state_dict(), **weights})
    x = inputs(3, 2, 4)
    held = {name: p.requires_grad_() for name, p in weights.items()}
    found = torch.func.functional_call(net, held, (x,))
    assert torch.equal(found, other(x))
    found.sum().backward()
    assert held["1.w"].grad is not None and net[1].w.grad is None


def test_resetting_within_a_graph_keeps_the_graph() -> None:
    node, x = load("lif")(step_mode="m"), inputs(3, 4).requires_grad_()
    y = node(x)
    (wanted,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    node.reset()
    node(x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], wanted)


# -- launches that a CUDA graph can hold -----------------------------------------------------------


class NoHostReads(TorchDispatchMode):
    """Operations that read a value back, or copy from the host, break the capture of a graph."""

    forbidden = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "item")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in self.forbidden, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("lif", {}),
        ("lif", {"v_threshold": nn.Parameter(torch.ones(3)), "store_v_seq": True}),
        ("plif", {"v_reset": None}),
        ("alif", {"step_mode": "s"}),
        ("srm", {}),
    ],
)
def test_nothing_is_read_back(name: str, keywords: dict[str, Any]) -> None:
    node = load(name)(**{"step_mode": "m", "backend": "cpp", **keywords})
    x = inputs(4, 2, 3).requires_grad_()
    with NoHostReads():
        for _ in range(2):
            node(x).sum().backward()
            node.detach()
        node.reset()
        node(x).sum().backward()


def test_what_waits_for_the_device_is_found() -> None:
    node = load_text("name: Waits\ncharge: v + x")(step_mode="m")
    with pytest.raises(AssertionError, match="waits"), NoHostReads():
        bool(node(inputs(2, 3)).any())
