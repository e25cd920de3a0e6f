"""From numbers to spikes: encoders that turn intensities into sequences of 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurogen.runtime.memory import STEP_MODES


class PoissonEncoder(nn.Module):
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

    @property
    def step_mode(self) -> str:
        """'s': one time step a call; 'm': a sequence."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value not in STEP_MODES:
            raise ValueError(f"step_mode is 's' or 'm', not {value!r}")
        self._step_mode = value

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1, in x's dtype and on its device) of intensities in [0, 1]."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"PoissonEncoder takes a floating-point tensor in [0, 1], not {what}")
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(
                "PoissonEncoder takes intensities in [0, 1]; these are from "
                f"{x.min().item():g} to {x.max().item():g}; scale them first, e.g. x / 255"
            )
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
