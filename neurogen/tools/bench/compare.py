"""One neuron, all contenders: who gives the same spikes is timed, who does not is named.

In: a class, names of contenders, a shape. Out: a `Comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neurogen.tools.bench import contenders, measure
from neurogen.tools.bench.contenders import AbsentError, Forward

#: The share of outputs that may differ where functions (exp, tanh, …) round differently.
ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a contender; figures only if it was timed.

    Attributes:
        contender: Its name.
        status: `timed`, or why it was not.
        ns: Median nanoseconds of an element of the input, forward and backward.
        middle: The quartiles.
        peak: Most bytes held during a call, per element of the input.
        first_call: Seconds of the first call, compilation included.
    """

    contender: str
    status: str
    ns: float | None = None
    middle: tuple[float, float] | None = None
    peak: float | None = None
    first_call: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One neuron at one shape.

    Attributes:
        spec: Stem of the spec.
        shape: T and N.
        rate: Mean of the outputs that are not 0.
        copy_bandwidth: Of `y.copy_(x)`, measured among the contenders, GB/s.
        least_bytes: What any implementation has to move per element: inputs and outputs, forward;
            inputs, gradients of outputs and of inputs, backward.
        entries: Ours first.
    """

    spec: str
    shape: tuple[int, int]
    rate: float
    copy_bandwidth: float
    least_bytes: int
    entries: tuple[Entry, ...]


def compare(
    stem: str, cls: type[Any], names: Sequence[str], shape: tuple[int, int], rounds: int,
    device: str = "cpu", exact: bool = True, progress: Callable[[str], object] = lambda what: None,
) -> Comparison:  # fmt: skip
    """Measure a neuron beside contenders.

    Args:
        stem: What the neuron is called.
        cls: Its class.
        names: Of contenders besides ours.
        shape: T and N.
        rounds: How often each is timed.
        device: Where.
        exact: Whether spikes must be equal; else a share of `ROUNDING` may differ.
        progress: Told what is done now.
    """
    progress("ours")
    ours = contenders.make("ours", cls, shape, device)
    inputs, first_call, expected = inputs_for(ours, len(cls.inputs), shape, device)
    g = torch.randn(shape, device=device)
    elements = shape[0] * shape[1]
    firsts, forwards = {"ours": first_call}, {"ours": ours}
    status = {"ours": "timed"}
    for name in names:
        progress(name)
        try:
            forward = contenders.make(name, cls, shape, device)
        except AbsentError as reason:
            status[name] = str(reason)
            continue
        found: list[Tensor] = []
        firsts[name] = measure.seconds(partial(_once, forward, g, inputs, found), device)
        differs = differing(found[0], expected, exact)
        status[name] = (
            f"different: {differs:.2%} of the outputs, so not timed" if differs else "timed"
        )
        if not differs:
            forwards[name] = forward
    runs = {name: measure.training(f, g, *inputs) for name, f in forwards.items()}
    x, y = inputs[0].detach(), torch.empty_like(inputs[0])
    progress("in turn")
    times = measure.take_turns(runs | {"copy": partial(y.copy_, x)}, rounds, device)
    progress("memory")
    for leaf in inputs:
        leaf.grad = None
    peaks = {name: measure.peak_memory(run, device) / elements for name, run in runs.items()}
    scale = 1e9 / elements
    entries = [
        Entry(name, status[name], times[name].median * scale,
              (times[name].low * scale, times[name].high * scale), peaks[name], firsts[name])
        if name in forwards else Entry(name, status[name])
        for name in ("ours", *names)
    ]  # fmt: skip
    size, count = x.element_size(), len(inputs)
    return Comparison(
        stem, shape, float((expected != 0).float().mean()),
        2 * size / (times["copy"].median * scale), (3 * count + 2) * size, tuple(entries),
    )  # fmt: skip


def inputs_for(
    forward: Forward, count: int, shape: tuple[int, int], device: str
) -> tuple[list[Tensor], float, Tensor]:
    """Inputs that make a neuron fire, the seconds of its first training step, and its outputs.

    Inputs are odd multiples of 1/64: sums of halves of them are exact, so that the order in which a
    library adds does not matter, and never hit a threshold, so that > and >= agree.
    """
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(0, 128, shape, generator=generator) for _ in range(count)]
    g = torch.ones(shape, device=device)
    first_call, inputs, found = 0.0, list[Tensor](), list[Tensor]()
    for scale in (1, 4, 16, 64, 256):
        inputs = [((2 * n + 1) / 64.0 * scale).to(device).requires_grad_() for n in draws]
        found.clear()
        taken = measure.seconds(partial(_once, forward, g, inputs, found), device)
        first_call = first_call or taken
        if float((found[0] != 0).float().mean()) > 0.02:
            break
    return inputs, first_call, found[0]


def differing(found: Tensor, expected: Tensor, exact: bool) -> float:
    """The share of outputs that differ; 0 if it is small and rounding may be the reason."""
    if found.shape != expected.shape:
        return 1.0
    if exact:
        return float((found != expected).float().mean())
    near = torch.isclose(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    share = 1 - float(near.float().mean())
    return share if share > ROUNDING else 0.0


def _once(forward: Forward, g: Tensor, inputs: list[Tensor], found: list[Tensor]) -> None:
    """A first training step, its outputs kept."""
    outputs = forward(*inputs)
    torch.autograd.backward(outputs, g)
    found.append(outputs.detach().clone())
