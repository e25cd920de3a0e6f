"""What a neuron-step costs, counted instead of timed: instructions of the kernels' vector loops.

    python -m neurogen.tools.cost lif alif …

The kernels are compiled to assembly for one fixed instruction set (AVX2), so that a compiler of one
major version gives the same numbers on every machine. A change that makes a kernel slower shows
here without a stopwatch: more instructions, more divisions, a loop that is no longer vectorised.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import click

from neurogen.backends import toolchain
from neurogen.errors import SpecError
from neurogen.loading import load
from neurogen.runtime.abi import Kernels, Variant
from neurogen.runtime.surrogate import ATan

MACHINE = "x86-64-v3"


def compiler() -> str:
    """`gcc 12`, or an empty string where the compiler on this machine is no gcc for x86-64."""
    command = toolchain.compiler()
    if command is None:
        return ""
    asked = [*command, "-dumpmachine"], [*command, "-dumpversion"]
    machine, version = (
        subprocess.run(a, capture_output=True, text=True, check=False).stdout.strip() for a in asked
    )
    is_gcc = "clang" not in toolchain.identity(command) and machine.startswith("x86_64")
    return f"gcc {version.split('.')[0]}" if is_gcc else ""


def assembly(kernels: Kernels, variant: Variant) -> str:
    """The assembly of one direction of a neuron's C++ kernel."""
    command = toolchain.compiler()
    assert command is not None
    flags = [f for f in toolchain.FLAGS if not f.startswith("-march")]
    macros = [f"-D{name}={value}" for name, value in variant.macros]
    with tempfile.TemporaryDirectory() as work:
        header = Path(work, "neurogen", "surrogate.h")
        header.parent.mkdir()
        header.write_text(f'#pragma once\n#include "neurogen/kernel.h"\n{variant.surrogate}')
        run = subprocess.run(
            [*command, *flags, "-O3", "-fopenmp", f"-march={MACHINE}", *macros, f"-I{work}",
             f"-I{toolchain.INCLUDE}", "-S", "-x", "c++", "-", "-o", "-"],
            input=kernels.text("kernels.cpp"), capture_output=True, text=True, check=True,
        )  # fmt: skip
    return run.stdout


def vector_loops(text: str) -> list[list[str]]:
    """The innermost loops of some assembly that compute with vectors, as instructions."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif line.startswith("\t") and not line.startswith("\t."):
            instructions.append(line.strip())
    jumps = (re.fullmatch(r"j\w+\s+(\.L\w+)", line) for line in instructions)
    loops = {
        (labels[jump[1]], end)
        for end, jump in enumerate(jumps)
        if jump and labels.get(jump[1], end + 1) <= end
    }
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [instructions[begin : end + 1] for begin, end in sorted(inner)]
    arithmetic = re.compile(r"v(add|sub|mul|div|cmp|blendv)ps\b.*%ymm")
    return [body for body in bodies if any(map(arithmetic.match, body))]


def cost(stem: str) -> dict[str, int]:
    """Instructions and divisions of a spec's float32 kernels, for eight neuron-steps.

    The loops for one value for all neurons and for a value each are both counted.
    """
    cls = load(stem)
    flags = tuple((name, True) for name in cls.flags)
    result = {}
    for backward in (False, True):
        variant = Variant(backward, "float", flags, False, True, 0, ATan.kernel)
        loops = vector_loops(assembly(cls.kernels, variant))
        name = "backward" if backward else "forward"
        result[f"{name} instructions"] = sum(map(len, loops))
        result[f"{name} divisions"] = sum("vdiv" in line for body in loops for line in body)
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("specs", nargs=-1, metavar="[SPEC]...")
@click.option(
    "--record",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures of before: count its neurons again, too, and write it.",
)
def main(specs: tuple[str, ...], record: Path | None) -> None:
    """Print the cost of each SPEC, a name of the zoo or a file."""
    stems = {*specs, *(json.loads(record.read_text(encoding="utf-8"))["neurons"] if record else ())}
    if not stems:
        raise click.UsageError("name at least one SPEC, e.g. lif")
    if not compiler():
        raise click.ClickException("no gcc for x86-64 here; the figures are those of its assembly")
    try:
        costs = {stem: cost(stem) for stem in sorted(stems)}
    except (SpecError, OSError) as error:
        raise click.ClickException(str(error)) from None
    text = json.dumps({"compiler": compiler(), "neurons": costs}, indent=2) + "\n"
    if record:
        record.write_text(text, encoding="utf-8")
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
