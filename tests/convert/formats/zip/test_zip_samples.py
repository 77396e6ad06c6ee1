"""WebDataset samples in zips: the same as the same members give in a tar."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from matrix.zip_cipher import encrypted

import facepack
from facepack.cli import root as cli
from facepack.convert.formats.pack.append import separate_sources
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal, Source
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

Member = tuple[str, bytes]


def as_zip(path: Path, members: Sequence[Member], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def as_tar(path: Path, members: Sequence[Member]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def rows(source: Source) -> list[tuple[object, ...]]:
    """All there is of each record, or why there is none."""
    found: list[tuple[object, ...]] = []
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        records = list(part.read())
        entries = list(part.entries())
        for record, entry in zip(records, entries, strict=True):
            if isinstance(record, Refusal):
                found.append((record.ordinal, record.reason, record.key))
                assert entry.label == -1
            else:
                found.append((record.ordinal, bytes(record.image), record.label, record.name))
                assert entry == (record.label, record.name)
        found.append(("identities", part.identity_names()))
    return found


def samples(*labels: bytes, prefix: str = "", first: int = 0) -> list[Member]:
    """A sample of each label."""
    return [
        row
        for k, label in enumerate(labels, first)
        for row in ((f"{prefix}{k:03d}.jpg", b"image %d" % k), (f"{prefix}{k:03d}.cls", label))
    ]


SETS: dict[str, list[Member]] = {
    "numbers": samples(b"3", b"0", b"-1", b"3", b" 7\n", b"tensor([2])"),
    "folders are none": samples(b"3", b"0", prefix="ann/") + samples(b"1", prefix="bob/"),
    "texts": samples(b"Zoe", b"anna", "Zoë".encode(), b"anna"),
    "texts among numbers": samples(b"1", b"anna"),
    "no class": samples(b"1", b"1.5", b"", b"x" * 300, b"2"),
    "an image without": [*samples(b"1", b"2"), ("9.jpg", b"alone")],
    "a label without": [*samples(b"1", b"2"), ("9.cls", b"4")],
    "dots": samples(b"1", b"2", prefix="d.e/m.01."),
    "two suffixes": [("0.rgb.jpg", b"0"), ("0.cls", b"4"), ("1.JPG", b"1"), ("1.CLS", b"5")],
    "several images": [("a.jpg", b"0"), ("a.seg.png", b"1"), ("a.cls", b"2")],
    "objects": [("a.jpg", b"0"), ("a.json", b'{"label": 3}'), ("b.json", b"{"), ("b.jpg", b"1")],
    "hidden": [*samples(b"1"), ("__MACOSX/x.jpg", b"x"), (".a.cls", b"9"), ("._0.jpg", b"y")],
    "names of no path": samples(b"1", prefix="../") + samples(b"2", prefix="/abs/"),
}


@pytest.mark.parametrize("what", SETS)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_a_tar_gives(tmp_path: Path, what: str, method: int) -> None:
    from_tar = TarSource([as_tar(tmp_path / "a.tar", SETS[what])])
    from_zip = ZipSource([as_zip(tmp_path / "a.zip", SETS[what], method)])
    assert rows(from_zip) == rows(from_tar)
    assert from_zip.classes == from_tar.classes
    told = [notice for notice in from_tar.notices if "labels (.cls" in notice]
    assert [notice for notice in from_zip.notices if "labels (.cls" in notice] == told


def test_members_of_a_sample_need_not_follow_each_other(tmp_path: Path) -> None:
    members = samples(*(b"%d" % (k % 5) for k in range(40)), prefix="x/") + samples(
        b"3", b"1", b"2", prefix="x/00."
    )
    expected = {
        (name, label)
        for *_, label, name in rows(ZipSource([as_zip(tmp_path / "a.zip", members)]))[:-1]
    }
    assert ("x/007", 2) in expected and ("x/00.002", 2) in expected and len(expected) == 43
    for seed in range(20):
        random.Random(seed).shuffle(members)
        source = ZipSource([as_zip(tmp_path / "b.zip", members)])
        records = list(source.part(0, 43).read())
        images = [data for name, data in members if name.endswith(".jpg")]
        assert [bytes(record.image) for record in records] == images  # type: ignore[union-attr]
        assert {(record.name, record.label) for record in records} == expected  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_again_begins_a_new_sample(tmp_path: Path) -> None:
    members = [row for k in range(4) for row in (("a.jpg", b"%d" % k), ("a.cls", b"%d" % k))]
    source = ZipSource([as_zip(tmp_path / "a.zip", members)])
    assert rows(source) == rows(TarSource([as_tar(tmp_path / "a.tar", members)]))
    assert [record.label for record in source.part(0, 4).read()] == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_labels_hold_over_several_zips(tmp_path: Path) -> None:
    as_zip(tmp_path / "0.zip", samples(b"anna", b"Bo"))
    as_zip(tmp_path / "1.zip", [("folder/9.jpg", b"of nobody")])
    as_zip(tmp_path / "2.zip", samples(b"Bo", b"Zoe"))
    source = ZipSource([tmp_path])
    found = rows(source)
    assert [row[2] for row in found if isinstance(row[0], int)] == [2, 0, "folder/9", 0, 1]
    assert "neither a .cls" in str(found[3][1])
    assert [row[1] for row in found if row[0] == "identities"] == [
        {2: "anna", 0: "Bo"},
        {},
        {0: "Bo", 1: "Zoe"},
    ]


def test_labels_txt_beside_zips_names_identities(tmp_path: Path) -> None:
    as_zip(tmp_path / "0.zip", samples(b"1", b"0"))
    (tmp_path / "labels.txt").write_text("ann\nbob\ncid\n")
    source = ZipSource([tmp_path])
    assert source.classes == 3
    assert source.part(0, 2).identity_names() == {0: "ann", 1: "bob"}
    before = source.describe()
    assert ZipSource([tmp_path / "0.zip"]).part(0, 2).identity_names() == {}
    (tmp_path / "labels.txt").write_text("ann\nBob\ncid\n")
    assert ZipSource([tmp_path]).describe() != before


def test_labels_are_a_part_of_the_plan(tmp_path: Path) -> None:
    described = [
        ZipSource([as_zip(tmp_path / "a.zip", samples(b"1", label))]).describe()
        for label in (b"1", b"2")
    ]
    assert described[0] != described[1] and described[0]["layout"] == "samples"
    assert "layout" not in ZipSource([as_zip(tmp_path / "b.zip", [("a/1.jpg", b"x")])]).describe()


def test_encrypted_samples(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "a.zip", SETS["texts"], zipfile.ZIP_DEFLATED).read_bytes()
    (tmp_path / "a.zip").write_bytes(encrypted(data, b"open sesame"))
    with pytest.raises(SourceError, match="is encrypted"):
        ZipSource([tmp_path / "a.zip"])
    with pytest.raises(SourceError, match="wrong password"):
        ZipSource([tmp_path / "a.zip"], password=b"sesame")
    source = ZipSource([tmp_path / "a.zip"], password=b"open sesame")
    assert rows(source) == rows(TarSource([as_tar(tmp_path / "a.tar", SETS["texts"])]))


def test_a_label_that_is_damaged_or_too_long_sets_its_image_aside(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", [*samples(b"1", b"12345", b"3"), ("9.jpg", b"9")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"12345", b"1234x", 1))
    labels = [row[1] if len(row) == 3 else row[2] for row in rows(ZipSource([path]))[:-1]]
    assert labels[0] == 1 and labels[2] == 3
    assert "its .cls holds no class" in str(labels[1]) and "neither a .cls" in str(labels[3])


def test_a_label_that_claims_gigabytes_is_not_inflated(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", samples(b"1" * 200), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 1 << 31)  # the size of the .cls in the directory
    path.write_bytes(bytes(data))
    assert "its .cls holds no class" in str(rows(ZipSource([path]))[0][1])


def test_a_level_is_for_folders(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", SETS["folders are none"])
    with pytest.raises(SourceError, match="leave --identity-level out"):
        ZipSource([path], identity_level=1)


def test_folders_with_other_json_beside_them_stay_folders(tmp_path: Path) -> None:
    path = as_zip(
        tmp_path / "a.zip",
        [("ann/1.jpg", b"1"), ("bob/2.jpg", b"2"), ("bob/meta.json", b"{}"), ("x.txt", b"")],
    )
    source = ZipSource([path])
    assert source.part(0, 2).identity_names() == {0: "ann", 1: "bob"}
    assert source.passed_over == 2
    (notice,) = source.notices
    assert notice.startswith("2 members that are no images") and "'bob/meta.json'" in notice


def test_objects_count_as_passed_over_for_they_may_hold_more(tmp_path: Path) -> None:
    members = [("a.jpg", b"0"), ("a.json", json.dumps({"label": 1, "age": 30}).encode())]
    assert ZipSource([as_zip(tmp_path / "a.zip", members)]).passed_over == 1
    assert ZipSource([as_zip(tmp_path / "b.zip", SETS["numbers"])]).passed_over == 0


def test_mutated_zips_of_samples_raise_nothing_else(
    tmp_path: Path, mutated: Callable[[bytes, random.Random], bytes]
) -> None:
    good = as_zip(tmp_path / "a.zip", SETS["texts"] + SETS["objects"], zipfile.ZIP_DEFLATED)
    data = good.read_bytes()
    for seed in range(300):
        good.write_bytes(mutated(data, random.Random(seed)))
        try:
            source = ZipSource([good])
            found = list(source.part(0, len(source)).read())
            assert all(isinstance(each, SourceRecord | Refusal) for each in found)
        except SourceError as error:
            assert "a.zip" in str(error)


def test_zips_of_samples_are_appended_together_and_deleted_together(
    tmp_path: Path, make_jpeg: Callable[..., bytes], make_pack: Callable[..., Path]
) -> None:
    for k in range(3):
        rows = [
            (f"{n}.jpg", make_jpeg(10 * k + n)) if image else (f"{n}.cls", b"%d" % (n + k))
            for image in (True, False)
            for n in range(3)
        ]
        as_zip(tmp_path / "in" / f"{k}.zip", rows)
    pack = make_pack(5)
    with facepack.open(pack) as opened:
        classes = opened.classes
    words = ["append", str(pack), str(tmp_path / "in"), "--source", "zip", "--delete-source"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert not [*(tmp_path / "in").iterdir()]
    with facepack.open(pack) as opened:
        labels = opened.labels[-9:].tolist()
    assert sorted(labels) == [classes + n for n in (0, 1, 1, 2, 2, 2, 3, 3, 4)]
    assert separate_sources("zip", [as_zip(tmp_path / "a.zip", SETS["numbers"])]) == [
        [tmp_path / "a.zip"]
    ]
