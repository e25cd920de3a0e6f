"""Every check of a spec, one result at a time, within a budget.

In: the text of a spec, backends, a seed, seconds. Out: `Result`s: first every cell of the matrix on
a large problem, then the other checks, then, for as long as the budget
lasts, whatever problems Hypothesis thinks of. A new check is a function and an entry of `CHECKS`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from neurogen.loading import compiled_of, load_text
from neurogen.runtime import backend as backends_
from neurogen.tools.verify import determinism, example, search, smooth, transpose
from neurogen.tools.verify.cases import BACKENDS, DTYPES, Case, Comparison, Finding, Problem
from neurogen.tools.verify.matrix import compare_all
from neurogen.tools.verify.sizes import large

EXAMPLES = 5  # problems of a cell before the next one has its turn


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found in a cell.

    Attributes:
        check: What was asked: 'reference', or a key of `CHECKS`.
        case: Of which cell.
        worst: The finding nearest to its limit; None where the check does not apply.
        note: Why it does not apply.
        problems: Inputs on which it was tried.
        failing: The smallest problem on which the cell fails, where one is known.
    """

    check: str
    case: Case
    worst: Finding | None
    note: str = ""
    problems: int = 1
    failing: Problem | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing wrong was found."""
        return self.worst is None or self.worst.holds


def device_of(backend: str) -> str:
    """Where a backend runs here: on a GPU if it can; the CUDA text also runs on the CPU."""
    on_gpu = backend == "cupy" and not backends_.missing("cupy", "cuda")
    return "cuda" if on_gpu else "cpu"


def cells(text: str, backends: tuple[str, ...] = BACKENDS) -> list[Case]:
    """The matrix of a spec: backend x reset x detach_reset x dtype, and its flags both ways."""
    cls = load_text(text)
    flags = compiled_of(text).model.spec.flags
    default = tuple((f.name, f.default) for f in flags)
    flipped = tuple((f.name, not f.default) for f in flags)
    variants = [default, flipped] if flags else [()]
    resets = ("hard", "soft") if cls.v_reset_may_be_none else ("hard",)
    return [
        Case(backend, reset, detach, dtype, None, chosen, device_of(backend))
        for reset, detach, dtype, chosen, backend in itertools.product(
            resets, (False, True), DTYPES, variants, backends
        )
    ]


def _smooth(text: str, case: Case, seed: int) -> list[Finding] | str:
    return smooth.differs_by_design(text) or smooth.smooth(text, case, seed)


def _example(text: str, case: Case, seed: int) -> list[Finding] | str:
    return example.example(text, case) or "the spec has no `expect`"


#: Name -> findings for one backend in float64, or why the check does not apply.
CHECKS: Mapping[str, Callable[[str, Case, int], list[Finding] | str]] = {
    "finite differences": _smooth,
    "transpose identity": transpose.transpose,
    "threads": determinism.threads,
    "hash seeds": lambda text, case, seed: determinism.hash_seeds(text),
    "expect": _example,
}


def count(text: str, backends: tuple[str, ...] = BACKENDS) -> int:
    """How many results `verify` yields before it searches."""
    return len(cells(text, backends)) + len(CHECKS) * len(backends)


def verify(
    text: str, backends: tuple[str, ...] = BACKENDS, seed: int = 0, budget: float = 60.0
) -> Iterator[Result]:
    """Check a spec; every cell at least once, then search until the budget is spent.

    Args:
        text: YAML of a valid spec.
        backends: Some of `BACKENDS`.
        seed: Of every random number.
        budget: Seconds.
    """
    end = time.monotonic() + budget
    matrix = cells(text, backends)
    healthy, shown = list[Case](), False
    for _, group in itertools.groupby(
        matrix, lambda c: (c.reset, c.detach_reset, c.dtype, c.flags)
    ):
        of_group = list(group)
        first = large(text, of_group[0], seed)
        found = compare_all(text, of_group[0], first, [case.backend for case in of_group])
        for case in of_group:
            worst, failing = found[case.backend].worst, None
            if worst is None or worst.holds:
                healthy.append(case)
            else:  # one example that is small is enough
                small = not shown and search.failing(text, case, seed, 20 * EXAMPLES)
                shown, failing = True, small or first
            yield Result("reference", case, worst, failing=failing)
    for name, check in CHECKS.items():
        for backend in backends:
            case = Case(backend, dtype=torch.float64, device=device_of(backend))
            outcome = check(text, case, seed)
            if isinstance(outcome, str):
                yield Result(name, case, None, outcome)
            else:
                yield Result(name, case, Comparison(outcome).worst)
    for round_ in itertools.count(1) if healthy else ():  # where all fails nothing is to search
        for case in healthy:
            if time.monotonic() >= end:
                return
            failing = search.failing(text, case, seed + round_, EXAMPLES)
            worst = None
            if failing is not None:
                worst = compare_all(text, case, failing, [case.backend])[case.backend].worst
            yield Result("reference", case, worst, problems=EXAMPLES, failing=failing)
