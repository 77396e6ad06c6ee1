"""Tars of samples against their real readers: wids, which goes by the index, and webdataset.

``make interop`` installs both beside the environment, without what they depend on.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tar.wds_sink import WdsOptions, convert_to_wds

wids = pytest.importorskip("wids", reason="make interop installs wids")
webdataset = pytest.importorskip("webdataset", reason="make interop installs webdataset")

NAMES = [
    "Zoë/1.jpg",
    "Zoé/1.jpg",
    "a b/1.2.jpg",
    "c/1.JPG",
    f"{'x' * 90}/1.jpg",
    f"{'x' * 96}/1.jpg",
]


@pytest.fixture
def out(make_jpeg: Callable[..., bytes], tmp_path: Path) -> Path:
    """Tars of a tree whose names are what readers could stumble over."""
    names = [f"{name.rpartition('/')[0]}/{k}{name[-6:]}" for k in range(5) for name in NAMES]
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for k, name in enumerate([*names, *NAMES]):
            info = tarfile.TarInfo(name)
            info.size = len(make_jpeg(k))
            tar.addfile(info, BytesIO(make_jpeg(k)))
    convert_to_wds(TarSource([tmp_path / "in.tar"]), tmp_path / "out", WdsOptions(shard_records=7))
    return tmp_path / "out"


def expected(out: Path) -> list[tuple[str, bytes, bytes]]:
    """Key, image and label of each sample, by tarfile."""
    rows = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
        pairs = zip(members[::2], members[1::2], strict=True)
        rows += [(name.removesuffix(".cls"), image, label) for (_, image), (name, label) in pairs]
    return rows


def test_wids_reads_every_sample_by_the_index(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents(sample: dict[str, Any]) -> dict[str, Any]:
        return {k: v.read() if isinstance(v, BytesIO) else v for k, v in sample.items()}

    samples = wids.ShardListDataset(
        str(out / "shardindex.json"), cache_dir=str(tmp_path / "cache"), transformations=[contents]
    )
    rows = expected(out)
    assert len(samples) == len(rows) == 36
    for k in (35, 3, 20, *range(36)):
        found = samples[k]
        assert (found["__key__"], found[".jpg"], found[".cls"]) == rows[k]
    samples.close()


def test_webdataset_reads_every_sample_in_order(out: Path) -> None:
    paths = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = webdataset.WebDataset(paths, shardshuffle=False)
    rows = [(found["__key__"], found["jpg"], found["cls"]) for found in samples]
    assert rows == expected(out)
