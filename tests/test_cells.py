"""Tables as CSV: no text is a formula."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.cells import csv_text, guard_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_is_a_formula_to_spreadsheets_is_marked(text: str) -> None:
    assert guard_cell(text) == f"'{text}"


def test_numbers_and_plain_texts_stay() -> None:
    rows = [["a/b.jpg", -1, -0.5], ["'tis", None, np.float32(2)], ["=a", 0, 1]]
    text = csv_text(["key", "label", "p"], rows)
    assert text == "key,label,p\na/b.jpg,-1,-0.5\n'tis,,2.0\n'=a,0,1\n"
