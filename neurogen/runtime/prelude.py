"""What the equations see of a neuron's parameters: the names in a prelude, as tensors.

In: a node, a dtype, a device. Out: for each name a 0-dim float64 tensor where the parameter is a
number, and a tensor of the given dtype, transformed, where it is one. Separate from the neuron
because its attributes are whatever the spec calls its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neurogen.runtime.parameters import Parameters

Bounds = tuple[float, float] | None

CPU = torch.device("cpu")


class Namespace:
    """Parameters and flags of a node by name.

    Args:
        node: Whose.
        dtype: Of parameters that are tensors.
        device: Of those that are numbers.
        dims: Dimensions of one time step, which place a parameter per channel or step.
        steps: Which values per time step are read; all by default.
    """

    def __init__(
        self,
        node: Parameters,
        dtype: torch.dtype = torch.float64,
        device: torch.device = CPU,
        dims: int = 0,
        steps: slice | None = None,
    ) -> None:
        self._node, self._dtype, self._device, self._dims = node, dtype, device, dims
        self._steps = steps or slice(None)
        self._exponentials: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        node = self._node
        if name in node.flags:
            return bool(getattr(node, name))
        value = node._current(name)
        if value is None:
            return math.nan
        entry, per = node.learnable.get(name), node.sharing.get(name)
        if isinstance(value, Tensor):
            value = value.to(self._dtype)
            if not value.dim():
                value = value.reshape(1)
            elif per == "channel" and value.dim() == 1:
                value = value.reshape(-1, *[1] * (self._dims - 2))  # dim 1 of [N, C, *]
            elif per == "step" and value.numel() > 1:  # T leads, the rest is as for one step
                value = value[self._steps]
                rest = value.shape[1:]
                value = value.reshape(-1, *[1] * (self._dims - len(rest)), *rest)
        else:
            value = self.number_(value)
        return value if entry is None else TRANSFORMS[entry.transform](value, entry.bounds)

    # No name of a spec ends in an underscore, so these collide with no parameter.

    def number_(self, value: float) -> Tensor:
        """A literal of a prelude."""
        return torch.full((), value, dtype=torch.float64, device=self._device)

    def element_(self, name: str, row: int, column: int) -> Tensor:
        """An element of exp(matrix), in float64; the exponential is taken once a call."""
        if name not in self._exponentials:
            entries = [e for entries in self._node.matrices[name](self) for e in entries]
            wide = torch.broadcast_tensors(
                *(torch.as_tensor(e, dtype=torch.float64, device=self._device) for e in entries)
            )  # type: ignore[no-untyped-call]
            size = math.isqrt(len(entries))
            stacked = torch.stack(wide, -1).reshape(*wide[0].shape, size, size)
            self._exponentials[name] = torch.linalg.matrix_exp(stacked)
        return self._exponentials[name][..., row, column]


def _sigmoid(value: Tensor, bounds: Bounds) -> Tensor:
    low, high = bounds or (0.0, 1.0)
    return low + (high - low) * torch.sigmoid(value)


def _clamp(value: Tensor, bounds: Bounds) -> Tensor:
    return torch.clamp(value, *(bounds or (None, None)))


#: What equations see of a learnable's raw value.
TRANSFORMS: dict[str, Callable[[Tensor, Bounds], Tensor]] = {
    "identity": lambda value, bounds: value,
    "sigmoid": _sigmoid,
    "softplus": lambda value, bounds: torch.nn.functional.softplus(value),
    "exp": lambda value, bounds: torch.exp(value),
    "clamp": _clamp,
}
