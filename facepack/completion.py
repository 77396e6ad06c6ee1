"""Completion in bash of values with blanks, which Click's script would insert as several words.

zsh and fish quote what they insert themselves. Imported where a shell asks for completion alone.
"""

from __future__ import annotations

from click.shell_completion import BashComplete, add_completion_class


@add_completion_class
class QuotingBash(BashComplete):
    """Click's script for bash, with each value quoted as one word."""

    name = "bash"
    source_template = BashComplete.source_template.replace(
        "read type value", "read -r type value"
    ).replace("COMPREPLY+=($value)", 'COMPREPLY+=("$(printf %%q "$value")")')
