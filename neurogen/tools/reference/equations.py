"""Equations of the reference stepper: tree -> value.

In: the tree of an equation (`syntax`), and what its names are worth. Out: a tensor, differentiable
by torch autograd, and the outcome of every comparison on the way. Separate from `stepper`, which
knows what a neuron is; this only knows what an expression, or a `fire`, means.

How a number comes about:

* A largest subexpression of constants (literals, parameters, learnables) is evaluated once per
  run (`Prelude`), floats as 0-dim float64 and tensors at compute dtype, and rounded once to compute
  dtype. The rest (`Step`) is plain torch at compute dtype, in the order written; `x**3` is `x*x*x`.
* Every comparison, and every `floor` and `round`, goes through `Decisions`, which notes its
  outcome or replaces it by that of another run.
* The branch of a condition that is not taken gets a gradient of exactly 0, also where its
  derivative is inf or nan: inside it each leaf is `where(taken, leaf, leaf.detach())`.
* `where(spike, a, b)` is `spike*a + (1 - spike)*b`; the spike's derivative is the surrogate's.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurogen.tools.reference.curves import Curve, Decide
from neurogen.tools.reference.syntax import integer, known_truth, names_in


def _sqrt(a: Tensor) -> Tensor:
    """The correctly rounded root: on the CPU torch's is an ulp off now and then."""
    root = torch.sqrt(a)
    exact = [math.sqrt(max(value, 0.0)) for value in a.detach().flatten().tolist()]
    off = root.new_tensor(exact).reshape(a.shape) - root.detach()
    return torch.where(root.isfinite() & (off != 0), root + off, root)


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": _sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: -torch.nn.functional.logsigmoid(-a),  # F.softplus is linear from 20 on
    "erf": torch.erf,
    "atan": torch.atan,
}
STEPWISE: dict[str, Callable[[Tensor], Tensor]] = {"floor": torch.floor, "round": torch.round}
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


class _Half(torch.autograd.Function):
    """Forward: `value`, whatever u is. Backward to u: half the incoming gradient, any order."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / 2, None


@dataclass(frozen=True, slots=True)
class Fire:
    """When, and how strongly, a neuron fires.

    Attributes:
        when: `a >= b` or `a > b`.
        guard: Condition that multiplies spike and slope, or None.
        kind: 'binary', 'ternary' or 'multilevel'.
        levels: Largest spike of a multilevel neuron.
    """

    when: ast.expr
    guard: ast.expr | None
    kind: str = "binary"
    levels: int = 1


class _Evaluator:
    """Evaluate trees of `syntax.parse`; what the leaves are worth is for subclasses to say.

    `gate` (bool, or None for everywhere) says where the branch is taken that a node stands in.
    """

    decide: Decide

    def leaf(self, node: ast.expr) -> Tensor | None:
        """Return the value of a node that is a leaf here, None of any other."""
        raise NotImplementedError

    def value(self, node: ast.expr, gate: Tensor | None = None) -> Tensor:
        """Return the number `node` stands for."""
        if (leaf := self.leaf(node)) is not None:
            if gate is None or not leaf.requires_grad:  # a literal keeps its shape, and so its rank
                return leaf
            return torch.where(gate, leaf, leaf.detach())
        match node:
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                operand = self.value(node.operand, gate)
                return -operand if isinstance(node.op, ast.USub) else operand
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                left = self.value(node.left, gate)
                if isinstance(node.op, ast.Pow) and (n := integer(node.right)) is not None:
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
                half: Tensor = _Half.apply(a + b, mean)  # type: ignore[no-untyped-call]
                return half
            case "detach" | "_held", [a]:
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
            case ast.Constant() if (known := known_truth(node)) is not None:
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
            case ast.Constant(value=number) if known_truth(node) is None:
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
        self.t = self.ties = 0
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
            case ast.Call(func=ast.Name(id=kernel), args=[ast.Name(id=source)]) if (
                call := f"{kernel}({source})"
            ) in self.names:
                return self.names[call]
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

    def fire(self, fire: Fire) -> Tensor:
        """Return the spikes, with u = a - b, times the guard.

        Where the guard is off there is no firing, and so no slope, whatever it would have been: a
        product alone would make NaN of 0 times a slope that overflows.
        """
        match fire.when:
            case ast.Compare(ops=[ast.GtE() | ast.Gt() as sign], comparators=[threshold]):
                a, b = self.value(fire.when.left), self.value(threshold)
            case _:
                raise ValueError(f"fire is `a >= b` or `a > b`, not {ast.unparse(fire.when)}")
        reaches = COMPARISONS[type(sign)]
        guard = None if fire.guard is None else self.condition(fire.guard)
        self.ties += _ties(fire, a.detach(), b.detach(), guard)

        def guarded(u: Tensor) -> Tensor:
            return u if guard is None else torch.where(guard, u, torch.zeros_like(u))

        match fire.kind:
            case "binary":
                spike = self.spike(guarded(a - b), lambda: reaches(a, b))
            case "ternary":
                spike = self.spike(guarded(a - b), lambda: reaches(a, b))
                spike = spike - self.spike(guarded(-a - b), lambda: reaches(-a, b))
            case "multilevel":
                spike = self.level(guarded(a / b), fire.levels)
            case _:
                raise ValueError(f"not a kind of fire: {fire.kind}")
        return spike if guard is None else spike * guard.to(self.dtype)

    def level(self, q: Tensor, top: int) -> Tensor:
        """Return q rounded (half to even) and clipped to 0 ... `top`; not rounded if not spiking.

        Straight-through: the derivative is 1 for 0 <= q <= `top`, and 0 elsewhere.
        """
        clipped = q.detach().clamp(0, top)
        value = self.decide(q.detach().round().clamp(0, top)) if self.spiking else clipped
        inside = self.decide(q >= 0) & self.decide(q <= top)
        return _straight(q, value, inside.to(self.dtype))


def _ties(fire: Fire, a: Tensor, b: Tensor, guard: Tensor | None) -> int:
    """Count the neurons that are exactly where `fire` decides."""
    match fire.kind:
        case "ternary":
            met = (a == b) | (-a == b)
        case "multilevel":
            half = a / b - 0.5
            met = (half == half.round()) & (half >= 0) & (half < fire.levels)
        case _:
            met = a == b
    return int((met if guard is None else met & guard).sum())


def _straight(u: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    whole = value.expand(u.shape)  # a guard may differ between neurons where a >= b does not
    result: Tensor = _Straight.apply(u, whole, slope)  # type: ignore[no-untyped-call]
    return result


def _power(base: Tensor, n: int) -> Tensor:
    """Multiply from left to right; a negative power is 1 over the positive one."""
    power = functools.reduce(operator.mul, [base] * abs(n)) if n else torch.ones_like(base)
    return torch.ones((), dtype=base.dtype) / power if n < 0 else power
