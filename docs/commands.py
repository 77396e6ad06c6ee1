"""Write commands.md from what the commands say of themselves.

python docs/commands.py           writes docs/commands.md
python docs/commands.py --print   prints it
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from facepack.cli import COMMANDS, root
from facepack.command_options import with_options
from facepack.convert.registry import SINKS, SOURCES
from facepack.evaluate.registry import PROTOCOLS


def page() -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Commands\n",
        "Data go to stdout (`--json` where you want to read them by program), progress and notices "
        "to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 3 a pack is damaged, "
        "130 interrupted.\n",
    ]
    parts.append(
        "## facepack SOURCE2SINK\n\n"
        "Every source goes into every sink: `facepack rec2lmdb SRC OUT`, `facepack zip2wds SRC… "
        "OUT`, `facepack lmdb2rec PACK OUT`, ….\n"
    )
    for title, kinds in (("Sources", SOURCES), ("Sinks", SINKS)):
        lines = [f"### {title}\n"]
        for name, kind in kinds.items():
            sentence = kind.src if title == "Sources" else kind.out
            lines.append(f"**`{name}`**: {kind.title}. {sentence}\n")
            options = kind.command.options
            if options:
                lines.append(f"```\n{_options(options)}\n```\n")
        parts.append("\n".join(lines))
    plain = next(name for name, sink in SINKS.items() if not sink.command.options)
    source = next(name for name, source in SOURCES.items() if not source.command.options)
    common = root.get_command(click.Context(root), f"{source}2{plain}")
    assert common is not None
    parts.append(f"### Options of all conversions\n\n```\n{_options_of(common)}\n```\n")
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        parts.append(_section(f"facepack {name}", command))
        if name == "eval":
            for protocol, kind in PROTOCOLS.items():
                parts.append(_section(f"facepack eval {protocol}", kind.command()))
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    return f"## {name}\n\n```\n{command.get_help(_context(command, name))}\n```\n"


def _context(command: click.Command, name: str) -> click.Context:
    return click.Context(command, info_name=name, terminal_width=100, max_content_width=100)


def _options(options: tuple[Callable[[Any], Any], ...]) -> str:
    command = click.command(add_help_option=False)(with_options(options)(lambda: None))
    return _options_of(command)


def _options_of(command: click.Command) -> str:
    formatter = click.HelpFormatter(width=100)
    command.format_options(_context(command, ""), formatter)
    return formatter.getvalue().partition("\n")[2].rstrip()


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
