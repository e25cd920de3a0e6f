"""What `neurogen bench` does once its arguments are known to be right.

In: specs and settings. Out: text on stdout, progress on stderr, a file where one is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from neurogen.compiler.artefact import Artefact
from neurogen.compiler.pipeline import read_file
from neurogen.loading import load_text, zoo
from neurogen.tools.bench import measure, report, static
from neurogen.tools.bench.compare import Comparison, compare
from neurogen.tools.verify.nodes import is_arithmetic

#: An element's input, output and their gradients, and the integer that the input is made of.
LEAST_BYTES = 4 * 4 + 8


def too_large(shapes: Sequence[tuple[int, int]], device: str) -> str:
    """Why a shape cannot be measured on a device, empty if nothing is known against it."""
    if device.startswith("cuda"):
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for steps, neurons in shapes:
        if (wanted := LEAST_BYTES * steps * neurons) > memory:
            return (f"{steps}x{neurons} takes at least {wanted / 2**30:.0f} GiB of memory, of "
                    f"{memory / 2**30:.0f}; make it smaller")  # fmt: skip
    return ""


def all_specs() -> list[Path]:
    """The files of all neurons that come with neurogen."""
    return sorted(zoo().glob("*.yaml"))


def rows_of(paths: Sequence[Path]) -> list[static.Row]:
    """The static figures of some specs, in the order of their names.

    Raises:
        SpecError: A spec is wrong.
        BackendError: NVRTC is not installed.
    """
    static.version()
    rows: list[static.Row] = []
    with _bar() as progress:
        for path in progress.track(sorted(set(paths)), description="compiling"):
            rows += static.report(path.stem, load_text(read_file(path), str(path)))
    return rows


def static_report(paths: Sequence[Path], as_json: bool, out: Path | None) -> None:
    """Write or print the figures that need no GPU."""
    rows, version = rows_of(paths), static.version()
    text = report.markdown(rows, version)
    if as_json:
        text = json.dumps(report.static_json(rows, version), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        Artefact(out.name, text).write(out.parent)


def static_check(paths: Sequence[Path], whole: bool, out: Path) -> bool:
    """Whether a report is fresh; prints what differs.

    Figures of another version of NVRTC cannot be compared: that is said, and nothing is fresh.

    Args:
        paths: Specs.
        whole: Whether those are all that the report is about.
        out: The report.
    """
    old = out.read_text(encoding="utf-8", errors="replace") if out.is_file() else ""
    made, here = report.made_with(old), static.version()
    if old and made != here:
        click.echo(
            f"{out} was made with NVRTC {made or '?'}, this is {here}: not compared; "
            f"install nvidia-cuda-nvrtc-cu12=={made}.*, or run: {report.COMMAND}",
            err=True,
        )
        return False
    new = report.markdown(rows_of(paths), here)
    difference = report.stale(old, new, None if whole else [path.stem for path in paths])
    if difference:
        click.echo(difference, nl=False)
        click.echo(f"{out} is stale; run: {report.COMMAND}", err=True)
    return not difference


def measured(
    paths: Sequence[Path], names: Sequence[str], shapes: Sequence[tuple[int, int]], rounds: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure specs beside contenders, and print what was found."""
    machine = measure.machine(device)
    console = Console(markup=False, emoji=False)  # what is printed names files
    if not as_json:
        console.print(report.machine_line(machine), highlight=False)
    found: list[Comparison] = []
    for path in paths:
        text = read_file(path)
        cls = load_text(text, str(path))
        for shape in shapes:
            with _bar() as progress:
                task = progress.add_task(path.stem, total=len(names) + 3)
                tell = partial(_tell, progress, task, path.stem)
                with measure.empty_caches():
                    found.append(compare(path.stem, cls, names, shape, rounds, device,
                                         is_arithmetic(text), tell))  # fmt: skip
            if not as_json:
                console.print(report.comparison_table(found[-1]))
                for line in report.absences(found[-1]):
                    console.print(line, highlight=False, markup=False)
    if as_json:
        comparisons = [asdict(comparison) for comparison in found]
        click.echo(json.dumps({"machine": machine, "comparisons": comparisons}, indent=2))


def _bar() -> Progress:
    """A progress bar on stderr that shows names as they are."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, *Progress.get_default_columns()[1:])
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _tell(progress: Progress, task: TaskID, stem: str, what: str) -> None:
    """Say what is done now."""
    progress.update(task, advance=1, description=f"{stem}: {what}")
