from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import facepack
from facepack.care.merge import merge
from facepack.convert.choose import Choice, choose
from facepack.convert.formats.benchmarks.megaface import MegaFaceSource
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tree import tree_sink as to_tree
from facepack.convert.formats.tree.list_source import LstSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.formats.tree.tree_sink import TreeOptions, convert_to_tree
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.result import Result
from facepack.errors import PackError, SourceError
from facepack.store.writer import PackWriter
from facepack.train.data import open_training_data

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_rec_becomes_a_tree(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    result = convert_to_tree(RecSource(make_rec(20)), tmp_path / "out", TreeOptions())
    assert (result.packed, result.identities, result.classes) == (20, 4, 4)
    for i in range(20):
        assert (tmp_path / "out" / f"{i // 5}" / f"{i + 1}.jpg").read_bytes() == make_jpeg(i)
    index = (tmp_path / "out" / "index.kv").read_text().splitlines()
    assert index == [f"{i // 5}/{i + 1}.jpg {i // 5}" for i in range(20)]


def test_png_keeps_its_bytes_and_bad_records_are_set_aside(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    bad = {2: pack_header(0, 3) + buffer.getvalue(), 3: pack_header(0, 4) + b"nothing"}
    source = make_rec(10, bad=bad)
    result = convert_to_tree(RecSource(source), tmp_path / "out", TreeOptions())
    assert (result.packed, result.quarantined) == (9, 1)
    assert (tmp_path / "out" / "0" / "3.png").read_bytes() == buffer.getvalue()
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["key"] == "4"
    with pytest.raises(SourceError, match="--strict"):
        convert_to_tree(RecSource(source), tmp_path / "strict", TreeOptions(strict=True))


def test_an_interrupted_tree_is_completed(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_tree.TreeSink, "span_records", 6)
    source = RecSource(make_rec(20))
    convert_to_tree(source, tmp_path / "whole", TreeOptions())
    write, calls = to_tree.write_image, 0

    def stop_at_fifteen(path: str, data: bytes, **how: bool) -> None:
        nonlocal calls
        calls += 1
        if calls == 15:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, data, **how)

    monkeypatch.setattr(to_tree, "write_image", stop_at_fifteen)
    with pytest.raises(KeyboardInterrupt):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    assert not (tmp_path / "out" / "index.kv").exists()
    with pytest.raises(PackError, match="--resume completes it"):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    lost = tmp_path / "out" / "0" / "3.jpg"
    lost.write_bytes(b"")  # as a power cut may leave it
    convert_to_tree(source, tmp_path / "out", TreeOptions(resume=True))
    assert calls == 15 + 1 + 4 + 2  # the lost one, the rest of the third span, the last span
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    convert_to_tree(source, tmp_path / "out", TreeOptions(resume=True))
    assert calls == 15 + 7


def test_overwriting_removes_the_old_tree_and_nothing_else(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_to_tree(RecSource(make_rec(40)), out, TreeOptions())
    (out / "7" / "notes.txt").write_text("mine")
    (out / "7" / "123.txt").write_text("mine")
    convert_to_tree(RecSource(make_rec(5, "small")), out, TreeOptions(overwrite=True))
    names = {name for name in contents(out) if not name.startswith(".facepack")}
    assert names == {*(f"0/{i}.jpg" for i in range(1, 6)), "index.kv", "7/notes.txt", "7/123.txt"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    with pytest.raises(PackError, match="holds nothing of ours"):
        convert_to_tree(
            RecSource(tmp_path / "small"), tmp_path / "mine", TreeOptions(overwrite=True)
        )


def test_resuming_a_finished_tree_redoes_what_is_missing(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RecSource(make_rec(20, bad={7: pack_header(1, 8) + b"nothing"}))
    out = tmp_path / "out"
    convert_to_tree(source, out, TreeOptions())
    good = contents(out)
    written = []
    write = to_tree.write_image

    def note(path: str, data: bytes, **how: bool) -> None:
        written.append(Path(path).name)
        write(path, data, **how)

    monkeypatch.setattr(to_tree, "write_image", note)
    convert_to_tree(source, out, TreeOptions(resume=True))
    assert written == []
    (out / "1" / "6.jpg").unlink()
    (out / "2" / "12.jpg").write_bytes(b"short")
    convert_to_tree(source, out, TreeOptions(resume=True))
    assert written == ["6.jpg", "12.jpg"] and contents(out) == good
    for name in ("index.kv", "quarantine.jsonl"):
        (out / name).unlink()
        convert_to_tree(source, out, TreeOptions(resume=True))
        assert contents(out) == good


def test_overwriting_that_is_killed_is_not_taken_for_finished(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = RecSource(make_rec(10)), tmp_path / "out"
    convert_to_tree(source, out, TreeOptions())
    good = contents(out)

    def stop(folder: Path, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(to_tree.TreeSink, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            convert_to_tree(source, out, TreeOptions(overwrite=True))
    with pytest.raises(PackError, match="an unfinished conversion"):
        convert_to_tree(source, out, TreeOptions())
    convert_to_tree(source, out, TreeOptions(resume=True))
    assert contents(out) == good


def test_a_plan_of_someone_else_protects_the_files(make_rec: MakeRec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".facepack").mkdir(parents=True)
    (out / ".facepack" / "plan.json").write_text('{"holiday": "July"}')
    (out / "3").mkdir()
    (out / "3" / "1.jpg").write_bytes(b"mine")
    before = contents(out)
    with pytest.raises(PackError, match="facepack did not write"):
        convert_to_tree(RecSource(make_rec(10)), out, TreeOptions(overwrite=True))
    assert contents(out) == before


def test_a_source_without_any_usable_record_fails(make_rec: MakeRec, tmp_path: Path) -> None:
    bad = {i: pack_header(0, i + 1) + b"nothing" for i in range(5)}
    source = RecSource(make_rec(5, bad=bad))
    with pytest.raises(
        SourceError, match=r"no record at all .* train\.rec: record 0.*not an image"
    ):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    assert not (tmp_path / "out" / "index.kv").exists()


def test_training_sees_every_format_that_is_written(make_rec: MakeRec, tmp_path: Path) -> None:
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
    bad = {}
    for i, kind in enumerate(formats):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), "red").save(buffer, kind)
        bad[i] = pack_header(0, i + 1) + buffer.getvalue()
    result = convert_to_tree(RecSource(make_rec(6, bad=bad)), tmp_path / "out", TreeOptions())
    assert result.packed == 6
    assert len(open_training_data(str(tmp_path / "out"))) == 6


def test_a_tree_keeps_names_of_identities_for_the_way_back(
    make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    for person in ("Ärger", "b c", "b"):
        (tree / person).mkdir(parents=True)
        for i in range(3):
            (tree / person / f"{i}.jpg").write_bytes(make_jpeg(len(person) * 10 + i))
    convert_to_pack(ImgSource(tree), tmp_path / "pack", PackOptions())
    convert_to_tree(PackSource(tmp_path / "pack"), tmp_path / "again", TreeOptions())
    images = {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*.jpg")}
    again = tmp_path / "again"
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*.jpg")} == images
    convert_to_pack(ImgSource(again), tmp_path / "back", PackOptions())
    with facepack.open(tmp_path / "pack") as one, facepack.open(tmp_path / "back") as two:
        assert one.identity_names == two.identity_names == ["b", "b c", "Ärger"]
        assert len(one) == len(two) == 9
        assert {(r.image, r.label) for r in one} == {(r.image, r.label) for r in two}
    convert_to_tree(PackSource(tmp_path / "back"), again, TreeOptions(overwrite=True))
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*.jpg")} == images
    assert (again / "labels.txt").read_text() == "b\nb c\nÄrger\n"


def write_zip(path: Path, images: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in images.items():
            archive.writestr(name, image)
    return path


def test_odd_names_are_kept_looked_at_and_removed(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    names = ["a/\u2028\x85x.jpg", "a b/c d 7.jpg", "index.kv/1.jpg", "labels.txt/1.jpg"]
    images = {name: make_jpeg(k) for k, name in enumerate(names)}
    source, out = write_zip(tmp_path / "x.zip", images), tmp_path / "out"
    made = convert_to_tree(ZipSource([source]), out, TreeOptions())
    assert isinstance(made, Result) and made.packed == 4
    assert "2 names of images are no safe paths" in made.notices[-1]
    assert (out / names[0]).read_bytes() == images[names[0]]
    assert len(list((out / "_renamed").iterdir())) == 2
    before = (out / names[0]).stat().st_mtime_ns
    again = convert_to_tree(ZipSource([source]), out, TreeOptions(resume=True))
    assert isinstance(again, Result) and again.notices == made.notices
    assert (out / names[0]).stat().st_mtime_ns == before
    other = write_zip(tmp_path / "y.zip", {"b/1.jpg": make_jpeg(9)})
    convert_to_tree(ZipSource([other]), out, TreeOptions(overwrite=True))
    names = sorted(name for name in contents(out) if not name.startswith(".facepack"))
    assert names == ["b/1.jpg", "index.kv", "labels.txt"]


@pytest.mark.parametrize("names", [("a/b.jpg", "a/b.jpg/c.jpg"), ("a/b.jpg/c.jpg", "a/b.jpg")])
def test_a_name_that_is_file_and_folder(
    make_jpeg: MakeJpeg, tmp_path: Path, names: tuple[str, str]
) -> None:
    images = {name: make_jpeg(k) for k, name in enumerate(names)}
    path, out = write_zip(tmp_path / "x.zip", images), tmp_path / "out"
    source = ZipSource([path], identity_level=-1)
    with pytest.raises(SourceError, match=r"a file here and a folder there.*--naming number"):
        convert_to_tree(source, out, TreeOptions())
    convert_to_tree(source, out, TreeOptions(overwrite=True, naming="number"))
    assert {p.name for p in out.rglob("*.jpg")} == {"0.jpg", "1.jpg"}


def test_numbers_that_repeat_in_the_source(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    for k in range(2):
        with RecordWriter(tmp_path / f"{k}.rec", tmp_path / f"{k}.idx") as writer:
            writer.write(5, pack_header(-1, 5) + make_jpeg(k))
        convert_to_pack(RecSource(tmp_path / f"{k}.rec"), tmp_path / f"pack{k}", PackOptions())
    merge([tmp_path / "pack0", tmp_path / "pack1"], tmp_path / "both")
    source, out = PackSource(tmp_path / "both"), tmp_path / "out"
    for dry_run in (True, False):
        with pytest.raises(SourceError, match=r"1 name occurs more.*'-1/5.jpg'.*--naming number"):
            convert_to_tree(source, out, TreeOptions(dry_run=dry_run))
        assert not out.exists()
    convert_to_tree(source, out, TreeOptions(naming="number"))
    assert [(out / "-1" / f"{k}.jpg").read_bytes() for k in (0, 1)] == [make_jpeg(0), make_jpeg(1)]


def test_names_that_repeat_are_told_before_anything_is_written_or_removed(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    out, image, buffer = tmp_path / "out", make_jpeg(0), io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")

    def source(name: str, *records: tuple[bytes, int, str | None]) -> PackSource:
        with PackWriter(tmp_path / name, classes=3, shard_records=2) as writer:
            for data, label, own in records:
                writer.add(data, label, name=own)
        return PackSource(tmp_path / name)

    # Without a suffix of their own they are two files; so are those of two identities.
    convert_to_tree(
        source(
            "fine", (image, 0, "x"), (buffer.getvalue(), 0, "x"), (image, 1, "x"), (image, 1, None)
        ),
        out,
        TreeOptions(),
    )
    before = contents(out)
    fine = ((image, 0, "x"), (image, 0, "y"), (image, 1, "x.jpg"), (image, 0, "a/x.jpg"))
    for name, further in (("path", (image, 1, "a/x.jpg")), ("plain", (image, 0, "x"))):
        repeated = source(name, *fine, further)
        for overwrite in (True, False):
            options = TreeOptions(overwrite=overwrite)
            target = out if overwrite else tmp_path / "new"
            with pytest.raises(SourceError, match=r"1 name occurs more than once .*records"):
                convert_to_tree(repeated, target, options)
        assert contents(out) == before and not (tmp_path / "new").exists()
        chosen = choose(repeated, Choice(identities="1:2"))
        convert_to_tree(chosen, out, TreeOptions(overwrite=True))
        convert_to_tree(repeated, out, TreeOptions(overwrite=True, naming="number"))
        before = contents(out)


def test_a_name_that_comes_again_is_told_where_it_does(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a source that does not know beforehand what its records are called."""
    write, written = to_tree.write_image, []

    def note(path: str, data: bytes, **how: bool) -> None:
        written.append(path)
        write(path, data, **how)

    monkeypatch.setattr(to_tree, "write_image", note)
    out = tmp_path / "out"
    zips = [
        write_zip(tmp_path / f"{k}.zip", {f"a/{i}.jpg": make_jpeg(k) for i in range(k, 20)})
        for k in range(2)
    ]
    with pytest.raises(SourceError, match=r"'a/1.jpg' is there already.*--naming number"):
        convert_to_tree(ZipSource(zips), out, TreeOptions())
    assert len(written) == 20 + 1
    assert (out / "a/1.jpg").read_bytes() == make_jpeg(0)
    with pytest.raises(SourceError, match=r"19 names occur more than once.*--naming number"):
        convert_to_tree(ZipSource(zips), out, TreeOptions(resume=True))
    convert_to_tree(ZipSource(zips), out, TreeOptions(overwrite=True, naming="number"))
    assert len(list(out.rglob("*.jpg"))) == 39


def test_a_file_of_someone_else_is_not_overwritten(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = ZipSource([write_zip(tmp_path / "x.zip", {"a/0.jpg": make_jpeg(0)})])
    convert_to_tree(source, out, TreeOptions())
    (out / "b").mkdir()
    (out / "b/0.jpg").write_text("mine")
    source = ZipSource([write_zip(tmp_path / "y.zip", {"b/0.jpg": make_jpeg(0)})])
    with pytest.raises(SourceError, match="choose another target"):
        convert_to_tree(source, out, TreeOptions(overwrite=True))
    assert (out / "b/0.jpg").read_text() == "mine"


def test_a_list_that_has_an_image_twice(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/0.jpg").write_bytes(make_jpeg(0))
    (tmp_path / "all.lst").write_text("0\t0\ta/0.jpg\n1\t1\ta/0.jpg\n")
    source = LstSource([tmp_path / "all.lst"], root=tmp_path / "tree")
    with pytest.raises(SourceError, match=r"'a/0.jpg' for one, of its records 0 and 1"):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_wrote_is_known_after_the_next(
    make_rec: MakeRec,
    tmp_path: Path,
    unfolded: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out = RecSource(make_rec(600)), tmp_path / "out"
    write = to_tree.write_image
    left = [400, 1]

    def stop(path: str, data: bytes, **how: bool) -> None:
        left[0] -= 1
        if left[0] < 0:
            left.pop(0)
            raise KeyboardInterrupt
        write(path, data, **how)

    monkeypatch.setattr(to_tree, "write_image", stop)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            convert_to_tree(source, out, TreeOptions(resume=resume))
    monkeypatch.undo()
    convert_to_tree(RecSource(make_rec(5, "small")), out, TreeOptions(overwrite=True))
    assert len(list(out.rglob("*.jpg"))) == 5
    state = unfolded(out)
    for name in ("train.names", "train.kv"):  # as after a death behind the very last step
        (state / name).touch()
    convert_to_tree(RecSource(tmp_path / "small"), out, TreeOptions(resume=True))
    assert not state.exists() and (out / ".facepack.json").exists()


def test_tables_count_as_files(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    for which in ("facescrub", "megaface"):
        folder = tmp_path / "mf" / f"{which}_images" / "a"
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(make_jpeg(1))
        (tmp_path / "mf" / f"{which}_lst").write_text("a/1.jpg\n")
    source, out = MegaFaceSource(tmp_path / "mf"), tmp_path / "out"
    result = convert_to_tree(source, out, TreeOptions())
    files = {k: v for k, v in contents(out).items() if not k.startswith(".facepack")}
    assert {"noisy.npy", "sets.npy"} < set(files)
    assert result.file_bytes == sum(map(len, files.values()))
    (out / "sets.npy").unlink()
    convert_to_tree(source, out, TreeOptions(resume=True))
    assert contents(out).items() >= files.items()
