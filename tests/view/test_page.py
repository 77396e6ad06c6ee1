from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from facepack.view.chart import bar_chart
from facepack.view.histogram import Histogram
from facepack.view.page import binary_size, render_page

Read = Callable[[str], Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., str]:
    def render(template: str, **values: object) -> str:
        (tmp_path / "some.html").write_text(template)
        return render_page(tmp_path / "some.html", **values)

    return render


def test_what_comes_from_a_file_is_escaped_cut_and_cleaned(render: Callable[..., str]) -> None:
    html = render("{{ name }}", name="<a b='c'>&\x07\ud800\u202e")
    assert html == "&lt;a b=&#39;c&#39;&gt;&amp;\ufffd\ufffd\ufffd"
    assert len(render("{{ name }}", name="x" * 10_000)) == 300
    render("{{ name }}", name="\udcff").encode()


def test_pieces_escape_what_they_are_given(render: Callable[..., str], read_page: Read) -> None:
    evil = '"><script>x</script>\x00'
    html = render(
        '{% from "macros.html" import table, tiles %}{{ tiles({name: name}) }}'
        "{{ table(name, {name: 0, '#n': 1}, rows) }}",
        name=evil,
        rows=[(evil, 1234), (1.5, None)],
    )
    reader = read_page(html)
    assert "<script" not in html and "\x00" not in html
    assert reader.words.count("<script>x</script>\ufffd") == 5
    assert {"1,234", "1.5000", "–"} <= {text.strip() for text in reader.texts}


def test_no_template_writes_anything_raw() -> None:
    templates = [*ROOT.glob("*/templates/*.html"), *ROOT.glob("*/*/templates/*.html")]
    assert {"base.html", "report.html", "results.html"} <= {path.name for path in templates}
    for path in templates:
        text = path.read_text(encoding="utf-8")
        styles = "style-src 'unsafe-inline'"  # a policy's word, not a filter
        assert "safe" not in text.replace(styles, "") and "autoescape" not in text, path
        # The page of marks has a script: a file of ours, and a policy by which no other runs.
        scripts = ["<script>{{ script }}</script>"] if path.name == "noise.html" else []
        assert re.findall("<script.*", text) == scripts, path


def test_a_name_that_a_template_lacks_is_an_error(render: Callable[..., str]) -> None:
    with pytest.raises(UndefinedError):
        render("{{ lacking }}")


def test_sizes() -> None:
    sizes = [binary_size(n) for n in (0, 1023, 1024, 1536, 1 << 30, 1 << 70)]
    assert sizes == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 GiB", "1048576 PiB"]


@pytest.mark.parametrize("counts", [(), (0,), (5,), (1, 0, 3), tuple(range(60))])
def test_charts_draw_a_bar_for_each_bin(
    counts: tuple[int, ...], render: Callable[..., str], read_page: Read
) -> None:
    found = Histogram(edges=tuple(range(10, 11 + len(counts))), counts=counts)
    chart = bar_chart(found, title="a <title>", x_label="x & y", y_label="n")
    reader = read_page(render('{% from "macros.html" import chart %}{{ chart(it) }}', it=chart))
    bars = [a for tag, a in reader.tags if tag == "rect"]
    assert len(bars) == len(counts)
    heights = [float(bar["height"] or 0) for bar in bars]
    assert [height > 0 for height in heights] == [count > 0 for count in counts]
    assert max(heights, default=0) <= 240 and "a <title>" in reader.words
