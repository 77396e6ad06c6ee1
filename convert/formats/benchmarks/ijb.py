"""IJB-B and IJB-C, as InsightFace packages them, as a source."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack.convert.files import FileList, FilesSource, Root, require_folder, text
from facepack.convert.formats.pack.tables import arrange
from facepack.convert.names import Names, find, first_repeated
from facepack.convert.source_file import file_name, read_errors, require_file
from facepack.errors import SourceError
from facepack.store import format as fmt

IMAGES = "loose_crop"
META = "meta"
_MEDIA = "face_tid_mid.txt"
_POINTS = "name_5pts_score.txt"
_PAIRS = "template_pair_label.txt"
_LONGEST = 4096  # bytes of a line of numbers
_DIGITS = 9  # of a number
_ID = re.compile(rb"[0-9]{1,9}")
_LARGEST = float(np.finfo(np.float32).max)  # of a coordinate or score
_ROSTERS = ("gallery_", "probe_")
_BLOCK = 4 << 20  # bytes of a list of numbers that are parsed together


class Roster(NamedTuple):
    """The rows of a 1:N list: an image each."""

    ids: np.ndarray  # (r, 2) template and subject
    images: np.ndarray  # (r,) which image of the source it is; -1 where the row names none of them


class IjbSource(FilesSource):
    """The images of IJB-B or IJB-C, in the order of ``name_5pts_score``, and its protocols.

    The folder holds ``loose_crop/`` with the images and ``meta/`` with ``ijbx_face_tid_mid.txt``
    (image, template, media), ``ijbx_name_5pts_score.txt`` (image, x and y of five points, detector
    score), perhaps ``ijbx_template_pair_label.txt`` (template, template, 0 or 1) and 1:N lists
    ``ijbx_1N_gallery_*.csv`` and ``ijbx_1N_probe_*.csv`` (a header; template, subject, and an
    image's name, a row an image); ``ijbx`` is ``ijbb`` or ``ijbc``. Images have no identity: label
    -1.

    Raises:
        SourceError: a list is missing or malformed, names an image twice, or the two lists of
            images do not name the same ones.
    """

    kind = "ijb"
    content = "templates"

    def __init__(self, path: Path) -> None:
        require_folder(path)
        self.name = file_name(path.absolute())
        self.notices: list[str] = []
        prefix = _prefix(path / META)
        self._lists: dict[str, str] = {}  # name of each list read → its hash
        self._files = FileList(path / IMAGES)
        self._landmarks, self._scores = self._read_points(prefix, Root(path / IMAGES))
        self._media = self._read_media(prefix)
        self._pairs = self._read_pairs(prefix)
        self._rosters = self._read_rosters(prefix)
        optional = ["template_pairs"] if self._pairs is not None else []
        self.table_names = (
            *("landmarks", "scores", "template_ids", "media_ids"),
            *optional,
            *self._rosters,
        )
        for name, roster in self._rosters.items():
            unknown = np.count_nonzero(roster.images < 0)
            if unknown:
                self.notices.append(
                    f"{name}: {unknown} of {len(roster.images)} rows name no image of {IMAGES}; "
                    "their templates are those of template_ids"
                )

    def _lines(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Number and text of each line that is not empty; what was read is hashed."""
        require_file(path)
        digest = xxhash.xxh3_128()
        with read_errors(path), path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                digest.update(line)
                if stripped := line.strip():
                    yield number, stripped
        self._lists[path.name] = digest.hexdigest()

    def _read_points(self, prefix: Path, root: Root) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks and scores of all images, which are listed on the way."""
        path = _with(prefix, _POINTS)
        rows = array("f")
        for number, line in self._lines(path):
            fields = line.split()
            name = root.locate(fields[0])
            values = list(map(_number, fields[1:]))
            if (
                name is None
                or len(values) != 11
                or not all(-_LARGEST <= x <= _LARGEST for x in values)
            ):
                raise _malformed(path, number, line, "an image, ten coordinates and a score")
            rows.extend(values)
            self._files.append(name, root.size(name))
        if not rows:
            raise SourceError(f"{path}: names no image; fetch it again")
        repeated = first_repeated(self._files.names)
        if repeated is not None:
            raise SourceError(f"{path}: {text(repeated)} has more than one line; fetch it again")
        table = np.array(rows, np.float32).reshape(-1, 11)
        return table[:, :10].reshape(-1, 5, 2), table[:, 10]

    def _read_media(self, prefix: Path) -> np.ndarray:
        """(n, 2) template and media of each image, in the order of the images."""
        path = _with(prefix, _MEDIA)
        names = Names()
        ids = array("i")
        for number, line in self._lines(path):
            fields = line.split()
            if len(fields) != 3 or not (_ID.fullmatch(fields[1]) and _ID.fullmatch(fields[2])):
                raise _malformed(path, number, line, "an image, a template and a media")
            names.append(fields[0])
            ids.extend((int(fields[1]), int(fields[2])))
        repeated = first_repeated(names)
        if repeated is not None:
            raise SourceError(
                f"{path}: {text(repeated)} has more than one line; an image belongs to one "
                "template: fetch the list again"
            )
        points = _with(prefix, _POINTS).name
        for here, there, absent in (
            (names, self._files.names, points),
            (self._files.names, names, path.name),
        ):
            lost = np.flatnonzero(find(here, there) < 0)
            if len(lost):
                raise SourceError(
                    f"{path.parent}: {len(lost)} images are missing from {absent}, first "
                    f"{text(here[int(lost[0])])}: fetch both lists again, they belong together"
                )
        return np.array(ids, np.int32).reshape(-1, 2)[find(self._files.names, names)]

    def _read_pairs(self, prefix: Path) -> np.ndarray | None:
        """(P, 3) int32 template, template, 0 or 1; None where there is no list of pairs."""
        path = _with(prefix, _PAIRS)
        if not os.path.lexists(path):  # a link that leads nowhere is an error
            return None
        pairs, digest = read_integers(path, 3)
        self._lists[path.name] = digest
        if len(pairs) and pairs[:, 2].max() > 1:
            number = int(np.argmax(pairs[:, 2] > 1)) + 1
            raise SourceError(
                f"{path}: line {number} ends with {pairs[number - 1, 2]}; expected 1 for the same "
                "person, 0 for two: fetch the list again"
            )
        known = np.isin(pairs[:, :2], self._media[:, 0]).all(axis=1)
        if not known.all():
            self.notices.append(
                f"{path.name}: {np.count_nonzero(~known)} of {len(pairs)} pairs name a template "
                "that has no image"
            )
        return pairs

    def _read_rosters(self, prefix: Path) -> dict[str, Roster]:
        """The 1:N lists by table name: ``gallery_G1``, ``probe_mixed``, …."""
        begin = f"{prefix.name}1N_"
        rosters = {}
        for path in sorted(prefix.parent.glob(f"{begin}*.csv")):
            name = fmt.check_shard_name(path.stem[len(begin) :])
            if not name.startswith(_ROSTERS):
                self.notices.append(f"{path.name}: neither a gallery nor probes: passed over")
                continue
            ids, names = array("i"), Names()
            for number, line in self._lines(path):
                fields = [*line.split(b","), b""]
                if number == 1:
                    continue
                if len(fields) < 3 or not (_ID.fullmatch(fields[0]) and _ID.fullmatch(fields[1])):
                    raise _malformed(path, number, line, "a template, a subject and an image")
                ids.extend((int(fields[0]), int(fields[1])))
                names.append(fields[2])
            rosters[name] = Roster(
                np.array(ids, np.int64).reshape(-1, 2), find(names, self._files.names)
            )
        return rosters

    @property
    def names(self) -> Names:
        """The images' names below ``loose_crop``."""
        return self._files.names

    def describe(self) -> dict[str, Any]:
        """Name of the folder, image count, and hashes of all lists and of the files' sizes."""
        return {
            "kind": self.kind,
            "folder": self.name,
            "images": len(self),
            "files_xxh3_128": self._files.digest(),
            "lists_xxh3_128": dict(sorted(self._lists.items())),
        }

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """What the protocols need.

        Of each record, in the order of the pack: ``landmarks`` float32 (n, 5, 2), x and y in pixels
        of the image; ``scores`` float32 (n,), the detector's; ``template_ids`` and ``media_ids``
        int32 (n,).

        ``template_pairs``: int32 (P, 3), two templates and 1 for the same person. ``gallery_G1``,
        ``probe_mixed`` and the other 1:N lists: int64 (r, 3), template, subject, and the position
        of the row's image; -1 where the row names none of the images, or one that was refused.
        """
        if left_out := np.count_nonzero(positions < 0):
            self.notices.append(
                f"{left_out} of {len(positions)} images are left out: results "
                "do not compare with published ones"
            )
        by_record = {
            "landmarks": self._landmarks,
            "scores": self._scores,
            "template_ids": self._media[:, 0],
            "media_ids": self._media[:, 1],
        }
        tables = {name: arrange(table, positions) for name, table in by_record.items()}
        if self._pairs is not None:
            tables["template_pairs"] = self._pairs
        # The row behind the last is that of no image.
        known = np.append(positions, -1)
        for name, roster in self._rosters.items():
            tables[name] = np.column_stack([roster.ids, known[roster.images]])
        return tables


def _prefix(meta: Path) -> Path:
    """What the names of all lists begin with: ``meta/ijbb_`` or ``meta/ijbc_``."""
    if os.path.lexists(meta):
        require_folder(meta)
    found = sorted(meta.glob(f"[!.]*_{_MEDIA}"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(
            f"{meta}: expected one ijbb_{_MEDIA} or ijbc_{_MEDIA}, found {names}; pass the folder "
            f"of one set, which holds {IMAGES} and {META}"
        )
    return found[0].with_name(found[0].name[: -len(_MEDIA)])


def _with(prefix: Path, name: str) -> Path:
    return prefix.with_name(prefix.name + name)


def _number(field: bytes) -> float:
    """The number, NaN where it is none."""
    try:
        return float(field)
    except ValueError:
        return math.nan


def _malformed(path: Path, number: int, line: bytes, expected: str) -> SourceError:
    return SourceError(
        f"{path}: line {number} is {text(line[:80])!r}; expected {expected}: fetch the list again"
    )


def read_integers(path: Path, columns: int) -> tuple[np.ndarray, str]:
    """The table in a text of unsigned integers with one blank between them, and the text's hash.

    Returns:
        int32 (n, columns), and XXH3-128 in hexadecimal.

    Raises:
        SourceError: it cannot be read, or a line is anything else, with its number.
    """
    require_file(path)
    digest = xxhash.xxh3_128()
    with read_errors(path), path.open("rb", buffering=0) as file:
        rows = 1  # the last line may lack its end
        while block := file.read(_BLOCK):
            digest.update(block)
            rows += block.count(b"\n")
        table = np.empty((rows, columns), np.int32)
        file.seek(0)
        done = 0
        rest = b""
        while block := file.read(_BLOCK):
            block = rest + block
            cut = block.rfind(b"\n") + 1
            done = _fill(path, table, done, block[:cut])
            rest = block[cut:]
            if len(rest) > _LONGEST:
                raise _malformed(path, done + 1, rest, f"{columns} numbers in a line")
        done = _fill(path, table, done, rest)
    return table[:done], digest.hexdigest()


def _fill(path: Path, table: np.ndarray, done: int, block: bytes) -> int:
    """Parse whole lines into ``table`` behind the ``done`` first rows; return how many it has."""
    block = block.replace(b"\r\n", b"\n").rstrip(b"\n")
    if not block:
        return done
    block += b"\n"
    columns = table.shape[1]
    characters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(characters <= ord(" "))  # of the numbers
    digits = np.count_nonzero((characters >= ord("0")) & (characters <= ord("9")))
    rows, over = divmod(len(ends), columns)
    marks = np.array([ord(" ")] * (columns - 1) + [ord("\n")], np.uint8)
    widths = np.diff(ends, prepend=-1) - 1
    good = digits + len(ends) == len(block) and not over
    good = good and 1 <= widths.min() <= widths.max() <= _DIGITS
    if not (good and (characters[ends].reshape(rows, columns) == marks).all()):
        raise _first_malformed(path, done, block, columns)
    numbers = np.fromstring(block, np.int32, sep=" ")
    table[done : done + rows] = numbers.reshape(rows, columns)
    return done + rows


def _first_malformed(path: Path, done: int, block: bytes, columns: int) -> SourceError:
    number = b"[0-9]{1,%d}" % _DIGITS
    pattern = re.compile(b" ".join([number] * columns))
    lines = enumerate(block.split(b"\n"), start=done + 1)
    row, line = next((row, line) for row, line in lines if not pattern.fullmatch(line))
    expected = f"{columns} numbers below 10^{_DIGITS}, one blank between"
    return _malformed(path, row, line, expected)
