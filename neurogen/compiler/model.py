"""Spec -> Model: one discrete step of the neuron (charge, fire, reset) and its prelude.

In: a `Spec`. Out: a `Model`: every name resolved to one value, parameter-only subexpressions drawn
out as constants, compile-time flags left as conditions. Semantic mistakes are found here, all of
them in one run. Separate because this is where the language gets its meaning; derivatives and
targets come after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    did_you_mean,
    infix,
    names,
    parse,
    substitute,
    walk,
)
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.program import (
    DETACH_RESET,
    HARD_RESET,
    Assign,
    Constant,
    StateVariable,
    is_flag_condition,
)
from neurogen.compiler.source import Path
from neurogen.compiler.spec import Equation, Parameter, Spec, State
from neurogen.errors import Mistake, SpecError

_BASE = {
    "v_threshold": Parameter(
        name="v_threshold", default=1.0, doc="Threshold of the membrane potential."
    ),
    "v_reset": Parameter(
        name="v_reset",
        default=0.0,
        doc="Membrane potential after a spike (hard reset) and at rest.",
    ),
}
_BASE_STATES = (State(name="v", init=Equation("v_rest", parse("v_rest"))),)
_HARD = parse("spike*v_reset + (1 - spike)*v")
_SOFT = parse("v - spike*v_threshold")
_ZERO, _ONE = Number(0.0), Number(1.0)


@dataclass(frozen=True, slots=True)
class Model:
    """One discrete step.

    Attributes:
        spec: Where it came from.
        parameters: Constructor keywords that are numbers or tensors, base neuron's included.
        reset: `auto` (hard or soft as `v_reset` says), `hard`, `soft` or `fixed` (by the spec).
        learnable_when: Learnables that exist only under a flag condition.
        charge, fire, after: Statements up to H[t], S[t] and V[t]; `after` ends with the output.
        output: The name that leaves the step.
    """

    spec: Spec
    parameters: tuple[Parameter, ...]
    reset: str
    flags: tuple[str, ...]
    constants: tuple[Constant, ...]
    states: tuple[StateVariable, ...]
    learnable_when: tuple[tuple[str, Expression], ...]
    charge: tuple[Assign, ...]
    fire: tuple[Assign, ...]
    after: tuple[Assign, ...]
    output: str
    grad_output: str

    @property
    def statements(self) -> tuple[Assign, ...]:
        """The whole step in order."""
        return self.charge + self.fire + self.after


def build_model(spec: Spec) -> Model:
    """Give a spec its meaning.

    Raises:
        SpecError: With every semantic mistake.
    """
    builder = _Builder(spec)
    model = builder.build()
    if builder.mistakes:
        raise SpecError(tuple(builder.mistakes))
    assert model is not None
    return model


@dataclass
class _Builder:
    """Mutable while one model is built; nothing outlives `build`."""

    spec: Spec
    mistakes: list[Mistake] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def build(self) -> Model | None:
        spec = self.spec
        self.refuse_unsupported()
        self.declare()
        if self.mistakes:
            return None
        statements: list[Assign] = []
        scope = self.parameter_scope()
        states = {state.name: state.name for state in self.states}
        for name in (*states, *spec.inputs):
            scope[name] = Name(name)

        integers = {state.name for state in self.states if state.integer}

        def step(name: str, expression: Expression | None, note: str, state: str = "") -> None:
            value = expression or _ZERO
            if state in integers:  # a counter: no gradient flows through it
                value = Apply("detach", (value,))
            statements.append(Assign(name, value, note))

        # let: parameter-only ones are constants of the prelude, the others are temporaries
        for item in spec.let:
            path: Path = ("let", item.name)
            expression = self.resolve(item.equation, path, scope)
            if expression is not None and self.is_constant(expression):
                self.named_constants[item.name] = expression
            else:
                step(item.name, expression, "let")
            scope[item.name] = Name(item.name)
        # charge
        for index, item in enumerate(spec.charge):
            path = ("charge", item.name) if len(spec.charge) > 1 else ("charge",)
            expression = self.resolve(item.equation, path, scope)
            if item.name in states:
                charged = self.fresh(f"h_{item.name}")
                states[item.name] = charged
                note = f"charge: {'H' if item.name == 'v' else item.name}[t]"
            else:
                if item.name in scope:
                    self.add("NG011", ("charge", index), f"'{item.name}' is declared already",
                             "a step of charge is a state or a new name", key=True)  # fmt: skip
                charged, note = item.name, "charge"
            step(charged, expression, note, item.name)
            scope[item.name] = Name(charged)
        split_charge = len(statements)
        # fire
        spike = self.fire(scope, step)
        split_fire = len(statements)
        # reset: simultaneous, so every right-hand side sees this one scope
        following = dict(states)
        resets = self.resets(scope)
        if resets and self.may_fire:
            reset_spike = self.fresh("reset_spike")
            step(reset_spike, Apply("where", (Name(DETACH_RESET), Apply("detach", (spike,)), spike)),
                 "S[t] as reset sees it")  # fmt: skip
            scope_after = {**scope, "spike": Name(reset_spike)}
        else:
            scope_after = {**scope, "spike": _ZERO}
        for name, equation, path in resets:
            expression = self.resolve(equation, path, scope_after)
            following[name] = self.fresh(f"next_{name}")
            step(following[name], expression, f"reset: {'V' if name == 'v' else name}[t]", name)
        # output: sees what the step leaves behind
        output = spike.name if isinstance(spike, Name) else None
        if spec.output is not None:
            after = {name: Name(following[name]) for name in states}
            expression = self.resolve(spec.output, ("output",), {**scope, **after, "spike": spike})
            output = self.fresh("output")
            step(output, expression, "output")
        elif output is None:
            self.add("NG004", ("fire",), "a neuron that never fires needs an `output`",
                     "output: v")  # fmt: skip
        self.check_unused(following)
        if self.mistakes:
            return None
        return self.assemble(statements, split_charge, split_fire, states, following, output or "")

    # -- declarations ------------------------------------------------------------------------

    def refuse_unsupported(self) -> None:
        spec = self.spec
        for key in ("dynamics", "scheme", "kernels", "noise"):
            if getattr(spec, key):
                self.add("NG007", (key,), f"`{key}` is not supported yet", key=True)
        if spec.fire is not None and spec.fire.kind != "binary":
            self.add("NG007", ("fire", "kind"), f"`kind: {spec.fire.kind}` is not supported yet")
        for state in spec.states:
            if state.uniform is not None:
                self.add("NG007", ("states", state.name), "a random initial value is not supported "
                         "yet")  # fmt: skip
        for key, entries in (("parameters", spec.parameters), ("learnable", spec.learnable)):
            for entry in entries:
                if entry.per == "step":
                    self.add("NG007", (key, entry.name, "per"), "`per: step` is not supported yet")
        if not spec.charge and not spec.dynamics:
            self.add("NG004", (), "missing key 'charge'", "charge: v + x")

    def declare(self) -> None:
        """Check that names are declared once, and settle what the base neuron adds."""
        spec = self.spec
        self.states = spec.states or _BASE_STATES
        kinds: list[tuple[str, Iterable[str]]] = [
            ("states", (s.name for s in spec.states)),
            ("inputs", spec.inputs),
            ("parameters", (p.name for p in spec.parameters)),
            ("learnable", (w.name for w in spec.learnable)),
            ("flags", (f.name for f in spec.flags)),
            ("let", (d.name for d in spec.let)),
            ("kernels", (k.name for k in spec.kernels)),
        ]
        seen: dict[str, str] = {} if spec.states else {"v": "states"}
        for kind, declared in kinds:
            for position, name in enumerate(declared):
                path: Path = (kind, position if kind == "inputs" else name)
                if name in seen:
                    where = f"{seen[name]} already" if spec.states or name != "v" else (
                        "states: it is the membrane potential")  # fmt: skip
                    self.add("NG011", path, f"'{name}' is declared in {where}",
                             "every name has one meaning", key=kind != "inputs")  # fmt: skip
                if name in _BASE and kind not in ("parameters", "learnable"):
                    self.add("NG010", path, f"'{name}' is a parameter of the base neuron",
                             "choose another name", key=kind != "inputs")  # fmt: skip
                seen[name] = kind
        if not spec.inputs:
            self.add("NG005", ("inputs",), "a neuron has at least one input")
        self.taken = {*seen, *_BASE, *(item.name for item in spec.charge), "spike", "v_rest", "dt",
                      DETACH_RESET, HARD_RESET, "spiking"}  # fmt: skip
        assigned = {item.name for item in spec.reset.assignments}
        has_v = any(state.name == "v" for state in self.states)
        rule = spec.reset.rule
        self.reset = (
            rule if has_v and "v" not in assigned and rule != "none" and self.may_fire else "fixed"
        )
        mentioned = self.mentioned()
        if self.reset == "auto" or self.reset == "soft":
            mentioned.add("v_threshold")
        if self.reset in ("auto", "hard"):
            mentioned.add("v_reset")
        self.both_resets = self.reset == "auto" or (self.reset == "fixed" and "v_rest" in mentioned
                                                    and "v_reset" not in mentioned)  # fmt: skip
        if "v_rest" in mentioned and self.reset != "soft":
            mentioned.add("v_reset")
        own = {p.name for p in spec.parameters} | {w.name for w in spec.learnable}
        self.parameters = spec.parameters + tuple(
            parameter for name, parameter in _BASE.items() if name in mentioned and name not in own
        )
        if "dt" in mentioned:
            self.parameters += (
                Parameter(name="dt", default=spec.dt or 1.0, doc="Time step."),
            )
        elif spec.dt is not None:
            self.add("NG013", ("dt",), "'dt' is never used", "remove it, or name dt", key=True)
        self.flags = tuple(f.name for f in spec.flags) + ((HARD_RESET,) if self.both_resets else ())
        self.parameter_names = {
            *(p.name for p in self.parameters), *(w.name for w in spec.learnable), "v_rest",
        }  # fmt: skip
        rest: Expression = Name("v_reset")
        if self.both_resets:
            rest = Apply("where", (Name(HARD_RESET), rest, _ZERO))
        elif "v_reset" not in self.parameter_names or self.reset == "soft":
            rest = _ZERO
        self.named_constants: dict[str, Expression] = {"v_rest": rest}
        self.check_defaults()

    @property
    def may_fire(self) -> bool:
        return self.spec.fire is None or self.spec.fire.when is not None

    def mentioned(self) -> set[str]:
        """Every name that some equation of the spec writes."""
        spec = self.spec
        equations = [item.equation for group in (spec.let, spec.charge, spec.dynamics,
                     spec.reset.assignments) for item in group]  # fmt: skip
        equations += [state.init for state in self.states if state.init is not None]
        equations += [w.init for w in spec.learnable]
        equations += [e for e in (spec.output,) if e is not None]
        if spec.fire is None:
            equations.append(Equation("v >= v_threshold", parse("v >= v_threshold")))
        else:
            equations += [e for e in (spec.fire.when, spec.fire.guard) if e is not None]
        return set().union(*(names(equation.expression) for equation in equations))

    def check_defaults(self) -> None:
        """Defaults must satisfy their own `where` and bounds."""
        values: dict[str, float] = {p.name: p.default for p in self.parameters}
        values |= {f.name: f.default for f in self.spec.flags}
        scope = {name: Name(name) for name in values}
        for parameter in self.spec.parameters:
            if parameter.where is None:
                continue
            path: Path = ("parameters", parameter.name, "where")
            before = set(self.used)
            condition = self.resolve(parameter.where, path, scope, "condition")
            self.used = before | (self.used - {parameter.name})
            if condition is not None and not evaluate(condition, values):
                self.add("NG033", ("parameters", parameter.name, "default"),
                         f"the default {parameter.default:g} does not satisfy {parameter.where}")  # fmt: skip
        for w in self.spec.learnable:
            init = self.resolve(w.init, ("learnable", w.name, "init"), scope, only_parameters=True)
            if w.transform == "clamp" and w.bounds is None:
                self.add("NG004", ("learnable", w.name), "`transform: clamp` needs `bounds`",
                         "bounds: [low, high]", key=True)  # fmt: skip
            if w.bounds is not None and w.bounds[0] >= w.bounds[1]:
                self.add("NG005", ("learnable", w.name, "bounds"), "bounds are [low, high]")
            elif w.bounds is not None and init is not None and w.transform == "clamp":
                value = evaluate(init, values)
                if not w.bounds[0] <= value <= w.bounds[1]:
                    self.add("NG033", ("learnable", w.name, "init"),
                             f"the initial value {value:g} lies outside {list(w.bounds)}")  # fmt: skip

    def parameter_scope(self) -> dict[str, Expression]:
        return {name: Name(name) for name in (*sorted(self.parameter_names), *self.flags)}

    # -- firing and reset --------------------------------------------------------------------

    def fire(self, scope: dict[str, Expression], step: object) -> Expression:
        """Append u and the spike; the value of `spike`."""
        assert callable(step)
        spec = self.spec
        if not self.may_fire:
            return _ZERO
        if spec.fire is None and not any(state.name == "v" for state in self.states):
            self.add("NG004", (), "a neuron without a state v needs `fire`", "fire: a >= 1")
            return Name("spike")
        when = spec.fire.when if spec.fire and spec.fire.when else Equation(
            "v >= v_threshold", parse("v >= v_threshold"))  # fmt: skip
        path: Path = ("fire", "when")
        condition = self.resolve(when, path, scope, "condition")
        if condition is None:
            return Name("spike")
        if not (isinstance(condition, Apply) and condition.operator in (">", ">=")):
            self.add("NG030", path, f"{when} is not a threshold",
                     "write a >= b or a > b; the surrogate sees a - b")  # fmt: skip
            return Name("spike")
        u = self.fresh("u")
        step(u, Apply("-", condition.arguments), "distance to threshold")
        value: Expression = Apply("fire", (condition, Name(u)))
        if spec.fire is not None and spec.fire.guard is not None:
            guard = self.resolve(spec.fire.guard, ("fire", "if"), scope, "condition")
            value = Apply("where", (guard or condition, value, _ZERO))
        step("spike", value, "fire: S[t]")
        return Name("spike")

    def resets(self, scope: dict[str, Expression]) -> list[tuple[str, Equation, Path]]:
        """The (state, right-hand side, place) of every reset, the default of v included."""
        result: list[tuple[str, Equation, Path]] = []
        states = {state.name for state in self.states}
        for item in self.spec.reset.assignments:
            path: Path = ("reset", item.name)
            if item.name not in states:
                hint = did_you_mean(item.name, sorted(states)) or (
                    "states are " + ", ".join(sorted(states)))  # fmt: skip
                self.add("NG031", path, f"'{item.name}' is no state", hint, key=True,
                         width=len(item.name))  # fmt: skip
                continue
            result.append((item.name, item.equation, path))
        default = {
            "hard": _HARD,
            "soft": _SOFT,
            "auto": Apply("where", (Name(HARD_RESET), _HARD, _SOFT)),
        }.get(self.reset)
        if default is not None:
            result.insert(0, ("v", Equation("", default), ("reset",)))
        return result

    # -- names -------------------------------------------------------------------------------

    def fresh(self, wanted: str) -> str:
        """A name no one has: `wanted`, or `wanted` with a number."""
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name

    def add(
        self, code: str, path: Path, message: str, hint: str = "", *, at: int | None = None,
        width: int = 1, key: bool = False,
    ) -> None:  # fmt: skip
        self.mistakes.append(self.spec.mistake(code, path, message, hint, at, width, key))

    def resolve(
        self,
        equation: Equation,
        path: Path,
        scope: Mapping[str, Expression],
        kind: str = "real",
        *,
        only_parameters: bool = False,
    ) -> Expression | None:
        """The equation with its names replaced by what they mean here; None after a mistake."""
        count = len(self.mistakes)

        def fail(code: str, node: Expression, message: str, hint: str = "", width: int = 1) -> None:
            self.add(code, path, message, hint, at=node.at, width=width)

        def visit(node: Expression, expected: str) -> Expression:
            match node:
                case Number():
                    if expected == "condition":
                        fail("NG024", node, "a number is no condition", "compare it: a > 0")
                    return node
                case Name(name=name):
                    return self.lookup(node, scope, expected, fail, only_parameters) or node
            assert isinstance(node, Apply)
            symbol, arguments = node.operator, node.arguments
            if symbol == "prev":
                return self.previous(arguments[0], fail)
            entry = OPERATORS.get(symbol) or INTERNAL[symbol]
            if entry.gives != expected:
                fail("NG024", node, f"{_brief(node)} is a {entry.gives}, a {expected} is needed here",
                     "where(condition, 1, 0) makes a number of a condition"
                     if expected == "real" else "compare it: a > 0")  # fmt: skip
            if symbol == "where" and (spike := self.spike_condition(arguments[0])):
                # A condition on spike is arithmetic, so that the gradient through it exists.
                number = visit(spike, "real")
                taken, untaken = visit(arguments[1], "real"), visit(arguments[2], "real")
                return Apply("+", (Apply("*", (number, taken)),
                                   Apply("*", (Apply("-", (_ONE, number)), untaken))))  # fmt: skip
            inner = tuple(visit(a, k) for a, k in zip(arguments, entry.takes, strict=True))
            if symbol == "heaviside":
                return Apply("where", (Apply(">=", (inner[0], _ZERO)), _ONE, _ZERO))
            if symbol == "step":
                return Apply("fire", (Apply(">=", (inner[0], _ZERO)), inner[0]))
            return Apply(symbol, inner, node.at)

        result = visit(equation.expression, kind)
        return result if len(self.mistakes) == count else None

    def lookup(
        self, node: Name, scope: Mapping[str, Expression], expected: str, fail: object,
        only_parameters: bool,
    ) -> Expression | None:  # fmt: skip
        assert callable(fail)
        name = node.name
        self.used.add(name)
        is_flag = name in self.flags or any(f.name == name for f in self.spec.flags)
        if name not in scope:
            if name == "spike":
                fail("NG032", node, "`spike` is known only after the neuron has fired",
                     "prev(spike) is the last spike", 5)  # fmt: skip
            elif only_parameters:
                fail("NG025", node, f"'{name}' is no parameter; only parameters may stand here",
                     did_you_mean(name, list(scope)), len(name))  # fmt: skip
            else:
                fail("NG012", node, f"unknown name '{name}'",
                     did_you_mean(name, list(scope)) or "known are " + ", ".join(sorted(scope)),
                     len(name))  # fmt: skip
            return None
        if is_flag != (expected == "condition"):
            fail("NG024", node,
                 f"'{name}' is a {'flag' if is_flag else 'number'}, a {expected} is needed here",
                 f"write a if {name} else b" if is_flag else f"compare it: {name} > 0",
                 len(name))  # fmt: skip
            return None
        return scope[name]

    def spike_condition(self, node: Expression) -> Expression | None:
        if node == Name("spike") or node == Apply("prev", (Name("spike"),)):
            return node
        return None

    def previous(self, argument: Expression, fail: object) -> Expression:
        assert callable(fail)
        states = [state.name for state in self.states]
        if argument == Name("spike"):
            self.previous_spike = getattr(self, "previous_spike", "") or self.fresh("prev_spike")
            return Name(self.previous_spike)
        if isinstance(argument, Name) and argument.name in states:
            self.used.add(argument.name)
            return Name(argument.name)
        fail("NG035", argument, f"prev() takes a state or spike, not {_brief(argument)}",
             "states are " + ", ".join(states))  # fmt: skip
        return argument

    def check_unused(self, following: Mapping[str, str]) -> None:
        spec = self.spec
        changed = {item.name for item in (*spec.charge, *spec.reset.assignments)}
        for state in spec.states:
            if state.name not in changed and following[state.name] == state.name:
                self.add("NG034", ("states", state.name), f"state '{state.name}' never changes",
                         "give it an equation in `charge` or `reset`, or make it a parameter",
                         key=True, width=len(state.name))  # fmt: skip
        groups: list[tuple[str, Iterable[str]]] = [
            ("states", (s.name for s in spec.states)),
            ("parameters", (p.name for p in spec.parameters)),
            ("learnable", (w.name for w in spec.learnable)),
            ("flags", (f.name for f in spec.flags)),
            ("let", (d.name for d in spec.let)),
            ("charge", (c.name for c in spec.charge if c.name not in following)),
        ]
        implicit = {"v_threshold", "v_reset"} & {p.name for p in self.parameters}
        implicit -= self.used if self.reset == "fixed" else set()
        used = self.used | (set() if self.reset == "fixed" else implicit)
        for kind, declared in groups:
            for name in declared:
                if name not in used:
                    self.add("NG013", (kind, name), f"'{name}' is never used",
                             "remove it, or name it in an equation", key=True,
                             width=len(name))  # fmt: skip
        for position, name in enumerate(spec.inputs):
            if name not in used:
                path: Path = ("inputs", position) if spec.source.root.child("inputs") else ("charge",)
                self.add("NG013", path, f"input '{name}' is never used",
                         "a neuron that ignores its input is refused")  # fmt: skip

    # -- constants ---------------------------------------------------------------------------

    def is_constant(self, expression: Expression) -> bool:
        """Whether only parameters, flags and numbers occur, and no step of the surrogate."""
        known = self.parameter_names | set(self.flags) | set(self.named_constants)
        return names(expression) <= known and all(
            node.operator != "fire" for node in walk(expression) if isinstance(node, Apply)
        )

    def assemble(
        self, statements: list[Assign], split_charge: int, split_fire: int,
        states: Mapping[str, str], following: Mapping[str, str], output: str,
    ) -> Model:  # fmt: skip
        hoist = _Hoist(self)
        drawn = tuple(
            Assign(s.name, hoist.visit(s.expression, ()), s.note) for s in statements
        )
        variables = [
            StateVariable(
                state.name, states[state.name], following[state.name],
                self.initial(state.name, state.init), self.fresh(f"lam_{state.name}"),
                not state.integer,
            )
            for state in self.states
        ]  # fmt: skip
        if previous := getattr(self, "previous_spike", ""):
            variables.append(StateVariable(previous, previous, "spike", _ZERO,
                                           self.fresh(f"lam_{previous}")))  # fmt: skip
        constants = hoist.constants()
        return Model(
            spec=self.spec,
            parameters=self.parameters,
            reset=self.reset if self.reset != "fixed" or not self.both_resets else "rest",
            flags=self.flags,
            constants=constants,
            states=tuple(variables),
            learnable_when=self.learnable_when(constants),
            charge=drawn[:split_charge],
            fire=drawn[split_charge:split_fire],
            after=drawn[split_fire:],
            output=output,
            grad_output=self.fresh("grad_output"),
        )

    def initial(self, name: str, init: Equation | None) -> Expression:
        equation = init or Equation("0", _ZERO)
        expression = self.resolve(equation, ("states", name), self.parameter_scope(),
                                  only_parameters=True)  # fmt: skip
        if self.mistakes:
            raise SpecError(tuple(self.mistakes))
        return self.inline(expression or _ZERO)

    def inline(self, expression: Expression) -> Expression:
        """Named constants replaced by what they stand for, until only parameters are left."""
        while names(expression) & set(self.named_constants):
            expression = substitute(expression, self.named_constants)
        return expression

    def learnable_when(
        self, constants: tuple[Constant, ...]
    ) -> tuple[tuple[str, Expression], ...]:
        result = []
        for w in self.spec.learnable:
            conditions: list[Expression | None] = []
            for constant in constants:
                conditions += _occurrences(constant.expression, w.name, frozenset(self.flags),
                                           constant.when)  # fmt: skip
            condition = _any(conditions)
            if condition is not None:
                result.append((w.name, condition))
        return tuple(result)


class _Hoist:
    """Draws maximal parameter-only subexpressions out of statements and names them."""

    def __init__(self, builder: _Builder) -> None:
        self.builder = builder
        self.flags = frozenset(builder.flags) | {DETACH_RESET}
        self.found: dict[Expression, str] = {}
        self.conditions: dict[str, list[Expression | None]] = {}

    def visit(self, node: Expression, path: tuple[Expression, ...]) -> Expression:
        if isinstance(node, Number):
            return node
        if self.builder.is_constant(node) and not self.is_condition(node):
            return self.constant(node, path)
        if isinstance(node, Name):
            return node
        if node.operator == "where" and is_flag_condition(node.arguments[0], self.flags):
            condition, taken, untaken = node.arguments
            return Apply("where", (condition, self.visit(taken, (*path, condition)),
                                   self.visit(untaken, (*path, Apply("not", (condition,))))))  # fmt: skip
        if node.operator == "**":  # the exponent is part of the operator
            return Apply("**", (self.visit(node.arguments[0], path), node.arguments[1]), node.at)
        return Apply(node.operator, tuple(self.visit(a, path) for a in node.arguments), node.at)

    def is_condition(self, node: Expression) -> bool:
        if isinstance(node, Apply):
            return (OPERATORS.get(node.operator) or INTERNAL[node.operator]).gives == "condition"
        return isinstance(node, Name) and node.name in self.flags

    def constant(self, node: Expression, path: tuple[Expression, ...]) -> Expression:
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
        return self.builder.fresh(slug)

    def constants(self) -> tuple[Constant, ...]:
        return tuple(
            Constant(name, self.builder.inline(node), _any(self.conditions[name]))
            for node, name in self.found.items()
        )


def _any(conditions: list[Expression | None]) -> Expression | None:
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


def _occurrences(
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

        return _occurrences(taken, name, flags, both(condition)) + _occurrences(
            untaken, name, flags, both(negated)
        )
    return [c for argument in node.arguments for c in _occurrences(argument, name, flags, path)]


def _brief(node: Expression) -> str:
    text = infix(node)
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"

