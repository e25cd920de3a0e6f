"""Expressions as C++ and CUDA text: what the two C-like backends have in common.

In: our expression tree. Out: text with the same order of operations, with the brackets it needs and
no others. Functions are those of `neurogen/math.h`, so both targets compute the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from neurogen.compiler.expression import ATOM, Apply, Expression, Name, Number, infix, names
from neurogen.compiler.model import Model
from neurogen.compiler.passes import kept_rows, readers
from neurogen.compiler.program import (
    DETACH_RESET,
    HARD_RESET,
    SPIKING,
    Kernel,
    Program,
    operations,
)
from neurogen.errors import visible

# Precedence in C++, higher binds tighter; a conditional expression binds weakest.
_BINDS: Mapping[str, int] = {
    "where": 1, "or": 2, "and": 3, "==": 4, "!=": 4, "<": 5, "<=": 5, ">": 5, ">=": 5,
    "+": 6, "-": 6, "*": 7, "/": 7, "neg": 8, "not": 8,
}  # fmt: skip
_SYMBOLS: Mapping[str, str] = {"and": "&&", "or": "||"}
_FUNCTIONS: Mapping[str, str] = {"min": "minimum", "max": "maximum"}

_WORDS = """
alignas alignof and_eq asm auto bitand bitor bool case catch char char8_t char16_t char32_t
co_await co_return co_yield compl concept const const_cast consteval constexpr constinit decltype
default delete do double dynamic_cast enum explicit export extern false float friend goto inline
int long mutable namespace new noexcept not_eq nullptr operator or_eq private protected public
register reinterpret_cast requires restrict short signed sizeof static static_assert static_cast
struct switch template this thread_local throw true typedef typeid typename union unsigned using
virtual void volatile wchar_t xor xor_eq real neurogen primitive slope spiking wanted Io Operand
Forward Backward step adjoint forward backward reduce main linux unix NULL INFINITY NAN EOF asm_
half bfloat16 threadIdx blockIdx blockDim gridDim warpSize assert errno stdin stdout stderr
signbit isnan isinf isfinite fpclassify int8_t int16_t int32_t int64_t size_t REAL IO WANTED
DETACH_RESET SPIKING CHECKPOINT_EVERY LANES PART Steps Lanes Row Sum strdupa strndupa
sum sum_blocks sum_neurons forward_block backward_block sum_chunks sum_partials emulate
"""
#: Words that a spec may use as names and C++ or CUDA may not. A trailing underscore keeps them
#: apart: no name of a spec ends in one, so those names are also the loop's own.
RESERVED = frozenset(_WORDS.split())


def safe(name: str) -> str:
    """A name of the spec as an identifier of the target."""
    return (
        f"{name}_"
        if name in RESERVED or re.fullmatch(r"[A-Z][A-Z0-9_]{4,}|M_\w+|FLAG_\w+", name)
        else name
    )


def literal(value: float) -> str:
    """A number as text that converts to `real` once, from float64."""
    if value == int(value) and abs(value) < 2**24:
        return str(int(value))
    return f"real({value!r})"


def show(node: Expression, binds: int = 0) -> str:
    """The expression as text, in brackets if it binds weaker than `binds`."""
    match node:
        case Number(value=value):
            return f"({literal(value)})" if value < 0 and binds > 6 else literal(value)
        case Name(name=name):
            return safe(name)
    assert isinstance(node, Apply)
    symbol, a = node.operator, node.arguments
    own = _BINDS.get(symbol, ATOM)
    match symbol:
        case "where":
            text = f"{show(a[0], 2)} ? {show_real(a[1], 2)} : {show_real(a[2], 1)}"
        case "fire":
            text, own = (
                f"spiking ? real({show(a[0])}) : primitive({show_real(a[1])}, surrogate_)",
                1,
            )
        case "slope":
            text = f"slope({show_real(a[0])}, surrogate_)"
        case "neg" | "not":
            inner = show(a[0], own + (symbol == "neg"))
            text = ("-" if symbol == "neg" else "!") + inner
        case "**":
            return _power(a[0], a[1], binds)
        case _ if symbol in _BINDS:
            right = own + (symbol not in ("and", "or"))
            text = f"{show(a[0], own)} {_SYMBOLS.get(symbol, symbol)} {show(a[1], right)}"
            if symbol == "or" and any("&&" in t for t in (text,)):
                text = " || ".join(f"({show(x)})" if isinstance(x, Apply) and x.operator == "and"
                                   else show(x, own) for x in a)  # fmt: skip
        case _:
            name = _FUNCTIONS.get(symbol, symbol)
            text = f"neurogen::{name}({', '.join(show_real(argument) for argument in a)})"
    return f"({text})" if own < binds else text


def show_real(node: Expression, binds: int = 0) -> str:
    """The expression where it must have the type `real`, where a bare integer would not do."""
    if isinstance(node, Number):
        text = literal(node.value)
        return text if text.startswith("real(") else f"real({text})"
    return show(node, binds)


def _power(base: Expression, exponent: Expression, binds: int) -> str:
    """Left to right: v*v*v; a compound base is written once."""
    assert isinstance(exponent, Number)
    count = abs(int(exponent.value))
    if isinstance(base, Name) and count <= 4:
        product, own = " * ".join([show(base)] * count), 7 if count > 1 else ATOM
    else:
        product, own = f"neurogen::power<{count}>({show_real(base)})", ATOM
    if exponent.value < 0:
        product, own = f"1 / ({product})" if own < ATOM else f"1 / {product}", 7
    return f"({product})" if own < binds else product


def statements(kernel: Kernel, results: Mapping[str, str]) -> list[str]:
    """A step's lines: `const real h_v = …;  // note`, then `v_next_ = next_v;` for each result."""
    lines = [
        (f"const real {safe(a.name)} = {show_real(a.expression)};", a.note) for a in kernel.body
    ] + [(f"{results[name]} = {show_real(expression)};", "") for name, expression in kernel.results]
    width = min(max((len(text) for text, note in lines if note), default=0), 64)
    return [f"{text:<{width}}  // {comment(note)}" if note else text for text, note in lines]


def comment(text: str) -> str:
    """Text that cannot leave the line comment it is rendered into."""
    line = visible(" ".join(text.split())).replace("\\", "?")
    return line.replace("??", "? ").replace("*/", "* /")


def context(model: Model, program: Program) -> dict[str, object]:
    """What the kernel templates name: plain strings and lists of strings."""
    spec = model.spec
    forward, backward = program.forward, program.backward
    states = [
        {"safe": safe(s.name), "adjoint": safe(s.adjoint), "differentiable": s.differentiable}
        for s in program.states
    ]
    kept = [*program.kept]
    inputs = [*program.inputs]
    constants = [c.name for c in program.constants]
    own = [*inputs, *(s.name for s in program.states), *kept]
    noise = [n.name for n in program.noise]
    lam = [s.adjoint for s in program.states if s.differentiable]
    step = _read(forward, [name for name in (*own, *noise, *constants) if name not in kept])
    adjoint = _read(backward, [*own, *noise, *constants, program.grad_output, *lam])
    rename = {
        "output": "output_",
        **{name: f"{safe(name)}_keep_" for name in kept},
        **{s.name: f"{safe(s.name)}_next_" for s in program.states},
    }
    gradients = {name: f"{safe(name)}_grad_" for name, _ in backward.results}
    default = {f.name: f.default for f in spec.flags} | {
        HARD_RESET: True, DETACH_RESET: False, SPIKING: True,
    }  # fmt: skip

    def lane(name: str, row: bool = False) -> str:
        """What the lane loop passes for a parameter of the step; `row`: from the scratch."""
        if name in inputs or name == program.grad_output:
            row_of = f"{safe(name)}_row_" if name in inputs else "gradientrow_"
            return f"neurogen::load({row_of}[i_])"
        index = f"{safe(name)}_kept_ * row_ + i_" if row and name in own else "i_"
        return f"{safe(name)}{'' if name in constants else '_lanes_'}[{index}]"

    return {
        "name": spec.name,
        "digest": spec.digest,
        "summary": comment(spec.summary or f"The neuron {spec.name}."),
        "operations_forward": operations(forward, default),
        "operations_backward": operations(forward, default) + operations(backward, default),
        "flags": [{"name": flag, "safe": safe(flag)} for flag in program.flags],
        "inputs": [safe(name) for name in inputs],
        "states": states,
        "noise": [
            {
                "safe": safe(name),
                "stream": stream,
                "in_adjoint": name in adjoint,
                "when": _when(mask),
            }
            for stream, (name, mask) in enumerate(readers(program, noise).items())
        ],
        "constants": [
            {
                "safe": safe(c.name),
                "wanted": f"{_word(index // 64)} >> {index % 64} & 1",
                "stepped": c.stepped,
                "in_step": c.name in step,
                "in_adjoint": c.name in adjoint,
                "in_backward": c.name in step or c.name in adjoint,
            }
            for index, c in enumerate(program.constants)
        ],
        "more_words": [*range(1, -(-len(constants) // 64))],
        "constant_notes": [
            f"{safe(c.name)} = {comment(infix(c.expression))}"
            for c in program.constants
            if c.expression != Name(c.name)
        ],
        "grad_output": safe(program.grad_output),
        "step_parameters": [safe(name) for name in step],
        "step_signature": _signature(
            step,
            [
                "output_",
                *(f"{safe(name)}_keep_" for name in kept),
                *(f"{safe(s.name)}_next_" for s in program.states),
            ],
        ),
        "step_reads": [safe(s.name) for s in program.states if s.name in step],
        "step_call": [lane(name) for name in step],
        "restep_call": [lane(name, row=True) for name in step],
        "step_lines": statements(
            Kernel(forward.body, (*((k, Name(k)) for k in kept), *forward.results)), rename
        ),
        "kept": [safe(name) for name in kept],
        "rows": [
            {"safe": safe(name), "when": _when(mask)} for name, mask in kept_rows(program).items()
        ],
        "adjoint_parameters": [safe(name) for name in adjoint],
        "adjoint_signature": _signature(adjoint, list(gradients.values())),
        "adjoint_reads": [safe(name) for name in own if name in adjoint],
        "adjoint_call": [lane(name, row=True) for name in adjoint],
        "adjoint_results": list(gradients.values()),
        "adjoint_lines": statements(backward, gradients),
    }


def _word(index: int) -> str:
    """What the kernel text calls the bits of 64 constants each: `wanted`, `wanted_1_` and so on."""
    return f"wanted_{index}_" if index else "wanted"


def _when(mask: int) -> str:
    """A mask of constants as a condition on what is wanted."""
    if mask <= 0:
        return "true" if mask else "false"
    words = range(-(-mask.bit_length() // 64))
    asked = [(_word(k), mask >> 64 * k & 2**64 - 1) for k in words]
    return " || ".join(f"({word} & {bits:#x}) != 0" for word, bits in asked if bits)


def _signature(reads: list[str], writes: list[str]) -> str:
    """Parameters of a step: values in, references out, wrapped like hand-written text."""
    parameters = [f"const real {safe(name)}" for name in reads]
    parameters += ["[[maybe_unused]] const real* surrogate_", *(f"real& {name}" for name in writes)]
    lines = [""]
    for parameter in parameters:
        if len(lines[-1]) + len(parameter) > 88:
            lines.append("")
        lines[-1] += f"{parameter}, "
    return "\n    ".join(line.rstrip() for line in lines)[:-1]


def _read(kernel: Kernel, candidates: list[str]) -> list[str]:
    """Which of the candidates the statements and results of a kernel mention, in order."""
    mentioned = set().union(
        *(names(a.expression) for a in kernel.body), *(names(e) for _, e in kernel.results)
    )
    return [name for name in candidates if name in mentioned]
