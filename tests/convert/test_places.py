"""Where results may be written: nothing goes into a pack, and no folder is left empty."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.cli import root
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tree import tree_sink
from facepack.convert.formats.tree.tree_sink import TreeOptions, TreeSink
from facepack.errors import PackError
from facepack.evaluate.embedding.embedding_folder import begun
from facepack.evaluate.embedding.feature_files import write_features
from facepack.store import target
from facepack.store.places import made_folder, require_outside_packs
from facepack.store.sets import add_set

MakeJpeg = Callable[..., bytes]
MakeRec = Callable[..., Path]
MakePack = Callable[..., Path]


def run(*words: object) -> Result:
    return CliRunner().invoke(root, [str(word) for word in words], catch_exceptions=False)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_was_made_and_is_empty_goes_again(tmp_path: Path) -> None:
    for stays, folder in ((False, tmp_path / "a" / "b"), (True, tmp_path / "c")):
        with pytest.raises(ValueError, match="full"), made_folder(folder):
            if stays:
                (folder / "plan.json").write_text("{}")
            raise ValueError("full")
        assert folder.exists() == stays
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (tmp_path / "empty").mkdir()
    with made_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()  # it is the user's
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), made_folder(tmp_path / "file" / "in" / "it"):
        pass


@pytest.mark.parametrize("sink", ["lmdb", "img", "rec", "kv", "msgpack", "wds", "bin", "parquet"])
def test_a_conversion_without_room_leaves_nothing(
    make_rec: MakeRec,
    make_jpeg: MakeJpeg,
    tmp_path: Path,
    sink: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sink == "parquet":
        pytest.importorskip("pyarrow")
    write_bin(tmp_path / "lfw.bin", [make_jpeg(k) for k in range(4)], [True, False])
    source = tmp_path / "lfw.bin" if sink == "bin" else make_rec(20)
    kind = "bin" if sink == "bin" else "rec"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "new" / "out", tmp_path / "mine"):
        result = run(f"{kind}2{sink}", source, out)
        assert result.exit_code == 1 and "MB are needed" in result.stderr
        assert not (tmp_path / "new").exists() and not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("sink", ["lmdb", "img", "wds"])
def test_what_does_not_fit_replaces_nothing(
    make_rec: MakeRec, tmp_path: Path, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(f"rec2{sink}", make_rec(5), tmp_path / "out").exit_code == 0
    before = content(tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    result = run(f"rec2{sink}", make_rec(60, name="more"), tmp_path / "out", "--overwrite")
    assert result.exit_code == 1 and "MB are needed" in result.stderr
    assert content(tmp_path / "out") == before


def test_files_of_a_tree_take_whole_blocks(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_sink, "block_bytes", lambda folder: 4096)
    source = make_rec(20)
    sizes = RecSource(source).sizes()
    blocks = int((-(-sizes.astype(int) // 4096)).sum())
    usage = shutil.disk_usage(tmp_path)
    for free in (int(sizes.sum()) + 1000, blocks * 4096 - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, n=free: usage._replace(free=n))
        result = run("rec2img", source, tmp_path / "out")
        assert result.exit_code == 1 and "MB are needed" in result.stderr
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=blocks * 4096))
    assert run("rec2img", source, tmp_path / "out").exit_code == 0
    sink = TreeSink(RecSource(source), tmp_path / "new", TreeOptions())
    assert (sink.expected_bytes(), sink.left_bytes()) == (blocks * 4096, 0)
    monkeypatch.setattr(sink, "written_bytes", lambda span: 5)
    assert sink.left_bytes() == blocks * 4096  # what is there needs no room again


@pytest.mark.parametrize("kind", ["rec", "bin"])
def test_trees_of_more_files_than_the_disk_takes_are_refused(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:  # fmt: skip
    source = make_rec(20) if kind == "rec" else tmp_path / "lfw.bin"
    if kind == "bin":
        write_bin(source, [make_jpeg(k) for k in range(8)], [True, False, True, False])
    sink = run(f"{kind}2img", source, tmp_path / "some", "--dry-run", "--json")
    files = json.loads(sink.stdout)["image_files"]
    for words in ([], ["--dry-run"]):
        monkeypatch.setattr(target, "free_files", lambda folder: files - 1)
        result = run(f"{kind}2img", source, tmp_path / "out", *words)
        assert result.exit_code == 1
        assert f"{files} files would be made and the disk takes {files - 1} more" in result.stderr
        assert not (tmp_path / "out").exists()
    assert run(f"{kind}2lmdb", source, tmp_path / "pack").exit_code == 0  # of few files
    for allowed in (files, None):
        monkeypatch.setattr(target, "free_files", lambda folder, n=allowed: n)
        assert run(f"{kind}2img", source, tmp_path / f"out-{allowed}").exit_code == 0


def test_a_run_that_is_refused_leaves_no_folder(make_pack: MakePack, tmp_path: Path) -> None:
    words = ["train", "--shards", make_pack(20), "--out", tmp_path / "run", "--device=cpu"]
    assert run(*words, "--set", "backbone=none").exit_code != 0
    assert not (tmp_path / "run").exists()


# Inside packs -------------------------------------------------------------------------------------


@pytest.fixture
def pack(make_pack: MakePack) -> Path:
    return make_pack(60)


@pytest.mark.parametrize(
    "words",
    [
        "rec2lmdb REC IN",
        "rec2img REC IN",
        "rec2wds REC IN",
        "rec2rec REC IN/below",
        "bin2bin BIN IN",
        "bin2bin BIN PACK/lfw.bin",
        "merge PACK OTHER IN",
        "split UNEQUAL IN OUT --min-images 2",
        "split UNEQUAL OUT IN --min-images 2",
        "select PACK IN --exclude LIST",
        "salvage PACK IN",
        "synth IN --identities 2 --images-per-identity 2",
        "synth PACK --identities 2 --images-per-identity 2",
        "report PACK IN.html",
        "sheet PACK IN.png",
        "train --shards PACK --out IN --device=cpu",
        "train --shards PACK --out PACK --device=cpu --overwrite",
        "export IN.pt PACK/model.safetensors",
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_nothing_is_written_into_a_pack(
    words: str,
    dry: tuple[str, ...],
    pack: Path,
    make_rec: MakeRec,
    make_jpeg: MakeJpeg,
    tmp_path: Path,
) -> None:
    if dry and words.split()[0] in ("report", "sheet", "export"):
        pytest.skip("it has no --dry-run")
    for name, labels in (("other", [0]), ("unequal", [0, 0, 1])):
        with facepack.PackWriter(tmp_path / name) as writer:
            for i, label in enumerate(labels):
                writer.add(make_jpeg(500 + i), label)
    write_bin(tmp_path / "lfw.bin", [make_jpeg(k) for k in range(4)], [True, False])
    (tmp_path / "list").write_text("0\n")
    paths = {
        "REC": make_rec(20),
        "BIN": tmp_path / "lfw.bin",
        "OTHER": tmp_path / "other",
        "UNEQUAL": tmp_path / "unequal",
        "LIST": tmp_path / "list",
        "OUT": tmp_path / "out",
        "IN": pack / "in",
        "PACK": pack,
    }
    before = sorted(pack.rglob("*"))
    line = words
    for name, path in paths.items():
        line = line.replace(name, str(path))
    result = run(*line.split(), *dry)
    itself = words.startswith("synth PACK") or "--out PACK" in words
    place = f"{pack} is a pack," if itself else f" lies in the pack {pack},"
    assert result.exit_code == 1 and place in result.stderr, result.output
    assert ".facepack " not in result.stderr  # what the user named
    assert sorted(pack.rglob("*")) == before and not (tmp_path / "out").exists()


def test_nor_by_a_link_nor_by_evaluation(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pack, target_is_directory=True)
    with pytest.raises(PackError, match="lies in the pack"):
        require_outside_packs(tmp_path / "link" / "out")
    with (
        pytest.raises(PackError, match="lies in the pack"),
        begun(pack / "e", {}, resume=False, overwrite=False, shown=pack / "e"),
    ):
        pass
    with pytest.raises(PackError, match="lies in the pack"):
        write_features(pack / "e", [], [], ending=".bin")  # type: ignore[arg-type]
    assert not (pack / "e").exists()


def test_a_pack_that_lies_in_another_is_still_one(pack: Path, tmp_path: Path) -> None:
    """As earlier versions let it be made."""
    shutil.copytree(pack, tmp_path / "copy")
    shutil.move(tmp_path / "copy", pack / "in")
    name = sorted(file.stem for file in (pack / "in").glob("*.mdb"))[0]
    add_set(pack / "in", facepack.open(pack / "in").shard_names, "few", [name])
    assert run("reindex", pack / "in").exit_code == 0


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"kind": "a plan of the user\'s own"}'])
@pytest.mark.parametrize("name", ["plan.json", "pack.json"])
def test_other_files_of_these_names_make_no_pack(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    require_outside_packs(tmp_path / "results" / "out")
