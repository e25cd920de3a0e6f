"""The command line: arguments, tables, exit codes.

Exit 0: fine. 1: a spec is wrong, or a file is stale. 2: wrong usage. Warnings leave the exit code
as it is, unless `check --strict` asks otherwise. Whatever a command needs is imported inside it, so
that `neurogen --help` is instant and `neurogen build` never loads torch.
"""

from __future__ import annotations

import math
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neurogen import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neurogen.compiler.artefact import Artefact
    from neurogen.compiler.pipeline import Compiled


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neurogen")
def main() -> None:
    """Write the equation, get the neuron."""


@main.command()
@click.argument("specs", nargs=-1, type=click.Path(path_type=Path), metavar="SPEC...")
@click.option(
    "-o",
    "--out",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("generated"),
    show_default=True,
    help="Output folder.",
)
@click.option(
    "--backend",
    "only",
    multiple=True,
    metavar="NAME",
    help="Write the files of these backends only (torch, cpp, cupy); may be repeated.",
)
@click.option("--check", is_flag=True, help="Write nothing; show what is stale and exit 1.")
@click.option("--force", is_flag=True, help="Write files that are fresh, too.")
@click.option("--surrogates", is_flag=True, help="Also the table of surrogates in this package.")
def build(
    specs: tuple[Path, ...], out: Path, only: tuple[str, ...], check: bool, force: bool,
    surrogates: bool,
) -> None:  # fmt: skip
    """Generate OUT/<stem>/{__init__.py, kernels.cpp, kernels.cu} from each SPEC."""
    from rich.console import Console
    from rich.progress import Progress

    from neurogen.compiler import pipeline
    from neurogen.compiler.source import printable
    from neurogen.errors import SpecError

    if not specs and not surrogates:
        raise click.UsageError("name at least one SPEC, e.g. neurogen build specs/lif.yaml")
    known = pipeline.backends()
    for name in only:
        if name not in known:
            raise click.UsageError(f"unknown backend '{name}'; backends are {', '.join(known)}")
    stems = [spec.stem for spec in specs]
    for stem in stems:
        if not _is_module_name(stem):
            raise click.UsageError(
                f"'{printable(stem)}' is not a module name, none could import it; rename the spec"
            )
        if stems.count(stem) > 1:
            raise click.UsageError(f"two specs are called '{stem}'; their output would collide")
    console, failures = Console(stderr=True, soft_wrap=True), 0
    built: list[tuple[Path, Compiled]] = []
    with Progress(console=console, transient=True, disable=len(specs) < 2) as progress:
        for spec in progress.track(specs, description="compiling"):
            try:
                built.append((spec, pipeline.compile_file(spec)))
            except SpecError as error:
                failures += 1
                console.print(str(error), highlight=False, markup=False, emoji=False)
    folders = {out / spec.stem: pipeline.files(compiled, only or known) for spec, compiled in built}
    if surrogates:
        folders[Path(__file__).parent] = (pipeline.surrogate_table(),)
    if check:
        failures += _check(folders, [*map(str, specs), *["--surrogates"] * surrogates], out)
    elif not failures:
        try:
            for folder, artefacts in folders.items():
                for artefact in artefacts:
                    artefact.write(folder, force=force)
        except OSError as error:
            raise _unwritable(error) from None
    if built and not failures:
        _summary(built)
    sys.exit(1 if failures else 0)


@main.command()
@click.argument("specs", nargs=-1, type=click.Path(path_type=Path), metavar="SPEC...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How mistakes are shown; github annotates a pull request.",
)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
def check(specs: tuple[Path, ...], form: str, strict: bool) -> None:
    """Find every mistake of each SPEC, and warn of what looks wrong. Writes no file."""
    from neurogen.compiler.pipeline import check_file
    from neurogen.messages import FORMATS

    if not specs:
        raise click.UsageError("name at least one SPEC, e.g. neurogen check specs/lif.yaml")
    found = [mistake for spec in specs for mistake in check_file(spec)]
    if found or form == "json":
        click.echo(FORMATS[form](found))
    warnings = sum(mistake.is_warning for mistake in found)
    errors = len(found) - warnings
    counts = [_count(len(specs), "spec"), _count(errors, "mistake"), _count(warnings, "warning")]
    click.echo(", ".join(counts), err=True)
    sys.exit(1 if errors or (strict and warnings) else 0)


def _is_module_name(stem: str) -> bool:
    """Whether a module can have this name: as Python reads names (NFKC), none of its own.

    Keywords can (our `if` has one): `importlib.import_module("generated.if")`.
    """
    own = stem.startswith("__") and stem.endswith("__")
    return stem.isidentifier() and unicodedata.normalize("NFKC", stem) == stem and not own


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


@main.command()
@click.argument("code", required=False)
@click.option("--markdown", is_flag=True, help="Print the page of all codes, docs/mistakes.md.")
def explain(code: str | None, markdown: bool) -> None:
    """Say more about a CODE, such as NG012; list all codes where none is given."""
    from rich.console import Console
    from rich.markdown import Markdown

    from neurogen.messages import page, section
    from neurogen.mistakes import CODES

    if markdown:
        click.echo(page(), nl=False)
    elif code is None:
        click.echo("\n".join(f"{known}  {title}" for known, title in CODES.items()))
    elif code.upper() in CODES:
        Console().print(Markdown(section(code.upper())))
    else:
        raise click.UsageError(f"there is no code '{code}'; neurogen explain lists them all")


def _check(folders: Mapping[Path, tuple[Artefact, ...]], specs: list[str], out: Path) -> int:
    """Print a diff of every stale file, and the command that mends them."""
    stale = 0
    for folder, artefacts in folders.items():
        for artefact in artefacts:
            if not artefact.is_fresh(folder):
                stale += 1
                click.echo(artefact.diff(folder), nl=False)
    if stale:
        target = "" if out == Path("generated") else f" -o {out}"
        click.echo(f"{stale} file{'s are' if stale > 1 else ' is'} stale; run: "
                   f"neurogen build{target} {' '.join(specs)}", err=True)  # fmt: skip
    return stale


def _summary(built: list[tuple[Path, Compiled]]) -> None:
    """A table of what was derived."""
    from rich.console import Console
    from rich.table import Table

    from neurogen.compiler.report import Report

    table = Table(title="derived")
    for column, justify in Report.COLUMNS:
        table.add_column(column, justify=justify)
    for _, compiled in built:
        table.add_row(*Report.of(compiled.model, compiled.program).row)
    Console(soft_wrap=False).print(table)


def _seconds(context: click.Context, option: click.Parameter, value: float) -> float:
    """A time that comes to an end; a range of Click's lets NaN pass."""
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is no number of seconds.")
    return value


@main.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path),
                metavar="SPEC...")  # fmt: skip
@click.option("--backend", "only", multiple=True, metavar="NAME",
              help="Check these backends only (torch, cpp, cupy); may be repeated.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
              help="Of every random number.")  # fmt: skip
@click.option("--budget", default=60.0, show_default=True, metavar="SECONDS", callback=_seconds,
              help="How long to search for each SPEC; every check runs at least once.")  # fmt: skip
@click.option("-o", "--out", default=Path(), type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the script that shows a failure.")  # fmt: skip
def verify(
    specs: tuple[Path, ...], only: tuple[str, ...], seed: int, budget: float, out: Path
) -> None:
    """Hold each SPEC's kernels against the reference, finite differences and themselves."""
    from neurogen.errors import SpecError
    from neurogen.tools.verify import BACKENDS, report

    for name in only:
        if name not in BACKENDS:
            raise click.UsageError(f"unknown backend '{name}'; backends are {', '.join(BACKENDS)}")
    failures = 0
    for spec in specs:
        try:
            failures += not report.run(spec, only or BACKENDS, seed, budget, out)
        except SpecError as error:
            failures += 1
            click.echo(str(error), err=True)
        except OSError as error:
            raise _unwritable(error) from None
    sys.exit(1 if failures else 0)


@main.command()
@click.argument("specs", nargs=-1, metavar="[SPEC...]")
@click.option("--against", default=None, metavar="NAMES",
              help="Contenders, with commas between: eager, compile, spikingjelly, snntorch, norse."
                   "  [default: all]")  # fmt: skip
@click.option("--shape", "shapes", multiple=True, metavar="TxN",
              help="Time steps and neurons; may be repeated.  [default: 16x262144]")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=2), default=15, show_default=True,
              help="How often each contender is timed.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--static", is_flag=True,
              help="Measure nothing: registers, occupancy and bytes of the CUDA kernels, without a "
                   "GPU.")  # fmt: skip
@click.option("--check", is_flag=True,
              help="With --static: write nothing; show what is stale and exit 1.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path),
              help="With --static: the file to write, or to check  [default: print; check "
                   "generated/REPORT.md]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    specs: tuple[str, ...], against: str | None, shapes: tuple[str, ...], rounds: int, device: str,
    static: bool, check: bool, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure each SPEC (a file, or a name such as lif) beside contenders.

    Contenders whose spikes differ are named, not timed. Without SPEC lif is measured; with --static
    the report is about all neurons that come with neurogen.
    """
    if (check or out) and not static:
        raise click.UsageError("--check and -o go with --static")
    if static and (against is not None or shapes):
        raise click.UsageError("--against and --shape go without --static: nothing is measured")
    if check and as_json:
        raise click.UsageError("--check compares the text, not --json")
    # Read when torch is loaded: its profiler warns of memory that was held before it began.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    from neurogen.errors import BackendError, SpecError
    from neurogen.loading import path_of
    from neurogen.tools.bench import command, contenders

    names = list(contenders.CONTENDERS) if against is None else against.split(",")
    if unknown := contenders.unknown(names):
        known = ", ".join(contenders.CONTENDERS)
        raise click.UsageError(f"unknown contender '{unknown[0]}'; contenders are {known}")
    sizes = [_shape(shape) for shape in shapes or ("16x262144",)]
    if reason := contenders.unavailable(device) or command.too_large(sizes, device):
        raise click.UsageError(reason)
    paths = [path_of(spec) for spec in specs or (() if static else ("lif",))]
    try:
        if check:
            fresh = command.static_check(
                paths or command.all_specs(), not paths, out or Path("generated/REPORT.md")
            )
            sys.exit(0 if fresh else 1)
        if static:
            command.static_report(paths or command.all_specs(), as_json, out)
        else:
            command.measured(paths, names, sizes, rounds, device, as_json)
    except SpecError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except BackendError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> click.ClickException:
    return click.ClickException(f"cannot write {error.filename}: {error.strerror}")


def _shape(text: str) -> tuple[int, int]:
    """`16x262144` as T and N."""
    from neurogen.compiler.source import printable

    found = re.fullmatch("([1-9][0-9]{0,17})x([1-9][0-9]{0,17})", text)
    if found is None:
        raise click.UsageError(
            f"'{printable(text)}' is no shape; write time steps x neurons, e.g. 16x262144"
        )
    return int(found[1]), int(found[2])
