from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.commands.inspect import inspect
from facepack.terminal import printable, table_lines
from facepack.view.summary import label_counts, source_facts, summarize
from facepack.view.summary_text import summary_lines
from facepack.view.survey import hash_images, survey

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


@pytest.fixture
def mixed(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Two sizes, labels with gaps, some without identity, four shards."""
    with facepack.PackWriter(tmp_path / "mixed", shard_records=10, classes=12) as writer:
        for i in range(35):
            label = -1 if i % 7 == 6 else [0, 3, 3, 9][i % 4]
            writer.add(make_jpeg(i, 32 if i % 5 else 48), label)
    return tmp_path / "mixed"


def test_figures_equal_those_counted_record_by_record(mixed: Path) -> None:
    with facepack.open(mixed) as pack:
        figures = summarize(pack)
        labels = [record.label for record in pack]
        counts = [labels.count(label) for label in sorted(set(labels) - {-1})]
        assert figures.records == 35 and figures.shards == 4
        assert figures.identities == len(counts) == 3
        assert figures.classes == 12 and figures.label_gaps == 9
        assert figures.without_identity == labels.count(-1) == 5
        assert figures.images_per_identity == {
            "min": min(counts),
            "median": float(np.median(counts)),
            "mean": np.mean(counts),
            "max": max(counts),
        }
        assert sum(figures.images_per_identity_histogram.counts) == 3
        for k, shard in enumerate(figures.shard_figures):
            own = [record for record in pack if record.key.startswith(f"{shard.name}/")]
            assert shard.records == len(own) == [10, 10, 10, 5][k]
            assert shard.identities == len({record.label for record in own} - {-1})
            assert shard.payload_bytes == sum(len(record.image) for record in own)
            files = [mixed / f"{shard.name}.{kind}" for kind in ("mdb", "kv")]
            assert shard.file_bytes == sum(file.stat().st_size for file in files)
    assert figures.file_bytes == sum(file.stat().st_size for file in mixed.iterdir())
    assert figures.overhead == figures.file_bytes / figures.payload_bytes


def test_a_survey_equals_a_look_at_each_image(mixed: Path) -> None:
    with facepack.open(mixed) as pack:
        found = survey(pack, hashes=True)
        shapes = [pack.decode(i).shape for i in range(len(pack))]
        assert found.sizes == {(32, 32): shapes.count((32, 32, 3)), (48, 48): 7}
        assert found.lengths.tolist() == [len(record.image) for record in pack]
        assert found.formats == {"jpeg": 35} and found.channels == {3: 35} and not found.broken
        assert found.hashes is not None
        assert np.array_equal(found.hashes, hash_images(pack))
        few = survey(pack, sample=10)
        assert few.positions.tolist() == [0, 3, 7, 10, 14, 17, 21, 24, 28, 31]
        assert few.lengths.tolist() == found.lengths[few.positions].tolist()
        assert few.hashes is None


def test_label_counts_leave_out_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepack.view.summary._CHUNK", 2)
    assert label_counts(np.array([3, -1, 0, 3, -1])).tolist() == [1, 0, 0, 2]
    assert label_counts(np.array([-1])).tolist() == []


def test_an_empty_pack_and_one_without_identity(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "empty"):
        pass
    with facepack.PackWriter(tmp_path / "none") as writer:
        writer.add(make_jpeg(0), -1)
    for name, records in (("empty", 0), ("none", 1)):
        with facepack.open(tmp_path / name) as pack:
            figures = summarize(pack)
            assert figures.records == figures.without_identity == records
            assert figures.identities == 0 and figures.images_per_identity is None
            assert any("records" in line for line in summary_lines(figures, sizes=survey(pack)))


def test_inspect_lists_a_long_pack_by_its_ends(make_pack: MakePack) -> None:
    pack = make_pack(60, shard_records=5)
    short = CliRunner().invoke(inspect, [str(pack)])
    assert short.exit_code == 0 and "… 4 more: --all lists them" in short.output
    assert "shard-003 " in short.output and "shard-004 " not in short.output
    everything = CliRunner().invoke(inspect, [str(pack), "--all"]).output
    assert all(f"shard-{k:03d} " in everything for k in range(12)) and "more" not in everything
    assert "images per identity  15 to 15, median 15, mean 15.0" in everything
    assert "15  █" in everything


def test_inspect_counts_sizes(mixed: Path) -> None:
    shown = CliRunner().invoke(inspect, [str(mixed), "--sizes"]).output
    assert "identities           3 of 12 classes, 9 of them without a record" in shown
    assert "heights 32 to 48, widths 32 to 48" in shown
    assert "32×32             28  80.00%" in shown and "without identity     5 records" in shown
    figures = json.loads(CliRunner().invoke(inspect, [str(mixed), "--sizes", "--json"]).output)
    assert figures["image_survey"]["sizes"][1] == {"height": 48, "width": 48, "images": 7}
    assert len(figures["shard_figures"]) == figures["shards"] == 4
    assert sum(bin["count"] for bin in figures["images_per_identity_histogram"]) == 3


def test_inspect_where_the_output_is_ascii(make_pack: MakePack) -> None:
    done = CliRunner(charset="ascii").invoke(inspect, [str(make_pack(30))])
    assert done.exit_code == 0 and done.output.isascii()
    assert "32x32 (height x width)" in done.output and "#####" in done.output


def test_text_of_strangers_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31m\nb\x9b") == r"a\x1b[31m\nb\x9b"
    assert printable("\udcff") == r"\udcff"


def test_tables_align() -> None:
    lines = table_lines(("name", "n"), [("a", "1"), ("longer", "1,000")])
    assert lines == ["name        n", "a           1", "longer  1,000"]


def test_what_is_said_of_the_source_is_short() -> None:
    source = {"kind": "zip", "files": [1] * 70, "bytes": 10**6, "more": {"a": 1}, "flag": True}
    assert source_facts(source) == [
        ("bytes", "1,000,000"),
        ("files", "70 entries"),
        ("flag", "True"),
        ("kind", "zip"),
        ("more", "1 entry"),
    ]
