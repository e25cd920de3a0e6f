"""Neurons in graphs: torch.compile, torch.export, registered operators, activation checkpointing.

Expected values are those of the same network in plain eager code.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neurogen.loading import load
from neurogen.nn import functional, surrogate
from neurogen.runtime import operators

pytestmark = pytest.mark.filterwarnings(
    # raised inside torch by its own compiler
    "ignore::DeprecationWarning", "ignore:.*isinstance.treespec.*:FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)  # fmt: skip

NEURONS = {
    "lif": {"v_reset": None},
    "plif": {},
    "alif": {"surrogate_function": surrogate.ATan()},
    "cuba_lif": {"detach_reset": True},
    "izhikevich": {},
    "srm": {},
}
both = pytest.mark.parametrize("runs_on", ["torch", "cpp"])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test compiles for itself."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counter:
    """A backend of torch.compile that counts graphs; `inner` compiles them."""

    def __init__(self, inner: str = "aot_eager") -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self._inner: Any = torch._dynamo.lookup_backend(inner)

    def __call__(self, graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:  # noqa: D102
        self.graphs.append(graph)
        return self._inner(graph, examples)


def inputs(*shape: int, seed: int = 0, **keywords: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 1.5 + 0.7).to(**keywords)


def gradients(module: nn.Module, outputs: Tensor, x: Tensor) -> list[Tensor]:
    """Of the input and all parameters."""
    weights = torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)
    leaves = [x, *module.parameters()]
    return [g for g in torch.autograd.grad((outputs * weights).sum(), leaves, allow_unused=True)
            if g is not None]  # fmt: skip


def close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max(), (a, b)


# -- torch.compile -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", NEURONS)
def test_a_neuron_in_one_graph(name: str, runs_on: str) -> None:
    plain = load(name)(step_mode="m", backend=runs_on, store_v_seq=True, **NEURONS[name])
    twin = copy.deepcopy(plain)
    counter = Counter()
    graph = torch.compile(twin, fullgraph=True, backend=counter)
    for seed in range(2):  # from rest, and going on
        scale = {"izhikevich": 20, "cuba_lif": 10}.get(name, 1)
        x = (inputs(5, 3, 4, seed=seed) * scale).requires_grad_()
        wanted, found = plain(x), graph(x)
        assert torch.equal(found, wanted) and torch.equal(twin.v_seq, plain.v_seq)
        for state in plain.states:
            assert torch.equal(getattr(twin, state), getattr(plain, state))
        assert wanted.any() or name == "srm"
        close(gradients(twin, found, x), gradients(plain, wanted, x), 1e-6)
        functional.detach_net(twin)
        functional.detach_net(plain)
    assert len(counter.graphs) == 2
    if runs_on == "cpp":
        targets = [node.target for node in counter.graphs[0].graph.nodes]
        assert torch.ops.neurogen.fused in targets


def convolutional(step_mode: str) -> nn.Sequential:
    """Dyadic weights: sums are exact, so that a compiler may reorder them."""
    torch.manual_seed(0)
    lif, plif = load("lif"), load("plif")
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), lif(step_mode="s"),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), plif(step_mode="s"),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 16).round() / 16)
    functional.set_step_mode(net, step_mode)
    return net


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_convolutional_network_compiles_without_graph_break(compiler: str) -> None:
    plain, twin = convolutional("s").train(), convolutional("s").train()
    graph = torch.compile(twin, fullgraph=True, backend=compiler)
    steps = [(inputs(4, 2, 8, 8, seed=s) * 2).requires_grad_() for s in range(4)]
    wanted = torch.stack([plain(x) for x in steps])
    found = torch.stack([graph(x) for x in steps])
    assert 0.02 < wanted.mean() < 0.98
    assert (found != wanted).float().mean() <= (0 if compiler == "aot_eager" else 0.01)
    if torch.equal(found, wanted):
        found_, wanted_ = (gradients(n, y, steps[0]) for n, y in ((twin, found), (plain, wanted)))
        largest = max(g.abs().max() for g in wanted_)  # of a bias before batch norm it is about 0
        for a, b in zip(found_, wanted_, strict=True):
            assert (a - b).abs().max() <= 1e-5 * largest
        running = [(a, b) for a, b in zip(twin.buffers(), plain.buffers(), strict=True)]
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in running)


def test_exact_sums_give_identical_spikes_from_inductor() -> None:
    plain, twin = convolutional("s").eval(), convolutional("s").eval()
    for net in (plain, twin):
        net[1], net[4] = nn.Identity(), nn.Identity()
        net[2].v_threshold, net[5].init_tau = 0.25, 2.0
        with torch.no_grad():
            net[5].w.fill_(4.0)
            net[3].weight.mul_(4.0)
    graph = torch.compile(twin, fullgraph=True)
    for seed in range(3):
        x = (inputs(4, 2, 8, 8, seed=seed) * 4).round() / 4
        wanted = plain(x)
        assert 0.02 < wanted.mean() < 0.98
        assert torch.equal(graph(x), wanted)


def test_memory_order_survives_compilation() -> None:
    x = inputs(3, 4, 5, 6).to(memory_format=torch.channels_last)
    graph = torch.compile(load("lif")(), fullgraph=True)
    y = graph(x)
    assert torch.equal(y, load("lif")()(x)) and y.stride() == x.stride()


def test_sizes_change_without_a_graph_each() -> None:
    node, counter = load("lif")(step_mode="m", backend="cpp"), Counter()
    graph = torch.compile(node, fullgraph=True, backend=counter)
    for steps, batch in ((4, 3), (6, 5), (9, 2), (40, 7), (200, 11)):
        functional.reset_net(node)
        x = inputs(steps, batch, 8)
        assert torch.equal(graph(x), load("lif")(step_mode="m")(x))
    assert len(counter.graphs) == 2, "one for the first sizes, one for all others"


@pytest.mark.parametrize(
    "change",
    [
        lambda node: setattr(node, "tau", 3.0),
        lambda node: setattr(node, "v_threshold", 0.5),
        lambda node: setattr(node, "v_reset", None),
        lambda node: setattr(node, "decay_input", False),
        lambda node: setattr(node, "detach_reset", True),
        lambda node: setattr(node.surrogate_function, "alpha", 1.5),
        lambda node: setattr(node, "surrogate_function", surrogate.ATan()),
        lambda node: setattr(node, "v", 0.75),
        lambda node: setattr(node, "tau", nn.Parameter(torch.tensor([1.5, 2.5, 3.5]))),
    ],
)
def test_a_change_acts_on_a_compiled_neuron(change: Callable[[Any], None]) -> None:
    plain, twin = (load("lif")(step_mode="m", backend="cpp") for _ in range(2))
    graph = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = inputs(6, 2, 3).requires_grad_()
    before = gradients(twin, graph(x), x)[0]
    for node in (plain, twin):
        node.reset()
        change(node)
    wanted, found = plain(x), graph(x)
    assert torch.equal(found, wanted)
    after = gradients(plain, wanted, x)
    assert not torch.equal(after[0], before), "the change is one that can be seen"
    close(gradients(twin, found, x), after, 1e-6)


def test_a_number_changes_without_a_graph_each() -> None:
    node, counter = load("lif")(step_mode="m", backend="cpp"), Counter()
    graph = torch.compile(node, fullgraph=True, backend=counter)
    x = inputs(3, 4)
    for tau in (2.0, 2.5, 3.0, 3.5, 4.0):
        node.tau = tau
        node.reset()
        assert torch.equal(graph(x), load("lif")(tau=tau, step_mode="m")(x))
    assert len(counter.graphs) == 1


def test_inference_and_training_are_separate_graphs() -> None:
    node = load("plif")(step_mode="m")
    graph = torch.compile(node, fullgraph=True, backend="aot_eager")
    x = inputs(40, 3)
    with torch.no_grad():
        assert not graph(x).requires_grad
    node.reset()
    assert graph(x).requires_grad
    node.reset()
    x.requires_grad_()
    assert len(gradients(node, graph(x), x)) == 2


def test_compiled_under_autocast() -> None:
    layer = nn.Linear(6, 5)
    plain, twin = (nn.Sequential(layer, load("lif")()) for _ in range(2))
    graph = torch.compile(twin, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = plain(x := inputs(3, 6)), graph(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted)
    assert twin[1].v.dtype == torch.float32 and torch.equal(twin[1].v, plain[1].v)


def test_a_noisy_neuron_in_one_graph() -> None:
    plain, twin = (load("noisy_lif")(step_mode="m", seed=3) for _ in range(2))
    graph = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = inputs(5, 3, 4).requires_grad_()
    for _ in range(2):
        wanted, found = plain(x), graph(x)
        assert torch.equal(found, wanted)
        close(gradients(twin, found, x), gradients(plain, wanted, x), 1e-6)
        functional.detach_net(twin)
        functional.detach_net(plain)


# -- registered operators ------------------------------------------------------------------------


def sample(name: str, x: Tensor, monkeypatch: pytest.MonkeyPatch, **keywords: Any) -> Any:
    """The arguments of `neurogen::fused` in a forward of this neuron."""
    calls: list[tuple[Any, ...]] = []

    def run(tensors: tuple[Tensor, ...], chance: Tensor | None, *settings: Any) -> list[Tensor]:
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in tensors]
        wants = [t.requires_grad for t in tensors]
        calls.append((leaves, chance, *settings, wants))
        return honest(tensors, chance, *settings)

    honest = operators.run
    node = load(name)(step_mode="m", backend="cpp", **keywords)
    with monkeypatch.context() as patch:
        patch.setattr(operators, "run", run)
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        node.functional(x, sequences=node.states)
    return calls[0]


@pytest.mark.parametrize("order", ["contiguous", "channels last", "strided", "a step alike"])
@pytest.mark.parametrize("name", NEURONS)
def test_opcheck(name: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs(9, 2, 3, 4, 5)
    if order == "channels last":
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (9, 2))
    elif order == "strided":
        x = x[::2, :, :, ::2]
    elif order == "a step alike":
        x = x[:1].expand(300, 2, 3, 4, 5)
    keywords = dict(NEURONS[name])
    if name == "lif":
        keywords["v_threshold"] = nn.Parameter(torch.rand(3, 1, 1) + 0.5)
    arguments = sample(name, x.requires_grad_(), monkeypatch, **keywords)
    results = torch.library.opcheck(torch.ops.neurogen.fused.default, arguments)
    assert set(results.values()) == {"SUCCESS"}
    tensors, chance, *settings = arguments
    outputs = torch.ops.neurogen.fused(*arguments)
    given = [torch.rand_like(output) for output in outputs[:-1]]
    given = [None, *given[1:]] if name == "alif" else given
    plain = [tensor.detach() for tensor in tensors]
    backward = (plain, chance, outputs[-1].detach(), given, *settings)
    results = torch.library.opcheck(torch.ops.neurogen.fused_backward.default, backward)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["lif", "plif", "alif", "cuba_lif"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "operator"])
def test_gradcheck(name: str, graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = surrogate.Sigmoid(alpha=2.0, spiking=False)  # finite differences see a step's slope
    node = load(name)(step_mode="m", surrogate_function=smooth, backend="cpp")
    v = inputs(2, 3, seed=1, dtype=torch.float64).requires_grad_()
    x = inputs(6, 2, 3, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        outputs, state = node.functional(x, state={"v": v}, sequences=("v",))
        return outputs, state["v"], state["v_seq"]

    if graph:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.autograd.gradcheck(run, (x, v))


def test_second_derivatives_of_the_operator_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = inputs(2, 3).requires_grad_()
    outputs, _ = load("lif")(backend="cpp").functional(x)
    (gradient,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        (gradient**2).sum().backward()


def test_classes_of_one_name_are_two_in_graphs() -> None:
    def kinked(slope: str) -> surrogate.Surrogate:
        class Kinked(surrogate.ATan):
            kernel = surrogate.ATan.kernel.replace("alpha", slope)  # a parameter of that name

        return Kinked()

    first, second = kinked("alpha"), kinked("beta")
    assert type(first).registered != type(second).registered


def test_tensors_without_values_take_the_operator() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    node = load("lif")(step_mode="m")
    node(inputs(3, 4))  # constants are kept from here on
    node.reset()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = node.functional(torch.empty(5, 2, 3))[0]
        assert fake.shape == (5, 2, 3)
    x = inputs(3, 4)
    assert torch.equal(node(x), load("lif")(step_mode="m")(x)), "nothing fake is kept"


# -- torch.export ----------------------------------------------------------------------------------


class Core(nn.Module):
    """A network with its state handed in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.neuron = load("lif")(step_mode="m", backend="cpp")

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        outputs, state = self.neuron.functional(self.linear(x), state={"v": v})
        return outputs, state["v"]


@pytest.mark.parametrize("strict", [False, True])
def test_the_functional_core_is_exported(strict: bool, tmp_path: Path) -> None:
    core, x, v = Core(), inputs(4, 3, 6), inputs(3, 5)
    core.neuron(inputs(4, 3, 6))  # what the module remembers must not get into the graph
    steps = torch.export.Dim("steps", min=2, max=1000)
    program = torch.export.export(
        core, (x, v), dynamic_shapes={"x": {0: steps}, "v": None}, strict=strict
    )
    for steps_now in (4, 9):
        x = inputs(steps_now, 3, 6, seed=steps_now)
        for found, wanted in zip(program.module()(x, v), core(x, v), strict=True):
            assert torch.equal(found, wanted)
    torch.export.save(program, tmp_path / "core.pt2")
    torch.save((x, v, core(x, v)), tmp_path / "values.pt")
    script = (
        "import torch, generated.lif, neurogen.runtime.operators\n"
        f"x, v, wanted = torch.load({str(tmp_path / 'values.pt')!r})\n"
        f"program = torch.export.load({str(tmp_path / 'core.pt2')!r})\n"
        "assert all(map(torch.equal, program.module()(x, v), wanted))\n"
    )
    script = script.replace("generated.lif", "neurogen; neurogen.load('lif')", 1)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_stateful_module_is_not_exported(strict: bool, warm: bool) -> None:
    node, x = load("lif")(step_mode="m"), inputs(4, 3)
    if warm:
        node(x)
    with pytest.raises(Exception, match=r"node\.functional"):
        torch.export.export(nn.Sequential(nn.Linear(3, 3), node), (x,), strict=strict)


def test_a_graph_without_its_neuron_says_so() -> None:
    from neurogen.errors import BackendError
    from neurogen.runtime import registry

    with pytest.raises(BackendError, match="generate or load the same spec"):
        registry.find("generated.nowhere:NoNode")
    with pytest.raises(BackendError, match="defines no such class"):
        registry.find("neurogen.runtime.surrogate:Nothing")


# -- activation checkpointing ----------------------------------------------------------------------


@both
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_goes_through_the_functional_core(reentrant: bool, runs_on: str) -> None:
    node = load("alif")(step_mode="m", backend=runs_on)
    layer = nn.Linear(4, 4)
    x = inputs(5, 3, 4).requires_grad_()

    def block(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(node.states, values, strict=False))
        outputs, following = node.functional(layer(x), state=state)
        return outputs, *following.values()

    first, *state = checkpoint(block, x, use_reentrant=reentrant)
    second, *_ = checkpoint(block, x, *state, use_reentrant=reentrant)
    found = torch.autograd.grad(
        (first + second).sin().sum(), [x, layer.weight], allow_unused=True
    ) if not reentrant else None  # fmt: skip
    if found is None:
        (first + second).sin().sum().backward()
        found = (x.grad, layer.weight.grad)
    first, *state = block(x)
    second, *_ = block(x, *state)
    wanted = torch.autograd.grad((first + second).sin().sum(), [x, layer.weight])
    close(list(found), list(wanted), 1e-6)


@both
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_stateful_module_is_not_checkpointed(reentrant: bool, runs_on: str) -> None:
    node = load("lif")(step_mode="m", backend=runs_on)
    x = inputs(5, 3).requires_grad_()
    outputs = checkpoint(node, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"node\.functional"):
        outputs.sum().backward()


def test_a_neuron_in_python_is_not_checkpointed() -> None:
    from neurogen.runtime.base import BaseNode

    class Square(BaseNode):
        def neuronal_charge(self, x: Tensor) -> None:
            self.v = self.v + x**2

    x = inputs(5, 3).requires_grad_()
    outputs = checkpoint(Square(step_mode="m"), x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        outputs.sum().backward()


def test_a_compiled_module_is_not_checkpointed() -> None:
    node = load("lif")(step_mode="m")
    graph = torch.compile(node, fullgraph=True, backend="aot_eager")
    x = inputs(5, 3).requires_grad_()
    with torch.no_grad():
        for _ in range(2):  # both graphs exist: none is made within backward
            graph(x)
    outputs = checkpoint(graph, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"node\.functional"):
        outputs.sum().backward()
