"""Spec text -> plain YAML data that remembers where each piece stood.

In: the text of a file. Out: a tree of `Node`s (scalars stay text, so that `1e-3`, `on`, `012` and
`12:30` are not reinterpreted), and `Source.mistake`, which turns a path of keys into a place in the
file. Separate because positions are needed by every later stage and YAML by none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from neurogen.errors import Location, Mistake, SpecError, visible

MAX_CHARACTERS = 32 * 1024
MAX_DEPTH = 8
MAX_MISTAKES = 100
Path = tuple[str | int, ...]

#: Characters that make a text look other than it is: line breaks that few editors show, embedded
#: and overridden writing directions.
_DECEPTIVE = re.compile("[\x85\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of YAML.

    Attributes:
        kind: `scalar`, `list` or `mapping`.
        start: Offset of its first character in the text.
        end: Offset behind its last one.
        text: A scalar's text; None where nothing, `null` or `~` is written.
        items: A list's nodes.
        pairs: A mapping's (key, value) nodes; keys are scalars, no two alike.
        style: How a scalar is written: plain (empty), quoted (`'`, `"`) or as a block (`|`, `>`).
        flow: Whether it stands inside `{ }` or `[ ]`, where a comma ends it.
    """

    kind: str
    start: int
    end: int
    text: str | None = None
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()
    style: str = ""
    flow: bool = False

    def child(self, step: str | int) -> Node | None:
        """The value under a key, or the n-th item of a list."""
        if isinstance(step, int):
            return self.items[step] if step < len(self.items) else None
        return next((value for key, value in self.pairs if key.text == step), None)

    def key(self, step: str | int) -> Node | None:
        """The node of a mapping's key."""
        return next((key for key, _ in self.pairs if key.text == step), None)


@dataclass(frozen=True, slots=True)
class Source:
    """A spec's text with the YAML tree above it.

    Attributes:
        file: What messages call it.
        text: Its text.
        root: The mapping that is the spec.
        duplicates: Keys that stand twice; the tree holds the first of each.
        slips: (key, what is written in its place) of misspelt keys whose value was read.
    """

    file: str
    text: str
    root: Node
    duplicates: tuple[Mistake, ...] = ()
    slips: tuple[tuple[str, str], ...] = ()

    def mistake(
        self,
        code: str,
        path: Path,
        message: str,
        hint: str = "",
        *,
        at: int | None = None,
        width: int | None = None,
        key: bool = False,
    ) -> Mistake:
        """A mistake at a path.

        Args:
            code: A key of `neurogen.mistakes.MISTAKES`.
            path: Keys and indices from the root; followed as far as they exist.
            message: What was found.
            hint: What to do about it.
            at: Offset inside the scalar, for a caret within an equation.
            width: What the caret underlines; None is a whole value or key, or one character.
            key: Point at the last key instead of its value.
        """
        path = (*(dict(self.slips).get(str(step), step) for step in path[:1]), *path[1:])
        node, steps = self.root, 0
        for step in path:
            deeper = node.child(step)
            if deeper is None:
                break
            steps += 1
            own = node.key(step)
            node = own if key and own is not None and steps == len(path) else deeper
        if width is None:
            written = self.text[node.start : node.end].split("\n")[0]
            width = len(written.rstrip()) if at is None and node.kind == "scalar" else 1
        offset = node.start if at is None else self._inside(node, at)
        place = _location(self.file, self.text, offset)
        shown = ".".join(printable(str(step)) for step in path[:steps])
        return Mistake(
            code, printable(message, 300), place, shown, printable(hint, 300), max(width, 1)
        )

    def _inside(self, node: Node, at: int) -> int:
        """Offset in the text of an offset in a scalar: layout changes nothing but white space."""
        written, value = self.text[node.start : node.end], node.text or ""
        if (node.style == '"' and "\\" in written) or (node.style == "'" and "''" in written):
            return node.start
        begin = written.find("\n") + 1 if node.style in {"|", ">"} else int(node.style != "")
        ahead = sum(not character.isspace() for character in value[:at])
        end = begin
        for offset in range(begin, len(written)):
            if not written[offset].isspace():
                if ahead == 0:
                    return node.start + offset
                ahead, end = ahead - 1, offset + 1
        return node.start + end


def printable(text: str, longest: int = 60) -> str:
    """Text of a spec as a message may show it: one line, no control characters, not too long."""
    shown = visible(text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def _location(file: str, text: str, offset: int) -> Location:
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)]
    shown = visible(line.replace("\t", " "))
    return Location(file, text.count("\n", 0, offset) + 1, offset - start + 1, shown)


def read(text: str, file: str) -> Source:
    """Parse YAML text, one document with a mapping at its root.

    Raises:
        SpecError: Not YAML, too large, too deep, aliases, tags, or keys that are no text.
    """
    if len(text) > MAX_CHARACTERS:
        message = f"the spec has {len(text)} characters, more than {MAX_CHARACTERS}"
        raise SpecError((Mistake("NG008", message, Location(file, 1, 1)),))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    reading = _Reading(file, text)
    if deceptive := _DECEPTIVE.search(text):
        raise reading.refusal(
            "NG002",
            f"the character U+{ord(deceptive[0]):04X} is not allowed",
            deceptive.start(),
            "it is invisible, and makes a text look other than it is",
        )
    try:
        root = reading.root()
    except yaml.reader.ReaderError as error:
        raise reading.refusal(
            "NG002", f"the character U+{error.character:04X} is not allowed", error.position
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise reading.refusal(
            "NG002",
            f"not YAML: {printable(error.problem or error.context or '', 200)}",
            mark.index if mark else 0,
            "text with ': ' or ' #' in it, or that starts with one of { [ & * ! | > ' \" % @ `, "
            "needs quotes; indent with spaces",
        ) from None
    except SpecError:
        raise
    except (ValueError, OverflowError):  # from chr() for "\\U00110000", int() for %YAML 1.999…
        message = "not YAML: the number of a character or of a version is out of range"
        raise reading.refusal("NG002", message, reading.read_to) from None
    if root is None or (root.kind == "scalar" and not root.text):
        raise reading.refusal(
            "NG002", "the file is empty", 0, "the smallest spec has `name` and `charge`"
        )
    if root.kind != "mapping":
        found = "a list" if root.kind == "list" else "text"
        raise reading.refusal(
            "NG002", f"a spec is a mapping of keys, not {found}", root.start, "name: MyNeuron"
        )
    return Source(file, text, root, tuple(reading.duplicates))


class _Reading:
    """Builds the tree from PyYAML's events; whatever could make it larger than the text is refused.

    PyYAML's own composer and constructor are not used: they keep the last of two equal keys, follow
    aliases, and make `on` a boolean.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.duplicates: list[Mistake] = []
        self.read_to = 0

    def refusal(self, code: str, message: str, offset: int = 0, hint: str = "") -> SpecError:
        place = _location(self.file, self.text, offset)
        return SpecError((Mistake(code, message, place, "", hint),))

    def root(self) -> Node | None:
        events = self.content()
        first = next(events, None)
        root = None if first is None else self.compose(first, events, flow=False)
        if following := next(events, None):
            raise self.refusal(
                "NG002",
                "a spec file holds one document",
                _span(following)[0],
                "remove the second '---'",
            )
        return root

    def content(self) -> Iterator[yaml.Event]:
        depth = 0
        for event in yaml.parse(self.text, Loader=yaml.SafeLoader):
            if not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
                continue
            place, self.read_to = _span(event)
            if getattr(event, "anchor", None):
                raise self.refusal("NG002", "anchors and aliases are not part of a spec", place)
            if tag := getattr(event, "tag", None):
                shown = printable(tag)
                raise self.refusal("NG002", f"the tag {shown} is not part of a spec", place)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise self.refusal("NG008", f"nested more than {MAX_DEPTH} deep", place)
            yield event

    def compose(self, event: yaml.Event, events: Iterator[yaml.Event], *, flow: bool) -> Node:
        start, end = _span(event)
        if isinstance(event, yaml.ScalarEvent):
            style = event.style or ""
            text = None if not style and event.value in {"", "~", "null"} else event.value
            return Node("scalar", start, end, text, style=style, flow=flow)
        flow = bool(getattr(event, "flow_style", False))
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(following := next(events), yaml.SequenceEndEvent):
                items.append(self.compose(following, events, flow=flow))
            return Node("list", start, _span(following)[1], items=tuple(items), flow=flow)
        pairs: dict[str, tuple[Node, Node]] = {}
        while not isinstance(following := next(events), yaml.MappingEndEvent):
            key = self.compose(following, events, flow=flow)
            value = self.compose(next(events), events, flow=flow)
            if key.text is None:
                raise self.refusal("NG002", "a key must be a plain word", key.start)
            if key.text in pairs:
                self.duplicate(key, pairs[key.text][0])
            else:
                pairs[key.text] = key, value
        return Node("mapping", start, _span(following)[1], pairs=tuple(pairs.values()))

    def duplicate(self, key: Node, first: Node) -> None:
        place = _location(self.file, self.text, key.start)
        line = _location(self.file, self.text, first.start).line
        message, hint = f"duplicate key '{printable(key.text or '')}'", f"it stands in line {line}"
        width = len(printable(key.text or ""))
        self.duplicates.append(Mistake("NG006", message, place, "", hint, width))
        if len(self.duplicates) >= MAX_MISTAKES:
            raise SpecError(tuple(self.duplicates))


def _span(event: yaml.Event) -> tuple[int, int]:
    """Offsets of an event's first character, and behind its last."""
    start, end = event.start_mark, event.end_mark
    return (start.index if start else 0), (end.index if end else 0)
