"""What every surrogate is: a step forwards, the slope of a smooth step backwards.

Separate from the table, which is generated: these classes are the hand-written frame around it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class _Fire(torch.autograd.Function):
    """1 where the condition holds; backwards the slope at u."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, condition: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return condition.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.gradient(u), None, None


class Surrogate(nn.Module):
    """Heaviside step with a smooth gradient: S = 1 where u >= 0, dS/du of a primitive.

    Shape parameters are plain attributes: assigning one acts at the next forward, on every backend.

    Attributes:
        shape: Names of the shape parameters, in the order of the kernels.
        kernel: C++ and CUDA text of `primitive` and `slope`.
        spiking: Step forwards, or the primitive.
    """

    shape: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[str] = ""

    def __init__(self, spiking: bool = True, **shape: float) -> None:
        super().__init__()
        self.spiking = bool(spiking)
        for name, value in shape.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).shape:
            if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a number, not {type(value).__name__}"
                )
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}.{name} must be finite, not {value}")
        super().__setattr__(name, value)

    @property
    def arguments(self) -> tuple[float, ...]:
        """The shape parameters' values, in the order of the kernels."""
        return tuple(getattr(self, name) for name in type(self).shape)

    @staticmethod
    def primitive(u: Tensor, *shape: float) -> Tensor:
        """The smooth step S(u)."""
        raise TypeError("Surrogate is abstract; use one of neurogen.nn.surrogate")

    @staticmethod
    def slope(u: Tensor, *shape: float) -> Tensor:
        """Its derivative dS/du."""
        raise TypeError("Surrogate is abstract; use one of neurogen.nn.surrogate")

    def gradient(self, u: Tensor) -> Tensor:
        """dS/du with the shape parameters of this module."""
        return type(self).slope(u, *self.arguments)

    def fire(self, u: Tensor, condition: Tensor) -> Tensor:
        """The spike of a neuron: `condition` is the comparison as written, u its distance."""
        if not self.spiking:
            return type(self).primitive(u, *self.arguments)
        spike: Tensor = _Fire.apply(u, condition, self)
        return spike

    def forward(self, u: Tensor) -> Tensor:
        """Step (or primitive) of any floating tensor; result has its shape and dtype."""
        return self.fire(u, u >= 0)

    def set_spiking_mode(self, spiking: bool) -> None:
        """Step forwards (True) or the primitive (False)."""
        self.spiking = bool(spiking)

    def extra_repr(self) -> str:
        """Shape parameters and mode."""
        shown = [f"{name}={getattr(self, name)}" for name in type(self).shape]
        return ", ".join([*shown, f"spiking={self.spiking}"])


def function_form(cls: type[Surrogate]) -> type[torch.autograd.Function]:
    """`sigmoid.apply(x, alpha)`: the same surrogate as a `torch.autograd.Function`."""

    def forward(ctx: Any, u: Tensor, *shape: float) -> Tensor:
        if len(shape) > len(cls.shape):
            raise TypeError(f"{cls.__name__} has {len(cls.shape)} shape parameters: {cls.shape}")
        module = cls(**dict(zip(cls.shape, shape, strict=False)))
        ctx.save_for_backward(u)
        ctx.surrogate, ctx.given = module, len(shape)
        return (u >= 0).to(u.dtype)

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (u,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.gradient(u), *([None] * ctx.given)

    return type(
        cls.__name__.lower(),
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "backward": staticmethod(backward),
            "__doc__": f"Function form of `{cls.__name__}`: `apply(u, {', '.join(cls.shape)})`.",
            "__module__": cls.__module__,
        },
    )
