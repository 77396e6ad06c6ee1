"""Which records of a .rec are images, in every layout that writers leave behind."""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facepack.convert.formats.rec.framing import FramingError
from facepack.convert.formats.rec.layout import RecLayout, announces, read_layout, read_property
from facepack.convert.formats.rec.recordio import (
    RecordReader,
    RecordWriter,
    class_label,
    pack_header,
    unpack_header,
)
from facepack.convert.formats.rec.source import RecPart, RecSource
from facepack.convert.source import Refusal
from facepack.errors import SourceError

DATA = Path(__file__).parents[4].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")

Records = list[tuple[int, bytes]]


def image(label: float | list[float], key: int, size: int = 700) -> tuple[int, bytes]:
    return key, pack_header(label, key) + bytes([0xFF, 0xD8]) + bytes(size)


def blank(label: float | list[float], key: int) -> tuple[int, bytes]:
    return key, pack_header(label, key)


IMAGES = [image(label, key) for key, label in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 1))]
IDENTITIES = [blank([1, 3], 6), blank([3, 6], 7)]
HEADER = blank([6, 8], 0)


def write(
    folder: Path, records: Records, *, index: bool = True, property: str | None = "2,112,112\n"
) -> Path:
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for key, payload in records:
            writer.write(key, payload)
    if not index:
        (folder / "train.idx").unlink()
    if property is not None:
        (folder / "property").write_text(property)
    return folder


def labels(layout: RecLayout) -> list[int]:
    with RecordReader(layout.rec) as reader:
        return [class_label(unpack_header(p)) for p in reader.iter_at(layout.offsets)]


@pytest.mark.parametrize("index", [True, False], ids=["idx", "no-idx"])
@pytest.mark.parametrize(
    ("records", "header", "identities"),
    [
        ([HEADER, *IMAGES, *IDENTITIES], 0, 2),
        ([*IMAGES, HEADER, *IDENTITIES], 5, 2),
        ([*IMAGES, *IDENTITIES, HEADER], 7, 2),
        ([HEADER, *IMAGES], 0, 0),
        # One that has the classes where the end of the identities should be.
        ([*IMAGES, blank([6, 2], 0)], 5, 0),
        ([*IMAGES, *IDENTITIES], None, 2),
        (IMAGES, None, 0),
        ([image(0, 0), *IMAGES], None, 0),
        ([HEADER, *IDENTITIES, *IMAGES], 0, 2),
    ],
    ids=[
        "header-first",
        "header-after-images",
        "header-last",
        "no-identities",
        "classes-in-header",
        "no-header",
        "images-only",
        "key-0-is-an-image",
        "identities-before-images",
    ],
)
def test_the_kinds_of_layout(
    tmp_path: Path, records: Records, header: int | None, identities: int, index: bool
) -> None:
    layout = read_layout(write(tmp_path, records, index=index))
    with RecordReader(tmp_path / "train.rec") as reader:
        offsets = reader.offsets()
        ends = [*offsets[1:].tolist(), reader.size]
    images = [n for n, (_, payload) in enumerate(records) if unpack_header(payload).image]
    assert len(layout) == len(images)
    assert layout.offsets.tolist() == offsets[images].tolist()
    assert layout.extents.tolist() == [ends[n] - offsets[n] for n in images]
    assert layout.keys.tolist() == ([records[n][0] for n in images] if index else images)
    assert layout.header_offset == (None if header is None else offsets[header])
    assert len(layout.identity_offsets) == identities
    assert (layout.classes, layout.image_size) == (2, (112, 112))
    assert layout.file_size == ends[-1]
    assert layout.rec == tmp_path / "train.rec"
    assert layout.keys_unique
    if index:
        assert layout.index == tmp_path / "train.idx"
        assert layout.notices == ()
    else:
        assert layout.index is None
        assert layout.notices == (f"{tmp_path}/train.idx is absent: train.rec was scanned",)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    records=st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 400)), min_size=1, max_size=12
    ),
    header=st.integers(0, 12) | st.none(),
    index=st.booleans(),
)
def test_any_layout_as_a_twin_that_reads_every_record(
    tmp_path: Path, records: list[tuple[bool, int, int]], header: int | None, index: bool
) -> None:
    made = [
        image(list(range(flag)), key, size) if has_image else blank(list(range(flag)), key)
        for key, (has_image, flag, size) in enumerate(records, start=1)
    ]
    count = sum(has_image for has_image, _, _ in records)
    if header is not None:
        made.insert(header, blank([count + 1, 0], 0))
    (tmp_path / "train.idx").unlink(missing_ok=True)
    write(tmp_path, made, index=index)
    with RecordReader(tmp_path / "train.rec") as reader:
        twin = [o for o in reader.offsets().tolist() if unpack_header(reader.read_at(o)).image]
    if not twin:
        with pytest.raises(SourceError, match=r"none of its .* records holds an image"):
            read_layout(tmp_path)
        return
    layout = read_layout(tmp_path)
    assert layout.offsets.tolist() == twin
    blanks = len(layout.identity_offsets) + (layout.header_offset is not None)
    assert blanks == len(made) - len(twin)


def test_vector_labels(tmp_path: Path) -> None:
    images = [image([label, 1], key) for key, label in ((1, 0), (2, 1), (3, 1))]
    layout = read_layout(write(tmp_path, [blank([4, 6], 0), *images, *IDENTITIES]))
    assert len(layout) == 3
    assert labels(layout) == [0, 1, 1]


def test_images_with_many_labels_are_images(tmp_path: Path) -> None:
    """``im2rec --pack-label`` sets the flag of every record, which others take for a header."""
    images = [image([key, *range(80)], key) for key in range(3)]
    layout = read_layout(write(tmp_path, images))
    assert layout.keys.tolist() == [0, 1, 2]
    assert layout.header_offset is None
    assert labels(layout) == [0, 1, 2]


def test_shuffled_keys_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    order = [3, 1, 5, 2, 4]
    layout = read_layout(write(tmp_path, [HEADER, *(IMAGES[key - 1] for key in order)]))
    assert layout.keys.tolist() == order
    assert (np.diff(layout.offsets) > 0).all()


def test_shuffled_index_lines_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, [HEADER, *IMAGES, *IDENTITIES])
    expected = read_layout(tmp_path)
    lines = (tmp_path / "train.idx").read_bytes().splitlines(keepends=True)
    (tmp_path / "train.idx").write_bytes(b"".join(lines[::2] + lines[1::2]))
    layout = read_layout(tmp_path)
    assert layout.keys.tolist() == expected.keys.tolist()
    assert layout.offsets.tolist() == expected.offsets.tolist()
    assert layout.header_offset == expected.header_offset


def keep_lines(folder: Path, rows: Iterable[int]) -> None:
    """Leave only these lines in the index."""
    lines = (folder / "train.idx").read_bytes().splitlines(keepends=True)
    (folder / "train.idx").write_bytes(b"".join(lines[row] for row in rows))


def test_records_that_the_index_omits_are_found(tmp_path: Path) -> None:
    write(tmp_path, [HEADER, *IMAGES, *IDENTITIES])
    full = read_layout(tmp_path)
    keep_lines(tmp_path, (0, 2, 4))
    layout = read_layout(tmp_path)
    assert layout.keys.tolist() == [5, 2, 6, 4, 7]  # those without a line are numbered on
    assert layout.offsets.tolist() == full.offsets.tolist()
    assert layout.extents.tolist() == full.extents.tolist()
    assert layout.identity_offsets.tolist() == full.identity_offsets.tolist()
    assert layout.header_offset == 0 and labels(layout) == [0, 0, 1, 1, 1]
    (notice,) = layout.notices
    assert "train.idx: lists 2 images and omits 3 more, which are taken too" in notice
    assert "--only-indexed" in notice


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), count=st.integers(1, 40), header=st.integers(0, 40) | st.none())
def test_whatever_lines_are_missing_as_a_twin_that_scans(
    tmp_path: Path, data: st.DataObject, count: int, header: int | None
) -> None:
    """Files of fewer records than lines are tried: every gap is found."""
    made = [image(key, key, data.draw(st.integers(300, 3000))) for key in range(1, count + 1)]
    if header is not None:
        made.insert(header, blank([count + 1, 0], 0))
    write(tmp_path, made)
    rows = data.draw(st.sets(st.integers(0, len(made) - 1), min_size=1))
    keep_lines(tmp_path, data.draw(st.permutations(sorted(rows))))
    with RecordReader(tmp_path / "train.rec") as reader:
        twin = [o for o in reader.offsets().tolist() if unpack_header(reader.read_at(o)).image]
    listed = [made[row][0] for row in sorted(rows)]
    assert read_layout(tmp_path).offsets.tolist() == twin
    if any(listed):
        chosen = read_layout(tmp_path, only_indexed=True)
        assert chosen.keys.tolist() == [key for key in listed if key]


def test_an_index_of_images_alone_omits_none(tmp_path: Path) -> None:
    write(tmp_path, [HEADER, *IMAGES, *IDENTITIES])
    keep_lines(tmp_path, range(1, 6))
    layout = read_layout(tmp_path)
    assert layout.keys.tolist() == [1, 2, 3, 4, 5] and layout.notices == ()
    assert len(layout.identity_offsets) == 3  # the header has no key to be known by


def test_a_header_that_announces_more_leads_to_a_closer_look(tmp_path: Path) -> None:
    """One line of 2,000 is missing, the keys are those of a full index, and no line that is tried
    shows it; without a header the reading stops there."""
    images = [image(0, key, 100 if 1000 <= key <= 1003 else 700) for key in range(1, 2001)]
    for k, records in enumerate(([blank([2001, 2003], 0), *images], images)):
        folder = tmp_path / str(k)
        folder.mkdir()
        write(folder, records)
        lines = (folder / "train.idx").read_text().splitlines()
        offsets = [line.split("\t")[1] for line in lines]
        del offsets[1001]
        lines = [f"{key}\t{offset}\n" for key, offset in enumerate(offsets, start=k)]
        (folder / "train.idx").write_text("".join(lines))
    assert len(read_layout(tmp_path / "0")) == 2000
    source = RecSource(tmp_path / "1")
    with RecordReader(tmp_path / "1" / "train.rec") as reader:
        offset = reader.offsets()[1001]
    for read in (RecPart.read, RecPart.read_runs, RecPart.entries):
        for start, stop in ((0, 1999), (1000, 1001)):
            with pytest.raises(SourceError, match=f"byte {offset}: a record begins that .* omits"):
                list(read(source.part(start, stop)))
        for start, stop in ((0, 1000), (1001, 1999)):
            assert list(read(source.part(start, stop)))
    assert len(list(RecSource(tmp_path / "1", only_indexed=True).part(0, 1999).read())) == 1999


def test_an_index_is_followed_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, [HEADER, *IMAGES, *IDENTITIES])
    keep_lines(tmp_path, (0, 2, 4))
    layout = read_layout(tmp_path, only_indexed=True)
    assert layout.keys.tolist() == [2, 4]
    # Key 0 is asked though the records left out behind it could hide an image.
    assert layout.header_offset == 0
    assert labels(layout) == [0, 1]
    announced, ends = layout.notices
    assert announced.endswith("announces 5 images, 2 were found by train.idx")
    assert "816 bytes at the ends of train.rec belong to no line" in ends


def test_a_blank_record_hidden_by_a_gap_is_met_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, [IMAGES[0], blank([1, 3], 9), *IMAGES[1:]])
    lines = (tmp_path / "train.idx").read_bytes().splitlines(keepends=True)
    (tmp_path / "train.idx").write_bytes(b"".join(lines[n] for n in (0, 1, 3)))
    layout = read_layout(tmp_path, only_indexed=True)
    assert layout.keys.tolist() == [1, 9, 3]
    with RecordReader(layout.rec) as reader:
        images = [bool(unpack_header(p).image) for p in reader.iter_at(layout.offsets)]
    assert images == [True, False, True]


def test_damage_without_an_index_is_told_with_what_would_help(tmp_path: Path) -> None:
    """Where nothing lists the records, none can be found behind one that is broken."""
    rec = write(tmp_path, IMAGES) / "train.rec"
    whole, index = rec.read_bytes(), (tmp_path / "train.idx").read_bytes()
    first, third = read_layout(tmp_path).offsets[[0, 2]].tolist()
    (tmp_path / "train.idx").unlink()
    for begin, at, flaw, remedy in (
        (third, third, b"none", "no .idx tells where .* fetch .* or put its .idx beside it"),
        (third, third + 4, b"\xff\xff\xff\x1f", "no .idx tells where .* put its .idx beside it"),
        (first, first, b"PK\3\4", "this is not a RecordIO file, .*: fetch"),
    ):
        rec.write_bytes(whole[:at] + flaw + whole[at + 4 :])
        with pytest.raises(FramingError, match=rf"train\.rec: byte {begin}: .*{remedy}"):
            read_layout(tmp_path)
    rec.write_bytes(whole[:third] + b"none" + whole[third + 4 :])
    (tmp_path / "train.idx").write_bytes(index)  # the remedy helps
    refused = [r for r in RecSource(tmp_path).part(0, 5).read() if isinstance(r, Refusal)]
    assert [(r.ordinal, r.key) for r in refused] == [(2, "3")]
    assert "if the .idx was made for another file" in refused[0].remedy


def test_an_index_is_not_taken_for_its_rec(tmp_path: Path) -> None:
    folder = write(tmp_path, [HEADER, *IMAGES, *IDENTITIES])
    with pytest.raises(SourceError, match=r"is the index of a \.rec: pass .*train\.rec, or its"):
        read_layout(folder / "train.idx")


def test_keys_that_repeat_are_noticed(tmp_path: Path) -> None:
    layout = read_layout(write(tmp_path, [*IMAGES, *IMAGES[:2]]))
    assert len(layout) == 7
    (notice,) = layout.notices
    assert "2 keys occur more than once; every image is taken" in notice
    assert not layout.keys_unique


def test_a_header_that_announces_another_number_is_noticed(tmp_path: Path) -> None:
    layout = read_layout(write(tmp_path, [blank([4, 6], 0), *IMAGES]))
    assert len(layout) == 5
    assert layout.notices[0].endswith("the header record announces 3 images, 5 were found")


@pytest.mark.parametrize("payload", [b"", bytes(23), struct.pack("<IfQQ", 9, 0, 0, 0)])
def test_a_record_too_short_for_its_header_is_left_to_the_reading(
    tmp_path: Path, payload: bytes
) -> None:
    layout = read_layout(write(tmp_path, [*IMAGES, (6, payload)]))
    assert layout.keys.tolist() == [1, 2, 3, 4, 5, 6]


class TestLargeNumbers:
    """float32 skips integers above 2^24; ranges come from the index, never from the header."""

    @pytest.mark.parametrize(
        ("label", "images"),
        [
            (17_186_136.0, 17_186_134),
            (42_474_556.0, 42_474_556),
            (42_474_560.0, 42_474_557),
            (2.0**24, 2**24 - 1),
            (2.0**24, 2**24),
            (8.0, 7),
        ],
    )
    def test_the_header_agrees_as_well_as_it_can(self, label: float, images: int) -> None:
        written = unpack_header(pack_header([images + 1, 0], 0)).labels[0]
        assert written == label
        assert announces(label, images)

    @pytest.mark.parametrize(
        ("label", "images"),
        [
            (17_186_136.0, 17_186_137),
            (42_474_560.0, 42_474_553),
            (8.0, 8),
            (float("nan"), 7),
            (float("inf"), 7),
        ],
    )
    def test_the_header_disagrees(self, label: float, images: int) -> None:
        assert not announces(label, images)

    @pytest.mark.parametrize("last", [17_186_134, 42_474_557])
    def test_a_made_index(self, tmp_path: Path, last: int) -> None:
        """The records at the ends of a file of millions, at their keys and beyond 32 bits."""
        far = 250 << 30
        first = [blank([last + 1, last + 3], 0), image(7, 1)]
        end = [image(8, last - 1), image(9, last), blank([1, last], last + 1)]
        end.append(blank([last, last + 1], last + 2))
        records = []
        for part, base in ((first, 0), (end, far)):
            write(tmp_path, part)
            data = (tmp_path / "train.rec").read_bytes()
            for line in (tmp_path / "train.idx").read_text().splitlines():
                key, offset = map(int, line.split())
                records.append((key, base + offset))
            with (tmp_path / "sparse").open("r+b" if base else "wb") as file:
                file.seek(base)
                file.write(data)
            if not base:
                # What a reader looks for behind the last record before the hole.
                with (tmp_path / "sparse").open("ab") as file:
                    file.write(bytes.fromhex("0a23d7ce"))
        (tmp_path / "sparse").replace(tmp_path / "train.rec")
        index = "".join(f"{key}\t{offset}\n" for key, offset in records)
        (tmp_path / "train.idx").write_text(index)

        layout = read_layout(tmp_path, only_indexed=True)  # the hole looks like a record
        assert layout.keys.tolist() == [1, last - 1, last]
        assert layout.offsets.tolist() == [records[n][1] for n in (1, 2, 3)]
        assert labels(layout) == [7, 8, 9]
        assert layout.header_offset == 0
        assert layout.identity_offsets.tolist() == [records[4][1], records[5][1]]
        rounded = np.float32(last + 1).item() - 1
        assert layout.notices[0].endswith(
            f"announces {rounded:.0f} images, 3 were found by train.idx"
        )


class TestProperty:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("85742,112,112\n", (85742, (112, 112))),
            ("85742,112,96", (85742, (112, 96))),
            (" 10572 , 112, 112 \r\n", (10572, (112, 112))),
            ("93431,112,112,5179510\n", (93431, (112, 112))),
            ("93431,112,112\n5179510\n", (93431, (112, 112))),
            ("1000,112,112\n99\nshuffled\n2018-03-21 10:11:12.345678\n", (1000, (112, 112))),
            ("1000,112,112,shuffled,2018-03-21 10:11:12\n", (1000, (112, 112))),
            ("5,112,112 shuffled", (5, (112, 112))),
            ("5 112 112\n", (5, (112, 112))),
            ("5\t112\t96 400 2018-03-21 10:11:12", (5, (112, 96))),
        ],
    )
    def test_what_writers_leave(
        self, tmp_path: Path, text: str, expected: tuple[int, tuple[int, int]]
    ) -> None:
        (tmp_path / "property").write_text(text)
        assert read_property(tmp_path / "property") == expected

    def test_none(self, tmp_path: Path) -> None:
        assert read_property(tmp_path / "property") == (None, None)
        layout = read_layout(write(tmp_path, IMAGES, property=None))
        assert (layout.classes, layout.image_size) == (None, None)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "85742",
            "85742,112",
            "0,112,112",
            "5 112",
            "-1,112,112",
            "a,b,c",
            "1.5,112,112",
            "\xff",
        ],
    )
    def test_what_no_writer_leaves(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "property").write_text(text)
        with pytest.raises(SourceError) as raised:
            read_property(tmp_path / "property")
        assert "expected classes,height,width such as 85742,112,112" in str(raised.value)
        assert "remove the file and the classes are counted" in str(raised.value)


class TestFaults:
    def test_a_rec_by_its_path(self, tmp_path: Path) -> None:
        write(tmp_path, IMAGES)
        for suffix in (".rec", ".idx"):
            (tmp_path / f"train{suffix}").rename(tmp_path / f"other{suffix}")
        assert len(read_layout(tmp_path / "other.rec")) == 5
        with pytest.raises(SourceError, match=r"holds no train\.rec; pass one.*: other\.rec"):
            read_layout(tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"holds no train\.rec; pass a \.rec or its folder"):
            read_layout(tmp_path)

    def test_an_absent_path(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"none\.rec: cannot be read: No such file"):
            read_layout(tmp_path / "none.rec")

    def test_no_images(self, tmp_path: Path) -> None:
        write(tmp_path, [HEADER, *IDENTITIES])
        with pytest.raises(SourceError, match="none of its 3 records holds an image"):
            read_layout(tmp_path)

    def test_an_empty_index(self, tmp_path: Path) -> None:
        write(tmp_path, IMAGES)
        (tmp_path / "train.idx").write_bytes(b"")
        with pytest.raises(SourceError, match=r"the index is empty; remove it"):
            read_layout(tmp_path)

    @pytest.mark.parametrize("offset", [10**12, 6])
    def test_an_index_that_points_outside(self, tmp_path: Path, offset: int) -> None:
        write(tmp_path, IMAGES)
        with (tmp_path / "train.idx").open("a") as file:
            file.write(f"77\t{offset}\n")
        with pytest.raises(SourceError) as raised:
            read_layout(tmp_path)
        message = str(raised.value)
        assert f"train.idx: line 6: key 77 points at byte {offset}, which is no record" in message
        assert "train.rec (3680 bytes" in message
        assert "remove the index and the .rec will be scanned" in message

    def test_a_rec_that_is_cut_short(self, tmp_path: Path) -> None:
        write(tmp_path, IMAGES)
        os.truncate(tmp_path / "train.rec", 2900)
        with pytest.raises(SourceError, match=r"line 5: key 5 points at byte 2944.*cut short"):
            read_layout(tmp_path)
        os.truncate(tmp_path / "train.rec", 2800)
        (tmp_path / "train.idx").unlink()
        with pytest.raises(SourceError, match=r"train\.rec: byte 2208: .* reaches to byte 2944"):
            read_layout(tmp_path)

    def test_an_index_of_another_file(self, tmp_path: Path) -> None:
        write(tmp_path, [image(0, key, 300) for key in range(9)])
        index = (tmp_path / "train.idx").read_bytes()
        write(tmp_path, [image(0, key) for key in range(9)])
        (tmp_path / "train.idx").write_bytes(index)
        with pytest.raises(SourceError) as raised:
            read_layout(tmp_path)
        assert "train.idx: line 2: key 1: " in str(raised.value)
        assert "not the start of a record" in str(raised.value)

    def test_lines_that_are_there_twice(self, tmp_path: Path) -> None:
        expected = read_layout(write(tmp_path, IMAGES))
        lines = (tmp_path / "train.idx").read_bytes().splitlines(keepends=True)
        (tmp_path / "train.idx").write_bytes(b"".join(lines + lines[:2]))
        layout = read_layout(tmp_path)
        assert layout.keys.tolist() == expected.keys.tolist()
        assert layout.notices == (f"{tmp_path}/train.idx: 2 lines are there twice",)

    def test_only_indexed_without_an_index(self, tmp_path: Path) -> None:
        write(tmp_path, IMAGES, index=False)
        with pytest.raises(SourceError, match="is absent, and --only-indexed goes by it"):
            read_layout(tmp_path, only_indexed=True)

    def test_two_lines_for_one_record(self, tmp_path: Path) -> None:
        write(tmp_path, IMAGES)
        with (tmp_path / "train.idx").open("a") as file:
            file.write("77\t736\n")
        with pytest.raises(SourceError, match="keys 2 and 77 both point at byte 736"):
            read_layout(tmp_path)


@needs_data
@pytest.mark.parametrize(
    ("name", "images", "classes", "header", "flag"),
    [("cfp-rec", 7_000, 500, 31_269_904, 0), ("lfw-rec", 9_164, 1_680, 0, 2)],
)
@pytest.mark.parametrize("index", [True, False], ids=["idx", "no-idx"])
def test_real_files(
    tmp_path: Path, name: str, images: int, classes: int, header: int, flag: int, index: bool
) -> None:
    for file in ("train.rec", "property", *(["train.idx"] if index else [])):
        (tmp_path / file).symlink_to(DATA / name / file)
    layout = read_layout(tmp_path)
    assert len(layout) == images
    assert (layout.classes, layout.image_size) == (classes, (112, 112))
    assert layout.header_offset == header
    assert len(layout.identity_offsets) == classes
    seen = set()
    with RecordReader(layout.rec) as reader:
        for payload in reader.iter_at(layout.offsets):
            record = unpack_header(payload)
            assert record.flag == flag
            assert record.image[:3] == b"\xff\xd8\xff"
            seen.add(class_label(record))
    assert seen == set(range(classes))
