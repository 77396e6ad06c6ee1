from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.store.pack import Pack
from facepack.view.duplicates import (
    duplicate_lines,
    duplicate_scope,
    find_duplicates,
    list_duplicates,
)

MakeJpeg = Callable[..., bytes]


def slow_groups(pack: Pack) -> list[list[int]]:
    """The obvious twin: all images in one dictionary."""
    places = defaultdict(list)
    for position, record in enumerate(pack):
        places[record.image].append(position)
    return sorted(group for group in places.values() if len(group) > 1)


@pytest.fixture
def doubled(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    images = [make_jpeg(i) for i in range(30)]
    with facepack.PackWriter(tmp_path / "doubled", shard_records=16) as writer:
        for i in range(90):
            # Images 0 to 9 recur under one label, 10 to 19 under others, 20 to 29 do not.
            kind = i % 30
            if kind < 20 or i < 30:
                writer.add(images[kind], kind if kind < 10 else i)
    return tmp_path / "doubled"


def test_duplicates_equal_the_slow_twins(doubled: Path) -> None:
    with facepack.open(doubled) as pack:
        found = find_duplicates(pack)
        assert [group.tolist() for group in found] == slow_groups(pack)
        assert len(found) == 20 and found.surplus == 40
        assert [found[k].tolist() for k in (0, 19)] == [slow_groups(pack)[k] for k in (0, 19)]
        with pytest.raises(IndexError):
            found[20]


def test_equal_hashes_are_not_believed(doubled: Path) -> None:
    with facepack.open(doubled) as pack:
        found = find_duplicates(pack, hashes=np.zeros(len(pack), np.uint64))
        assert [group.tolist() for group in found] == slow_groups(pack)


def test_no_duplicates(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    for count in (0, 1, 5):
        with facepack.PackWriter(tmp_path / f"{count}") as writer:
            for i in range(count):
                writer.add(make_jpeg(i), i)
        with facepack.open(tmp_path / f"{count}") as pack:
            found = find_duplicates(pack)
            assert len(found) == found.surplus == 0 and list(found) == []
            assert list(duplicate_lines(pack, found)) == []


def test_lines_name_keys_and_labels(doubled: Path) -> None:
    with facepack.open(doubled) as pack:
        lines = [json.loads(line) for line in duplicate_lines(pack, find_duplicates(pack))]
        for line, group in zip(lines, slow_groups(pack), strict=True):
            assert [pack.position(key) for key in line["keys"]] == group
            assert line["labels"] == [pack[position].label for position in group]
            assert line["scope"] == ("within" if len(set(line["labels"])) == 1 else "across")
    assert [line["scope"] for line in lines].count("across") == 10


def test_the_list_beside_the_shards(doubled: Path, tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    words = list_duplicates(doubled)
    listed = doubled / "duplicates.jsonl"
    assert words == (
        f"20 groups of identical images (10 within an identity, 10 across identities): see {listed}"
    )
    with facepack.open(doubled) as pack:
        lines = list(duplicate_lines(pack, find_duplicates(pack)))
    assert listed.read_text() == "".join(lines)
    with facepack.PackWriter(tmp_path / "single") as writer:
        writer.add(make_jpeg(0), 0)
    (tmp_path / "single" / "duplicates.jsonl").write_text("of an earlier pack")
    assert list_duplicates(tmp_path / "single") == "no image is in the pack twice"
    assert not (tmp_path / "single" / "duplicates.jsonl").exists()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 3], "within"),
        ([3, 4, 3], "across"),
        ([3, -1, 4], "across"),
        ([-1, -1], "unlabeled"),
        ([-1, 5], "unlabeled"),
    ],
)
def test_scope(labels: list[int], expected: str) -> None:
    assert duplicate_scope(np.array(labels)) == expected
