"""What a target has no place for is told, before it is written and by ``--dry-run``."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from matrix.command import converted

from facepack.convert.formats.rec.source import RecSource
from facepack.convert.left_out import Keeps, none, note_left_out
from facepack.convert.source import Part, SourceView
from facepack.store.writer import PackWriter

TOLD = "the target has no place for "


@pytest.fixture
def pack(make_jpeg: Callable[..., bytes], tmp_path: Path) -> Path:
    """A pack whose second shard alone has names."""
    with PackWriter(tmp_path / "pack", classes=2, shard_records=4, order="source") as writer:
        for k in range(8):
            named = {} if k < 4 else {"name": f"{k} x.jpg", "identity": "Ada"}
            writer.add(make_jpeg(k), k // 4, **named)
    return tmp_path / "pack"


def told_by(words: list[object], out: Path) -> str:
    """What a conversion says, and its dry run as well."""
    dry, real = (
        [notice for notice in converted(*words, out, *more)["notices"] if TOLD in notice]
        for more in (["--dry-run"], [])
    )
    assert dry == real and len(real) < 2
    return real[0] if real else ""


@pytest.mark.parametrize(
    ("sink", "lost"),
    [
        ("rec", ("names of images (such as '4 x.jpg')", "names of identities (such as 'Ada')")),
        ("msgpack", ("names of images", "names of identities")),
        ("kv", ("names of images (such as '4 x.jpg')", "names of identities")),
        *((sink, ()) for sink in ("img", "wds", "lmdb")),
    ],
)
def test_names_that_a_target_cannot_hold(
    pack: Path, tmp_path: Path, sink: str, lost: tuple[str, ...]
) -> None:
    told = told_by([f"lmdb2{sink}", pack], tmp_path / "out")
    assert bool(told) == bool(lost) and all(words in told for words in lost)


def test_a_compressed_stream_is_looked_at_from_its_beginning(
    make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "tree/Ada").mkdir(parents=True)
    for k in range(3):
        (tmp_path / "tree/Ada" / f"{k}.jpg").write_bytes(make_jpeg(k))
    with tarfile.open(tmp_path / "tree.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "tree", ".")
    told = told_by(["tar2rec", tmp_path / "tree.tar.gz"], tmp_path / "out")
    assert "names of images" in told and "'Ada'" in told


def test_numbers_of_a_list(make_jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(make_jpeg(0))
    (tmp_path / "all.lst").write_text("0\t3\t7.5\t0\t0.jpg\n")
    words = ["--root", tmp_path]
    for sink, lost in (("img", True), ("wds", True), ("kv", True), ("rec", False), ("lmdb", False)):
        out = tmp_path / sink
        told = told_by([f"lst2{sink}", tmp_path / "all.lst", *words], out)
        assert ("numbers beside the label (label_1)" in told) == lost, sink


def test_a_number_that_the_first_record_lacks(
    make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "0.jpg").write_bytes(make_jpeg(0))
    lines = [f"{k}\t3\t{7.5 * (k == 1)}\t0\t0.jpg\n" for k in range(40)]
    (tmp_path / "all.lst").write_text("".join(lines))
    told = told_by(["lst2kv", tmp_path / "all.lst", "--root", tmp_path], tmp_path / "out")
    assert "numbers beside the label (label_1)" in told


def test_no_record_behind_the_first_ones_of_a_group_is_looked_at(
    make_rec: Callable[..., Path],
) -> None:
    """To reach one may take reading all before it."""
    asked = []

    class Watched(SourceView):
        def part(self, start: int, stop: int) -> Part:
            asked.append((start, stop))
            return super().part(start, stop)

    note_left_out(Watched(RecSource(make_rec(100))), Keeps(names=none))
    assert asked == [(0, 8)]


@pytest.mark.parametrize(("count", "told"), [(lambda k: k, False), (lambda k: 7 * k + 4, True)])
def test_running_numbers_are_no_names(
    make_jpeg: Callable[..., bytes], tmp_path: Path, count: Callable[[int], int], told: bool
) -> None:
    with PackWriter(tmp_path / "pack", classes=2, order="source") as writer:
        for k in range(20):
            writer.add(make_jpeg(k), k % 2, name=f"{count(k):08}")
    assert bool(told_by(["lmdb2rec", tmp_path / "pack"], tmp_path / "out")) == told


def test_numbers_of_every_rec_are_not_worth_a_word(
    make_rec: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_rec(3)
    for sink in ("img", "wds", "kv", "msgpack", "rec"):
        assert not told_by([f"rec2{sink}", source], tmp_path / sink)
