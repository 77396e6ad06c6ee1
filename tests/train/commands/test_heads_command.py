"""``facepack heads``: every margin, with the defaults that it is built with."""

from __future__ import annotations

import json

from click.testing import CliRunner

from facepack.train.commands.heads import heads
from facepack.train.heads.margins import MARGINS, build_margin


def test_every_margin_is_listed_with_its_defaults() -> None:
    listed = json.loads(CliRunner().invoke(heads, ["--json"]).stdout)
    assert [entry["margin"] for entry in listed] == sorted(MARGINS)
    for entry in listed:
        assert "et al." in entry["summary"]
        for setting in entry["settings"]:
            name, _, default = setting.partition(" = ")
            value = getattr(build_margin(entry["margin"]), name)
            assert default == (
                ""
                if value is None
                else str(value).lower()
                if value in (True, False) and isinstance(value, bool)
                else str(value)
            )


def test_as_text() -> None:
    text = CliRunner().invoke(heads, []).stdout
    assert all(f"{name}:" in text for name in MARGINS)
    assert "t_alpha = 0.01" in text
