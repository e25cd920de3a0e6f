"""Is the generated neuron what the spec says? Each module asks one question of its own oracle.

* `cases`: what is compiled (`Case`), what it is run on (`Problem`), what came out (`Finding`).
* `inputs`, `sizes`: numbers that make it fire and meet thresholds; problems that are large enough.
* `matrix`: spikes, states and gradients against the independent reference stepper.
* `smooth`: gradients against finite differences, spikes replaced by the smooth step.
* `transpose`: the backward kernel against the forward derivative, <Jx, y> = <x, J'y>.
* `module`: single steps, two halves, `reset`, gradients that arrive in any order, against one run.
* `determinism`: threads, repetition, hash seeds: the same bits, the same text.
* `example`: the spec's own `expect`.
* `suite`: all of it for one spec, within a time budget; `search` makes a failure small, `script`
  writes it down, and `report` is what `neurogen verify` prints.
"""

from neurogen.tools.verify.cases import (
    BACKENDS,
    DTYPES,
    LAYOUTS,
    Case,
    Comparison,
    Finding,
    Problem,
    distance,
)
from neurogen.tools.verify.matrix import compare, compare_all

__all__ = [
    "BACKENDS",
    "DTYPES",
    "LAYOUTS",
    "Case",
    "Comparison",
    "Finding",
    "Problem",
    "compare",
    "compare_all",
    "distance",
]
