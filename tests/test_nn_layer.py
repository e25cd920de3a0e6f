"""Layers and containers: modes agree, `torch.nn`'s behaviour and keys, refused inputs."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen import load
from neurogen.nn import encoding, functional, layer
from neurogen.runtime.base import BaseNode

T, N = 3, 4

#: Layer -> its arguments, and the shape of one sample.
TABLE: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]] = {
    "Linear": ((6, 5), (6,)),
    "Flatten": ((), (2, 3, 4)),
    "GroupNorm": ((2, 4), (4, 5)),
    "Upsample": ((None, 2), (2, 5)),
    **{f"Conv{d}d": ((2, 3, 3, 1, 1), (2, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    **{f"ConvTranspose{d}d": ((2, 3, 3, 2), (2, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    **{f"BatchNorm{d}d": ((2,), (2, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    **{f"MaxPool{d}d": ((2,), (2, *(6, 4, 4)[:d])) for d in (1, 2, 3)},
    **{f"AvgPool{d}d": ((2,), (2, *(6, 4, 4)[:d])) for d in (1, 2, 3)},
    **{f"AdaptiveMaxPool{d}d": ((2,), (2, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    **{f"AdaptiveAvgPool{d}d": ((2,), (2, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    **{f"Dropout{d}d": ((0.5,), (8, *(6, 5, 4)[:d])) for d in (1, 2, 3)},
    "Dropout": ((0.5,), (8,)),
}  # fmt: skip
NAMES = sorted(TABLE)


def make(name: str, mode: str = "s") -> Any:
    return getattr(layer, name)(*TABLE[name][0], step_mode=mode)


def sequence(name: str) -> Tensor:
    """Dyadic numbers, so that sums are exact in any order."""
    torch.manual_seed(0)
    return torch.randint(-8, 9, (T, N, *TABLE[name][1])) / 8.0


def dyadic(module: nn.Module) -> nn.Module:
    """Round the parameters, so that products and sums are exact."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * 16).round() / 16)
    return module


def test_every_layer_is_in_the_table() -> None:
    unpool = {f"MaxUnpool{d}d" for d in (1, 2, 3)}
    containers = {"MultiStepContainer", "SeqToANNContainer", "StepModeContainer"}
    assert set(layer.__all__) == set(TABLE) | unpool | containers
    assert all(hasattr(layer, name) for name in layer.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_layer_by_layer_is_step_by_step(name: str) -> None:
    module, x = dyadic(make(name)).eval(), sequence(name)
    x.requires_grad_()
    steps = torch.stack([module(x_t) for x_t in x])
    (expected,) = torch.autograd.grad(steps.square().sum(), x)
    functional.set_step_mode(module, "m")
    together = module(x)
    assert torch.equal(together, steps)
    (found,) = torch.autograd.grad(together.square().sum(), x)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_is_that_of_torch(name: str) -> None:
    module, x = make(name), sequence(name)[0]
    theirs = getattr(nn, name)(*TABLE[name][0])
    theirs.load_state_dict(module.state_dict())
    assert isinstance(module, type(theirs))
    assert list(module.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(1)
    expected = theirs(x)
    torch.manual_seed(1)
    found = module(x)
    assert torch.equal(found, expected)
    assert theirs.extra_repr() in module.extra_repr()


@pytest.mark.parametrize("name", NAMES)
def test_it_looks_written_by_hand(name: str) -> None:
    cls = getattr(layer, name)
    assert (cls.__name__, cls.__module__) == (name, "neurogen.nn.layer")
    assert f"torch.nn.{name}" in cls.__doc__
    assert "step_mode" in inspect.signature(cls).parameters
    module, x = make(name, "m").eval(), sequence(name)
    assert repr(module).startswith(f"{name}(")
    assert "step_mode=m" in repr(module)
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(clone) is cls
        assert clone.step_mode == "m"
        assert torch.equal(clone(x), module(x))


#: Layers of any number of dimensions, or of two: a step may look like a shorter sequence.
OPEN = {"Flatten", "Dropout", "Linear", "BatchNorm1d", "GroupNorm", "Upsample"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - OPEN))
def test_one_time_step_in_mode_m_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: in step_mode 'm' .* use step_mode 's'"):
        make(name, "m")(sequence(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_no_time_steps_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time steps"):
        make(name, "m")(sequence(name)[:0])


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_step_mode_says_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=f"step_mode of {name} is 's' or 'm', not 'x'"):
        make(name, "x")
    module = make(name)
    with pytest.raises(ValueError, match="'s' or 'm', not 'M'"):
        module.step_mode = "M"
    assert module.step_mode == "s"


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="Conv2d: x is a tensor, not list"):
        layer.Conv2d(1, 1, 1, step_mode="m")([1.0])


# -- batch norm, pooling, flatten ------------------------------------------------------------------


def test_batch_norm_learns_a_step_in_s_and_a_sequence_in_m() -> None:
    x = torch.randn(T, N, 2, 5)
    single, several = layer.BatchNorm1d(2), layer.BatchNorm1d(2, step_mode="m")
    theirs = nn.BatchNorm1d(2)
    assert torch.equal(several(x), theirs(x.flatten(0, 1)).view_as(x))
    assert torch.equal(several.running_var, theirs.running_var)
    assert several.num_batches_tracked == 1
    theirs = nn.BatchNorm1d(2)
    for x_t in x:
        assert torch.equal(single(x_t), theirs(x_t))
    assert torch.equal(single.running_mean, theirs.running_mean)
    assert single.num_batches_tracked == T


def test_batch_norm_1d_takes_features_without_length() -> None:
    module, x = layer.BatchNorm1d(5, step_mode="m").eval(), torch.randn(T, N, 5)
    assert torch.equal(module(x), nn.BatchNorm1d(5).eval()(x.flatten(0, 1)).view_as(x))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_pooled_indices_and_back(d: int) -> None:
    x = torch.randn(T, N, 2, *(4, 6, 4)[:d])
    pool = getattr(layer, f"MaxPool{d}d")(2, return_indices=True, step_mode="m")
    unpool = getattr(layer, f"MaxUnpool{d}d")(2, step_mode="m")
    values, indices = pool(x)
    back = unpool(values, indices)
    theirs = getattr(nn, f"MaxPool{d}d")(2, return_indices=True)
    their_back = getattr(nn, f"MaxUnpool{d}d")(2)
    for t in range(T):
        v, i = theirs(x[t])
        assert torch.equal(values[t], v)
        assert torch.equal(indices[t], i)
        assert torch.equal(back[t], their_back(v, i))


def test_other_arguments_of_a_forward_pass_through() -> None:
    up = layer.ConvTranspose2d(2, 3, 3, stride=2, step_mode="m")
    x = torch.randn(T, N, 2, 4, 4)
    assert up(x).shape[-2:] == (9, 9)
    assert up(x, [10, 10]).shape[-2:] == (10, 10)
    assert up(x, output_size=[10, 10]).shape[-2:] == (10, 10)


def test_flatten_counts_dimensions_of_a_time_step() -> None:
    x = torch.randn(T, N, 2, 3, 4)
    assert layer.Flatten(step_mode="m")(x).shape == (T, N, 24)
    assert layer.Flatten(2, 3, step_mode="m")(x).shape == (T, N, 2, 12)
    assert layer.Flatten(-2, step_mode="m")(x).shape == (T, N, 2, 12)
    with pytest.raises(ValueError, match="keep the batch dimension"):
        layer.Flatten(0, step_mode="m")(x)


def test_channels_last_and_other_strides() -> None:
    conv = dyadic(layer.Conv2d(2, 3, 3, step_mode="m"))
    x = sequence("Conv2d")
    x = torch.cat([x, x], -1)
    expected = conv(x)
    assert torch.equal(conv(x.transpose(0, 1).contiguous().transpose(0, 1)), expected)
    assert torch.equal(conv(x.movedim(2, -1).contiguous().movedim(-1, 2)), expected)


# -- dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_all_time_steps_drop_the_same(name: str) -> None:
    x = torch.ones(T, N, *TABLE[name][1])
    for mode in ("s", "m"):
        module = make(name, mode)
        torch.manual_seed(3)
        y = module(x) if mode == "m" else torch.stack([module(x_t) for x_t in x])
        assert torch.equal(y, y[:1].expand_as(y))
        torch.manual_seed(3)  # the mask is torch's own
        assert torch.equal(y[0], getattr(nn, name)(*TABLE[name][0])(x[0]))
        assert 0 < (y == 0).float().mean() < 1
        before = module.mask
        functional.reset_net(module)
        assert module.mask is None
        module(x if mode == "m" else x[0])
        assert not torch.equal(module.mask, before)


def test_dropout_in_eval_and_its_mask() -> None:
    module = layer.Dropout(0.5)
    x = torch.ones(N, 50)
    dropped = module(x)
    module.eval()
    assert module(x) is x
    module.train()
    assert torch.equal(module(x), dropped)
    assert module.state_dict() == {}
    with pytest.raises(ValueError, match=r"Dropout: .*call reset\(\)"):
        module(torch.ones(N + 1, 50))
    assert torch.equal(module(x.half()), dropped.half())
    module.inplace = True
    assert module(x) is x
    assert torch.equal(x, dropped)


def test_a_step_mode_by_position_is_no_inplace() -> None:
    with pytest.raises(TypeError, match="inplace is True or False, not 'm'; a step mode is given"):
        layer.Dropout(0.5, "m")


# -- containers ------------------------------------------------------------------------------------


class Counter(nn.Module):
    """A stateful module of another library: adds how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.calls += 1
        return x + self.calls

    def reset(self) -> None:  # noqa: D102
        self.calls = 0


def lif(**keywords: Any) -> Any:
    return load("lif")(**keywords)


def test_multi_step_container_runs_each_step() -> None:
    x = torch.zeros(T, N)
    container = layer.MultiStepContainer(Counter(), nn.Identity())
    expected = torch.arange(1.0, T + 1).view(T, 1).expand(T, N)
    assert torch.equal(container(x), expected)
    functional.reset_net(container)
    assert torch.equal(container(x), expected)


def test_multi_step_container_is_the_neurons_own_mode_m() -> None:
    x = torch.rand(T, N, 5)
    assert torch.equal(layer.MultiStepContainer(lif())(x), lif(step_mode="m")(x))


def test_seq_to_ann_container_sees_one_batch() -> None:
    seen: list[torch.Size] = []
    conv, bn = dyadic(nn.Conv2d(2, 3, 3)), nn.BatchNorm2d(3).eval()
    conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    x = torch.randint(-8, 9, (T, N, 2, 5, 5)) / 8
    y = layer.SeqToANNContainer(conv, bn)(x)
    assert seen == [torch.Size([T * N, 2, 5, 5])]
    assert torch.equal(y, layer.MultiStepContainer(conv, bn)(x))


@pytest.mark.parametrize("kind", [layer.MultiStepContainer, layer.SeqToANNContainer])
def test_the_multi_step_containers_refuse_s(kind: Any) -> None:
    container = kind(nn.Linear(2, 2))
    assert container.step_mode == "m"
    with pytest.raises(ValueError, match=f"{kind.__name__} is 'm', not 's'"):
        container.step_mode = "s"
    net = nn.Sequential(layer.Linear(2, 2, step_mode="m"), container)
    with pytest.raises(ValueError, match="is 'm', not 's'"):
        functional.set_step_mode(net, "s")
    assert [m.step_mode for m in net] == ["m", "m"]
    functional.set_step_mode(net, "m")


@pytest.mark.parametrize("stateful", [True, False])
def test_step_mode_container(stateful: bool) -> None:
    x = torch.randint(-8, 9, (T, N, 4)) / 8
    inner = Counter() if stateful else dyadic(nn.Linear(4, 3))
    net = layer.StepModeContainer(stateful, inner)
    assert net.step_mode == "s"
    assert net[0] is inner
    steps = torch.stack([net(x_t) for x_t in x])
    functional.reset_net(net)
    net.step_mode = "m"
    assert torch.equal(net(x), steps)
    assert f"stateful={stateful}, step_mode=m" in repr(net)


def test_set_step_mode_changes_only_the_container() -> None:
    net = layer.StepModeContainer(True, nn.Linear(4, 4), nn.Sequential(lif()))
    functional.set_step_mode(net, "m")
    assert (net.step_mode, net[1][0].step_mode) == ("m", "s")
    y = net(torch.rand(T, N, 4))
    assert y.shape == (T, N, 4)
    functional.set_step_mode(net, "s")
    assert (net.step_mode, net[1][0].step_mode) == ("s", "s")
    with pytest.raises(ValueError, match="'s' or 'm', not 'x'"):
        net.step_mode = "x"


def test_modules_inside_stay_single_step_whatever_others_set() -> None:
    net = layer.StepModeContainer(True, lif())
    x = torch.rand(T, N, 4)
    expected = lif(step_mode="m")(x)
    for module in net.modules():
        if hasattr(module, "step_mode"):
            module.step_mode = "m"
    assert torch.equal(net(x), expected)
    assert net[0].step_mode == "s"


def test_a_step_mode_may_stand_before_the_modules() -> None:
    assert layer.StepModeContainer(False, "m", nn.Linear(2, 2)).step_mode == "m"
    assert layer.StepModeContainer(False, nn.Linear(2, 2), step_mode="m").step_mode == "m"
    with pytest.raises(TypeError, match="stateful is True or False, not Linear"):
        layer.StepModeContainer(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "make_container",
    [
        layer.MultiStepContainer,
        layer.SeqToANNContainer,
        lambda *m: layer.StepModeContainer(True, *m),
    ],
)
def test_containers_refuse_multi_step_modules(make_container: Any) -> None:
    for module in (
        layer.Conv2d(1, 1, 1, step_mode="m"),
        nn.Sequential(layer.Linear(1, 1, step_mode="m")),
        layer.MultiStepContainer(nn.Identity()),
    ):
        with pytest.raises(ValueError, match=r"single-step modules, and \(1\) .* step_mode 'm'"):
            make_container(nn.Identity(), module)


@pytest.mark.parametrize("inner", [lif, lambda: nn.Sequential(layer.Dropout(0.5))])
def test_all_steps_at_once_refuses_what_remembers(inner: Any) -> None:
    for make_container in (
        layer.SeqToANNContainer,
        lambda *m: layer.StepModeContainer(False, *m),
    ):
        with pytest.raises(ValueError, match="remembers from step to step"):
            make_container(nn.Linear(2, 2), inner())


def test_containers_are_sequentials() -> None:
    modules = OrderedDict(conv=nn.Conv2d(1, 2, 3), act=nn.ReLU())
    net = layer.StepModeContainer(False, modules, step_mode="m")
    assert list(net.state_dict()) == ["conv.weight", "conv.bias"]
    x = torch.randn(T, N, 1, 5, 5)
    part = net[:1]
    assert (type(part), part.stateful, part.step_mode, len(part)) == (type(net), False, "m", 1)
    assert torch.equal(part(x).relu(), net(x))
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(clone(x), net(x))
    assert torch.equal(layer.MultiStepContainer()(x), x)


def test_containers_take_and_return_several_sequences() -> None:
    class Both(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return a + b, a - b

    a, b = torch.rand(2, T, N, 3)
    for net in (
        layer.MultiStepContainer(Both()),
        layer.SeqToANNContainer(Both()),
        layer.StepModeContainer(True, Both(), step_mode="m"),
        layer.StepModeContainer(False, Both()),
    ):
        plus, minus = net((a, b))
        assert torch.equal(plus, a + b)
        assert torch.equal(minus, a - b)


# -- networks --------------------------------------------------------------------------------------


def network(node: Any) -> nn.Sequential:
    return nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        node(),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(36, 5),
        node(),
    )


def test_a_network_has_the_keys_of_torch() -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(36, 5), nn.ReLU(),
    )  # fmt: skip
    net = network(lif)
    assert list(net.state_dict()) == list(plain.state_dict())
    net.load_state_dict(plain.state_dict())


def test_a_network_step_by_step_and_layer_by_layer() -> None:
    torch.manual_seed(0)
    net = dyadic(network(lif)).eval()
    with torch.no_grad():  # dyadic statistics, so that batch norm is exact too
        net[1].eps = 0.0
        net[1].running_mean.fill_(0.25)
        net[1].running_var.fill_(0.25)
        net[0].weight.mul_(2)
        net[5].weight.mul_(16)
    x = torch.randint(0, 9, (6, N, 1, 6, 6)) / 4
    weights = torch.randint(-4, 5, (6, N, 5)) / 4
    results = []
    for mode in ("s", "m"):
        functional.reset_net(net)
        functional.set_step_mode(net, mode)
        y = net(x) if mode == "m" else torch.stack([net(x_t) for x_t in x])
        results.append((y, *torch.autograd.grad((y * weights).sum(), list(net.parameters()))))
    (steps, *expected), (together, *found) = results
    assert torch.equal(together, steps)
    assert 0.02 < together.mean() < 0.98
    assert expected[0].abs().max() > 0
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_reset_of_a_network_reaches_every_memory() -> None:
    net = nn.Sequential(layer.Dropout(0.5), lif(), layer.StepModeContainer(True, lif()))
    net(torch.rand(N, 5))
    functional.reset_net(net)
    assert net[0].mask is None
    assert (net[1].v, net[2][0].v) == (0.0, 0.0)


def test_base_nodes_and_encoders_stand_in_containers() -> None:
    class IFNode(BaseNode):
        def neuronal_charge(self, x: Tensor) -> None:
            self.v = self.v + x

    x = torch.rand(T, N, 5)
    torch.manual_seed(0)
    y = layer.MultiStepContainer(encoding.PoissonEncoder(), IFNode())(x)
    torch.manual_seed(0)
    assert torch.equal(y, torch.stack([encoding.PoissonEncoder()(x_t) for x_t in x]))


def test_torch_compile_of_layers_and_containers() -> None:
    net = nn.Sequential(
        layer.Conv2d(1, 2, 3),
        layer.BatchNorm2d(2).eval(),
        layer.StepModeContainer(False, nn.ReLU()),
        layer.Flatten(),
    )
    functional.set_step_mode(net, "m")
    x = torch.rand(T, N, 1, 5, 5)
    compiled: Any = torch.compile(net, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), net(x))
