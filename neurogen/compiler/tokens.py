"""Tokens of an equation: what is no equation is refused here, in words that fit.

In: the text of an equation. Out: nothing, or an `ExpressionError` with code, place and hint. The
parser of Python reads the text afterwards; it would take more than the language has (attributes,
lambdas, hexadecimal numbers), and says less about what is wrong.
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping

MAX_DEPTH = 60
MAX_NAME = 60
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
TOKEN = re.compile(
    r"(?P<space>[ \t\n]+)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<symbol>\*\*|<=|>=|==|!=|[-+*/<>(),])",
    re.ASCII,
)
_WORDS = frozenset(("if", "else", "and", "or", "not"))

#: What to write instead of characters that people try.
#: The hint where somebody wants a sum over other neurons.
APART = "neurons of a layer share no sum: weights belong to a layer before the neuron"
_INSTEAD: Mapping[str, str] = {
    "=": "an equation is the right-hand side only; == compares",
    "^": "a power is written **",
    "%": "there is no remainder; a - b * floor(a / b)",
    "&": "write and",
    "|": "write or",
    "!": "write not",
    "~": "write not",
    "[": "brackets are ( and ); an earlier value is prev(state), or a state that carries it on",
    "{": "brackets are ( and )",
    "\u2212": "a minus is written -",
    "\u2013": "a minus is written -",
    "\u00d7": "a product is written *",
    "\u00b7": "a product is written *",
    "\u00b2": "a square is written **2",
    "\u2265": "write >=",
    "\u2264": "write <=",
    ".": "a decimal point needs a digit beside it; names have no parts",
    "#": "comments go on lines of their own",
    "@": APART,
}


class ExpressionError(ValueError):
    """An equation's text is wrong: stable code, message, offset in the text, hint."""

    def __init__(self, code: str, message: str, at: int = 0, hint: str = "", width: int = 1):
        super().__init__(message)
        self.code, self.message, self.at, self.hint, self.width = code, message, at, hint, width


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, offset) of every token: `number`, `name`, `word` or `symbol`."""
    at = 0
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None:
            raise ExpressionError(
                "NG021",
                f"{_shown(text[at])} is not allowed in an equation",
                at,
                _INSTEAD.get(text[at], "equations are plain ASCII"),
            )
        kind, word, start, at = token.lastgroup or "", token[0], at, token.end()
        if kind == "number":
            _check_number(word, text[at:], start)
        elif kind == "name" and word not in _WORDS:
            _check_name(word, start)
        if kind != "space":
            yield "word" if word in _WORDS else kind, word, start


def check_tokens(text: str) -> None:
    """Operands, operators and brackets must alternate as they should, and not nest too deep."""
    brackets: list[tuple[int, bool]] = []  # where, and whether it is a call's
    conditions: list[int] = []
    prefixes, last, complete, callable_name = 0, "", False, False
    for kind, word, at in _tokens(text):
        is_operand = kind in {"number", "name"}
        is_call = word == "(" and callable_name
        is_prefix = word in {"+", "-", "not"} and not complete
        if complete and not is_call and (is_operand or word in {"(", "not"}):
            raise wrong(at, f"an operator is missing before '{word}'", "write a * b", word)
        if word == ")" and not brackets:
            raise wrong(at, "')' closes nothing", "", word)
        is_empty_call = word == ")" and last == "(" and brackets[-1][1]
        if not (complete or is_operand or is_prefix or is_empty_call or word == "("):
            raise wrong(at, f"something is missing before '{word}'", "", word)
        if word == "," and not (brackets and brackets[-1][1]):
            raise wrong(at, "',' stands outside a call", "a decimal point is .", word)
        prefixes = prefixes + 1 if is_prefix else 0
        if word == "(":
            brackets.append((at, is_call))
        elif word == ")":
            brackets.pop()
        elif word == "if":
            conditions.append(at)
        elif word == "else":
            if not conditions:
                raise wrong(at, "an 'else' without its 'if'", "write a if c else b", word)
            conditions.pop()
        if max(len(brackets), prefixes) > MAX_DEPTH:
            raise too_deep(at)
        last, complete, callable_name = word, is_operand or word == ")", kind == "name"
    if not complete:
        raise wrong(len(text.rstrip()) - 1, f"the equation breaks off after '{last}'", "", "")
    if brackets:
        raise wrong(brackets[-1][0], "'(' is never closed", "", "(")
    if conditions:
        raise wrong(conditions[-1], "an 'if' without its 'else'", "write a if c else b", "if")


def wrong(at: int, message: str, hint: str, word: str) -> ExpressionError:
    """The syntax is wrong at a word."""
    return ExpressionError("NG021", message, at, hint, max(1, len(word)))


def _check_number(word: str, rest: str, at: int) -> None:
    glued = re.match(r"[\w.]*", rest)
    tail = glued[0] if glued else ""
    if tail or re.fullmatch(r"0\d+", word):
        written = (word + tail)[:MAX_NAME]
        factor = IDENTIFIER.fullmatch(tail) and tail not in _WORDS and word != "0"
        hint = f"write {word} * {tail}" if factor else "write 0.5, 2 or 1e-3"
        raise wrong(at, f"'{written}' is not a number", hint, written)


def _check_name(name: str, at: int) -> None:
    if keyword.iskeyword(name) or not IDENTIFIER.fullmatch(name) or len(name) > MAX_NAME:
        shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
        raise ExpressionError(
            "NG021",
            f"'{shown}' cannot be a name",
            at,
            f"a letter, then letters, digits, underscores, {MAX_NAME} at most; no word of Python",
            min(len(name), MAX_NAME),
        )


def _shown(character: str) -> str:
    return f"'{character}'" if character.isprintable() else f"the character U+{ord(character):04X}"


def too_deep(at: int = 0) -> ExpressionError:
    """Operators or brackets nest too deep."""
    return ExpressionError(
        "NG020",
        f"the equation is nested more than {MAX_DEPTH} deep",
        at,
        "split it with `let` or named steps of `charge`",
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'tau'?`, or an empty string where nothing known is near."""
    candidates = sorted(known)
    near = [name for name in candidates if name.lower() == word.lower()]
    near = near or difflib.get_close_matches(word[:MAX_NAME], candidates, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""
