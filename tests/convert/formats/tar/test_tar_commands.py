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
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tree.listing import read_identities
from facepack.convert.source import Refusal
from facepack.errors import SourceError

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
    # The plan alone says what the source was.
    made_files, expected_files = (
        files(tmp_path / folder, ".facepack.json") for folder in ("made", "expected")
    )
    assert made_files == expected_files


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


def test_a_member_is_never_opened_as_a_file(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = TarSource(pack_tar(tmp_path / "a.tar", make_rec(10))).part(0, 10)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glint360k").mkdir()
    (tmp_path / "glint360k" / "train.rec").write_bytes(b"another file, called like the member")
    expected = [record.image for record in RecSource(tmp_path / "src").part(0, 10).read()]
    assert [record.image for record in part.read()] == expected
    assert [image for run in part.read_runs() for image in run.images()] == expected


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


# Lists -------------------------------------------------------------------------------------------


def listed(make_jpeg: MakeJpeg, folder: str = "") -> tuple[list[tuple[str, bytes]], list[int]]:
    """Images in one folder, in the layout of Paddle, and their labels."""
    images = [(f"{folder}images/{k:03d}.jpg", make_jpeg(k)) for k in range(12)]
    return images, [(5 * k) % 4 for k in range(12)]


def lines(images: Sequence[tuple[str, bytes]], given: Sequence[int], folder: str = "") -> bytes:
    paths = (name.removeprefix(folder) for name, _ in images)
    return "".join(f"{path}\t{label}\n" for path, label in zip(paths, given, strict=True)).encode()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("folder", ["", "./", "set/", "./set//"])
def test_a_list_labels_the_images_of_its_archive(
    tmp_path: Path, make_jpeg: MakeJpeg, suffix: str, first: bool, folder: str
) -> None:
    images, given = listed(make_jpeg, folder)
    index = (f"{folder.replace('//', '/')}label.txt", lines(images, given, folder))
    members = [index, *images] if first else [*images, index]
    path = make_tar(tmp_path / f"a{suffix}", members)
    found = facepack("tar2lmdb", path, tmp_path / "pack", "--order", "source")
    assert (found["packed"], found["classes"]) == (12, 4)
    (notice,) = found["notices"]
    assert "labels are those of" in notice and "label.txt; with --identity-level" in notice
    assert [(image, label) for image, label, _, _ in rows(tmp_path / "pack")] == [
        (image, label) for (_, image), label in zip(images, given, strict=True)
    ]


def test_images_that_a_list_omits_are_set_aside(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    images, given = listed(make_jpeg)
    text = lines(images[:10], given[:10]) + lines(images[:1], [9]) + b"images/x.jpg\t1\n\nwhat\n"
    path = make_tar(tmp_path / "a.tar", [*images, ("label.txt", text)])
    found = facepack("tar2lmdb", path, tmp_path / "pack", "--order", "source")
    assert (found["found"], found["packed"], found["quarantined"]) == (12, 9, 3)
    assert labels(tmp_path / "pack") == given[1:10]
    aside = (tmp_path / "pack" / "quarantine.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in aside]
    assert ["different labels" in reasons[0], "no line" in reasons[1], len(reasons)] == [
        True,
        True,
        3,
    ]
    assert found["notices"][1:] == ["label.txt: 1 line names no image of the archives, 1 malformed"]


def test_each_of_several_archives_has_a_list_of_its_own(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    images, given = listed(make_jpeg)
    paths = []
    for k in range(2):
        index = ("label.txt", lines(images, [label + k for label in given]))
        paths.append(make_tar(tmp_path / f"{k}.tar", [*images, index]))
    found = facepack("tar2lmdb", *paths, tmp_path / "pack", "--order", "source")
    assert labels(tmp_path / "pack") == [*given, *(label + 1 for label in given)]
    assert "labels are those of 2 lists" in found["notices"][0]
    # One list is that of all archives.
    parts = [images[:7], [*images[7:], ("label.txt", lines(images, given))]]
    paths = [make_tar(tmp_path / f"{k}.tar.gz", part) for k, part in enumerate(parts)]
    facepack("tar2lmdb", *paths, tmp_path / "one", "--order", "source")
    assert labels(tmp_path / "one") == given


def test_lists_of_im2rec_count_where_folders_tell_nothing(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    images, given = listed(make_jpeg)
    index = "".join(
        f"{k}\t{label}\t{name}\n"
        for k, ((name, _), label) in enumerate(zip(images, given, strict=True))
    )
    path = make_tar(tmp_path / "a.tar", [*images, ("train.lst", index.encode())])
    facepack("tar2lmdb", path, tmp_path / "flat", "--order", "source")
    assert labels(tmp_path / "flat") == given
    tree = [(f"p{k // 3}/{k}.jpg", image) for k, (_, image) in enumerate(images)]
    index = "".join(f"{k}\t{7 + k // 3}\t{name}\n" for k, (name, _) in enumerate(tree))
    path = make_tar(tmp_path / "b.tar", [*tree, ("train.lst", index.encode())])
    found = facepack("tar2lmdb", path, tmp_path / "tree", "--order", "source")
    assert labels(tmp_path / "tree") == [k // 3 for k in range(12)]
    assert found["notices"] == [
        "train.lst: a list of images was passed over: labels are those of the folders"
    ]


def test_lists_may_be_csv_and_their_labels_names(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    images, _ = listed(make_jpeg)
    people = ["Zoë", "anna b", "Zoë", "c, d"] * 3
    index = "\ufeffImage;Id\r\n" + "".join(
        f'{name.replace("/", chr(92))};"{person}"\r\n'
        for (name, _), person in zip(images, people, strict=True)
    )
    path = make_tar(tmp_path / "a.tar", [*images, ("faces.CSV", index.encode())])
    found = facepack("tar2lmdb", path, tmp_path / "pack", "--order", "source")
    assert labels(tmp_path / "pack") == [0, 1, 0, 2] * 3 and found["classes"] == 3
    assert read_identities(tmp_path / "pack" / "labels.txt") == ["Zoë", "anna b", "c, d"]
    numbers = ("more.lst", f"1\t3\t{images[0][0]}\n".encode())
    path = make_tar(tmp_path / "b.tar", [*images, ("faces.csv", index.encode()), numbers])
    with pytest.raises(SourceError, match=r"faces\.csv: labels of some lists .* numbers"):
        TarSource([path])


@pytest.mark.parametrize(
    "text",
    [b"", b"anna\nben\n", b"1\t2\n3\t4\n", b"x" * 100_000, b"\0" * 5000, b"other/1.jpg\t3\n"],
)
def test_what_is_no_list_of_the_images_is_passed_over(
    tmp_path: Path, make_jpeg: MakeJpeg, text: bytes
) -> None:
    members = [(f"p{k}/{k}.jpg", make_jpeg(k)) for k in range(3)]
    path = make_tar(tmp_path / "a.tar", [*members, ("label.txt", text)])
    found = facepack("tar2lmdb", path, tmp_path / "pack", "--order", "source")
    assert labels(tmp_path / "pack") == [0, 1, 2]
    assert len(found["notices"]) == 1 and "passed over" in found["notices"][0]


def test_samples_go_before_a_list(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [("1.jpg", make_jpeg(0)), ("1.cls", b"4"), ("label.txt", b"1.jpg\t3\n")]
    found = facepack("tar2lmdb", make_tar(tmp_path / "a.tar", members), tmp_path / "pack")
    assert labels(tmp_path / "pack") == [4] and "label.txt" in found["notices"][0]
