"""Model -> Program: the step and its transpose.

In: a `Model`. Out: a `Program` with the step to run forwards and the adjoint to run backwards. Each
named statement is differentiated on its own, by SymPy, on a copy; the chain rule between
statements is written out with the statements' names, so that the result reads like the derivation:
d_spike, d_u, d_h_v. This is the only module that hands anything to SymPy, and nothing that SymPy
reordered is ever part of a forward pass.

The discrete adjoint: with lam[t] = dL/dV[t] and g[t] = dL/dS[t], for t = T-1 … 0

    d_spike = g[t] + lam[t] dV/dS,   d_h = lam[t] dV/dH + d_spike sigma'(u),
    dL/dX[t] = d_h dH/dX,            lam[t-1] = d_h dH/dV.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import sympy

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    names,
    parse,
    substitute,
    walk,
)
from neurogen.compiler.model import Model
from neurogen.compiler.program import Assign, Kernel, Program
from neurogen.errors import InternalError

#: d f(a, b, …) / d each argument, as equation text. Ties: max/min ½ each, clip 1, relu 0, abs 0.
DERIVATIVES: Mapping[str, tuple[str, ...]] = {
    "exp": ("exp(a)",),
    "expm1": ("exp(a)",),
    "log": ("1 / a",),
    "log1p": ("1 / (1 + a)",),
    "sqrt": ("0.5 / sqrt(a)",),
    "sin": ("cos(a)",),
    "cos": ("-sin(a)",),
    "tanh": ("(1 - tanh(a)) * (1 + tanh(a))",),
    "sigmoid": ("sigmoid(a) * sigmoid(-a)",),
    "softplus": ("sigmoid(a)",),
    "erf": (f"{2 / math.sqrt(math.pi)!r} * gaussian(a)",),
    "gaussian": ("-2 * a * gaussian(a)",),
    "atan": ("1 / (1 + a * a)",),
    "abs": ("sign(a)",),
    "sign": ("0",),
    "floor": ("0",),
    "round": ("0",),
    "relu": ("1 if a > 0 else 0",),
    "min": ("1 if a < b else (0 if a > b else 0.5)", "1 if a > b else (0 if a < b else 0.5)"),
    "max": ("1 if a > b else (0 if a < b else 0.5)", "1 if a < b else (0 if a > b else 0.5)"),
    "clip": ("1 if a >= b and a <= c else 0", "1 if a < b else 0", "1 if a > c and a >= b else 0"),
    "detach": ("0",),
    "fire": ("0", "slope(b)"),
}

_ZERO, _ONE = Number(0.0), Number(1.0)


def build_program(model: Model) -> Program:
    """Differentiate a model and order what remains for both directions of time."""
    forward = _values(model.statements)
    # Where a step ends under another name than its statement has, the alias is followed.
    aliases = {a.name: a.expression for a in forward if isinstance(a.expression, Name)}
    ends = {s.name: _follow(s.following, aliases) for s in model.states}
    results = (("output", _follow(model.output, aliases)), *ends.items())
    adjoint = _adjoint(model)
    fresh = _Fresh(a.name for a in (*model.statements, *adjoint.body))
    fresh.taken |= {*model.spec.inputs, *model.flags, model.grad_output}
    fresh.taken |= {c.name for c in model.constants}
    fresh.taken |= {n for s in model.states for n in (s.name, s.adjoint)}
    backward = tuple(a for a in forward if not isinstance(a.expression, Name)) + tuple(
        Assign(a.name, substitute(a.expression, aliases), a.note) for a in adjoint.body
    )
    gradients = tuple((name, substitute(e, aliases)) for name, e in adjoint.results)
    return Program(
        inputs=model.spec.inputs,
        states=model.states,
        constants=model.constants,
        flags=model.flags,
        grad_output=model.grad_output,
        step=Kernel(model.statements, results),
        forward=live(share(Kernel(
            tuple(a for a in forward if not isinstance(a.expression, Name)), results), fresh)),
        backward=live(share(Kernel(backward, gradients), fresh)),
    )  # fmt: skip


def differentiate(expression: Expression, name: str) -> Expression:
    """d expression / d name, as SymPy orders it."""
    return _Calculus().partial(expression, name)


# -- the chain rule between statements -----------------------------------------------------------


def _adjoint(model: Model) -> Kernel:
    """Statements d_name = dL/dname in reverse order, then dL/d(states, inputs, constants)."""
    arriving: dict[str, list[Expression]] = {model.output: [Name(model.grad_output)]}
    for state in model.states:
        if state.differentiable:
            arriving.setdefault(state.following, []).append(Name(state.adjoint))
    integers = {n for s in model.states if not s.differentiable for n in (s.name, s.charged,
                s.following)}  # fmt: skip
    taken = _Fresh(a.name for a in model.statements)
    body: list[Assign] = []
    calculus = _Calculus()

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
        gradient = taken(f"d_{name}")
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
            term = times(gradient, calculus.partial(assign.expression, name))
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
    """gradient * partial, without the multiplications that a person would not write.

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


# -- SymPy -----------------------------------------------------------------------------------------


class Where(sympy.Function):  # type: ignore[misc]
    """c ? a : b with an opaque condition; the derivative chooses last."""

    def _eval_derivative(self, symbol: sympy.Symbol) -> sympy.Expr:
        condition, taken, untaken = self.args
        first, second = taken.diff(symbol), untaken.diff(symbol)
        return first if first == second else Where(condition, first, second)


class _Calculus:
    """Copies of our trees in SymPy, and the way back.

    Whatever SymPy returns unchanged comes back as the tree that was written (`original`), so that
    a function value already computed forwards is recognised, and shared, backwards.
    """

    def __init__(self) -> None:
        self.original: dict[sympy.Basic, Expression] = {}
        self.conditions: dict[Expression, sympy.Symbol] = {}
        self.functions: dict[str, type[sympy.Function]] = {"where": Where}

    def partial(self, expression: Expression, name: str) -> Expression:
        """d expression / d name."""
        return self.back(self.there(expression).diff(sympy.Symbol(name)))

    def there(self, node: Expression) -> sympy.Basic:
        match node:
            case Number(value=value):
                return sympy.Rational(repr(value))
            case Name(name=name):
                return sympy.Symbol(name)
        assert isinstance(node, Apply)
        entry = OPERATORS.get(node.operator) or INTERNAL[node.operator]
        arguments = [
            self.condition(a) if takes == "condition" else self.there(a)
            for a, takes in zip(node.arguments, entry.takes, strict=True)
        ]
        match node.operator:
            case "+":
                result = arguments[0] + arguments[1]
            case "-":
                result = arguments[0] - arguments[1]
            case "*":
                result = arguments[0] * arguments[1]
            case "/":
                result = arguments[0] / arguments[1]
            case "neg":
                result = -arguments[0]
            case "**":
                result = arguments[0] ** arguments[1]
            case _:
                result = self.function(node.operator)(*arguments)
        self.original.setdefault(result, node)
        return result

    def condition(self, node: Expression) -> sympy.Symbol:
        """A condition is opaque to SymPy: a symbol that stands for its tree."""
        if node not in self.conditions:
            symbol = sympy.Symbol(f"condition {len(self.conditions):04d}")
            self.conditions[node] = symbol
            self.original[symbol] = node
        return self.conditions[node]

    def function(self, name: str) -> type[sympy.Function]:
        if name not in self.functions:
            calculus = self

            def fdiff(self: sympy.Function, argindex: int = 1) -> sympy.Basic:
                rules = DERIVATIVES.get(name)
                if rules is None:
                    raise InternalError("adjoint", f"{name} has no derivative")
                arguments = {
                    letter: calculus.back(argument)
                    for letter, argument in zip("abc", self.args, strict=False)
                }
                rule = _internal_parse(rules[argindex - 1])
                return calculus.there(substitute(rule, arguments))

            self.functions[name] = type(f"{name}_", (sympy.Function,), {"fdiff": fdiff})
        return self.functions[name]

    def back(self, node: sympy.Basic) -> Expression:
        """SymPy -> our tree, terms and factors in a fixed order, quotients as divisions."""
        if node in self.original:
            return self.original[node]
        if isinstance(node, sympy.Rational):
            return Number(node.p / node.q)
        if isinstance(node, sympy.Symbol):
            return Name(node.name)
        if isinstance(node, sympy.Add):
            return self.sum(node)
        if isinstance(node, sympy.Mul | sympy.Pow):
            return self.product(node)
        if isinstance(node, sympy.Function):
            symbol = "where" if isinstance(node, Where) else type(node).__name__.rstrip("_")
            return Apply(symbol, tuple(self.back(argument) for argument in node.args))
        raise InternalError("adjoint", f"SymPy returned a {type(node).__name__}")

    def sum(self, node: sympy.Add) -> Expression:
        terms = sorted(node.args, key=sympy.default_sort_key)
        positive = [t for t in terms if not t.could_extract_minus_sign()]
        negative = [t for t in terms if t.could_extract_minus_sign()]
        if not positive:
            return Apply("neg", (self.back(-node),))
        result = self.back(positive[0])
        for term in positive[1:]:
            result = Apply("+", (result, self.back(term)))
        for term in negative:
            result = Apply("-", (result, self.back(-term)))
        return result

    def product(self, node: sympy.Expr) -> Expression:
        coefficient, rest = node.as_coeff_Mul()
        if coefficient.is_negative:
            return Apply("neg", (self.back(-node),))
        above: list[Expression] = []
        below: list[Expression] = []
        if coefficient != 1:
            above.append(self.back(coefficient))
        for factor in sorted(sympy.Mul.make_args(rest), key=sympy.default_sort_key):
            base, exponent = factor.as_base_exp()
            if factor in self.original or not isinstance(exponent, sympy.Integer):
                above.append(self.original.get(factor) or self.back(factor))
                continue
            power = abs(int(exponent))
            value = self.back(base)
            value = value if power == 1 else Apply("**", (value, Number(float(power))))
            (above if exponent > 0 else below).append(value)
        result = _multiply(above)
        return Apply("/", (result, _multiply(below))) if below else result


def _multiply(factors: list[Expression]) -> Expression:
    result = factors[0] if factors else _ONE
    for factor in factors[1:]:
        result = Apply("*", (result, factor))
    return result


@cache
def _internal_parse(text: str) -> Expression:
    """A rule of the derivative table; it may call internal functions."""
    return parse_internal(text)


def parse_internal(text: str) -> Expression:
    """Parse text of our own tables, in which internal functions may be called."""

    def restore(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        return Apply(node.operator, tuple(restore(argument) for argument in node.arguments))

    return restore(parse(text, frozenset(name for name in INTERNAL if name != "fire")))


# -- passes --------------------------------------------------------------------------------------


class _Fresh:
    """Hands out names that no one has."""

    def __init__(self, taken: object) -> None:
        self.taken: set[str] = set(taken)  # type: ignore[call-overload]

    def __call__(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name


def _follow(name: str, aliases: Mapping[str, Expression]) -> Expression:
    target = aliases.get(name)
    return _follow(target.name, aliases) if isinstance(target, Name) else Name(name)


def _values(statements: tuple[Assign, ...]) -> tuple[Assign, ...]:
    """The statements as values: without `detach`, and with aliases followed."""

    def visit(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        inner = tuple(visit(argument) for argument in node.arguments)
        if node.operator == "detach" or (node.operator == "where" and inner[1] == inner[2]):
            return inner[-1]
        return Apply(node.operator, inner, node.at)

    result: list[Assign] = []
    aliases: dict[str, Expression] = {}
    for assign in statements:
        expression = substitute(visit(assign.expression), aliases)
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


def share(kernel: Kernel, fresh: _Fresh) -> Kernel:
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
        inner = Apply(node.operator, tuple(visit(a) for a in node.arguments), node.at)
        if counts.get(node, 0) > 1:
            known[node] = fresh(_SHARED.get(node.operator, "shared"))
            body.append(Assign(known[node], inner, "used more than once"))
            return Name(known[node])
        return inner

    for assign in kernel.body:
        whole = assign.expression
        if isinstance(whole, Apply) and whole not in known and counts.get(whole, 0) > 1:
            expression: Expression = Apply(
                whole.operator, tuple(visit(a) for a in whole.arguments), whole.at
            )
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
    operations = [n for n in walk(node) if isinstance(n, Apply)]
    calls = any(_is_call(n.operator) for n in operations)
    return calls or len(operations) >= 3


def _is_call(operator: str) -> bool:
    entry = OPERATORS.get(operator) or INTERNAL[operator]
    return entry.binds == 0 and operator not in ("abs", "sign", "relu", "min", "max", "clip",
                                                 "fire", "detach", "floor", "round")  # fmt: skip
