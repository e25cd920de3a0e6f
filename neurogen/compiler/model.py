"""Spec -> Model: one discrete step of the neuron (dynamics, charge, fire, reset) and its prelude.

In: a `Spec`. Out: a `Model`: statements in order, every name resolved to one value, parameter-only
subexpressions drawn out as constants, compile-time flags left as conditions. Semantic mistakes are
found on the way, all of them in one run. Separate because this is where the language gets its
meaning; derivatives and targets come after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neurogen.compiler.calculus import NotFiniteError
from neurogen.compiler.checks import check, effort
from neurogen.compiler.expression import Apply, Expression, Name, Number, substitute
from neurogen.compiler.kernels import MAX_OPERATIONS, MAX_ORDER, MAX_TOTAL, KernelError, response
from neurogen.compiler.parsing import parse
from neurogen.compiler.prelude import Prelude, any_of, occurrences
from neurogen.compiler.program import (
    DETACH_RESET,
    HARD_RESET,
    Assign,
    Constant,
    Matrix,
    StateVariable,
)
from neurogen.compiler.risks import Risk
from neurogen.compiler.schemes import SCHEMES, SchemeError, System, Values
from neurogen.compiler.scope import BASE_FIRE, Scope
from neurogen.compiler.source import Path
from neurogen.compiler.spec import Equation, Noise, Parameter, Spec
from neurogen.errors import Mistake, SpecError

_HARD = parse("spike*v_reset + (1 - spike)*v")
_SOFT = parse("v - spike*v_threshold")
_RESETS: dict[str, Expression] = {
    "hard": _HARD,
    "soft": _SOFT,
    "auto": Apply("where", (Name(HARD_RESET), _HARD, _SOFT)),
}
_ZERO = Number(0.0)


@dataclass(frozen=True, slots=True)
class Model:
    """One discrete step.

    Attributes:
        spec: Where it came from.
        parameters: Constructor keywords that are numbers or tensors, base neuron's included.
        v_reset_may_be_none: Whether `v_reset=None` chooses the soft reset (or a rest at 0).
        learnable_when: Learnables that exist only under a flag condition.
        charge, fire, after: Statements up to H[t], S[t] and V[t]; `after` ends with the output.
        output: The name that leaves the step.
        grad_output: What the backward pass calls its gradient.
        definitions: What the operands of `risks` name besides parameters and statements.
        risks: Operands that must keep to a domain.
    """

    spec: Spec
    parameters: tuple[Parameter, ...]
    v_reset_may_be_none: bool
    flags: tuple[str, ...]
    constants: tuple[Constant, ...]
    matrices: tuple[Matrix, ...]
    states: tuple[StateVariable, ...]
    noise: tuple[Noise, ...]
    learnable_when: tuple[tuple[str, Expression], ...]
    charge: tuple[Assign, ...]
    fire: tuple[Assign, ...]
    after: tuple[Assign, ...]
    output: str
    grad_output: str
    definitions: tuple[tuple[str, Expression], ...]
    risks: tuple[Risk, ...]

    @property
    def statements(self) -> tuple[Assign, ...]:
        """The whole step in order."""
        return self.charge + self.fire + self.after


def build_model(spec: Spec, mistakes: tuple[Mistake, ...] = ()) -> Model:
    """Give a spec its meaning.

    Args:
        spec: What was read.
        mistakes: What was found while reading it, reported together with what is found here.

    Raises:
        SpecError: With every mistake.
    """
    scope = Scope(spec, mistakes)
    _check_whole(scope)
    check(scope)
    step = _Step(scope)
    step.write()
    if scope.mistakes:
        raise SpecError(tuple(scope.mistakes))
    return step.model()


def _check_whole(scope: Scope) -> None:
    """Keys that need one another are there."""
    spec = scope.spec
    written = spec.source.root.key
    if not spec.charge and not spec.dynamics:
        scope.is_whole = False
        if not written("charge") and not written("dynamics"):
            scope.add("NG004", (), "missing key 'charge'", "charge: v + x")
    if spec.dynamics and spec.scheme is None:
        hint = "scheme: one of " + ", ".join(SCHEMES)
        scope.add("NG004", ("dynamics",), "`dynamics` needs a `scheme`", hint, key=True)
    if spec.scheme is not None and not written("dynamics"):
        scope.add("NG013", ("scheme",), "`scheme` without `dynamics`", "remove it", key=True)


def _symbol(state: str, letter: str) -> str:
    """H[t] and V[t] are the textbook's names for v."""
    return f"{letter if state == 'v' else state}[t]"


class _Step:
    """Writes the statements of one step, in order; mutable while it does."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.spec = scope.spec
        self.statements: list[Assign] = []
        # What each state is called at this point of the step, and what each name means here.
        self.current = {state.name: state.name for state in scope.states}
        self.names: dict[str, Expression] = scope.parameter_scope()
        self.names |= {name: Name(name) for name in (*self.current, *self.spec.inputs)}
        self.noise: dict[str, Expression] = {n.name: Name(n.name) for n in self.spec.noise}
        self.integers = {state.name for state in scope.states if state.integer}
        self.held: dict[str, Name] = {}
        self.hidden: list[StateVariable] = []
        self.responding = 0  # operations of the kernels that were called
        self.responses: dict[tuple[str, Expression], Expression] = {}
        self.impulses: list[tuple[str, str, Expression]] = []
        self.spike: Expression = _ZERO
        self.output = ""
        scope.respond = self.respond

    # -- statements --------------------------------------------------------------------------

    def assign(self, name: str, expression: Expression | None, note: str) -> Name:
        """Append a statement under a fresh name."""
        name = self.scope.fresh(name)
        self.put(name, expression, note)
        return Name(name)

    def put(self, name: str, expression: Expression | None, note: str, state: str = "") -> None:
        """Append a statement under a name that is its own already."""
        value = expression or _ZERO
        if state in self.integers:  # a counter: no gradient flows through it
            value = Apply("detach", (value,))
        self.statements.append(Assign(name, value, note))

    def write(self) -> None:
        """Dynamics, charge, fire, reset, output."""
        if self.spec.dynamics:
            self.evolve()
        self.temporaries()
        self.charge()
        self.charged = len(self.statements)
        self.after_charge = dict(self.current)
        self.fire()
        self.fired = len(self.statements)
        self.reset()
        self.scope.check_unused(self.current)

    def evolve(self) -> None:
        """Continuous time: the scheme takes every state of `dynamics` over one step."""
        spec, scope = self.spec, self.scope
        equations = {item.name: item.equation for item in spec.dynamics}
        for name in equations:
            if name not in self.current:
                scope.no_state(name, ("dynamics", name))
        for name, equation in equations.items():
            if spec.scheme not in (None, "euler") and scope.draws(equation.expression):
                message = f"`{spec.scheme}` does not apply to d{name}/dt, which is noisy"
                hint = "scheme: euler; or name the noise in `charge`"
                scope.add("NG040", ("dynamics", name), message, hint, key=True, width=len(name))
        if scope.mistakes:  # no scheme then, but there may be more of them
            names = dict(self.names)
            for item in spec.let:
                scope.resolve(item.equation, ("let", item.name), names)
                names[item.name] = Name(item.name)
            for name, equation in equations.items():
                scope.resolve(equation, ("dynamics", name), names | self.noise)
            return
        # White noise of unit intensity: over a step of length dt, xi / sqrt(dt) * dt.
        root = Apply("sqrt", (Name("dt"),))
        white = {name: Apply("/", (xi, root)) for name, xi in self.noise.items()}
        respond, scope.respond = scope.respond, None
        scope.begun = self.hold

        def slopes(values: Values, stage: str) -> Values:
            names = {**self.names, **values}
            for item in spec.let:
                value = scope.resolve(item.equation, ("let", item.name), names)
                if value is not None and not scope.is_constant(value):
                    value = self.assign(f"{item.name}_{stage}", value, f"let, stage {stage}")
                names[item.name] = scope.bounded(value or _ZERO)
            return {
                x: scope.resolve(equation, ("dynamics", x), names | white) or _ZERO
                for x, equation in equations.items()
            }

        system = System(scope, tuple(equations), slopes, self.assign, self.written_out)
        try:
            values = SCHEMES[spec.scheme or "euler"](system)
        except SchemeError as error:
            message = error.message
            for state, held in self.held.items():
                message = re.sub(rf"\b{held.name}\b", f"prev({state})", message)
            scope.add("NG040", ("dynamics", error.state), message, error.hint, key=True,
                      width=len(error.state))  # fmt: skip
            return
        except NotFiniteError:
            scope.add("NG026", ("dynamics",), "a derivative of the dynamics is never finite",
                      "something is divided by 0", key=True, width=None)  # fmt: skip
            return
        finally:
            scope.respond, scope.begun = respond, Name
        charged = {item.name for item in spec.charge}
        for state, value in values.items():
            name = f"flow_{state}" if state in charged else f"h_{state}"
            self.name_state(state, value, name, f"dynamics: {_symbol(state, 'H')}")

    def hold(self, state: str) -> Expression:
        """prev(state) in `dynamics`: a value that does not flow with the state."""
        if state not in self.held:
            self.held[state] = self.assign(f"held_{state}", Name(state), "at the start of the step")
        return self.held[state]

    def written_out(self, expression: Expression) -> Expression:
        """An expression with the temporaries written so far replaced by what they stand for."""
        values: dict[str, Expression] = {}
        for statement in self.statements:
            if Name(statement.name) in self.held.values():  # stands for itself: it does not flow
                continue
            value = substitute(statement.expression, values)
            values[statement.name] = self.scope.bounded(value)
        return self.scope.bounded(substitute(expression, values))

    def name_state(self, state: str, value: Expression | None, name: str, note: str) -> None:
        """A state's new value, under which it is known from here on."""
        fresh = self.scope.fresh(name)
        self.put(fresh, value, note, state)
        self.current[state] = fresh
        self.names[state] = Name(fresh)

    def temporaries(self) -> None:
        """`let`: parameter-only ones are constants of the prelude, the others are temporaries."""
        scope = self.scope
        for item in self.spec.let:
            value = scope.resolve(item.equation, ("let", item.name), self.names)
            if value is not None and scope.is_constant(value):
                scope.definitions[item.name] = value
            else:
                self.put(item.name, value, "let")
            self.names[item.name] = Name(item.name)

    def charge(self) -> None:
        """V[t-1] and X[t] to H[t], in order."""
        scope, spec = self.scope, self.spec
        for item in spec.charge:
            path: Path = ("charge", item.name)
            value = scope.resolve(item.equation, path, self.names | self.noise)
            if item.name in self.current:
                note = f"charge: {_symbol(item.name, 'H')}"
                self.name_state(item.name, value, f"h_{item.name}", note)
                continue
            self.put(item.name, value, "charge")
            self.names[item.name] = Name(item.name)

    def fire(self) -> None:
        """H[t] to S[t]."""
        scope, fire = self.scope, self.spec.fire
        if not scope.may_fire:
            return
        self.spike = Name("spike")
        if fire is None and "v" not in self.current:
            scope.add("NG004", (), "a neuron without a state v needs `fire`", "fire: a >= 1")
            return
        when = fire.when if fire and fire.when else Equation("v >= v_threshold", BASE_FIRE)
        condition = scope.resolve(when, ("fire", "when"), self.names, "condition")
        if condition is None:
            return
        if not (isinstance(condition, Apply) and condition.operator in (">", ">=")):
            hint = "write a >= b or a > b; the surrogate sees a - b; a guard goes into `if`"
            scope.add("NG030", ("fire", "when"), f"{when} is not a threshold", hint)
            return
        if scope.is_constant(condition):
            scope.add("NG030", ("fire", "when"), f"{when} depends on no state",
                      "the neuron would always fire, or never", width=None)  # fmt: skip
            return
        value = self.spike_value(condition, fire.kind if fire else "binary")
        if fire is not None and fire.guard is not None:
            guard = scope.resolve(fire.guard, ("fire", "if"), self.names, "condition")
            value = Apply("where", (guard or condition, value, _ZERO))
        self.put("spike", value, "fire: S[t]")
        for state, component, start in self.impulses:
            total = Apply("+", (Name(component), Apply("*", (start, Name("spike")))))
            following = self.assign(f"next_{state}", total, "response to the spike")
            self.follow(state, following.name)

    def spike_value(self, condition: Apply, kind: str) -> Expression:
        """The spike of a comparison a >= b: binary, ternary, or in levels."""
        a, b = condition.arguments
        match kind:
            case "ternary":
                minus = Apply("neg", (a,))
                up = self.assign("u", Apply("-", (a, b)), "distance to the threshold")
                down = self.assign("u", Apply("-", (minus, b)), "distance to its mirror image")
                below = Apply(condition.operator, (minus, b))
                return Apply("-", (Apply("fire", (condition, up)), Apply("fire", (below, down))))
            case "multilevel":
                levels = (self.spec.fire.levels if self.spec.fire else None) or 1.0
                clipped = Apply("clip", (Apply("/", (a, b)), _ZERO, Number(levels)))
                level = self.assign("level", clipped, "clipped to the levels")
                rounding = Apply("-", (Apply("round", (level,)), level))
                return Apply("+", (level, Apply("detach", (rounding,))))  # straight through
        u = self.assign("u", Apply("-", (a, b)), "distance to threshold")
        return Apply("fire", (condition, u))

    def reset(self) -> None:
        """H[t] and S[t] to V[t], simultaneously, and what leaves the step."""
        scope, spec = self.scope, self.spec
        scope.respond = None  # a spike has acted on its kernels by now
        rules: list[tuple[str, Equation, Path]] = []
        if scope.reset in _RESETS:
            rules.append(("v", Equation("", _RESETS[scope.reset]), ("reset",)))
        for item in spec.reset.assignments:
            if item.name in self.current:
                rules.append((item.name, item.equation, ("reset", item.name)))
            else:
                scope.no_state(item.name, ("reset", item.name))
        names = {**self.names, "spike": self.spike}
        if rules and scope.may_fire:
            detached = Apply("detach", (self.spike,))
            value = Apply("where", (Name(DETACH_RESET), detached, self.spike))
            names["spike"] = self.assign("reset_spike", value, "S[t] as reset sees it")
        for state, equation, path in rules:
            ruled = names if equation.text else {**names, HARD_RESET: Name(HARD_RESET)}
            value_or_none = scope.resolve(equation, path, ruled)
            self.name_state(state, value_or_none, f"next_{state}", f"reset: {_symbol(state, 'V')}")
        if spec.output is not None:  # sees what the step leaves behind
            value_or_none = scope.resolve(
                spec.output, ("output",), {**self.names, "spike": self.spike}
            )
            self.output = self.assign("output", value_or_none, "output").name
        elif isinstance(self.spike, Name):
            self.output = self.spike.name
        else:
            scope.add("NG004", ("fire",), "a neuron that never fires needs an `output`",
                      "output: v")  # fmt: skip

    # -- response kernels ----------------------------------------------------------------------

    def respond(self, kernel: str, written: Expression, argument: Expression) -> Expression:
        """The response of a kernel as a recursion over hidden states; see `kernels.py`."""
        key = (kernel, argument)
        if key in self.responses:
            return self.responses[key]
        scope = self.scope
        equation = next(k.equation for k in self.spec.kernels if k.name == kernel)
        names = {**scope.parameter_scope(), "s": Name("s")}
        shape = scope.resolve(equation, ("kernels", kernel), names, only_parameters=True)
        if shape is None:
            return _ZERO
        shape = scope.inline(shape)
        self.responding += shape.size if isinstance(shape, Apply) else 1
        if self.responding > MAX_OPERATIONS:
            message = f"kernels of {self.responding} operations, more than {MAX_OPERATIONS}"
            scope.add("NG008", ("kernels",), message, "name fewer parameters in them", key=True)
            raise SpecError(tuple(scope.mistakes))
        try:
            ode = response(shape, scope.defaults, min(MAX_ORDER, MAX_TOTAL - len(self.hidden)))
        except (KernelError, NotFiniteError) as error:
            scope.add("NG041", ("kernels", kernel), f"{kernel} is no response kernel: {error}",
                      "sums of exp(-a*s), s**n exp(-a*s) and exp(-a*s) sin(b*s) are")  # fmt: skip
            return _ZERO
        order, dt = len(ode.start), Name("dt")
        matrix = scope.fresh(f"{kernel}_flow")
        rows = [
            tuple(dt if j == i + 1 else _ZERO for j in range(order)) for i in range(order - 1)
        ] + [tuple(Apply("*", (dt, c)) for c in ode.coefficients)]
        scope.matrices.append(Matrix(matrix, tuple(rows)))
        states = [scope.fresh(f"{kernel}_{j}") for j in range(order)]
        to_spike = written == Name("spike")
        components: list[Name] = []
        for i, state in enumerate(states):
            terms: list[Expression] = []
            for j, other in enumerate(states):
                name = scope.fresh(f"{kernel}_flow_{i}_{j}")
                place = (Name(matrix), Number(float(i)), Number(float(j)))
                scope.definitions[name] = Apply("element", place)
                terms.append(Apply("*", (Name(name), Name(other))))
            start = ode.start[i]
            if start != _ZERO and not to_spike:
                terms.append(Apply("*", (start, argument)))
            total = terms[0]
            for term in terms[1:]:
                total = Apply("+", (total, term))
            component = self.assign(f"h_{state}", total, f"response {kernel}, component {i}")
            components.append(component)
            self.hidden.append(
                StateVariable(state, component.name, component.name, _ZERO,
                              scope.fresh(f"lam_{state}"))
            )  # fmt: skip
            if to_spike and start != _ZERO:
                self.impulses.append((state, component.name, start))
        self.responses[key] = components[0]
        return components[0]

    def follow(self, state: str, name: str) -> None:
        """A hidden state's value after the step."""
        for place, variable in enumerate(self.hidden):
            if variable.name == state:
                self.hidden[place] = StateVariable(
                    state, variable.charged, name, variable.initial, variable.adjoint
                )

    # -- the model -----------------------------------------------------------------------------

    def model(self) -> Model:
        """Everything that was written, over constants."""
        scope = self.scope
        prelude = Prelude(scope)
        drawn = tuple(
            Assign(s.name, prelude.visit(s.expression, ()), s.note) for s in self.statements
        )
        states = [
            StateVariable(
                state.name, self.after_charge[state.name], self.current[state.name],
                scope.initial(state.name), scope.fresh(f"lam_{state.name}"),
                not state.integer,
            )
            for state in scope.states
        ] + self.hidden  # fmt: skip
        effort(scope, drawn)
        if last := scope.previous_spike:
            states.append(StateVariable(last, last, "spike", _ZERO, scope.fresh(f"lam_{last}")))
        if scope.mistakes:
            raise SpecError(tuple(scope.mistakes))
        constants = prelude.constants()
        matrices = tuple(
            Matrix(m.name, tuple(tuple(scope.inline(e) for e in row) for row in m.rows))
            for m in scope.matrices
        )
        return Model(
            spec=self.spec,
            parameters=scope.parameters,
            v_reset_may_be_none=scope.both_resets,
            flags=scope.flags,
            constants=constants,
            matrices=matrices,
            states=tuple(states),
            noise=self.spec.noise,
            learnable_when=self.learnable_when(constants, matrices),
            charge=drawn[: self.charged],
            fire=drawn[self.charged : self.fired],
            after=drawn[self.fired :],
            output=self.output,
            grad_output=scope.fresh("grad_output"),
            definitions=tuple(scope.definitions.items()),
            risks=tuple(scope.risks),
        )

    def learnable_when(
        self, constants: tuple[Constant, ...], matrices: tuple[Matrix, ...]
    ) -> tuple[tuple[str, Expression], ...]:
        """The flag condition of each learnable that some variant does without."""
        flags = frozenset(self.scope.flags)
        result = []
        for w in self.spec.learnable:
            conditions: list[Expression | None] = []
            for constant in constants:
                conditions += occurrences(constant.expression, w.name, flags, constant.when)
            for entry in (entry for m in matrices for row in m.rows for entry in row):
                conditions += occurrences(entry, w.name, flags, None)
            condition = any_of(conditions)
            if condition is not None:
                result.append((w.name, condition))
        return tuple(result)
