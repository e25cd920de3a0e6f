"""A failure as a script that runs by itself: the spec, the case, the numbers it is about.

In: the path and text of a spec, a `Result`. Out: the text of a script that fails as the check did.
"""

from __future__ import annotations

from pathlib import Path

import torch

from neurogen.tools.verify.cases import Case, Problem
from neurogen.tools.verify.matrix import expectation, on_torch
from neurogen.tools.verify.suite import REFERENCE, Result

SHOWN = 40  # numbers that a script lists


def script(path: Path, text: str, result: Result, seed: int) -> str:
    """A script that repeats a check on the case where it failed.

    Args:
        path: Of the spec; the script says it, and does not read it.
        text: The spec.
        result: What failed.
        seed: That `verify` was given.
    """
    names, listed = "Case, Comparison, suite", ""
    ask = (f"found = suite.check({result.check!r}, text, case, {seed})\n"
           "assert isinstance(found, Comparison), found\nfound.require()\n")  # fmt: skip
    if result.check == REFERENCE and result.failing is None:  # what it was run on is not known
        names = "Case, compare, sizes"
        ask = f"compare(text, case, sizes.large(text, case, {seed})).require()\n"
    elif result.failing is not None:
        names, listed = "Case, Problem, compare", numbers(text, result.case, result.failing)
        ask = f"problem = {result.failing!r}\ncompare(text, case, problem).require()\n"
    return f"""{header(path)}# {describe(result)}
import torch

from neurogen.tools.verify import {names}

text = {_literal(text)}
{listed}case = {result.case!r}
{ask}"""


def header(path: Path) -> str:
    """The first line of all scripts about a spec."""
    return f"# neurogen verify {_line(str(path.resolve()))}\n"


def target(out: Path, path: Path, check: str) -> Path:
    """Where the script goes: over the one before of this spec, never over another spec's."""
    about = "" if check == REFERENCE else f"_{check.replace(' ', '_')}"
    number = 1
    while True:
        own = "" if number == 1 else f"_{number}"
        place = out / f"{path.stem}{about}_fails{own}.py"
        if not place.exists() or place.read_text("utf-8", "replace").startswith(header(path)):
            return place
        number += 1


def describe(result: Result) -> str:
    """What went wrong, on one line."""
    return _line(f"{result.check}: {result.raised or result.worst}")


def numbers(text: str, case: Case, problem: Problem) -> str:
    """Inputs, states and parameters of a problem as comments; nothing where they cannot be had."""
    try:
        wanted = expectation(text, on_torch(case), problem)
    except Exception:
        return ""
    values = dict(zip(wanted.reference.inputs, wanted.inputs, strict=True))
    values |= {f"{name} before the first step": s for name, s in wanted.state.items()}
    values |= wanted.arguments
    return "".join(f"# {name} = {_shown(value)}\n" for name, value in values.items())


def _shown(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return str(value)
    if value.numel() > SHOWN:
        return f"{list(value.shape)} random numbers"
    return str(value.detach().tolist())


def _literal(text: str) -> str:
    """Text as Python, readable where it can be."""
    readable = text.isprintable() or text.replace("\n", "").isprintable()
    plain = readable and '"""' not in text and "\\" not in text and not text.endswith('"')
    return f'"""\\\n{text}"""' if plain else repr(text)


def _line(text: str) -> str:
    """Text on one line: nothing of it gets out of a comment."""
    return " ".join(text.split())
