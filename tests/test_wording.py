"""How many of what, in English."""

from __future__ import annotations

from facepack.wording import count_of


def test_one_is_no_plural() -> None:
    assert [count_of(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [count_of(n, "copy", "copies") for n in (1, 2)] == ["1 copy", "2 copies"]
