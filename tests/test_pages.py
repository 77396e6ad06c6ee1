"""What the README and docs/ show: Python that runs, commands that exist, a menu that has all pages.

The rules for blocks of Python. Each runs by itself, in a folder with the packs and files that pages
name, among the names that :func:`presumed` lists: a new name or file belongs there. Where there is
no GPU, ``cuda`` is replaced by ``cpu``; and networks by a small one (:data:`REPLACED`). No block is
passed over.

The rules for commands. Each line of a block that begins with ``facepack`` is parsed as a whole by
the real command, which runs nothing; ``…`` stands for what it leaves out. Of a command within a
sentence the name and the options must exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

import facepack
from facepack.cli import root
from facepack.evaluate.registry import PROTOCOLS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "commands.md"),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REPLACED = {'"r50"': '"mbf"', '"r100"': '"mbf"'}


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    """Page, line and text of each block of a language."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == language:
                yield page, text[: match.start()].count("\n") + 2, match[2]


# Python ------------------------------------------------------------------------------------------

PYTHON = list(blocks("python"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages name: packs of drawn images, a run's model, a checkpoint."""
    from facepack.train.backbones import build

    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, (112, 112, 3)).astype(np.uint8) for _ in range(4)]
    import simplejpeg

    images = [simplejpeg.encode_jpeg(face, quality=80) for face in faces]
    for name in ("packs/ms1mv3", "ms1mv3"):
        with facepack.PackWriter(folder / name, classes=100) as writer:
            for k in range(600):
                writer.add(images[k % 4], k % 100)
    (folder / "runs" / "r50").mkdir(parents=True)
    state = build("mbf").state_dict()
    for name in ("runs/r50/model.pt", "checkpoint_gpu_0.pt"):
        torch.save(state, folder / name)
    for name in ("runs/a", "runs/b"):
        (folder / name).mkdir()
    (folder / "runs" / "r50" / "metrics.jsonl").touch()
    return folder


def presumed(folder: Path) -> dict[str, Any]:
    """The names that blocks take for known, as the sentences around them say."""
    from torch.utils.data import DataLoader

    from facepack.train.backbones import build

    pack = facepack.open(folder / "packs" / "ms1mv3")
    return {
        "facepack": facepack,
        "torch": torch,
        "DataLoader": DataLoader,
        "pack": pack,
        "loader": facepack.Loader(pack, batch_size=256),
        "jpeg_bytes": bytes(pack[0][0]),
        "transform": lambda pixels: pixels,
        "get_model": lambda name, fp16: build(name),  # arcface_torch's
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("page", "line", "text"), PYTHON, ids=[f"{page.name}-{line}" for page, line, _ in PYTHON]
)
def test_python_runs(
    page: Path, line: int, text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facepack.train.backbones import registry

    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))  # as it was, afterwards
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    if not torch.cuda.is_available():
        text = text.replace('"cuda"', '"cpu"')
    names = presumed(place)
    code = compile("\n" * (line - 1) + text, str(page), "exec")
    exec(code, names)  # our own pages
    for check in CHECKS.get(page.name, ()):
        check(names)


def check_readme(names: dict[str, Any]) -> None:
    with facepack.open("packs/ms1mv3") as pack, facepack.open("packs/mine") as mine:
        assert bytes(names["image"]) == bytes(pack[0][0]) and names["label"] == pack.labels[0]
        assert names["key"] == pack.key(0)
        assert (names["pixels"].shape, names["pixels"].dtype) == ((112, 112, 3), np.uint8)
        assert names["images"].shape == (128, 3, 112, 112)
        assert names["images"].dtype == torch.float32
        assert bytes(mine[0][0]) == names["jpeg_bytes"] and mine.labels.tolist() == [3]


def check_format(names: dict[str, Any]) -> None:
    with facepack.open("ms1mv3") as pack:
        assert sorted(names["column"]) == sorted(pack.labels)
        assert names["image"] in {bytes(pack[k][0]) for k in range(4)} | {bytes(pack[599][0])}


def check_loading(names: dict[str, Any]) -> None:
    if "x" in names:
        x, y = names["x"], names["y"]
        assert len(x.labels) == len(y.labels) == 384
        assert (x.labels[:256] == y.labels[:256]).all()


CHECKS: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "README.md": [check_readme],
    "pack-format.md": [check_format],
    "loading.md": [check_loading],
}


# Commands ----------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where each command line is, and its words."""
    for page, line, text in blocks(""):
        lines = text.replace("\\\n", "  ").splitlines()
        for row in lines:
            if row.startswith("facepack "):
                yield f"{page.name}-{line}: {row}", shlex.split(row, comments=True)[1:]


LINES = list(commands())


def command_of(name: str) -> click.Command:
    """The command ``name``."""
    found = root.get_command(click.Context(root), name)
    assert found is not None, f"there is no command facepack {name}"
    return found


@pytest.mark.parametrize(("where", "words"), LINES, ids=[where for where, _ in LINES])
def test_commands_are_parsed_whole(
    where: str, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = [word.strip("[]") for word in words]  # what may be left out
    command, parent = command_of(words[0]), click.Context(root)
    if "…" not in words:
        assert command.make_context(words[0], words[1:], parent=parent)
        return
    # A line that leaves something out: further options, an argument, or a value.
    for shown in ([word for word in words[1:] if word != "…"], words[1:]):
        try:
            command.make_context(words[0], shown, parent=parent)
        except click.MissingParameter:
            return
        except click.BadOptionUsage:
            continue
        return
    pytest.fail(where)


def mentions() -> Iterator[tuple[str, str]]:
    """Page and words of each command within a sentence."""
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for match in re.finditer(r"`facepack ([a-z0-9]+(?:\s[^`]*)?)`", text):
            yield page.name, " ".join(match[1].split())


def test_commands_in_sentences_have_the_options_that_they_name() -> None:
    wrong = []
    found = list(mentions())
    for page, words in found:
        name, *rest = words.split()
        command = command_of(name)
        known = {"--help", *(spelling for each in command.params for spelling in each.opts)}
        if name == "eval" and rest and rest[0] in PROTOCOLS:
            of_protocol = PROTOCOLS[rest[0]].command().params
            known |= {spelling for each in of_protocol for spelling in each.opts}
        wrong += [
            f"{page}: {words}"
            for word in rest
            if word.startswith("--") and word.partition("=")[0] not in known
        ]
    assert len(found) > 40 and not wrong


# The site ----------------------------------------------------------------------------------------


def test_the_menu_has_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import gather

    gather.gather(tmp_path / "site")
    listed = [page for pages in gather.MENU.values() for page in pages]
    there = {str(page.relative_to(tmp_path / "site"))[:-3] for page in tmp_path.rglob("*.md")}
    assert len(listed) == len({*listed}) and {*listed, "index"} == there
    package = (tmp_path / "site" / "api" / "facepack.md").read_text()
    assert all(f":: facepack.{name}\n" in package for name in {*facepack.__all__} - {"__version__"})
    index = (tmp_path / "site" / "index.md").read_text()
    assert "](training.md)" in index and "docs/training.md)" not in index
    assert "](Dockerfile)" not in index and "[CONTRIBUTING.md](CONTRIBUTING.md)" in index
