"""The house stays in order: who imports whom, what is loaded when, and what templates are given."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2 import meta

import neurogen
from neurogen.backends.cpp import launch
from neurogen.backends.render import environment
from neurogen.backends.torch import emit
from neurogen.compiler import pipeline
from neurogen.runtime import abi

PACKAGE = Path(neurogen.__file__).parent
ROOT = PACKAGE.parent
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
GENERATED = sorted((ROOT / "generated").glob("*/__init__.py"))

#: Part of the package -> the parts that it may import. The first pattern that fits a module counts.
PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "errors": (r"errors|mistakes|messages", ()),
    "pipeline": (r"compiler\.pipeline", ("errors", "compiler", "emit")),
    "compiler": (r"compiler(\..*)?", ("errors",)),
    "launch": (r"backends\.(\w+\.launch|toolchain)", ("errors", "runtime", "backends")),
    "emit": (r"backends\.(\w+\.\w+|clike|render)", ("errors", "compiler", "backends")),
    "backends": (r"backends(\.\w+)?", ()),
    "runtime": (r"runtime(\..*)?", ("errors", "launch", "backends")),
    "nn": (r"nn(\..*)?", ("errors", "runtime")),
    "examples": (r"examples(\..*)?", ("errors", "runtime", "nn", "front")),
    "tools": (r"tools(\..*)?", ("errors", "compiler", "pipeline", "emit", "runtime", "launch",
                                "nn", "front", "backends")),
    "front": (r"loading|cli|__main__|", ("errors", "pipeline", "compiler", "runtime", "nn",
                                         "tools", "backends")),
}  # fmt: skip

#: What these parts must not import from outside.
FORBIDDEN = {
    **dict.fromkeys(("errors", "pipeline", "compiler", "emit", "backends"), ("torch", "cupy")),
    **dict.fromkeys(("runtime", "launch", "nn"), ("sympy", "jinja2", "yaml", "pydantic", "rich")),
}


def part(module: str) -> str:
    """The part of the package that a module belongs to."""
    inside = module.removeprefix("neurogen").removeprefix(".")
    return next(name for name, (pattern, _) in PARTS.items() if re.fullmatch(pattern, inside))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions and by name; not for types only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:  # `from neurogen.runtime import abi` names a module
                inner = ROOT / Path(*str(node.module).split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.add(f"{node.module}.{alias.name}" if is_module else str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = ast.unparse(node.args[0]).strip("f'\"")
            found.add(re.sub(r"\{.*?\}", "any", name))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    own = part(module_of(path))
    for target in imports(path):
        top = target.split(".")[0]
        assert top not in FORBIDDEN.get(own, ()), f"{own} does not know {top}"
        if top == "neurogen" and target != "neurogen" and "any" not in target:
            assert part(target) in (own, *PARTS[own][1]), f"{own} does not know {target}"


def test_backends_do_not_know_one_another() -> None:
    for name in pipeline.backends():
        others = {other for other in pipeline.backends() if other != name}
        for path in (PACKAGE / "backends" / name).rglob("*.py"):
            for target in imports(path):
                assert target.removeprefix("neurogen.backends.").split(".")[0] not in others or (
                    not target.startswith("neurogen.backends.")
                ), f"{path} imports {target}"


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.parent.name)
def test_generated_code_imports_the_runtime_and_torch_only(path: Path) -> None:
    for target in imports(path):
        assert target.startswith("neurogen.runtime") or target in ("torch", "typing", "__future__")


def loaded(code: str) -> set[str]:
    """The top-level modules that are loaded after some code has run in a fresh process."""
    script = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_importing_the_package_is_light() -> None:
    found = loaded("import neurogen\nneurogen.__version__, neurogen.SpecError, dir(neurogen)")
    assert "neurogen" in found
    assert not found & {"torch", "sympy", "jinja2", "numpy", "yaml", "pydantic", "rich", "click"}


def test_building_loads_no_torch(tmp_path: Path) -> None:
    found = loaded(
        "from neurogen.cli import main\n"
        f"try: main(['build', {str(SPECS[0])!r}, '-o', {str(tmp_path)!r}])\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert {"sympy", "jinja2"} <= found
    assert not found & {"torch", "numpy", "cupy"}
    assert list(tmp_path.glob("*/kernels.cpp"))


def test_a_generated_neuron_runs_without_the_compiler(tmp_path: Path) -> None:
    code = (
        "sys.path.insert(0, {!r})\n"
        "import torch, importlib\n"
        "node = importlib.import_module('generated.lif').LIFNode(step_mode='m', backend='cpp')\n"
        "x = torch.rand(3, 2, requires_grad=True)\n"
        "node(x).sum().backward()"
    )
    found = loaded(code.format(str(ROOT)))
    assert not found & {"sympy", "jinja2", "yaml", "pydantic", "rich", "cupy"}


# -- numbers that stand in two places --------------------------------------------------------------


def test_both_sides_agree() -> None:
    assert emit.ABI == abi.ABI
    header = (toolchain_include() / "kernel.h").read_text(encoding="utf-8")
    assert f"// ABI {abi.ABI}:" in header
    found = re.search(r"LANES = (\d+);", (toolchain_include() / "cpu.h").read_text())
    assert found is not None
    assert int(found[1]) == launch.LANES
    for path in (PACKAGE / "backends").rglob("*.jinja"):
        for size in re.findall(r"surrogate_\[(\d+)\]", path.read_text(encoding="utf-8")):
            assert int(size) == abi.SURROGATE_PARAMETERS


def toolchain_include() -> Path:
    return PACKAGE / "runtime" / "include" / "neurogen"


# -- templates -------------------------------------------------------------------------------------


def used(backend: str, name: str) -> set[str]:
    """The names that a template takes from its context, included templates counted in."""
    env = environment(backend)
    assert env.loader is not None
    tree = env.parse(env.loader.get_source(env, name)[0])
    included = [str(other) for other in meta.find_referenced_templates(tree)]
    return meta.find_undeclared_variables(tree).union(*(used(backend, other) for other in included))


def test_templates_use_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, set[str]] = {}
    render = jinja2.Template.render

    def recording(self: jinja2.Template, *args: Any, **keywords: Any) -> str:
        given.setdefault(str(self.name), set()).update(dict(*args, **keywords))
        return render(self, *args, **keywords)

    monkeypatch.setattr(jinja2.Template, "render", recording)
    pipeline.compile_file(SPECS[0])
    pipeline.surrogate_table()
    templates = {
        path.name: path.parent.parent.name
        for path in (PACKAGE / "backends").glob("*/templates/*.jinja")
    }
    assert set(given) == set(templates), "every template is rendered"
    for name, keys in given.items():
        assert used(templates[name], name) <= keys
    shared = {name for name in given if name.startswith("kernels.")}  # one context for both
    for group in (shared, *({name} for name in set(given) - shared)):
        names = set().union(*(used(templates[name], name) for name in group))
        assert set().union(*(given[name] for name in group)) == names
