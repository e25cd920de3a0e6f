"""What `neurogen bench` shows: `generated/REPORT.md`, tables on the console, JSON.

In: rows of `static`, comparisons of `compare`. Out: text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from neurogen.backends.cupy.launch import BLOCK
from neurogen.tools.bench.compare import Comparison
from neurogen.tools.bench.static import ARCHITECTURES, PARTS, Row

#: How to bring the file up to date.
COMMAND = "neurogen bench --static -o generated/REPORT.md"

_INTRODUCTION = """\
# CUDA kernels, without a GPU

Made by `{command}` with NVRTC {version}. Do not edit.
Nothing here was measured: kernels are compiled, and their PTX is executed for one thread. The
command `neurogen bench --static --check` holds this page fresh.

## Bytes of a neuron-step

What forward and backward of a training step load from and store to global memory for one neuron and
one time step, and of both together what is for checkpoints. Parameters, first and last states are
read and written once per neuron and not counted, nor are the kernels that sum parameter gradients.
Each access is of one element. Where a step may do without reading (a refractory neuron its input),
it counts as read.

**The times are bounds, not measurements**: picoseconds that forward and backward together take if
they move these bytes, and nothing else, at the bandwidth of the data sheet:
{parts}.

For comparison, float32, forward and backward in training, by the published kernels of SpikingJelly:
24 B for LIF, 28 to 32 B for PLIF.

"""
_RESOURCES = """
## Registers and occupancy

By ptxas, for {architectures} in turn; one number where they agree. Blocks of {block} threads;
occupancy is the share of a multiprocessor's warps that can be resident, by the published limits.
Spills, local and shared memory are bytes. The two kernels that sum gradients are compiled along
with each backward kernel, and counted in its row.

"""


def markdown(rows: Sequence[Row], version: str) -> str:
    """The text of `generated/REPORT.md`.

    Args:
        rows: Of any neurons.
        version: Of NVRTC.
    """
    parts = ", ".join(f"{part.name} {part.bandwidth} GB/s" for part in PARTS)
    names = ", ".join(architecture.name for architecture in ARCHITECTURES)
    return "".join(
        (
            _INTRODUCTION.format(command=COMMAND, version=version, parts=parts),
            _table(
                ("neuron", "type", "forward: loads + stores", "backward: loads + stores",
                 "for checkpoints", *(f"{part.name}, ps" for part in PARTS)),
                _traffic(rows),
            ),
            _RESOURCES.format(architectures=names, block=BLOCK),
            _table(
                ("neuron", "kernel", "type", "registers", "occupancy", "spills", "local", "shared"),
                map(_resources, rows),
            ),
        )
    )  # fmt: skip


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _traffic(rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """A line for each neuron and storage type."""
    by_kernel = {(row.spec, row.dtype, row.direction): row.bytes for row in rows}
    for spec, dtype in dict.fromkeys((row.spec, row.dtype) for row in rows):
        both = [by_kernel[spec, dtype, direction] for direction in ("forward", "backward")]
        yield (
            spec, dtype, *(f"{b.loads:g} + {b.stores:g} = {b.total:g}" for b in both),
            f"{sum(b.checkpoints for b in both):g}",
            *(f"{sum(b.picoseconds(part) for b in both):.1f}" for part in PARTS),
        )  # fmt: skip


def _resources(row: Row) -> tuple[str, ...]:
    """The line of a kernel."""
    found = [(row.resources[a.name], a) for a in ARCHITECTURES]
    return (
        row.spec, row.direction, row.dtype,
        _each(f"{r.registers}" for r, _ in found),
        _each(f"{r.occupancy(a, BLOCK):.0%}" for r, a in found),
        *(_each(f"{getattr(r, name)}" for r, _ in found) for name in ("spills", "local", "shared")),
    )  # fmt: skip


def _each(values: Iterable[str]) -> str:
    """`38 / 40 / 38`, or `38` where all agree."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else " / ".join(listed)


def static_json(rows: Sequence[Row], version: str) -> dict[str, Any]:
    """The same figures, and what follows from them, as data."""
    kernels = [
        {
            "spec": row.spec, "direction": row.direction, "dtype": row.dtype,
            "loads": row.bytes.loads, "stores": row.bytes.stores,
            "checkpoints": row.bytes.checkpoints, "bytes": row.bytes.total,
            "bound_ps": {part.name: row.bytes.picoseconds(part) for part in PARTS},
            "architectures": {
                a.name: {
                    "registers": (r := row.resources[a.name]).registers, "spills": r.spills,
                    "local": r.local, "shared": r.shared, "occupancy": r.occupancy(a, BLOCK),
                }
                for a in ARCHITECTURES
            },
        }
        for row in rows
    ]  # fmt: skip
    return {"nvrtc": version, "kernels": kernels}


def made_with(text: str) -> str:
    """The version of NVRTC that made a report; empty if it does not say."""
    match = re.search(r"with NVRTC ([\d.]+\d)", text)
    return match[1] if match else ""


def stale(old: str, new: str, specs: Collection[str] | None) -> str:
    """The difference between a report and what it should be, empty if it is fresh.

    Args:
        old: The report as it is.
        new: As it is made now.
        specs: Compare the lines of these neurons only; None for the whole text.
    """
    starts = "" if specs is None else tuple(f"| {spec} |" for spec in specs)
    before, after = (
        [line for line in text.splitlines(keepends=True) if line.startswith(starts)]
        for text in (old, new)
    )
    return "".join(difflib.unified_diff(before, after, "as it is", "as it is made now"))


# -- measurements ----------------------------------------------------------------------------------


def machine_line(machine: dict[str, Any]) -> str:
    """Where it was measured."""
    return ", ".join(str(value) if key != "threads" else f"{value} threads"
                     for key, value in machine.items())  # fmt: skip


def comparison_table(comparison: Comparison) -> Table:
    """A row for each contender that was timed."""
    steps, neurons = comparison.shape
    table = Table(
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        title=f"{comparison.spec}, {steps}x{neurons}, float32: forward + backward",
        caption=f"copy {comparison.copy_bandwidth:.1f} GB/s; {comparison.rate:.0%} of outputs are "
        f"not 0; GB/s of {comparison.least_bytes} B an element",
    )
    table.add_column("contender", no_wrap=True)
    for column in ("ns", "quartiles", "/ ours", "GB/s", "/ copy", "peak B", "first s"):
        table.add_column(column, justify="right", no_wrap=True)
    ours = next((e.ns for e in comparison.entries if e.contender == "ours"), None)
    for entry in comparison.entries:
        if entry.ns is not None and entry.middle is not None and ours:
            speed = comparison.least_bytes / entry.ns
            table.add_row(
                entry.contender, _short(entry.ns), " - ".join(map(_short, entry.middle)),
                f"{entry.ns / ours:.1f}", f"{speed:.1f}",
                f"{speed / comparison.copy_bandwidth:.0%}", f"{entry.peak:.1f}",
                f"{entry.first_call:.2f}",
            )  # fmt: skip
    return table


def absences(comparison: Comparison) -> list[str]:
    """A line for each contender that was not timed."""
    return [f"{e.contender}: {e.status}" for e in comparison.entries if e.status != "timed"]


def _short(ns: float) -> str:
    return f"{ns:.2f}" if ns < 100 else f"{ns:.0f}"
