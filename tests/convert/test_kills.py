"""A conversion that is killed at any rename or deletion, then run again, ends as if undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facepack.convert.formats.kv.sink import KvSink
from facepack.convert.formats.kv.source import KvSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.sink import RecSink
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tree.tree_sink import TreeSink
from facepack.convert.registry import SINKS
from facepack.convert.source import Part
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
Killed = Callable[..., None]


def contents(path: Path) -> dict[str, Any]:
    """What is in each file; of F2C's LMDB the records, for its engine counts transactions."""
    files = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    if files.pop("faces.lmdb/data.mdb", None) and "faces.kv" in files:
        part = (source := KvSource([path])).part(0, len(source))
        return {**files, "faces.lmdb": [(r.name, r.label, r.image) for r in good(part)]}
    return files


def good(part: Part) -> Iterator[SourceRecord]:
    return (record for record in part.read() if isinstance(record, SourceRecord))


@pytest.mark.parametrize("sink", ["lmdb", "img", "rec", "kv", "wds"])
def test_a_kill_at_any_rename(
    make_rec: MakeRec, tmp_path: Path, killed: Killed, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    for kind in (KvSink, RecSink, TreeSink):
        monkeypatch.setattr(kind, "span_records", 12)
    source = make_rec(20, bad={7: pack_header(1, 8) + b"nothing"})
    options: dict[str, Any] = {"shard_records": 12} if sink in ("lmdb", "wds") else {}

    def convert(out: Path, resume: bool = True) -> None:
        SINKS[sink].write(RecSource(source), out, {**options, "resume": resume})

    convert(tmp_path / "whole", resume=False)
    expected = contents(tmp_path / "whole")
    deaths = 0
    for at in range(24):
        out = tmp_path / f"out{at}"

        def work(out: Path = out) -> None:
            convert(out)

        killed(work, at)
        deaths += contents(out) != expected
        convert(out)
        assert contents(out) == expected, at
    assert deaths >= 8


@pytest.mark.parametrize("sink", ["lmdb", "img", "rec", "kv", "wds"])
def test_a_kill_at_any_deletion_of_what_is_overwritten(
    make_rec: MakeRec, tmp_path: Path, killed: Killed, sink: str
) -> None:
    old, new = make_rec(20, "old"), make_rec(10, "new", bad={7: pack_header(1, 8) + b"nothing"})

    def convert(source: Path, out: Path) -> None:
        options: dict[str, Any] = {"shard_records": 6} if sink in ("lmdb", "wds") else {}
        SINKS[sink].write(RecSource(source), out, {**options, "overwrite": True})

    convert(new, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    deaths = 0
    for at in range(16):
        out = tmp_path / f"out{at}"
        convert(old, out)
        killed(lambda out=out: convert(new, out), at, by="unlink")
        deaths += contents(out) != expected
        convert(new, out)
        assert contents(out) == expected, at
    assert deaths >= 4
