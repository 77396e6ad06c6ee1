from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from facepack import images
from facepack.convert.files import (
    IRREGULAR,
    MISSING,
    OUTSIDE,
    FileList,
    FileRefusedError,
    FolderReader,
    Root,
    is_image,
)
from facepack.convert.names import Names, find, first_repeated
from facepack.convert.source import Refusal
from facepack.errors import SourceError


def names_of(*names: bytes) -> Names:
    result = Names()
    for name in names:
        result.append(name)
    return result


def test_names_are_a_sequence() -> None:
    given = [b"a/1.jpg", b"", b"\xff\xfe", b"b c/2.jpg"]
    names = names_of(*given)
    assert list(names) == given and [names[k] for k in range(4)] == given and len(names) == 4
    for start in range(5):
        for stop in range(start, 5):
            part = names.cut(start, stop)
            assert list(part) == given[start:stop]
            assert list(pickle.loads(pickle.dumps(part))) == given[start:stop]
    for place in (-1, 4):
        with pytest.raises(IndexError):
            names[place]


def test_names_that_join_alike_have_other_digests() -> None:
    assert names_of(b"ab", b"c").digest() != names_of(b"a", b"bc").digest()
    assert names_of(b"ab", b"c").digest() == names_of(b"ab", b"c").digest()
    assert Names().digest() != names_of(b"").digest()


def test_find_agrees_with_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    known = [b"%d.jpg" % k for k in rng.permutation(300)]
    wanted = [b"%d.jpg" % k for k in rng.integers(0, 600, 500)]
    places = {name: place for place, name in enumerate(known)}
    found = find(names_of(*wanted), names_of(*known))
    assert found.tolist() == [places.get(name, -1) for name in wanted]
    assert find(names_of(b"x"), Names()).tolist() == [-1]
    assert find(Names(), names_of(b"x")).tolist() == []


def test_the_first_repeated_name() -> None:
    assert first_repeated(names_of(b"a", b"b", b"c")) is None
    assert first_repeated(names_of(b"a", b"b", b"c", b"b", b"a")) == b"b"
    assert first_repeated(Names()) is None


@pytest.mark.parametrize(
    ("name", "image"),
    [
        (b"1.jpg", True),
        (b"1.JPEG", True),
        (b"x.webp", True),
        (b".1.jpg", False),
        (b"README.txt", False),
        (b"jpg", False),
    ],
)
def test_images_are_told_by_their_suffix(name: bytes, image: bool) -> None:
    assert is_image(name) is image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``set/`` with ``a/1.jpg``, links of all kinds, a pipe; ``secret.jpg`` lies beside it."""
    inside = tmp_path / "set"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "1.jpg").write_bytes(b"0123456789")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "set-b").mkdir()
    (tmp_path / "set-b" / "3.jpg").write_bytes(b"secret")
    (inside / "a" / "link.jpg").symlink_to("1.jpg")
    (inside / "a" / "out.jpg").symlink_to("../../secret.jpg")
    (inside / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    (inside / "a" / "loop.jpg").symlink_to("loop.jpg")
    (inside / "out").symlink_to(tmp_path / "set-b")
    (inside / "in").symlink_to("a")
    os.mkfifo(inside / "a" / "pipe.jpg")
    return inside


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (b"a/1.jpg", 10),
        (b"a/link.jpg", 10),
        (b"in/1.jpg", 10),
        (b"a/out.jpg", OUTSIDE),
        (b"out/3.jpg", OUTSIDE),
        (b"a/none.jpg", MISSING),
        (b"a/gone.jpg", MISSING),
        (b"a/1.jpg/2.jpg", MISSING),
        (b"x" * 5000, MISSING),
        (b"a/pipe.jpg", IRREGULAR),
        (b"a", IRREGULAR),
    ],
)
def test_the_size_of_what_lies_in_a_folder(folder: Path, name: bytes, size: int) -> None:
    assert Root(folder).size(name) == size


def test_a_link_that_loops_has_no_file(folder: Path) -> None:
    assert Root(folder).size(b"a/loop.jpg") == MISSING


def test_names_that_lead_out_are_not_located(folder: Path) -> None:
    root = pickle.loads(pickle.dumps(Root(folder)))
    inside = os.fsencode(folder)
    for name in (b"a/1.jpg", b"./a//1.jpg", inside + b"/a/1.jpg"):
        assert root.locate(name) == b"a/1.jpg"
    outside = (b"../secret.jpg", b"a/../../secret.jpg", b"/etc/passwd", inside + b"-b/3.jpg")
    for name in (*outside, b"a/../a/1.jpg", b"", b".", b"/", inside, b"a\0b"):
        assert root.locate(name) is None


def test_absolute_names_may_use_either_path_of_a_linked_folder(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    root = Root(link)
    assert root.locate(os.fsencode(link / "a/1.jpg")) == b"a/1.jpg"
    assert root.locate(os.fsencode(folder / "a/1.jpg")) == b"a/1.jpg"
    assert root.size(b"a/1.jpg") == 10


def test_what_is_no_folder(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"1\.jpg: is no folder; pass the folder"):
        Root(folder / "a" / "1.jpg")
    with pytest.raises(SourceError, match="none: cannot be read: No such file"):
        Root(folder / "none")


def test_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FolderReader(folder) as reader:
        assert reader.read(b"a/1.jpg", 10) == b"0123456789"
        for code, reason in ((MISSING, "missing"), (OUTSIDE, "outside"), (IRREGULAR, "pipe")):
            with pytest.raises(FileRefusedError, match=reason):
                reader.read(b"a/1.jpg", code)
        for size in (9, 11, 0):
            with pytest.raises(SourceError, match=rf"1\.jpg: no longer has {size} bytes.*--resume"):
                reader.read(b"a/1.jpg", size)
        with pytest.raises(SourceError, match=r"2\.jpg: has vanished.*--resume"):
            reader.read(b"a/2.jpg", 10)
        with pytest.raises(SourceError, match=r"pipe\.jpg: no longer has 10 bytes"):
            reader.read(b"a/pipe.jpg", 10)
        with pytest.raises(SourceError, match="a: cannot be read: Is a directory"):
            reader.read(b"a", 10)
        monkeypatch.setattr(images, "MAX_BYTES", 9)
        with pytest.raises(FileRefusedError, match="10 bytes; at most 9") as refused:
            reader.read(b"a/1.jpg", 10)
        assert "FACEPACK_MAX_IMAGE_BYTES" in refused.value.remedy
    with pytest.raises(SourceError, match="none: cannot be read"), FolderReader(folder / "none"):
        pass


def test_the_part_of_a_list(folder: Path) -> None:
    (folder / "a" / os.fsdecode(b"\xff.jpg")).write_bytes(b"abc")
    files, identities = FileList(folder), names_of(b"zero", b"one", b"\xfe")
    for name, label in ((b"a/1.jpg", 2), (b"a/none.jpg", 0), (b"a/\xff.jpg", 2), (b"a/1.jpg", -1)):
        files.append(name, Root(folder).size(name), label)
    assert files.sizes().tolist() == [10, 0, 3, 10] and files.sizes().dtype == np.uint32
    part = pickle.loads(pickle.dumps(files.part(1, 4, identities)))
    assert (part.start, part.stop) == (1, 4)
    assert part.identity_names() == {0: "zero", 2: "\\xfe"}
    assert list(part.entries()) == [(0, "a/none.jpg"), (2, "a/\\xff.jpg"), (-1, "a/1.jpg")]
    missing, odd, last = part.read()
    assert isinstance(missing, Refusal) and missing.reason == "the file is missing"
    assert (missing.ordinal, missing.file) == (1, "a/none.jpg")
    assert not isinstance(odd, Refusal) and not isinstance(last, Refusal)
    assert (odd.ordinal, odd.label, odd.name, odd.image) == (2, 2, "a/\\xff.jpg", b"abc")
    assert (last.ordinal, last.label, last.image) == (3, -1, b"0123456789")
    assert str(part.refuse(odd, "why")).startswith("a/\\xff.jpg: record 2: why; fetch the image")
    (kept,) = part.read(np.array([False, False, True]))
    assert kept == last
    assert files.part(0, 4).identity_names() == {}


def test_the_digest_of_a_list_tells_names_sizes_and_labels(tmp_path: Path) -> None:
    digests = set()
    for name, size, label in ((b"a", 1, 1), (b"b", 1, 1), (b"a", 2, 1), (b"a", 1, 2)):
        files = FileList(tmp_path)
        files.append(name, size, label)
        digests.add(files.digest())
    assert len(digests) == 4
