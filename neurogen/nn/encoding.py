"""From numbers to spikes: encoders that turn intensities into sequences of 0 and 1.

In mode 's' an encoder is called T times with the same intensities `[N, *]`; in mode 'm' once, for
all T steps. Spikes carry no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neurogen.runtime.memory import MemoryModule, StepModule


class PoissonEncoder(StepModule, nn.Module):
    """Rate code: at each time step an intensity x becomes a spike with probability x.

    Spikes are independent over time steps and elements, and carry no gradient. The module has no
    state; only `generator`, or torch's default generator of the input's device, advances.

    Args:
        step_mode: 's' makes one time step a call, 'm' a sequence.
        T: Time steps that mode 'm' makes of one image; None where its input is a sequence already.
        generator: Source of randomness, on the input's device; None for torch's default.

    Shapes:
        | step_mode | T | input | output |
        |---|---|---|---|
        | 's' | not used | `[N, *]` | `[N, *]` |
        | 'm' | given | `[N, *]` | `[T, N, *]` |
        | 'm' | None | `[T, N, *]` | `[T, N, *]` |

    Raises:
        ValueError: `step_mode` is unknown, T is no positive number, or an input has a value
            outside [0, 1] or NaN (to tell, the input's range is read back from its device).
        TypeError: An input is no floating-point tensor.
    """

    def __init__(
        self,
        step_mode: str = "s",
        T: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if T is not None and T < 1:
            raise ValueError(f"T is a positive number of time steps, not {T}")
        self.T = T
        self.generator = generator
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1, in x's dtype and on its device) of intensities in [0, 1]."""
        _check_intensities(self, x, 1.0, "e.g. x / 255")
        repeats = (self.T,) if self.step_mode == "m" and self.T is not None else ()
        # A half-precision draw has too few values: it would round small probabilities.
        dtype = torch.promote_types(x.dtype, torch.float32)
        draw = torch.rand(
            (*repeats, *x.shape), dtype=dtype, device=x.device, generator=self.generator
        )
        return draw.lt_(x.detach()).to(x.dtype)

    def extra_repr(self) -> str:
        """The step mode and T."""
        return f"step_mode={self.step_mode}, T={self.T}"


class _PhaseEncoder(MemoryModule):
    """An encoder whose spikes depend on the time step t = 0 … T-1, and which begins anew at t = T.

    It remembers t and the last input; `reset()` takes t back to 0. In mode 's' an input may be
    left out: then the last one is encoded.
    """

    T: int
    t: int
    x: Tensor | None

    def __init__(self, T: int, step_mode: str) -> None:
        super().__init__(step_mode)
        if isinstance(T, bool) or not isinstance(T, int) or T < 1:
            raise ValueError(f"{type(self).__name__}: T is a positive number of steps, not {T!r}")
        self.T = T
        self.register_memory("t", 0)
        self.register_memory("x", None)

    def encode(self, x: Tensor, t: Tensor) -> Tensor:
        """Spikes of x, at least float32, at the time steps t, `[T, 1, …]`, counted from 0."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def check(self, x: Tensor) -> None:
        """Refuse what cannot be encoded."""
        _check_intensities(self, x, 1.0, "e.g. x / 255")

    def single_step_forward(self, x: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The spikes of the next time step, `[N, *]`."""
        return self._spikes(x, 1).squeeze(0)

    def multi_step_forward(self, x: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The spikes of the next T time steps, `[T, N, *]`, of intensities `[N, *]`."""
        return self._spikes(x, self.T)

    def _spikes(self, x: Tensor | None, steps: int) -> Tensor:
        if x is None:
            x = self.x
        else:
            self.check(x)
            x = self.x = x.detach()
        if x is None:
            raise ValueError(f"{type(self).__name__} has nothing to encode yet; give it an input")
        t = torch.arange(self.t, self.t + steps, device=x.device) % self.T
        wide = x.float() if x.itemsize < 4 else x
        spikes = self.encode(wide, t.view(-1, *(1 for _ in x.shape)))
        self.t = (self.t + steps) % self.T
        return spikes.to(x.dtype)

    def extra_repr(self) -> str:
        """The step mode and T."""
        return f"step_mode={self.step_mode}, T={self.T}"


class LatencyEncoder(_PhaseEncoder):
    """Time-to-first-spike code: one spike in T steps, the earlier the larger the intensity.

    The spike of intensity x comes at step t(x), rounded to a whole number (ties to even):
    `linear` is t(x) = (T - 1)(1 - x); `log` is t(x) = T - 1 - ln(a x + 1), with
    a = exp(T - 1) - 1, so that t(0) = T - 1 and t(1) = 0 in both.

    Args:
        T: Time steps of the code.
        enc_function: 'linear' or 'log'.
        step_mode: 's' gives the next step, 'm' the next T steps.

    Shapes:
        | step_mode | input | output |
        |---|---|---|
        | 's' | `[N, *]`, or none | `[N, *]` |
        | 'm' | `[N, *]`, or none | `[T, N, *]` |

    Raises:
        ValueError: T is no positive number, the function is unknown, or an input has a value
            outside [0, 1] or NaN.
        TypeError: An input is no floating-point tensor.
    """

    def __init__(self, T: int, enc_function: str = "linear", step_mode: str = "s") -> None:
        super().__init__(T, step_mode)
        if enc_function not in ("linear", "log"):
            raise ValueError(f"enc_function is 'linear' or 'log', not {enc_function!r}")
        self.enc_function = enc_function

    def encode(self, x: Tensor, t: Tensor) -> Tensor:
        """1 where t is the step of the spike."""
        last = self.T - 1.0
        if self.enc_function == "linear":
            when = last * (1.0 - x)
        else:  # ln(a x + 1) = ln(exp(T-1) x + (1 - x)), which overflows for no T
            when = last - torch.logaddexp(last + x.log(), torch.log1p(-x))
        return when.round() == t

    def extra_repr(self) -> str:
        """The step mode, T and the function."""
        return f"{super().extra_repr()}, enc_function={self.enc_function}"


class WeightedPhaseEncoder(_PhaseEncoder):
    """Weighted phase code: the binary digits of the intensity, the largest first.

    The spike of step t weighs 2^-(t+1): K steps encode x up to 1 - 2^-K, and x exactly where it is
    a multiple of 2^-K (what is below is cut off).

    Reference: Kim, Kim, Huh & Lee (2018), Deep neural networks with weighted spikes,
    Neurocomputing 311.

    Args:
        K: Time steps of the code.
        step_mode: 's' gives the next step, 'm' the next K steps.

    Shapes:
        | step_mode | input | output |
        |---|---|---|
        | 's' | `[N, *]`, or none | `[N, *]` |
        | 'm' | `[N, *]`, or none | `[K, N, *]` |

    Raises:
        ValueError: K is not from 1 to 53, or an input has a value outside [0, 1 - 2^-K] or NaN.
        TypeError: An input is no floating-point tensor.
    """

    def __init__(self, K: int, step_mode: str = "s") -> None:  # noqa: N803 - as it is known
        super().__init__(K, step_mode)
        if K > 53:
            raise ValueError(f"WeightedPhaseEncoder: K is at most 53, the digits of x, not {K}")

    def check(self, x: Tensor) -> None:
        """Refuse what K digits cannot hold."""
        _check_intensities(self, x, 1.0 - 2.0**-self.T, f"e.g. x * (1 - 2**-{self.T})")

    def encode(self, x: Tensor, t: Tensor) -> Tensor:
        """Digit t + 1 after the binary point; every step of this is exact."""
        weights = [2.0 ** (i + 1) for i in range(self.T)]
        return (x * torch.tensor(weights, dtype=torch.float64, device=x.device)[t]).floor() % 2


class PeriodicEncoder(_PhaseEncoder):
    """A given pattern of spikes, over and over.

    Args:
        spike: The pattern, `[T, N, *]`.
        step_mode: 's' gives the next step, 'm' the next T steps.

    Shapes: any input, or none, to `[N, *]` in mode 's' and `[T, N, *]` in mode 'm'. An input is
    taken so that the encoder can stand where others do; what it holds does not matter.

    Raises:
        TypeError: `spike` is no tensor.
        ValueError: It has no time steps.
    """

    spike: Tensor

    def __init__(self, spike: Tensor, step_mode: str = "s") -> None:
        if not isinstance(spike, Tensor):
            raise TypeError(f"PeriodicEncoder takes a tensor [T, N, *], not {type(spike).__name__}")
        if not spike.dim() or not spike.shape[0]:
            raise ValueError(
                f"PeriodicEncoder takes a pattern [T, N, *] with T >= 1, not {list(spike.shape)}"
            )
        super().__init__(spike.shape[0], step_mode)
        self.register_buffer("spike", spike.detach(), persistent=False)

    def _spikes(self, x: Tensor | None, steps: int) -> Tensor:
        spikes = self.spike.roll(-self.t, 0)[:steps]
        self.t = (self.t + steps) % self.T
        return spikes


def _check_intensities(encoder: nn.Module, x: Tensor, largest: float, remedy: str) -> None:
    """Hold an input against [0, largest]; its range is read back from its device."""
    name = type(encoder).__name__
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} takes a floating-point tensor in [0, 1], not {what}")
    # Compared in float64: in the dtype of x the bound may round up to 1.
    low, high = (float(v) for v in x.detach().aminmax()) if x.numel() else (0.0, 0.0)
    if math.isnan(low) or math.isnan(high) or low < 0 or high > largest:
        raise ValueError(
            f"{name} takes intensities in [0, {largest:.17g}]; these are from {low:g} to {high:g}; "
            f"scale them first, {remedy}"
        )
