"""What a spec's entries say: numbers, flags, long and short forms, surrogates.

In: what the YAML reader makes of one entry (text, lists and mappings of text). Out: the thing
itself, or a `ValueError`. Separate from `stepper`, which knows what the entries are for.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neurogen.tools.reference.curves import CURVES, Curve, Decide
from neurogen.tools.reference.equations import Fire, Prelude
from neurogen.tools.reference.syntax import parse


def long_form(entry: object, key: str, others: str) -> dict[str, Any]:
    """Return the long form of an entry: text becomes {key: text}; unknown keys are refused."""
    entry = entry if isinstance(entry, dict) else {key: entry}
    if unknown := entry.keys() - {key, *others.split()}:
        raise ValueError(f"not understood: {sorted(unknown)}")
    return entry


def _autograd(primitive: Callable[[Tensor, Decide], Tensor]) -> Curve:
    """Take the slope of a primitive S(u) from torch autograd."""

    def curve(u: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.requires_grad_()
            smooth = primitive(u, decide)
            (slope,) = torch.autograd.grad(smooth.sum(), u)
        return smooth.detach(), slope

    return curve


def read_curve(choice: object) -> Curve:
    """Make a curve of a name, a mapping as in a spec, (name, parameters) or a function S(u)."""
    if callable(choice):
        return _autograd(lambda u, _: choice(u))
    if isinstance(choice, tuple):
        name, given = choice
    elif isinstance(choice, dict) and "primitive" in choice:
        entry = long_form(choice, "primitive", "parameters")
        tree = parse(entry["primitive"], {})
        names: dict[str, Tensor | ast.expr] = {
            key: parse(long_form(short, "default", "doc")["default"], {})
            for key, short in entry.get("parameters", {}).items()
        }
        return _autograd(lambda u, decide: Prelude({**names, "u": u}, decide).value(tree))
    elif isinstance(choice, dict):
        name = choice.get("name")
        given = {key: read_number(text) for key, text in choice.items() if key != "name"}
    else:
        name, given = choice, {}
    if name not in CURVES or given.keys() - CURVES[name][0].keys():
        raise ValueError(f"not a surrogate: {name!r} with {sorted(given)}")
    defaults, function_of = CURVES[name]
    return functools.partial(function_of, **(defaults | given))


def read_number(text: object) -> float:
    """Read a number from YAML text."""
    if not isinstance(text, str) or not re.fullmatch(
        r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip()
    ):
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def read_flag(text: object) -> bool:
    """Read true or false from YAML text."""
    if text not in ("true", "false"):
        raise ValueError(f"a flag is true or false, not {text!r}")
    return text == "true"


def read_fire(entry: object, parse: Callable[[object], ast.expr]) -> Fire | None:
    """Read when a neuron fires; None is never."""
    entry = long_form(entry, "when", "if kind levels")
    kind, levels = entry.get("kind", "binary"), read_number(entry.get("levels", "1"))
    if entry["when"] == "none":
        return None
    if kind not in ("binary", "ternary", "multilevel") or not (levels >= 1 and levels.is_integer()):
        raise ValueError(f"not a kind of fire: {kind} with {levels} levels")
    if (kind == "multilevel") != ("levels" in entry):
        raise ValueError("levels are for, and needed by, a fire of kind multilevel")
    guard = parse(entry["if"]) if "if" in entry else None
    return Fire(parse(entry["when"]), guard, kind, int(levels))
