"""What can go wrong, as data: a mistake in a spec is yours, an `InternalError` is ours.

In: facts about a mistake (code, place, hint). Out: exceptions whose text tells what was wrong,
where, and what to do. Separate so that every stage and the runtime can raise without importing
one another.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurogen.mistakes import FIRST_WARNING


def visible(text: str) -> str:
    """Text on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a spec file: 1-based line and column, and the text of that line."""

    file: str
    line: int
    column: int
    text: str = ""

    def __str__(self) -> str:
        return f"{visible(self.file)}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a spec.

    Attributes:
        code: Stable code, a key of `neurogen.mistakes.MISTAKES` (`NG012`).
        message: What was found, in one line.
        location: Where.
        field: Dotted path of the key (`charge.v`), empty for the whole file.
        hint: What to do about it, empty if there is nothing better than the message.
        width: How many characters the caret underlines.
    """

    code: str
    message: str
    location: Location
    field: str = ""
    hint: str = ""
    width: int = 1

    @property
    def is_warning(self) -> bool:
        """Whether the neuron is built all the same."""
        return self.code >= FIRST_WARNING

    def __str__(self) -> str:
        """`file:line:column: NG012 field: message`, the line with a caret, and the hint."""
        field = f"{self.field}: " if self.field else ""
        code = f"warning {self.code}" if self.is_warning else self.code
        lines = [f"{self.location}: {code} {field}{self.message}"]
        if self.location.text.strip():
            skipped = max(0, self.location.column - 61)  # a long line is shown around its caret
            shown = self.location.text[skipped : skipped + 100].rstrip()
            offset = self.location.column - 1 - skipped
            marker = "^" * max(1, min(self.width, len(shown) - offset))
            lines += [f"    {shown}", f"    {' ' * offset}{marker}"]
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class NeurogenError(Exception):
    """Anything this package raises on purpose."""


class SpecError(NeurogenError, ValueError):
    """A spec is wrong; holds every mistake found in it.

    Attributes:
        mistakes: All mistakes, in the order of the file.
    """

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        def place(mistake: Mistake) -> tuple[int, int, str]:
            return (mistake.location.line, mistake.location.column, mistake.code)

        self.mistakes = tuple(sorted(dict.fromkeys(mistakes), key=place))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class BackendError(NeurogenError, RuntimeError):
    """A backend was asked for that cannot run here; the text says what to install or choose."""


class InternalError(NeurogenError, AssertionError):
    """A defect of neurogen itself: please report it with the spec that caused it."""

    def __init__(self, stage: str, what: str) -> None:
        super().__init__(f"internal error in {stage}: {what}. Please report this with your spec.")
