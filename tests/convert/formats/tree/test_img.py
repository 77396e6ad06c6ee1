from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.tree import source as img
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.source import Refusal
from facepack.errors import DecodeError, SourceError
from facepack.store.checks import ImageCheck
from facepack.store.record import SourceRecord
from facepack.train.data import ImageTree

MakeJpeg = Callable[..., bytes]
Row = tuple[int, int, str | None, bytes]


def read_all(source: ImgSource, step: int = 7) -> list[SourceRecord | Refusal]:
    """All records, through parts as workers get them."""
    bounds = [*range(0, len(source), step), len(source)]
    parts = [source.part(*ends) for ends in pairwise(bounds)]
    return [record for part in parts for record in pickle.loads(pickle.dumps(part)).read()]


def rows(source: ImgSource) -> list[Row]:
    records = read_all(source)
    assert not [record for record in records if isinstance(record, Refusal)]
    return [(r.ordinal, r.label, r.name, r.image) for r in records if isinstance(r, SourceRecord)]


def slow_rows(root: Path) -> list[Row]:
    """What a tree holds, by walking it and sorting all there is."""
    found = []
    for folder, _, files in os.walk(os.fsencode(root)):
        for file in files:
            path = os.path.relpath(folder + b"/" + file, os.fsencode(root))
            if file.lower().endswith((b".jpg", b".png")) and b"/" in path:
                found.append((path.split(b"/")[0], path))
    identities = sorted({identity for identity, _ in found})
    return [
        (
            ordinal,
            identities.index(identity),
            path.decode("utf-8", "backslashreplace"),
            (root / os.fsdecode(path)).read_bytes(),
        )
        for ordinal, (identity, path) in enumerate(sorted(found))
    ]


@pytest.fixture
def tree(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Five identities whose names sort otherwise by language, case or code unit."""
    root = tmp_path / "my faces"
    folders = ["b", "B", "é", "\U0001f600", "\uffee", "b/sub/deeper", "a b"]
    for k, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(3):
            (root / folder / f"{i * 7}.jpg").write_bytes(make_jpeg(10 * k + i))
    (root / "b" / "x.PNG").write_bytes(b"not checked here")
    (root / "b" / "y y.jpg").write_bytes(make_jpeg(99))
    return root


def test_a_tree_is_numbered_by_name(tree: Path) -> None:
    source = ImgSource(tree)
    assert rows(source) == slow_rows(tree)
    assert len(source) == 23 and source.classes == 6
    (deeper,) = source.notices
    assert "level 1, as 'b' in b/sub/deeper/; 3 of 23 images lie deeper, as in 'sub'" in deeper
    assert (source.content, source.table_names, source.tables(np.arange(23))) == ("train", (), {})
    names = dict(source.part(0, 23).identity_names())
    assert names == dict(enumerate(["B", "a b", "b", "é", "\uffee", "\U0001f600"]))
    assert list(source.part(3, 5).entries()) == [(1, "a b/0.jpg"), (1, "a b/14.jpg")]
    assert dict(source.part(3, 5).identity_names()) == {1: "a b"}
    (group,) = source.groups()
    assert group == ("my_faces", 0, 23)
    assert source.sizes().tolist() == [len(row[3]) for row in slow_rows(tree)]


def test_a_tree_is_numbered_as_the_trainer_does(tree: Path) -> None:
    shutil.rmtree(tree / "b" / "sub")
    (tree / "b" / "x.PNG").unlink()
    (tree / "empty").mkdir()
    (tree / "linked").symlink_to("é")
    ours, trainers = ImgSource(tree), ImageTree(tree)
    read = rows(ours)
    assert [row[1] for row in read] == trainers.labels.tolist()
    assert [row[2] for row in read] == [trainers.key(k) for k in range(len(trainers))]
    names = ours.part(0, len(ours)).identity_names()
    assert [names[k] for k in range(len(names))] == trainers.identity_names


def test_what_is_passed_over_is_counted(tree: Path, make_jpeg: MakeJpeg) -> None:
    expected = rows(ImgSource(tree))
    (tree / "README.txt").write_text("hello")
    (tree / "b" / "list.csv").write_text("hello")
    (tree / "loose.jpg").write_bytes(make_jpeg(0))
    for hidden in (".hidden.jpg", "b/.hidden.jpg"):
        (tree / hidden).write_bytes(make_jpeg(0))
    (tree / ".folder").mkdir()
    (tree / ".folder" / "1.jpg").write_bytes(make_jpeg(0))
    for beside in ("@eaDir", "b/@eaDir"):
        (tree / beside).mkdir()
        (tree / beside / "1.jpg").write_bytes(make_jpeg(0))
    (tree / "itself").symlink_to(".")
    (tree / "b" / "up").symlink_to("..")
    other = tree.with_name("other")
    other.mkdir()
    (other / "1.jpg").write_bytes(make_jpeg(0))
    (tree / "other").symlink_to(other)
    source = ImgSource(tree)
    assert rows(source) == expected
    assert source.notices[1:] == [
        f"{tree}: 2 files that are no images by their names were passed over, first 'README.txt'",
        f"{tree}: 5 images and folders, hidden, or put beside images by a system (._x.jpg, "
        "__MACOSX, @eaDir), were passed over, first '.folder'",
        f"{tree}: 1 images that lie in no folder of an identity were passed over, first "
        "'loose.jpg'",
        f"{tree}: 3 links to folders, which lead outside or lie too deep, were passed over, first "
        "'b/up'",
    ]


def test_links_and_what_is_no_file(tree: Path) -> None:
    (tree.parent / "secret.jpg").write_bytes(b"secret")
    (tree / "B" / "a.jpg").symlink_to(tree.parent / "secret.jpg")
    (tree / "B" / "b.jpg").symlink_to("../b/0.jpg")
    (tree / "B" / "c.jpg").symlink_to("none.jpg")
    os.mkfifo(tree / "B" / "d.jpg")
    refused = {r.file: r.reason for r in read_all(ImgSource(tree)) if isinstance(r, Refusal)}
    assert refused == {
        "B/a.jpg": "it lies outside the folder of images, or is a link that leads there",
        "B/c.jpg": "the file is missing",
        "B/d.jpg": "it is a folder, pipe, socket or device",
    }
    assert len(ImgSource(tree)) == 27


def test_names_that_are_no_utf_8(tree: Path, make_jpeg: MakeJpeg) -> None:
    folder = tree / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe.jpg")).write_bytes(make_jpeg(0))
    source = ImgSource(tree)
    assert rows(source)[-1][1:3] == (6, "\\xff/\\xfe.jpg")
    assert source.part(23, 24).identity_names() == {6: "\\xff"}


def test_a_file_that_changes_stops_the_reading(tree: Path) -> None:
    source = ImgSource(tree)
    (tree / "b" / "0.jpg").write_bytes(b"short")
    with pytest.raises(SourceError, match=r"b/0\.jpg: no longer has \d+ bytes.*--resume"):
        read_all(source)
    (tree / "b" / "0.jpg").unlink()
    with pytest.raises(SourceError, match=r"b/0\.jpg: has vanished.*--resume"):
        read_all(source)


def test_sources_that_differ_are_described_differently(tree: Path) -> None:
    first = ImgSource(tree).describe()
    assert first == ImgSource(tree).describe() and first["folder"] == "my faces"
    assert str(tree.parent) not in str(first)
    (tree / "b" / "y y.jpg").write_bytes(b"of another size")
    second = ImgSource(tree).describe()
    (tree / "b" / "y y.jpg").rename(tree / "b" / "z.jpg")
    third = ImgSource(tree).describe()
    assert len({one["files_xxh3_128"] for one in (first, second, third)}) == 3


def test_trees_without_images(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with pytest.raises(SourceError, match=r"no images in folders.*identity/image\.jpg.*--index"):
        ImgSource(tmp_path)
    (tmp_path / "1.jpg").write_bytes(make_jpeg(0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images in folders"):
        ImgSource(tmp_path)
    with pytest.raises(SourceError, match="is no folder"):
        ImgSource(tmp_path / "1.jpg")


@pytest.fixture
def indexed(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """A folder of images with ``index.kv``, in no order of names."""
    root = tmp_path / "indexed"
    (root / "with space").mkdir(parents=True)
    for k, name in enumerate(["z.jpg", "with space/b 1.jpg", "a.png", "with space/0.jpg"]):
        (root / name).write_bytes(make_jpeg(k))
    (root / "index.kv").write_text("z.jpg 5\nwith space/b 1.jpg 0\na.png -1\n")
    return root


def test_an_index_gives_labels_and_order(indexed: Path, make_jpeg: MakeJpeg) -> None:
    source = ImgSource(indexed)
    assert rows(source) == [
        (0, 5, "z.jpg", make_jpeg(0)),
        (1, 0, "with space/b 1.jpg", make_jpeg(1)),
        (2, -1, "a.png", make_jpeg(2)),
    ]
    assert source.classes is None and source.content == "train"
    assert source.notices == [
        f"{indexed}: 1 images that are not in index.kv were passed over, first 'with space/0.jpg'"
    ]
    assert source.part(0, 3).identity_names() == {}
    assert source.groups() == [("indexed", 0, 3)]


def test_labels_txt_names_the_identities_of_an_index(indexed: Path) -> None:
    before = ImgSource(indexed).describe()
    (indexed / "labels.txt").write_text("zero\none\n\n\n\nback\\\\slash\\n\n")
    source = ImgSource(indexed)
    assert source.part(0, 1).identity_names() == {5: "back\\slash\n"}
    assert source.part(1, 3).identity_names() == {0: "zero"} and source.classes == 6
    assert source.describe() != before
    (indexed / "labels.txt").write_bytes(b"\xff\n")
    with pytest.raises(SourceError, match=r"labels\.txt: .*0xff"):
        ImgSource(indexed)


def test_an_index_may_lie_elsewhere(
    indexed: Path, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(img, "_STRETCH", 1)
    listed = indexed.parent / "some.lst"
    listed.write_text("7\t3.000000\twith space/0.jpg\n9\t4.000000\t0.5\tz.jpg\n")
    source = ImgSource(indexed, index=listed)
    assert rows(source) == [(0, 3, "with space/0.jpg", make_jpeg(3)), (1, 4, "z.jpg", make_jpeg(0))]
    (record,) = source.part(1, 2).read()
    assert isinstance(record, SourceRecord) and record.extra == {"key": 9, "label_1": 0.5}
    assert source.notices == [
        f"{indexed}: 2 images that are not in some.lst were passed over, first 'a.png'"
    ]


def test_an_index_that_leads_out_or_nowhere(indexed: Path) -> None:
    (indexed.parent / "secret.jpg").write_bytes(b"secret")
    lines = ["../secret.jpg 1", "none.jpg 2", "z.jpg x", "z.jpg 100000000", "z.jpg", "z.jpg 3", ""]
    (indexed / "index.kv").write_text("\n".join(lines))
    records = read_all(ImgSource(indexed))
    refused = [record for record in records if isinstance(record, Refusal)]
    assert len(records) == 6 and [record.ordinal for record in refused] == [0, 1, 2, 3, 4]
    assert [record.file for record in refused] == ["index.kv"] * 5
    assert [record.reason for record in refused[:2]] == [
        "line 1: the path leads out of the folder of images",
        "line 2: the file is missing",
    ]
    assert refused[2].reason.startswith("line 3: label 'x': allowed are whole numbers, 0 to")
    assert refused[3].reason.startswith("line 4: label '100000000'")
    assert refused[4].reason == "line 5: expected a path, a space and a label"
    (indexed / "index.kv").write_text("none.jpg 1\n")
    with pytest.raises(SourceError, match="none of the 1 files that it names"):
        ImgSource(indexed)


@pytest.fixture
def pair_folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Twelve places, of which 3, 7 and 10 repeat the image of 0."""
    root = tmp_path / "lfw"
    (root / "imgs").mkdir(parents=True)
    for place in range(12):
        seed = 0 if place in (3, 7, 10) else place
        (root / "imgs" / f"{place}.jpg").write_bytes(make_jpeg(seed))
    np.save(root / "pair_label.npy", np.array([1, 0, 1, 0, 1, 0], bool))
    return root


def test_a_pair_folder_gives_what_its_bin_gives(pair_folder: Path) -> None:
    images = [(pair_folder / "imgs" / f"{place}.jpg").read_bytes() for place in range(12)]
    write_bin(pair_folder.with_suffix(".bin"), images, [True, False] * 3)
    ours, peer = ImgSource(pair_folder), BinSource(pair_folder.with_suffix(".bin"))
    assert (ours.content, ours.classes, ours.table_names) == ("pairs", None, ("pairs",))
    assert len(ours) == len(peer) == 9 and ours.groups() == peer.groups()
    assert [row[:3] for row in rows(ours)] == [(k, -1, None) for k in range(9)]
    theirs = [bytes(r.image) for r in peer.part(0, 9).read() if isinstance(r, SourceRecord)]
    assert [row[3] for row in rows(ours)] == theirs
    assert ours.sizes().tolist() == peer.sizes().tolist()
    for positions in (np.arange(9), np.array([8, 0, 1, 2, -1, 3, 4, 5, 6])):
        pairs, expected = ours.tables(positions)["pairs"], peer.tables(positions)["pairs"]
        np.testing.assert_array_equal(pairs, expected)
        assert pairs.dtype == expected.dtype
    (notice,) = ours.notices
    assert "1 of 6 pairs are left out" in notice
    described, theirs_described = ours.describe(), peer.describe()
    for key in ("pairs", "images", "content_xxh3_128", "issame_xxh3_128"):
        assert described[key] == theirs_described[key]
    (refusal,) = [ours.part(4, 5).refuse(record, "why") for record in ours.part(4, 5).read()]
    assert refusal.file == "imgs/5.jpg"


def test_pair_folders_that_do_not_add_up(pair_folder: Path, make_jpeg: MakeJpeg) -> None:
    imgs, labels = pair_folder / "imgs", pair_folder / "pair_label.npy"
    (imgs / "README.txt").write_text("passed over")
    (imgs / "5.png").write_bytes(make_jpeg(1))
    with pytest.raises(SourceError, match=r"5\.(jpg|png) and 5\.(jpg|png) have the same number"):
        ImgSource(pair_folder)
    (imgs / "5.png").unlink()
    (imgs / "12.jpg").write_bytes(make_jpeg(1))
    with pytest.raises(
        SourceError, match="6 pairs, so that images 0 to 11 are needed; imgs has 13"
    ):
        ImgSource(pair_folder)
    (imgs / "12.jpg").unlink()
    (imgs / "4.jpg").unlink()
    with pytest.raises(SourceError, match="imgs has 11 and lacks 4: fetch"):
        ImgSource(pair_folder)
    (imgs / "4.jpg").symlink_to("/etc/hostname")
    with pytest.raises(SourceError, match=r"imgs/4\.jpg: it lies outside"):
        ImgSource(pair_folder)
    for bad in (np.zeros((6, 1), bool), np.array([0, 2]), np.array([], bool), np.array(["a"])):
        np.save(labels, bad)
        with pytest.raises(SourceError, match=r"pair_label\.npy: holds .*expected one flag a pair"):
            ImgSource(pair_folder)
    np.save(labels, np.array([{}], object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"pair_label\.npy: cannot be read"):
        ImgSource(pair_folder)
    labels.write_bytes(b"")
    with pytest.raises(SourceError, match=r"pair_label\.npy: cannot be read"):
        ImgSource(pair_folder)


def test_a_tree_of_odd_images(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "odd-images").iterdir():
        folder = tmp_path / "odd" / file.stem
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    source = ImgSource(tmp_path / "odd")
    assert source.notices == [
        f"{tmp_path / 'odd'}: 1 files that are no images by their names were passed over, first "
        "'LICENSE/LICENSE.pillow'"
    ]
    refused = {}
    for record in read_all(source):
        assert isinstance(record, SourceRecord)
        try:
            ImageCheck().look(record.image)
        except DecodeError as error:
            refused[record.name] = str(error)
    assert len(source) == 12
    assert set(refused) == {
        "broken_data_stream/broken_data_stream.png",
        "decompression_bomb/decompression_bomb.gif",
        "junk_jpeg_header/junk_jpeg_header.jpg",
        "truncated_jpeg/truncated_jpeg.jpg",
    }
    assert "FACEPACK_MAX_PIXELS" in refused["decompression_bomb/decompression_bomb.gif"]


def test_links_in_a_circle_are_passed_over(tree: Path) -> None:
    labels = ImgSource(tree).part(0, 1).identity_names()
    for name in ("loop", "loop.jpg"):
        (tree / name).symlink_to(name)
        (tree / labels[0] / name).symlink_to(name)
    source = ImgSource(tree)
    assert any("2 files that are no images" in notice for notice in source.notices)
    assert any("1 images that lie in no folder" in notice for notice in source.notices)
    refusals = [r for r in source.part(0, len(source)).read() if isinstance(r, Refusal)]
    assert [(r.file, r.reason) for r in refusals] == [
        (f"{labels[0]}/loop.jpg", "the file is missing")
    ]
    (tree / "list.kv").write_text(f"{next(source.part(0, 1).entries()).name} 0\n")
    assert "were passed over" in ImgSource(tree, index=tree / "list.kv").notices[0]


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|b1', 'fortran_order': False, 'shape': (10000000000000,), }",
        b"{'descr': ('",
        b"{" * 200,
    ],
)
def test_flags_that_claim_too_much_are_refused(header: bytes, pair_folder: Path) -> None:
    size = len(header).to_bytes(2, "little")
    (pair_folder / "pair_label.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + header)
    with pytest.raises(SourceError, match=r"pair_label\.npy: cannot be read"):
        ImgSource(pair_folder)
