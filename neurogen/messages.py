"""Mistakes as people and programs read them: text, JSON, annotations of GitHub, Markdown.

In: mistakes, or the table of `mistakes.py`. Out: text. A new format is one function and one entry
of `FORMATS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from neurogen.errors import Mistake
from neurogen.mistakes import FIRST_WARNING, MISTAKES

_PAGE = f"""# Mistakes

What `neurogen check` and `neurogen build` say of a spec, by code; `neurogen explain NG012` shows
an entry. A code never changes its meaning. A spec with a mistake is refused; one with a warning,
{FIRST_WARNING} and up, is built. This page is printed by `neurogen explain --markdown`.
"""


def text(mistakes: Sequence[Mistake]) -> str:
    """Place, code, message, the line with a caret, and the hint of each."""
    return "\n".join(str(mistake) for mistake in mistakes)


def as_json(mistakes: Sequence[Mistake]) -> str:
    """A list of objects; columns are counted from 1, `end_column` is behind the last character."""
    return json.dumps(
        [
            {
                "file": mistake.location.file,
                "line": mistake.location.line,
                "column": mistake.location.column,
                "end_column": mistake.location.column + mistake.width,
                "code": mistake.code,
                "severity": _severity(mistake.code),
                "field": mistake.field,
                "message": mistake.message,
                "hint": mistake.hint,
                "text": mistake.location.text,
            }
            for mistake in mistakes
        ],
        indent=2,
    )


def github(mistakes: Sequence[Mistake]) -> str:
    """Workflow commands that show each mistake beside its line in a pull request."""
    lines = []
    for mistake in mistakes:
        place = mistake.location
        properties = {
            "file": place.file,
            "line": place.line,
            "endLine": place.line,
            "col": place.column,
            "endColumn": place.column + mistake.width,
            "title": f"{mistake.code} {mistake.field}".strip(),
        }
        shown = ",".join(f"{key}={_escape(str(v), ':,')}" for key, v in properties.items())
        message = mistake.message + (f"\nhint: {mistake.hint}" if mistake.hint else "")
        lines.append(f"::{_severity(mistake.code)} {shown}::{_escape(message)}")
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Sequence[Mistake]], str]] = {
    "text": text,
    "json": as_json,
    "github": github,
}


def _severity(code: str) -> str:
    return "warning" if code >= FIRST_WARNING else "error"


def _escape(value: str, also: str = "") -> str:
    """Text that ends neither the command nor one of its properties, nor moves the cursor."""
    return "".join(f"%{ord(c):02X}" if c in f"%{also}" or not c.isprintable() else c for c in value)


def section(code: str) -> str:
    """What there is to say about a code, as Markdown."""
    entry = MISTAKES[code]
    lines = [f"## {code}: {entry.title}", "", f"*{_severity(code).capitalize()}.* {entry.text}"]
    for title, example in (("Refused" if code < FIRST_WARNING else "Warned of", entry.bad),
                           ("Mended", entry.good)):  # fmt: skip
        if example:
            lines += ["", f"{title}:", "", "```yaml", example.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """`docs/mistakes.md`."""
    return "\n".join([_PAGE, *(section(code) for code in MISTAKES)])
