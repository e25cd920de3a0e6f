"""Differential equations of the reference stepper: from x[t] to x[t + 1], by the scheme named.

In: dx/dt = f of each state, the temporaries of `let`, a scheme. Out: the states one `dt` later.
Separate because each scheme is a method of its own. Inputs, and states without an equation, are
held; temporaries are evaluated again at each stage. What each scheme does:

* `euler rk2 rk4`: the formulae of `RUNGE_KUTTA`, evaluated as they stand there.
* `exponential_euler`: x + dt*phi1(dt*a)*f(x) with a = df_i/dx_i by torch autograd and
  phi1(z) = (exp(z) - 1)/z.
* `exact`: the system is x' = A x + b, so x[t + 1] = E x + Phi b, with E = exp(A dt) and Phi the
  integral of exp(A s) over the step, both from one exponential of [[A, 1], [0, 0]] dt in float64;
  then rounded. A is read off the equations term by term; b is f at x = 0.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from neurogen.tools.reference.equations import Step
from neurogen.tools.reference.syntax import Substitute, apply, names_in

RUNGE_KUTTA = {  # x: at the start of the step; row i: where slope i + 1 is taken; last row: result
    "euler": ["lambda x, k1: x + dt * k1"],
    "rk2": ["lambda x, k1: x + 0.5 * dt * k1", "lambda x, k1, k2: x + dt * k2"],
    "rk4": [
        "lambda x, k1: x + 0.5 * dt * k1",
        "lambda x, k1, k2: x + 0.5 * dt * k2",
        "lambda x, k1, k2, k3: x + dt * k3",
        "lambda x, k1, k2, k3, k4: x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)",
    ],
}
SCHEMES = {*RUNGE_KUTTA, "exponential_euler", "exact"}
DT = ast.Name("dt")


class Dynamics:
    """The differential equations of a neuron.

    Args:
        scheme: One of `SCHEMES`.
        slopes: State -> dx/dt.
        lets: The temporaries, in order, that are not constants.
        constants: Names of constants.
    """

    def __init__(
        self,
        scheme: object,
        slopes: Mapping[str, ast.expr],
        lets: Sequence[tuple[str, ast.expr]],
        constants: Collection[str],
    ) -> None:
        if scheme not in SCHEMES:
            raise ValueError(f"not a scheme: {scheme!r}")
        self.scheme, self.slopes, self.lets = str(scheme), dict(slopes), lets
        written_out: dict[str, ast.AST] = {}
        for name, tree in lets:
            written_out[name] = Substitute(written_out).visit(copy.deepcopy(tree))
        whole = {s: Substitute(written_out).visit(copy.deepcopy(f)) for s, f in slopes.items()}
        if scheme == "exact":
            linear = _Linear(slopes, constants)
            self.matrix = {state: linear.coefficients(tree) for state, tree in whole.items()}
        elif scheme == "exponential_euler":
            for state, tree in whole.items():
                for call in ast.walk(tree):
                    match call:
                        case ast.Call(func=ast.Name(id="detach" | "step")) if _in(call, {state}):
                            raise ValueError(f"no forward derivative: {ast.unparse(call)}")
        else:
            self.stages = self._stages(constants)

    def _stages(self, constants: Collection[str]) -> list[dict[str, ast.expr]]:
        """Return the rows of the scheme as trees; a constant slope stands in them itself."""
        rows = RUNGE_KUTTA[self.scheme]
        stages: list[dict[str, ast.expr]] = [{} for _ in rows]
        for state, tree in self.slopes.items():
            fixed = names_in(tree) <= set(constants)
            for row, template in enumerate(rows):
                ks = [tree if fixed else ast.Name(f"slope {k} of {state}") for k in range(row + 1)]
                stages[row][state] = apply(template, [ast.Name(state), *ks])
        return stages

    def start(self, step: Step) -> Callable[[], dict[str, Tensor]]:
        """Begin a run: return what moves the states on, from `step.names` at a step's start."""
        if self.scheme == "exact":
            return self._exact(step)
        if self.scheme == "exponential_euler":
            return lambda: self._exponential_euler(step)
        return lambda: self._runge_kutta(step)

    def _f(self, step: Step, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return dx/dt of all states, where the states are `at`."""
        outer, step.names = step.names, {**step.names, **at}
        for name, tree in self.lets:
            step.names[name] = step.value(tree)
        slopes = {state: step.value(tree) for state, tree in self.slopes.items()}
        step.names = outer
        return slopes

    def _runge_kutta(self, step: Step) -> dict[str, Tensor]:
        outer, step.names = step.names, dict(step.names)
        now: dict[str, Tensor] = {}
        for k, stage in enumerate(self.stages):
            for state, slope in self._f(step, now).items():
                step.names[f"slope {k} of {state}"] = slope
            now = {state: step.value(tree) for state, tree in stage.items()}
        step.names = outer
        return now

    def _exponential_euler(self, step: Step) -> dict[str, Tensor]:
        known = (*step.names.values(), *step.start.values(), *step.prelude.names.values())
        tracked = torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in known
        )
        dt, after = step.value(DT), {}
        with torch.enable_grad():
            at = {
                state: x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
                for state, x in step.names.items()
                if state in self.slopes
            }
            for state, f in self._f(step, at).items():
                x, a = at[state], None
                if f.requires_grad:
                    (a,) = torch.autograd.grad(
                        f.sum(), x, retain_graph=True, create_graph=tracked, allow_unused=True
                    )
                growth = phi1(dt * (torch.zeros_like(x) if a is None else a))
                after[state] = x + dt * growth * f
        return after if tracked else {state: x.detach() for state, x in after.items()}

    def _exact(self, step: Step) -> Callable[[], dict[str, Tensor]]:
        states, value = list(self.slopes), step.prelude.value
        zero, n = torch.zeros((), dtype=torch.float64), len(states)
        entries = [
            value(self.matrix[i][j]).double() if j in self.matrix[i] else zero
            for i in states
            for j in states
        ]
        spread: list[Tensor] = list(torch.broadcast_tensors(*entries))  # type: ignore[no-untyped-call]
        a = torch.stack(spread, -1).reshape(*spread[0].shape, n, n)
        top = torch.cat([a, torch.eye(n, dtype=a.dtype).expand_as(a)], -1)
        augmented = torch.cat([top, torch.zeros_like(top)], -2)
        moved = torch.linalg.matrix_exp(augmented * value(DT).double()[..., None, None])
        moved = moved.to(step.dtype)
        pattern = _reachable(self.matrix)

        def advance() -> dict[str, Tensor]:
            now = moved[step.t] if moved.ndim - 2 > step.ndim else moved
            b = self._f(step, {state: torch.zeros((), dtype=step.dtype) for state in states})
            after = {}
            for i, state in enumerate(states):
                near = [(j, other) for j, other in enumerate(states) if other in pattern[state]]
                terms = [now[..., i, j] * step.names[other] for j, other in near]
                terms += [now[..., i, n + j] * b[other] for j, other in near]
                after[state] = sum(terms[1:], terms[0])
            return after

        return advance


class _Linear:
    """Read the coefficients off equations that are linear in some states."""

    def __init__(self, states: Collection[str], constants: Collection[str]) -> None:
        self.states, self.constants = set(states), set(constants)

    def coefficients(self, node: ast.expr) -> dict[str, ast.expr]:
        """Return state -> coefficient, a tree of constants, for each state in `node`."""
        if not _in(node, self.states):
            return {}
        match node:
            case ast.Name():
                return {node.id: ast.Constant(1)}
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                inner = self.coefficients(node.operand)
                return {state: ast.UnaryOp(node.op, c) for state, c in inner.items()}
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                return self._join(node.left, node.right, lambda a, b: ast.BinOp(a, node.op, b))
            case ast.BinOp(op=ast.Mult()) if self._constant(node.left):
                inner = self.coefficients(node.right)
                return {state: ast.BinOp(node.left, node.op, c) for state, c in inner.items()}
            case ast.BinOp(op=ast.Mult() | ast.Div()) if self._constant(node.right):
                inner = self.coefficients(node.left)
                return {state: ast.BinOp(c, node.op, node.right) for state, c in inner.items()}
            case ast.IfExp() if self._constant(node.test):
                return self._join(node.body, node.orelse, lambda a, b: ast.IfExp(node.test, a, b))
        raise ValueError(f"not linear with constant coefficients: {ast.unparse(node)}")

    def _constant(self, node: ast.expr) -> bool:
        return names_in(node) <= self.constants

    def _join(
        self, left: ast.expr, right: ast.expr, join: Callable[[ast.expr, ast.expr], ast.expr]
    ) -> dict[str, ast.expr]:
        a, b, zero = self.coefficients(left), self.coefficients(right), ast.Constant(0)
        return {state: join(a.get(state, zero), b.get(state, zero)) for state in {**a, **b}}


def _in(node: ast.AST, states: Collection[str]) -> bool:
    """Return whether `node` depends on one of `states`; `prev` of a state is none."""
    match node:
        case ast.Call(func=ast.Name(id="prev")):
            return False
        case ast.Name():
            return node.id in states
    return any(_in(child, states) for child in ast.iter_child_nodes(node))


def _reachable(matrix: Mapping[str, Mapping[str, object]]) -> dict[str, set[str]]:
    """Return state -> the states that it depends on within a step, itself among them."""
    reach = {state: {state, *row} for state, row in matrix.items()}
    for _ in matrix:
        reach = {
            state: set().union(*(reach[other] for other in row)) for state, row in reach.items()
        }
    return reach


def phi1(z: Tensor) -> Tensor:
    """Return (exp(z) - 1)/z, and 1 at 0, with accurate derivatives; float64 within."""
    wide = z.double()
    near = wide.abs() < 1
    small = torch.where(near, wide, 0.0)
    series = torch.full_like(small, 1 / math.factorial(20))
    for k in range(19, 0, -1):
        series = series * small + 1 / math.factorial(k)
    large = torch.where(near, 1.0, wide)
    return torch.where(near, series, torch.expm1(large) / large).to(z.dtype)
