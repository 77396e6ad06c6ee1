"""The command ``facepack heads``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def heads(*, as_json: bool) -> None:
    """List the margins and their settings.

    Each with its paper, and its settings with their defaults. Choose one by --set margin=NAME, and
    give its settings by --set margin_options.KEY=VALUE.
    """
    import sys

    from facepack.settings import describe
    from facepack.train.heads.margins import MARGINS

    found = []
    for name, margin in sorted(MARGINS.items()):
        module = sys.modules[margin.__module__]
        found.append(
            {
                "margin": name,
                "summary": " ".join((module.__doc__ or "").split("\n\n")[0].split()),
                "settings": {name: text.replace("``", "") for name, text in describe(margin)},
            }
        )
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    formatter = click.HelpFormatter()
    for entry in found:
        formatter.write_heading(entry["margin"])
        with formatter.indentation():
            formatter.write_text(entry["summary"])
            formatter.write_dl(list(entry["settings"].items()))
        formatter.write_paragraph()
    click.echo(formatter.getvalue().rstrip())
