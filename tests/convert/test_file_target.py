from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facepack.convert.file_target import require_finished
from facepack.convert.formats.kv.sink import convert_to_kv
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.rec.sink import convert_to_rec
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar.wds_sink import WdsOptions, convert_to_wds
from facepack.convert.formats.tree.tree_sink import TreeOptions, convert_to_tree
from facepack.convert.image_tree import TreeFiles
from facepack.convert.options import ConvertOptions
from facepack.convert.registry import SOURCES
from facepack.convert.result import Result
from facepack.errors import PackError, SourceError
from facepack.evaluate.sets.sources import open_faces
from facepack.store.checks import ImageCheck
from facepack.train.data import ImageTree

MakeRec = Callable[..., Path]
Convert = Callable[..., Result]
Unfolded = Callable[[Path], Path]

SINKS = {
    "kv": (convert_to_kv, ConvertOptions),
    "rec": (convert_to_rec, ConvertOptions),
    "tree": (convert_to_tree, TreeOptions),
    "wds": (convert_to_wds, WdsOptions),
}


@pytest.fixture(params=SINKS)
def convert(request: pytest.FixtureRequest, make_rec: MakeRec, tmp_path: Path) -> Convert:
    """``convert(**options)``: 20 images into ``out`` by one of the sinks of plain files."""
    function, kind = SINKS[request.param]
    source = make_rec(20)

    def run(**options: Any) -> Result:
        return function(RecSource(source), tmp_path / "out", kind(**options))

    return run


def contents(path: Path) -> dict[str, bytes]:
    """What is in each file but F2C's LMDB, whose engine counts transactions."""
    files = (file for file in path.rglob("*") if file.is_file() and file.suffix != ".mdb")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_what_is_done_is_looked_for_where_its_note_is_damaged(
    convert: Convert, tmp_path: Path, unfolded: Unfolded, damage: bytes
) -> None:
    result = convert()
    good = contents(tmp_path / "out")
    (unfolded(tmp_path / "out") / "done.json").write_bytes(damage)
    again = convert(resume=True)
    assert contents(tmp_path / "out") == good
    assert (again.packed, again.file_bytes) == (result.packed, result.file_bytes)


def test_a_plan_cannot_have_files_removed_elsewhere(
    convert: Convert, tmp_path: Path, unfolded: Unfolded
) -> None:
    convert()
    (tmp_path / "mine.npy").write_bytes(b"mine")
    plan = unfolded(tmp_path / "out") / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_bytes()) | {"tables": ["../mine"]}))
    convert(overwrite=True)
    assert (tmp_path / "mine.npy").read_bytes() == b"mine"


def test_no_room_is_said_before_anything_is_begun_or_removed(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        with pytest.raises(PackError, match="are needed"):
            convert()
    assert not [*tmp_path.glob("out/*")]
    convert()
    good = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=-1_000_000))
        with pytest.raises(PackError, match="are needed"):
            convert(overwrite=True)
    assert contents(out) == good


def test_messages_call_the_target_as_the_user_does(convert: Convert, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert()
    with pytest.raises(PackError, match=rf"^{out} holds a finished result: --overwrite"):
        convert()
    with pytest.raises(PackError, match=rf"^{out} was begun under another plan \(check: "):
        convert(resume=True, check=ImageCheck(decode=True))


def test_a_pack_in_the_targets_place_is_called_one(
    convert: Convert, make_rec: MakeRec, tmp_path: Path
) -> None:
    convert_to_pack(RecSource(make_rec(5, "other")), tmp_path / "out", PackOptions())
    with pytest.raises(PackError, match="holds a pack, or a part of one: choose another target"):
        convert(overwrite=True)


def test_images_that_are_not_what_was_asked_for_need_not_be_fetched_again(
    convert: Convert,
) -> None:
    with pytest.raises(SourceError, match=r"32×32 pixels, not the 9×9 asked for; .*--size"):
        convert(check=ImageCheck(size=(9, 9)))


@pytest.mark.parametrize("finished", [True, False])
def test_a_plan_that_cannot_be_read_is_the_users_to_remove(
    convert: Convert, tmp_path: Path, unfolded: Unfolded, finished: bool
) -> None:
    out = tmp_path / "out"
    convert()
    state = unfolded(out)
    (state / "plan.json").write_bytes(b"{")
    if not finished:
        (state / "done.json").unlink()
    before = contents(out)
    with pytest.raises(PackError, match=rf"cannot be read .*: remove {out} yourself or choose"):
        convert(resume=True)
    with pytest.raises(PackError, match="choose another target"):
        convert(overwrite=True)
    assert contents(out) == before


def classes_of(root: Path) -> list[str]:
    """What torchvision's ImageFolder takes for classes."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


@pytest.mark.parametrize("naming", ["source", "number"])
def test_a_finished_tree_has_no_folder_but_those_of_classes(
    make_rec: MakeRec, tmp_path: Path, unfolded: Unfolded, naming: str
) -> None:
    source, out = RecSource(make_rec(20)), tmp_path / "out"
    convert_to_tree(source, out, TreeOptions(naming=naming))
    assert classes_of(out) == ["0", "1", "2", "3"]
    good = contents(out)
    with pytest.raises(PackError, match="holds a finished result"):
        convert_to_tree(source, out, TreeOptions(naming=naming))
    assert classes_of(out) == ["0", "1", "2", "3"] and contents(out) == good
    for options in ({"resume": True}, {"overwrite": True}):
        unfolded(out)  # an earlier version's
        convert_to_tree(source, out, TreeOptions(naming=naming, **options))
        assert classes_of(out) == ["0", "1", "2", "3"] and contents(out) == good
    (out / "1" / "6.jpg").unlink()
    convert_to_tree(source, out, TreeOptions(naming=naming, resume=True))
    assert contents(out) == good


@pytest.mark.parametrize("there", [(), ("done",), ("done", "plan")])
def test_a_death_between_folder_and_file_loses_nothing(
    make_rec: MakeRec, tmp_path: Path, unfolded: Unfolded, there: tuple[str, ...]
) -> None:
    source, out = RecSource(make_rec(20)), tmp_path / "out"
    convert_to_tree(source, out, TreeOptions())
    good = contents(out)
    state = unfolded(out)
    for file in list(state.iterdir()):
        if file.stem not in there:
            file.unlink()
    (out / ".facepack.json").write_bytes(good[".facepack.json"])
    convert_to_tree(source, out, TreeOptions(resume=True))
    assert contents(out) == good and not state.exists()


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_a_damaged_file_of_a_finished_tree_is_named(
    make_rec: MakeRec, tmp_path: Path, damage: bytes
) -> None:
    source, out = RecSource(make_rec(20)), tmp_path / "out"
    convert_to_tree(source, out, TreeOptions())
    (out / ".facepack.json").write_bytes(damage)
    before = contents(out)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(PackError, match=rf"cannot be read .*: remove {out} yourself or choose"):
            convert_to_tree(source, out, TreeOptions(**options))
    assert contents(out) == before


@pytest.mark.parametrize("name", ["out", "out/0", "out/faces.lmdb", "out/out-000000.tar"])
def test_what_was_only_begun_is_no_source(
    convert: Convert, tmp_path: Path, unfolded: Unfolded, name: str
) -> None:
    convert()
    require_finished(tmp_path / name)
    (unfolded(tmp_path / "out") / "done.json").unlink()
    with pytest.raises(SourceError, match=f"{tmp_path / 'out'} is what .* not finished.*--resume"):
        require_finished(tmp_path / name)


def test_half_a_tree_is_neither_packed_nor_trained_on_nor_embedded(
    make_rec: MakeRec, tmp_path: Path, unfolded: Unfolded
) -> None:
    out = tmp_path / "out"
    convert_to_tree(RecSource(make_rec(20)), out, TreeOptions())
    assert len(TreeFiles(out).files) == 20
    (unfolded(out) / "done.json").unlink()
    next(out.glob("*/*.jpg")).unlink()
    (out / "index.kv").unlink()
    with pytest.raises(SourceError, match="not finished"):
        SOURCES["img"].open([out], {})
    with pytest.raises(SourceError, match=r"not finished.*\.facepack to take what is there$"):
        ImageTree(out)
    with pytest.raises(SourceError, match="not finished"):
        open_faces(str(out), None)
