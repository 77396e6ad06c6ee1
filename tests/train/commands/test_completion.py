from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete

from facepack.cli import root
from facepack.train import schedules
from facepack.train.collect import recipe_names
from facepack.train.commands.completion import registered
from facepack.train.config import TrainConfig
from facepack.train.heads.margins import MARGINS
from facepack.train.methods.registry import _METHODS

MakePack = Callable[..., Path]


def completed(words: str, incomplete: str = "") -> list[CompletionItem]:
    """What Click offers for ``incomplete`` behind ``facepack WORDS``."""
    shell = ShellComplete(root, {}, "facepack", "_FACEPACK_COMPLETE")
    return shell.get_completions(words.split(), incomplete)


def values(words: str, incomplete: str = "") -> list[str]:
    return [item.value for item in completed(words, incomplete)]


def test_names_in_the_sources_are_those_of_the_registries() -> None:
    assert registered("margin") == sorted(MARGINS)
    assert registered("method") == sorted(_METHODS)
    assert registered("schedule") == schedules.names()


def test_names_complete() -> None:
    assert values("train --config") == recipe_names()
    assert values("unequal --config", "cpu_tiny_un") == ["cpu_tiny_unequal", "cpu_tiny_uniface"]
    assert values("train --method") == sorted(_METHODS)
    assert values("schedule LOG --schedule", "mhlr") == ["mhlr", "mhlr_guarded"]
    assert [item.type for item in completed("train --config", "./my")] == ["file"]
    assert values("", "rec2l") == ["rec2lmdb"] and values("", "hea") == ["head", "heads"]
    assert values("rec2lmdb --color") == ["keep", "refuse", "convert"]


def test_settings_complete() -> None:
    names = {value.rstrip("=.") for value in values("train --set")}
    assert names == {*TrainConfig.__dataclass_fields__}
    assert values("train --set", "margin_o") == ["margin_options."]
    assert values("train --set", "margin=a") == ["margin=adaface", "margin=arcface"]
    assert values("train --set", "order=") == ["order=auto", "order=global", "order=blocks"]
    assert values("unequal --set-tail", "schedule=c") == ["schedule=constant", "schedule=cosine"]
    assert values("train --set", "lr=") == values("train --set", "nothing=") == []


def test_data_complete(make_pack: MakePack, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = make_pack(60)
    shard = json.loads((pack / "pack.json").read_bytes())["shards"][0]["name"]
    (pack / "sets.json").write_text(json.dumps({"few": [shard]}))
    home = f"--data {pack.parent}"
    assert values(f"train {home} --shards") == ["few", pack.name, f"{pack.name}:few"]
    monkeypatch.setenv("FACEPACK_HOME", str(pack.parent))
    assert values("train --shards", "f") == ["few"]
    assert [item.type for item in completed("train --shards", "/")] == ["dir"]
    (pack / "sets.json").write_text("{")
    assert [item.type for item in completed("train --shards")] == ["dir"]


@pytest.mark.parametrize("words", ["--set margin=", "--method ", "--config ", "--shards "])
def test_completion_does_without_torch(words: str) -> None:
    *before, incomplete = words.split(" ")
    program = (
        "import sys; from click.shell_completion import ShellComplete; "
        "from facepack.cli import root; "
        f"ShellComplete(root, {{}}, 'facepack', '').get_completions({['train', *before]}, "
        f"{incomplete!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_their_script(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "facepack"],
        env={"_FACEPACK_COMPLETE": f"{shell}_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "_facepack_completion" in done.stdout


TYPED = """
eval "$(_FACEPACK_COMPLETE=bash_source facepack)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
compopt() { :; }
_facepack_completion facepack
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is of bash")
@pytest.mark.parametrize(
    ("typed", "inserted"),
    [
        (["--shards", "my"], [r"my\ pack", r"my\ pack:few"]),
        (["--shards", r"my\ p"], [r"my\ pack", r"my\ pack:few"]),
        (["--shards", "f"], ["few"]),
        (["--set", "margin=ad"], ["margin=adaface"]),
        (["--config", "cpu_tiny_mag"], ["cpu_tiny_magface"]),
    ],
)
def test_bash_inserts_names_with_blanks_as_one_word(
    make_pack: MakePack, tmp_path: Path, typed: list[str], inserted: list[str]
) -> None:
    pack = make_pack(20)
    shard = json.loads((pack / "pack.json").read_bytes())["shards"][0]["name"]
    (pack / "sets.json").write_text(json.dumps({"few": [shard]}))
    pack.rename(tmp_path / "my pack")
    program = tmp_path / "bin" / "facepack"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m facepack "$@"\n')
    program.chmod(0o755)
    words = ["facepack", "train", "--data", str(tmp_path), *typed]
    done = subprocess.run(
        ["bash", "--norc", "-c", TYPED, "bash", *words],
        env={"PATH": f"{program.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[:-1] == inserted, done.stderr
