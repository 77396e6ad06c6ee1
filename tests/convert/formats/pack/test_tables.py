from __future__ import annotations

import numpy as np
import pytest

from facepack.convert.formats.pack.tables import is_known, move_tables
from facepack.errors import SourceError

POSITIONS = np.array([3, -1, 0, 2, 1])  # of five images, of which one is not taken along


def test_each_table_is_known() -> None:
    by_image = ["landmarks", "scores", "template_ids", "media_ids", "sets", "noisy"]
    for name in ["pairs", "gallery_g1", "probe_mixed", "template_pairs", *by_image]:
        assert is_known(name)
    assert not is_known("embeddings")


def test_pairs_follow_their_images_and_keep_their_order() -> None:
    pairs = np.array([[0, 2, 1], [3, 1, 0], [4, 4, 1], [2, 3, 0]], np.uint8)
    moved, notices = move_tables({"pairs": pairs}, POSITIONS)
    expected = [
        [POSITIONS[a], POSITIONS[b], same]
        for a, b, same in pairs.tolist()
        if POSITIONS[a] >= 0 and POSITIONS[b] >= 0
    ]
    assert moved["pairs"].tolist() == expected == [[3, 0, 1], [1, 1, 1], [0, 2, 0]]
    assert moved["pairs"].dtype == np.uint8
    assert len(notices) == 1 and notices[0].startswith("1 of 4 pairs are left out")


def test_galleries_point_at_images_by_their_last_column() -> None:
    gallery = np.array([[7, 100, 4], [7, 100, 1], [8, 200, 0]], np.int64)
    moved, notices = move_tables({"gallery_s1": gallery, "probe_mixed": gallery}, POSITIONS)
    for table in moved.values():
        assert sorted(table.tolist()) == [[7, 100, -1], [7, 100, 1], [8, 200, 3]]
    assert [notice.split(":")[0] for notice in notices] == ["gallery_s1", "probe_mixed"]


def test_rows_of_images_move_with_them() -> None:
    landmarks = np.arange(50, dtype=np.float32).reshape(5, 10)
    scores = np.array([0.5, 0.1, np.nan, 0.3, 0.9], np.float32)
    moved, notices = move_tables({"landmarks": landmarks, "scores": scores}, POSITIONS)
    for old, new in enumerate(POSITIONS.tolist()):
        if new >= 0:
            np.testing.assert_array_equal(moved["landmarks"][new], landmarks[old])
            np.testing.assert_array_equal(moved["scores"][new], scores[old])
    assert len(moved["landmarks"]) == len(moved["scores"]) == 4
    assert moved["landmarks"].dtype == np.float32 and not notices


def test_pairs_of_templates_stay() -> None:
    pairs = np.array([[900, 2, 1]], np.uint16)
    moved, _ = move_tables({"template_pairs": pairs}, POSITIONS)
    assert moved["template_pairs"] is pairs


def test_a_narrow_table_is_widened_where_positions_need_it() -> None:
    positions = np.roll(np.arange(1000), 500)
    moved, _ = move_tables({"pairs": np.array([[0, 255, 1]], np.uint8)}, positions)
    assert moved["pairs"].tolist() == [[500, 755, 1]] and moved["pairs"].dtype == np.uint16


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("pairs", np.zeros((3, 2), int), "pairs.npy: int64 of shape"),
        ("probe_mixed", np.zeros((3, 3)), "probe_mixed.npy: float64"),
        ("pairs", np.array([[0, 5, 1]]), "outside the 5 images"),
        ("gallery_g1", np.array([[0, 0, -2]]), "outside the 5 images"),
        ("scores", np.zeros(4), "scores.npy: 4 rows for 5 images"),
    ],
)
def test_tables_that_are_not_what_their_names_say(
    name: str, table: np.ndarray, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        move_tables({name: table}, POSITIONS)


def test_rows_of_a_gallery_that_point_at_no_image_stay_so() -> None:
    table = np.array([[7, 1, -1], [8, 2, 0]])
    moved, notices = move_tables({"gallery_g1": table}, np.array([1, 0]))
    assert moved["gallery_g1"].tolist() == [[7, 1, -1], [8, 2, 1]] and notices == []
