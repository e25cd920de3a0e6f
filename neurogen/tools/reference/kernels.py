"""Response kernels of the reference stepper, as the convolutions that they are.

In: kernels h(s), which of them are called on what, and the events of a run, step by step.
Out: the responses y[t] = sum over k of h(k*dt) x[t-k], from k = 0 for an input and from k = 1 for
`spike`. Separate because it remembers the whole run: no state, no recursion, no differential
equation, so that it can judge those. Values and sums are float64, rounded once to compute dtype.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from neurogen.tools.reference.equations import Prelude, Step


class Responses:
    """The responses of one run, which starts from silence.

    Args:
        kernels: Name -> h, a tree of `s`, the time since an event.
        calls: The (kernel, source) pairs that equations name; a source is an input or `spike`.
        step: The run.
    """

    def __init__(
        self, kernels: Mapping[str, ast.expr], calls: Collection[tuple[str, str]], step: Step
    ) -> None:
        self.kernels, self.calls, self.step = kernels, calls, step
        names = step.prelude.names.items()
        self.constants = {k: v.double() if isinstance(v, Tensor) else v for k, v in names}
        self.weights: dict[str, list[Tensor]] = {kernel: [] for kernel, _ in calls}
        self.past: dict[str, list[Tensor]] = {source: [] for _, source in calls}

    def record(self, events: Mapping[str, Tensor]) -> None:
        """Append what happened, of a step, to the past of each source that is listened to."""
        for source, past in self.past.items():
            if source in events:
                past.append(events[source].double())

    def values(self) -> dict[str, Tensor]:
        """Return "kernel(source)" -> response: this step's inputs are recorded, its spike not."""
        return {
            f"{kernel}({source})": self._response(kernel, source) for kernel, source in self.calls
        }

    def _response(self, kernel: str, source: str) -> Tensor:
        past = self.past[source]
        first = 1 if source == "spike" else 0
        parts = [self._weight(kernel, first + age) * x for age, x in enumerate(reversed(past))]
        total = functools.reduce(operator.add, parts, torch.zeros((), dtype=torch.float64))
        return total.to(self.step.dtype)

    def _weight(self, kernel: str, k: int) -> Tensor:
        """Return h(k*dt); steps ask for one more k at a time."""
        weights = self.weights[kernel]
        while len(weights) <= k:
            clock = Prelude(self.constants, self.step.decide).value(ast.Name("dt"))
            names = {**self.constants, "s": len(weights) * clock}
            weight = Prelude(names, self.step.decide).value(self.kernels[kernel])
            if weight.ndim > self.step.ndim:
                raise ValueError(f"kernel {kernel} has a parameter per step")
            weights.append(weight)
        return weights[k]
