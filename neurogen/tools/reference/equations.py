"""Equations of the reference stepper: text -> tree -> value.

In: the text of an equation, and what its names are worth. Out: a tensor, differentiable by torch
autograd, and the outcome of every comparison on the way. Separate from `stepper`, which knows what
a neuron is; this only knows what an expression means.

How a number comes about:

* A largest subexpression of constants (literals, parameters, learnables) is evaluated once per
  run (`Prelude`), floats as 0-dim float64 and tensors at compute dtype, and rounded once to compute
  dtype. The rest (`Step`) is plain torch at compute dtype, in the order written; `x**3` is `x*x*x`.
* Every comparison, and every `floor` and `round`, goes through `Decisions`, which notes its
  outcome or replaces it by that of another run. `abs sign relu min max clip heaviside` are
  rewritten into conditions first, so they are covered, and their ties are readable in `PIECEWISE`.
* The branch of a condition that is not taken gets a gradient of exactly 0, also where its
  derivative is inf or nan: inside it each leaf is `where(taken, leaf, leaf.detach())`.
* `where(spike, a, b)` is `spike*a + (1 - spike)*b`; the spike's derivative is the surrogate's.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neurogen.tools.reference.curves import Curve, Decide

PIECEWISE = {
    "abs": "lambda a: -a if a < 0 else a if a > 0 else detach(a) + 0",
    "sign": "lambda a: 1 if a > 0 else -1 if a < 0 else 0",
    "relu": "lambda a: 0 if a <= 0 else a",
    "max": "lambda a, b: a if a > b else b if a < b else _mean(a, b)",
    "min": "lambda a, b: a if a < b else b if a > b else _mean(a, b)",
    "clip": "lambda a, b, c: b if a < b else c if a > c else a",
    "heaviside": "lambda a: 1 if a >= 0 else 0",
    "where": "lambda a, b, c: b if a else c",
}
TRANSFORMS = {
    "identity": "lambda a: a",
    "sigmoid": "lambda a: sigmoid(a)",
    "softplus": "lambda a: softplus(a)",
    "exp": "lambda a: exp(a)",
    "clamp": PIECEWISE["clip"],
}
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: -torch.nn.functional.logsigmoid(-a),  # F.softplus is linear from 20 on
    "erf": torch.erf,
}
STEPWISE: dict[str, Callable[[Tensor], Tensor]] = {"floor": torch.floor, "round": torch.round}
FUNCTIONS = {*SMOOTH, *STEPWISE, *PIECEWISE, "detach", "prev", "step"}
ARITHMETIC: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.Pow: torch.pow,  # integer powers never get here
}
COMPARISONS: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    ast.Lt: torch.lt,
    ast.LtE: torch.le,
    ast.Gt: torch.gt,
    ast.GtE: torch.ge,
    ast.Eq: torch.eq,
    ast.NotEq: torch.ne,
}


class Decisions:
    """Note every outcome, or hand out those of another run in their place."""

    def __init__(self, forced: Sequence[Tensor] | None) -> None:
        self.taken: list[Tensor] = []
        self.forced = forced

    def __call__(self, outcome: Tensor) -> Tensor:
        """Return what is decided, shape and dtype of `outcome`: that, or the forced one."""
        if self.forced is not None:
            if len(self.taken) == len(self.forced):
                raise ValueError(f"more decisions than the {len(self.forced)} forced ones")
            forced = self.forced[len(self.taken)]
            if forced.shape != outcome.shape or (forced.dtype is torch.bool) != (
                outcome.dtype is torch.bool
            ):
                raise ValueError(f"forced decision {len(self.taken)} is of another kind of run")
            outcome = forced.to(outcome.dtype)
        self.taken.append(outcome.detach())
        return self.taken[-1]


class _Straight(torch.autograd.Function):
    """Forward: `value`, whatever u is. Backward to u: the incoming gradient times `slope`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


class _Substitute(ast.NodeTransformer):
    def __init__(self, replacements: Mapping[str, ast.AST]) -> None:
        self.replacements = replacements

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.replacements.get(node.id, node)


def _known(node: ast.AST) -> bool | None:
    """Return the truth value of a condition made of flags only, None for any other node."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, bool) else None


class _Resolve(ast.NodeTransformer):
    """Remove the conditions that flags decide; rewrite piecewise functions as conditions."""

    def __init__(self, flags: Mapping[str, bool]) -> None:
        self.flags = flags

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) not in (int, float):
            raise ValueError(f"not a number: {node.value!r}")
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self.flags[node.id]) if node.id in self.flags else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and (known := _known(node.operand)) is not None:
            return ast.Constant(not known)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        winner = isinstance(node.op, ast.Or)  # one True settles an `or`, one False an `and`
        known = [_known(value) for value in node.values]
        rest = [value for value in node.values if _known(value) is None]
        if winner in known or not rest:
            return ast.Constant(winner if winner in known else not winner)
        return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return _choose(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise ValueError(f"not a function of the language: {ast.unparse(node)}")
        node.args = [self.visit(argument) for argument in node.args]
        if node.func.id in PIECEWISE:
            return _choose(apply(PIECEWISE[node.func.id], node.args))
        return node


def parse(text: object, flags: Mapping[str, bool]) -> ast.expr:
    """Parse an equation, for the given values of the flags."""
    if not isinstance(text, str):
        raise ValueError(f"not an equation: {text!r}")
    try:
        written = ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not an equation: {text!r}") from error
    tree: ast.expr = _Resolve(flags).visit(written)
    return tree


def apply(template: str, arguments: Sequence[ast.AST]) -> ast.expr:
    """Put arguments, trees that are resolved already, into a table entry `lambda a, b: ...`."""
    function = ast.parse(template, mode="eval").body
    assert isinstance(function, ast.Lambda)
    names = [argument.arg for argument in function.args.args]
    if len(names) != len(arguments):
        raise ValueError(f"{len(arguments)} arguments for {template!r}")
    body: ast.expr = _Substitute(dict(zip(names, arguments, strict=True))).visit(function.body)
    return body


def _choose(node: ast.expr) -> ast.expr:
    """Return the branch of a conditional that flags decide, any other node as it is."""
    if not isinstance(node, ast.IfExp) or (known := _known(node.test)) is None:
        return node
    return node.body if known else node.orelse


class _Evaluator:
    """Evaluate trees of `_Resolve`; what the leaves are worth is for subclasses to say.

    `gate` (bool, or None for everywhere) says where the branch is taken that a node stands in.
    """

    decide: Decide

    def leaf(self, node: ast.expr) -> Tensor | None:
        """Return the value of a node that is a leaf here, None of any other."""
        raise NotImplementedError

    def value(self, node: ast.expr, gate: Tensor | None = None) -> Tensor:
        """Return the number `node` stands for."""
        if (leaf := self.leaf(node)) is not None:
            return leaf if gate is None else torch.where(gate, leaf, leaf.detach())
        match node:
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                operand = self.value(node.operand, gate)
                return -operand if isinstance(node.op, ast.USub) else operand
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                left = self.value(node.left, gate)
                if isinstance(node.op, ast.Pow) and (n := _integer(node.right)) is not None:
                    return _power(left, n)
                return ARITHMETIC[type(node.op)](left, self.value(node.right, gate))
            case ast.IfExp():
                return self.select(node, gate)
            case ast.Call(func=ast.Name(id=name)):
                return self.call(name, [self.value(argument, gate) for argument in node.args])
        raise ValueError(f"not a number: {ast.unparse(node)}")

    def call(self, name: str, values: list[Tensor]) -> Tensor:
        """Return what a function that never branches makes of its arguments."""
        match name, values:
            case "_mean", [a, b]:  # of two that are equal, up to rounding if that is forced
                mean = torch.where(a == b, a, (a + b) / 2).detach()
                return _straight(a + b, mean, torch.full_like(mean, 0.5))
            case "detach", [a]:
                return a.detach()
            case _, [a] if name in STEPWISE:
                return self.decide(STEPWISE[name](a).detach())
            case _, [a] if name in SMOOTH:
                return SMOOTH[name](a)
        raise ValueError(f"{name} of {len(values)} arguments cannot stand here")

    def select(self, node: ast.IfExp, gate: Tensor | None) -> Tensor:
        """Return `a if c else b`; on a spike that is arithmetic, elsewhere a selection."""
        match node.test:
            case ast.Name(id="spike") | ast.Call(func=ast.Name(id="prev")):
                spike = self.value(node.test, gate)
                rest = torch.ones((), dtype=spike.dtype) - spike
                return spike * self.value(node.body, gate) + rest * self.value(node.orelse, gate)
        taken = self.condition(node.test, gate)
        yes, no = (taken, ~taken) if gate is None else (taken & gate, ~taken & gate)
        return torch.where(taken, self.value(node.body, yes), self.value(node.orelse, no))

    def condition(self, node: ast.expr, gate: Tensor | None = None) -> Tensor:
        """Return the truth value of `node`, bool; both sides of `and` and `or` are evaluated."""
        match node:
            case ast.UnaryOp(op=ast.Not()):
                return ~self.condition(node.operand, gate)
            case ast.BoolOp():
                join = torch.logical_and if isinstance(node.op, ast.And) else torch.logical_or
                return functools.reduce(join, [self.condition(v, gate) for v in node.values])
            case ast.Compare() if all(type(op) in COMPARISONS for op in node.ops):
                sides = [self.value(side, gate) for side in (node.left, *node.comparators)]
                links = zip(node.ops, sides[:-1], sides[1:], strict=True)
                outcomes = [self.decide(COMPARISONS[type(op)](a, b)) for op, a, b in links]
                return functools.reduce(torch.logical_and, outcomes)
            case ast.Constant() if (known := _known(node)) is not None:
                return torch.tensor(known)
        raise ValueError(f"not a condition: {ast.unparse(node)}")


class Prelude(_Evaluator):
    """Constants, before they are rounded: floats are 0-dim float64, tensors stay what they are."""

    def __init__(self, names: Mapping[str, Tensor | ast.expr], decide: Decide) -> None:
        self.names = names
        self.decide = decide

    def leaf(self, node: ast.expr) -> Tensor | None:
        """Literals and names."""
        match node:
            case ast.Constant(value=number) if _known(node) is None:
                assert isinstance(number, (int, float))  # `_Resolve` lets nothing else through
                return torch.tensor(float(number), dtype=torch.float64)
            case ast.Name() if node.id in self.names:
                entry = self.names[node.id]
                return entry if isinstance(entry, Tensor) else self.value(entry)
            case ast.Name():
                raise ValueError(f"{node.id!r} is not given here")
        return None


class Step(_Evaluator):
    """One run: the names of the current time step, and the constants already rounded."""

    def __init__(
        self, prelude: Prelude, ndim: int, dtype: torch.dtype, curve: Curve, spiking: bool
    ) -> None:
        self.prelude, self.decide, self.curve = prelude, prelude.decide, curve
        self.ndim, self.dtype, self.spiking = ndim, dtype, spiking
        self.t = 0
        self.names: dict[str, Tensor] = {}  # inputs, states, temporaries, spike: now
        self.start: dict[str, Tensor] = {}  # states and spike as the step found them
        self.constants: dict[int, Tensor | None] = {}  # by the id of their node

    def constant(self, node: ast.expr, evaluate: Callable[[ast.expr], Tensor]) -> Tensor | None:
        """Return a constant node's value, rounded once; that of this step if it is per step."""
        if id(node) not in self.constants:
            value = evaluate(node) if names_in(node) <= self.prelude.names.keys() else None
            if value is not None and value.dtype is not torch.bool:
                value = value.to(self.dtype)
            self.constants[id(node)] = value
        value = self.constants[id(node)]
        return value if value is None or value.ndim <= self.ndim else value[self.t]

    def leaf(self, node: ast.expr) -> Tensor | None:
        """Largest constant nodes, the names of this step, and what they were at its start."""
        if (constant := self.constant(node, self.prelude.value)) is not None:
            return constant
        match node:
            case ast.Name() if node.id in self.names:
                return self.names[node.id]
            case ast.Call(func=ast.Name(id="prev"), args=[ast.Name(id=name)]) if name in self.start:
                return self.start[name]
            case ast.Name() | ast.Call(func=ast.Name(id="prev")):
                raise ValueError(f"{ast.unparse(node)!r} is not a name here")
        return None

    def condition(self, node: ast.expr, gate: Tensor | None = None) -> Tensor:
        """As everywhere; conditions on constants are decided once per run."""
        constant = self.constant(node, self.prelude.condition)
        return super().condition(node, gate) if constant is None else constant

    def call(self, name: str, values: list[Tensor]) -> Tensor:
        """As everywhere; only within a step there are spikes."""
        if name == "step" and len(values) == 1:
            zero = torch.zeros((), dtype=self.dtype)
            return self.spike(values[0], lambda: torch.ge(values[0], zero))
        return super().call(name, values)

    def spike(self, u: Tensor, fires: Callable[[], Tensor]) -> Tensor:
        """Return 0 or 1 as decided, or S(u) if not spiking, with the surrogate's slope at u."""
        value = self.decide(fires()) if self.spiking else None
        smooth, slope = self.curve(u.detach().double(), self.decide)
        value = smooth if value is None else value
        return _straight(u, value.to(self.dtype), slope.to(self.dtype))

    def fire(self, node: ast.expr, guard: ast.expr | None) -> Tensor:
        """Return the spikes of `a >= b` or `a > b`, with u = a - b, times the guard."""
        match node:
            case ast.Compare(ops=[ast.GtE() | ast.Gt() as sign], comparators=[threshold]):
                a, b = self.value(node.left), self.value(threshold)
                spike = self.spike(a - b, lambda: COMPARISONS[type(sign)](a, b))
                return spike if guard is None else spike * self.condition(guard).to(self.dtype)
        raise ValueError(f"fire is `a >= b` or `a > b`, not {ast.unparse(node)}")


def _straight(u: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    result: Tensor = _Straight.apply(u, value, slope)  # type: ignore[no-untyped-call]
    return result


def names_in(node: ast.AST) -> set[str]:
    """Collect the names in `node`; `prev` and `step` count, they are nothing for the prelude."""
    names = {sub.id for sub in ast.walk(node) if isinstance(sub, ast.Name)}
    return names - (FUNCTIONS - {"prev", "step"} | {"_mean"})


def _integer(node: ast.expr) -> int | None:
    """Return the value of an integer literal with its sign, None for anything else."""
    match node:
        case ast.UnaryOp(op=ast.USub()) if (n := _integer(node.operand)) is not None:
            return -n
        case ast.Constant(value=number) if isinstance(number, (int, float)):
            return int(number) if float(number).is_integer() else None
    return None


def _power(base: Tensor, n: int) -> Tensor:
    """Multiply from left to right; a negative power is 1 over the positive one."""
    power = functools.reduce(operator.mul, [base] * abs(n)) if n else torch.ones_like(base)
    return torch.ones((), dtype=base.dtype) / power if n < 0 else power
