"""Warnings: what is legal, and probably not what its author wants.

In: a `Model` and its `Program`, which hold no mistakes. Out: warnings, each a `Mistake` with a code
from NG100 on. A new warning is one function and one entry of `WARNINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

from neurogen.compiler.calculus import DERIVATIVES
from neurogen.compiler.expression import Apply, Expression, Number, names, operator, walk
from neurogen.compiler.model import Model
from neurogen.compiler.program import Program
from neurogen.compiler.source import Path
from neurogen.compiler.trial import trial
from neurogen.errors import Mistake


def find_warnings(model: Model, program: Program) -> tuple[Mistake, ...]:
    """Every warning, in the order of the file."""
    found = {mistake: None for check in WARNINGS for mistake in check(model, program)}
    return tuple(sorted(found, key=lambda m: (m.location.line, m.location.column, m.code)))


def domains(model: Model, program: Program) -> Iterator[Mistake]:
    """NG101 to NG103: a division, root, logarithm or exponential that can go wrong."""
    for witness in trial(model):
        risk = witness.risk
        yield model.spec.mistake(
            risk.hazard.code, risk.path, str(witness), risk.hazard.hint, risk.written.at, 1
        )


def untrained(model: Model, program: Program) -> Iterator[Mistake]:
    """NG104: a learnable that gets no gradient."""
    reached = {name for name, gradient in program.backward.results if gradient != Number(0.0)}
    sources = [state.initial for state in model.states]
    sources += [c.expression for c in model.constants if c.name in reached]
    named = frozenset().union(*map(names, sources))
    sources += [e for m in model.matrices if m.name in named for row in m.rows for e in row]
    moving = frozenset().union(*map(_moving, sources))
    for w in model.spec.learnable:
        if w.name not in moving:
            yield model.spec.mistake(
                "NG104", ("learnable", w.name), f"'{w.name}' never gets a gradient",
                "make it a parameter, or let the equations depend on it smoothly",
                width=len(w.name), key=True,
            )  # fmt: skip


def _moving(node: Expression) -> frozenset[str]:
    """The names on which a value depends with a derivative that is not 0 everywhere."""
    if not isinstance(node, Apply):
        return names(node)
    rules = DERIVATIVES.get(node.operator, ())
    arguments = [
        argument
        for argument, takes, rule in zip_longest(
            node.arguments, operator(node.operator).takes, rules
        )
        if takes == "real" and rule != "0"
    ]
    return frozenset().union(*map(_moving, arguments))


def stateless_threshold(model: Model, program: Program) -> Iterator[Mistake]:
    """NG105: a fire condition that names inputs and parameters only."""
    charged = {state.charged for state in model.states}
    spike = next((s.expression for s in model.fire if s.name == "spike"), Number(0.0))
    for node in walk(spike):
        if isinstance(node, Apply) and node.operator == "fire":
            made_of = _origins(model, names(node.arguments[0]), stop=charged)
            if not made_of & (charged | {state.name for state in model.states}):
                yield model.spec.mistake(
                    "NG105", ("fire", "when"), "the fire condition depends on no state",
                    "compare a state with the threshold: v >= v_threshold",
                )  # fmt: skip


def forgotten(model: Model, program: Program) -> Iterator[Mistake]:
    """NG106: a state that becomes something without a past."""
    memories = {state.name for state in model.states}
    read = {name for statement in model.statements for name in names(statement.expression)}
    for state in model.states:
        if state.name in read or _origins(model, frozenset((state.charged,))) & memories:
            continue
        declared = model.spec.source.root.child("states") is not None
        path: Path = ("states", state.name) if declared else ("charge",)
        yield model.spec.mistake(
            "NG106", path, f"what '{state.name}' becomes depends on no state, not on itself either",
            f"write {state.name} + … to keep it; or make it a temporary of `charge`",
            width=len(state.name), key=True,
        )  # fmt: skip


def _origins(model: Model, found: frozenset[str], stop: Iterable[str] = ()) -> frozenset[str]:
    """What names are made of: inputs, constants, and states before the step or at `stop`."""
    made = {s.name: names(s.expression) for s in model.statements if s.name not in set(stop)}
    while inner := found & made.keys():
        found = (found - inner).union(*(made[name] for name in inner))
    return found


WARNINGS: tuple[Callable[[Model, Program], Iterator[Mistake]], ...] = (
    domains, untrained, stateless_threshold, forgotten,
)  # fmt: skip
