"""The command line as a whole: every command has help, documentation and honest exit codes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import facepack
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
    readme = (ROOT / "README.md").read_text()
    row = re.search(rf"^\| `facepack {name}(`| .*?`)", readme, re.M)
    assert row is not None, f"README has no row for {name}"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.required:
            assert parameter.opts[-1] in row[1], f"README leaves {parameter.opts[-1]} out"
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
    assert missing.stderr.startswith("facepack inspect: ") and "nothing is there" in missing.stderr


def test_damage_exits_three(tmp_path: Path, make_jpeg: object) -> None:
    import facepack

    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)  # type: ignore[operator]
    result = CliRunner().invoke(root, ["verify", str(tmp_path / "p")])
    assert result.exit_code == 0 and "1 record," in result.output
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
import facepack, facepack.loading.loader, facepack.train.loop.run
import facepack.evaluate.protocols.verification
import facepack.convert.commands.convert, facepack.train.commands.train
import facepack.train.commands.schedule
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


def run_in(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = "from facepack.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


def test_a_deleted_current_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    program = (
        "import os; from pathlib import Path; Path.cwd().rmdir(); "
        "from facepack.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", "x"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("facepack: the current folder is gone")


def test_a_system_that_allows_no_more_threads(tmp_path: Path) -> None:
    program = (
        "import sys, threading\n"
        'def refuse(*_, **__): raise RuntimeError("can\'t start new thread")\n'
        "threading._start_new_thread = threading._start_joinable_thread = refuse\n"
        "from facepack.cli import main; main()"
    )
    words = ["synth", "faces", "--identities", "2", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no further thread: raise the limit" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_other_letters_in_a_locale_that_has_none(
    tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    with facepack.PackWriter(tmp_path / "Ünïcode") as writer:
        writer.add(make_jpeg(1), 0, identity="é", name="ß.jpg")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run_in(tmp_path, "verify", "Ünïcode", **plain).stdout.endswith(b"all good\n")
    done = run_in(tmp_path, "get", "Ünïcode", "0", **plain)
    # LMDB takes paths as UTF-8, which in such a locale nothing turns them back into.
    assert done.returncode == 1 and b"LMDB opens no file whose path is not UTF-8" in done.stderr
    with facepack.PackWriter(tmp_path / "plain") as writer:
        writer.add(make_jpeg(1), 0, identity="é", name="ß.jpg")
    done = run_in(tmp_path, "get", "plain", "0", "--info", **plain)
    assert done.returncode == 0 and b"\\xdf.jpg" in done.stdout


def test_names_that_are_no_text(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/p\xff")
    with facepack.PackWriter(tmp_path / "pack") as writer:
        writer.add(make_jpeg(1), 0)
    (tmp_path / "pack").rename(folder)
    for locale in ({"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C"}):
        done = run_in(tmp_path, "verify", folder, **locale)
        assert done.returncode == 0 and b"/p\\udcff: 1 record, " in done.stdout
        done = run_in(tmp_path, "get", folder, "0", **locale)
        assert done.returncode == 1 and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "zip2lmdb closed/x out",
        "rec2lmdb closed/x out",
        "lmdb2img pack closed/x",
        "lmdb2lmdb pack closed/x --dry-run",
        "reindex closed/x",
        "train --shards closed/x --out out",
    ],
)
def test_folders_that_may_not_be_entered_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_jpeg: Callable[..., bytes], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with facepack.PackWriter(tmp_path / "pack") as writer:
        writer.add(make_jpeg(1), 0)
    stat = os.stat

    def refusing(path: Any, **options: Any) -> os.stat_result:  # as of anyone but root
        if "closed/" in os.fsdecode(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    result = CliRunner().invoke(root, words.split())
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1
    assert "closed/x" in result.stderr and "Permission denied" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        "img2lmdb tree out --exclude BAD",
        "img2lmdb tree out --identities BAD",
        "zip2lmdb BAD out",
        "zip2lmdb 0_0.zip out --password-file BAD",
        "rec2lmdb BAD out",
        "bin2lmdb BAD out",
        "tar2lmdb BAD out",
        "lst2lmdb BAD out",
        "kv2lmdb BAD BAD out",
        "lmdb2img BAD out",
        "inspect BAD",
        "verify BAD --untrusted",
        "salvage BAD out",
        "reindex BAD",
        "get pack 0 -o FIFO",
        "schedule BAD --schedule cosine",
        "train --shards pack --out out --config BAD.toml",
        "train --shards BAD --out out",
        "eval BAD --model BAD",
    ],
)
def test_files_that_are_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_jpeg: Callable[..., bytes], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with facepack.PackWriter(tmp_path / "pack") as writer:
        writer.add(make_jpeg(1), 0)
    Path("tree/ann").mkdir(parents=True)
    Path("tree/ann/1.jpg").write_bytes(make_jpeg(1))
    with zipfile.ZipFile("0_0.zip", "w") as archive:
        archive.write("tree/ann/1.jpg", "0_0/1/1.jpg")
    os.mkfifo("fifo")
    os.mkfifo("fifo.toml")
    Path("loop").symlink_to("loop")
    Path("zero").symlink_to("/dev/zero")
    Path("zero.toml").symlink_to("/dev/zero")
    Path("loop.toml").symlink_to("loop.toml")
    for bad in ("fifo", "zero", "loop", "n" * 300):
        arguments = words.replace("BAD", bad).replace("FIFO", "fifo").split()
        result = CliRunner().invoke(root, arguments)
        assert isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert result.exit_code in (1, 2, 3) and result.output.count("\n") < 12
        assert not Path("out/pack.json").exists()
