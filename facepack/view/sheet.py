"""Contact sheets: images of a pack on one picture, with labels, names and keys."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facepack.errors import ConfigError, DamageError, DecodeError, PackError
from facepack.settings import Range, check
from facepack.store.output import write_output
from facepack.store.pack import Pack
from facepack.view.sample import SampleOptions, SampleRow, sample_rows

_Size = Annotated[int, Range(low=24, high=1024)]  # pixels
_MOST_PIXELS = 1 << 27  # of the sheet: 400 MB of memory

_PAPER, _INK, _FAINT, _RULE = (250, 250, 251), (24, 26, 32), (110, 116, 128), (222, 225, 231)
_SAME, _DIFFERENT = (22, 128, 84), (196, 57, 43)
_BROKEN, _BROKEN_PAPER = (196, 57, 43), (253, 240, 238)

_MARGIN = 20
_GAP = 8  # between images
_PAIR_GAP = 12  # more, between pairs
_ROW_GAP = 20
_TITLE_SIZE, _HEAD_SIZE, _KEY_SIZE = 20, 15, 11  # of the letters, in pixels
_TITLE_HEIGHT, _HEAD_HEIGHT, _KEY_HEIGHT = 38, 25, 14
_KEY_LINES = 2
_KEY_WIDTH = 72  # room for ten digits
_NO_CHARACTER = "\U0010ffff"  # no font has it

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Box = tuple[int, int, int, int]


def write_sheet(pack: Pack, out: Path, *, options: SampleOptions, size: int = 112) -> None:
    """Draw a contact sheet of ``pack`` and write it to ``out``, as the format of its suffix.

    ``size`` is the side of the square that each image is fitted into, in pixels.

    Raises:
        ConfigError: an unknown suffix, a size or a label out of range, a sheet beyond memory.
        PackError: the file cannot be written.
    """
    kind = _writable_format(out)
    sheet = draw_sheet(pack, sample_rows(pack, options), size=size)
    buffer = io.BytesIO()
    try:
        sheet.save(buffer, kind)
    except Exception as error:  # writers of formats raise whatever their library says
        raise PackError(
            f"{out}: a sheet of {sheet.width}×{sheet.height} pixels cannot be written as {kind}: "
            f"{error}; choose .png, or fewer images"
        ) from error
    write_output(out, buffer.getvalue())


def _writable_format(out: Path) -> str:
    Image.init()
    suffixes = {
        suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE
    }
    kind = suffixes.get(out.suffix.lower())
    if kind is None:
        usual = ", ".join(s for s in (".png", ".jpg", ".webp", ".tif", ".pdf") if s in suffixes)
        raise ConfigError(f"{out}: the suffix {out.suffix!r} is no picture's: take one of {usual}")
    return kind


def draw_sheet(pack: Pack, rows: list[SampleRow], *, size: int = 112) -> Image.Image:
    """Draw rows of images, each under its title, with the key below each image.

    An image that cannot be shown leaves a crossed box with the reason.

    Raises:
        ConfigError: a size out of range, or a sheet beyond memory.
    """
    check("size", size, _Size)
    step = max(size, _KEY_WIDTH) + _GAP
    row_height = _HEAD_HEIGHT + size + _KEY_LINES * _KEY_HEIGHT + _ROW_GAP
    columns = max((len(row.positions) for row in rows), default=0)
    pair_gap = _PAIR_GAP if any(row.same is not None for row in rows) else 0
    width = 2 * _MARGIN + max(columns * step - _GAP + (columns - 1) // 2 * pair_gap, 420)
    height = 2 * _MARGIN + _TITLE_HEIGHT + max(1, len(rows)) * row_height - _ROW_GAP
    if width * height > _MOST_PIXELS:
        raise ConfigError(
            f"a sheet of {width:,}×{height:,} pixels is too large: ask for fewer identities, "
            "fewer images or a smaller size"
        )
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = _Pen(sheet)
    title = f"{pack.name} · {len(pack):,} images"
    if pack.identities:
        title += f" · {pack.identities:,} identities"
    pen.write((_MARGIN, _MARGIN - 4), title, _TITLE_SIZE, _INK, width - 2 * _MARGIN)
    top = _MARGIN + _TITLE_HEIGHT
    if not rows:
        pen.write((_MARGIN, top), "no images", _HEAD_SIZE, _FAINT, width - 2 * _MARGIN)
    for row in rows:
        pen.rule(top - 5, width)
        color = _INK if row.same is None else _SAME if row.same else _DIFFERENT
        pen.write((_MARGIN, top), row.title, _HEAD_SIZE, color, width - 2 * _MARGIN)
        for column, position in enumerate(row.positions):
            left = _MARGIN + column * step + column // 2 * pair_gap
            box = (left, top + _HEAD_HEIGHT, left + size, top + _HEAD_HEIGHT + size)
            _draw_image(pen, pack, position, box)
            shard, _, digits = pack.key(position).rpartition("/")
            for line, words in enumerate((shard, digits)):
                at = (left, box[3] + 2 + line * _KEY_HEIGHT)
                pen.write(at, words, _KEY_SIZE, _FAINT, step - _GAP)
            if row.same is not None and column % 2:
                pen.frame_pair(box, step, color)
        top += row_height
    return sheet


def thumbnail(image: np.ndarray, size: int) -> Image.Image:
    """Fit ``image``, uint8 (height, width, 3), into a square of ``size``, keeping its shape.

    Of the shorter side of a very long image, at least one pixel stays.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    fitted = max(1, round(width * size / longer)), max(1, round(height * size / longer))
    return Image.fromarray(image).resize(fitted, Image.Resampling.LANCZOS)


def _draw_image(pen: _Pen, pack: Pack, position: int, box: _Box) -> None:
    try:
        image = thumbnail(pack.decode(position), box[2] - box[0])
    except (DecodeError, DamageError) as error:
        pen.draw_broken(box, reason_alone(error, pack, position))
        return
    pen.paste(image, box)


def reason_alone(error: Exception, pack: Pack, position: int) -> str:
    """What ``pack.decode(position)`` complained of, without pack and key in front."""
    _, found, reason = str(error).partition(f"{pack.key(position)}: ")
    return reason if found else str(error)


class _Pen:
    """Draws on a sheet: text that is cut to its room, images, crossed boxes."""

    def __init__(self, sheet: Image.Image) -> None:
        self._sheet = sheet
        self._draw = ImageDraw.Draw(sheet)
        self._fonts: dict[int, _Font] = {}
        self._letters: dict[str, str] = {}

    def _font(self, size: int) -> _Font:
        if size not in self._fonts:
            try:
                self._fonts[size] = ImageFont.load_default(size=size)
            except (TypeError, ImportError):  # Pillow before 10.1, or built without FreeType
                self._fonts[size] = ImageFont.load_default()
        return self._fonts[size]

    def _replace_unknown(self, text: str, size: int) -> str:
        """``text`` in letters that the font has: without accents, or ``?``, where it has not."""
        font = self._font(size)
        if isinstance(font, ImageFont.ImageFont):  # the bitmap font: it knows Latin-1
            return text.encode("latin-1", "replace").decode("latin-1")
        return "".join(self._known(character, font) for character in text)

    def _known(self, character: str, font: ImageFont.FreeTypeFont) -> str:
        if character not in self._letters:
            absent = bytes(font.getmask(_NO_CHARACTER))
            plain = unicodedata.normalize("NFKD", character)
            letters = "".join(c for c in plain if not unicodedata.combining(c))
            self._letters[character] = next(
                (
                    known
                    for known in (character, letters)
                    if known.isprintable() and all(bytes(font.getmask(c)) != absent for c in known)
                ),
                "?",
            )
        return self._letters[character]

    def _shorten(self, text: str, size: int, room: int) -> str:
        """``text`` with its middle left out where it does not fit."""
        font = self._font(size)
        if font.getlength(text) <= room:
            return text
        for kept in range(min(len(text), room) - 1, 0, -1):
            short = f"{text[: (kept + 1) // 2]}..{text[len(text) - kept // 2 :]}"
            if font.getlength(short) <= room:
                return short
        return ""

    def write(
        self, at: tuple[int, int], text: str, size: int, color: tuple[int, int, int], room: int
    ) -> None:
        line = self._shorten(self._replace_unknown(text, size), size, room)
        self._draw.text(at, line, fill=color, font=self._font(size))

    def rule(self, top: int, width: int) -> None:
        self._draw.line((_MARGIN, top, width - _MARGIN, top), fill=_RULE)

    def paste(self, image: Image.Image, box: _Box) -> None:
        left = box[0] + (box[2] - box[0] - image.width) // 2
        upper = box[1] + (box[3] - box[1] - image.height) // 2
        self._sheet.paste(image, (left, upper))

    def frame_pair(self, box: _Box, step: int, color: tuple[int, int, int]) -> None:
        """Frame the image in ``box`` and the one to its left as a pair."""
        frame = (box[0] - step - 3, box[1] - 3, box[2] + 2, box[3] + 2)
        self._draw.rectangle(frame, outline=color, width=2)

    def draw_broken(self, box: _Box, reason: str) -> None:
        """A crossed box, the reason on it in as many lines as fit."""
        left, upper, right, lower = box[0], box[1], box[2] - 1, box[3] - 1
        self._draw.rectangle((left, upper, right, lower), fill=_BROKEN_PAPER, outline=_BROKEN)
        self._draw.line((left, upper, right, lower), fill=(240, 190, 184))
        self._draw.line((left, lower, right, upper), fill=(240, 190, 184))
        room = right - left - 8
        lines = self._wrap(self._replace_unknown(reason, _KEY_SIZE), room)
        fitting = max(1, (lower - upper - 8) // _KEY_HEIGHT)
        if len(lines) > fitting:
            lines = [*lines[: fitting - 1], lines[fitting - 1] + " .."]
        for line, words in enumerate(lines):
            self.write((left + 5, upper + 4 + line * _KEY_HEIGHT), words, _KEY_SIZE, _BROKEN, room)

    def _wrap(self, text: str, room: int) -> list[str]:
        font = self._font(_KEY_SIZE)
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines
