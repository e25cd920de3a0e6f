"""The front end as a user meets it: paired spec files, one run for all mistakes.

`specs/invalid/NG0xx_name.yaml` says in its first lines what must be found and where; the file of
the same name in `specs/valid` is its mended version.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neurogen.compiler import parsing, reader, source, tokens
from neurogen.compiler.pipeline import compile_file, compile_text
from neurogen.compiler.reader import MAX_SHAPE, parse_spec
from neurogen.compiler.spec import LANGUAGE, RESERVED, SHAPE_RESERVED
from neurogen.errors import Mistake, SpecError
from neurogen.mistakes import CODES, FIRST_WARNING

HERE = Path(__file__).parent / "specs"
INVALID = sorted((HERE / "invalid").glob("*.yaml"))
VALID = sorted((HERE / "valid").glob("*.yaml"))
ZOO = sorted((HERE.parents[1] / "specs").glob("*.yaml"))


def place_of(mistake: Mistake) -> str:
    """`CODE line:column`."""
    return f"{mistake.code} {mistake.location.line}:{mistake.location.column}"


def mistakes_of(text: str) -> list[str]:
    """`CODE line:column message` of every mistake; empty for a spec that compiles."""
    try:
        compile_text(text)
    except SpecError as error:
        return [f"{place_of(mistake)} {mistake.message}" for mistake in error.mistakes]
    return []


# -- paired files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_every_mistake_is_found_in_one_run_where_it_stands(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = re.findall(r"^# expect: (NG\d{3} \d+:\d+) (.*)$", text, re.MULTILINE)
    assert expected, "say what is expected: # expect: NG012 3:11 part of the message"
    with pytest.raises(SpecError) as caught:
        compile_file(path)
    found = [(place_of(mistake), mistake.message) for mistake in caught.value.mistakes]
    assert sorted(place for place, _ in found) == sorted(place for place, _ in expected)
    for place, part in expected:
        assert any(place == p and part in message for p, message in found), (place, part, found)
    for mistake in caught.value.mistakes:
        check_shown(mistake, path, text.splitlines())


def check_shown(mistake: Mistake, path: Path, lines: list[str]) -> None:
    """One clear line, then the line of the file with a caret under the place, then the hint."""
    assert mistake.code in CODES
    assert mistake.message.isprintable() and mistake.hint.isprintable()
    assert not mistake.message.endswith((".", " ")) and "  " not in mistake.message
    line, column = mistake.location.line, mistake.location.column
    first, *rest = str(mistake).split("\n")
    assert first.startswith(f"{path}:{line}:{column}: {mistake.code} ")
    written = lines[line - 1].replace("\t", " ").rstrip()
    if written:
        shown, marker, *rest = rest
        assert shown.strip() and shown[4:] in written
        assert marker.strip("^ ") == "" and len(marker) <= len(shown) + 1
        if column <= 60:
            assert marker.index("^") == column + 3 and shown[4:] == written[:100].rstrip()
    assert rest == ([f"    hint: {mistake.hint}"] if mistake.hint else [])


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_spec_has_a_mended_version(path: Path) -> None:
    assert (HERE / "valid" / path.name).exists()


def test_every_code_has_a_pair() -> None:
    found = set()
    for path in INVALID:
        found |= set(re.findall(r"# expect: (NG\d{3})", path.read_text(encoding="utf-8")))
    errors = {code for code in CODES if code < FIRST_WARNING}  # for warnings see test_check.py
    assert found | {"NG001"} == errors  # NG001 is about files, below


def test_the_limits_on_the_language_page_are_those_of_the_compiler() -> None:
    page = (HERE.parents[1] / "docs" / "language.md").read_text(encoding="utf-8")
    limits = (f"{source.MAX_CHARACTERS} characters, {reader.MAX_NAMES} names of a kind, "
              f"{reader.MAX_FLAGS} flags, {parsing.MAX_CHARACTERS} characters an equation, "
              f"{tokens.MAX_DEPTH} operators in depth, exponents of {parsing.MAX_EXPONENT},"
              )  # fmt: skip
    assert limits in " ".join(page.split())


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_specs_compile_to_text_that_python_reads(path: Path) -> None:
    compiled = compile_file(path)
    for artefact in compiled.artefacts:
        if artefact.path.endswith(".py"):
            tree = ast.parse(artefact.text)
            assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)][-1] == (
                f"{compiled.model.spec.name}Node"
            )
        else:
            assert artefact.text.count("{") == artefact.text.count("}")


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        (None, "NG001", "cannot be read: No such file"),
        ("folder", "NG001", "is a directory"),
        (b"name: A\ncharge: v + \xff", "NG001", "is not UTF-8 text: byte 20 is 0xff"),
        ("name: A\ncharge: v + x".encode("utf-16"), "NG001", "is not UTF-8 text"),
        (b"#" * (2 << 20), "NG001", "is larger than"),
        (b"#" * 40_000, "NG008", "more than 32768"),
        (b"", "NG002", "the file is empty"),
        (b"\n# nothing\n\n", "NG002", "the file is empty"),
        (b"---\n...\n", "NG002", "the file is empty"),
        (b"just text", "NG002", "a spec is a mapping of keys, not text"),
    ],
)
def test_files_that_are_no_specs(
    tmp_path: Path, content: bytes | str | None, code: str, part: str
) -> None:
    path = tmp_path / "neuron.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError) as caught:
        compile_file(path)
    (mistake,) = caught.value.mistakes
    assert mistake.code == code and part in mistake.message
    assert str(caught.value).startswith(f"{path}:1:1: {code} ")
    assert sorted(tmp_path.rglob("*")) == before


def test_line_ends_and_byte_order_marks_change_nothing() -> None:
    text = "name: A\nparameters:\n  tau: 2.0\ncharge: |\n  v\n  + x / ta\n"
    for variant in (text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), "\ufeff" + text):
        assert mistakes_of(variant) == ["NG012 6:9 unknown name 'ta'"]
        assert not mistakes_of(variant.replace("/ ta", "/ tau"))
    assert parse_spec("\ufeffname: A\r\ncharge: v + x", "a").digest == (
        parse_spec("name: A\ncharge: v + x\n", "b").digest
    )


# -- places and hints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charge", "place"),
    [
        ("charge: v + tau + x / ta", "3:23"),
        ("charge: 'v + tau + x / ta'", "3:24"),
        ('charge: "v + tau + x / ta"', "3:24"),
        ("charge: >-\n  v + tau\n  + x / ta", "5:9"),
        ("charge: |\n    v + tau +\n\n    x /\n    ta  ", "7:5"),
        ("charge: v + tau\n  + x /\n   ta", "5:4"),
        ("charge: 'v + tau\n  + x / ta'", "4:9"),
        ("charge: {v: v + tau + x / ta}", "3:27"),
        ("charge:\n  v: v + tau + x / ta", "4:20"),
        ("charge:\n    v:  >  # a note: ta\n      v + tau + x\n      / ta", "6:9"),
    ],
)
def test_a_caret_finds_its_place_in_every_layout(charge: str, place: str) -> None:
    found = mistakes_of(f"name: A\nparameters: {{tau: 2.0}}\n{charge}\n")
    assert found == [f"NG012 {place} unknown name 'ta'"]


def test_a_long_line_is_shown_around_its_caret() -> None:
    with pytest.raises(SpecError) as caught:
        compile_text("name: A\ncharge: v +" + " " * 150 + "x + ta + v * v * v\n")
    _, shown, marker, *_ = str(caught.value).split("\n")
    assert len(shown) <= 104 and shown[marker.index("^") :].startswith("ta +")
    assert marker.strip() == "^^"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("name: A\nparametres: {tau: 2.0}\ncharge: v + x/tau", "did you mean 'parameters'?"),
        ("name: A\nparameters: {tau: {defualt: 2}}\ncharge: v + x/tau", "did you mean 'default'?"),
        ("name: A\nparameters: {Tau: 2.0}\ncharge: v + x/tau", "did you mean 'Tau'?"),
        ("name: A\ncharge: v + Tanh(x)", "did you mean 'tanh'?"),
        ("name: A\ncharge: v + x\nreset: sotf", "did you mean 'soft'?"),
        ("name: A\ncharge: v + x\nreset: {V: 0}", "did you mean 'v'?"),
        ("name: A\ncharge: v + x\nsurrogate: Sigmoid", "did you mean 'sigmoid'?"),
        ("name: A\ncharge: v + x\nsurrogate: {name: erf, alph: 1}", "did you mean 'alpha'?"),
        ("name: A\ncharge: v + xx", "did you mean 'x'?"),
        ("name: A\ncharge: v + zz + x", "known are v, v_reset, v_rest, v_threshold, x"),
        ("name: A\nfoo: 1\ncharge: v + x", "keys here are charge, "),
    ],
)
def test_hints(text: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(text)
    assert [m.hint for m in caught.value.mistakes if hint in m.hint], str(caught.value)
    assert len(caught.value.mistakes) == 1, "a slip has no consequences"


def test_what_is_meant_is_read_on() -> None:
    found = mistakes_of("name: A\nparamters: {tau: two}\nchrage: v + (x\nfire: v")
    assert [line.split()[0] for line in found] == ["NG003", "NG005", "NG003", "NG021", "NG024"]


# -- names -----------------------------------------------------------------------------------------


def test_reserved_names_cover_the_node() -> None:
    from neurogen.runtime.neuron import Neuron

    public = {name for name in dir(Neuron) if not name.startswith("_")}
    public |= {name for name in Neuron.__annotations__ if not name.startswith("_")}
    keywords = set(inspect.signature(Neuron.__init__).parameters) - {"own"}
    fixed = {"self", "training", "v_seq", "surrogate_function", "store_v_seq", "shape", "super"}
    assert public | keywords | fixed <= set(RESERVED)


def test_reserved_names_cover_the_surrogate() -> None:
    from neurogen.runtime.abi import SURROGATE_PARAMETERS
    from neurogen.runtime.surrogate import Surrogate

    public = {name for name in dir(Surrogate) if not name.startswith("_")}
    assert public <= set(RESERVED) | SHAPE_RESERVED
    assert MAX_SHAPE == SURROGATE_PARAMETERS


@pytest.mark.parametrize("name", ["T_destination", "matrices", "training", "step_mode", "to"])
def test_reserved_names_are_refused_where_the_node_has_an_attribute(name: str) -> None:
    for key in ("states", "parameters", "learnable", "flags"):
        value = "true" if key == "flags" else "0.5"
        text = f"name: A\n{key}: {{v: 0, {name}: {value}}}\n" if key == "states" else (
            f"name: A\n{key}: {{{name}: {value}}}\n")  # fmt: skip
        found = mistakes_of(text + "charge: v + x\n")
        assert found[0].startswith("NG010") and f"'{name}'" in found[0]
    assert not mistakes_of(f"name: A\nlet: {{{name}: x / 2}}\ncharge: v + {name}\n")
    assert not mistakes_of(f"name: A\ninputs: [{name}]\ncharge: v + {name}\n")


@pytest.mark.parametrize("name", sorted(LANGUAGE))
def test_words_of_the_language_are_refused_everywhere(name: str) -> None:
    for line in (f"states: {{{name}: 0}}", f"inputs: [{name}]", f"parameters: {{{name}: 1}}",
                 f"learnable: {{{name}: 1}}", f"flags: {{{name}: true}}", f"let: {{{name}: x}}",
                 f"charge: {{{name}: x, v: v + x}}", f"kernels: {{{name}: exp(-s)}}"):  # fmt: skip
        charge = "" if line.startswith("charge") else "charge: v + x\n"
        try:
            parse_spec(f"name: A\n{line}\n{charge}", "a")
        except SpecError as error:
            assert [m.code for m in error.mistakes] == ["NG010"], line
        else:
            raise AssertionError(line)


# -- digest ----------------------------------------------------------------------------------------

BASE = """
name: Digest
summary: Text.
states: {v: 0.0, a: 0.5}
parameters: {tau: {default: 2.0, where: tau > 1, doc: Time constant.}, rho: 0.9}
learnable: {w: {init: 0.5, transform: clamp, bounds: [0, 1]}}
flags: {f: true}
let: {drive: x * w}
charge: {v: v + drive / tau if f else v + drive, a: rho * a}
fire: v >= v_threshold + a
reset: {a: a + spike}
surrogate: {name: atan, alpha: 2.0}
expect: {input: [0.5, 0.6], spikes: []}
"""


def digest(text: str) -> str:
    return parse_spec(text, "digest.yaml").digest


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("\n", "  # a note\n"),
        BASE.replace("{v: 0.0, a: 0.5}", "\n    v: 0.0\n\n    a: 0.5"),
        "\n".join(sorted(BASE.strip().split("\n"))),
        BASE.replace("v + drive / tau", "(v) + (drive/tau)").replace("2.0", "2"),
        BASE.replace("let: {drive: x * w}", "let:\n  drive: >-\n    x\n    * w"),
        BASE.replace("rho: 0.9", "rho: {default: 9e-1}"),
        "\ufeff" + BASE.replace("\n", "\r\n"),
    ],
)  # fmt: skip
def test_digest_is_free_of_layout(same: str) -> None:
    assert digest(same) == digest(BASE)


def test_digest_changes_with_everything_that_is_said() -> None:
    changes = [
        ("Digest", "Digests"), ("Text.", "Text!"), ("a: 0.5", "a: 0.25"), ("2.0, wh", "2.5, wh"),
        ("tau > 1", "tau >= 1"), ("rho: 0.9", "rho: 0.8"), ("init: 0.5", "init: 0.4"),
        ("[0, 1]", "[0, 2]"), ("clamp", "sigmoid"), ("f: true", "f: false"), ("x * w", "w * x"),
        ("v + drive / tau", "drive / tau + v"), ("v >= v", "v > v"), ("a + spike", "a - spike"),
        ("alpha: 2.0", "alpha: 3.0"), ("atan", "soft_sign"), ("0.6]", "0.7]"), ("spikes: []",
        "spikes: [1]"), ("Time constant", "Constant"), ("rho * a}", "rho * a + 0}"),
    ]  # fmt: skip
    digests = {digest(BASE)}
    for old, new in changes:
        assert BASE.count(old) == 1, old
        digests.add(digest(BASE.replace(old, new)))
    swapped = BASE.replace("{v: 0.0, a: 0.5}", "{a: 0.5, v: 0.0}")  # an order that is said
    assert len(digests | {digest(swapped)}) == len(changes) + 2


# -- determinism -----------------------------------------------------------------------------------

_HASHES = """
import hashlib, sys
from pathlib import Path
from neurogen.compiler.pipeline import compile_file
for path in sys.argv[1:]:
    for artefact in compile_file(Path(path)).artefacts:
        print(Path(path).stem, artefact.path, hashlib.sha256(artefact.text.encode()).hexdigest())
"""


def test_artefacts_do_not_depend_on_the_hash_seed(request: pytest.FixtureRequest) -> None:
    chosen = ZOO if request.config.getoption("--long") else ZOO[::7]
    files = [*map(str, chosen), str(HERE / "valid" / "names_of_the_step.yaml")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _HASHES, *files],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    outputs = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    assert outputs[0].count("\n") == 3 * len(files)
    assert outputs[0] == outputs[1] == outputs[2]
