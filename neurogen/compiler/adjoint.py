"""Model -> Program: the step and its transpose.

In: a `Model`. Out: a `Program` with the step to run forwards and the adjoint to run backwards. Each
named statement is differentiated on its own, by `calculus.py`, on a copy; the chain rule between
statements is written out with the statements' names, so that the result reads like the derivation:
d_spike, d_u, d_h_v.

The discrete adjoint: with lam[t] = dL/dV[t] and g[t] = dL/dS[t], for t = T-1 … 0

    d_spike = g[t] + lam[t] dV/dS,   d_h = lam[t] dV/dH + d_spike sigma'(u),
    dL/dX[t] = d_h dH/dX,            lam[t-1] = d_h dH/dV.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurogen.compiler.calculus import Calculus, NotFiniteError
from neurogen.compiler.expression import Apply, Expression, Name, Number, names, substitute
from neurogen.compiler.jacobian import build_jacobian
from neurogen.compiler.model import Model
from neurogen.compiler.passes import (
    Fresh,
    follow,
    is_slow,
    live,
    share,
    times,
    value,
    values,
)
from neurogen.compiler.program import Assign, Kernel, Program
from neurogen.errors import SpecError

_ZERO = Number(0.0)
_MOST_KEPT = 8  # values of a step, beside its charged potentials


def build_program(model: Model) -> Program:
    """Differentiate a model and order what remains for both directions of time."""
    forward = values(model.statements)
    # Where a step ends under another name than its statement has, the alias is followed.
    aliases = {a.name: a.expression for a in forward if isinstance(a.expression, Name)}
    ends = {s.name: follow(s.following, aliases) for s in model.states}
    results = (("output", follow(model.output, aliases)), *ends.items())
    # The step as written keeps its `detach`: no alias that goes through one is followed.
    plain = {a.name: a.expression for a in model.statements if isinstance(a.expression, Name)}
    ends_as_written = {s.name: follow(s.following, plain) for s in model.states}
    written = (("output", follow(model.output, plain)), *ends_as_written.items())
    fresh = Fresh(_names(model))
    calculus = Calculus()
    adjoint = _adjoint(model, fresh, calculus)
    backward = tuple(a for a in forward if not isinstance(a.expression, Name)) + tuple(
        Assign(a.name, substitute(value(a.expression), aliases), a.note) for a in adjoint.body
    )
    gradients = tuple((name, substitute(value(e), aliases)) for name, e in adjoint.results)
    whole = share(Kernel(backward, (*results, *gradients)), fresh)
    step = live(Kernel(whole.body, results))
    kept = _kept(step, live(Kernel(whole.body, gradients)), {s.charged for s in model.states})
    rest = tuple(assign for assign in whole.body if assign.name not in kept)
    return Program(
        inputs=model.spec.inputs,
        states=model.states,
        noise=model.noise,
        constants=model.constants,
        matrices=model.matrices,
        flags=model.flags,
        grad_output=model.grad_output,
        step=live(Kernel(model.statements, written)),
        forward=step,
        backward=live(Kernel(rest, gradients)),
        kept=kept,
        jacobian=build_jacobian(model, calculus),
    )


def _kept(step: Kernel, adjoint: Kernel, charged: set[str]) -> tuple[str, ...]:
    """Which values of the step its adjoint reads from memory instead of computing them again.

    Those of them that only others of them need are dropped: the adjoint never looks at them.
    Where they would crowd the cache only the charged potentials are kept.
    """
    computed = {assign.name for assign in step.body}
    candidates = {
        assign.name
        for assign in adjoint.body
        if assign.name in computed and (assign.name in charged or is_slow(assign.expression))
    }
    if len(candidates - charged) > _MOST_KEPT:
        candidates &= charged
    rest = live(Kernel(tuple(a for a in adjoint.body if a.name not in candidates), adjoint.results))
    read = set().union(
        *(names(a.expression) for a in rest.body), *(names(e) for _, e in rest.results)
    )
    return tuple(a.name for a in step.body if a.name in candidates & read)


# -- the chain rule between statements -----------------------------------------------------------


def _names(model: Model) -> Iterator[str]:
    """Every name that a model gives to anything."""
    yield from (*model.spec.inputs, *model.flags, model.grad_output)
    yield from (statement.name for statement in model.statements)
    yield from (constant.name for constant in model.constants)
    yield from (noise.name for noise in model.noise)
    yield from (name for state in model.states for name in (state.name, state.adjoint))


def _adjoint(model: Model, fresh: Fresh, calculus: Calculus) -> Kernel:
    """Statements d_name = dL/dname in reverse order, then dL/d(states, inputs, constants)."""
    arriving: dict[str, list[Expression]] = {model.output: [Name(model.grad_output)]}
    for state in model.states:
        if state.differentiable:
            arriving.setdefault(state.following, []).append(Name(state.adjoint))
    integers = {n for s in model.states if not s.differentiable for n in (s.name, s.charged,
                s.following)}  # fmt: skip
    fixed = {*model.flags, *integers, *(noise.name for noise in model.noise)}
    body: list[Assign] = []

    def total(name: str, note: str) -> Expression | None:
        """dL/dname as a name of its own, unless it is one already; None if nothing arrives."""
        terms = arriving.pop(name, [])
        if not terms:
            return None
        result = terms[0]
        for term in terms[1:]:
            result = (
                Apply("-", (result, term.arguments[0]))
                if isinstance(term, Apply) and term.operator == "neg"
                else Apply("+", (result, term))
            )
        if isinstance(result, Name):
            return result
        gradient = fresh(f"d_{name}")
        body.append(Assign(gradient, result, note))
        return Name(gradient)

    for assign in reversed(model.statements):
        if assign.name in integers:
            arriving.pop(assign.name, None)
            continue
        gradient = total(assign.name, f"dL/d{_symbol(model, assign.name)}")
        if gradient is None:
            continue
        for name in sorted(names(assign.expression) - fixed):
            try:
                term = times(gradient, calculus.partial(assign.expression, name))
            except NotFiniteError:
                message = f"the derivative of {assign.name} by {name} is never finite"
                mistake = model.spec.mistake("NG026", (), message, "something is divided by 0")
                raise SpecError((mistake,)) from None
            if term != _ZERO:
                arriving.setdefault(name, []).append(term)
    results: list[tuple[str, Expression]] = []
    for x in model.spec.inputs:
        results.append((x, total(x, f"dL/d{x.upper()}[t]") or _ZERO))
    for state in model.states:
        if state.differentiable:
            symbol = "V" if state.name == "v" else state.name
            results.append((state.name, total(state.name, f"dL/d{symbol}[t-1]") or _ZERO))
    for constant in model.constants:
        results.append((constant.name, total(constant.name, f"this step's dL/d{constant.name}")
                        or _ZERO))  # fmt: skip
    return Kernel(tuple(body), tuple(results))


def _symbol(model: Model, name: str) -> str:
    """The textbook's symbol of a statement: H[t], S[t], V[t]."""
    if name == "spike":
        return "S[t]"
    for state in model.states:
        letter = {"v": ("H", "V")}.get(state.name, (state.name, state.name))
        if name == state.charged:
            return f"{letter[0]}[t]"
        if name == state.following:
            return f"{letter[1]}[t]"
    return name
