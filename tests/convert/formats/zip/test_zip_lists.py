"""Zips that hold a list of their images: the labels are the list's, by the rule of tars."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]
Members = dict[str, bytes]


@pytest.fixture
def images(make_jpeg: MakeJpeg) -> Members:
    """Six images in one folder."""
    return {f"images/{k}.jpg": make_jpeg(k, size=16) for k in range(6)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(members, name)``: a zip."""

    def write(members: Members, name: str = "a.zip", method: int = zipfile.ZIP_DEFLATED) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return tmp_path / name

    return write


def records(source: ZipSource) -> list[Any]:
    found = []
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        for record in part.read():
            if isinstance(record, SourceRecord):
                person = part.identity_names().get(record.label)
                found.append((record.name, bytes(record.image), record.label, person))
            else:
                found.append((record.key, record.reason))
    return found


def lines(images: Members, labels: list[object], separator: str = "\t") -> bytes:
    pairs = zip(images, labels, strict=True)
    return "".join(f"{name}{separator}{label}\r\n" for name, label in pairs).encode()


PADDLE = [3, 0, 3, -1, 7, 0]
NAMES = ["Zoë", "b c", "Zoë", "a", "a", "d"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_label_txt_of_paddle(images: Members, write: Callable[..., Path], method: int) -> None:
    source = ZipSource([write({**images, "label.txt": lines(images, PADDLE)}, method=method)])
    assert records(source) == [
        (name, image, label, None)
        for (name, image), label in zip(images.items(), PADDLE, strict=True)
    ]
    assert (source.classes, source.passed_over) == (None, 0)
    assert source.notices == [
        "labels are those of label.txt; with --identity-level they are those of folders"
    ]
    assert source.describe()["layout"] == "list"
    labels = [entry.label for entry in source.part(1, 5).entries()]
    assert labels == PADDLE[1:5]


def test_names_in_a_csv_of_its_folder(images: Members, write: Callable[..., Path]) -> None:
    here = {name.removeprefix("images/"): image for name, image in images.items()}
    listed = b"\xef\xbb\xbfpath;identity\r\n" + lines(here, NAMES, ";")
    source = ZipSource([write({"images/faces.csv": listed, **images})])
    people = sorted(set(NAMES), key=str.encode)
    assert records(source) == [
        (name, image, people.index(person), person)
        for (name, image), person in zip(images.items(), NAMES, strict=True)
    ]
    assert source.classes == len(people)


def test_images_without_a_folder_need_none(images: Members, write: Callable[..., Path]) -> None:
    flat = {name.removeprefix("images/"): image for name, image in images.items()}
    source = ZipSource([write({**flat, "train.lst": lines(flat, PADDLE)})])
    assert [row[2] for row in records(source)] == PADDLE


def test_what_lists_leave_open_is_set_aside(images: Members, write: Callable[..., Path]) -> None:
    listed = lines(images, PADDLE).split(b"\r\n")
    listed[1:2] = [b"images/x.jpg\t1", b"nothing"]
    listed.append(b"images/2.jpg\t4")
    source = ZipSource([write({**images, "label.txt": b"\n".join(listed)})])
    found = records(source)
    assert "no line of the list" in found[1][1] and "different labels" in found[2][1]
    assert [row[2] for row in found if len(row) == 4] == [3, -1, 7, 0]
    assert source.notices[1] == "label.txt: 1 line names no image of the archives, 1 malformed"


def test_each_of_several_zips_has_its_own(images: Members, write: Callable[..., Path]) -> None:
    other = [label + 1 for label in PADDLE]
    one = write({**images, "label.txt": lines(images, PADDLE)})
    two = write({**images, "label.txt": lines(images, other)}, "b.zip")
    assert [row[2] for row in records(ZipSource([one, two]))] == PADDLE + other


def test_folders_go_before_lists_that_are_not_needed(
    make_jpeg: MakeJpeg, write: Callable[..., Path]
) -> None:
    tree = {f"p{k // 2}/{k}.jpg": make_jpeg(k) for k in range(4)}
    listed = lines(tree, [7, 7, 8, 8])
    source = ZipSource([write({**tree, "more.csv": b"path,label\n", "train.lst": listed})])
    assert [row[2] for row in records(source)] == [0, 0, 1, 1]
    assert source.passed_over == 2 and "first 'more.csv'" in source.notices[0]
    source = ZipSource([write({**tree, "label.txt": listed})])
    assert [row[2] for row in records(source)] == [7, 7, 8, 8]
    source = ZipSource([write({**tree, "label.txt": listed})], identity_level=1)
    assert [row[2] for row in records(source)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "content", [b"", b"anna\n", b"x" * 100_000, b"other/1.jpg\t3\n", b"a,b\rc,d\r", b'a,"b\n']
)
def test_what_is_no_list_of_the_images_is_passed_over(
    make_jpeg: MakeJpeg, write: Callable[..., Path], content: bytes
) -> None:
    tree = {f"p{k}/{k}.jpg": make_jpeg(k) for k in range(3)}
    source = ZipSource([write({**tree, "label.txt": content})])
    assert [row[2] for row in records(source)] == [0, 1, 2] and source.passed_over == 1


def test_names_and_numbers_do_not_mix(images: Members, write: Callable[..., Path]) -> None:
    both = {"a.lst": lines(images, PADDLE), "b.lst": lines(images, NAMES)}
    with pytest.raises(SourceError, match=r"a\.lst: labels of some lists .* are names"):
        ZipSource([write({**images, **both})])


def test_refused_images_say_where_they_lie(images: Members, write: Callable[..., Path]) -> None:
    path = write({**images, "label.txt": lines(images, PADDLE).split(b"\r\n", 1)[1]})
    first = next(iter(ZipSource([path]).part(0, 6).read()))
    assert isinstance(first, Refusal)
    assert (first.file, first.offset, first.key) == ("a.zip", 0, "images/0.jpg")
