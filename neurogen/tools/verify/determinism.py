"""The same bits for any number of threads and any repetition, the same text for any hash seed.

In: a spec. Out: findings whose error is the largest relative difference, and must be 0.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import torch
from torch import Tensor

from neurogen.loading import compiled_of
from neurogen.tools.verify.cases import Case, Finding, Problem, distance
from neurogen.tools.verify.nodes import (
    build,
    constructor_values,
    make_inputs,
    reference_of,
    running,
)

THREADS = (1, 2, 3, 1)
HASH_SEEDS = ("0", "1", "2")
SIZE = Problem(steps=8, shape=(3, 4111), learnt="scalar")  # work for three threads
_DIGEST = """
import hashlib, sys
from neurogen.compiler.pipeline import compile_text
artefacts = compile_text(sys.stdin.read()).artefacts
print(hashlib.sha256("".join(a.path + a.text for a in artefacts).encode()).hexdigest())
"""


def threads(text: str, case: Case) -> list[Finding]:
    """Outputs, states and gradients of the same problem; torch sums depend on its threads."""
    before = torch.get_num_threads()
    counts = THREADS if case.backend != "torch" else (1, 1)
    try:
        torch.set_num_threads(counts[0])
        alone = _results(text, case)
        error = 0.0
        for count in counts[1:]:
            torch.set_num_threads(count)
            again = _results(text, case)
            error = max([error, *(distance(a, b) for a, b in zip(again, alone, strict=True))])
    finally:
        torch.set_num_threads(before)
    return [Finding(f"bits on {max(counts)} threads", error, 0.0)]


def _results(text: str, case: Case) -> list[Tensor]:
    node = build(text, case, SIZE)
    reference = reference_of(text, case, constructor_values(node))
    inputs, state = make_inputs(node, reference, case, SIZE)
    with running(case):
        moved = {name: value.to(case.device) for name, value in state.items()}
        output, final = node.functional(*(x.to(case.device) for x in inputs), state=moved)
        results = [output, *(final[name] for name in node.states)]
        leaves = [*inputs, *(s for s in state.values() if s.requires_grad), *node.parameters()]
        flowing = [value for value in results if value.requires_grad]
        weights = [torch.linspace(-1, 1, v.numel()).reshape(v.shape).to(v) for v in flowing]
        gradients = torch.autograd.grad(flowing, leaves, weights, materialize_grads=True)
    return [*results, *gradients]


def hash_seeds(text: str) -> list[Finding]:
    """The rendered text in processes with different hash seeds, and in this one."""
    artefacts = compiled_of(text).artefacts
    own = hashlib.sha256("".join(a.path + a.text for a in artefacts).encode()).hexdigest()
    others = set()
    for seed in HASH_SEEDS:
        run = subprocess.run(
            [sys.executable, "-c", _DIGEST], input=text, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        others.add(run.stdout.strip())
    return [Finding("texts of other hash seeds", float(others != {own}), 0.0)]
