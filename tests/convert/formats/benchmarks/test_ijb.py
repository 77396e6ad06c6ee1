from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.formats.benchmarks import ijb
from facepack.convert.formats.benchmarks.ijb import IjbSource, read_integers
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.source import Refusal
from facepack.errors import PackError, SourceError
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]


@pytest.fixture
def ijbb(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Eight images of four templates; the two lists name them in different orders."""
    root = tmp_path / "IJBB"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    names = [f"{k}.jpg" for k in (3, 1, 10, 2, 4, 7, 5, 6)]
    for k, name in enumerate(names):
        (root / "loose_crop" / name).write_bytes(make_jpeg(k))
    points = [
        f"{name} {' '.join(f'{k + c / 4:.3f}' for c in range(10))} 0.{k}5\n"
        for k, name in enumerate(names)
    ]
    (root / "meta/ijbb_name_5pts_score.txt").write_text("".join(points))
    media = [f"{name} {100 + k // 2} {7000 + k}\n" for k, name in enumerate(names)]
    (root / "meta/ijbb_face_tid_mid.txt").write_text("".join(reversed(media)))
    (root / "meta/ijbb_template_pair_label.txt").write_text("100 101 1\n100 103 0\n")
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n"
    gallery = "100,1,3.jpg,0\n100,1,1.jpg,0\n101,2,10.jpg,0\n"
    (root / "meta/ijbb_1N_gallery_S1.csv").write_text(header + gallery)
    probe = "102,1,img/44.jpg,9\n103,2,6.jpg,9\n"
    (root / "meta/ijbb_1N_probe_mixed.csv").write_text(header + probe)
    return root


def test_images_and_their_tables(ijbb: Path, make_jpeg: MakeJpeg) -> None:
    source = IjbSource(ijbb)
    assert (source.content, source.classes, len(source)) == ("templates", None, 8)
    assert source.groups() == [("IJBB", 0, 8)]
    records = list(pickle.loads(pickle.dumps(source.part(2, 8))).read())
    names = [f"{k}.jpg" for k in (3, 1, 10, 2, 4, 7, 5, 6)]
    for k, record in enumerate(records, start=2):
        assert record == SourceRecord(k, make_jpeg(k), -1, names[k])
    assert source.sizes().tolist() == [len(make_jpeg(k)) for k in range(8)]
    positions = np.array([6, 5, 4, 3, -1, 2, 0, 1])
    tables = source.tables(positions)
    assert (
        tuple(tables)
        == source.table_names
        == (
            "landmarks",
            "scores",
            "template_ids",
            "media_ids",
            "template_pairs",
            "gallery_S1",
            "probe_mixed",
        )
    )
    order = [6, 7, 5, 3, 2, 1, 0]  # the image at each position
    assert tables["template_ids"].tolist() == [100 + k // 2 for k in order]
    assert tables["media_ids"].tolist() == [7000 + k for k in order]
    assert tables["scores"].tolist() == [np.float32(f"0.{k}5") for k in order]
    expected = [[[k + (2 * p) / 4, k + (2 * p + 1) / 4] for p in range(5)] for k in order]
    assert tables["landmarks"].tolist() == expected
    assert tables["template_pairs"].tolist() == [[100, 101, 1], [100, 103, 0]]
    assert tables["gallery_S1"].tolist() == [[100, 1, 6], [100, 1, 5], [101, 2, 4]]
    assert tables["probe_mixed"].tolist() == [[102, 1, -1], [103, 2, 1]]
    for name, kind in (
        *(("landmarks", "float32"), ("scores", "float32"), ("template_ids", "int32")),
        *(("media_ids", "int32"), ("template_pairs", "int32"), ("gallery_S1", "int64")),
    ):
        assert tables[name].dtype == kind
    assert source.notices == [
        "probe_mixed: 1 of 2 rows name no image of loose_crop; their templates are those of "
        "template_ids",
        "1 of 8 images are left out: results do not compare with published ones",
    ]


@pytest.mark.parametrize("order", ["shuffled", "source"])
def test_tables_speak_of_the_images_of_the_pack(
    ijbb: Path, make_jpeg: MakeJpeg, tmp_path: Path, order: str
) -> None:
    (ijbb / "loose_crop/4.jpg").write_bytes(b"no image")  # image 4 of the source
    options = PackOptions(order=order, shard_records=3)
    result = convert_to_pack(IjbSource(ijbb), tmp_path / "pack", options)
    assert (result.packed, result.quarantined) == (7, 1)
    pack = facepack.open(tmp_path / "pack")
    ordinals = {make_jpeg(k): k for k in range(8)}
    with pack.views(range(7)) as images:
        order_of_pack = [ordinals[bytes(image)] for image in images]
    media = np.load(tmp_path / "pack" / "media_ids.npy")
    assert media.tolist() == [7000 + k for k in order_of_pack]
    gallery = np.load(tmp_path / "pack" / "gallery_S1.npy")
    assert [order_of_pack[position] for position in gallery[:, 2]] == [0, 1, 2]


def test_pairs_and_rosters_may_be_absent(ijbb: Path) -> None:
    for path in (*ijbb.glob("meta/*.csv"), ijbb / "meta/ijbb_template_pair_label.txt"):
        path.unlink()
    source = IjbSource(ijbb)
    tables = source.tables(np.arange(8))
    assert tuple(tables) == source.table_names == ijb_tables()
    assert source.notices == []


def ijb_tables() -> tuple[str, ...]:
    return ("landmarks", "scores", "template_ids", "media_ids")


def test_missing_and_odd_files_are_refused(ijbb: Path) -> None:
    (ijbb / "loose_crop/1.jpg").unlink()
    (ijbb / "loose_crop/2.jpg").unlink()
    (ijbb / "loose_crop/2.jpg").symlink_to("/etc/hostname")
    refused = [r for r in IjbSource(ijbb).part(0, 8).read() if isinstance(r, Refusal)]
    assert [(r.ordinal, r.file) for r in refused] == [(1, "1.jpg"), (3, "2.jpg")]
    assert refused[0].reason == "the file is missing" and "link" in refused[1].reason


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "face_tid_mid",
            "10.jpg 101 7002\n",
            "",
            r"1 images are missing from ijbb_face_t.*10\.jpg",
        ),
        ("face_tid_mid", "10.jpg ", "11.jpg ", r"missing from ijbb_name_5pts.*first 11\.jpg"),
        ("face_tid_mid", "10.jpg ", "3.jpg ", r"3\.jpg has more than one line"),
        ("face_tid_mid", "101 7002", "101 x", r"mid\.txt: line 6 is .*a template and a media"),
        ("face_tid_mid", "101 7002", "101 7002 3", r"line 6 is .*expected an image"),
        ("face_tid_mid", "7002", "9999999999", r"line 6 is .*expected an image"),
        ("name_5pts_score", "10.jpg ", "../10.jpg ", r"line 3 is '\.\./10.*ten coordinates"),
        ("name_5pts_score", "10.jpg ", "3.jpg ", r"3\.jpg has more than one line"),
        ("name_5pts_score", " 0.25\n", "\n", r"score\.txt: line 3 is '10\.jpg 2"),
        ("name_5pts_score", " 0.25\n", " nan\n", r"line 3 is .*ten coordinates and a score"),
        ("name_5pts_score", " 0.25\n", " 4e38\n", r"line 3 is .*ten coordinates and a score"),
        ("name_5pts_score", " 0.25\n", " x\n", r"line 3 is .*ten coordinates and a score"),
        ("template_pair_label", "103 0", "103 2", r"label\.txt: line 2 ends with 2; expected 1"),
        ("template_pair_label", "103 0", "103", r"label\.txt: line 2 is '100 103'; expected 3 num"),
        ("1N_gallery_S1", "101,2,", "101,", r"S1\.csv: line 4 is '101,10\.jpg,0'; expected a temp"),
    ],
)
def test_lists_that_are_malformed_or_disagree(
    ijbb: Path, name: str, old: str, new: str, message: str
) -> None:
    suffix = "csv" if name.startswith("1N") else "txt"
    edit(ijbb / "meta" / f"ijbb_{name}.{suffix}", old, new)
    with pytest.raises(SourceError, match=message):
        IjbSource(ijbb)


def test_hidden_lists_are_passed_over(ijbb: Path) -> None:
    (ijbb / "meta/._ijbb_face_tid_mid.txt").write_bytes(b"a fork of macOS")
    assert len(IjbSource(ijbb)) == 8


def test_folders_that_are_no_ijb(ijbb: Path) -> None:
    with pytest.raises(SourceError, match="found none; pass the folder of one set, which holds"):
        IjbSource(ijbb / "meta")
    (ijbb / "meta/ijbc_face_tid_mid.txt").write_text("")
    with pytest.raises(SourceError, match=r"expected one .*, found ijbb_face_tid_mid\.txt, ijbc_"):
        IjbSource(ijbb)
    (ijbb / "meta/ijbc_face_tid_mid.txt").unlink()
    (ijbb / "meta/ijbb_name_5pts_score.txt").write_text("\n")
    with pytest.raises(SourceError, match=r"score\.txt: names no image"):
        IjbSource(ijbb)
    (ijbb / "meta/ijbb_name_5pts_score.txt").unlink()
    with pytest.raises(SourceError, match=r"score\.txt: cannot be read: No such file"):
        IjbSource(ijbb)


def test_a_list_with_an_odd_name_makes_no_table(ijbb: Path) -> None:
    (ijbb / "meta/ijbb_1N_gallery S3.csv").write_text("a,b,c\n")
    with pytest.raises(PackError, match="name 'gallery S3'"):
        IjbSource(ijbb)


def test_sources_that_differ_are_described_differently(ijbb: Path, make_jpeg: MakeJpeg) -> None:
    seen = [IjbSource(ijbb).describe()]
    assert seen[0] == IjbSource(ijbb).describe() and str(ijbb) not in str(seen[0])
    for path, old, new in (
        ("face_tid_mid.txt", "7002", "7003"),
        ("template_pair_label.txt", "103 0", "103 1"),
        ("1N_gallery_S1.csv", "101,2", "101,3"),
    ):
        edit(ijbb / "meta" / f"ijbb_{path}", old, new)
        seen.append(IjbSource(ijbb).describe())
    (ijbb / "loose_crop/1.jpg").write_bytes(make_jpeg(1) + b"x")
    seen.append(IjbSource(ijbb).describe())
    assert len({str(one) for one in seen}) == 5


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_integers_are_read_as_numpy_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: bytes
) -> None:
    monkeypatch.setattr(ijb, "_BLOCK", block)
    rng = np.random.default_rng(block)
    widths = rng.integers(1, 10, (500, 3))
    table = rng.integers(0, 10**widths)
    path = tmp_path / "pairs.txt"
    lines = [b" ".join(b"%d" % number for number in row) for row in table.tolist()]
    for text in (end.join(lines), end.join(lines) + end, end.join(lines) + 3 * end):
        path.write_bytes(text)
        numbers, digest = read_integers(path, 3)
        np.testing.assert_array_equal(numbers, np.loadtxt(path, np.int64))
        assert numbers.dtype == np.int32 and len(digest) == 32
    path.write_bytes(b"")
    assert read_integers(path, 3)[0].shape == (0, 3)


@pytest.mark.parametrize(
    "bad",
    [b"1 2", b"1 2 3 4", b"1  2 3", b" 1 2 3", b"1 2 -3", b"1 2 x", b"1 2 1234567890", b"1\t2\t3"],
)
@pytest.mark.parametrize("block", [16, 1 << 20])
def test_a_malformed_line_of_integers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, bad: bytes
) -> None:
    monkeypatch.setattr(ijb, "_BLOCK", block)
    path = tmp_path / "pairs.txt"
    for line, around in ((7, (6, 8)), (1, (0, 3)), (5, (4, 0))):
        good = b"11 22 1\n"
        path.write_bytes(good * around[0] + bad + b"\n" + good * around[1])
        shown = bad.decode().encode("unicode_escape").decode()
        with pytest.raises(SourceError) as raised:
            read_integers(path, 3)
        assert f"line {line} is '{shown}'; expected 3 numbers" in str(raised.value)
    path.write_bytes(b"1" * 10_000)
    with pytest.raises(SourceError, match="line 1 is '1111"):
        read_integers(path, 3)


def test_real_lists(shared: Path) -> None:
    source = IjbSource(shared / "ijb-like")
    assert len(source) == 1398 and source.notices == []
    tables = source.tables(np.arange(1398))
    assert len(np.unique(tables["template_ids"])) == 260
    assert tables["template_pairs"].shape == (20_774, 3)
    for name in ("gallery_G1", "gallery_G2"):
        assert len(np.unique(tables[name][:, 1])) == 50
    # A row of a roster and its image are of the same template.
    for name in ("gallery_G1", "gallery_G2", "probe_mixed"):
        rows = tables[name]
        np.testing.assert_array_equal(tables["template_ids"][rows[:, 2]], rows[:, 0])
    meta = shared / "ijb-like" / "meta"
    np.testing.assert_array_equal(
        tables["template_pairs"], np.loadtxt(meta / "ijbc_template_pair_label.txt", np.int64)
    )
    points = np.loadtxt(meta / "ijbc_name_5pts_score.txt", np.float32, usecols=range(1, 12))
    np.testing.assert_array_equal(tables["landmarks"].reshape(-1, 10), points[:, :10])
    np.testing.assert_array_equal(tables["scores"], points[:, 10])
    assert all(isinstance(record, SourceRecord) for record in source.part(0, 50).read())


def test_a_list_that_is_neither_gallery_nor_probes_takes_no_table_s_place(ijbb: Path) -> None:
    (ijbb / "meta/ijbb_1N_scores.csv").write_text("T,S,F\n100,1,3.jpg\n")
    source = IjbSource(ijbb)
    assert source.tables(np.arange(8))["scores"].shape == (8,)
    assert source.table_names.count("scores") == 1
    assert source.notices[0] == "ijbb_1N_scores.csv: neither a gallery nor probes: passed over"


def test_pairs_of_templates_without_images_are_counted(ijbb: Path) -> None:
    edit(ijbb / "meta/ijbb_template_pair_label.txt", "100 103 0", "100 104 0")
    assert IjbSource(ijbb).notices[0] == (
        "ijbb_template_pair_label.txt: 1 of 2 pairs name a template that has no image"
    )


def test_a_list_of_pairs_that_is_a_broken_link_is_an_error(ijbb: Path) -> None:
    pairs = ijbb / "meta/ijbb_template_pair_label.txt"
    pairs.unlink()
    assert "template_pairs" not in IjbSource(ijbb).table_names
    pairs.symlink_to("nowhere")  # it should be there: nothing is left out in silence
    with pytest.raises(SourceError, match=r"template_pair_label\.txt"):
        IjbSource(ijbb)
