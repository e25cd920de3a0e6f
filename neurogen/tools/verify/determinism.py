"""The same bits for any number of threads and any repetition, the same text for any hash seed.

In: a spec. Out: findings whose error is the largest relative difference, and must be 0.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import torch
from torch import Tensor

from neurogen.loading import compiled_of
from neurogen.runtime.neuron import Neuron
from neurogen.tools.verify.cases import Case, Finding, distance
from neurogen.tools.verify.inputs import make_inputs
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    reference_of,
    running,
)
from neurogen.tools.verify.sizes import THREADS, crowded

COUNTS = (1, 2, THREADS, 1)
HASH_SEEDS = ("0", "1", "2")
_DIGEST = """
import hashlib, sys
from neurogen.compiler.pipeline import compile_text
artefacts = compile_text(sys.stdin.read()).artefacts
print(hashlib.sha256("".join(a.path + a.text for a in artefacts).encode()).hexdigest())
"""


def threads(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """Outputs, states and gradients of the same problem; torch sums depend on its threads."""
    before, problem = torch.get_num_threads(), crowded(text, case, seed)
    counts = COUNTS if case.backend != "torch" else (1, 1)
    node = build(text, case, problem)
    reference = reference_of(text, case, constructor_values(node))
    inputs, state = make_inputs(node, reference, case, problem)
    error = 0.0
    try:
        torch.set_num_threads(counts[0])
        alone = _results(node, case, inputs, state)
        for count in counts[1:]:
            torch.set_num_threads(count)
            again = _results(node, case, inputs, state)
            error = max([error, *(distance(a, b) for a, b in zip(again, alone, strict=True))])
    finally:
        torch.set_num_threads(before)
    return [Finding(f"bits on {max(counts)} threads", error, 0.0)]


def _results(
    node: Neuron, case: Case, inputs: list[Tensor], state: dict[str, Tensor]
) -> list[Tensor]:
    """Everything that comes out of a run, and every gradient."""
    with running(case):
        moved = {name: value.to(case.device) for name, value in state.items()}
        output, final = node.functional(*(x.to(case.device) for x in inputs), state=moved)
        results = [output, *(final[name] for name in node.states)]
        leaves = [*inputs, *(s for s in state.values() if s.requires_grad), *node.parameters()]
        flowing = [value for value in results if value.requires_grad]
        weights = [torch.linspace(-1, 1, v.numel()).reshape(v.shape).to(v) for v in flowing]
        gradients = torch.autograd.grad(flowing, leaves, weights, materialize_grads=True)
    return [*results, *gradients]


def hash_seeds(text: str, case: Case, seed: int = 0) -> list[Finding]:
    """The rendered text in processes with different hash seeds, and in this one."""
    artefacts = compiled_of(text).artefacts
    own = hashlib.sha256("".join(a.path + a.text for a in artefacts).encode()).hexdigest()
    return [Finding("texts of other hash seeds", float(digests(text) != {own}), 0.0)]


@cache
def digests(text: str) -> frozenset[str]:
    """Digests of the text that processes with different hash seeds render."""
    found = set()
    for seed in HASH_SEEDS:
        run = subprocess.run(
            [sys.executable, "-c", _DIGEST], input=text, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        found.add(run.stdout.strip())
    return frozenset(found)
