"""What a node does beside one run: single steps, `reset`, runs in parts, gradients in any order.

In: a spec, a case in float64, a seed. Out: findings. The oracle is the same node, run in one go on
contiguous tensors (that it is right there is `matrix`'s question): bits must be the same, sums of
gradients to `LIMIT`. Separate from `matrix` because no reference takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurogen.backends.cpp import launch as cpp
from neurogen.runtime.neuron import Neuron, State
from neurogen.tools.verify.cases import Case, Finding, Problem, distance
from neurogen.tools.verify.inputs import make_inputs
from neurogen.tools.verify.matrix import compare
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    is_arithmetic,
    reference_of,
    running,
)

LIMIT = 1e-10  # of gradients, whose sums are taken in another order
SIZE = Problem(steps=11, shape=(2, 3, 7))
CHANNELS = Problem(steps=9, shape=(2, 3, 5, 7), learnt="channel")
STREAMED = Problem(steps=9, shape=(cpp.LANES + 19,))


@dataclass(slots=True)
class _Outcome:
    """What came of a run, and its gradients by name."""

    values: dict[str, Tensor]
    gradients: dict[str, Tensor]


Run = Callable[[Neuron, list[Tensor], dict[str, Tensor]], dict[str, Tensor]]


def step_modes(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Calls step by step give what one call of all steps gives; the module carries the states."""

    def single(node: Neuron, inputs: list[Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
        node.step_mode, timed = "s", "step" in node.sharing.values()
        _start(node, state)
        steps = zip(*(x.unbind(0) for x in inputs), strict=True)
        outputs = [node(*xs, **({"t": t} if timed else {})) for t, xs in enumerate(steps)]
        return {"output": torch.stack(outputs), **_finals(node)}

    return _same(text, case, seed, _whole, single)


def halves(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Two calls, the second from the states of the first, give what one call gives."""

    def parts(node: Neuron, inputs: list[Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs: list[Tensor] = []
        carried: State = dict(state)
        cut = len(inputs[0]) // 2
        for start, end in ((0, cut), (cut, len(inputs[0]))):
            t = start if "step" in node.sharing.values() else None
            output, carried = node.functional(*(x[start:end] for x in inputs), state=carried, t=t)
            outputs.append(output)
        return {"output": torch.cat(outputs), **{name: carried[name] for name in node.states}}

    return _same(text, case, seed, _whole, parts)


def reset(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """After a run and `reset()` a node gives what a new one gives: nothing is left behind."""

    def fresh(node: Neuron, inputs: list[Tensor], _: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"output": node(*inputs), **_finals(node)}

    def again(node: Neuron, inputs: list[Tensor], _: dict[str, Tensor]) -> dict[str, Tensor]:
        node(*(2 * x for x in inputs))
        node.reset()
        return fresh(node, inputs, _)

    return _same(text, case, seed, fresh, again)


def arriving(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Gradients that arrive expanded (those of a sum) or strided are read as contiguous ones."""
    findings = []
    for name, layout in _ARRIVING.items():
        found = _gradients(text, case, seed, layout)
        expected = _gradients(text, case, seed, layout, contiguous=True)
        findings += [
            Finding(f"gradient of {leaf}, {name} arriving", distance(g, expected[leaf]), LIMIT)
            for leaf, g in found.items()
        ]
    return findings


def channels(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Parameters with a value a channel, against the reference."""
    return compare(text, case, _seeded(CHANNELS, text, seed)).findings


def streamed(text: str, case: Case, seed: int = 0) -> list[Finding] | str:
    """Rows that are written past the caches, against the reference."""
    if case.backend != "cpp":
        return "only C++ kernels write past the caches"
    with _streaming():
        return compare(text, case, _seeded(STREAMED, text, seed)).findings


def _whole(node: Neuron, inputs: list[Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One call of all time steps."""
    _start(node, state)
    return {"output": node(*inputs), **_finals(node)}


def _same(text: str, case: Case, seed: int, one: Run, other: Run) -> list[Finding]:
    """Compare what two ways of running come to on the same numbers."""
    expected, found = (_run(text, case, seed, way) for way in (one, other))
    findings = [
        Finding(name, distance(value, expected.values[name]), 0.0)
        for name, value in found.values.items()
    ]
    for name, gradient in found.gradients.items():
        error = distance(gradient, expected.gradients[name])
        findings.append(Finding(f"gradient of {name}", error, LIMIT))
    return findings


def _run(text: str, case: Case, seed: int, way: Run) -> _Outcome:
    """Values, and gradients of a weighted sum of them."""
    node, inputs, state = _prepared(text, case, _seeded(SIZE, text, seed))
    leaves = _leaves(node, inputs, state)
    with running(case):
        values = way(node, [x.to(case.device) for x in inputs],
                     {name: value.to(case.device) for name, value in state.items()})  # fmt: skip
        flowing = [value for value in values.values() if value.requires_grad]
        gradients = torch.autograd.grad(
            flowing, list(leaves.values()), [_weights(v) for v in flowing], materialize_grads=True
        )
    return _Outcome(values, dict(zip(leaves, gradients, strict=True)))


#: A gradient, in an order that backward passes meet; same shape, other strides.
_ARRIVING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "one number": lambda g: g.flatten()[0].expand(g.shape),
    "one row": lambda g: g[:1].expand(g.shape),
    "every other number": lambda g: torch.stack([g, g], -1)[..., 0],
    "a transposed one": lambda g: g.transpose(-1, -2).contiguous().transpose(-1, -2),
}


def _gradients(
    text: str, case: Case, seed: int, layout: Callable[[Tensor], Tensor], contiguous: bool = False
) -> dict[str, Tensor]:
    """Gradients of everything that comes out, sequences included."""
    node, inputs, state = _prepared(text, case, _seeded(SIZE, text, seed))
    leaves = _leaves(node, inputs, state)
    with running(case):
        moved = {name: value.to(case.device) for name, value in state.items()}
        output, final = node.functional(
            *(x.to(case.device) for x in inputs), state=moved, sequences=node.states
        )
        results = [output, *(value for name, value in final.items() if name != "noise_state")]
        flowing = [value for value in results if value.requires_grad]
        arriving = [layout(_weights(value)) for value in flowing]
        if contiguous:
            arriving = [gradient.contiguous() for gradient in arriving]
        gradients = torch.autograd.grad(
            flowing, list(leaves.values()), arriving, materialize_grads=True
        )
    return dict(zip(leaves, gradients, strict=True))


def _prepared(
    text: str, case: Case, problem: Problem
) -> tuple[Neuron, list[Tensor], dict[str, Tensor]]:
    node = build(text, case, problem)
    reference = reference_of(text, case, constructor_values(node))
    return node, *make_inputs(node, reference, case, problem)


def _leaves(node: Neuron, inputs: list[Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = dict(zip(node.inputs, inputs, strict=True))
    leaves |= {f"initial {name}": value for name, value in state.items() if value.requires_grad}
    return leaves | dict(node.named_parameters())


def _start(node: Neuron, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        setattr(node, name, value)


def _finals(node: Neuron) -> dict[str, Tensor]:
    return {name: getattr(node, name) for name in node.states}


def _weights(value: Tensor) -> Tensor:
    """Numbers that differ from element to element, the same whoever asks."""
    return torch.linspace(-1, 1, value.numel()).reshape(value.shape).to(value)


def _seeded(problem: Problem, text: str, seed: int) -> Problem:
    return replace(problem, seed=seed, dyadic=is_arithmetic(text))


@contextmanager
def _streaming() -> Iterator[None]:
    """Within this context results of any size are written past the caches."""
    before, cpp.STREAM_BYTES = cpp.STREAM_BYTES, 0
    try:
        yield
    finally:
        cpp.STREAM_BYTES = before
