"""Write commands.md from what the commands say of themselves.

python docs/commands.py           writes docs/commands.md
python docs/commands.py --print   prints it
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from facepack.cli import COMMANDS, root


def page() -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Commands\n",
        "Data go to stdout (`--json` where you want to read them by program), progress and notices "
        "to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 3 a pack is damaged, "
        "130 interrupted.\n",
    ]
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        context = click.Context(
            command, info_name=f"facepack {name}", terminal_width=100, max_content_width=100
        )
        parts.append(f"## facepack {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
