"""``facepack compare``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="A B…"
)
@click.option(
    "--plot",
    "plots",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT",
    help="Also write a page (.html), the curves (.png, .svg, .pdf) or figures (.csv); repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(paths: tuple[Path, ...], *, plots: tuple[Path, ...], as_json: bool) -> None:
    """Show models and runs side by side.

    Each argument is a run's folder, a results.json, what `facepack eval --json` printed (as
    FILE.json), or a training log. Figures of one target stand in one row; ~ marks those whose
    difference from the first lies inside its 95% confidence interval. Of runs it shows how they
    ended, and the settings that differ; --plot draws losses, learning rates and accuracies.
    """
    from facepack.evaluate.compare import comparison_lines, comparison_object, read_comparison
    from facepack.evaluate.report import require_writable_report, write_report
    from facepack.terminal import printable

    for out in plots:
        require_writable_report(out)
    found = read_comparison(paths)
    for run in found.runs:
        for notice in run.log.notices:
            click.echo(printable(notice), err=True)
    if as_json:
        click.echo(json.dumps(comparison_object(found), indent=2))
    else:
        for line in comparison_lines(found):
            click.echo(line)
    for out in plots:
        write_report(found.results, out, runs=found.runs)
        click.echo(f"{out}", err=True)
