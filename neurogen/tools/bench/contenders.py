"""Who takes part: our neurons, what people write by hand, and other libraries' LIF.

In: a name and the class of a neuron. Out: a function from inputs `[T, N]` to outputs that forgets
between calls. All LIFs are one equation: hard reset, tau = 2, v_threshold = 1, the input decays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor

from neurogen.loading import load
from neurogen.nn import surrogate
from neurogen.runtime.stochastic import StochasticNeuron
from neurogen.tools.verify.nodes import sizes_of

#: A contender: inputs to outputs.
Forward: TypeAlias = Callable[..., Tensor]


class AbsentError(Exception):
    """Why a contender does not take part."""


def make(name: str, cls: type[Any], shape: tuple[int, int], device: str = "cpu") -> Forward:
    """A contender.

    Args:
        name: `ours`, or a key of `CONTENDERS`.
        cls: The class of the neuron.
        shape: Of its inputs: T and N.
        device: Where it will run.

    Raises:
        AbsentError: It cannot take part; the text says why.
    """
    if name == "ours":
        return generated(cls, shape, device)
    return CONTENDERS[name](cls, shape, device)


def generated(
    cls: type[Any], shape: tuple[int, int], device: str = "cpu", backend: str = "auto",
    **keywords: Any,
) -> Forward:  # fmt: skip
    """A generated neuron that forgets between calls.

    Args:
        cls: Its class.
        shape: Of its inputs: T and N.
        device: Where it will run.
        backend: As the constructor takes it.
        **keywords: More for the constructor.
    """
    if cls is load("lif"):
        keywords.setdefault("surrogate_function", surrogate.ATan())
    if issubclass(cls, StochasticNeuron):
        keywords.setdefault("seed", 0)
    sizes = sizes_of(cls, shape[0], (1, shape[1]))
    node = cls(step_mode="m", backend=backend, **sizes, **keywords).to(device)

    def forward(*inputs: Tensor) -> Tensor:
        node.reset()
        outputs: Tensor = node(*(x.unsqueeze(1) for x in inputs) if sizes else inputs)
        return outputs.squeeze(1) if sizes else outputs

    return forward


def eager(cls: type[Any], shape: tuple[int, int], device: str) -> Forward:
    """What people write: for LIF a plain loop, else the same step in plain torch."""
    return loop if cls is load("lif") else generated(cls, shape, device, "torch")


def compiled(cls: type[Any], shape: tuple[int, int], device: str) -> Forward:
    """The same through torch.compile, static shapes."""
    torch.compiler.reset()
    if cls is not load("lif"):
        return torch.compile(generated(cls, shape, device, "torch"), dynamic=False)
    return compiled_loop()


def loop(x: Tensor) -> Tensor:
    """LIF over `x.unbind(0)`, each operation in Python."""
    return _over_time(x, surrogate.ATan())


def compiled_loop() -> Forward:
    """That loop through torch.compile, static shapes."""
    alpha = 2.0  # as surrogate.ATan()

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: Tensor) -> Tensor:
            ctx.save_for_backward(u)
            return (u >= 0).to(u)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            u: Tensor = ctx.saved_tensors[0]
            half = torch.pi / 2 * alpha * u
            return g * (alpha / 2) / (1 + half * half)

    @torch.compile(dynamic=False)
    def forward(x: Tensor) -> Tensor:
        return _over_time(x, Fire.apply)

    return forward


def _over_time(x: Tensor, fire: Callable[[Tensor], Tensor]) -> Tensor:
    v = torch.zeros_like(x[0])
    spikes = []
    for step in x.unbind(0):
        h = v + (step - v) / 2.0
        s = fire(h - 1.0)
        v = (1.0 - s) * h
        spikes.append(s)
    return torch.stack(spikes)


# -- other libraries -------------------------------------------------------------------------------


def spikingjelly(cls: type[Any], shape: tuple[int, int], device: str) -> Forward:
    """SpikingJelly's LIF over all time steps."""
    neuron = _library("spikingjelly.activation_based.neuron", cls)
    slopes = _library("spikingjelly.activation_based.surrogate", cls)
    node = neuron.LIFNode(surrogate_function=slopes.ATan(), step_mode="m").to(device)

    def forward(x: Tensor) -> Tensor:
        node.reset()
        spikes: Tensor = node(x)
        return spikes

    return forward


def snntorch(cls: type[Any], shape: tuple[int, int], device: str) -> Forward:
    """Leaky of snnTorch: v = beta * v + x is twice our potential, and has twice the threshold."""
    library = _library("snntorch", cls)
    slopes = _library("snntorch.surrogate", cls)
    node = library.Leaky(
        beta=0.5, threshold=2.0, spike_grad=slopes.atan(alpha=1.0), reset_mechanism="zero"
    ).to(device)

    def forward(x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        spikes = []
        for step in x.unbind(0):
            s, v = node(step, v)
            spikes.append(s)
        return torch.stack(spikes)

    return forward


def norse(cls: type[Any], shape: tuple[int, int], device: str) -> Forward:
    """Norse's LIF without a synapse, with its own surrogate: it has none like the others'."""
    box = _library("norse.torch.functional.lif_box", cls)
    half = torch.tensor(0.5, device=device)
    settings = box.LIFBoxParameters(tau_mem_inv=half)

    def forward(x: Tensor) -> Tensor:
        state = box.LIFBoxFeedForwardState(v=torch.zeros_like(x[0]))
        spikes = []
        for step in x.unbind(0):
            s, state = box.lif_box_feed_forward_step(step, state, settings, dt=1.0)
            spikes.append(s)
        return torch.stack(spikes)

    return forward


def _library(name: str, cls: type[Any]) -> Any:
    """A module of another library, for a neuron that it has."""
    package = name.partition(".")[0]
    try:
        module = import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == package:
            raise AbsentError(f"not installed: pip install {package}") from None
        raise AbsentError(f"cannot be imported: {error}") from None
    if cls is not load("lif"):
        raise AbsentError("takes part for lif only")
    return module


#: Besides ours.
CONTENDERS: Mapping[str, Callable[[type[Any], tuple[int, int], str], Forward]] = {
    "eager": eager, "compile": compiled, "spikingjelly": spikingjelly, "snntorch": snntorch,
    "norse": norse,
}  # fmt: skip


def unknown(names: Iterable[str]) -> list[str]:
    """Those of some names that no contender has."""
    return [name for name in names if name not in CONTENDERS]


def unavailable(device: str) -> str:
    """Why nothing can be measured on a device, empty if it can."""
    if device == "cpu":
        return ""
    if device.partition(":")[0] != "cuda":
        return f"unknown device '{device}'; use cpu or cuda"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device here; use --device cpu"
