"""The intermediate representation: what a fused kernel computes, with no target in it.

In: nothing. Out: the types that `model.py` and `adjoint.py` fill in and backends print. Every name
is assigned once (static single assignment), so charged and next values are distinct names and
updates are simultaneous by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurogen.compiler.expression import Apply, Expression, Name, walk
from neurogen.compiler.spec import Noise


@dataclass(frozen=True, slots=True)
class Assign:
    """`name = expression`, with a short note for the reader of the generated text."""

    name: str
    expression: Expression
    note: str = ""


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter-only subexpression: computed once per call in the prelude, read by kernels.

    Attributes:
        name: What the kernel calls it.
        expression: Over constructor parameters, learnables and flags, as written.
        when: Flag condition under which an equation needs it; None where always.
        stepped: Whether a parameter `per: step` is in it: then it may differ from step to step.
    """

    name: str
    expression: Expression
    when: Expression | None = None
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """A square matrix over parameters, whose exponential the prelude takes in float64."""

    name: str
    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, slots=True)
class StateVariable:
    """One state through a step: V[t-1] is `name`, H[t] is `charged`, V[t] is `following`.

    Attributes:
        initial: Value before the first step, over parameters.
        adjoint: What the backward pass calls dL/dV[t].
        differentiable: False for integer counters, through which no gradient flows.
    """

    name: str
    charged: str
    following: str
    initial: Expression
    adjoint: str
    differentiable: bool = True


@dataclass(frozen=True, slots=True)
class Kernel:
    """One pass over time: statements of one step, in order.

    Attributes:
        body: The statements.
        results: What leaves the step: forwards (`output`, …) and (state, value of V[t]);
            backwards (input, dL/dX[t]), (state, dL/dV[t-1]), (constant, this step's share).
    """

    body: tuple[Assign, ...]
    results: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the step's Jacobian: d `of` / d `by`.

    Attributes:
        name: What callers know it by: `grad_s_to_h`, `grad_v_to_h`, …
        of: `S`, `V.state` or `H.state`.
        by: `H.state`, `V.state` (before the step) or `X.input`.
    """

    name: str
    of: str
    by: str


@dataclass(frozen=True, slots=True)
class Jacobian:
    """The step's Jacobian, cut at the charged potential H[t].

    Attributes:
        blocks: Of fire and reset, and of the charge where a state enters.
        step: They, from states, inputs and constants.
        charge_blocks: Of the charge where no state enters.
        charge: They, from inputs and constants.
        uses: Inputs, parameters, learnables and flags that `charge` reads.
    """

    blocks: tuple[Block, ...]
    step: Kernel
    charge_blocks: tuple[Block, ...]
    charge: Kernel
    uses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """What every backend prints: the step, and its transpose.

    Attributes:
        flags: Compile-time booleans, in the order of the kernels' macros: the spec's flags, then
            `hard_reset` where both resets exist. `detach_reset` and `spiking` always exist.
        grad_output: What the backward pass calls dL/dS[t].
        step: The step as written, `detach` included, for targets that differentiate themselves.
        forward: The step as values.
        backward: The adjoint of the step, over what it keeps.
        kept: What the backward pass stores of each recomputed step, beside V[t-1]: charged
            potentials, and what would be costly to compute once more.
        jacobian: The step's derivatives, block by block.
    """

    inputs: tuple[str, ...]
    states: tuple[StateVariable, ...]
    noise: tuple[Noise, ...]
    constants: tuple[Constant, ...]
    matrices: tuple[Matrix, ...]
    flags: tuple[str, ...]
    grad_output: str
    step: Kernel
    forward: Kernel
    backward: Kernel
    kept: tuple[str, ...]
    jacobian: Jacobian


#: Compile-time booleans that every program has.
DETACH_RESET, SPIKING, HARD_RESET = "detach_reset", "spiking", "hard_reset"


def operations(kernel: Kernel, flags: dict[str, bool]) -> int:
    """Arithmetic operations of a step where the compile-time flags have these values."""
    count = 0
    for assign in kernel.body:
        for node in walk(settle(assign.expression, flags)):
            if isinstance(node, Apply):
                if node.operator == "**":
                    exponent = node.arguments[1]
                    value = abs(int(getattr(exponent, "value", 2)))
                    count += value - 1 + (getattr(exponent, "value", 1) < 0)
                elif node.operator not in ("detach",):
                    count += 1
    return count


def settle(expression: Expression, flags: dict[str, bool]) -> Expression:
    """The expression with compile-time conditions decided and their untaken branches gone."""
    if not isinstance(expression, Apply) or "where" not in expression.operators:
        return expression
    arguments = tuple([settle(argument, flags) for argument in expression.arguments])
    if expression.operator == "where":
        outcome = decide(arguments[0], flags)
        if outcome is not None:
            return arguments[1] if outcome else arguments[2]
    return expression.of(arguments)


def decide(condition: Expression, flags: dict[str, bool]) -> bool | None:
    """The outcome of a condition over compile-time flags; None if it is not known."""
    match condition:
        case Name(name=name):
            return flags.get(name)
        case Apply(operator="not", arguments=(inner,)):
            outcome = decide(inner, flags)
            return None if outcome is None else not outcome
        case Apply(operator="and" | "or" as symbol, arguments=(left, right)):
            first, second = decide(left, flags), decide(right, flags)
            absorbing = symbol == "or"
            if absorbing in (first, second):
                return absorbing
            return None if None in (first, second) else not absorbing
    return None


def is_flag_condition(expression: Expression, flags: frozenset[str]) -> bool:
    """Whether a condition is decided when a kernel is compiled."""
    match expression:
        case Name(name=name):
            return name in flags
        case Apply(operator="and" | "or" | "not", arguments=arguments):
            return all(is_flag_condition(argument, flags) for argument in arguments)
    return False
