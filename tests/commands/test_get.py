from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.commands.get import get
from facepack.errors import DamageError, PackError
from facepack.store.record import SourceRecord
from facepack.store.writer import PackWriter
from facepack.view.record_info import describe_record, find_record

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def run(*words: object) -> Result:
    return CliRunner().invoke(get, [str(word) for word in words])


def test_an_image_comes_out_byte_for_byte(make_pack: MakePack, tmp_path: Path) -> None:
    path = make_pack(60)
    out = tmp_path / "image.jpg"
    with facepack.open(path) as pack:
        for words, position in (
            ("shard-001/0000000003", 28),
            ("shard-001/3", 28),
            ("28", 28),
            ("0", 0),
        ):
            done = run(path, words)
            assert done.exit_code == 0 and done.stdout_bytes == pack[position].image
            assert run(path, words, "-o", out).stdout_bytes == b""
            assert out.read_bytes() == pack[position].image


def test_a_record_is_found_by_its_name(make_pack: MakePack, make_jpeg: MakeJpeg) -> None:
    path = make_pack(60)
    assert run(path, "41.jpg", "--name").stdout_bytes == make_jpeg(41)
    with facepack.open(path) as pack:
        for i in (0, 30, 59):
            assert pack[find_record(pack, f"{i}.jpg", by_name=True)].image == make_jpeg(i)
        with pytest.raises(PackError, match=r"no record of the name '60\.jpg'$"):
            find_record(pack, "60.jpg", by_name=True)


def test_names_that_are_not_one_record(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "twice", shard_records=4) as writer:
        for i in range(9):
            writer.add(make_jpeg(i), 0, name="same.jpg")
    with facepack.PackWriter(tmp_path / "nameless") as writer:
        writer.add(make_jpeg(0), 0)
    with facepack.open(tmp_path / "twice") as pack:
        message = r"9 records have the name 'same.jpg'.*: shard-000/0000000000, .*, …$"
        with pytest.raises(PackError, match=message):
            find_record(pack, "same.jpg", by_name=True)
    with facepack.open(tmp_path / "nameless") as pack:
        with pytest.raises(PackError, match="its source had no names of records"):
            find_record(pack, "same.jpg", by_name=True)


@pytest.mark.parametrize(
    "words", ["60", "-1", "shard-000/25", "shard-009/0", "/3", "x", "", "٣", "9" * 5000]
)
def test_what_is_no_record(make_pack: MakePack, words: str) -> None:
    with facepack.open(make_pack(60)) as pack:
        with pytest.raises(PackError, match=r"give a key such as shard-000/0000000000, a pos"):
            find_record(pack, words)


def test_everything_about_a_record(make_pack: MakePack, make_jpeg: MakeJpeg) -> None:
    path = make_pack(60)
    names = ["ann", "bob\nby", "c\\d", "dora"]
    with facepack.open(path) as pack:
        for position in (0, 31, 59):
            facts = describe_record(pack, position)
            i = facts.source_ordinal
            assert pack[position].image == make_jpeg(i)
            assert asdict(facts) == {
                "key": pack.key(position),
                "position": position,
                "label": i % 4,
                "identity": names[i % 4],
                "source_name": f"{i}.jpg",
                "source_ordinal": i,
                "extra": {},
                "bytes": len(make_jpeg(i)),
                "format": "jpeg",
                "height": 32,
                "width": 32,
                "channels": 3,
                "orientation": 1,
                "sum_ok": True,
            }
            shown = json.loads(run(path, position, "--json").stdout)
            assert shown == asdict(facts)
    lines = run(path, "1.jpg", "--name", "--info").stdout
    assert r"identity         bob\nby" in lines and "sum ok           yes" in lines


def test_extras_are_shown_where_they_are(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with PackWriter(tmp_path / "p", order="source") as writer:
        writer.add(make_jpeg(0), 0)
        extra = {"id": 7, "label_1": 0.5}
        writer._builder.add(SourceRecord(1, make_jpeg(1), 0, None, extra))
    with facepack.open(tmp_path / "p") as pack:
        assert describe_record(pack, 0).extra == {}
        assert describe_record(pack, 1).extra == {"id": 7, "label_1": 0.5}
    assert "extra            id 7, label_1 0.5" in run(tmp_path / "p", 1, "--info").stdout


def test_a_changed_image_is_told(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)
    shard = tmp_path / "p" / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    at = data.index(make_jpeg(0))
    data[at : at + 3] = b"???"
    shard.write_bytes(data)
    shown = run(tmp_path / "p", 0, "--info").stdout
    assert "sum ok           NO" in shown and "format           –" in shown
    data = bytearray(data.replace(b"ordinal", b"0rdinal"))
    shard.write_bytes(data)
    with facepack.open(tmp_path / "p") as pack, pytest.raises(DamageError, match="__extra__"):
        describe_record(pack, 0)


def test_a_terminal_is_spared(make_pack: MakePack) -> None:
    main, terminal = pty.openpty()
    program = "import sys; from facepack.commands.get import get; get(sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(make_pack(4)), "0"],
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(terminal)
        os.close(main)
    assert done.returncode != 0 and "name a file with -o" in done.stderr
