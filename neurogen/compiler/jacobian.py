"""Model -> the blocks of the step's Jacobian, cut at the charged potential H[t].

In: a `Model`. Out: a `Jacobian`: statements that a caller can run over whole sequences, because no
block needs the step before it. Separate from `adjoint.py`, which composes the same derivatives to
the transpose of a whole step; here they stay apart, as the kernel-level functions hand them out:

    dS/dH and dV/dH         (and dH/dV, dH/dX where they depend on a state)    by `with_grad`,
    dH/dX and dH/dV         of inputs and parameters only                      by `bptt`.

Tangents are carried forwards, statement by statement, one sweep for each H, V[t-1] and X.
"""

from __future__ import annotations

from collections.abc import Iterable

from neurogen.compiler.calculus import Calculus
from neurogen.compiler.expression import Apply, Expression, Name, Number, names, substitute
from neurogen.compiler.model import Model
from neurogen.compiler.passes import Fresh, live, share, times, value, values
from neurogen.compiler.program import Assign, Block, Constant, Jacobian, Kernel, Matrix

_ZERO, _ONE = Number(0.0), Number(1.0)


def build_jacobian(model: Model, calculus: Calculus) -> Jacobian:
    """Derive the blocks of a step that are not 0 in every variant."""
    ends = (model.output, *(s.following for s in model.states), *(s.charged for s in model.states))
    step = live(Kernel(model.statements, tuple((name, Name(name)) for name in ends)))
    sweep = _Sweep(model, step.body, calculus)
    states = [s for s in model.states if s.differentiable]
    single = len(model.states) == 1
    found: list[tuple[str, str, str, Expression]] = []  # name, of, by, expression

    def label(symbol: str, state: str) -> str:
        return symbol if single else f"{symbol}_{state}"

    def after(by: str, symbol: str, tangents: dict[str, Expression]) -> None:
        """The blocks of what comes after the charge."""
        found.append((f"grad_s_to_{by}", "S", symbol, tangents.get(model.output, _ZERO)))
        for state in states:
            block = tangents.get(state.following, _ZERO)
            found.append((f"grad_{state.name}_to_{by}", f"V.{state.name}", symbol, block))

    def charge(by: str, symbol: str, tangents: dict[str, Expression]) -> None:
        """The blocks of the charge."""
        for state in states:
            name = f"grad_{label('h', state.name)}_to_{by}"
            found.append((name, f"H.{state.name}", symbol, tangents.get(state.charged, _ZERO)))

    cut = frozenset(s.charged for s in states)
    for state in states:
        after(label("h", state.name), f"H.{state.name}", sweep(state.charged, cut))
    seeds = [(x, f"X.{x}") for x in model.spec.inputs]
    seeds += [(s.name, f"V.{s.name}") for s in states]
    for seed, symbol in seeds:
        charge(seed, symbol, sweep(seed, frozenset()))
    for seed, symbol in seeds:  # past the charge: fire or reset names X[t], or V[t-1] by prev
        if seed not in cut:
            after(seed, symbol, sweep(seed, cut))
    return _arrange(model, sweep, [entry for entry in found if entry[-1] != _ZERO])


class _Sweep:
    """Tangents of every statement, by one name; statements are collected in `body`."""

    def __init__(self, model: Model, statements: tuple[Assign, ...], calculus: Calculus) -> None:
        self.statements = statements
        self.calculus = calculus
        self.body: list[Assign] = []
        self.ignored = {*model.flags, *(noise.name for noise in model.noise)} | {
            name for s in model.states if not s.differentiable
            for name in (s.name, s.charged, s.following)
        }  # fmt: skip
        self.fresh = Fresh(a.name for a in model.statements)
        self.fresh.taken |= {*model.spec.inputs, *model.flags, *(s.name for s in model.states)}
        self.fresh.taken |= {c.name for c in model.constants} | {n.name for n in model.noise}

    def __call__(self, seed: str, cut: frozenset[str]) -> dict[str, Expression]:
        """The tangents by `seed` that are not 0; what `cut` names is held."""
        tangents: dict[str, Expression] = {seed: _ONE}
        for assign in self.statements:
            if assign.name in cut or assign.name in self.ignored:
                continue
            terms = [
                product(tangents[name], self.calculus.partial(assign.expression, name))
                for name in sorted(names(assign.expression) - self.ignored)
                if name in tangents
            ]
            tangent = _sum(term for term in terms if term != _ZERO)
            if tangent == _ZERO:
                continue
            if not _is_short(tangent):
                name = self.fresh(f"{assign.name}_by_{seed}")
                self.body.append(Assign(name, tangent, f"d {assign.name} / d {seed}"))
                tangent = Name(name)
            tangents[assign.name] = tangent
        return tangents


def _arrange(
    model: Model, sweep: _Sweep, found: list[tuple[str, str, str, Expression]]
) -> Jacobian:
    """Blocks of the charge that no state enters are for `bptt`, all others for `with_grad`."""
    forward = values(sweep.statements)
    aliases = {a.name: a.expression for a in forward if isinstance(a.expression, Name)}

    def plain(expression: Expression) -> Expression:
        return substitute(value(expression), aliases)

    body = tuple(a for a in forward if not isinstance(a.expression, Name))
    body += tuple(Assign(a.name, plain(a.expression), a.note) for a in sweep.body)
    kept: tuple[list[tuple[Block, Expression]], ...] = ([], [])
    # Noise, too, is known to `with_grad` only.
    stateful = {*(s.name for s in model.states), *(noise.name for noise in model.noise)}
    for assign in body:
        if names(assign.expression) & stateful:
            stateful.add(assign.name)
    for name, of, by, expression in found:
        result = plain(expression)
        late = of[0] == "H" and not names(result) & stateful
        kept[late].append((Block(sweep.fresh(name), of, by), result))
    kernels = [
        live(share(live(Kernel(body, tuple((b.name, e) for b, e in part))), sweep.fresh))
        for part in kept
    ]
    return Jacobian(
        tuple(b for b, _ in kept[0]), kernels[0], tuple(b for b, _ in kept[1]), kernels[1],
        _uses(model, kernels[1]),
    )  # fmt: skip


def _uses(model: Model, kernel: Kernel) -> tuple[str, ...]:
    """The inputs, parameters, learnables and flags behind a kernel, in the constructor's order."""
    read = set().union(
        *(names(e) for _, e in kernel.results), *(names(a.expression) for a in kernel.body)
    )
    constants: dict[str, Constant] = {c.name: c for c in model.constants}
    matrices: dict[str, Matrix] = {m.name: m for m in model.matrices}
    for name in sorted(read & constants.keys()):
        read |= names(constants[name].expression)
    for name in sorted(read & matrices.keys()):
        read |= {n for row in matrices[name].rows for entry in row for n in names(entry)}
    spec = model.spec
    ordered = (
        *spec.inputs, *(p.name for p in model.parameters), *(f.name for f in spec.flags),
        *(w.name for w in spec.learnable), *(set(model.flags) - {f.name for f in spec.flags}),
    )  # fmt: skip
    return tuple(name for name in ordered if name in read)


def product(a: Expression, b: Expression) -> Expression:
    """The product as `times` writes it, from either side."""
    if isinstance(a, Number) or (_chooses_zero(a) and not isinstance(b, Number)):
        a, b = b, a
    if isinstance(a, Number) and isinstance(b, Number):
        return Number(a.value * b.value)
    return times(a, b)


def _chooses_zero(node: Expression) -> bool:
    return isinstance(node, Apply) and node.operator == "where" and _ZERO in node.arguments[1:]


def _is_short(node: Expression) -> bool:
    """Whether an expression is written out where it is used: a name, or one behind a flag."""
    if isinstance(node, Number | Name):
        return True
    return _chooses_zero(node) and all(
        isinstance(argument, Number | Name) for argument in node.arguments
    )


def _sum(terms: Iterable[Expression]) -> Expression:
    result: Expression | None = None
    for term in terms:
        if result is None:
            result = term
        elif isinstance(term, Apply) and term.operator == "neg":
            result = Apply("-", (result, term.arguments[0]))
        else:
            result = Apply("+", (result, term))
    return result or _ZERO
