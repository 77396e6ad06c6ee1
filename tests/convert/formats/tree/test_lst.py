from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.formats.tree.align import TEMPLATE, align_face
from facepack.convert.formats.tree.list_source import LstSource
from facepack.convert.formats.tree.listing import tell_form
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.list_lines import LineError, ListForm, read_face2rec2
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.images import decode, read_header
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]
KINDS = ("im2rec", "face2rec2", "kv")


def read_all(source: LstSource) -> list[SourceRecord | Refusal]:
    """All records, through parts as workers get them, which do not cross lists."""
    records: list[SourceRecord | Refusal] = []
    for _, start, stop in source.groups():
        for first in range(start, stop, 3):
            part = pickle.loads(pickle.dumps(source.part(first, min(first + 3, stop))))
            records += part.read()
            assert len(list(part.entries())) == part.stop - part.start
    return records


def good(records: list[SourceRecord | Refusal]) -> list[SourceRecord]:
    assert not [record for record in records if isinstance(record, Refusal)]
    return [record for record in records if isinstance(record, SourceRecord)]


@pytest.fixture
def root(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Six images ``m.<k>/<k> face.jpg``."""
    for k in range(6):
        (tmp_path / "set" / f"m.{k}").mkdir(parents=True)
        (tmp_path / "set" / f"m.{k}" / f"{k} face.jpg").write_bytes(make_jpeg(k))
    return tmp_path / "set"


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("12\t0.000000\ta/b.jpg", "im2rec"),
        ("1\t3\ta/b.jpg", "im2rec"),
        ("0\t3.0\t0.5\t7\t1.jpg", "im2rec"),
        ("1\ta/b.jpg\t3", "face2rec2"),
        ("0\ta b/c.jpg\t12\t1\t2\t3\t4", "face2rec2"),
        ("0\t/a/b.jpg\t12\t1\t2\t3\t4" + "\t1.5" * 10, "face2rec2"),
        ("a/b.jpg 3", "kv"),
        ("a b/c d.jpg -1", "kv"),
    ],
)
def test_the_kind_of_a_list_is_told_by_its_columns(tmp_path: Path, line: str, kind: str) -> None:
    assert tell_form(write(tmp_path / "x.lst", line), KINDS) == (ListForm(kind=kind), 0)
    form, begin = tell_form(write(tmp_path / "x.lst", "", "junk", line, end="\r\n"), KINDS)
    assert (form, begin) == (ListForm(kind=kind), 0)


@pytest.mark.parametrize("lines", [(), ("",), ("a.jpg",), ("1\t2\t3",), ("a\tb\tc",), ("\0\xff",)])
def test_what_is_no_list(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match=r"x\.lst: the first line is .*expected idx TAB label"):
        LstSource([write(tmp_path / "x.lst", *lines)])


def test_what_is_no_file_of_lines_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no regular file"):
        LstSource([tmp_path])
    (tmp_path / "long.lst").write_bytes(b"1\t2\t" + b"x" * (1 << 17))
    with pytest.raises(SourceError, match="byte 0: a line of more than 65536 bytes"):
        LstSource([tmp_path / "long.lst"])


def test_im2rec_lists(root: Path, make_jpeg: MakeJpeg) -> None:
    rows = [(40, 3, 3), (41, 0, 0), (7, 12, 5), (8, 3, 1), (9, -1, 2)]
    lines = [f"{idx}\t{label:.6f}\t0.25\t-7\tm.{k}/{k} face.jpg" for idx, label, k in rows]
    source = LstSource([write(root / "train.lst", *lines, "", "")])
    records = good(read_all(source))
    assert [(r.ordinal, r.label, r.name, r.image) for r in records] == [
        (n, label, f"m.{k}/{k} face.jpg", make_jpeg(k)) for n, (_, label, k) in enumerate(rows)
    ]
    assert records[2].extra == {"key": 7, "label_1": 0.25, "label_2": -7.0}
    assert source.groups() == [("train", 0, 5)] and len(source) == 5
    assert source.sizes().tolist() == [len(make_jpeg(k)) for _, _, k in rows]
    assert (source.classes, source.content, source.notices) == (None, "train", [])
    assert source.part(0, 5).identity_names() == {}
    assert list(source.part(1, 3).entries()) == [(0, "m.0/0 face.jpg"), (12, "m.5/5 face.jpg")]
    (kept,) = source.part(1, 4).read(np.array([False, True, False]))
    assert kept == records[2]


def test_an_image_that_several_lines_name_is_told(root: Path) -> None:
    rows = [(0, 3), (1, 3), (2, 5), (1, 4), (0, 3)]
    lines = [f"{k}\t{label}\tm.{k}/{k} face.jpg" for k, label in rows]
    source = LstSource([write(root / "x.lst", "", "junk", *lines, "junk", "more junk")])
    assert source.notices == [
        "x.lst: lines whose image an earlier line names: 2, first 'm.1/1 face.jpg' of line 6: each "
        "is packed under the label of its own line"
    ]
    records = [record for record in read_all(source) if isinstance(record, SourceRecord)]
    assert [record.label for record in records] == [label for _, label in rows]


def test_several_lists_each_from_its_own_folder(root: Path, make_jpeg: MakeJpeg) -> None:
    one = write(root / "train.lst", "1\t5\tm.0/0 face.jpg", "2\t6\tm.1/1 face.jpg")
    two = write(root / "m.2" / "more.lst", "1\t2 face.jpg\t7")
    source = LstSource([one, two])
    assert source.groups() == [("train", 0, 2), ("more", 2, 3)]
    records = good(read_all(source))
    assert [(r.ordinal, r.label, r.image) for r in records] == [
        (k, 5 + k, make_jpeg(k)) for k in range(3)
    ]
    assert [r.extra for r in records] == [{"key": 1}, {"key": 2}, {"aligned": 1}]
    with pytest.raises(SourceError, match=r"train\.lst: is given twice"):
        LstSource([one, root / "m.0/../train.lst"])
    again = root / "again.lst"
    again.write_bytes(one.read_bytes())
    source = LstSource([one, again])
    assert [r.extra for r in good(read_all(source))] == [None] * 4  # a key would name two records


def test_face2rec2_lists(root: Path) -> None:
    points = [f"{value:.2f}" for value in range(10)]
    lines = [
        "1\tm.0/0 face.jpg\t4",
        "0\tm.1/1 face.jpg\t4\t10\t20\t90\t100",
        "\t".join(["0", "m.2/2 face.jpg", "5", "10", "20", "90", "100", *points]),
    ]
    source = LstSource([write(root / "faces.lst", *lines)])
    records = good(read_all(source))
    assert [record.label for record in records] == [4, 4, 5]
    box = {"aligned": 0, "box_1": 10.0, "box_2": 20.0, "box_3": 90.0, "box_4": 100.0}
    assert records[0].extra == {"aligned": 1} and records[1].extra == box
    assert records[2].extra == box | {f"landmark_{k}": k - 1.0 for k in range(1, 11)}
    assert source.notices == [
        "2 of 3 images are not aligned and are packed as they are (--align warps the 1 with "
        "landmarks)"
    ]


def test_landmarks_are_five_x_then_five_y() -> None:
    line = "\t".join(["0", "a.jpg", "1", *"1234", *map(str, TEMPLATE.T.ravel())])
    landmarks = read_face2rec2(line.encode()).landmarks()
    assert landmarks is not None
    np.testing.assert_array_equal(landmarks, TEMPLATE)


def test_aligning(root: Path, make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(7, size=160)
    (root / "big.jpg").write_bytes(image)
    (root / "broken.jpg").write_bytes(image[:3])
    points = TEMPLATE + np.array([12, 30])
    numbers = ["1", "2", "3", "4", *(f"{value:.4f}" for value in points.T.ravel())]
    lines = [
        "\t".join(["0", "big.jpg", "1", *numbers]),
        "\t".join(["1", "big.jpg", "2", *numbers]),
        "0\tbig.jpg\t3",
        "\t".join(["0", "broken.jpg", "4", *numbers]),
        "\t".join(["0", "big.jpg", "5", *"1234", *["7"] * 10]),
    ]
    source = LstSource([write(root / "faces.lst", *lines)], align=True)
    aligned, already, without, broken, flat = read_all(source)
    assert isinstance(aligned, SourceRecord) and isinstance(already, SourceRecord)
    assert aligned.image == align_face(image, points) and aligned.extra == {"aligned": 1}
    crop = decode(image)[30:142, 12:124].astype(int)
    assert np.abs(decode(aligned.image).astype(int) - crop).mean() < 3
    assert already.image == image and already.extra is not None and "box_1" in already.extra
    assert isinstance(without, SourceRecord) and without.image == image
    assert isinstance(broken, Refusal) and broken.reason.startswith("line 4: the jpeg header")
    assert isinstance(flat, Refusal) and "span no face" in flat.reason
    assert source.notices == ["1 of 5 images are not aligned and have no landmarks"]
    assert source.describe()["align"] is True


def test_there_must_be_something_to_align(root: Path) -> None:
    listed = write(root / "faces.lst", "0\tm.0/0 face.jpg\t4")
    with pytest.raises(SourceError, match="nothing to align: leave --align away"):
        LstSource([listed], align=True)


def test_paths_that_leave_the_root_are_refused(root: Path, make_jpeg: MakeJpeg) -> None:
    (root.parent / "secret.jpg").write_bytes(make_jpeg(0))
    (root / "link.jpg").symlink_to("../secret.jpg")
    (root / "out").symlink_to("..")
    listed = write(
        root.parent / "some.lst",
        f"1\t0\t{root}/m.0/0 face.jpg",
        "2\t0\t../secret.jpg",
        f"3\t0\t{root.parent}/secret.jpg",
        "4\t0\tm.0/../../secret.jpg",
        "5\t0\tlink.jpg",
        "6\t0\tout/secret.jpg",
        "7\t0\tnone.jpg",
        "8\t0\t./m.1//1 face.jpg",
        "9\t0\tm.0",
    )
    source = LstSource([listed], root=root)
    records = read_all(source)
    names = [r.name for r in records if isinstance(r, SourceRecord)]
    assert names == ["m.0/0 face.jpg", "m.1/1 face.jpg"]
    reasons = [r.reason.split(": ")[1] for r in records if isinstance(r, Refusal)]
    assert reasons == [
        *["the path leads out of the folder of images"] * 3,
        *["it lies outside the folder of images, or is a link that leads there"] * 2,
        "the file is missing",
        "it is a folder, pipe, socket or device",
    ]
    assert source.sizes().tolist().count(0) == 7
    with pytest.raises(SourceError, match=r"none of the 1 files.*pass the folder that its paths"):
        LstSource([write(root / "x.lst", "1\t0\tset/m.0/0 face.jpg")])


def test_malformed_lines_are_refused_with_file_and_line(root: Path) -> None:
    lines = [
        "1\t0\tm.0/0 face.jpg",
        "x\t0\tm.0/0 face.jpg",
        "2\t0.5\tm.0/0 face.jpg",
        "3\t-2\tm.0/0 face.jpg",
        "4\t100000000\tm.0/0 face.jpg",
        "5\tnan\tm.0/0 face.jpg",
        "",
        "6\t1\tinf\tm.0/0 face.jpg",
        "7\t1",
        "8\t99999999.0\tm.1/1 face.jpg",
    ]
    listed = write(root / "train.lst", *lines)
    records = read_all(LstSource([listed]))
    refused = [record for record in records if isinstance(record, Refusal)]
    assert [record.ordinal for record in refused] == list(range(1, 9))
    content = listed.read_bytes()
    for record in refused:
        assert record.file == "train.lst" and record.remedy.startswith("correct the line")
        assert record.reason.startswith(f"line {record.ordinal + 1}: ")
        assert record.offset is not None
        assert content[record.offset :].startswith(lines[record.ordinal].encode())
        assert str(root) not in str(record)
    assert "label '0.5': allowed are whole numbers, 0 to 99999999, and -1" in refused[1].reason
    assert "'inf' is no number" in refused[6].reason
    last = records[-1]
    assert isinstance(last, SourceRecord) and last.label == 99_999_999
    refusal = LstSource([listed]).part(9, 10).refuse(last, "why")
    assert str(refusal).startswith("train.lst: record 9 at byte") and "line 10: why" in str(refusal)


@pytest.mark.parametrize(
    "line",
    [
        "2\ta.jpg\t1",
        "0\t\t1",
        "0\ta.jpg\tx",
        "0\ta.jpg\t1\t2\t3",
        "0\ta.jpg\t1\t2\t3\t4\tx",
        "0\ta.jpg\t1\t2\t3\t4\t5\t6",
        "0\ta.jpg\t1\t2\t3\t4\t5" + "\tnan" * 10,
    ],
)
def test_malformed_lines_of_face2rec2(line: str) -> None:
    with pytest.raises(LineError):
        read_face2rec2(line.encode())


def test_a_list_or_a_file_that_changes_stops_the_reading(root: Path, make_jpeg: MakeJpeg) -> None:
    listed = write(root / "train.lst", "1\t0\tm.0/0 face.jpg", "2\t1\tm.1/1 face.jpg")
    source = LstSource([listed])
    (root / "m.1" / "1 face.jpg").write_bytes(make_jpeg(1) + b"x")
    with pytest.raises(SourceError, match=r"1 face\.jpg: no longer has \d+ bytes"):
        read_all(source)
    later = listed.stat().st_mtime_ns + 10**9
    os.utime(listed, ns=(later, later))
    with pytest.raises(SourceError, match=r"train\.lst: the list changed.*--overwrite"):
        read_all(source)
    listed.unlink()
    with pytest.raises(SourceError, match=r"train\.lst: cannot be read: No such file"):
        read_all(source)


def test_sources_that_differ_are_described_differently(root: Path, make_jpeg: MakeJpeg) -> None:
    listed = write(root / "train.lst", "1\t0\tm.0/0 face.jpg", "2\t1\tm.1/1 face.jpg")
    seen = [LstSource([listed]).describe()]
    assert seen[0] == LstSource([listed]).describe() and str(root) not in str(seen[0])
    write(listed, "1\t0\tm.0/0 face.jpg", "2\t2\tm.1/1 face.jpg")
    seen.append(LstSource([listed]).describe())
    (root / "m.1" / "1 face.jpg").write_bytes(make_jpeg(1) + b"x")
    seen.append(LstSource([listed]).describe())
    again = root / "again.lst"
    again.write_bytes(listed.read_bytes())
    seen.append(LstSource([listed, again]).describe())
    assert len({str(one) for one in seen}) == 4


def test_alignment_of_real_faces(shared: Path, tmp_path: Path) -> None:
    """A face2rec2 list of loose crops gives the field's aligned faces."""
    folder = shared / "ijb-like" / "loose_crop"
    lines = []
    for line in (shared / "ijb-like/meta/ijbc_name_5pts_score.txt").read_text().splitlines()[:20]:
        name, *numbers = line.split()
        points = np.array(numbers[:10], float).reshape(5, 2)
        lines.append("\t".join(["0", name, "3", *"0011", *map(str, points.T.ravel())]))
    source = LstSource([write(tmp_path / "faces.lst", *lines)], root=folder, align=True)
    for record in good(read_all(source)):
        header = read_header(record.image)
        assert (header.format, header.height, header.width) == ("jpeg", 112, 112)


def test_a_byte_order_mark_is_no_part_of_the_first_line(root: Path) -> None:
    plain = write(root / "plain.lst", "1\t0\tm.0/0 face.jpg", "2\t1\tm.1/1 face.jpg")
    marked = root / "marked.lst"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert good(read_all(LstSource([marked]))) == good(read_all(LstSource([plain])))


def test_blanks_around_tabs_are_no_part_of_a_field(
    tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    """As im2rec takes them away."""
    (tmp_path / "a").mkdir()
    lines = ["0 \t 3 \t a/0.jpg \n", "1\t1\ta/b c.jpg\n"]
    for name in ("0", "b c"):
        (tmp_path / "a" / f"{name}.jpg").write_bytes(make_jpeg(0))
    for name, text in {
        "im2rec.lst": lines,
        "face2rec2.lst": ["1 \t a/0.jpg \t 3\n", "1\ta/b c.jpg\t1\n"],
        "label.txt": ["a/0.jpg \t 3\n", "a/b c.jpg\t1\n"],
    }.items():
        (tmp_path / name).write_text("".join(text))
        part = LstSource([tmp_path / name]).part(0, 2)
        assert list(part.entries()) == [(3, "a/0.jpg"), (1, "a/b c.jpg")]
        assert all(isinstance(record, SourceRecord) for record in part.read())


def test_a_list_of_paddle_is_found(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(make_jpeg(number))
    lines = [f"images/{number}.jpg\t{number // 2}\n" for number in range(4)]
    (tmp_path / "label.txt").write_text("".join(lines))
    for index in (None, tmp_path / "label.txt"):
        source = ImgSource(tmp_path, index=index)
        assert [entry.label for entry in source.part(0, 4).entries()] == [0, 0, 1, 1]
        assert ["label.txt" in notice for notice in source.notices] == [True] * (index is None)
    assert ImgSource(tmp_path, identity_level=1).classes == 1
    for text in ("anna\nben\n", "gone.jpg\t3\n", ""):  # no list of these images
        (tmp_path / "label.txt").write_text(text)
        with pytest.raises(SourceError, match=r"'images' is rather a part.*--index LIST"):
            ImgSource(tmp_path)
