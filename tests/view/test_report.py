from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import xxhash
from click.testing import CliRunner
from PIL import Image

import facepack
from facepack.commands.report import report
from facepack.errors import ConfigError, DamageError, PackError
from facepack.store import format as fmt
from facepack.view.report import (
    QUICK_SAMPLE,
    ReportOptions,
    gather_report,
    render_report,
    write_report,
)
from facepack.view.sample import SampleOptions

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]
Read = Callable[[str], Any]

EVIL = "<script>alert('x')</script>\"&\x00\u202e"


def quarantine(pack: Path, entries: list[object]) -> None:
    """Give a finished pack a list of refused records."""
    data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    (pack / fmt.QUARANTINE).write_bytes(data)
    manifest = json.loads((pack / fmt.MANIFEST).read_bytes())
    digest = xxhash.xxh3_128_hexdigest(data)
    manifest["files"][fmt.QUARANTINE] = {"bytes": len(data), "xxh3_128": digest}
    manifest["quarantined"] = len(entries)
    (pack / fmt.MANIFEST).write_text(fmt.json_text(manifest))


def refusal(ordinal: int, reason: str) -> dict[str, object]:
    return {
        "ordinal": ordinal,
        "file": EVIL,
        "offset": None,
        "key": f"{EVIL}{ordinal}",
        "reason": reason,
        "remedy": EVIL,
    }


@pytest.fixture
def evil(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Hostile names everywhere; two sizes, two formats, a grey image, duplicates, refusals."""
    buffer = io.BytesIO()
    Image.new("L", (40, 30), 90).save(buffer, "PNG")
    with facepack.PackWriter(tmp_path / "evil", shard_records=20) as writer:
        for i in range(45):
            writer.add(make_jpeg(i % 40), i % 7, name=f"{EVIL}{i}", identity=f"{EVIL} {i % 7}")
        writer.add(buffer.getvalue(), -1)
    reasons = [f"{n}×{n} pixels are claimed" for n in range(8)] + [f"not an image: {EVIL}"]
    quarantine(tmp_path / "evil", [refusal(n, reason) for n, reason in enumerate(reasons)])
    return tmp_path / "evil"


def test_the_page_stands_alone_and_escapes_what_strangers_wrote(
    evil: Path, read_page: Read
) -> None:
    with facepack.open(evil) as pack:
        source = render_report(gather_report(pack, options=ReportOptions()))
    assert source.startswith("<!DOCTYPE html>") and "<script" not in source.lower()
    assert "\x00" not in source and "\u202e" not in source
    reader = read_page(source)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "base"}
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            if value := attributes.get(name):
                assert value.startswith(("data:image/jpeg;base64,", "#")), value
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    assert "url(" not in source and "@import" not in source
    anchors = {attributes.get("id") for _, attributes in reader.tags} - {None}
    links = {a["href"] for tag, a in reader.tags if tag == "a" and a["href"]}
    assert links == {f"#{anchor}" for anchor in anchors}
    assert "<script>alert('x')</script>" in reader.words


def test_the_page_says_what_is_in_the_pack(evil: Path, read_page: Read) -> None:
    with facepack.open(evil) as pack:
        found = gather_report(pack, options=ReportOptions())
        words = read_page(render_report(found)).words
        content_id = pack.content_id
    assert found.survey.sizes == {(30, 40): 1, (32, 32): 45}
    assert found.survey.formats == {"jpeg": 45, "png": 1}
    assert found.duplicates is not None and found.duplicates.surplus == 5
    assert found.duplicates.groups == {"across": 5, "within": 0, "unlabeled": 0}
    (group, *_) = found.duplicates.shown["across"]
    assert group.count == len(group.members) == 2
    assert all(member.source_name and member.identity for member in group.members)
    assert [(r.reason, r.count, len(r.examples)) for r in found.refusals] == [
        ("N×N pixels are claimed", 8, 5),
        ("not an image", 1, 1),
    ]
    for phrase in (
        "5 groups of byte-identical images; 5 images could go",
        "Across identities",
        "grey or palette",
        "2 different sizes.",
        "9 records of the source refused.",
        "N×N pixels are claimed: 8 records, the first 5",
        "shard-002",
        f"facepack {facepack.__version__} · pack format {fmt.FORMAT_VERSION}",
        content_id,
    ):
        assert phrase in words, phrase


def test_a_browser_shows_the_page(evil: Path, browse: Callable[..., dict[str, Any]]) -> None:
    with facepack.open(evil) as pack:
        html = render_report(gather_report(pack, options=ReportOptions()))
    facts = browse(html, width=390)
    assert facts["width"] == 390 and facts["overflow"] == 0
    assert facts["rows"] == html.count("<tr>") - html.count("<thead>") > 30
    assert facts["charts"] == html.count("<svg") == 3
    assert facts["images"] == html.count("<img ") > 40
    assert not facts["console"] and not [it for it in facts["loaded"] if it[:5] != "data:"]


def test_the_same_pack_gives_the_same_page_wherever_it_is(evil: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    with facepack.open(evil) as pack:
        write_report(pack, out, options=ReportOptions())
    first = out.read_text(encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    moved = evil.rename(tmp_path / "elsewhere" / "evil")
    with facepack.open(moved) as pack:
        write_report(pack, out, options=ReportOptions())
        assert out.read_text(encoding="utf-8") == first and str(tmp_path) not in first
        other = ReportOptions(sample=SampleOptions(seed=1, identities=3))
        assert render_report(gather_report(pack, options=other)) != first


def test_where_no_page_can_be_written_no_image_is_read(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("facepack.view.report.survey")
    (tmp_path / "file").touch()
    with facepack.open(evil) as pack:
        for place in (tmp_path / "file" / "a.html", evil / "a.html"):
            with pytest.raises(PackError, match=str(place)):
                write_report(pack, place, options=ReportOptions())


def test_a_quick_report_looks_at_a_sample(
    make_pack: MakePack, monkeypatch: pytest.MonkeyPatch, read_page: Read
) -> None:
    assert QUICK_SAMPLE == 10_000
    monkeypatch.setattr("facepack.view.report.QUICK_SAMPLE", 10)
    with facepack.open(make_pack(60)) as pack:
        found = gather_report(pack, options=ReportOptions(quick=True))
        words = read_page(render_report(found)).words
    assert found.duplicates is None and len(found.survey.lengths) == 10
    assert "From a sample of 10 of 60 images" in words and "this is a quick report" in words


def test_pairs_empty_packs_and_broken_images(
    tmp_path: Path, make_jpeg: MakeJpeg, read_page: Read
) -> None:
    broken = bytearray(make_jpeg(0, 64))
    start = broken.index(b"\xff\xda") + 40
    broken[start : start + 200] = b"\xff\xd9" * 100
    with facepack.PackWriter(tmp_path / "pairs", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1], [1, 2, 0]]))
        for image in (bytes(broken), make_jpeg(1), make_jpeg(2)):
            writer.add(image, -1)
    with facepack.PackWriter(tmp_path / "empty"):
        pass
    with facepack.open(tmp_path / "pairs") as pack:
        reader = read_page(render_report(gather_report(pack, options=ReportOptions())))
    assert "the same person · pair 0" in reader.words and "An evaluation set" in reader.words
    assert "does not decode" in reader.words
    assert [a["class"] for _, a in reader.tags if a.get("class") in ("pair", "broken")] == [
        "pair",
        "broken",
        "pair",
    ]
    with facepack.PackWriter(tmp_path / "long") as writer:  # a picture needs a pixel of width
        writer.add(simplejpeg.encode_jpeg(np.zeros((3000, 2, 3), np.uint8)), 0)
    with facepack.open(tmp_path / "long") as pack:
        assert render_report(gather_report(pack, options=ReportOptions())).count("<img ") == 1
    with facepack.open(tmp_path / "empty") as pack:
        assert (
            "There are no images."
            in read_page(render_report(gather_report(pack, options=ReportOptions()))).words
        )


@pytest.mark.parametrize("sizes", [(32, 32, 32), (32, 32, 64), (32,)], ids=["one", "two", "none"])
def test_unreadable_images_are_listed_whatever_the_others_are(
    tmp_path: Path, make_jpeg: MakeJpeg, sizes: tuple[int, ...], read_page: Read
) -> None:
    images = [make_jpeg(k, size) for k, size in enumerate(sizes)]
    with facepack.PackWriter(tmp_path / "pack", order="source", stem="x") as writer:
        for image in images:
            writer.add(image, 0)
    (shard,) = (tmp_path / "pack").glob("*.mdb")
    shard.write_bytes(shard.read_bytes().replace(images[0], b"torn" + images[0][4:]))
    with facepack.open(tmp_path / "pack") as pack:
        words = read_page(render_report(gather_report(pack, options=ReportOptions()))).words
    assert "Images whose header cannot be read (1)" in words
    assert "not an image: the data begin with 74 6f 72 6e" in words
    assert "All are" not in words
    assert ("All that can be read are 32×32" in words) == (sizes == (32, 32, 32))


def test_a_list_of_refusals_that_cannot_be_read(make_pack: MakePack) -> None:
    pack = make_pack(8)
    quarantine(pack, [refusal(0, "good"), [1]])
    with facepack.open(pack) as opened, pytest.raises(DamageError, match="line 2: not an object"):
        gather_report(opened, options=ReportOptions())


def test_the_command(make_pack: MakePack, tmp_path: Path) -> None:
    pack, out = make_pack(30), tmp_path / "out.html"
    done = CliRunner().invoke(report, [str(pack), str(out), "--images", "2", "--quick"])
    assert done.exit_code == 0 and done.stdout == "" and "out.html" in done.stderr
    assert len(re.findall("<figure>", out.read_text(encoding="utf-8"))) == 8
    done = CliRunner().invoke(report, [str(pack), str(tmp_path / "out.pdf")])
    assert isinstance(done.exception, ConfigError) and "call it out.html" in str(done.exception)
