"""Tars through the commands, as a user has them: what comes out is what is inside, unpacked."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from facepack.cli import root
from facepack.convert.lmdb import PackSource
from facepack.convert.recordio import pack_header
from facepack.convert.source import PartInRuns, Refusal
from facepack.convert.tar import TarSource

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def facepack(*words: object) -> Any:
    """Run a command; returns its result as JSON."""
    done = CliRunner().invoke(root, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refusal(*words: object) -> str:
    """Run a command that fails; returns the one line that says why."""
    done = CliRunner().invoke(root, [*map(str, words)])
    assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    return done.stderr


def files(folder: Path, *but: str) -> dict[str, bytes]:
    """All files below ``folder``, those of the given names and hidden folders aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but and not path.parent.name.startswith(".")
    }


def rows(pack: Path) -> list[Any]:
    """Image, label, name and numbers of each record of a pack, in order."""
    source = PackSource(pack)
    found = []
    for _, start, stop in source.groups():
        for record in source.part(start, stop).read():
            assert not isinstance(record, Refusal)
            found.append((bytes(record.image), record.label, record.name, record.extra))
    return found


def make_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pack_tar(path: Path, folder: Path, pieces: int = 1) -> list[Path]:
    """A tar of ``folder``, gzipped if its name says so, cut into pieces."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        tar.add(folder, "glint360k")
    if pieces == 1:
        return [path]
    data = path.read_bytes()
    size = -(-len(data) // pieces)
    cut = [path.with_name(f"pieces_{k:02d}") for k in range(pieces)]
    for k, piece in enumerate(cut):
        piece.write_bytes(data[k * size : (k + 1) * size])
    return cut


# A .rec in tars ----------------------------------------------------------------------------------

GLINT = [("a.tar", 1), ("a.tar", 3), ("a.tar.gz", 1), ("a.tar.gz", 7)]


@pytest.mark.parametrize("sink", ["img", "rec", "kv", "wds"])
@pytest.mark.parametrize(("name", "pieces"), GLINT)
def test_a_rec_in_tars_becomes_what_it_becomes_unpacked(
    make_rec: MakeRec, tmp_path: Path, sink: str, name: str, pieces: int
) -> None:
    folder = make_rec(60, bad={9: b"short", 12: pack_header(-7, 13) + b"x"})
    paths = pack_tar(tmp_path / name, folder, pieces)
    made = facepack(f"tar2{sink}", *paths, tmp_path / "made")
    expected = facepack(f"rec2{sink}", folder, tmp_path / "expected")
    assert (made["found"], made["packed"], made["quarantined"]) == (60, 58, 2)
    for result in (made, expected):
        del result["out"], result["seconds"]
    assert made == expected
    assert files(tmp_path / "made") == files(tmp_path / "expected")


@pytest.mark.parametrize(("name", "pieces"), GLINT)
def test_a_rec_in_tars_is_packed_by_workers_and_resumed(
    make_rec: MakeRec, tmp_path: Path, name: str, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_rec(60, vector=True, bad={9: b"short"})
    paths = pack_tar(tmp_path / name, folder, pieces)
    # A .rec of the member's name in the current folder is not the one in the archive.
    decoy = make_rec(60, name="glint360k", bad={k: pack_header(1, k) for k in range(1, 60)})
    monkeypatch.chdir(decoy.parent)
    options = ("--shard-records", 9)
    facepack("tar2lmdb", *paths, "one", *options, "--workers", 1)
    facepack("rec2lmdb", folder, "unpacked", *options)
    assert rows(Path("one")) == rows(Path("unpacked"))
    refused = files(Path("unpacked"))["quarantine.jsonl"]
    assert files(Path("one"))["quarantine.jsonl"] == refused and refused
    facepack("tar2lmdb", *paths, "two", *options, "--workers", 2)
    whole = files(Path("two"))
    assert whole == files(Path("one"))
    for left in ("pack.json", "train-002.mdb", "train-005.kv"):
        (Path("two") / left).unlink()
    facepack("tar2lmdb", *paths, "two", *options, "--workers", 2, "--resume")
    assert files(Path("two")) == whole


def test_records_are_chosen_from_a_rec_in_tars(make_rec: MakeRec, tmp_path: Path) -> None:
    folder = make_rec(60)
    paths = pack_tar(tmp_path / "a.tar.gz", folder, 3)
    choice = ("--identities", "2:11", "--sample", 0.7, "--head-tail", 4)
    for command, source in (("tar2lmdb", paths), ("rec2lmdb", [folder])):
        facepack(command, *source, tmp_path / command, *choice)
    for half in ("head", "tail"):
        chosen = rows(tmp_path / "tar2lmdb" / half)
        assert chosen == rows(tmp_path / "rec2lmdb" / half) and chosen


def test_a_pack_grows_by_a_rec_in_tars(make_rec: MakeRec, tmp_path: Path) -> None:
    first, second = make_rec(30, name="first"), make_rec(20, name="second")
    facepack("rec2lmdb", first, tmp_path / "pack")
    paths = pack_tar(tmp_path / "a.tar.gz", second, 2)
    facepack("append", tmp_path / "pack", *paths, "--source", "tar")
    facepack("rec2lmdb", second, tmp_path / "other")
    found = [(image, label) for image, label, _, _ in rows(tmp_path / "pack")[30:]]
    assert found == [(image, label + 6) for image, label, _, _ in rows(tmp_path / "other")]


def test_a_rec_in_tars_is_no_set_of_pairs(make_rec: MakeRec, tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", make_rec(10))[0]
    assert "holds no pairs" in refusal("tar2bin", path, tmp_path / "x.bin")


def test_a_member_is_never_opened_as_a_file(make_rec: MakeRec, tmp_path: Path) -> None:
    part = TarSource(pack_tar(tmp_path / "a.tar", make_rec(10))).part(0, 10)
    assert not isinstance(part, PartInRuns)


def test_real_faces_in_seven_pieces(tmp_path: Path, shared: Path) -> None:
    folder = tmp_path / "glint360k"
    shutil.copytree(shared / "lfw-rec", folder, copy_function=shutil.copyfile)
    paths = pack_tar(tmp_path / "a.tar.gz", folder, 7)
    facepack("tar2rec", *paths, tmp_path / "made")
    facepack("rec2rec", folder, tmp_path / "expected")
    assert files(tmp_path / "made") == files(tmp_path / "expected")


# Samples -----------------------------------------------------------------------------------------


def labels(pack: Path) -> list[int]:
    return [label for _, label, _, _ in rows(pack)]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_keys_that_come_again_keep_their_labels(
    tmp_path: Path, make_jpeg: MakeJpeg, suffix: str
) -> None:
    # As webdataset's writer deals samples of 12 people to five shards, in its order of members.
    dealt = [
        make_tar(
            tmp_path / f"{shard}{suffix}",
            [
                member
                for k in range(shard, 60, 5)
                for member in (
                    (f"p/{k % 3}.cls", b"%d" % (k % 12)),
                    (f"p/{k % 3}.jpg", make_jpeg(k)),
                )
            ],
        )
        for shard in range(5)
    ]
    found = facepack("tar2lmdb", *dealt, tmp_path / "pack", "--order", "source")
    assert (found["found"], found["packed"], found["identities"]) == (60, 60, 12)
    order = [k for shard in range(5) for k in range(shard, 60, 5)]
    assert labels(tmp_path / "pack") == [k % 12 for k in order]
    images = [image for image, _, _, _ in rows(tmp_path / "pack")]
    assert images == [make_jpeg(k) for k in order]


def test_images_of_samples_are_packed_or_set_aside(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(0)
    first = make_tar(
        tmp_path / "a.tar",
        [
            ("p/0.jpg", image),
            ("p/0.seg.png", image),
            ("p/0.cls", b"3"),
            ("p/1.rgb.jpg", image),
            ("p/1.ir.jpg", image),
            ("p/1.cls", b"4"),
            ("p/2.jpg", image),
            ("p/9.cls", b"5"),
        ],
    )
    # Folders are no labels, not even those of an archive without any .cls.
    second = make_tar(tmp_path / "b.tar", [("anna/1.jpg", image), ("anna/2.jpg", image)])
    done = CliRunner().invoke(
        root, ["tar2lmdb", str(first), str(second), str(tmp_path / "pack"), "--json"]
    )
    found = json.loads(done.stdout)
    assert (found["found"], found["packed"], found["quarantined"]) == (7, 1, 6)
    assert labels(tmp_path / "pack") == [3]
    assert "1 labels (.cls, or .json with a label) have no image" in done.stderr
    lines = (tmp_path / "pack" / "quarantine.jsonl").read_text().splitlines()
    aside = {line["key"]: line["reason"] for line in map(json.loads, lines)}
    assert "another image" in aside["p/0.seg.png"] and "several images" in aside["p/1.ir.jpg"]
    assert "neither a .cls nor" in aside["p/2"] and "neither a .cls nor" in aside["anna/1"]


def test_text_labels_name_identities(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    people = ["ben", "anna", "ben", "Zoë"]
    members = [
        member
        for k, name in enumerate(people)
        for member in ((f"{k:03d}.cls", name.encode()), (f"{k:03d}.jpg", make_jpeg(k)))
    ]
    path = make_tar(tmp_path / "a.tar", members)
    assert facepack("tar2lmdb", path, tmp_path / "pack", "--order", "source")["classes"] == 3
    assert labels(tmp_path / "pack") == [2, 1, 2, 0]
    facepack("tar2wds", path, tmp_path / "wds")
    facepack("tar2lmdb", tmp_path / "wds", tmp_path / "again", "--order", "source")
    for name in ("pack", "again"):
        assert (tmp_path / name / "labels.txt").read_text() == "Zoë\nanna\nben\n"
    assert rows(tmp_path / "again") == rows(tmp_path / "pack")
    texts = make_tar(tmp_path / "b.tar", [("0.jpg", make_jpeg(0)), ("0.txt", b"anna")])
    assert "into a KEY.cls" in refusal("tar2lmdb", texts, tmp_path / "none")
