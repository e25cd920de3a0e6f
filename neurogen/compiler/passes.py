"""Passes over statements: values, liveness, sharing.

In: statements or a kernel. Out: the same computation with fewer statements. Separate because both
directions of time go through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    names,
    substitute,
    walk,
)
from neurogen.compiler.program import Assign, Kernel, Program

_ZERO = Number(0.0)


class Fresh:
    """Hands out names that no one has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def __call__(self, wanted: str) -> str:
        """`wanted`, or `wanted` with a number."""
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name


def follow(name: str, aliases: Mapping[str, Expression]) -> Expression:
    """What a name stands for in the end."""
    target = aliases.get(name)
    return follow(target.name, aliases) if isinstance(target, Name) else Name(name)


def value(node: Expression) -> Expression:
    """The expression as a value: `detach` is for derivatives only."""
    if not isinstance(node, Apply) or node.operators.isdisjoint(("detach", "where")):
        return node
    inner = tuple([value(argument) for argument in node.arguments])
    if node.operator == "detach" or (node.operator == "where" and inner[1] == inner[2]):
        return inner[-1]
    return node.of(inner)


def values(statements: tuple[Assign, ...]) -> tuple[Assign, ...]:
    """The statements as values: without `detach`, and with aliases followed."""
    result: list[Assign] = []
    aliases: dict[str, Expression] = {}
    for assign in statements:
        expression = substitute(value(assign.expression), aliases)
        if isinstance(expression, Name):
            aliases[assign.name] = expression
        result.append(Assign(assign.name, expression, assign.note))
    return tuple(result)


def live(kernel: Kernel) -> Kernel:
    """Without the statements on which no result depends."""
    needed = set().union(*(names(expression) for _, expression in kernel.results))
    kept: list[Assign] = []
    for assign in reversed(kernel.body):
        if assign.name in needed:
            kept.append(assign)
            needed |= names(assign.expression)
    return Kernel(tuple(reversed(kept)), kernel.results)


def kept_rows(program: Program) -> dict[str, int]:
    """What the backward pass may keep of every step, V[t-1] and `Program.kept`; see `readers`."""
    return readers(program, (*(state.name for state in program.states), *program.kept))


def readers(program: Program, among: Iterable[str]) -> dict[str, int]:
    """Which results of the backward pass read each of these values of a step.

    Returns:
        Each with the constants (bit k: constant k) whose gradients alone read it; -1 where any
        other gradient does, 0 where none does.
    """
    order = {constant.name: k for k, constant in enumerate(program.constants)}
    masks = dict.fromkeys(among, 0)
    for result in program.backward.results:
        alone = live(Kernel(program.backward.body, (result,)))
        read = names(result[1]).union(*(names(assign.expression) for assign in alone.body))
        for name in masks.keys() & read:
            masks[name] |= 1 << order[result[0]] if result[0] in order else -1
    return masks


def share(kernel: Kernel, fresh: Fresh) -> Kernel:
    """Costly subexpressions that occur more than once are computed once, under a name."""
    counts: dict[Expression, int] = {}

    def count(node: Expression) -> None:
        if isinstance(node, Apply) and _is_costly(node):
            counts[node] = counts.get(node, 0) + 1
            if counts[node] > 1:
                return  # its parts were counted with the first occurrence
        if isinstance(node, Apply):
            for argument in node.arguments:
                count(argument)

    for assign in kernel.body:
        count(assign.expression)
    known: dict[Expression, str] = {}
    body: list[Assign] = []

    def visit(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        if node in known:
            return Name(known[node])
        inner = node.of(tuple([visit(a) for a in node.arguments]))
        if counts.get(node, 0) > 1:
            known[node] = fresh(_SHARED.get(node.operator, "shared"))
            body.append(Assign(known[node], inner, "used more than once"))
            return Name(known[node])
        return inner

    for assign in kernel.body:
        whole = assign.expression
        if isinstance(whole, Apply) and whole not in known and counts.get(whole, 0) > 1:
            expression: Expression = whole.of(tuple([visit(a) for a in whole.arguments]))
            known[whole] = assign.name
        else:
            expression = visit(whole)
        body.append(Assign(assign.name, expression, assign.note))
    return Kernel(tuple(body), kernel.results)


_SHARED = {"exp": "exponential", "/": "quotient"}


def _is_costly(node: Apply) -> bool:
    """Worth a name: a function, a division of more than two names, or three operations."""
    entry = OPERATORS.get(node.operator) or INTERNAL[node.operator]
    if entry.gives == "condition":
        return False
    operations = 0
    for inner in walk(node):
        operations += isinstance(inner, Apply)
        if operations == 3 or (isinstance(inner, Apply) and _is_call(inner.operator)):
            return True
    return False


def is_slow(expression: Expression) -> bool:
    """Whether a division or a function is in it, against which a load from the cache is cheap."""
    return any(
        isinstance(node, Apply) and (node.operator == "/" or _is_call(node.operator))
        for node in walk(expression)
    )


def _is_call(operator: str) -> bool:
    entry = OPERATORS.get(operator) or INTERNAL[operator]
    return entry.binds == 0 and operator not in ("abs", "sign", "relu", "min", "max", "clip",
                                                 "fire", "detach", "floor", "round")  # fmt: skip


def times(gradient: Expression, partial: Expression) -> Expression:
    """Gradient * partial, without the multiplications that a person would not write.

    Where a branch of the partial is 0 the product is chosen, not multiplied: an untaken branch
    contributes exactly 0 even if the other factor is infinite.
    """
    match partial:
        case Number(value=0.0):
            return _ZERO
        case Number(value=1.0):
            return gradient
        case Number(value=-1.0):
            return Apply("neg", (gradient,))
        case Apply(operator="neg", arguments=(inner,)):
            return Apply("neg", (times(gradient, inner),))
        case Apply(operator="/", arguments=(Number(value=1.0), denominator)):
            return Apply("/", (gradient, denominator))
        case Apply(operator="where", arguments=(condition, taken, untaken)) if _ZERO in (
            taken, untaken,
        ):  # fmt: skip
            return Apply("where", (condition, times(gradient, taken), times(gradient, untaken)))
    return Apply("*", (gradient, partial))
