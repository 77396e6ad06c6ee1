"""Parquet and Arrow against the real ``datasets``, which runs in an environment of its own.

``make interop`` builds that environment and names its interpreter in FACEPACK_DATASETS_PYTHON.
"""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.parquet.sink import ParquetSink, TableOptions, convert_to_parquet
from facepack.convert.formats.parquet.source import ParquetSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.source import Source
from facepack.store.record import SourceRecord

pytest.importorskip("pyarrow")

PEER = Path(__file__).with_name("datasets_peer.py")
INTERPRETER = os.environ.get("FACEPACK_DATASETS_PYTHON")

pytestmark = pytest.mark.skipif(
    not INTERPRETER,
    reason="FACEPACK_DATASETS_PYTHON names no interpreter with datasets; make interop sets it",
)
MakeJpeg = Callable[..., bytes]


def run_peer(command: str, folder: Path) -> str:
    assert INTERPRETER is not None
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "home")}
    environment.pop("PYTHONPATH", None)
    words = [INTERPRETER, str(PEER), command, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(source: Source) -> list[tuple[bytes, int, str | None, str | None]]:
    """Bytes, label, name and person of each record."""
    part = source.part(0, len(source))
    names = part.identity_names()
    rows = []
    for record in part.read():
        assert isinstance(record, SourceRecord)
        person = names.get(record.label)
        rows.append((bytes(record.image), record.label, record.name, person))
    return rows


def rows_of(told: dict[str, Any]) -> list[tuple[bytes, int, str | None, str | None]]:
    """The same of what the peer tells."""
    names = told["names"]
    return [
        (
            base64.b64decode(row["image"]["bytes"]),
            row["label"],
            row["image"]["path"],
            names[row["label"]] if names and row["label"] >= 0 else None,
        )
        for row in told["rows"]
    ]


@pytest.fixture
def tree(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Ten images of three people."""
    for k in range(10):
        path = tmp_path / "tree" / ("Zoë", "b c", "a")[k % 3] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(k))
    return tmp_path / "tree"


def test_it_loads_what_is_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ParquetSink, "span_records", 4)
    source = ImgSource(tree)
    convert_to_parquet(source, tmp_path / "out", TableOptions())
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    told = json.loads(run_peer("read", tmp_path / "out"))
    assert [*told] == ["train"] and told["train"]["images"] == ["image"]
    assert told["train"]["names"] == ["Zoë", "a", "b c"]
    assert rows_of(told["train"]) == found(source)


def test_it_loads_pairs(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    images = [make_jpeg(k) for k in (0, 1, 2, 0, 3, 4)]
    write_bin(tmp_path / "lfw.bin", images, [True, False, True])
    convert_to_parquet(BinSource(tmp_path / "lfw.bin"), tmp_path / "out", TableOptions())
    told = json.loads(run_peer("read", tmp_path / "out"))["test"]
    assert told["images"] == ["image1", "image2"] and told["names"] == ["different", "same"]
    rows = told["rows"]
    both = [base64.b64decode(row[f"image{k}"]["bytes"]) for row in rows for k in (1, 2)]
    assert both == images and [row["label"] for row in rows] == [1, 0, 1]


def test_what_it_writes_is_read(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    (tmp_path / "images").mkdir()
    for k in range(10):
        (tmp_path / "images" / f"{k}.jpg").write_bytes(make_jpeg(k))
    run_peer("write", tmp_path)
    expected = json.loads((tmp_path / "expected.json").read_text())
    for name in ("faces.parquet", "saved", "split", "backwards"):
        source = ParquetSource([tmp_path / name])
        told = expected["backwards" if name == "backwards" else "faces"]
        assert found(source) == rows_of(told) and source.classes == 3, name
    pairs = ParquetSource([tmp_path / "pairs.parquet"])
    assert pairs.content == "pairs" and len(pairs) == 10
    assert [row[2] for row in found(pairs)] == [f"{k // 2 + k % 2 * 5}.jpg" for k in range(10)]
