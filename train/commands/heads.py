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

    found = {
        name: (
            " ".join((sys.modules[margin.__module__].__doc__ or "").split("\n\n")[0].split()),
            {setting: text.replace("``", "") for setting, text in describe(margin)},
        )
        for name, margin in sorted(MARGINS.items())
    }
    if as_json:
        entries = [
            {"margin": name, "summary": summary, "settings": settings}
            for name, (summary, settings) in found.items()
        ]
        click.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    formatter = click.HelpFormatter()
    for name, (summary, settings) in found.items():
        formatter.write_heading(name)
        with formatter.indentation():
            formatter.write_text(summary)
            formatter.write_dl(list(settings.items()))
        formatter.write_paragraph()
    click.echo(formatter.getvalue().rstrip())
