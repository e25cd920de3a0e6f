"""Surrogates as classes: torch text for eager steps beside C++ text for kernels.

In: primitives of the table, or of a spec. Out: the text of a class each, and of the whole table.
"""

from __future__ import annotations

import textwrap

from neurogen.backends import clike
from neurogen.backends.render import render
from neurogen.backends.torch.printer import Printer, docstring, literal
from neurogen.compiler.artefact import Artefact
from neurogen.compiler.expression import Expression, infix, names
from neurogen.compiler.surrogates import TABLE, compiled, table_entry


def _own(name: str) -> str:
    """A shape parameter as a Python name that does not hide a module of the text."""
    return f"{name}_" if name in ("torch", "fn") else name


def surrogate_class(
    class_name: str,
    function_name: str,
    primitive: Expression,
    parameters: tuple[tuple[str, float], ...],
    doc: str,
    positive: tuple[str, ...] = (),
) -> str:
    """The text of one class and of its function form."""
    value, slope = compiled(primitive)
    own = [name for name, _ in parameters]
    printer = Printer(lambda text: f"fn.number({text}, u)", _own, scalars=frozenset(own))

    def tensor(expression: Expression) -> str:
        # A slope without u is a constant; it still has the shape of u.
        text = printer.tensor(expression)
        return text if "u" in names(expression) else f"fn.number({text}, u).expand_as(u)"

    return render(
        "torch",
        "surrogate.py.jinja",
        {
            "class_name": class_name,
            "function_name": function_name,
            "doc": docstring(doc),
            "parameters": [
                {
                    "name": name,
                    "local": _own(name),
                    "c": clike.safe(name),
                    "index": own.index(name),
                    "default": literal(default) if default != int(default) else f"{default:.1f}",
                    "in_primitive": name in names(value),
                    "in_slope": name in names(slope),
                }
                for name, default in parameters
            ],
            "positive": positive,
            "primitive": infix(value),
            "slope": infix(slope),
            "c_primitive": clike.show_real(value),
            "c_slope": clike.show_real(slope),
            "torch_primitive": tensor(value),
            "torch_slope": tensor(slope),
        },
    )


def surrogate_table() -> Artefact:
    """The module `neurogen/runtime/surrogate/table.py`, relative to the package."""
    classes = []
    for name, entry in TABLE.items():
        primitive, _ = table_entry(entry)
        doc = f"Surrogate with the gradient {entry.slope}."
        if entry.doc:
            doc += "\n\n    " + "\n    ".join(textwrap.wrap(entry.doc, 92))
        text = surrogate_class(
            entry.class_name, name, primitive, entry.parameters, doc, entry.positive
        )
        classes.append(text)
    exported = sorted({*TABLE, *(entry.class_name for entry in TABLE.values())})
    text = render("torch", "table.py.jinja", {"surrogates": classes, "names": exported})
    return Artefact("runtime/surrogate/table.py", text)
