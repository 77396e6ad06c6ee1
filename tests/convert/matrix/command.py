"""The command line, in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from facepack.cli import root


def invoke(*words: object, typed: str | None = None) -> Result:
    """What ``facepack WORDS`` gives; what is no error of facepack's is raised."""
    return CliRunner().invoke(root, list(map(str, words)), input=typed, catch_exceptions=False)


def facepack(*words: object, typed: str | None = None) -> str:
    """What a command that succeeds prints."""
    result = invoke(*words, typed=typed)
    assert result.exit_code == 0, f"{words}: {result.output}"
    return result.stdout


def converted(*words: object, typed: str | None = None) -> dict[str, Any]:
    """The figures of a conversion that succeeds."""
    figures: dict[str, Any] = json.loads(facepack(*words, "--json", typed=typed))
    return figures
