"""Smooth-forward check: with spikes replaced by the primitive the backward pass is exact.

Then finite differences reach through spikes and resets, which they cannot in a spiking network, and
judge the gradients of inputs, initial states and every parameter, for every spec and surrogate.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurogen.backends import toolchain
from neurogen.compiler.surrogates import TABLE
from neurogen.loading import load
from neurogen.nn import surrogate
from neurogen.tools.verify import smooth
from neurogen.tools.verify.nodes import sizes_of

#: Spikes in levels are rounded straight through: their gradient is no derivative, by definition.
SPECS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "specs").glob("*.yaml")
    if "kind: multilevel" not in path.read_text(encoding="utf-8")
)
STEPS, NEURONS = 5, 2

MODULES = [getattr(surrogate, entry.class_name) for entry in TABLE.values()]


def every_kernel() -> str:
    """The kernel texts of all surrogates behind one switch, so that one compiled kernel has all."""
    text = "".join(f"namespace s{k} {{{cls.kernel}}}\n" for k, cls in enumerate(MODULES))
    for name in ("primitive", "slope"):
        cases = "".join(f"case {k}: return s{k}::{name}(u, p);\n" for k in range(len(MODULES)))
        text += (
            f"template <typename real> static real {name}(const real u, const real* const p) {{\n"
            f"switch (int(p[3])) {{\n{cases}}}\nreturn u;\n}}\n"
        )
    return text


class Any_(surrogate.Surrogate):
    """Any surrogate of the table, by number."""

    shape = ("a", "b", "c", "which")
    kernel = every_kernel()

    def choose(self, which: int) -> None:
        """Become one of them, with its default parameters."""
        given = (*MODULES[which]().arguments, 0.0, 0.0, 0.0)
        self.a, self.b, self.c, self.which = *given[:3], float(which)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without optimisation: no result depends on it."""
    compile_ = toolchain.shared_library

    def shared_library(text: str, chosen: str, flags: tuple[str, ...]) -> Path:
        return compile_(text, chosen, tuple("-O0" if f == "-O3" else f for f in flags))

    monkeypatch.setattr(toolchain, "shared_library", shared_library)


def variants(stem: str, long: bool) -> list[dict[str, Any]]:
    """Keywords: both resets, the first with every flag as it is, the last with all flipped."""
    cls = load(stem)
    resets = [{}, {"v_reset": None}] if cls.v_reset_may_be_none else [{}]
    plain = cls(**sizes_of(cls, STEPS, (NEURONS,)))
    flags = [flag for flag in cls.flags if flag != "hard_reset"]
    default = {flag: getattr(plain, flag) for flag in flags}
    flipped = {flag: not value for flag, value in default.items()}
    if long:
        choices = itertools.product((True, False), repeat=len(flags))
        chosen = [dict(zip(flags, choice, strict=True)) for choice in choices]
        return [reset | choice for reset in resets for choice in chosen]
    if len(resets) == 1:
        return [default, flipped] if flags else [{}]
    return [resets[0] | default, resets[1] | flipped]


def learnt(stem: str, keywords: dict[str, Any], **more: Any) -> Any:
    """A node in float64 whose every parameter is learnt."""
    cls = load(stem)
    node = cls(step_mode="m", **keywords, **more, **sizes_of(cls, STEPS, (NEURONS,)))
    used = {name for constant in node.constants for name in constant.uses}
    for name in node.parameter_names:
        value = getattr(node, name)
        if isinstance(value, float) and name in used:
            setattr(node, name, nn.Parameter(torch.tensor([value])))
    return node.double()


def problem(stem: str, keywords: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Inputs of a size that makes the neuron fire, and a state off rest."""
    generator = torch.Generator().manual_seed(5)
    cls = load(stem)
    more = sizes_of(cls, STEPS, (NEURONS,))
    node = cls(step_mode="m", backend="torch", **keywords, **more)
    shape = (STEPS, NEURONS)
    noise = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in node.inputs]
    for scale in (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0):
        xs = [scale * (0.2 + x) for x in noise]
        node.reset()
        if node(*xs).mean() > 0.15:
            break
    node.reset()
    state = {
        name: getattr(node, name)
        + 0.1 * torch.rand(NEURONS, generator=generator, dtype=torch.float64)
        for name in node.states
    }
    return xs, state


@pytest.mark.parametrize("stem", SPECS)
def test_gradients_are_those_of_finite_differences(
    stem: str, request: pytest.FixtureRequest
) -> None:
    wrong, felt = [], set()
    for keywords in variants(stem, request.config.getoption("--long")):
        chosen = Any_(spiking=False, a=0.0, b=0.0, c=0.0, which=0.0)
        node = learnt(stem, keywords, backend="cpp", surrogate_function=chosen)
        xs, state = problem(stem, keywords)
        for which, cls in enumerate(MODULES):
            chosen.choose(which)
            found = smooth.differences(node, xs, state)
            wrong += [f"{keywords} {cls.__name__} {f}" for f in found if not f.holds]
            loss, _ = smooth.weighted(node, xs, state)
            gradients = torch.autograd.grad(loss, xs, materialize_grads=True)
            felt |= {n for n, g in zip(node.inputs, gradients, strict=True) if g.any()}
    assert not wrong, "\n".join(wrong)
    assert set(node.inputs) <= felt, "a check that sees zeros only proves nothing"
