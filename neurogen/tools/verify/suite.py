"""Every check of a spec, one result at a time, within a budget.

In: the text of a spec, backends, a seed, seconds. Out: `Result`s: first every cell of the matrix on
a large problem, then the other checks, then, for as long as the budget lasts, whatever problems
Hypothesis thinks of. A new check is a function and an entry of `CHECKS`. What raises has failed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from neurogen.errors import SpecError
from neurogen.loading import compiled_of
from neurogen.runtime import backend as backends_
from neurogen.tools.verify import determinism, example, module, search, smooth, transpose
from neurogen.tools.verify.cases import BACKENDS, DTYPES, Case, Comparison, Finding, Problem
from neurogen.tools.verify.matrix import Expectation, compare, expectation, hold, on_torch
from neurogen.tools.verify.sizes import large

EXAMPLES = 5  # problems of a cell before the next one has its turn
REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found in a cell.

    Attributes:
        check: What was asked: `REFERENCE`, or a key of `CHECKS`.
        case: Of which cell.
        comparison: What was compared; None where the check does not apply, or raised.
        note: Why it does not apply.
        raised: The exception that ended it.
        problems: Inputs on which it was tried.
        failing: The smallest problem on which the cell fails, where one is known.
    """

    check: str
    case: Case
    comparison: Comparison | None = None
    note: str = ""
    raised: str = ""
    problems: int = 1
    failing: Problem | None = None

    @property
    def worst(self) -> Finding | None:
        """The finding nearest to its limit."""
        return None if self.comparison is None else self.comparison.worst

    @property
    def holds(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.raised and (self.worst is None or self.worst.holds)


def device_of(backend: str) -> str:
    """Where a backend runs here: on a GPU if it can; the CUDA text also runs on the CPU."""
    on_gpu = backend == "cupy" and not backends_.missing("cupy", "cuda")
    return "cuda" if on_gpu else "cpu"


def cells(text: str, backends: tuple[str, ...] = BACKENDS) -> list[Case]:
    """The matrix of a spec: backend x reset x detach_reset x dtype x flags.

    Flags are at their defaults, each flipped alone, and all flipped.
    """
    model = compiled_of(text).model
    default = {flag.name: flag.default for flag in model.spec.flags}
    alone = [default | {name: not value} for name, value in default.items()]
    flipped = {name: not value for name, value in default.items()}
    variants = dict.fromkeys(tuple(v.items()) for v in (default, *alone, flipped))
    resets = ("hard", "soft") if model.v_reset_may_be_none else ("hard",)
    return [
        Case(backend, reset, detach, dtype, None, chosen, device_of(backend))
        for reset, detach, dtype, chosen, backend in itertools.product(
            resets, (False, True), DTYPES, variants, backends
        )
    ]


Check = Callable[[str, Case, int], list[Finding] | str]

#: Name -> findings for one backend in float64, or why the check does not apply.
CHECKS: Mapping[str, Check] = {
    "finite differences": smooth.smooth,
    "transpose identity": transpose.transpose,
    "step modes": module.step_modes,
    "reset": module.reset,
    "two halves": module.halves,
    "arriving gradients": module.arriving,
    "values per channel": module.channels,
    "past the caches": module.streamed,
    "threads": determinism.threads,
    "hash seeds": determinism.hash_seeds,
    "expect": example.example,
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

    Raises:
        SpecError: The spec is wrong. Any other exception is a `Result` that does not hold.
    """
    end = time.monotonic() + budget
    healthy, shown = list[Case](), False
    for result in _matrix(text, backends, seed):
        if result.holds:
            healthy.append(result.case)
        elif not shown:  # one example that is small is enough
            shown = True
            small = search.failing(text, result.case, seed, 20 * EXAMPLES)
            yield result if small is None else _compared(text, result.case, small)
            continue
        yield result
    for name, backend in itertools.product(CHECKS, backends):
        case = Case(backend, dtype=torch.float64, device=device_of(backend))
        yield _attempt(name, case, partial(check, name, text, seed=seed))
    for round_ in itertools.count(1) if healthy else ():  # where all fails nothing is to search
        for case in healthy:
            if time.monotonic() >= end:
                return
            failing = search.failing(text, case, seed + round_, EXAMPLES)
            if failing is None:
                yield Result(REFERENCE, case, problems=EXAMPLES)
                continue
            yield replace(_compared(text, case, failing), problems=EXAMPLES)


def _matrix(text: str, backends: tuple[str, ...], seed: int) -> Iterator[Result]:
    """Every cell on a large problem; what it should come to is found out once for all backends."""
    for _, group in itertools.groupby(
        cells(text, backends), lambda c: (c.reset, c.detach_reset, c.dtype, c.flags)
    ):
        wanted: list[Expectation] = []

        def compared(case: Case, wanted: list[Expectation] = wanted) -> Comparison:
            if not wanted:
                wanted.append(expectation(text, on_torch(case), large(text, case, seed)))
            return hold(wanted[0], case)

        for case in group:
            result = _attempt(REFERENCE, case, compared)
            failing = wanted[0].problem if wanted and not result.holds else None
            yield replace(result, failing=failing)


def _compared(text: str, case: Case, problem: Problem) -> Result:
    """The result of a cell on a problem on which it fails."""
    result = _attempt(REFERENCE, case, partial(compare, text, problem=problem))
    return replace(result, failing=problem)


def check(name: str, text: str, case: Case, seed: int = 0) -> Comparison | str:
    """Run one of `CHECKS`: what it found, or why it does not apply."""
    found = CHECKS[name](text, case, seed)
    return found if isinstance(found, str) else Comparison(found)


def _attempt(name: str, case: Case, work: Callable[[Case], Comparison | str]) -> Result:
    """The result of a check; of one that raises, too."""
    try:
        outcome = work(case)
    except SpecError:
        raise
    except Exception as error:
        return Result(name, case, raised=f"{type(error).__name__}: {error}")
    if isinstance(outcome, str):
        return Result(name, case, note=outcome)
    return Result(name, case, outcome)
