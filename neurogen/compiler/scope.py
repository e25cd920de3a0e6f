"""Names: what a spec declares, and what each name of an equation means where it stands.

In: a `Spec`. Out: a `Scope` that resolves equations and collects mistakes. Separate from `model.py`
because the order of a step is one thing and the meaning of its names another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from neurogen.compiler.expression import (
    INTERNAL,
    OPERATORS,
    Apply,
    Expression,
    Name,
    Number,
    infix,
    names,
    operators,
    substitute,
)
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.parsing import parse
from neurogen.compiler.passes import Fresh
from neurogen.compiler.program import DETACH_RESET, HARD_RESET, Matrix
from neurogen.compiler.risks import Risk, risk
from neurogen.compiler.source import MAX_MISTAKES, Path
from neurogen.compiler.spec import BROKEN, Equation, Parameter, Spec, State
from neurogen.compiler.tokens import did_you_mean
from neurogen.compiler.transforms import outside
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
BASE_FIRE = parse("v >= v_threshold")
_ZERO, _ONE = Number(0.0), Number(1.0)
_KIND = {"real": "number", "condition": "condition"}
_ONLY = "only parameters have values here"
#: What the language has no name for.
_WRITTEN_OUT = {"pi": "write 3.141592653589793"}
#: Limits of what temporaries may grow to where they are written out.
MAX_WRITTEN_OUT, MAX_DEPTH_WRITTEN_OUT = 1000, 100
_Fail = Callable[..., None]


class Scope:
    """The declared names of one spec; mutable while its model is built.

    Attributes:
        mistakes: What was found so far.
        states: The states, the base neuron's v where the spec declares none.
        parameters: Constructor keywords, those of the base neuron included where they are used.
        defaults: Values of parameters, flags and learnables (as equations see them) by default.
        initials: Value of each state before the first step.
        reset: `auto` (hard or soft as `v_reset` says), `hard`, `soft`, or `fixed` by the spec.
        flags: Compile-time flags, `hard_reset` included where both resets exist.
        definitions: Names that stand for an expression over parameters: `v_rest`, constant `let`s.
        previous_spike: Name of the state that holds the last spike, empty if no equation asks.
        matrices: Matrices whose exponentials constants are elements of.
        stepped: Parameters and learnables that may have a value per time step.
        risks: Operands that must keep to a domain, in every equation that was resolved.
        respond: What a call of a response kernel means: (kernel, argument as written, resolved).
        begun: What prev(state) means: the state's name, but where that one stands for what flows.
    """

    def __init__(self, spec: Spec, mistakes: tuple[Mistake, ...] = ()) -> None:
        self.spec = spec
        self.mistakes: list[Mistake] = list(mistakes)
        self.is_whole = not mistakes  # every equation was read, so unused names can be told
        self.used: set[str] = set()
        self.previous_spike = ""
        self.matrices: list[Matrix] = []
        self.risks: list[Risk] = []
        self.respond: Callable[[str, Expression, Expression], Expression] | None = None
        self.begun: Callable[[str], Expression] = Name
        self.states = spec.states or _BASE_STATES
        self.initials: dict[str, Expression] = {}
        self.defaults: dict[str, float] = {}
        self.declare()

    def declare(self) -> None:
        """Check that names are declared once, and settle what the base neuron adds."""
        spec = self.spec
        kinds: list[tuple[str, Iterable[str]]] = [
            ("states", (s.name for s in spec.states)),
            ("inputs", spec.inputs),
            ("parameters", (p.name for p in spec.parameters)),
            ("learnable", (w.name for w in spec.learnable)),
            ("flags", (f.name for f in spec.flags)),
            ("let", (d.name for d in spec.let)),
            ("kernels", (k.name for k in spec.kernels)),
            ("noise", (n.name for n in spec.noise)),
            ("charge", (c.name for c in spec.charge if not self.is_state(c.name))),
        ]
        seen: dict[str, str] = {} if spec.states else {"v": "states"}
        for kind, declared in kinds:
            for position, name in enumerate(declared):
                path: Path = (kind, position if kind == "inputs" else name)
                if name in seen:
                    where = f"`{seen[name]}` already" if spec.states or name != "v" else (
                        "`states`: it is the membrane potential")  # fmt: skip
                    hint = "every name has one meaning"
                    if kind == "charge":
                        hint = "a step of `charge` is a state or a new name"
                    self.add("NG011", path, f"'{name}' is declared in {where}", hint,
                             key=kind != "inputs")  # fmt: skip
                    self.is_whole = False
                if name in _BASE and kind not in ("parameters", "learnable"):
                    self.add("NG010", path, f"'{name}' is a parameter of the base neuron",
                             "choose another name", key=kind != "inputs")  # fmt: skip
                seen[name] = kind
        self.kernels = {kernel.name for kernel in spec.kernels}
        self.stepped = {p.name for p in spec.parameters if p.per == "step"}
        self.stepped |= {w.name for w in spec.learnable if w.per == "step"}
        ordered = (item.name for item in (*spec.let, *spec.charge))
        self.later = {name for name in ordered if not self.is_state(name)}
        steps = (item.name for item in spec.charge)
        words = ("spike", "v_rest", "dt", DETACH_RESET, HARD_RESET, "spiking")
        self.fresh = Fresh((*seen, *_BASE, *steps, *words))
        assigned = {item.name for item in spec.reset.assignments}
        has_v = any(state.name == "v" for state in self.states)
        learnt = any(w.name == "v_reset" for w in spec.learnable)  # then it is never None
        rule = "hard" if learnt and spec.reset.rule == "auto" else spec.reset.rule
        self.reset = (
            rule if has_v and "v" not in assigned and rule != "none" and self.may_fire else "fixed"
        )
        mentioned = self.mentioned()
        if self.reset in ("auto", "soft"):
            mentioned.add("v_threshold")
        if self.reset in ("auto", "hard"):
            mentioned.add("v_reset")
        free = "v_rest" in mentioned and "v_reset" not in mentioned and not learnt
        self.both_resets = self.reset == "auto" or (self.reset == "fixed" and free)
        if "v_rest" in mentioned and self.reset != "soft":
            mentioned.add("v_reset")
        own = {p.name for p in spec.parameters} | {w.name for w in spec.learnable}
        self.parameters = spec.parameters + tuple(
            parameter for name, parameter in _BASE.items() if name in mentioned and name not in own
        )
        if "dt" in mentioned or spec.dynamics or spec.kernels:
            self.parameters += (Parameter(name="dt", default=spec.dt or 1.0, doc="Time step."),)
        elif spec.dt is not None and self.is_whole:
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
        self.definitions: dict[str, Expression] = {"v_rest": rest}
        self.check_defaults()

    def is_state(self, name: str) -> bool:
        """Whether a name is that of a state."""
        return any(state.name == name for state in self.states)

    def draws(self, expression: Expression) -> bool:
        """Whether a noise occurs in an expression."""
        return not names(expression).isdisjoint(noise.name for noise in self.spec.noise)

    @property
    def may_fire(self) -> bool:
        """Whether there is a fire condition."""
        return self.spec.fire is None or self.spec.fire.when is not None

    def mentioned(self) -> set[str]:
        """Every name that some equation of the spec writes."""
        spec = self.spec
        groups = (spec.let, spec.charge, spec.dynamics, spec.kernels, spec.reset.assignments)
        equations = [item.equation for group in groups for item in group]
        equations += [state.init for state in self.states if state.init is not None]
        equations += [w.init for w in spec.learnable]
        equations += [e for e in (spec.output,) if e is not None]
        if spec.fire is None:
            equations.append(Equation("v >= v_threshold", parse("v >= v_threshold")))
        else:
            equations += [e for e in (spec.fire.when, spec.fire.guard) if e is not None]
        return set().union(*(names(equation.expression) for equation in equations))

    def check_defaults(self) -> None:
        """Defaults must satisfy their own `where` and bounds, and be finite."""
        values = self.defaults
        values |= {p.name: p.default for p in self.parameters}
        values |= {f.name: f.default for f in self.spec.flags}
        refused = {name for name, value in values.items() if math.isnan(value)}
        scope = {name: Name(name) for name in values}
        for parameter in self.spec.parameters:
            if parameter.where is None:
                continue
            before = set(self.used)
            path: Path = ("parameters", parameter.name, "where")
            where = parameter.where
            condition = self.resolve(where, path, scope, "condition", only_parameters=True)
            self.used = before | (self.used - {parameter.name})
            if condition is None or names(condition) & refused:
                continue
            if not evaluate(condition, values):
                self.add("NG033", ("parameters", parameter.name, "default"),
                         f"the default {parameter.default:g} does not satisfy {where}",
                         width=None)  # fmt: skip
        learnt: dict[str, float] = {}
        for w in self.spec.learnable:
            path = ("learnable", w.name, "init")
            init = self.resolve(w.init, path, scope, only_parameters=True)
            learnt[w.name] = math.nan
            if init is None or names(init) & refused:
                continue
            value = evaluate(init, values)
            if not math.isfinite(value):
                self.add("NG033", path, f"the initial value is {value:g}", width=None)
            elif interval := outside(w, value):
                self.add("NG033", path,
                         f"the initial value {value:g} lies outside {interval}, the range of "
                         f"`transform: {w.transform}`",
                         "`init` is what the equations see at first", width=None)  # fmt: skip
            learnt[w.name] = value
        values |= learnt
        parameters = self.parameter_scope()
        for state in self.states:
            if state.init is not None:
                path = ("states", state.name, "init")
                init = self.resolve(state.init, path, parameters, only_parameters=True)
                self.initials[state.name] = init or _ZERO

    def parameter_scope(self) -> dict[str, Expression]:
        """What names mean where only parameters may stand."""
        flags = (flag.name for flag in self.spec.flags)
        return {name: Name(name) for name in (*sorted(self.parameter_names), *flags)}

    def add(
        self, code: str, path: Path, message: str, hint: str = "", *, at: int | None = None,
        width: int | None = 1, key: bool = False,
    ) -> None:  # fmt: skip
        """Note a mistake at a path of the spec.

        Raises:
            SpecError: There are so many that no one reads on.
        """
        self.mistakes.append(self.spec.mistake(code, path, message, hint, at, width, key))
        if len(self.mistakes) >= MAX_MISTAKES:
            raise SpecError(tuple(self.mistakes))

    def resolve(
        self,
        equation: Equation,
        path: Path,
        scope: Mapping[str, Expression],
        kind: str = "real",
        *,
        only_parameters: bool = False,
    ) -> Expression | None:
        """The equation with its names replaced by what they mean here; None after a mistake.

        Args:
            equation: What was written.
            path: Where.
            scope: What each name means.
            kind: `real` or `condition`, whichever is needed.
            only_parameters: Whether it stands outside the step.
        """
        if equation.expression == BROKEN:
            return None
        count = len(self.mistakes)
        guards: list[Expression] = []

        def fail(code: str, node: Expression, message: str, hint: str = "", width: int = 1) -> None:
            self.add(code, path, message, hint, at=node.at, width=width)

        def visit(node: Expression, expected: str) -> Expression:
            match node:
                case Number():
                    if expected == "condition":
                        fail("NG024", node, "a number is no condition", "compare it: a > 0")
                    return node
                case Name():
                    return self.lookup(node, scope, expected, fail, only_parameters) or node
            assert isinstance(node, Apply)
            symbol, arguments = node.operator, node.arguments
            if only_parameters and symbol in {"prev", "step", *self.kernels}:
                fail("NG025", node, f"{symbol}() has no meaning here", _ONLY, len(symbol))
                return node
            if symbol == "prev":
                return self.previous(arguments[0], fail)
            if symbol in self.kernels:
                return self.call(node, expected, visit, fail)
            entry = OPERATORS.get(symbol) or INTERNAL[symbol]
            if entry.gives != expected:
                hint = "where(condition, 1, 0) makes a number of a condition"
                given, needed = _KIND[entry.gives], _KIND[expected]
                fail("NG024", node, f"{brief(node)} is a {given}, not a {needed}",
                     hint if expected == "real" else "compare it: a > 0")  # fmt: skip
            if symbol == "where" and (spike := self.spike_condition(arguments[0])):
                # A condition on spike is arithmetic, so that the gradient through it exists.
                number = visit(spike, "real")
                taken, untaken = visit(arguments[1], "real"), visit(arguments[2], "real")
                return Apply("+", (Apply("*", (number, taken)),
                                   Apply("*", (Apply("-", (_ONE, number)), untaken))))  # fmt: skip
            before = len(self.mistakes)
            inner = branches(node) if symbol == "where" else tuple(
                visit(a, k) for a, k in zip(arguments, entry.takes, strict=True))  # fmt: skip
            if len(self.mistakes) == before:
                check_numbers(node, inner, fail)
            if found := risk(path, node, inner, tuple(guards)):
                self.risks.append(found)
            if symbol == "heaviside":
                return Apply("where", (Apply(">=", (inner[0], _ZERO)), _ONE, _ZERO))
            if symbol == "step":
                return Apply("fire", (Apply(">=", (inner[0], _ZERO)), inner[0]))
            return Apply(symbol, inner, node.at)

        def branches(node: Apply) -> tuple[Expression, ...]:
            """A condition, and what stands under it and under its contrary."""
            condition = visit(node.arguments[0], "condition")
            inner = [condition]
            for guard, branch in zip(
                (condition, Apply("not", (condition,))), node.arguments[1:], strict=True
            ):
                guards.append(guard)
                inner.append(visit(branch, "real"))
                guards.pop()
            return tuple(inner)

        result = visit(equation.expression, kind)
        return result if len(self.mistakes) == count else None

    def lookup(
        self, node: Name, scope: Mapping[str, Expression], expected: str, fail: _Fail,
        only_parameters: bool,
    ) -> Expression | None:  # fmt: skip
        """What a name means here; None after a mistake."""
        name = node.name
        self.used.add(name)
        if name == "v_rest":
            self.used |= names(self.definitions[name])
        declared = name in self.flags or any(f.name == name for f in self.spec.flags)
        is_flag = declared and scope.get(name) == Name(name)  # in a surrogate it is something else
        if name not in scope:
            known = [other for other in scope if other != HARD_RESET]
            hint = _WRITTEN_OUT.get(name) or did_you_mean(name, known)
            hint = hint or "known are " + ", ".join(sorted(known))
            self.used |= {other for other in known if f"'{other}'" in hint}  # named, but for a slip
            if name == "spike" and not only_parameters:
                fail("NG032", node, "`spike` is known only after the neuron has fired",
                     "prev(spike) is the last spike", 5)  # fmt: skip
            elif name in self.later:
                fail("NG012", node, f"'{name}' has no value here yet", "its own line comes later",
                     len(name))  # fmt: skip
            elif only_parameters and (name in self.fresh.taken or name == "spike"):
                fail("NG025", node, f"'{name}' is no parameter", _ONLY, len(name))
            elif self.draws(node):
                fail("NG038", node, f"the noise '{name}' is drawn for `charge` and `dynamics` only",
                     "a step of `charge` can carry it on", len(name))  # fmt: skip
            else:
                fail("NG012", node, f"unknown name '{name}'", hint, len(name))
            return None
        if is_flag != (expected == "condition"):
            fail("NG024", node,
                 f"'{name}' is a {'flag' if is_flag else 'number'}, not a {_KIND[expected]}",
                 f"write a if {name} else b" if is_flag else f"compare it: {name} > 0",
                 len(name))  # fmt: skip
            return None
        return scope[name]

    def call(
        self, node: Apply, expected: str, visit: Callable[[Expression, str], Expression],
        fail: _Fail,
    ) -> Expression:  # fmt: skip
        """The response of a kernel to an input, or to the spike."""
        self.used.add(node.operator)
        argument = node.arguments[0]
        if expected != "real":
            fail("NG024", node, f"{brief(node)} is a number, a condition is needed here")
        elif self.respond is None:
            self.is_whole = False  # what its call would have used is not told as unused
            fail("NG025", node, f"kernel '{node.operator}' cannot be called here",
                 "call it in `charge` or `fire`, or in `let` if there is no `dynamics`; a current "
                 "that decays can be a state of `dynamics`", len(node.operator))  # fmt: skip
        elif argument == Name("spike"):
            return self.respond(node.operator, argument, argument)
        else:
            return self.respond(node.operator, argument, visit(argument, "real"))
        return node

    def spike_condition(self, node: Expression) -> Expression | None:
        """The spike that a condition is, if it is one."""
        if node == Name("spike") or node == Apply("prev", (Name("spike"),)):
            return node
        return None

    def previous(self, argument: Expression, fail: _Fail) -> Expression:
        """prev(name): the value at the start of the step."""
        states = [state.name for state in self.states]
        self.used |= names(argument)
        if argument == Name("spike") and not self.may_fire:
            fail("NG032", argument, "this neuron never fires", "", 5)
        elif argument == Name("spike"):
            self.previous_spike = self.previous_spike or self.fresh("prev_spike")
            return Name(self.previous_spike)
        elif isinstance(argument, Name) and argument.name in states:
            return self.begun(argument.name)
        else:
            fail("NG035", argument, f"prev() takes a state or spike, not {brief(argument)}",
                 "states are " + ", ".join(states))  # fmt: skip
        return argument

    @property
    def known_constants(self) -> frozenset[str]:
        """Names that do not change during a call."""
        matrices = {matrix.name for matrix in self.matrices}
        return frozenset(self.parameter_names | set(self.flags) | set(self.definitions) | matrices)

    def is_constant(self, expression: Expression) -> bool:
        """Whether only parameters, flags and numbers occur, and no step of the surrogate."""
        return names(expression) <= self.known_constants and "fire" not in operators(expression)

    def inline(self, expression: Expression) -> Expression:
        """Named constants replaced by what they stand for, until only parameters are left."""
        while names(expression) & set(self.definitions):
            expression = self.bounded(substitute(expression, self.definitions))
        return expression

    def bounded(self, expression: Expression) -> Expression:
        """An expression that was written out, unless it grew beyond all bounds.

        Raises:
            SpecError: It did.
        """
        if isinstance(expression, Apply) and (
            expression.size > MAX_WRITTEN_OUT or expression.depth > MAX_DEPTH_WRITTEN_OUT
        ):
            message = "written out, temporaries that build on one another are too large"
            hint = "use fewer of them, or smaller ones"
            self.add("NG020", ("let",), message, hint, key=True, width=None)
            raise SpecError(tuple(self.mistakes))
        return expression

    def initial(self, name: str) -> Expression:
        """A state's value before the first step, over parameters."""
        return self.inline(self.initials.get(name, _ZERO))

    def no_state(self, name: str, path: Path) -> None:
        """Something that is no state is assigned as one."""
        states = sorted(state.name for state in self.states)
        hint = did_you_mean(name, states) or "states are " + ", ".join(states)
        self.add("NG031", path, f"'{name}' is no state", hint, key=True, width=len(name))

    def check_unused(self, following: Mapping[str, str]) -> None:
        """An unused name is a mistake; so is a state that never changes."""
        if not self.is_whole:
            return
        spec = self.spec
        changed = {item.name for item in (*spec.dynamics, *spec.charge, *spec.reset.assignments)}
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
            ("kernels", (k.name for k in spec.kernels)),
            ("noise", (n.name for n in spec.noise)),
            ("charge", (c.name for c in spec.charge if c.name not in following)),
        ]
        for kind, declared in groups:
            for name in declared:
                if name not in self.used:
                    self.add("NG013", (kind, name), f"'{name}' is never used",
                             "remove it, or name it in an equation", key=True,
                             width=len(name))  # fmt: skip
        for position, name in enumerate(spec.inputs):
            if name not in self.used:
                declared_here = spec.source.root.child("inputs") is not None
                path: Path = ("inputs", position) if declared_here else ("charge",)
                self.add("NG013", path, f"input '{name}' is never used",
                         "name it in `charge`, or declare the `inputs`", width=None)  # fmt: skip


def check_numbers(node: Apply, inner: tuple[Expression, ...], fail: _Fail) -> None:
    """What consists of literals only must be finite, and no condition."""
    divisor = inner[1] if node.operator == "/" else _ONE
    if not names(divisor) and evaluate(divisor, {}) == 0:
        fail("NG026", node.arguments[1], "division by 0")
    elif any(names(argument) for argument in inner) or node.operator in INTERNAL:
        return
    elif OPERATORS[node.operator].gives == "condition" or node.operator in {"heaviside", "step"}:
        fail("NG027", node, f"{brief(node)} never changes", "name a state, an input or a parameter")
    elif node.operator not in {"where", "detach"}:
        value = evaluate(Apply(node.operator, inner), {})
        if not math.isfinite(value):
            fail("NG026", node, f"{brief(node)} is {value:g}")


def brief(node: Expression) -> str:
    """An expression in quotes, cut to a length that fits a message."""
    text = infix(node)
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
