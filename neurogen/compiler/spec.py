"""Spec text -> Spec: the names, numbers and equations of one neuron, as declared.

In: the text of a spec. Out: a frozen `Spec`. Here lives the table of keys: a key is a field of a
class below, its form is the field's type, and pydantic holds the text against them, so that every
wrong key and value of a file is found in one run. What the equations mean is `model.py`'s business.
"""

from __future__ import annotations

import hashlib
import keyword
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from neurogen.compiler.expression import (
    FUNCTIONS,
    IDENTIFIER,
    Expression,
    ExpressionError,
    did_you_mean,
    infix,
    parse,
)
from neurogen.compiler.source import Path, Source, read
from neurogen.errors import Mistake, SpecError

MAX_NAMES = 64  # of one kind: states, parameters, inputs, steps of charge …
MAX_FLAGS = 6

#: Names that nodes, equations or the runtime give a meaning of their own.
RESERVED: Mapping[str, str] = {
    **dict.fromkeys(FUNCTIONS, "a function of the equation language"),
    **dict.fromkeys(("spike", "v_rest", "dt", "hard_reset"), "a name of the equation language"),
    **dict.fromkeys(
        (
            "T_destination", "abi", "add_module", "apply", "backend", "bfloat16", "buffers",
            "call_super_init", "children", "compile", "constants", "cpu", "cuda", "default_surrogate",
            "detach", "detach_reset", "device", "digest", "double", "dtype", "dump_patches", "eval",
            "extra_repr", "extra_state", "flags", "float", "forward", "functional",
            "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half", "inputs",
            "ipu", "learnable", "load_state_dict", "memories", "modules", "monitor", "monitor_state",
            "mtia", "multi_step_forward", "named_buffers", "named_children", "named_memories",
            "named_modules", "named_parameters", "neuronal_charge", "neuronal_fire",
            "neuronal_reset", "outputs", "parameters", "prelude", "register_memory", "requires_grad_",
            "reset", "self", "set_submodule", "share_memory", "single_step_forward", "state_dict",
            "states", "step_mode", "store_v_seq", "supported_backends", "surrogate_function",
            "to", "to_empty", "train", "training", "type", "v_seq", "xpu", "zero_grad", "shape",
        ),
        "an attribute or argument of every neuron",
    ),
}  # fmt: skip


def _refuse(code: str, message: str, **context: Any) -> PydanticCustomError:
    # The message is data here: braces must not be read as a format string.
    return PydanticCustomError(code, "{message}", {"message": message, **context})  # type: ignore[arg-type]


def _identifier(name: str) -> str:
    if not IDENTIFIER.fullmatch(name) or name.endswith("_") or "__" in name or len(name) > 60:
        raise _refuse(
            "NG010",
            f"{name[:80]!r} is not a name",
            hint="a letter, then letters, digits and single underscores, 60 at most",
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise _refuse("NG010", f"'{name}' is a word of Python", hint=f"try '{name}_0'")
    return name


def _own_name(name: str) -> str:
    if name in RESERVED:
        raise _refuse("NG010", f"'{name}' is {RESERVED[name]}", hint="choose another name")
    return _identifier(name)


class Equation:
    """An equation: its text and its tree. Equal when the trees are; immutable by convention."""

    __slots__ = ("expression", "text")

    def __init__(self, text: str, expression: Expression) -> None:
        self.text, self.expression = text, expression

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equation) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return infix(self.expression)


def _equation(value: object, info: ValidationInfo) -> Equation:
    if isinstance(value, Equation):
        return value
    if not isinstance(value, str):
        raise _refuse("NG005", f"an equation is text, not {_kind(value)}")
    try:
        return Equation(value, parse(value, (info.context or {}).get("kernels", frozenset())))
    except ExpressionError as error:
        raise _refuse(
            error.code, error.message, at=error.at, hint=error.hint, width=error.width
        ) from None


def _number(value: object) -> float:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise _refuse("NG005", f"{value[:40]!r} is not a number") from None
        if math.isfinite(number) and "_" not in value:
            return number
    elif isinstance(value, float):
        return value
    raise _refuse("NG005", f"expected a finite number, found {_kind(value)}")


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise _refuse("NG005", f"expected true or false, found {_kind(value)}")


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return repr(value)[:40]


def _named(value: object) -> object:
    """`{tau: 2.0}` -> `[{name: tau, …}]`, so that a name is a field like any other."""
    if isinstance(value, dict):
        if len(value) > MAX_NAMES:
            raise _refuse("NG008", f"{len(value)} entries, more than {MAX_NAMES}")
        return [(name, entry) for name, entry in value.items()]
    if isinstance(value, tuple):
        return value
    raise _refuse("NG005", f"expected a mapping of names, found {_kind(value)}")


def _entry(short: str) -> Any:
    """A named entry may be written short (`tau: 2.0`) or in full (`tau: {default: 2.0}`)."""

    def expand(value: object) -> object:
        if isinstance(value, tuple) and len(value) == 2:
            name, entry = value
            if isinstance(entry, dict):
                if "name" in entry:
                    raise _refuse("NG003", "unknown key 'name'")
                return {"name": name, **entry}
            return {"name": name, short: entry}
        return value

    return BeforeValidator(expand)


def _listed(value: object) -> object:
    if isinstance(value, list):
        if len(value) > MAX_NAMES * 64:
            raise _refuse("NG008", f"{len(value)} entries, more than {MAX_NAMES * 64}")
        return tuple(value)
    raise _refuse("NG005", f"expected a list, found {_kind(value)}")


Name = Annotated[str, AfterValidator(_own_name)]
Formula = Annotated[Equation, PlainValidator(_equation)]
Real = Annotated[float, PlainValidator(_number)]
Truth = Annotated[bool, PlainValidator(_truth)]
Per = Literal["layer", "channel", "neuron", "step"]
Reals = Annotated[tuple[Real, ...], BeforeValidator(_listed)]

_FROZEN = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=False)
_data = dataclass(frozen=True, slots=True, config=_FROZEN, kw_only=True)


@_data
class State:
    """A state variable and its value before the first step."""

    name: Name
    init: Formula | None = None
    uniform: tuple[Real, Real] | None = None
    integer: Truth = False


@_data
class Parameter:
    """A constructor keyword: a number, a tensor that broadcasts to one time step, or learnable."""

    name: Name
    default: Real
    where: Formula | None = None
    unit: str = ""
    doc: str = ""
    per: Per = "layer"


@_data
class Learnable:
    """An `nn.Parameter`; equations see the transformed value, the module holds the raw one."""

    name: Name
    init: Formula
    per: Per = "layer"
    transform: Literal["identity", "sigmoid", "softplus", "exp", "clamp"] = "identity"
    bounds: Annotated[tuple[Real, Real] | None, BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = None  # noqa: E501
    unit: str = ""
    doc: str = ""


@_data
class Flag:
    """A compile-time choice; both variants exist in the generated module."""

    name: Name
    default: Truth
    doc: str = ""


@_data
class Assignment:
    """`name: expression`, an element of `let`, `charge`, `reset`, `dynamics` or `kernels`."""

    name: Annotated[str, AfterValidator(_identifier)]
    equation: Formula


@_data
class Fire:
    """When the neuron fires: `when` is a comparison, None for a neuron that never does."""

    when: Formula | None = None
    guard: Annotated[Formula | None, Field(alias="if")] = None
    kind: Literal["binary", "ternary", "multilevel"] = "binary"
    levels: Real | None = None


@_data
class Reset:
    """What a spike does to the states: a rule for v, and explicit assignments."""

    rule: Literal["auto", "hard", "soft", "none"] = "auto"
    assignments: Annotated[
        tuple[Annotated[Assignment, _entry("equation")], ...], BeforeValidator(_named)
    ] = ()


@_data
class Surrogate:
    """The default of `surrogate_function`: a name of the table, or a primitive S(u) of its own."""

    name: str | None = None
    primitive: Formula | None = None
    parameters: tuple[tuple[str, Real], ...] = ()


@_data
class Expect:
    """An example: the input of one neuron, and the steps at which it spikes or its potentials."""

    input: Annotated[
        tuple[tuple[str, Reals], ...],
        BeforeValidator(
            lambda v: tuple(v.items()) if isinstance(v, dict) else (("", v),)
        ),
    ]
    spikes: Reals | None = None
    states: Annotated[
        tuple[tuple[str, Reals], ...],
        BeforeValidator(lambda v: tuple(v.items()) if isinstance(v, dict) else v),
    ] = ()


def _states(value: object) -> object:
    if isinstance(value, list):
        raise _refuse("NG005", "states need their initial values", hint="states: {v: 0.0, a: 0.0}")
    named = _named(value)
    assert isinstance(named, list | tuple)
    result: list[object] = []
    for item in named:
        if isinstance(item, tuple) and isinstance(item[1], dict):
            entry = dict(item[1])
            if isinstance(entry.get("init"), dict):
                bounds = entry.pop("init").get("uniform")
                entry["uniform"] = tuple(bounds) if isinstance(bounds, list) else bounds
            result.append({"name": item[0], **entry})
        else:
            result.append(item)
    return result


def _fire(value: object) -> object:
    if isinstance(value, dict):
        if "when" not in value:
            raise _refuse("NG004", "missing key 'when'")
        return value
    return {"when": None} if value == "none" else {"when": value}


def _reset(value: object) -> object:
    if isinstance(value, str):
        return {"rule": value}
    return {"assignments": value} if isinstance(value, dict) else value


def _surrogate(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict):
        own = dict(value)
        head = {key: own.pop(key) for key in ("name", "primitive") if key in own}
        parameters = own.pop("parameters", {}) if "primitive" in head else own
        if "primitive" in head:
            if own:
                raise _refuse("NG003", f"unknown key '{next(iter(own))}'")
            if not isinstance(parameters, dict):
                raise _refuse("NG005", "parameters of a primitive are a mapping of numbers")
        if not head:
            raise _refuse("NG004", "missing key 'name' or 'primitive'")
        return {**head, "parameters": tuple(parameters.items())}
    return value


def _charge(value: object) -> object:
    return {"v": value} if isinstance(value, str) else value


_Assignments = Annotated[
    tuple[Annotated[Assignment, _entry("equation")], ...], BeforeValidator(_named)
]


@_data
class Spec:
    """One neuron, as declared. `source` knows where each key stands in the file."""

    name: Name
    summary: str = ""
    reference: str = ""
    doc: str = ""
    states: Annotated[tuple[Annotated[State, _entry("init")], ...], BeforeValidator(_states)] = ()
    inputs: Annotated[tuple[Name, ...], BeforeValidator(_listed)] = ("x",)
    parameters: Annotated[
        tuple[Annotated[Parameter, _entry("default")], ...], BeforeValidator(_named)
    ] = ()
    learnable: Annotated[
        tuple[Annotated[Learnable, _entry("init")], ...], BeforeValidator(_named)
    ] = ()
    flags: Annotated[tuple[Annotated[Flag, _entry("default")], ...], BeforeValidator(_named)] = ()
    dt: Real | None = None
    let: _Assignments = ()
    kernels: _Assignments = ()
    dynamics: _Assignments = ()
    scheme: Literal["euler", "exponential_euler", "exact", "rk2", "rk4"] | None = None
    charge: Annotated[_Assignments, BeforeValidator(_charge)] = ()
    noise: Annotated[tuple[tuple[str, str], ...], BeforeValidator(
        lambda v: tuple(v.items()) if isinstance(v, dict) else v)] = ()  # fmt: skip
    fire: Annotated[Fire | None, BeforeValidator(_fire)] = None
    reset: Annotated[Reset, BeforeValidator(_reset)] = Reset()  # noqa: RUF009
    output: Formula | None = None
    surrogate: Annotated[Surrogate, BeforeValidator(_surrogate)] = Surrogate(name="sigmoid")  # noqa: RUF009
    expect: Expect | None = None
    source: Annotated[Source, Field(exclude=True, repr=False)] = None  # type: ignore[assignment]

    def mistake(
        self, code: str, path: Path, message: str, hint: str = "", at: int | None = None,
        width: int = 1, key: bool = False,
    ) -> Mistake:  # fmt: skip
        """A mistake at a path of this spec."""
        location = self.source.locate(path, at, key=key)
        shown = ".".join(str(step) for step in path)
        return Mistake(code, message, location, shown, hint, width)

    @property
    def digest(self) -> str:
        """Digest of what the spec says, not of its layout: comments and order of keys are free."""
        fields = [f"{name}={getattr(self, name)!r}" for name in sorted(self.__slots__)
                  if name not in ("source",)]  # fmt: skip
        return hashlib.sha256("\n".join(fields).encode()).hexdigest()[:16]


_ADAPTER: TypeAdapter[Spec] = TypeAdapter(Spec)


def parse_spec(text: str, file: str) -> Spec:
    """Read a spec.

    Args:
        text: YAML, see docs/language.md for the keys.
        file: What messages call it.

    Raises:
        SpecError: With every wrong key, value and equation of the file.
    """
    source = read(text, file)
    data = source.data()
    declared = data.get("kernels")
    kernels = frozenset(declared) if isinstance(declared, dict) else frozenset()
    if "source" in data:
        raise SpecError((_unknown_key(source, ("source",)),))
    try:
        return _ADAPTER.validate_python({**data, "source": source}, context={"kernels": kernels})
    except ValidationError as error:
        raise SpecError(tuple(_mistake(source, details) for details in error.errors())) from None


def _mistake(source: Source, details: Any) -> Mistake:
    """A pydantic error as a mistake with a place."""
    kind, context = details["type"], details.get("ctx", {})
    path = _path(source, details["loc"])
    if kind == "unexpected_keyword_argument":
        return _unknown_key(source, path)
    if kind == "missing":
        owner = _path(source, details["loc"][:-1])
        return Mistake("NG004", f"missing key '{details['loc'][-1]}'",
                       source.locate(owner, key=True), _shown(owner))  # fmt: skip
    if kind.startswith("NG"):
        return Mistake(
            kind,
            context["message"],
            source.locate(path, context.get("at"), key=kind == "NG010"),
            _shown(path),
            context.get("hint", ""),
            context.get("width", 1),
        )
    message = details["msg"][0].lower() + details["msg"][1:]
    if kind == "literal_error":
        message = f"{_kind(details['input'])} is not one of {context['expected']}"
    return Mistake("NG005", message, source.locate(path), _shown(path))


def _path(source: Source, loc: tuple[str | int, ...]) -> Path:
    """A pydantic location as keys of the file: entries by name, validators' own steps left out."""
    path: list[str | int] = []
    node = source.root
    for step in loc:
        if step == "name" and path and path[-1] != "surrogate":
            continue  # the name of an entry is its key
        if node.kind == "scalar" and isinstance(step, int):
            continue  # an equation written short
        if node.kind == "mapping" and isinstance(step, int):
            key: Any = node.key(step)
            step = key.value if key is not None else step
        deeper = node.child(step)
        if deeper is None and step in ("default", "init", "equation", "assignments", "when", "v",
                                       "rule", "uniform", "parameters", "guard"):  # fmt: skip
            continue  # written short
        path.append(step)
        if deeper is None:
            break
        node = deeper
    return tuple(path)


def _shown(path: Path) -> str:
    return ".".join(str(step) for step in path)


def _unknown_key(source: Source, path: Path) -> Mistake:
    owner = path[0] if len(path) > 1 else None
    classes: Mapping[Any, Any] = {
        None: Spec, "states": State, "parameters": Parameter, "learnable": Learnable,
        "flags": Flag, "fire": Fire, "reset": Reset, "expect": Expect,
    }  # fmt: skip
    known = sorted(
        {"guard": "if"}.get(name, name)
        for name in getattr(classes.get(owner), "__slots__", ())
        if name not in ("source", *(("name",) if owner else ()))
    )
    word = str(path[-1])
    hint = did_you_mean(word, known) or ("keys here are " + ", ".join(known) if known else "")
    return Mistake("NG003", f"unknown key '{word[:60]}'", source.locate(path, key=True),
                   _shown(path[:-1]), hint, len(word[:60]))  # fmt: skip


