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
from neurogen.compiler.model import Model
from neurogen.compiler.passes import Fresh, follow, live, share, value, values
from neurogen.compiler.program import Assign, Kernel, Program
from neurogen.errors import SpecError

_ZERO = Number(0.0)


def build_program(model: Model) -> Program:
    """Differentiate a model and order what remains for both directions of time."""
    forward = values(model.statements)
    # Where a step ends under another name than its statement has, the alias is followed.
    aliases = {a.name: a.expression for a in forward if isinstance(a.expression, Name)}
    ends = {s.name: follow(s.following, aliases) for s in model.states}
    results = (("output", follow(model.output, aliases)), *ends.items())
    fresh = Fresh(_names(model))
    adjoint = _adjoint(model, fresh)
    backward = tuple(a for a in forward if not isinstance(a.expression, Name)) + tuple(
        Assign(a.name, substitute(value(a.expression), aliases), a.note) for a in adjoint.body
    )
    gradients = tuple((name, substitute(value(e), aliases)) for name, e in adjoint.results)
    return Program(
        inputs=model.spec.inputs,
        states=model.states,
        constants=model.constants,
        matrices=model.matrices,
        flags=model.flags,
        grad_output=model.grad_output,
        step=live(Kernel(model.statements, results)),
        forward=live(share(Kernel(
            tuple(a for a in forward if not isinstance(a.expression, Name)), results), fresh)),
        backward=live(share(Kernel(backward, gradients), fresh)),
    )  # fmt: skip


# -- the chain rule between statements -----------------------------------------------------------


def _names(model: Model) -> Iterator[str]:
    """Every name that a model gives to anything."""
    yield from (*model.spec.inputs, *model.flags, model.grad_output)
    yield from (statement.name for statement in model.statements)
    yield from (constant.name for constant in model.constants)
    yield from (name for state in model.states for name in (state.name, state.adjoint))


def _adjoint(model: Model, fresh: Fresh) -> Kernel:
    """Statements d_name = dL/dname in reverse order, then dL/d(states, inputs, constants)."""
    arriving: dict[str, list[Expression]] = {model.output: [Name(model.grad_output)]}
    for state in model.states:
        if state.differentiable:
            arriving.setdefault(state.following, []).append(Name(state.adjoint))
    integers = {n for s in model.states if not s.differentiable for n in (s.name, s.charged,
                s.following)}  # fmt: skip
    body: list[Assign] = []
    calculus = Calculus()

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
        for name in sorted(names(assign.expression) - set(model.flags) - integers):
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
