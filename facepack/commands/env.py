"""``facepack env``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def env(as_json: bool) -> None:
    """Show versions of everything that matters.

    Include this in bug reports: versions of facepack, Python, torch and its CUDA devices, of the
    libraries that read and decode, which extras are installed, and the FACEPACK_ variables.
    """
    from facepack.terminal import printable
    from facepack.view.machine import describe_machine, machine_lines

    facts = describe_machine()
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for line in machine_lines(facts):
        click.echo(printable(line))
