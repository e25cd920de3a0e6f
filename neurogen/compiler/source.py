"""Spec text -> plain YAML data that remembers where each piece stood.

In: the text of a file. Out: nested `str`, `list` and `dict` (scalars stay text, so that `1e-3`,
`on`, `012` and `12:30` are not reinterpreted), and `Source.locate` from a path of keys to a
`Location`. Separate because positions are needed by every later stage and YAML by none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from neurogen.errors import Location, Mistake, SpecError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A YAML node: a scalar's text, a sequence's nodes, or a mapping's (key, node) pairs."""

    value: str | None | tuple[Node, ...] | tuple[tuple[Node, Node], ...]
    kind: str
    line: int
    column: int
    plain: bool = True

    def child(self, step: str | int) -> Node | None:
        """The value under a key, or the n-th value of a sequence or mapping."""
        if self.kind == "mapping":
            pairs: Any = self.value
            if isinstance(step, int):
                return pairs[step][1] if step < len(pairs) else None
            return next((value for key, value in pairs if key.value == step), None)
        if self.kind == "sequence" and isinstance(step, int):
            items: Any = self.value
            return items[step] if step < len(items) else None
        return None

    def key(self, step: str | int) -> Node | None:
        """The node of a mapping's key."""
        if self.kind != "mapping":
            return None
        pairs: Any = self.value
        if isinstance(step, int):
            return pairs[step][0] if step < len(pairs) else None
        return next((key for key, _ in pairs if key.value == step), None)


@dataclass(frozen=True, slots=True)
class Source:
    """A spec's text with the YAML tree above it."""

    file: str
    text: str
    root: Node

    def locate(self, path: Path, at: int | None = None, *, key: bool = False) -> Location:
        """Where a value stands.

        Args:
            path: Keys and indices from the root; as far as they exist.
            at: Offset inside the scalar, for a caret within an equation.
            key: Point at the last key instead of its value.
        """
        node = self.root
        for depth, step in enumerate(path):
            if key and depth == len(path) - 1:
                node = node.key(step) or node
                break
            deeper = node.child(step)
            if deeper is None:
                node = node.key(step) or node
                break
            node = deeper
        line, column = node.line, node.column
        if at is not None and isinstance(node.value, str):
            line, column = self._inside(node, at)
        lines = self.text.splitlines()
        shown = lines[line] if line < len(lines) else ""
        return Location(self.file, line + 1, column + 1, shown.replace("\t", " ")[:300])

    def _inside(self, node: Node, at: int) -> tuple[int, int]:
        """Line and column of an offset into a scalar: exact on one line, else found by text."""
        assert isinstance(node.value, str)
        lines = self.text.splitlines()
        start = node.column + (not node.plain)
        if lines[node.line][start:].startswith(node.value):
            return node.line, start + at
        written = node.value[at:].split("\n")[0]
        for length in range(min(len(written), 30), 0, -1):  # a folded or block scalar
            for line in range(node.line, min(node.line + 40, len(lines))):
                column = lines[line].find(written[:length], start if line == node.line else 0)
                if column >= 0:
                    return line, column
        return node.line, node.column

    def data(self) -> Any:
        """The tree as nested dict, list, str and None."""
        return _data(self.root)


def _data(node: Node) -> Any:
    pairs: Any = node.value
    if node.kind == "mapping":
        return {key.value: _data(value) for key, value in pairs}
    if node.kind == "sequence":
        return [_data(item) for item in pairs]
    return node.value


def read(text: str, file: str) -> Source:
    """Parse YAML text, one document with a mapping at its root.

    Raises:
        SpecError: Not YAML, too large, too deep, aliases, tags, duplicate or non-text keys.
    """

    def fail(code: str, message: str, line: int = 0, column: int = 0, hint: str = "") -> SpecError:
        lines = text.splitlines()
        shown = lines[line][:300] if line < len(lines) else ""
        return SpecError((Mistake(code, message, Location(file, line + 1, column + 1, shown), "",
                                  hint),))  # fmt: skip

    if len(text) > MAX_BYTES:
        raise fail("NG008", f"the spec has {len(text)} characters, more than {MAX_BYTES}")
    duplicates: list[Mistake] = []
    try:
        events = _checked(yaml.parse(text, Loader=yaml.SafeLoader), fail)
        root = _compose(next(events, None), events, duplicates, fail, file, text)
        if next(events, None) is not None:
            raise fail("NG002", "a spec file holds one document", hint="remove the second '---'")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise fail(
            "NG002",
            f"not YAML: {problem}",
            mark.line if mark else 0,
            mark.column if mark else 0,
            "an equation that contains ': ' or starts with one of { [ & * ! | > ' \" % @ needs quotes",
        ) from None
    except SpecError:
        raise
    except (ValueError, RecursionError) as error:
        raise fail("NG002", f"not YAML: {error}") from None
    if duplicates:
        raise SpecError(tuple(duplicates))
    if root is None or (root.kind == "scalar" and not root.value):
        raise fail("NG002", "the file is empty", hint="the smallest spec has `name` and `charge`")
    if root.kind != "mapping":
        raise fail("NG002", f"a spec is a mapping of keys, not a {root.kind}", root.line)
    return Source(file, text, root)


def _checked(events: Iterator[Any], fail: Any) -> Iterator[Any]:
    """The content events; whatever could make the tree larger than the text is refused."""
    depth = 0
    for event in events:
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise fail("NG002", "anchors and aliases are not part of a spec", mark.line, mark.column)
        if getattr(event, "tag", None):
            raise fail("NG002", f"the tag {event.tag} is not part of a spec", mark.line, mark.column)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise fail("NG008", f"nested more than {MAX_DEPTH} deep", mark.line, mark.column)
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            yield event


def _compose(
    event: Any, events: Iterator[Any], duplicates: list[Mistake], fail: Any, file: str, text: str
) -> Node | None:
    if event is None:
        return None
    line, column = event.start_mark.line, event.start_mark.column
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style is None
        value = None if plain and event.value in ("", "~", "null") else event.value
        return Node(value, "scalar", line, column, plain)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(following := next(events), yaml.SequenceEndEvent):
            items.append(_compose(following, events, duplicates, fail, file, text))
        return Node(tuple(item for item in items if item), "sequence", line, column)
    pairs: dict[str, tuple[Node, Node]] = {}
    while not isinstance(following := next(events), yaml.MappingEndEvent):
        key = _compose(following, events, duplicates, fail, file, text)
        value = _compose(next(events), events, duplicates, fail, file, text)
        assert key is not None and value is not None
        if not isinstance(key.value, str):
            raise fail("NG002", "a key must be a plain word", key.line, key.column)
        if key.value in pairs:
            shown = text.splitlines()[key.line]
            first = pairs[key.value][0].line + 1
            duplicates.append(Mistake(
                "NG006", f"duplicate key '{key.value}'",
                Location(file, key.line + 1, key.column + 1, shown),
                hint=f"it stands in line {first} already", width=len(key.value),
            ))  # fmt: skip
            continue
        pairs[key.value] = (key, value)
    return Node(tuple(pairs.values()), "mapping", line, column)
