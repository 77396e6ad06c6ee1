"""The command line as a whole: every command has help, documentation and honest exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from facepack.cli import COMMANDS, root
from facepack.convert.registry import CONVERSIONS, SINKS, SOURCES

ROOT = Path(__file__).parents[1]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facepack", *words], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_documentation(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None and command.name == name and command.help
    first_line = command.help.splitlines()[0]
    assert first_line == COMMANDS[name][1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
    assert re.search(rf"^\| `facepack {name}[ `]", (ROOT / "README.md").read_text(), re.M)
    page = (ROOT / "docs" / "commands.md").read_text()
    assert f"## facepack {name}\n" in page
    section = page.split(f"## facepack {name}\n")[1].split("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[-1] in section, f"{name} {parameter.opts[-1]} is not documented"


@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_conversion_has_help_and_documentation(name: str) -> None:
    source, sink = CONVERSIONS[name]
    command = root.get_command(click.Context(root), name)
    assert command is not None and command.name == name and command.help
    assert SOURCES[source].title in command.help and SINKS[sink].title in command.help
    for location in (SOURCES[source].location, SINKS[sink].location, SINKS[sink].options):
        module, _, attribute = location.partition(":")
        assert callable(getattr(import_module(module), attribute))
    page = (ROOT / "docs" / "commands.md").read_text().split("\n## facepack ")[1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
            assert parameter.opts[-1] in page, f"{name} {parameter.opts[-1]} is not documented"
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"^\| `{source}` ", readme, re.M), f"README has no row for {source}"
    assert re.search(rf"^\| `{sink}` ", readme, re.M), f"README has no row for {sink}"


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    """docs/commands.md is written by ``python docs/commands.py``."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "commands.py"), "--print"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "commands.md").read_text()


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from facepack.cli import root\n"
        "try: root(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'lmdb', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in (*COMMANDS, *SOURCES, *SINKS):
        assert re.search(rf"^  {name} ", done.stdout, re.M)


def test_exit_codes(tmp_path: Path) -> None:
    assert run("--version").returncode == 0
    unknown = run("pack")
    assert unknown.returncode == 2 and "No such command 'pack'" in unknown.stderr
    missing = run("inspect", str(tmp_path / "nothing"))
    assert missing.returncode == 1 and missing.stdout == ""
    assert missing.stderr.startswith("facepack inspect: ") and "is no folder" in missing.stderr


def test_damage_exits_three(tmp_path: Path, make_jpeg: object) -> None:
    import facepack

    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)  # type: ignore[operator]
    result = CliRunner().invoke(root, ["verify", str(tmp_path / "p")])
    assert result.exit_code == 0 and "1 records" in result.output
    shard = tmp_path / "p" / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    result = CliRunner().invoke(root, ["verify", str(tmp_path / "p"), "--json"])
    assert result.exit_code == 3 and '"ok": false' in result.output
    shard.unlink()
    assert run("inspect", str(tmp_path / "p")).returncode == 3


def test_inspect_json_keys(tmp_path: Path, make_jpeg: object) -> None:
    import json

    import facepack

    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)  # type: ignore[operator]
    figures = json.loads(run("inspect", str(tmp_path / "p"), "--json").stdout)
    wanted = {"records", "identities", "classes", "shards", "payload_bytes", "file_bytes", "pairs"}
    assert wanted <= set(figures) and figures["records"] == 1 and figures["pairs"] is None
    files = sum(file.stat().st_size for file in (tmp_path / "p").iterdir())
    assert figures["file_bytes"] == files


def test_the_core_imports_without_any_extra() -> None:
    program = """
import sys
for name in ("nvidia", "mxnet", "matplotlib", "tensorboard", "pytest"):
    sys.modules[name] = None
import facepack, facepack.loading.loader, facepack.train.run, facepack.evaluate.verification
import facepack.convert.commands, facepack.train.commands, facepack.train.schedule_command
assert facepack.Loader and facepack.open and facepack.PackWriter
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("rec2lmbd", "rec2lmdb"), ("vreify", "verify"), ("evaluate", "eval")]
)
def test_a_mistyped_command_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    result = CliRunner().invoke(root, [typed])
    assert result.exit_code == 2 and meant in result.stderr.partition("did you mean")[2]


def test_a_command_near_none_is_answered_without_a_guess() -> None:
    result = CliRunner().invoke(root, ["xyzzy"])
    assert result.exit_code == 2 and "did you mean" not in result.stderr
