"""What every surrogate is: a step forwards, the slope of a smooth step backwards.

Separate from the table, which is generated: these classes are the hand-written frame around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurogen.runtime.registry import register


class _Fire(torch.autograd.Function):
    """1 where the condition holds; backwards the slope at u."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, condition: Tensor, cls: type[Surrogate], shape: tuple[float, ...]
    ) -> Tensor:
        ctx.save_for_backward(u)
        ctx.cls, ctx.shape = cls, shape
        return condition.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (u,) = ctx.saved_tensors
        return _applied(ctx.cls.slope, u, ctx.shape, gradients[0]), None, None, None


def _applied(
    function: Callable[..., Tensor], u: Tensor, shape: tuple[float, ...], factor: Tensor | None
) -> Tensor:
    """A primitive or slope in at least float32, times a factor, in the dtype of u.

    Shape parameters become tensors: a Python number would make torch.where choose its own dtype.
    """
    wide = u.float() if u.itemsize < 4 else u
    value = function(wide, *(torch.full((), p, dtype=wide.dtype, device=u.device) for p in shape))
    return (value if factor is None else factor.to(wide.dtype) * value).to(u.dtype)


class Surrogate(nn.Module):
    """Heaviside step with a smooth gradient: S = 1 where u >= 0, dS/du of a primitive.

    Shape parameters are plain attributes: assigning one acts at the next forward, on every backend.

    Attributes:
        shape: Names of the shape parameters, in the order of the kernels.
        positive: Those of them that must be above 0.
        kernel: C++ and CUDA text of `primitive` and `slope`.
        registered: Name of the class in graphs.
        spiking: Step forwards, or the primitive.
    """

    shape: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[str] = ""
    registered: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """A subclass with other functions does not have its parent's kernel; each has its name."""
        super().__init_subclass__(**keywords)
        if "kernel" not in cls.__dict__ and not _FUNCTIONS.isdisjoint(cls.__dict__):
            cls.kernel = ""
        cls.registered = register(cls)

    def __init__(self, spiking: bool = True, **shape: float) -> None:
        super().__init__()
        self.spiking = bool(spiking)
        for name, value in shape.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).shape:
            if isinstance(value, bool) or not isinstance(value, Real | Tensor):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a number, not {type(value).__name__}"
                )
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(
                    f"{type(self).__name__}.{name} is one number, not {value.numel()} of them"
                )
            value = float(value.detach() if isinstance(value, Tensor) else value)
            if not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}.{name} must be finite, not {value}")
            if name in type(self).positive and value <= 0:
                raise ValueError(f"{type(self).__name__}.{name} must be above 0, not {value:g}")
        super().__setattr__(name, value)

    @property
    def arguments(self) -> tuple[float, ...]:
        """The shape parameters' values, in the order of the kernels."""
        return tuple([getattr(self, name) for name in type(self).shape])

    @staticmethod
    def primitive(u: Tensor, *shape: Any, **keywords: Any) -> Tensor:
        """The smooth step S(u)."""
        raise TypeError("Surrogate is abstract; use one of neurogen.nn.surrogate")

    @staticmethod
    def slope(u: Tensor, *shape: Any, **keywords: Any) -> Tensor:
        """Its derivative dS/du."""
        raise TypeError("Surrogate is abstract; use one of neurogen.nn.surrogate")

    def fire(self, u: Tensor, condition: Tensor) -> Tensor:
        """The spike of a neuron: `condition` is the comparison as written, u its distance."""
        if not self.spiking:
            return _applied(type(self).primitive, u, self.arguments, None)
        spike: Tensor = _Fire.apply(u, condition, type(self), self.arguments)  # type: ignore[no-untyped-call]
        return spike

    def gradient(self, u: Tensor) -> Tensor:
        """The slope at u that `fire` has backwards, without a graph."""
        if type(self).fire is not Surrogate.fire:  # written in Python
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                spike = self.fire(u, u >= 0)
                return torch.autograd.grad(spike, u, torch.ones_like(spike))[0]
        return _applied(type(self).slope, u, self.arguments, None)

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


#: What a subclass may define in Python, and its kernel would not know of.
_FUNCTIONS = frozenset(("primitive", "slope", "fire", "forward"))


def function_form(cls: type[Surrogate]) -> type[torch.autograd.Function]:
    """`sigmoid.apply(x, alpha)`: the same surrogate as a `torch.autograd.Function`."""

    def forward(ctx: Any, u: Tensor, *shape: float) -> Tensor:
        if len(shape) > len(cls.shape):
            raise TypeError(f"{cls.__name__} has {len(cls.shape)} shape parameters: {cls.shape}")
        ctx.save_for_backward(u)
        named: dict[str, Any] = dict(zip(cls.shape, shape, strict=False))
        ctx.shape = cls(**named).arguments
        ctx.given = len(shape)
        return (u >= 0).to(u.dtype)

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (u,) = ctx.saved_tensors
        return _applied(cls.slope, u, ctx.shape, gradients[0]), *([None] * ctx.given)

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
