"""What was derived from a spec, in figures: for the table of `neurogen build`.

In: Model and Program. Out: a row of text. Bytes are counted for float32, per neuron and step: the
input, output and gradients once each, parameters and states not at all (they stay in registers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from neurogen.compiler.model import Model
from neurogen.compiler.program import DETACH_RESET, HARD_RESET, SPIKING, Program, operations

FLOAT = 4


@dataclass(frozen=True, slots=True)
class Report:
    """One neuron's figures, as the table shows them."""

    COLUMNS: ClassVar[tuple[tuple[str, Literal["left", "right"]], ...]] = (
        ("neuron", "left"),
        ("states", "left"),
        ("learnable", "left"),
        ("variants", "right"),
        ("ops f/b", "right"),
        ("bytes f/b", "right"),
        ("kept for backward", "left"),
    )
    row: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, program: Program) -> Report:
        """Count."""
        inputs = len(program.inputs)
        defaults = {flag.name: flag.default for flag in model.spec.flags} | {
            HARD_RESET: True,
            DETACH_RESET: False,
            SPIKING: True,
        }
        return cls(
            (
                model.spec.name,
                ", ".join(state.name for state in program.states),
                ", ".join(entry.name for entry in model.spec.learnable) or "-",
                str(2 ** len(program.flags)),
                f"{operations(program.forward, defaults)} / "
                f"{operations(program.backward, defaults)}",
                f"{FLOAT * (inputs + 1)} / {FLOAT * (2 * inputs + 1)}",
                f"{', '.join(program.inputs)}, O(N)",
            )
        )
