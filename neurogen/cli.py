"""The command line: arguments, tables, exit codes.

Exit 0: fine. 1: a spec is wrong, or a file is stale. 2: wrong usage. Warnings leave the exit code
as it is, unless `check --strict` asks otherwise. Whatever a command needs is imported inside it, so
that `neurogen --help` is instant and `neurogen build` never loads torch.
"""

from __future__ import annotations

import sys
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
    from neurogen.errors import SpecError

    if not specs and not surrogates:
        raise click.UsageError("name at least one SPEC, e.g. neurogen build specs/lif.yaml")
    known = pipeline.backends()
    for name in only:
        if name not in known:
            raise click.UsageError(f"unknown backend '{name}'; backends are {', '.join(known)}")
    stems = [spec.stem for spec in specs]
    for stem in stems:
        if not stem.isidentifier():
            raise click.UsageError(f"'{stem}' is not a module name; rename the spec file")
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
                console.print(str(error), highlight=False, markup=False)
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
            raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None
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


@main.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path),
                metavar="SPEC...")  # fmt: skip
@click.option("--backend", "only", multiple=True, metavar="NAME",
              help="Check these backends only (torch, cpp, cupy); may be repeated.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of every random number.")
@click.option("--budget", default=60.0, show_default=True, metavar="SECONDS",
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
    sys.exit(1 if failures else 0)
