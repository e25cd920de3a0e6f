"""What `neurogen verify` prints: a progress bar, a table of worst errors, scripts of failures.

In: the path of a spec. Out: text on the console, and a file for each kind of failure.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from neurogen.compiler.pipeline import read_file
from neurogen.tools.verify import search, suite
from neurogen.tools.verify.cases import DTYPES, Case
from neurogen.tools.verify.suite import Result


def run(path: Path, backends: tuple[str, ...], seed: int, budget: float, out: Path) -> bool:
    """Verify one spec, print the table; whether everything holds.

    Raises:
        SpecError: The spec is wrong.
    """
    text = read_file(path)
    console, results = Console(), list[Result]()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(path.stem, total=suite.count(text, backends), what="compiling")
        for result in suite.verify(text, backends, seed, budget):
            results.append(result)
            what = f"{result.check}, {result.case.backend}"
            bar.update(task, advance=1, what=what if len(results) < suite.count(text, backends)
                       else "searching")  # fmt: skip
    console.print(matrix_table(path.stem, results))
    console.print(check_table(results))
    tried = sum(result.problems for result in results if result.check == "reference")
    failed = [result for result in results if not result.holds]
    console.print(f"{path}: {tried} problems, seed {seed}: "
                  + (f"{len(failed)} checks fail" if failed else "everything holds"))  # fmt: skip
    first = next((r for r in failed if r.failing is not None), None)
    for result in failed:
        console.print(f"  {result.check}, {describe(result.case)}: {result.worst}", highlight=False)
    if first is not None and first.failing is not None:
        target = out / f"{path.stem}_fails.py"
        target.write_text(
            search.script(str(path), first.case, first.failing, text), encoding="utf-8"
        )
        console.print(f"the smallest input that shows it: python {target}")
    return not failed


def describe(case: Case) -> str:
    """A cell in words."""
    flags = "".join(f", {name}={value}" for name, value in case.flags)
    detached = ", detached" * case.detach_reset
    return f"{place(case)}, {str(case.dtype)[6:]}, {case.reset} reset{detached}{flags}"


def place(case: Case) -> str:
    """A backend, and where its text ran."""
    return "cupy on the CPU" if case.backend == "cupy" and case.device == "cpu" else case.backend


def matrix_table(title: str, results: list[Result]) -> Table:
    """Worst error against the reference: a row a variant, a column a dtype."""
    table = Table("backend", "reset", title=f"{title}: worst error against the reference")
    for dtype in DTYPES:
        table.add_column(str(dtype)[6:], justify="right")
    rows: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in results:
        if result.check == "reference":
            case = result.case
            row = place(case), f"{case.reset}{', detached' * case.detach_reset}"
            rows.setdefault(row, {}).setdefault(str(case.dtype)[6:], []).append(result)
    for row, columns in sorted(rows.items()):
        table.add_row(*row, *(_cell(columns.get(str(dtype)[6:], [])) for dtype in DTYPES))
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


def _cell(results: list[Result]) -> str:
    """The worst error of several results, red where a limit is broken."""
    known = [result for result in results if result.worst is not None]
    if not known:
        return f"[dim]{results[0].note if results else '-'}[/dim]"
    wrong = [result for result in known if not result.holds]
    errors = [r.worst.error for r in wrong or known if r.worst is not None]
    shown = f"{max(errors):.1e}" if max(errors) else "0"
    return f"[red]{shown} ✗[/red]" if wrong else f"[green]{shown}[/green]"
