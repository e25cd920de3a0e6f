"""One neuron as declared: names, numbers and equations.

In: nothing. Out: the types that `reader.py` fills in and `model.py` gives a meaning, and the names
that a spec cannot give. All of it is frozen data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from neurogen.compiler.expression import FUNCTIONS, Expression, Name, infix
from neurogen.compiler.source import Path, Source
from neurogen.errors import Mistake

#: Words of the language: nothing that a spec names can be one of them.
LANGUAGE: Mapping[str, str] = {
    **dict.fromkeys(FUNCTIONS, "a function of the equation language"),
    **dict.fromkeys(("spike", "v_rest", "dt", "output"), "a name of the equation language"),
    **dict.fromkeys(("hard_reset", "detach_reset", "spiking"), "a name in every kernel"),
}
_ATTRIBUTES = """
add_module apply backend bfloat16 blocks bounds buffers call_super_init children compile constants
cpu cuda default_surrogate detach differentiable double dump_patches eval extra_repr flags float
forward functional get_buffer get_extra_state get_parameter get_submodule half initial inputs ipu
kernels lasting learnable linearise linearise_charge load_state_dict matrices memories modules
monitor monitor_state mtia multi_step_forward named_buffers named_children named_memories
named_modules named_parameters neuronal_charge neuronal_fire neuronal_reset noise_state noises
parameter_names parameters persistent prelude random_starts register_backward_hook register_buffer
register_forward_hook register_forward_pre_hook register_full_backward_hook
register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_memory register_module register_parameter
register_state_dict_post_hook register_state_dict_pre_hook registered requires_grad_ reset
reset_parameters seed self set_extra_state set_monitor set_submodule shape share_memory sharing
single_step_forward state_dict states step step_mode step_modes store_v_seq super
supported_backends surrogate_function T_destination to to_empty train training type
v_float_to_tensor v_reset_may_be_none v_seq xpu zero_grad
"""
#: Names that no state, parameter, learnable or flag can have, because the node has them.
RESERVED: Mapping[str, str] = {
    **dict.fromkeys(_ATTRIBUTES.split(), "an attribute or argument of every neuron"),
    **LANGUAGE,
}

#: Names that no parameter of a surrogate can have besides.
SHAPE_RESERVED = frozenset(
    (
        "arguments",
        "fire",
        "gradient",
        "kernel",
        "positive",
        "primitive",
        "set_spiking_mode",
        "slope",
    )
)

Per = Literal["layer", "channel", "neuron", "step"]
Transform = Literal["identity", "sigmoid", "softplus", "exp", "clamp"]
Scheme = Literal["euler", "exponential_euler", "exact", "rk2", "rk4"]
Kind = Literal["binary", "ternary", "multilevel"]
Rule = Literal["auto", "hard", "soft", "none"]

#: Stands for an equation that was refused, so that the rest of its spec can still be read.
BROKEN = Name("?")


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation: its text and its tree. Equal when the trees are."""

    text: str = field(compare=False)
    expression: Expression

    def __repr__(self) -> str:
        return infix(self.expression)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state variable and its value before the first step."""

    name: str
    init: Equation | None = None
    uniform: tuple[float, float] | None = None
    integer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A constructor keyword: a number, a tensor that broadcasts to one time step, or learnable."""

    name: str
    default: float
    where: Equation | None = None
    unit: str = ""
    doc: str = ""
    per: Per = "layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnable:
    """An `nn.Parameter`; equations see the transformed value, the module holds the raw one."""

    name: str
    init: Equation
    per: Per = "layer"
    transform: Transform = "identity"
    bounds: tuple[float, float] | None = None
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A compile-time choice; both variants exist in the generated module."""

    name: str
    default: bool
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`name: expression`, an element of `let`, `charge`, `reset`, `dynamics` or `kernels`."""

    name: str
    equation: Equation


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A standard normal number for each neuron and time step; where not `eval`, 0 in eval()."""

    name: str
    kind: str = "normal"
    eval: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """When the neuron fires: `when` is a comparison, None for a neuron that never does."""

    when: Equation | None = None
    guard: Equation | None = None
    kind: Kind = "binary"
    levels: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """What a spike does to the states: a rule for v, and explicit assignments."""

    rule: Rule = "auto"
    assignments: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """The default of `surrogate_function`: a name of the table, or a primitive S(u) of its own."""

    name: str | None = None
    primitive: Equation | None = None
    parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """An example: the input of one neuron, and the steps at which it spikes or its potentials.

    Attributes:
        input: (name, value at each step); one nameless entry where the neuron has one input.
        spikes: Steps at which it fires, from 0.
        states: (name, value after each step).
    """

    input: tuple[tuple[str, tuple[float, ...]], ...]
    spikes: tuple[float, ...] | None = None
    states: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One neuron, as declared. `source` knows where each key stands in the file."""

    name: str
    summary: str = ""
    reference: str = ""
    doc: str = ""
    states: tuple[State, ...] = ()
    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[Parameter, ...] = ()
    learnable: tuple[Learnable, ...] = ()
    flags: tuple[Flag, ...] = ()
    dt: float | None = None
    let: tuple[Assignment, ...] = ()
    kernels: tuple[Assignment, ...] = ()
    dynamics: tuple[Assignment, ...] = ()
    scheme: Scheme | None = None
    charge: tuple[Assignment, ...] = ()
    noise: tuple[Noise, ...] = ()
    fire: Fire | None = None
    reset: Reset = Reset()
    output: Equation | None = None
    surrogate: Surrogate = Surrogate(name="sigmoid")
    expect: Expect | None = None
    source: Source = field(repr=False, compare=False)

    def mistake(
        self, code: str, path: Path, message: str, hint: str = "", at: int | None = None,
        width: int | None = None, key: bool = False,
    ) -> Mistake:  # fmt: skip
        """A mistake at a path of this spec; see `Source.mistake`."""
        return self.source.mistake(code, path, message, hint, at=at, width=width, key=key)

    @property
    def digest(self) -> str:
        """Digest of what the spec says, not of its layout: comments and order of keys are free."""
        fields = [f"{name}={getattr(self, name)!r}" for name in sorted(self.__slots__)
                  if name != "source"]  # fmt: skip
        return hashlib.sha256("\n".join(fields).encode()).hexdigest()[:16]
