"""The spec's own `expect`: an input, and the steps that fire or the values of states.

In: a spec and a case. Out: findings. Parameters and flags have their defaults.
"""

from __future__ import annotations

import torch

from neurogen.compiler.expression import Name
from neurogen.compiler.spec import Expect
from neurogen.loading import compiled_of, load_text
from neurogen.tools.verify.cases import Case, Finding
from neurogen.tools.verify.nodes import running

LIMIT = 1e-4  # people write four digits


def expected_of(text: str) -> Expect | None:
    """What a spec expects, if it says so."""
    return compiled_of(text).model.spec.expect


def example(text: str, case: Case, seed: int = 0) -> list[Finding] | str:
    """Run the example on a backend; or why there is none.

    Findings count the steps that differ, and give the largest error of a state relative to its
    largest value (or 1).
    """
    expect = expected_of(text)
    if expect is None:
        return "the spec has no `expect`"
    given = {name: torch.tensor(v, dtype=case.dtype).unsqueeze(1) for name, v in expect.input}
    with running(case):
        node = load_text(text)(step_mode="m", backend=case.backend)
        inputs = [given.get(name, given.get("")) for name in node.inputs]
        outputs, final = node.functional(
            *(x.to(case.device) for x in inputs if x is not None),
            sequences=tuple(name for name, _ in expect.states),
        )
    findings = []
    if expect.spikes is not None:
        fired = {int(t) for t in outputs[:, 0].detach().cpu().nonzero()}
        wrong = fired ^ {int(t) for t in expect.spikes}
        label = f"expected spikes (it fires at {', '.join(map(str, sorted(fired))) or 'no step'})"
        output = compiled_of(text).model.spec.output
        if output is not None and output.expression != Name("spike"):
            label = "expected spikes (the output of this neuron is no spike: expect states)"
            wrong = {0}
        findings.append(Finding(label, float(len(wrong)), 0.0))
    for name, values in expect.states:
        wanted = torch.tensor(values, dtype=torch.float64)
        found = final[f"{name}_seq"][:, 0].detach().cpu().double()
        shown = ", ".join(f"{value:.5g}" for value in found.tolist())
        scale = max(1.0, float(wanted.abs().max()))
        error = float((found - wanted).abs().max()) / scale if len(wanted) == len(found) else 1.0
        findings.append(Finding(f"expected {name} (it is {shown})", error, LIMIT))
    return findings
