"""What a neuron is run on: inputs that make it fire, and a random state.

In: a node, its reference, a `Problem`. Out: tensors. With `dyadic` they lie on a grid, so that
potentials are sums without rounding and meet the threshold exactly; where the equations leave every
grid (a decay of 0.9) the first input is aimed at it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neurogen.runtime.neuron import Neuron
from neurogen.tools.reference import Reference, Run
from neurogen.tools.verify.cases import GRID, Case, Problem
from neurogen.tools.verify.nodes import Chance, make_chance

SCALES = (1.0, 4.0, 16.0, 64.0, 256.0)  # of the inputs, until enough neurons fire
ENOUGH = 0.02
MET = 0.01  # of the neurons; where fewer meet their threshold on the grid, inputs are aimed
FAR = 4096.0  # an input that makes a neuron fire at once, if any does
HALVINGS = 80  # of an interval of float64 numbers, until its ends are neighbours


def make_inputs(
    node: Neuron, reference: Reference, case: Case, problem: Problem
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Random inputs of a size that makes the neuron fire, and a random state near rest."""
    generator = torch.Generator().manual_seed(problem.seed + 1)
    chance = make_chance(node, problem, case.compute)
    size = (problem.steps, *problem.shape)
    noise = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in node.inputs]
    state: dict[str, Tensor] = {}
    if problem.given_state:
        state = _make_state(node, reference, case, problem, chance, generator)
    starts = chance.starts | {name: value.detach() for name, value in state.items()}

    def run(inputs: list[Tensor]) -> Run:
        steps = len(inputs[0])
        drawn = {name: values[:steps] for name, values in chance.noise.items()}
        return reference.run(inputs, starts, dtype=case.compute, noise=drawn)

    tried: list[tuple[float, list[Tensor], Run]] = []
    for scale in SCALES:
        xs = [(0.5 + n) * scale for n in noise]
        if problem.dyadic:
            xs = [torch.round(x * GRID) / GRID for x in xs]
        inputs = [_laid_out(x.to(case.dtype), problem.layout) for x in xs]
        found = run(inputs)
        rate = 1.0 if found.spikes is None else _rate(found.spikes)
        tried.append((rate, inputs, found))
        if not rate < ENOUGH:  # also where nothing is there to fire
            break
    else:
        _, inputs, found = max(tried, key=lambda one: one[0])  # the smallest of those
    if problem.dyadic and found.spikes is not None and found.ties < MET * noise[0][0].numel():
        first = [x[:1].clone() for x in inputs]
        first[0] = _aimed(lambda x: run([x, *first[1:]]).spikes, first[0])
        inputs[0] = _laid_out(torch.cat([first[0], inputs[0][1:]]), problem.layout)
    return [x.requires_grad_() for x in inputs], state


def _rate(spikes: Tensor) -> float:
    return float(spikes.detach().abs().double().mean())


def _make_state(
    node: Neuron, reference: Reference, case: Case, problem: Problem, chance: Chance,
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Each state that can be given, at random around where it rests; counters are not negative."""
    state: dict[str, Tensor] = {}
    for name, flows in zip(node.states, node.differentiable, strict=True):
        if name not in reference.initial:  # hidden: the last spike, what a kernel remembers
            continue
        start = 0.3 * torch.randn(problem.shape, generator=generator, dtype=torch.float64)
        if name not in chance.starts:
            shape, device = torch.Size(problem.shape), torch.device("cpu")
            start += node._initial(name, shape, torch.float64, device, None).detach().cpu()
        if not flows:
            start = start.abs().round()
        elif problem.dyadic:
            start = torch.round(start * GRID) / GRID
        state[name] = start.to(case.compute).requires_grad_(flows)
    return state


def _aimed(spikes_of: Callable[[Tensor], Tensor | None], first: Tensor) -> Tensor:
    """`first` `[1, N, *]`, each number moved to where its neuron just fires, or just does not.

    The interval between an input that fires and one that does not is halved until its ends are
    neighbouring numbers; every other neuron gets the upper end. Where `a >= b` decides the upper
    end meets the threshold if any number does, where `a > b` does the lower one. A neuron that
    fires at both ends, or at none, keeps its input.
    """

    def fires(x: Tensor) -> Tensor:
        spikes = spikes_of(x)
        assert spikes is not None
        return spikes.detach() != 0

    low, high = torch.zeros_like(first), torch.full_like(first, FAR)
    aimable = fires(high) & ~fires(low)
    high = torch.where(aimable, high, low)
    for _ in range(HALVINGS):
        middle = ((low.double() + high.double()) / 2).to(first.dtype)
        if ((middle == low) | (middle == high)).all():
            break
        above = fires(middle)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    other = torch.arange(first.numel()).reshape(first.shape) % 2 == 0
    return torch.where(aimable, torch.where(other, high, low), first)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory order."""
    match layout:
        case "channels_last" if x.dim() >= 3:
            order = [0, 1, *range(3, x.dim()), 2]
            back = sorted(range(x.dim()), key=order.__getitem__)
            return x.permute(order).contiguous().permute(back)
        case "strided":
            wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        case "expanded":
            return x[:1].expand(x.shape)
    return x
