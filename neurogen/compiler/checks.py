"""Checks of a spec that no equation of the step needs: surrogate, example, bounds, time step.

In: the `Scope` of a spec. Out: mistakes in it. A new check is one function and one entry of
`CHECKS`; mistakes in the names of equations are found by `scope.py`, where they are resolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeGuard

from neurogen.compiler.calculus import NotFiniteError
from neurogen.compiler.expression import FUNCTIONS, Apply, Expression, Name, Number, names, walk
from neurogen.compiler.program import Assign
from neurogen.compiler.scope import Scope
from neurogen.compiler.source import Path, printable
from neurogen.compiler.surrogates import TABLE, compiled
from neurogen.compiler.tokens import did_you_mean
from neurogen.compiler.transforms import TRANSFORMS

#: What differentiating a step may cost, see `effort`: about two seconds at most, mostly much less.
#: AdEx comes to 2000, the equations of Hodgkin and Huxley under rk4 to 6400.
MAX_EFFORT = 64_000
MAX_DYNAMICS = 10_000  # states times operations of `dynamics`
_LINEAR, _PRODUCT = frozenset(("+", "-", "neg")), frozenset(("*", "/"))
_TOO_LARGE = "the equations are too large to differentiate"
_SMALLER = "name parts of equations in `let`, nest functions and divisions less, use fewer states"


def check(scope: Scope) -> None:
    """Run every check."""
    for one in CHECKS:
        one(scope)


def effort(scope: Scope, statements: Iterable[Assign]) -> None:
    """The step is small enough to be differentiated in a second or two, by each of its names."""
    trees = [statement.expression for statement in statements]
    sizes = sum(len(names(tree)) * tree.size for tree in trees if isinstance(tree, Apply))
    if sizes + sum(_effort(tree)[0] for tree in trees) > MAX_EFFORT:
        path: Path = ("charge",) if scope.spec.charge else ("dynamics",)
        scope.add("NG008", path, _TOO_LARGE, _SMALLER, key=True, width=None)


def _effort(node: Expression) -> tuple[int, int, frozenset[str]]:
    """What the derivatives of an expression by each of its names cost, about.

    A product stands in its derivative once for each factor, a function once for each argument;
    where they nest SymPy's searches for cancelling terms grow with the square of the depth.

    Returns:
        The operations that are written again; how deep functions, and divisions, which count twice,
        stand in one another; the names.
    """
    if not isinstance(node, Apply):
        return 0, 0, names(node)
    product = tuple(_product(node))
    parts = [a for n in product for a in n.arguments if not _is_product(a)] or node.arguments
    work, depths, found = zip(*map(_effort, parts), strict=True)
    divides = any(n.operator == "/" and isinstance(n.arguments[1], Apply) for n in product)
    depth = max(depths) + (2 if divides else node.operator in FUNCTIONS)
    mentioned = frozenset().union(*found)
    copies = 0 if node.operator in _LINEAR else len(parts)
    own = copies * node.size * len(mentioned) * (1 + depth**2 // 4)
    return own + sum(work), depth, mentioned


def _product(node: Expression) -> Iterator[Apply]:
    """The products and quotients that make one product, however bracketed."""
    if _is_product(node):
        yield node
        for argument in node.arguments:
            yield from _product(argument)


def _is_product(node: Expression) -> TypeGuard[Apply]:
    return isinstance(node, Apply) and node.operator in _PRODUCT


def size_of_dynamics(scope: Scope) -> None:
    """A scheme differentiates every equation of `dynamics` by every state."""
    trees = [item.equation.expression for item in scope.spec.dynamics]
    if len(trees) * sum(tree.size for tree in trees if isinstance(tree, Apply)) > MAX_DYNAMICS:
        scope.add("NG008", ("dynamics",), _TOO_LARGE, _SMALLER, key=True, width=None)


def time_step(scope: Scope) -> None:
    """`dt` is positive."""
    if scope.spec.dt is not None and scope.spec.dt <= 0:
        scope.add("NG005", ("dt",), "the time step is positive", width=None)


def bounds(scope: Scope) -> None:
    """`bounds` and `transform` go together."""
    for w in scope.spec.learnable:
        if w.transform == "clamp" and w.bounds is None:
            scope.add("NG004", ("learnable", w.name), "`transform: clamp` needs `bounds`",
                      "bounds: [low, high]", key=True, width=None)  # fmt: skip
        if w.bounds is not None and not TRANSFORMS[w.transform].bounded:
            message = "`bounds` go with `transform: clamp` or `transform: sigmoid`"
            scope.add("NG005", ("learnable", w.name, "bounds"), message)


def levels(scope: Scope) -> None:
    """`levels` and `kind: multilevel` go together."""
    fire = scope.spec.fire
    if fire is None:
        return
    if fire.levels is None:
        if fire.kind == "multilevel":
            message = "`kind: multilevel` needs `levels`"
            scope.add("NG004", ("fire",), message, "levels: 4", key=True, width=None)
    elif fire.kind != "multilevel":
        scope.add("NG005", ("fire", "levels"), "`levels` go with `kind: multilevel`", width=None)
    elif fire.levels < 1 or not (fire.levels.is_integer() or math.isnan(fire.levels)):
        message = "expected a whole number from 1 up"
        scope.add("NG005", ("fire", "levels"), message, width=None)


def kernel_time(scope: Scope) -> None:
    """In a kernel `s` is the time since the event, so nothing that kernels may name is called s."""
    spec = scope.spec
    groups = (("parameters", spec.parameters), ("learnable", spec.learnable), ("flags", spec.flags))
    for key, entries in groups:
        if spec.kernels and any(entry.name == "s" for entry in entries):
            message = "'s' is the time since the event in `kernels`"
            scope.add("NG010", (key, "s"), message, "choose another name", key=True, width=None)


def per_step(scope: Scope) -> None:
    """What no time step sees cannot differ from one to the next."""
    places: list[tuple[Path, Expression, str]] = [
        (("states", state.name, "init"), state.init.expression, "an initial value")
        for state in scope.states if state.init is not None
    ] + [
        (("kernels", kernel.name), kernel.equation.expression, "a response kernel")
        for kernel in scope.spec.kernels
    ]  # fmt: skip
    for path, expression, what in places:
        for name in sorted(names(scope.inline(expression)) & scope.stepped):
            message = f"{what} depends on '{name}', which has a value per time step"
            scope.add("NG039", path, message, "only `per: layer`, `channel` or `neuron` do here")


def reset_rule(scope: Scope) -> None:
    """A rule that is written must have something to do."""
    rule = scope.spec.reset.rule
    if rule not in {"hard", "soft"}:
        return
    if not scope.may_fire:
        scope.add("NG036", ("reset",), f"`reset: {rule}` of a neuron that never fires",
                  "remove it", width=None)  # fmt: skip
    elif not scope.is_state("v"):
        scope.add("NG036", ("reset",), f"`reset: {rule}` resets v, which is no state here",
                  "reset: {a: expression} resets a", width=None)  # fmt: skip


def reset_of_other_spikes(scope: Scope) -> None:
    """`spike*v_reset + (1 - spike)*v` resets where a spike is 0 or 1; one of -1 would double v."""
    fire = scope.spec.fire
    if fire is None or fire.kind == "binary" or scope.reset not in {"auto", "hard"}:
        return
    path: Path = ("reset",) if scope.spec.source.root.key("reset") else ("fire", "kind")
    message = f"the hard reset is for spikes of 0 and 1, not for `kind: {fire.kind}`"
    hint = "`reset: soft`, or say what v becomes: reset: {v: v * (1 - abs(spike))}"
    scope.add("NG042", path, message, hint, width=None)


def surrogate(scope: Scope) -> None:
    """The surrogate is one of the table with its parameters, or a function of u and its own."""
    declared = scope.spec.surrogate
    given = [name for name, _ in declared.parameters]
    if declared.primitive is not None:
        _primitive(scope, given)
        return
    chosen = declared.name or ""
    if chosen not in TABLE:
        hint = did_you_mean(chosen, TABLE) or f"known are {', '.join(sorted(TABLE))}"
        message = f"unknown surrogate '{printable(chosen)}'"
        scope.add("NG012", ("surrogate", "name"), message, hint, width=None)
    else:
        known = [name for name, _ in TABLE[chosen].parameters]
        for word, value in declared.parameters:
            if word in TABLE[chosen].positive and value <= 0:
                message = f"{word} of the surrogate {chosen} must be above 0, not {value:g}"
                scope.add("NG033", ("surrogate", word), message, width=None)
            if word not in known:
                message = f"the surrogate {chosen} has no parameter '{printable(word)}'"
                hint = did_you_mean(word, known) or f"it has {', '.join(known)}"
                scope.add("NG012", ("surrogate", word), message, hint, key=True, width=None)


def _primitive(scope: Scope, given: list[str]) -> None:
    equation = scope.spec.surrogate.primitive
    assert equation is not None
    path: Path = ("surrogate", "primitive")
    for node in walk(equation.expression):
        if isinstance(node, Apply) and (node.operator in {"prev", "step"} | scope.kernels):
            message, hint = f"{node.operator}() has no meaning here", "only u and parameters have"
            scope.add("NG025", path, message, hint, at=node.at, width=len(node.operator))
            return
    used = set(scope.used)
    meaning = {name: Name(f"surrogate.{name}") for name in ("u", *given)}  # no flag of that name
    whole = scope.resolve(equation, path, meaning) is not None
    scope.used = used
    mentioned = names(equation.expression)
    for word in given:
        if whole and word not in mentioned:
            scope.add("NG013", ("surrogate", "parameters", word), f"'{word}' is never used",
                      "remove it, or name it in the primitive", key=True, width=None)  # fmt: skip
    if not whole:
        return
    if "u" not in mentioned:
        hint = "a primitive is a smooth step of u"
        scope.add("NG013", path, "'u' is never used", hint, width=None)
        return
    if _effort(equation.expression)[0] > MAX_EFFORT // 4:  # beside the step's own
        scope.add("NG008", path, "the equation is too large to differentiate", width=None)
        return
    try:
        _, slope = compiled(equation.expression)
    except NotFiniteError:
        scope.add("NG026", path, "the slope is never finite", "something is divided by 0")
        return
    if slope == Number(0.0):
        scope.add("NG037", path, "the slope is 0 everywhere", "no gradient would pass", width=None)


def example(scope: Scope) -> None:
    """`expect` gives every input, and names states."""
    expect = scope.spec.expect
    if expect is None:
        return
    inputs = scope.spec.inputs
    states = [state.name for state in scope.states]
    given = [name for name, _ in expect.input]
    if given == [""] and len(inputs) == 1:
        given = [*inputs]
    _members(scope, ("expect", "input"), "input", given, inputs)
    _members(scope, ("expect", "states"), "state", [name for name, _ in expect.states], states)
    missing = [name for name in inputs if name not in given]
    if missing and set(given) <= {"", *inputs}:
        hint = f"input: {{{', '.join(f'{name}: [...]' for name in inputs)}}}"
        message = f"missing input '{missing[0]}'"
        scope.add("NG004", ("expect", "input"), message, hint, key=True, width=None)


def _members(
    scope: Scope, path: Path, kind: str, given: Iterable[str], known: Iterable[str]
) -> None:
    for name in given:
        if name and name not in known:
            hint = did_you_mean(name, known) or f"known are {', '.join(known)}"
            scope.add(
                "NG012",
                (*path, name),
                f"'{printable(name)}' is no {kind}",
                hint,
                key=True,
                width=None,
            )


CHECKS: tuple[Callable[[Scope], None], ...] = (
    size_of_dynamics, time_step, bounds, levels, kernel_time, per_step, reset_rule,
    reset_of_other_spikes, surrogate, example,
)  # fmt: skip
