"""The table of transforms: from the raw value of a learnable to the value that equations see.

In: the declaration of a learnable. Out: the range of its transform, and the raw value whose
transform is `init`, as an expression of the prelude. The forward direction is torch's, in
`neurogen.runtime.prelude`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neurogen.compiler.expression import Expression, Number, substitute
from neurogen.compiler.parsing import parse
from neurogen.compiler.spec import Learnable


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform.

    Attributes:
        inverse: The raw value as text over `a`, what equations see, and the bounds `low`, `high`.
        low, high: Its range where no bounds are declared.
        closed: Whether the ends of the range belong to it.
        bounded: Whether `bounds` can be declared.
    """

    inverse: str
    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    bounded: bool = False


TRANSFORMS: Mapping[str, Transform] = {
    "identity": Transform("a"),
    "sigmoid": Transform("log((a - low) / (high - a))", 0.0, 1.0, bounded=True),
    "softplus": Transform("a + log(-expm1(-a))", 0.0),
    "exp": Transform("log(a)", 0.0),
    "clamp": Transform("a", closed=True, bounded=True),
}


def outside(w: Learnable, value: float) -> str:
    """The range that does not hold a value, as text; empty where it does."""
    entry = TRANSFORMS[w.transform]
    low, high = w.bounds or (entry.low, entry.high)
    if low < value < high or (entry.closed and low <= value <= high):
        return ""
    ends = "[]" if entry.closed else "()"
    return f"{ends[0]}{low:g}, {high:g}{ends[1]}"


def raw(w: Learnable) -> Expression:
    """The raw value of a learnable before training: what `transform` takes to `init`."""
    entry = TRANSFORMS[w.transform]
    low, high = w.bounds or (entry.low, entry.high)
    values = {"a": w.init.expression, "low": Number(low), "high": Number(high)}
    return substitute(parse(entry.inverse), values)
