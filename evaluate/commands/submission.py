"""The command ``facepack submission``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.onnx")
@click.option("--json", "as_json", is_flag=True, help="Print the rules as JSON.")
@click.pass_context
def submission(ctx: click.Context, file: Path, *, as_json: bool) -> None:
    """Check an ONNX file against MFR's rules.

    They are those of the ICCV 2021 challenge's server: input [*,3,112,112], one output, at most
    1024 MB, no float16 weights. The file is also run on two random images, if onnxruntime is
    installed. Each rule that is not kept is named; the exit status is then 1.
    """
    from facepack.evaluate.models.submission import check_submission
    from facepack.terminal import printable

    rules = check_submission(file)
    kept = all(rule.kept for rule in rules)
    if as_json:
        content = {"file": str(file), "kept": kept, "rules": [asdict(rule) for rule in rules]}
        click.echo(json.dumps(content, indent=2))
    else:
        for rule in rules:
            click.echo(printable(f"{'ok  ' if rule.kept else 'FAIL'}  {rule.name}: {rule.found}"))
            if not rule.kept:
                click.echo(printable(f"      {rule.remedy}"))
    if not kept:
        ctx.exit(1)
