"""The prelude: parameter-only subexpressions of a step, drawn out and named.

In: statements. Out: the same statements over constants, and the constants. A constant is computed
once per call, in float64 where its parameters are Python numbers, and shared by all backends.
"""

from __future__ import annotations

import re

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    infix,
    names,
)
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.program import DETACH_RESET, Constant, is_flag_condition
from neurogen.compiler.scope import Scope


class Prelude:
    """Draws maximal parameter-only subexpressions out of statements and names them."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.flags = frozenset(scope.flags) | {DETACH_RESET}
        self.found: dict[Expression, str] = {}
        self.conditions: dict[str, list[Expression | None]] = {}

    def visit(self, node: Expression, path: tuple[Expression, ...]) -> Expression:
        """The expression over constants; `path` is the flag conditions it stands under."""
        if isinstance(node, Number):
            return node
        if self.scope.is_constant(node) and not self.is_condition(node):
            return self.constant(node, path)
        if isinstance(node, Name):
            return node
        if node.operator == "where" and is_flag_condition(node.arguments[0], self.flags):
            condition, taken, untaken = node.arguments
            other = Apply("not", (condition,))
            branches = self.visit(taken, (*path, condition)), self.visit(untaken, (*path, other))
            return Apply("where", (condition, *branches))
        if node.operator == "**":  # the exponent is part of the operator
            return Apply("**", (self.visit(node.arguments[0], path), node.arguments[1]), node.at)
        return node.of(tuple([self.visit(a, path) for a in node.arguments]))

    def is_condition(self, node: Expression) -> bool:
        """Whether the value of a node is a truth value."""
        if isinstance(node, Apply):
            return (OPERATORS.get(node.operator) or INTERNAL[node.operator]).gives == "condition"
        return isinstance(node, Name) and node.name in self.flags

    def constant(self, node: Expression, path: tuple[Expression, ...]) -> Expression:
        """A constant by its name; a number by its value."""
        if not names(node):
            return Number(evaluate(node, {}))
        if node not in self.found:
            self.found[node] = self.name(node)
        name = self.found[node]
        condition: Expression | None = None
        for flag in path:
            condition = flag if condition is None else Apply("and", (condition, flag))
        self.conditions.setdefault(name, []).append(condition)
        return Name(name)

    def name(self, node: Expression) -> str:
        """A parameter keeps its name; a compound is spelled (`one_minus_alpha`), if short."""
        if isinstance(node, Name):
            return node.name
        spelled = infix(node)
        for symbol, word in ((" - ", " minus "), (" + ", " plus "), (" * ", " times "),
                             (" / ", " over "), ("**", " to "), ("-", " neg ")):  # fmt: skip
            spelled = spelled.replace(symbol, word)
        slug = re.sub(r"[^a-z0-9]+", "_", spelled, flags=re.IGNORECASE).strip("_")
        slug = re.sub(r"^1_", "one_", slug)
        if len(slug) > 28 or not slug[0].isalpha():
            slug = "constant"
        return self.scope.fresh(slug)

    def constants(self) -> tuple[Constant, ...]:
        """Every constant that a visited statement reads."""
        inline, stepped = self.scope.inline, set(self.scope.stepped)
        for matrix in self.scope.matrices:
            if any(names(inline(entry)) & stepped for row in matrix.rows for entry in row):
                stepped.add(matrix.name)
        whole = [(name, inline(node)) for node, name in self.found.items()]
        return tuple(
            Constant(name, node, any_of(self.conditions[name]), bool(names(node) & stepped))
            for name, node in whole
        )


def any_of(conditions: list[Expression | None]) -> Expression | None:
    """The disjunction of the conditions of all occurrences; None if one is unconditional."""
    unique = list(dict.fromkeys(conditions))
    if not unique or None in unique:
        return None
    present = [condition for condition in unique if condition is not None]
    if any(Apply("not", (condition,)) in present for condition in present):
        return None
    result = present[0]
    for condition in present[1:]:
        result = Apply("or", (result, condition))
    return result


def occurrences(
    node: Expression, name: str, flags: frozenset[str], path: Expression | None
) -> list[Expression | None]:
    """Flag conditions under which a name occurs in an expression."""
    if isinstance(node, Name):
        return [path] if node.name == name else []
    if isinstance(node, Number):
        return []
    if node.operator == "where" and is_flag_condition(node.arguments[0], flags):
        condition, taken, untaken = node.arguments
        negated = Apply("not", (condition,))

        def both(flag: Expression) -> Expression:
            return flag if path is None else Apply("and", (path, flag))

        return occurrences(taken, name, flags, both(condition)) + occurrences(
            untaken, name, flags, both(negated)
        )
    return [c for argument in node.arguments for c in occurrences(argument, name, flags, path)]
