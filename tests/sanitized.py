"""Kernels of some specs in a process under sanitizers; `test_sanitizers.py` starts it.

    python tests/sanitized.py lif alif …
    python tests/sanitized.py --change OLD NEW lif     # with a fault put into the kernels' text

The kernels are compiled by what CXX says, with the sanitizers' flags; each case is held against the
reference, too. Results of all sizes are written past the caches, segments are short, and buffers
come from malloc one by one, so that a read or write beyond the end of any is seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from together import compiled_together

from neurogen.backends.cpp import launch
from neurogen.loading import load_text
from neurogen.runtime.abi import Kernels
from neurogen.tools.verify import Case, Problem
from neurogen.tools.verify.matrix import compare_all

BLOCK = launch.LANES
#: Several blocks, a cut one, one neuron; dtypes of each size; values a layer and a neuron.
PROBLEMS = (
    (torch.float32, Problem(steps=9, shape=(BLOCK + 19,))),
    (torch.float16, Problem(steps=2, shape=(3, 5, 11), learnt="neuron", given_state=False)),
    (torch.float64, Problem(steps=5, shape=(1, 1), layout="strided", learnt="none")),
)


def main() -> None:
    """Every problem of every spec, on both fused backends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stems", nargs="+")
    parser.add_argument("--change", nargs=2, metavar=("OLD", "NEW"))
    options = parser.parse_args()
    if options.change:
        _change(*options.change)
    torch.set_num_threads(2)
    launch.SCRATCH_BYTES, launch.GRAIN = 0, 64  # 4 steps a segment; a second thread at once
    for stem in options.stems:
        path = Path(__file__).parents[1] / "specs" / f"{stem}.yaml"
        text = path.read_text(encoding="utf-8")
        for number, (dtype, problem) in enumerate(PROBLEMS):
            launch.STREAM_BYTES = 0 if number == 0 else 2**40
            reset = "soft" if number == 1 and load_text(text).v_reset_may_be_none else "hard"
            case = Case("torch", reset, detach_reset=number == 1, dtype=dtype)
            with compiled_together(text, case, problem):
                for comparison in compare_all(text, case, problem, ("cpp", "cupy")).values():
                    comparison.require()
        print(stem, flush=True)


def _change(old: str, new: str) -> None:
    read = Kernels.text

    def text(self: Kernels, file: str) -> str:
        changed = read(self, file).replace(old, new)
        assert changed != read(self, file) or file.endswith(".cu")
        return changed

    Kernels.text = text  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
