"""What `neurogen verify` prints: a progress bar, tables of errors, scripts of failures.

In: the path of a spec. Out: text on the console, and a file for each kind of failure. No text of
the user's (a path, a flag, a message) is taken for markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from neurogen.compiler.pipeline import read_file
from neurogen.tools.verify import script, suite
from neurogen.tools.verify.cases import DTYPES, Case
from neurogen.tools.verify.suite import REFERENCE, Result


def run(path: Path, backends: tuple[str, ...], seed: int, budget: float, out: Path) -> bool:
    """Verify one spec, print the tables; whether everything holds.

    Raises:
        SpecError: The spec is wrong.
    """
    text, console = read_file(path), Console(markup=False, highlight=False, emoji=False)
    try:  # before the work, which would be lost
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        console.print(f"no script can be written to {out}: {error.strerror}", soft_wrap=True)
        return False
    results = list(_watched(path.stem, text, backends, seed, budget))
    console.print(matrix_table(path.stem, results))
    console.print(check_table(results))
    for line in (*doubts(results), *failures(path, text, results, seed, out)):
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"{path}: {verdict(results, seed)}", soft_wrap=True)
    return all(result.holds for result in results)


def _watched(
    title: str, text: str, backends: tuple[str, ...], seed: int, budget: float
) -> Iterator[Result]:
    """The results, while a bar shows how far they are."""
    total = suite.count(text, backends)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(),
               TextColumn("{task.fields[what]}", markup=False), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, what="compiling")
        for number, result in enumerate(suite.verify(text, backends, seed, budget), 1):
            what = f"{result.check}, {result.case.backend}" if number < total else "searching"
            bar.update(task, advance=1, what=what)
            yield result


def verdict(results: list[Result], seed: int) -> str:
    """The last line."""
    tried = sum(result.problems for result in results if result.check == REFERENCE)
    failed = sum(not result.holds for result in results)
    outcome = f"{failed} checks fail" if failed else "everything holds"
    return "; ".join([f"{tried} problems, seed {seed}: {outcome}", *_silence(results)])


def _silence(results: list[Result]) -> list[str]:
    """What is not proved, because the neuron did the same all the time."""
    compared = [r.comparison for r in results if r.comparison is not None]
    rates = {comparison.rate for comparison in compared if comparison.fires}
    if rates == {0.0}:
        return ["it never fired: spikes and surrogate gradients are not proved"]
    if rates == {1.0}:
        return ["it fired at every step: thresholds and surrogate gradients are not proved"]
    return []


def doubts(results: list[Result]) -> list[str]:
    """Quantities of which nothing is proved: all their values are NaN or infinite."""
    gone = {
        (result.check, finding.quantity): None
        for result in results
        if result.comparison is not None
        for finding in result.comparison.findings
        if finding.lost == 1.0
    }
    return [
        f"{check}: all values of {quantity} are NaN or infinite: nothing is proved of them"
        for check, quantity in gone
    ]


def failures(path: Path, text: str, results: list[Result], seed: int, out: Path) -> Iterator[str]:
    """A line for each failure; and a script for the first of each check, the smallest if known."""
    written: set[str] = set()
    for result in results:
        if result.holds:
            continue
        yield f"{result.check}, {describe(result.case)}: {result.raised or result.worst}"
        if result.check in written:
            continue
        written.add(result.check)
        target = script.target(out, path, result.check)
        target.write_text(script.script(path, text, result, seed), encoding="utf-8")
        yield f"run it: python {target}"


def describe(case: Case) -> str:
    """A cell in words."""
    flags = "".join(f", {name}={value}" for name, value in case.flags)
    detached = ", detached" * case.detach_reset
    return f"{place(case)}, {str(case.dtype)[6:]}, {case.reset} reset{detached}{flags}"


def place(case: Case) -> str:
    """A backend, and where its text ran."""
    return "cupy on the CPU" if case.backend == "cupy" and case.device == "cpu" else case.backend


def matrix_table(title: str, results: list[Result]) -> Table:
    """Errors against the reference: a row a variant, a column a dtype; how often it fired."""
    table = Table("backend", "reset", title=f"{title}: worst error against the reference")
    for dtype in DTYPES:
        table.add_column(str(dtype)[6:], justify="right")
    table.add_column("fires", justify="right")
    rows: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in results:
        if result.check == REFERENCE:
            case = result.case
            row = place(case), f"{case.reset}{', detached' * case.detach_reset}"
            rows.setdefault(row, {}).setdefault(str(case.dtype)[6:], []).append(result)
    for row, columns in sorted(rows.items()):
        of_row = [result for results in columns.values() for result in results]
        cells = (_cell(columns.get(str(dtype)[6:], [])) for dtype in DTYPES)
        table.add_row(*row, *cells, _rate(of_row))
    return table


def check_table(results: list[Result]) -> Table:
    """The other checks: a row a check, a column a backend; float64."""
    backends = list(dict.fromkeys(place(result.case) for result in results))
    table = Table("check", *backends, title="worst error of other checks, float64")
    for check in suite.CHECKS:
        of_check = [result for result in results if result.check == check]
        table.add_row(check, *(
            _cell([r for r in of_check if place(r.case) == backend]) for backend in backends
        ))  # fmt: skip
    return table


def _rate(results: list[Result]) -> Text:
    """The lowest and highest share of steps at which neurons fired."""
    compared = [r.comparison for r in results if r.comparison is not None]
    rates = sorted(comparison.rate for comparison in compared if comparison.fires)
    if not rates:
        return Text("-", "dim")
    if rates[-1] == 0 or rates[0] == 1:
        return Text("never" if rates[-1] == 0 else "always", "yellow")
    low, high = f"{rates[0]:.0%}", f"{rates[-1]:.0%}"
    return Text(low if low == high else f"{low} to {high}")


def _cell(results: list[Result]) -> Text:
    """The error nearest to its limit, red where one is broken; the share of NaN and infinity."""
    if any(result.raised for result in results):
        return Text("raises ✗", "red")
    known = [result.comparison for result in results if result.comparison is not None]
    worst = [comparison.worst for comparison in known if comparison.worst is not None]
    if not worst:
        return Text(results[0].note if results else "-", "dim")
    finding = max(worst, key=lambda f: (not f.holds, f.share, f.error))
    shown = f"{finding.error:.1e}" if finding.error else "0"
    gone = max((f.lost for comparison in known for f in comparison.findings), default=0.0)
    if gone:
        shown += f" ({gone:.0%} NaN)"
    return Text(shown, "green") if finding.holds else Text(f"{shown} ✗", "red")
