"""Expressions as torch text, in the order written.

In: our expression tree. Out: Python text over tensors of one dtype. A literal stands as it is in
sums and products; where torch would take its type or a reciprocal from it (`where`, division,
functions) it becomes a tensor of the compute dtype.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from neurogen.compiler.expression import ATOM, Apply, Expression, Name, Number, names, walk
from neurogen.compiler.numeric import evaluate
from neurogen.compiler.program import is_flag_condition

_BINDS: Mapping[str, int] = {
    "where": 1, "or": 2, "and": 3, "not": 4, "==": 5, "!=": 5, "<": 5, "<=": 5, ">": 5, ">=": 5,
    "+": 9, "-": 9, "*": 10, "/": 10, "neg": 11,
}  # fmt: skip
_TENSOR_BINDS = {"or": 6, "and": 8, "not": 11}  # | & ~ on tensors
_TENSOR_SYMBOLS = {"or": "|", "and": "&"}
_ATOM = ATOM + 10

#: torch functions with the meaning of the language; all others are neurogen.runtime.functions.
_TORCH = frozenset(
    ("exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "erf", "atan",
     "abs", "relu", "floor", "round")
)  # fmt: skip
#: Operators whose derivative can be infinite or undefined where they are not taken.
_SINGULAR = frozenset(("/", "log", "log1p", "exp", "expm1", "**", "fire"))  # and any surrogate

RESERVED = frozenset(
    (
        "torch",
        "fn",
        "p",
        "u",
        "surrogate",
        "self",
        "Neuron",
        "Constant",
        "None",
        "like",
        "kernel_functions",
    )
)


def safe(name: str) -> str:
    """A name of the spec as a Python identifier that shadows nothing the module uses."""
    return f"{name}_" if name in RESERVED or keyword.iskeyword(name) else name


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints expressions.

    Attributes:
        number: Text of a literal that must be a tensor.
        name: Text of a name.
        flags: Compile-time conditions, printed as Python conditions.
        scalars: Names that are Python numbers, through which no gradient flows.
    """

    number: Callable[[str], str]
    name: Callable[[str], str] = safe
    flags: frozenset[str] = field(default_factory=frozenset)
    scalars: frozenset[str] = field(default_factory=frozenset)

    def show(self, node: Expression, binds: int = 0) -> str:
        """The expression, in brackets if it binds weaker than `binds`."""
        match node:
            case Number(value=value):
                text = literal(value)
                return f"({text})" if value < 0 and binds > 9 else text
            case Name(name=name):
                return self.name(name)
        assert isinstance(node, Apply)
        symbol, a = node.operator, node.arguments
        own = _BINDS.get(symbol, _ATOM)
        match symbol:
            case "where" if is_flag_condition(a[0], self.flags):
                text = f"{self.show(a[1], 2)} if {self.show(a[0], 2)} else {self.show(a[2], 1)}"
            case "where":
                condition = self.show(a[0])
                negated = f"~({condition})"
                text, own = f"torch.where({condition}, {self.branch(a[1], condition)}, " \
                            f"{self.branch(a[2], negated)})", _ATOM  # fmt: skip
            case "and" | "or" | "not":
                return self.logic(node, binds)
            case "fire":
                text, own = f"surrogate.fire({self.show(a[1])}, {self.show(a[0])})", _ATOM
            case "slope":
                text, own = f"surrogate.gradient({self.show(a[0])})", _ATOM
            case "element":
                assert isinstance(a[0], Name)
                row, column = (literal(n.value) for n in a[1:] if isinstance(n, Number))
                text, own = f'p.element_("{a[0].name}", {row}, {column})', _ATOM
            case "neg":
                text = f"-{self.show(a[0], own + 1)}"
            case "**":
                assert isinstance(a[1], Number)
                return f"fn.power({self.tensor(a[0])}, {int(a[1].value)})"
            case "/":
                text = f"{self.divisor(a[0], own)} / {self.divisor(a[1], own + 1)}"
            case _ if symbol in _BINDS:
                text = f"{self.show(a[0], own)} {symbol} {self.show(a[1], own + 1)}"
            case _:
                prefix = "torch" if symbol in _TORCH else "fn"
                text = f"{prefix}.{symbol}({', '.join(self.tensor(argument) for argument in a)})"
        return f"({text})" if own < binds else text

    def logic(self, node: Apply, binds: int) -> str:
        """A condition: Python's words over flags, bitwise operators over tensors."""
        symbol, a = node.operator, node.arguments
        if is_flag_condition(node, self.flags):
            own = _BINDS[symbol]
            text = f"not {self.show(a[0], own)}" if symbol == "not" else (
                f"{self.show(a[0], own)} {symbol} {self.show(a[1], own + 1)}")  # fmt: skip
        else:
            own = _TENSOR_BINDS[symbol]
            shown = [f"({self.show(x)})" if not isinstance(x, Name) else self.show(x) for x in a]
            text = f"~{shown[0]}" if symbol == "not" else f" {_TENSOR_SYMBOLS[symbol]} ".join(shown)
        return f"({text})" if own < binds else text

    def tensor(self, node: Expression) -> str:
        """An argument that must be a tensor."""
        if not names(node):  # torch takes no Python number where it wants a tensor
            return self.number(literal(evaluate(node, {})))
        return self.show(node)

    def divisor(self, node: Expression, binds: int) -> str:
        """An operand of a division: of a Python number torch takes the reciprocal on GPUs."""
        if isinstance(node, Number) and node.value not in (1.0, 2.0, -1.0):
            return self.number(literal(node.value))
        return self.show(node, binds)

    def branch(self, node: Expression, condition: str) -> str:
        """A branch of `where` whose gradient is chosen, not multiplied by 0."""
        singular = any(isinstance(n, Apply) and n.operator in _SINGULAR for n in walk(node))
        if not singular or not names(node):
            return self.tensor(node)

        def name(name: str) -> str:
            plain = name in self.flags or name in self.scalars
            return self.name(name) if plain else f"fn.taken({condition}, {self.name(name)})"

        return replace(self, name=name).tensor(node)


def literal(value: float) -> str:
    """A number as Python text: integers without a point."""
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def docstring(text: str) -> str:
    """Text that cannot leave the docstring it is rendered into."""
    kept = "".join(c for c in text if c.isprintable() or c == "\n")
    return kept.replace("\\", "\\\\").replace('"', "'").strip()
