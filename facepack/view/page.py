"""Pages that stand alone, from templates: no file beside them, and no script but our own.

Whatever comes from a file may come from strangers: all that a template writes passes through
:func:`shown` and is then escaped, and no template uses ``safe``.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from facepack.view.chart import bar_chart
from facepack.view.plot import line_chart
from facepack.view.sheet import thumbnail
from facepack.wording import count_of

_TEMPLATES = Path(__file__).with_name("templates")
_LONGEST = 300  # characters of one text
_SIDE, _QUALITY = 112, 88  # of an image, in pixels, and of its JPEG
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def render_page(template: Path, **values: Any) -> str:
    """The page that ``template`` makes of ``values``; a name that these lack is an error.

    It extends ``base.html``, whose folder it may take other templates from.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(bar_chart=bar_chart, line_chart=line_chart)
    environment.filters.update(
        base64=base64_text, binary_size=binary_size, count_of=count_of, number=number
    )
    return environment.get_template(template.name).render(values)


def shown(value: object) -> object:
    """``value`` as a page shows it: without unprintable characters, cut if long.

    Markup, which is what our own macros return, stays unchanged.
    """
    if isinstance(value, Markup):
        return value
    text = str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def number(value: object) -> object:
    """Whole numbers with thousands separators, others to four digits; unchanged if no number."""
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return value


def binary_size(count: int) -> str:
    """Bytes in binary units, three digits."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    value = count / (1 << 10 * power)
    digits = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{digits} {_UNITS[power - 1]}"


def base64_text(data: bytes) -> Markup:
    """``data`` for a ``data:`` URI, of any length; base64 holds no character of HTML's."""
    return Markup(base64.b64encode(data).decode())


@dataclass(frozen=True, kw_only=True)
class PageImage:
    """An image on a page: its key, and a small JPEG of it or why there is none."""

    key: str
    jpeg: bytes = b""
    reason: str = ""

    @classmethod
    def from_pixels(cls, key: str, pixels: np.ndarray) -> PageImage:
        """Of uint8 RGB (height, width, 3): a browser is not handed what strangers encoded."""
        buffer = io.BytesIO()
        thumbnail(pixels, _SIDE).save(buffer, "JPEG", quality=_QUALITY)
        return cls(key=key, jpeg=buffer.getvalue())
