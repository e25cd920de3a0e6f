"""Specs that nobody wrote: each must build without a warning and agree with the reference.

(Repetition makes a few too large for the compiler, which has to say so.)

CI tries a few hundred, forward and backward on every backend; `--budget SECONDS` goes on for so
long in all. A spec that once went wrong stays in `FOUND`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import pytest
import torch
from hypothesis import Phase, given, seed, settings
from random_specs import Drawn, drawn_specs
from together import compiled_together

from neurogen.errors import SpecError
from neurogen.loading import compiled_of
from neurogen.tools.verify import BACKENDS, Case, Problem, compare_all
from neurogen.tools.verify.nodes import is_arithmetic

PHASES = (Phase.generate, Phase.shrink)
PARTS, EACH = 24, 14  # over 300 that differ (each part begins with the smallest), side by side
FOUND = {
    "a state is called like an adjoint": Drawn(
        "name: A\nstates: {v: 0.0, d_u: 0.0, d_spike: 0.0}\ncharge:\n  v: 0.5 * v + x\n"
        "  d_u: 0.5 * d_u + v\n  d_spike: 0.5 * d_spike + d_u\nfire: v >= 1 + 0.1 * d_spike\n"
    ),
    "an input of which the adjoint needs no value": Drawn(
        "name: A\ninputs: [x, y]\ncharge: v + x * x + y\n"
    ),
    "a flag is called like a module": Drawn(
        "name: A\nflags: {fn: true, torch: false, surrogate: true}\n"
        "charge: v + clip(x, -1, 1) if fn or torch and not surrogate else v - x\n",
        flags=(("fn", False), ("torch", True)),
    ),
    "no reset, and a rest at 0": Drawn(
        "name: A\nstates: {v: v_rest}\ncharge: 0.5 * v + x\nreset: none\n", reset="soft"
    ),
    "bounds that cross": Drawn(
        "name: A\ninputs: [x, y, z]\ncharge: 0.5 * v + clip(x, y, 0.1 * z)\nfire: none\noutput: v\n"
    ),
    "a flag is called like a surrogate's argument": Drawn(
        "name: A\nflags: {u: true, k: false}\ncharge: v + x if u and not k else v - x\n"
        "surrogate: {primitive: 1 / (1 + exp(-k * u)), parameters: {k: 3.0}}\n"
    ),
    "an output that is always 0": Drawn("name: A\ncharge: 0.5 * v + x\noutput: v - v\n"),
    "a surrogate whose slope overflows": Drawn(
        "name: A\ncharge: 0.5 * v + 1e6 * x\nreset: none\n"
        "surrogate: {primitive: 1 / (1 + exp(-k * u)), parameters: {k: 3.0}}\n"
    ),
    "a guard that is off before a slope that overflows": Drawn(
        "name: A\nparameters: {p: 1.0}\ncharge: 0.5 * v + 1e6 * x\nreset: none\n"
        "fire: {when: v >= v_threshold, if: p < 0.8}\n"
        "surrogate: {primitive: 1 / (1 + exp(-k * u)), parameters: {k: 3.0}}\n"
    ),
    "conditions that decide nothing": Drawn(
        "name: A\ninputs: [x, y]\nnoise: {xi: normal}\n"
        "charge: 0.5 * v + (v if y < 0.25 else v) + (x if xi > 0 else x)\n"
    ),
    "a state is the detached spike": Drawn(
        "name: A\nstates: {v: 0.0, q: 0.0}\ncharge: 0.5 * v + x\nreset: {q: spike}\noutput: q\n",
        detach_reset=True,
    ),
    "a state is a detached input": Drawn(
        "name: A\nstates: {v: 0.0, q: 0.0}\ncharge: {v: 0.5 * v + x + q, q: detach(x)}\n"
    ),
    "the output is a detached state": Drawn("name: A\ncharge: 0.5 * v + x\noutput: detach(v)\n"),
    "a counter is the spike": Drawn(
        "name: A\nstates: {v: 0.0, q: {init: 0, integer: true}}\ncharge: 0.5 * v + x\n"
        "reset: {q: spike}\noutput: v + q\n"
    ),
    "a state and the output are one number": Drawn(
        "name: A\nstates: {v: 0.0, q: 0.0}\nparameters: {p: 0.7}\n"
        "charge: {v: 0.5 * v + x + q, q: detach(p)}\nfire: none\noutput: q\n"
    ),
    "a guard differs between neurons, the distance does not": Drawn(
        "name: A\nstates: {v: v_rest, w: 0.0}\nlearnable: {h: 0.4}\n"
        "charge: {v: h, w: '0.9 * w + clip(v, -3, 3) + x'}\n"
        "fire: {when: v >= v_threshold, if: w < 0.25}\n"
    ),
    "a value at the start of the step does not flow": Drawn(
        "name: A\nstates: {v: 0.0, w: 0.0}\nparameters: {tau: 3.0}\nlet: {g: 0.5 * prev(w)}\n"
        "dynamics: {w: (v - w) / tau, v: (x - v + g + 0.5 * prev(v)) / tau}\nscheme: exact\n"
    ),
    "a rate holds the start of the step": Drawn(
        "name: A\nstates: {v: 0.0}\nlet: {g: 1 + prev(v)**2 / 4}\n"
        "dynamics: {v: x - g * v}\nscheme: exponential_euler\ncharge: v + 0.1 * prev(v)\n"
    ),
    "a learnable v_reset": Drawn("name: A\nlearnable: {v_reset: 0.1}\ncharge: 0.5 * v + x\n"),
    "a learnable v_reset that is rest only": Drawn(
        "name: A\nlearnable: {v_reset: 0.1}\ncharge: 0.5 * v + x + v_rest\nfire: none\noutput: v\n"
    ),
    "a learnable v_reset, and rest": Drawn(
        "name: A\nlearnable: {v_reset: 0.1}\ncharge: v + x - (v - v_rest) / 2\n", reset="soft"
    ),
    "the backward pass reads nothing": Drawn(
        "name: A\nstates: {v: 0.0, q: {init: 0, integer: true}}\ncharge:\n"
        "  v: 0.9 * v + x\n  q: max(q - 1, 0)\nfire: {when: v >= v_threshold, if: q <= 0}\n"
        "reset: {v: detach(spike), q: q + 2 * spike}\noutput: v\n"
    ),
    "roundings that grow": Drawn(
        "name: A\nstates: {v: 0.0, w: 0.0}\ndynamics:\n"
        "  v: '0.5 * (x - v) - abs(clip(w, -3, 3)) * v / 2 + clip(w + w, -3, 3)'\n"
        "  w: '0.5 * (x - w) - abs(clip(sin(v), -3, 3)) * w / 2 + clip(-v, -3, 3)'\n"
        "scheme: exponential_euler\ncharge: 0.9 * v + clip(sin(v + w), -3, 3)\n"
        "fire: {when: v >= v_threshold, if: v < 0.25}\nreset: soft\noutput: v\n"
    ),
    "gradients that cancel": Drawn(
        "name: A\ncharge: v + x\nfire: {when: v >= v_threshold, kind: multilevel, levels: 3}\n"
        "reset: soft\n"
    ),
}


def hold(drawn: Drawn, dtype: torch.dtype = torch.float64) -> float:
    """Build a spec, run it on all backends, compare; how often it fired."""
    case = Case("torch", drawn.reset, drawn.detach_reset, dtype, None, drawn.flags)
    # Where a rounding may differ no threshold is hit exactly.
    problem = Problem(steps=10, shape=(3,), dyadic=is_arithmetic(drawn.text))
    with compiled_together(drawn.text, case, problem):
        found = compare_all(drawn.text, case, problem, BACKENDS)
    for backend, comparison in found.items():
        wrong = [finding for finding in comparison.findings if not finding.holds]
        assert not wrong, f"{backend}: {'; '.join(map(str, wrong))}\n{drawn}"
    return found["torch"].rate


def is_too_large(text: str) -> bool:
    """Whether a spec is refused for its size: of nothing else can it be."""
    try:
        compiled_of(text)
    except SpecError as error:
        if {mistake.code for mistake in error.mistakes} == {"NG008"}:
            return True
        raise
    return False


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("drawn", FOUND.values(), ids=FOUND.keys())
def test_what_was_found_once(drawn: Drawn, dtype: torch.dtype) -> None:
    hold(drawn, dtype)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_specs(
    part: int, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    budget = (request.config.getoption("--budget") or 0.0) / PARTS
    end, held, large, rates = time.monotonic() + budget, set[str](), set[str](), list[float]()
    for round_ in count():

        @seed(part + PARTS * round_)
        @settings(max_examples=EACH, derandomize=False, database=None, phases=PHASES)
        @given(drawn_specs())
        def agrees(drawn: Drawn) -> None:
            if drawn.text in held or not (budget or len(held) < EACH):
                return
            if is_too_large(drawn.text):
                large.add(drawn.text)
            else:
                rates.append(hold(drawn))
                held.add(drawn.text)

        agrees()
        if len(held) >= EACH and time.monotonic() >= end:
            break
    record_property("random specs", sorted(held))
    assert len(large) <= 1 + len(held) // 100
    assert sum(abs(rate) > 0 for rate in rates) > 0.6 * len(rates), "silent ones prove nothing"
