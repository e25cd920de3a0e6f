"""Text that means no good: refused at once with a SpecError, or rendered as harmless data."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import fuzzing
import pytest
from hypothesis import given, settings

from neurogen.compiler.pipeline import compile_text
from neurogen.compiler.source import MAX_MISTAKES
from neurogen.compiler.warnings import find_warnings
from neurogen.errors import SpecError
from neurogen.mistakes import CODES

FOUND = sorted((Path(__file__).parent / "data" / "fuzzing").glob("*.yaml"))

# -- hostile text ----------------------------------------------------------------------------------

SMALL = "name: A\ncharge: v + x\n"


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """What is loaded when first needed is there before a sandbox watches."""
    compile_text(SMALL)


def chain(count: int, step: str) -> str:
    return "".join(f"  t{k + 1}: {step.format(f't{k}')}\n" for k in range(count))


def balanced(operator: str, leaves: list[str]) -> str:
    """A tree of little depth."""
    while len(leaves) > 1:
        pairs = zip(leaves[::2], [*leaves[1::2], ""], strict=False)
        leaves = [f"({a}{operator}{b})" if b else a for a, b in pairs]
    return leaves[0]


def ones(count: int) -> str:
    return "parameters: {" + ", ".join(f"p{k}: 1" for k in range(count)) + "}\n"


SUM = "+".join(f"p{k}" for k in range(8))
DENSE = "x + " + "*".join(f"s{k}" for k in range(55))
HOSTILE = {
    "10 MB of text": "a" * 10_000_000,
    "10 MB of comment": SMALL + "#" * 10_000_000,
    "10 MB of keys": "a: 1\n" * 2_000_000,
    "10 MB of nesting": "[" * 10_000_000,
    "nested lists": "a: " + "[" * 30_000,
    "nested mappings": "a: " + "{a: " * 8_000,
    "nested block lists": "- " * 16_000,
    "nested keys": "? " * 16_000,
    "a flow of empty lists": "name: [" + "[]," * 4_000 + "]",
    "many keys": "".join(f"k{k}: 1\n" for k in range(4_000)),
    "many duplicate keys": "name: A\n" * 4_000,
    "many parameters": SMALL + "parameters: {" + ", ".join(f"p{k}: 1" for k in range(4_000)) + "}",
    "many wrong parameters": SMALL + "parameters:\n" + "".join(
        f"  p{k}: {{q: 1, r: 2}}\n" for k in range(60)),
    "billion laughs": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n" + SMALL,
    "merge keys": "base: &base {a: 1}\n<<: *base\n" + SMALL,
    "python tag": "name: !!python/object/apply:os.system [exit]\ncharge: v + x\n",
    "custom tag": "name: !spec A\ncharge: v + x\n",
    "binary tag": "name: !!binary AAAA\ncharge: v + x\n",
    "null byte": "name: A\0\ncharge: v + x\n",
    "escape sequence": "name: A\ndoc: \x1b[31mred\ncharge: v + x\n",
    "escaped escape sequence": 'name: A\n"\\e[31m": 1\ncharge: v + x\n',
    "bidi override": "name: A\ndoc: \u202eevil\ncharge: v + x\n",
    "bidi isolate": "name: A\ncharge: v + x \u2066# \u2069\n",
    "line separator": "name: A\ndoc: a\u2028b\ncharge: v + x\n",
    "lone surrogate": "name: A\ndoc: \ud800\ncharge: v + x\n",
    "line break in a key": 'name: A\n"a\\nb": 1\ncharge: v + x\n',
    "line break in a name": 'name: "A\\n    import os"\ncharge: v + x\n',
    "quotes in a name": "name: 'A\"\"\"'\ncharge: v + x\n",
    "template in a name": "name: '{{ 7 * 7 }}'\ncharge: v + x\n",
    "long name": "name: " + "A" * 5_000 + "\ncharge: v + x\n",
    "long key": "a" * 20_000 + ": 1\n" + SMALL,
    "long name in an equation": "name: A\ncharge: v + x + " + "a" * 1_900 + "\n",
    "long number": "name: A\ncharge: v + x + " + "9" * 1_900 + "\n",
    "long parameter": SMALL + "parameters: {tau: " + "9" * 5_000 + "}",
    "long equation": "name: A\ncharge: v + x" + " + x" * 10_000 + "\n",
    "10,000 brackets": "name: A\ncharge: " + "(" * 10_000 + "v + x" + ")" * 10_000 + "\n",
    "900 brackets": "name: A\ncharge: " + "(" * 900 + "v + x" + ")" * 900 + "\n",
    "10,000 minus signs": "name: A\ncharge: " + "-" * 10_000 + "x\n",
    "1,900 minus signs": "name: A\ncharge: v + " + "-" * 1_900 + "x\n",
    "1,900 plus signs": "name: A\ncharge: v + " + "+" * 1_900 + "x\n",
    "nots": "name: A\ncharge: x if " + "not " * 480 + "v > 0 else v\n",
    "calls in calls": "name: A\ncharge: v + " + "exp(" * 400 + "x" + ")" * 400 + "\n",
    "powers of powers": "name: A\ncharge: v + 9**9**9**9\n",
    "powers of x": "name: A\ncharge: v + " + "(" * 20 + "x" + "**32)" * 20 + "\n",
    "towers": "name: A\ncharge: v + x" + "**2" * 900 + "\n",
    "a long product": "name: A\ncharge: v + " + "*".join(["x**32"] * 50) + "\n",
    "a long chain of comparisons": "name: A\ncharge: x if " + "<".join(["v"] * 900) + " else v\n",
    "a long conjunction": "name: A\ncharge: x if " + " and ".join(["v > x"] * 150) + " else v\n",
    "many arguments": "name: A\ncharge: v + min(" + ",".join(["x"] * 900) + ")\n",
    "branches": "name: A\ncharge: " + "x if v > x else " * 100 + "v\n",
    "nested maxima": "name: A\ncharge: " + "max(" * 50 + "v + x" + ", v * x)" * 50 + "\n",
    "200 states": "name: A\nstates:\n" + "".join(f"  s{k}: 0\n" for k in range(200)) + "charge:\n"
    + "".join(f"  s{k}: s{k} + x\n" for k in range(200)) + "fire: s0 > 1\n",
    "55 dense states": "name: A\nstates:\n" + "".join(f"  s{k}: 0\n" for k in range(55))
    + "charge:\n" + "".join(f"  s{k}: {DENSE}\n" for k in range(55))
    + "fire: s0 > 1\nreset: none\n",
    "40 dense differential equations": "name: A\nstates:\n" + "".join(f"  s{k}: 0\n" for k in range(
        40)) + "dynamics:\n" + "".join(f"  s{k}: x + " + "+".join(f"{j}*s{j}" for j in range(40))
        + "\n" for k in range(40)) + "scheme: exact\nfire: s0 > 1\nreset: none\n",
    "constants that double": "name: A\nparameters: {tau: 2}\nlet:\n  t0: tau + 1\n"
    + chain(60, "{0} * {0}") + "charge: v + x * t60\n",
    "constants that deepen": "name: A\nparameters: {tau: 2}\nlet:\n  t0: tau + 1\n"
    + chain(60, "exp(-{0} * tau)") + "charge: v + x * t60\n",
    "temporaries that double": "name: A\nlet:\n  t0: x + v\n" + chain(60, "{0} * {0}")
    + "dynamics: {v: t60 - v}\nscheme: exact\n",
    "a power that is hard to expand": "name: A\nparameters: {a: 1, b: 2, c: 3}\n"
    "dynamics: {v: (a+b*x+c+v)**32*(a-b+c*x-v)**32}\nscheme: exponential_euler\n",
    "a kernel of high order": SMALL.replace("x", "k(x)") + "kernels: {k: "
    + " + ".join(f"exp(-{k} * s)" for k in range(1, 40)) + "}\n",
    "a kernel that is hard to expand": SMALL.replace("x", "k(x)") + "parameters: {a: 1, b: 2}\n"
    "kernels: {k: (a*exp(-s)+b*exp(-2*s)+exp(-3*s)+s)**32}\n",
    "a kernel that calls itself": SMALL.replace("x", "k(x)") + "kernels: {k: exp(-k(s))}\n",
    "fractions in fractions": "name: A\nlet:\n  t0: x\n"
    + chain(6, "(x + v) / (1 + " * 20 + "{0}" + ")" * 20) + "charge: v + t6\n",
    "functions in functions": "name: A\nlet:\n  t0: x\n"
    + chain(6, "exp(sin(" * 20 + "{0}" + "))" * 20) + "charge: v + t6\n",
    "products of many factors": "name: A\ncharge: v + " + balanced("*", [
        f"sqrt(x+{k})" for k in range(118)]) + "\n",
    "a threshold of many factors": SMALL + "fire: " + balanced("*", [
        f"sqrt(v+{k})" for k in range(118)]) + " > 1\n",
    "a primitive of many factors": SMALL + "surrogate: {primitive: " + balanced("*", [
        f"sqrt(u*u+{k})" for k in range(100)]) + "}\n",
    "a tiny coefficient of a large power": "name: A\n" + ones(8)
    + f"dynamics: {{v: x + v*v*1e-60*({SUM})**32}}\nscheme: exponential_euler\n",
    "a kernel of sums of rates": "name: A\n" + ones(25) + "kernels: {k: " + " + ".join(
        "exp(-(" + "+".join(f"p{5 * i + j}" for j in range(5)) + ")*s)" for i in range(5))
    + "}\ncharge: v + k(x)\n",
    "a kernel of nested fractions": "name: A\n" + ones(12) + "kernels: {k: " + " + ".join(
        f"exp(-s/(p{3 * i}+1/(p{3 * i + 1}+1/p{3 * i + 2})))" for i in range(4))
    + "}\ncharge: v + k(x)\n",
    "a kernel of fractions": "name: A\n" + ones(20) + "kernels: {k: " + " + ".join(
        f"(p{4 * i}/(p{4 * i + 1}+p{4 * i + 2})+1/p{4 * i + 3})*exp(-s/p{4 * i})"
        for i in range(5)) + "}\ncharge: v + k(x)\n",
    "many kernels": "name: A\nkernels: {" + ", ".join(
        f"k{k}: exp(-s / {k + 1}) * (s + 1)**4 - exp({k + 1} * s)" for k in range(60)) + "}\nlet:\n"
    + "".join(f"  t{k}: k{k}(x)\n" for k in range(60)) + "charge: v + t0\n",
    "constants that double in dynamics": "name: A\nparameters: {tau: 2}\nlet:\n  t0: tau + 1\n"
    + chain(25, "{0} * {0} + tau") + "dynamics: {v: x - v * t25}\nscheme: exact\n",
    "unknown names that resemble known ones": SMALL + "parameters: {" + ", ".join(
        f"parameter_{k}: 1" for k in range(60)) + "}\nlet:\n" + "".join(
        f"  t{k}: " + balanced("+", [f"paremeter_{k}_{j}" for j in range(64)]) + "\n"
        for k in range(20)),
    "a character beyond Unicode": 'name: A\ndoc: "\\U00110000"\n',
    "a character beyond 32 bits": 'name: A\ndoc: "\\UFFFFFFFF"\n',
    "a version of many digits": "%YAML 1." + "9" * 5_000 + "\n---\n" + SMALL,
    "a power beyond float64": "name: A\ncharge: v + (1e300*x)**32\n",
    "a kernel beyond float64": SMALL.replace("x", "k(x)") + "kernels: {k: (1e300*exp(-s))**32}\n",
    "a rate beyond float64": SMALL.replace("x", "k(x)") + "kernels: {k: exp(-s*1e300)*s}\n",
    "division by what is always 0": "name: A\ncharge: v + x / (v - v)\n",
    "a number beyond float64": "name: A\ncharge: 1e300 * v * 1e300 + x\n",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_is_refused_at_once(what: str) -> None:
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        compile_text(HOSTILE[what])
    assert time.process_time() - start < 2
    assert len(caught.value.mistakes) <= MAX_MISTAKES
    for mistake in caught.value.mistakes:
        assert mistake.code in CODES
        assert str(mistake).replace("\n", "").isprintable()
        assert len(str(mistake)) < 1_000


#: Large, and still neurons.
LARGE = {
    "40 linear states": "name: A\nstates:\n  v: 0\n" + "".join(f"  s{k}: 0\n" for k in range(40))
    + "dynamics:\n  v: x - v\n" + "".join(f"  s{k}: v - s{k}\n" for k in range(40))
    + "scheme: exact\n",
    "40 coupled states": "name: A\nstates:\n  v: 0\n" + "".join(f"  s{k}: 0\n" for k in range(40))
    + "charge:\n  v: v + x + s39 * s0\n" + "".join(
        f"  s{k}: 0.5 * s{k} + tanh(s{k - 1 if k else 39} * v)\n" for k in range(40)),
    "stiff and large": "name: A\nparameters: {tau: {default: 1, where: tau > -1}}\n"
    "states:\n  v: 0\n" + "".join(f"  s{k}: 0\n" for k in range(12))
    + "dynamics:\n  v: x - v * 1e300\n" + "".join(
        f"  s{k}: v / (1 + tau) - s{k} * 1e300\n" for k in range(12))
    + "scheme: exact\noutput: spike + 1 / (v - 0.5)\n",
    "many bounds": "name: A\nparameters:\n" + "".join(
        f"  p{k}: {{default: {k}.5, where: '" + " and ".join(
            f"p{k} != {100 + k * 20 + j}.25" for j in range(20)) + "'}\n" for k in range(40))
    + "charge: v + " + balanced("+", [f"x/(p{k}+1)" for k in range(40)]) + "\n",
    "many learnables": "name: A\nlearnable:\n" + "".join(f"  w{k}: {k}.5\n" for k in range(30))
    + "states:\n" + "".join(f"  s{k}: " + balanced("*", [
        f"sqrt(floor(w{j})+{k})" for j in range(30)]) + "\n" for k in range(20))
    + "charge:\n" + "".join(f"  s{k}: 0.5*s{k} + x\n" for k in range(20))
    + "fire: s0 > 1\nreset: none\n",
    "8 dense equations": "name: A\nstates: {" + ", ".join(f"s{k}: 0" for k in range(8)) + "}\n"
    "dynamics:\n" + "".join(f"  s{k}: x - s{k} + tanh(" + "+".join(
        f"s{j}" for j in range(8)) + ")\n" for k in range(8))
    + "scheme: rk4\nfire: s0 > 1\nreset: none\n",
    "five exponentials": "name: A\n" + ones(10) + "kernels: {k: " + " + ".join(
        f"p{2 * i} * exp(-s / p{2 * i + 1})" for i in range(5)) + "}\ncharge: v + k(x)\n",
    "40 fractions": "name: A\nlet:\n  t0: x\n" + chain(40, "(x + v) / (1 + (x - v) / (2 + {0}))")
    + "charge: v + t40\n",
}  # fmt: skip


@pytest.mark.parametrize("what", LARGE)
def test_what_is_large_is_derived_at_once(what: str) -> None:
    start = time.process_time()
    compiled = compile_text(LARGE[what])
    find_warnings(compiled.model, compiled.program)
    assert time.process_time() - start < 2


#: What ends a comment, a string, a docstring or a template in one of the languages, or begins one.
BREAKERS = (
    '"""', "'''", '"', "'", "`", "\\", "\\n", "\\\\", "end\\", '\\"""', "\\N{BELL}", "\\x22\\x22",
    "*/", "/*", "//", "// \\", "*\\\n/", "??/", "??=define x", "%:define x", "#include <x>",
    "#endif", 'R"(', ')"', "<%", "%>", "{{ 7 * 7 }}", "{% raw %}", "{# #}", "#}", "%s{0}$x", "${x}",
    "import os", "__import__('os')", "''' + x + '''", "\n\nimport os\n", "\n#define double float\n",
    "a\tb", "\u00e9\u4e2d\U0001f9e0", "static_assert(false)", "asm", "__global__", "lambda", "None",
)  # fmt: skip


@pytest.mark.parametrize("text", [*BREAKERS, " ".join(BREAKERS), "".join(BREAKERS)])
def test_text_stays_inside_what_it_is_rendered_into(text: str) -> None:
    quoted = json.dumps(text)
    compiled = compile_text(
        f"name: A\nsummary: {quoted}\nreference: {quoted}\ndoc: {quoted}\n"
        f"parameters: {{tau: {{default: 2, unit: {quoted}, doc: {quoted}}}}}\n"
        f"learnable: {{w: {{init: 1, unit: {quoted}, doc: {quoted}}}}}\n"
        f"flags: {{f: {{default: true, doc: {quoted}}}}}\ncharge: v + x / tau * w if f else v\n"
    )
    plain = compile_text(
        "name: A\nsummary: S\nparameters: {tau: 2}\nlearnable: {w: 1}\nflags: {f: true}\n"
        "charge: v + x / tau * w if f else v\n"
    )
    for ours, reference in zip(compiled.artefacts, plain.artefacts, strict=True):
        if ours.path.endswith(".py"):
            assert _code(ours.text) == _code(reference.text)
        else:
            assert _uncommented(ours.text) == _uncommented(reference.text)


def _code(text: str) -> str:
    """A module without its docstrings and digest."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[ast.get_docstring(node) is not None :]
    return re.sub(r"[0-9a-f]{16}", "", ast.dump(tree))


def _uncommented(text: str) -> str:
    """C++ as the compiler sees it without comments, trigraphs included."""
    command = ["g++", "-trigraphs", "-w", "-fpreprocessed", "-dD", "-E", "-P", "-x", "c++", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


# -- fuzzing: `python tests/fuzzing.py` runs the same for as long as one likes --------------------


@given(fuzzing.inputs)
@settings(max_examples=400)
def test_any_text_is_a_neuron_or_a_mistake(text: str) -> None:
    with fuzzing.sandbox():
        found = fuzzing.outcome(text)
    assert found == "neuron" or set(found.split()) <= set(CODES)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", errors="surrogatepass")
    with fuzzing.sandbox():
        found = fuzzing.outcome(text)
    assert found == "neuron" or set(found.split()) <= set(CODES)


@pytest.mark.parametrize(
    "act",
    [
        lambda: Path("/etc/hostname").read_text(encoding="utf-8"),
        lambda: os.system("true"),
        lambda: eval("1 + 1"),
        lambda: Path("/nowhere").unlink(),
        socket.socket,
        lambda: subprocess.Popen(["true"]),
    ],
)
def test_the_sandbox_notices(act: Callable[[], object]) -> None:
    with pytest.raises(fuzzing.Escape), fuzzing.sandbox():
        act()


def test_the_sandbox_has_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.05)
    with pytest.raises(fuzzing.Escape, match=r"took more than 0\.05 s"), fuzzing.sandbox():
        while True:
            pass
