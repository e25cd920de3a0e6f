"""Equations of the reference stepper: text -> tree.

In: the text of an equation and the values of the flags. Out: a Python syntax tree in which flags
have decided and piecewise functions are conditions. Separate from `equations`, which says what a
tree is worth; nothing here knows a number.

`abs sign relu min max clip heaviside` become conditions, so that every comparison can be noted and
forced, and their ties are readable in `PIECEWISE`.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Mapping, Sequence

PIECEWISE = {
    "abs": "lambda a: -a if a < 0 else a if a > 0 else _held(a) + 0",
    "sign": "lambda a: 1 if a > 0 else -1 if a < 0 else 0",
    "relu": "lambda a: 0 if a <= 0 else a",
    "max": "lambda a, b: a if a > b else b if a < b else _mean(a, b)",
    "min": "lambda a, b: a if a < b else b if a > b else _mean(a, b)",
    "clip": (
        "lambda a, b, c: c if c < b else (b if b < c else _held(b)) if a < b else c if a > c else a"
    ),
    "heaviside": "lambda a: 1 if a >= 0 else 0",
    "where": "lambda a, b, c: b if a else c",
}
TRANSFORMS = {
    "identity": "lambda a: a",
    "sigmoid": "lambda a: sigmoid(a)",
    "bounded sigmoid": "lambda a, low, high: low + (high - low) * sigmoid(a)",
    "softplus": "lambda a: softplus(a)",
    "exp": "lambda a: exp(a)",
    "clamp": PIECEWISE["clip"],
}
FUNCTIONS = {
    *PIECEWISE,
    *("exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "sigmoid", "softplus", "erf"),
    *("atan", "floor", "round", "detach", "prev", "step"),
}


class Substitute(ast.NodeTransformer):
    """Put trees in the place of names; changes the tree that it visits."""

    def __init__(self, replacements: Mapping[str, ast.AST]) -> None:
        self.replacements = replacements

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Return what stands for the name."""
        return self.replacements.get(node.id, node)


def known_truth(node: ast.AST) -> bool | None:
    """Return the truth value of a condition made of flags only, None for any other node."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, bool) else None


class _Resolve(ast.NodeTransformer):
    """Remove the conditions that flags decide; rewrite piecewise functions as conditions."""

    def __init__(self, flags: Mapping[str, bool], kernels: Collection[str]) -> None:
        self.flags = flags
        self.kernels = kernels

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) not in (int, float):
            raise ValueError(f"not a number: {node.value!r}")
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self.flags[node.id]) if node.id in self.flags else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and (known := known_truth(node.operand)) is not None:
            return ast.Constant(not known)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        winner = isinstance(node.op, ast.Or)  # one True settles an `or`, one False an `and`
        known = [known_truth(value) for value in node.values]
        rest = [value for value in node.values if known_truth(value) is None]
        if winner in known or not rest:
            return ast.Constant(winner if winner in known else not winner)
        return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return _choose(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Name()], keywords=[]) if (
                name in self.kernels
            ):
                return node
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise ValueError(f"not a function of the language: {ast.unparse(node)}")
        node.args = [self.visit(argument) for argument in node.args]
        if node.func.id in ("min", "max") and len(node.args) > 2:  # from left to right
            pair = PIECEWISE[node.func.id]
            return functools.reduce(lambda a, b: apply(pair, [a, b]), node.args)
        if node.func.id in PIECEWISE:
            return _choose(apply(PIECEWISE[node.func.id], node.args))
        return node


def parse(text: object, flags: Mapping[str, bool], kernels: Collection[str] = ()) -> ast.expr:
    """Parse an equation, for the given values of the flags; `kernels` can be called on a name."""
    if not isinstance(text, str):
        raise ValueError(f"not an equation: {text!r}")
    try:
        written = ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not an equation: {text!r}") from error
    tree: ast.expr = _Resolve(flags, kernels).visit(written)
    return tree


def apply(template: str, arguments: Sequence[ast.AST]) -> ast.expr:
    """Put arguments, trees that are resolved already, into a table entry `lambda a, b: ...`."""
    function = ast.parse(template, mode="eval").body
    assert isinstance(function, ast.Lambda)
    names = [argument.arg for argument in function.args.args]
    if len(names) != len(arguments):
        raise ValueError(f"{len(arguments)} arguments for {template!r}")
    body: ast.expr = Substitute(dict(zip(names, arguments, strict=True))).visit(function.body)
    return body


def _choose(node: ast.expr) -> ast.expr:
    """Return the branch of a conditional that flags decide, any other node as it is."""
    if not isinstance(node, ast.IfExp) or (known := known_truth(node.test)) is None:
        return node
    return node.body if known else node.orelse


def names_in(node: ast.AST) -> set[str]:
    """Collect the names in `node`; `prev` and `step` count, they are nothing for the prelude."""
    names = {sub.id for sub in ast.walk(node) if isinstance(sub, ast.Name)}
    return names - (FUNCTIONS - {"prev", "step"} | {"_mean", "_held"})


def integer(node: ast.expr) -> int | None:
    """Return the value of an integer literal with its sign, None for anything else."""
    match node:
        case ast.UnaryOp(op=ast.USub()) if (n := integer(node.operand)) is not None:
            return -n
        case ast.Constant(value=number) if isinstance(number, (int, float)):
            return int(number) if float(number).is_integer() else None
    return None
