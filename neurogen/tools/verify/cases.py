"""What is compiled, what it is run on, and what came out of a comparison: plain data.

Separate from `matrix` because every check speaks of cases, problems and findings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ("torch", "cpp", "cupy")
GRID = 8  # values of a dyadic problem are multiples of 1/8
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix: what is compiled.

    Attributes:
        backend: One of `BACKENDS`.
        reset: 'hard' or 'soft' where the neuron offers both, else ignored.
        surrogate: Name in the table of surrogates; None for the spec's own.
        flags: Values of the spec's flags, those not named at their default.
        device: Where it runs; the CUDA text runs on the CPU, too.
    """

    backend: str
    reset: str = "hard"
    detach_reset: bool = False
    dtype: torch.dtype = torch.float32
    surrogate: str | None = None
    flags: tuple[tuple[str, bool], ...] = ()
    device: str = "cpu"

    @property
    def compute(self) -> torch.dtype:
        """The dtype of states and arithmetic: at least float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class Problem:
    """What it is run on: shapes, layout, values.

    Attributes:
        steps: T.
        shape: One time step.
        layout: Memory order of the inputs, one of `LAYOUTS`.
        seed: Of every random number.
        given_state: Whether the run starts from a random state that takes a gradient.
        dyadic: Whether inputs, states and parameters lie on a grid, so that thresholds are met
            exactly; for steps without transcendental functions, whose last bits differ.
        learnt: Parameters that are `nn.Parameter`s: 'none', 'scalar' or 'neuron' (one each).
    """

    steps: int = 7
    shape: tuple[int, ...] = (3, 5)
    layout: str = "contiguous"
    seed: int = 0
    given_state: bool = True
    dyadic: bool = False
    learnt: str = "scalar"


@dataclass(frozen=True, slots=True)
class Finding:
    """One compared quantity: `error` must not exceed `limit`."""

    quantity: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the quantity is within its limit; NaN is not."""
        return self.error <= self.limit

    def __str__(self) -> str:
        return f"{self.quantity}: {self.error:.3g} > {self.limit:.3g}"


@dataclass(slots=True)
class Comparison:
    """The findings of a case, and how often the neuron fired."""

    findings: list[Finding] = field(default_factory=list)
    rate: float = 0.0

    def require(self) -> None:
        """Raise AssertionError with every finding that does not hold."""
        wrong = [finding for finding in self.findings if not finding.holds]
        if wrong:
            raise AssertionError("; ".join(map(str, wrong)))

    @property
    def worst(self) -> Finding | None:
        """The finding nearest to its limit, or furthest beyond it."""
        return max(self.findings, key=_severity, default=None)


def _severity(finding: Finding) -> tuple[bool, float]:
    """Broken limits first, then the largest error."""
    error = finding.error if finding.error == finding.error else float("inf")
    return not finding.holds, error


def distance(tested: Tensor, expected: Tensor) -> float:
    """max|tested - expected| / max|expected|; 0 for equal (NaN equals NaN), inf if it cannot be."""
    if tested.shape != expected.shape:
        return float("inf")
    a, b = tested.detach().double().cpu(), expected.detach().double().cpu()
    differ = ~((a == b) | (a.isnan() & b.isnan()))
    if not differ.any():
        return 0.0
    difference = (a - b)[differ].abs().max()
    if not difference.isfinite():
        return float("inf")
    sizes = b[b.isfinite()].abs()
    scale = sizes.max() if sizes.numel() else torch.zeros(())
    return float(difference / scale) if scale > 0 else float("inf") if difference > 1e-30 else 0.0
