"""What is compiled, what it is run on, and what came out of a comparison: plain data.

Separate from `matrix` because every check speaks of cases, problems and findings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ("torch", "cpp", "cupy")
GRID = 8  # values of a dyadic problem are multiples of 1/8
LEARNT = ("none", "scalar", "channel", "neuron")
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
        learnt: Parameters that are `nn.Parameter`s, one of `LEARNT`: none, or all with one value,
            one a channel (dimension 1 of `[N, C, *]`), one a neuron.
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
    """One compared quantity: `error` must not exceed `limit`.

    Attributes:
        lost: Share of the compared values that are NaN or infinite on both sides; they count as
            equal, and prove little.
    """

    quantity: str
    error: float
    limit: float
    lost: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the quantity is within its limit; NaN is not."""
        return self.error <= self.limit

    @property
    def share(self) -> float:
        """How much of the limit the error takes up; infinite where there is no limit to take."""
        if self.error != self.error:
            return math.inf
        return self.error / self.limit if self.limit else math.inf if self.error else 0.0

    def __str__(self) -> str:
        return f"{self.quantity}: {self.error:.3g} > {self.limit:.3g}"


@dataclass(slots=True)
class Comparison:
    """The findings of a case, and how often the neuron fired.

    Attributes:
        rate: Share of steps at which a neuron fired; of outputs that are not 0 where `fires` is
            False.
        fires: Whether this is a neuron that can fire.
    """

    findings: list[Finding] = field(default_factory=list)
    rate: float = 0.0
    fires: bool = False

    def require(self) -> None:
        """Raise AssertionError with every finding that does not hold."""
        wrong = [finding for finding in self.findings if not finding.holds]
        if wrong:
            raise AssertionError("; ".join(map(str, wrong)))

    @property
    def worst(self) -> Finding | None:
        """The finding nearest to its limit, or furthest beyond it, whatever its size."""
        return max(self.findings, key=lambda f: (not f.holds, f.share, f.error), default=None)


def lost(tested: Tensor, expected: Tensor) -> float:
    """Share of values that are NaN or infinite on both sides."""
    both = ~(tested.detach().isfinite().cpu() | expected.detach().isfinite().cpu())
    return float(both.double().mean()) if both.numel() else 0.0


def distance(tested: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """max|tested - expected| / scale; 0 for equal (NaN equals NaN), inf if it cannot be.

    Without a scale it is max|expected|.
    """
    if tested.shape != expected.shape:
        return math.inf
    a, b = tested.detach().double().cpu(), expected.detach().double().cpu()
    differ = ~((a == b) | (a.isnan() & b.isnan()))
    if not differ.any():
        return 0.0
    difference = float((a - b)[differ].abs().max())
    if not math.isfinite(difference):
        return math.inf
    if scale is None:
        sizes = b[b.isfinite()].abs()
        scale = float(sizes.max()) if sizes.numel() else 0.0
    return difference / scale if scale > 0 else math.inf if difference > 1e-30 else 0.0
