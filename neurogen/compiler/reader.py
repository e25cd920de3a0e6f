"""Spec text -> Spec: what is written under each key, every wrong one found in one run.

In: the text of a spec. Out: a `Spec`. The table of keys is `_Reader.spec`; each form that a key can
take is a method. What the equations mean is `model.py`'s business.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, get_args

from neurogen.compiler.expression import Number
from neurogen.compiler.parsing import parse
from neurogen.compiler.source import MAX_MISTAKES, Node, Path, Source, printable, read
from neurogen.compiler.spec import (
    BROKEN,
    LANGUAGE,
    RESERVED,
    SHAPE_RESERVED,
    Assignment,
    Equation,
    Expect,
    Fire,
    Flag,
    Kind,
    Learnable,
    Noise,
    Parameter,
    Per,
    Reset,
    Rule,
    Scheme,
    Spec,
    State,
    Surrogate,
    Transform,
)
from neurogen.compiler.tokens import IDENTIFIER, MAX_NAME, ExpressionError, did_you_mean
from neurogen.errors import Mistake, SpecError

MAX_NAMES = 64  # of one kind: states, parameters, inputs, steps of charge …
MAX_FLAGS = 6  # both variants of each exist
MAX_SHAPE = 4  # parameters of a surrogate
MAX_STEPS = 1000  # of an example

#: The keys of a spec.
KEYS = frozenset(Spec.__slots__) - {"source"}
_NOTHING = Equation("", BROKEN)


def parse_spec(text: str, file: str) -> Spec:
    """Read a spec.

    Args:
        text: YAML, see docs/language.md for the keys.
        file: What messages call it.

    Raises:
        SpecError: With every wrong key, value and equation of the file.
    """
    spec, mistakes = read_spec(text, file)
    if mistakes:
        raise SpecError(mistakes)
    return spec


def read_spec(text: str, file: str) -> tuple[Spec, tuple[Mistake, ...]]:
    """Read what can be read of a spec, so that a later stage can look for mistakes in the rest.

    Raises:
        SpecError: The text is no YAML mapping, or has too many mistakes to go on.
    """
    reader = _Reader(read(text, file))
    return reader.spec(), tuple(reader.mistakes)


Read = Callable[[Node, Path], Any]


class _Reader:
    """Turns nodes into values. A wrong one is noted, and something harmless put in its place."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: list[Mistake] = list(source.duplicates)
        self.kernels, self.states = self.declared("kernels"), self.declared("states")

    def declared(self, key: str) -> frozenset[str]:
        """The names under a key, misspelt or not."""
        node = self.source.root.child(key)
        for written, value in self.source.root.pairs:
            word = written.text or ""
            if node is None and word not in KEYS and _meant(did_you_mean(word, KEYS)) == key:
                node = value
        return frozenset(name.text or "" for name, _ in node.pairs) if node else frozenset()

    def add(self, code: str, path: Path, message: str, hint: str = "", **place: Any) -> None:
        self.note(self.source.mistake(code, path, message, hint, **place))

    def refuse(self, path: Path, message: str) -> NoReturn:
        """The spec is too large: there is no point in reading on."""
        self.add("NG008", path, message, key=True)
        raise SpecError(tuple(self.mistakes))

    def note(self, mistake: Mistake) -> None:
        self.mistakes.append(mistake)
        if len(self.mistakes) >= MAX_MISTAKES:
            raise SpecError(tuple(self.mistakes))

    # -- forms that keys share -----------------------------------------------------------------

    def text(self, node: Node, path: Path) -> str:
        if node.kind != "scalar" or node.text is None:
            self.add("NG005", path, f"expected text, found {_kind(node)}")
        return node.text or ""

    def number(self, node: Node, path: Path) -> float:
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", node.text or "", re.ASCII):
            value = float(node.text or "")
            if math.isfinite(value):
                return value
            self.add("NG005", path, f"{_kind(node)} is larger than any float64")
        else:
            self.add("NG005", path, f"expected a number, found {_kind(node)}")
        return math.nan

    def truth(self, node: Node, path: Path) -> bool:
        if node.text not in {"true", "false"}:
            self.add("NG005", path, f"expected true or false, found {_kind(node)}")
        return node.text == "true"

    def choice(self, *options: str) -> Read:
        def read_choice(node: Node, path: Path) -> Any:
            if node.text in options:
                return node.text
            hint = did_you_mean(node.text or "", options)
            self.add("NG005", path, f"expected {_or(options)}, found {_kind(node)}", hint)
            return options[0]

        return read_choice

    def equation(self, node: Node, path: Path) -> Equation:
        if node.text is None:
            self.add("NG005", path, f"expected an equation, found {_kind(node)}")
            return _NOTHING
        try:
            return Equation(node.text, parse(node.text, self.kernels))
        except ExpressionError as error:
            hint = error.hint
            if node.flow and not node.style and "(" in node.text and "closed" in error.message:
                hint = "inside { } a comma ends the equation unless it is quoted"
            self.add(error.code, path, error.message, hint, at=error.at, width=error.width)
        return _NOTHING

    def numbers(self, node: Node, path: Path) -> tuple[float, ...]:
        return tuple(self.items(node, path, self.number, MAX_STEPS))

    def interval(self, node: Node, path: Path) -> tuple[float, float]:
        found = self.numbers(node, path)
        if node.kind == "list" and (len(found) != 2 or found[0] >= found[1]):
            self.add("NG005", path, "expected [low, high] with low < high")
            return 0.0, 1.0
        return (found[0], found[1]) if len(found) == 2 else (0.0, 1.0)

    def items(self, node: Node, path: Path, item: Read, longest: int) -> list[Any]:
        if node.kind != "list":
            self.add("NG005", path, f"expected a list, found {_kind(node)}")
        if len(node.items) > longest:
            self.refuse(path, f"{len(node.items)} items, more than {longest}")
        return [item(x, (*path, k)) for k, x in enumerate(node.items)]

    def named(self, entry: Callable[[str, Node, Path], Any], longest: int = MAX_NAMES) -> Read:
        """A mapping of names to entries, as a tuple in the order of the file."""

        def read_named(node: Node, path: Path) -> tuple[Any, ...]:
            if node.kind != "mapping":
                self.add("NG005", path, f"expected a mapping of names, found {_kind(node)}")
            if len(node.pairs) > longest:
                self.refuse(path, f"{len(node.pairs)} entries, more than {longest}")
            entries, known = [], len(self.mistakes)
            for key, value in node.pairs:
                name = key.text or ""
                rest = value.flow and value.kind == "scalar" and value.text is None
                if rest and not IDENTIFIER.fullmatch(name) and len(self.mistakes) > known:
                    continue  # what follows a comma in the equation before, refused already
                entries.append(entry(name, value, (*path, name)))
            return tuple(entries)

        return read_named

    def fields(
        self, node: Node, path: Path, readers: Mapping[str, Read], needed: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The values under the keys that `readers` names, as keyword arguments."""
        if len(node.pairs) > MAX_NAMES:
            self.refuse(path, f"{len(node.pairs)} keys, more than {MAX_NAMES}")
        found: dict[str, Any] = {}
        for key, value in node.pairs:
            word = key.text or ""
            if word not in readers:
                word = self.unknown_key(node, word, value, path, readers)
            if word in readers:
                found[word] = readers[word](value, (*path, key.text or ""))
        for word in needed:
            if word not in found:
                self.add("NG004", path, f"missing key '{word}'", key=True)
        return found

    def unknown_key(
        self, node: Node, word: str, value: Node, path: Path, readers: Mapping[str, Read]
    ) -> str:
        """Refuse a key; the key that it was meant to be, if that is plain to see."""
        hint = did_you_mean(word, readers)
        meant = _meant(hint)
        if value.flow and value.kind == "scalar" and value.text is None:
            hint, meant = "inside { } a comma ends the text before it unless that is quoted", ""
        hint = hint or "keys here are " + ", ".join(sorted(readers))
        message = f"unknown key '{printable(word)}'"
        mistake = self.source.mistake("NG003", (*path, word), message, hint, key=True)
        self.note(replace(mistake, field=".".join(printable(str(step)) for step in path)))
        if node.key(meant) or (not path and meant in dict(self.source.slips)):
            return ""
        if meant and not path:
            self.source = replace(self.source, slips=(*self.source.slips, (meant, word)))
        return meant

    # -- names ---------------------------------------------------------------------------------

    def identifier(self, name: str, path: Path, *, key: bool = True) -> str:
        if len(name) > MAX_NAME:
            self.add(
                "NG010", path, f"'{printable(name)}' is longer than {MAX_NAME} letters", key=key
            )
        elif keyword.iskeyword(name):
            self.add("NG010", path, f"'{name}' is a word of Python", f"try '{name}_0'", key=key)
        elif not IDENTIFIER.fullmatch(name) or name.endswith("_") or "__" in name:
            self.add("NG010", path, f"'{printable(name)}' is not a name",
                     "a letter, then letters, digits and single underscores between them",
                     key=key)  # fmt: skip
        return name

    def own_name(self, name: str, path: Path, *, key: bool = True, attribute: bool = False) -> str:
        """A name that the spec gives; `attribute` where the node gets an attribute of that name."""
        if what := (RESERVED if attribute else LANGUAGE).get(name):
            hint = "the key `dt` sets the time step" if name == "dt" else "choose another name"
            self.add("NG010", path, f"'{name}' is {what}", hint, key=key)
            return name
        return self.identifier(name, path, key=key)

    # -- entries -------------------------------------------------------------------------------

    def state(self, name: str, node: Node, path: Path) -> State:
        self.own_name(name, path, attribute=True)
        if node.kind != "mapping":
            return State(name=name, init=self.equation(node, path))
        readers = {"init": self.initial, "integer": self.truth}
        found = self.fields(node, path, readers, needed=("init",))
        init = found.get("init", _NOTHING)
        integer = found.get("integer", False)
        if isinstance(init, tuple):
            return State(name=name, uniform=init, integer=integer)
        start = init.expression
        if integer and isinstance(start, Number) and not start.value.is_integer():
            self.add("NG005", (*path, "init"), "a counter starts at a whole number")
        return State(name=name, init=init, integer=integer)

    def initial(self, node: Node, path: Path) -> Equation | tuple[float, float]:
        if node.kind != "mapping":
            return self.equation(node, path)
        found = self.fields(node, path, {"uniform": self.interval}, needed=("uniform",))
        bounds: tuple[float, float] = found.get("uniform", (0.0, 1.0))
        return bounds

    def parameter(self, name: str, node: Node, path: Path) -> Parameter:
        self.own_name(name, path, attribute=True)
        if node.kind != "mapping":
            return Parameter(name=name, default=self.default(node, path))
        readers: dict[str, Read] = {
            "default": self.default, "where": self.equation, "unit": self.text, "doc": self.text,
            "per": self.choice(*get_args(Per)),
        }  # fmt: skip
        found = self.fields(node, path, readers, needed=("default",))
        return Parameter(name=name, **{"default": math.nan, **found})

    def default(self, node: Node, path: Path) -> float:
        if path[1] == "v_reset" and node.kind == "scalar" and node.text is None:
            self.add("NG005", path, "a default is a number, not null",
                     "for a soft reset write `reset: soft`", width=4)  # fmt: skip
            return math.nan
        return self.number(node, path)

    def learnable(self, name: str, node: Node, path: Path) -> Learnable:
        self.own_name(name, path, attribute=True)
        if node.kind != "mapping":
            return Learnable(name=name, init=self.equation(node, path))
        readers: dict[str, Read] = {
            "init": self.equation, "per": self.choice(*get_args(Per)),
            "transform": self.choice(*get_args(Transform)), "bounds": self.interval,
            "unit": self.text, "doc": self.text,
        }  # fmt: skip
        found = self.fields(node, path, readers, needed=("init",))
        return Learnable(name=name, **{"init": _NOTHING, **found})

    def flag(self, name: str, node: Node, path: Path) -> Flag:
        self.own_name(name, path, attribute=True)
        if node.kind != "mapping":
            return Flag(name=name, default=self.truth(node, path))
        readers: dict[str, Read] = {"default": self.truth, "doc": self.text}
        return Flag(
            name=name, **{"default": True, **self.fields(node, path, readers, ("default",))}
        )

    def definition(self, name: str, node: Node, path: Path) -> Assignment:
        if name not in self.states:
            self.own_name(name, path)
        return self.change(name, node, path)

    def change(self, name: str, node: Node, path: Path) -> Assignment:
        """An assignment to what should be a state, which `model.py` checks."""
        return Assignment(name=name, equation=self.equation(node, path))

    def source_of_noise(self, name: str, node: Node, path: Path) -> Noise:
        self.own_name(name, path)
        kind = self.choice("normal")
        if node.kind != "mapping":
            return Noise(name=name, kind=kind(node, path))
        found = self.fields(node, path, {"kind": kind, "eval": self.truth}, needed=("kind",))
        return Noise(name=name, **found)

    def series(self, name: str, node: Node, path: Path) -> tuple[str, tuple[float, ...]]:
        return name, self.numbers(node, path)

    # -- keys ----------------------------------------------------------------------------------

    def spec(self) -> Spec:
        readers: dict[str, Read] = {
            "name": self.class_name,
            "summary": self.text,
            "reference": self.text,
            "doc": self.text,
            "states": self.named(self.state),
            "inputs": self.inputs,
            "parameters": self.named(self.parameter),
            "learnable": self.named(self.learnable),
            "flags": self.named(self.flag, MAX_FLAGS),
            "dt": self.number,
            "let": self.named(self.definition),
            "kernels": self.named(self.definition),
            "dynamics": self.named(self.change),
            "scheme": self.choice(*get_args(Scheme)),
            "charge": self.charge,
            "noise": self.named(self.source_of_noise),
            "fire": self.fire,
            "reset": self.reset,
            "output": self.equation,
            "surrogate": self.surrogate,
            "expect": self.expect,
        }
        found = self.fields(self.source.root, (), readers, needed=("name",))
        return Spec(**{"name": "Unnamed", **found}, source=self.source)

    def class_name(self, node: Node, path: Path) -> str:
        name = self.text(node, path)
        return self.identifier(name, path, key=False) if node.text is not None else "Unnamed"

    def inputs(self, node: Node, path: Path) -> tuple[str, ...]:
        def item(node: Node, path: Path) -> str:
            name = self.text(node, path)
            return self.own_name(name, path, key=False) if node.text is not None else name

        if node.kind == "list" and not node.items:
            self.add("NG005", path, "a neuron has at least one input")
        return tuple(self.items(node, path, item, MAX_NAMES))

    def charge(self, node: Node, path: Path) -> tuple[Assignment, ...]:
        if node.kind == "scalar":
            return (Assignment(name="v", equation=self.equation(node, path)),)
        assignments: tuple[Assignment, ...] = self.named(self.definition)(node, path)
        if node.kind == "mapping" and not assignments:
            self.add("NG005", path, "a charge assigns at least one state")
        return assignments

    def fire(self, node: Node, path: Path) -> Fire:
        if node.kind != "mapping":
            return Fire() if node.text == "none" else Fire(when=self.equation(node, path))
        readers: dict[str, Read] = {
            "when": self.equation, "if": self.equation, "kind": self.choice(*get_args(Kind)),
            "levels": self.number,
        }  # fmt: skip
        found = self.fields(node, path, readers, needed=("when",))
        return Fire(guard=found.pop("if", None), **{"when": _NOTHING, **found})

    def reset(self, node: Node, path: Path) -> Reset:
        if node.kind != "mapping":
            return Reset(rule=self.choice(*get_args(Rule))(node, path))
        return Reset(assignments=self.named(self.change)(node, path))

    def surrogate(self, node: Node, path: Path) -> Surrogate:
        if node.kind != "mapping":
            return Surrogate(name=self.text(node, path) or "sigmoid")
        if node.key("primitive") is not None:
            readers: dict[str, Read] = {
                "primitive": self.equation, "parameters": self.named(self.shape, MAX_SHAPE),
            }  # fmt: skip
            return Surrogate(**self.fields(node, path, readers))
        if node.key("name") is None:
            self.add("NG004", path, "missing key 'name' or 'primitive'", key=True)
        own = Node("mapping", node.start, node.end, pairs=tuple(
            pair for pair in node.pairs if pair[0].text != "name"))  # fmt: skip
        name = node.child("name")
        return Surrogate(
            name="sigmoid" if name is None else self.text(name, (*path, "name")),
            parameters=self.named(self.shape, MAX_SHAPE)(own, path),
        )

    def shape(self, name: str, node: Node, path: Path) -> tuple[str, float]:
        if name == "u":
            self.add("NG010", path, "'u' is the surrogate's argument", key=True)
        elif name in SHAPE_RESERVED:
            self.add("NG010", path, f"'{name}' is an attribute of every surrogate", key=True)
        return self.own_name(name, path, attribute=True), self.number(node, path)

    def expect(self, node: Node, path: Path) -> Expect | None:
        def given(node: Node, path: Path) -> tuple[tuple[str, tuple[float, ...]], ...]:
            if node.kind != "mapping":
                return (("", self.numbers(node, path)),)
            series: tuple[tuple[str, tuple[float, ...]], ...] = self.named(self.series)(node, path)
            return series

        if node.kind != "mapping":
            self.add("NG005", path, f"expected a mapping of keys, found {_kind(node)}",
                     "expect: {input: [2, 0], spikes: [0]}")  # fmt: skip
            return None
        readers = {"input": given, "spikes": self.numbers, "states": self.named(self.series)}
        found = self.fields(node, path, readers, needed=("input",))
        if "spikes" not in found and "states" not in found:
            self.add("NG004", path, "missing key 'spikes' or 'states'", key=True)
        steps = {len(series) for _, series in (*found.get("input", ()), *found.get("states", ()))}
        if len(steps) > 1:
            self.add("NG005", path, "inputs and states have one value for each step",
                     "they differ in length: " + ", ".join(map(str, sorted(steps))))  # fmt: skip
        spikes = found.get("spikes") or ()
        last = max(steps, default=0) - 1
        if any(not k.is_integer() or not 0 <= k <= last for k in spikes) or sorted(
            set(spikes)
        ) != list(spikes):
            self.add("NG005", (*path, "spikes"), f"expected rising steps from 0 to {last}")
        return Expect(**{"input": (), **found})


def _meant(hint: str) -> str:
    """The word that a hint proposes."""
    return hint.split("'")[1] if hint else ""


def _kind(node: Node) -> str:
    if node.kind != "scalar":
        return f"a {node.kind}"
    return "nothing" if node.text is None else f"'{printable(node.text, 40)}'"


def _or(options: tuple[str, ...]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}" if len(options) > 1 else options[0]
