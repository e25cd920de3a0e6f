"""Program -> the generated module `__init__.py`: declarations, prelude, and one eager step."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace

from neurogen.backends.render import render
from neurogen.backends.torch.printer import Printer, docstring, literal, safe
from neurogen.backends.torch.surrogates import surrogate_class
from neurogen.compiler.artefact import Artefact
from neurogen.compiler.expression import Expression, Name, infix, names
from neurogen.compiler.model import Model
from neurogen.compiler.passes import kept_rows
from neurogen.compiler.program import DETACH_RESET, Assign, Block, Constant, Kernel, Program
from neurogen.compiler.surrogates import TABLE
from neurogen.compiler.transforms import raw

ABI = 5  # of the module's declarations; neurogen.runtime.abi.ABI must be equal


def emit(model: Model, program: Program, kernels: Iterable[Artefact]) -> Artefact:
    """The Python text of a neuron; it names the digests of the kernels that belong to it."""
    spec = model.spec
    flags = frozenset((*program.flags, DETACH_RESET))
    like = safe(program.inputs[0])
    step = Printer(lambda text: f"fn.number({text}, {like})", flags=flags)
    prelude = Printer(
        lambda text: f"p.number_({text})",
        lambda name: f"p.{name}",
        flags=frozenset((*program.flags, *(f.name for f in spec.flags))),
    )
    condition = Printer(str, lambda name: f"p.{name}", flags=flags)

    def when(expression: Expression | None) -> str:
        return "None" if expression is None else f"lambda p: {condition.show(expression)}"

    surrogate_text, surrogate, imports = _surrogate(model)
    arguments = [
        {"name": p.name, "type": _type(model, p.name), "default": _default(p.default)}
        for p in model.parameters if p.name not in ("v_threshold", "v_reset", "dt")
    ] + [{"name": f.name, "type": "bool", "default": str(f.default)} for f in spec.flags] + [
        {"name": p.name, "type": _type(model, p.name), "default": _default(p.default)}
        for p in model.parameters if p.name in ("v_threshold", "v_reset", "dt")
    ]  # fmt: skip
    entries = _entries(program)
    results = [_owned(expression, step, program) for _, expression in program.step.results]
    step_names = [
        *program.inputs, *(s.name for s in program.states), *(n.name for n in program.noise),
        *(c.name for c in program.constants),
    ]  # fmt: skip
    starts, sharing = _random_starts(model), _sharing(model)
    signature = [*map(safe, step_names), "surrogate", DETACH_RESET, *map(safe, program.flags)]
    # Blocks are values: no branch of theirs has a gradient to keep from the other.
    named = {a.name for k in (program.jacobian.step, program.jacobian.charge) for a in k.body}
    blocks = replace(step, scalars=frozenset((*step_names, *named)))
    charge = replace(blocks, number=lambda text: f"fn.number({text}, like)")
    charge_names = (*program.inputs, *(c.name for c in program.constants))
    charge_signature = [*(safe(name) for name in charge_names), "like", *map(safe, program.flags)]
    return Artefact(
        "__init__.py",
        render(
            "torch",
            "__init__.py.jinja",
            {
                "abi": ABI,
                "name": spec.name,
                "digest": spec.digest,
                "module_doc": docstring(spec.summary or f"The neuron {spec.name}."),
                "class_doc": _class_doc(model),
                "surrogate_import": imports,
                "surrogate_class": surrogate_text,
                "surrogate": surrogate,
                "inputs": _tuple(program.inputs),
                "states": _tuple(s.name for s in program.states),
                "kept": repr(tuple(kept_rows(program).values())),
                "digests": [_tuple((kernel.path, kernel.digest)) for kernel in kernels],
                "differentiable": repr(tuple(s.differentiable for s in program.states)),
                "flags": _tuple(program.flags),
                "noises": repr({n.name: n.eval for n in program.noise}) if program.noise else "",
                "random_starts": repr(starts) if starts else "",
                "sharing": repr(sharing) if sharing else "",
                "parameter_names": _tuple(
                    (*(p.name for p in model.parameters), *(w.name for w in spec.learnable))
                ),
                "v_reset_may_be_none": str(model.v_reset_may_be_none),
                "constants": [
                    {
                        "name": c.name,
                        "uses": _tuple(_uses(c, program, entries)),
                        "value": prelude.show(c.expression),
                        "when": ("" if c.when is None else f", {when(c.when)}")
                        + ", stepped=True" * c.stepped,
                    }
                    for c in program.constants
                ],
                "matrices": [
                    {"name": m.name, "rows": [[prelude.show(e) for e in row] for row in m.rows]}
                    for m in program.matrices
                ],
                "initial": [
                    {"name": s.name, "value": prelude.show(s.initial)}
                    for s in program.states if s.name not in starts
                ],
                "bounds": [
                    {
                        "name": p.name,
                        "text": repr(infix(p.where.expression)),
                        "holds": prelude.show(p.where.expression),
                    }
                    for p in spec.parameters if p.where is not None
                ],
                "learnable": [
                    {
                        "name": w.name,
                        "init": prelude.show(raw(w)),
                        "options": f'"{w.per}", "{w.transform}", {w.bounds!r}, '
                        f"{when(dict(model.learnable_when).get(w.name))}",
                    }
                    for w in spec.learnable
                ],
                "arguments": arguments,
                "takes_seed": bool(program.noise or starts),
                "takes_shape": any(w.per != "layer" for w in spec.learnable),
                "step_arguments": ", ".join(f"{name}: Any" for name in signature),
                "step_lines": _statements(program.step.body, step),
                "step_results": ", ".join(results),
                "blocks": _blocks(program.jacobian.blocks),
                "charge_blocks": _blocks(program.jacobian.charge_blocks),
                "charge_uses": _tuple(program.jacobian.uses),
                "charge_arguments": ", ".join(f"{name}: Any" for name in charge_signature),
                "block_lines": _statements(program.jacobian.step.body, blocks),
                "block_results": _results(program.jacobian.step, blocks),
                "charge_lines": _statements(program.jacobian.charge.body, charge),
                "charge_results": _results(program.jacobian.charge, charge),
            },
        ),
    )  # fmt: skip


def _owned(result: Expression, printer: Printer, program: Program) -> str:
    """A result's text; never a view of an input or a parameter, which others change in place."""
    given = {*program.inputs, *(constant.name for constant in program.constants)}
    copied = isinstance(result, Name) and result.name in given
    return printer.tensor(result) + ".clone()" * copied


def _random_starts(model: Model) -> dict[str, tuple[float, float]]:
    """The intervals from which initial states are drawn."""
    return {s.name: s.uniform for s in model.spec.states if s.uniform is not None}


def _sharing(model: Model) -> dict[str, str]:
    """What has one value per channel, neuron or step."""
    spec = model.spec
    pairs = [(p.name, p.per) for p in spec.parameters] + [(w.name, w.per) for w in spec.learnable]
    return {name: per for name, per in pairs if per != "layer"}


def _uses(constant: Constant, program: Program, entries: Mapping[str, frozenset[str]]) -> list[str]:
    """The parameters in a constant, those in the entries of its matrix included."""
    found = names(constant.expression)
    own = (entries.get(name, {name}) for name in found)
    return sorted(set().union(*own) - {*program.flags})


def _entries(program: Program) -> dict[str, frozenset[str]]:
    """The names in each matrix."""
    return {
        matrix.name: frozenset().union(*(names(entry) for row in matrix.rows for entry in row))
        for matrix in program.matrices
    }


def _statements(body: tuple[Assign, ...], printer: Printer) -> list[str]:
    lines = [(f"{safe(a.name)} = {printer.tensor(a.expression)}", a.note) for a in body]
    width = min(max((len(text) for text, _ in lines), default=0), 60)
    return [f"{text:<{width}}  # {' '.join(note.split())}" for text, note in lines]


def _blocks(blocks: tuple[Block, ...]) -> list[str]:
    return [_tuple((block.name, block.of, block.by)) for block in blocks]


def _results(kernel: Kernel, printer: Printer) -> str:
    """A tuple's text, without its brackets."""
    return ", ".join([*(printer.show(e) for _, e in kernel.results), ""]).strip() or "()"


def _tuple(items: Iterable[str]) -> str:
    listed = [f'"{item}"' for item in items]
    return f"({', '.join(listed)}{',' if len(listed) == 1 else ''})"


def _type(model: Model, name: str) -> str:
    may_be_none = name == "v_reset" and model.v_reset_may_be_none
    return f"float | torch.Tensor{' | None' if may_be_none else ''}"


def _default(value: float) -> str:
    return literal(value) if value != int(value) else f"{value:.1f}"


def _surrogate(model: Model) -> tuple[str, str, str]:
    """Text of the spec's own surrogate class, how it is constructed, and what to import."""
    declared = model.spec.surrogate
    if declared.primitive is not None:
        class_name = f"{model.spec.name}Surrogate"
        text = surrogate_class(
            class_name, f"{class_name}Function".lower(), declared.primitive.expression,
            declared.parameters, f"The surrogate that the spec {model.spec.name} declares.",
        )  # fmt: skip
        return text.rstrip("\n"), f"{class_name}()", "Surrogate, function_form"
    class_name = TABLE[declared.name or "sigmoid"].class_name
    given = ", ".join(f"{name}={_default(value)}" for name, value in declared.parameters)
    return "", f"{class_name}({given})", f"{class_name}, Surrogate"


def _class_doc(model: Model) -> str:
    """The class docstring: equations, arguments, and what the author says."""
    spec = model.spec
    lines = [spec.summary or f"The neuron {spec.name}.", ""]
    for group in (spec.let, spec.charge):
        for item in group:
            lines.append(f"    {item.name} <- {infix(item.equation.expression)}")
    for assign in model.fire:
        if assign.name == "spike":
            lines.append(f"    spike <- {infix(assign.expression)}")
    for text in (spec.doc, f"Reference: {spec.reference}" if spec.reference else ""):
        if text:
            lines += ["", *textwrap.wrap(" ".join(text.split()), 90)]
    lines += ["", "Args:"]
    for parameter in model.parameters:
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        where = f" Must satisfy {infix(parameter.where.expression)}." if parameter.where else ""
        lines.append(f"    {parameter.name}: {parameter.doc or 'Parameter.'}{unit}{where}")
    for flag in spec.flags:
        lines.append(f"    {flag.name}: {flag.doc or 'Flag.'}")
    lines += [
        "    surrogate_function: Step with a surrogate gradient; default as the spec declares.",
        "    detach_reset: Whether no gradient flows through the spike inside the reset.",
        "    step_mode: 's' for `[N, *]`, 'm' for `[T, N, *]`.",
        "    backend: 'auto' (fused where possible), 'torch', 'cpp' or 'cupy'.",
        "    store_v_seq: Whether mode 'm' keeps the potentials after reset as `v_seq`.",
        "    monitor_state: Whether `monitor` records potentials and spikes; see `set_monitor`.",
    ]
    kinds = sorted({w.per for w in spec.learnable} - {"layer"})
    if kinds:
        lines.append(f"    shape: Of what is learnt per {' and per '.join(kinds)}.")
    if model.noise or _random_starts(model):
        lines.append("    seed: Of every random number; None takes a new one at each `reset()`.")
    for w in spec.learnable:
        lines += ["", f"Learnable: {w.name} ({w.doc or f'starts at {infix(w.init.expression)}'})"]
    body = docstring("\n".join(lines))
    return textwrap.indent(body, "    ").lstrip() + "\n    "
