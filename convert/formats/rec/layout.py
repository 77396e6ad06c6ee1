"""Which records of a ``.rec`` are images: found by looking, not by trusting a layout.

InsightFace's layout has images at keys 1 … N, a header record (key 0, no image) whose first label
is the key after the last image, and identity records (no image) from there on. Files depart from it
in every way: the header lies before or after the images, is missing, or key 0 is an ordinary image;
identity records are absent or wrong; labels are vectors; there is no ``.idx``. Header labels are
float32 besides, which skips integers above 2^24. So a record counts as an image if it holds one,
and the header is only asked how many images there should be.

Only records too short for an image are read to tell them apart. What has no image and still lies in
a longer stretch of the file (a long label vector; records that the index leaves out follow it) is
met when it is read: its :attr:`~facepack.convert.formats.rec.recordio.Header.image` is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from facepack.convert.formats.rec.framing import (
    NO_INDEX,
    NO_RECORDIO,
    FramingError,
    RecordError,
)
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.omitted import find_omitted, number_on
from facepack.convert.formats.rec.recordio import RecordReader, are_blank, unpack_header
from facepack.convert.source_file import read_errors, require_file
from facepack.errors import SourceError
from facepack.wording import count_of

# Records that take up more of the file than this hold an image or a very long label vector.
_LONGEST_BLANK = 256
# How many index lines are tried before the conversion starts.
_PROBES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class RecLayout:
    """The records of a ``.rec`` sorted into images, header and identities.

    The arrays are int64 and in the physical order of the file, which is the source order.
    """

    rec: Path
    index: Path | None  # the .idx, or None where there is none and the file was scanned
    file_size: int  # bytes of the .rec
    # (n,) key of each image; its ordinal among all records where there is no index. Images that no
    # line of the index names are numbered on
    keys: np.ndarray
    keys_unique: bool  # whether every image has a key of its own
    offsets: np.ndarray  # (n,) byte offset of each image record, increasing
    # (n,) bytes from each image record to the next record of any kind, or to the end
    extents: np.ndarray
    header_offset: int | None  # byte offset of the header record, None where there is none
    identity_offsets: np.ndarray  # (m,) byte offsets of the other records without an image
    classes: int | None  # number of classes, from property; None where that is absent
    # height and width in pixels, from property; None where that is absent
    image_size: tuple[int, int] | None
    # whether these are said to be all records: then none may begin between two of them
    complete: bool
    notices: tuple[str, ...]  # what the user should know though it stops nothing

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def blank_offsets(self) -> np.ndarray:
        """(k,) byte offsets of all records without an image, increasing."""
        header = [] if self.header_offset is None else [self.header_offset]
        return np.sort(np.append(self.identity_offsets, np.array(header, np.int64)))


def read_layout(source: Path | str, *, only_indexed: bool = False) -> RecLayout:
    """Sort the records of ``source``: a ``.rec``, or a folder that holds ``train.rec``.

    The index (same name, ``.idx``) and ``property`` are taken from the same folder when they are
    there. Records that no line of the index names are taken too, unless ``only_indexed``. Raises
    :class:`~facepack.errors.SourceError` when a file is malformed, when the index does not belong
    to the ``.rec``, or when there is no image.
    """
    rec = _find_rec(Path(source))
    classes, image_size = read_property(rec.parent / "property")
    notices: list[str] = []
    index: Path | None = rec.with_suffix(".idx")
    with RecordReader(rec) as reader:
        if index is not None and index.exists():
            listed = _read_checked_index(index, reader, notices)
            records = _Records.of(reader, *listed, indexed=True)
            if not only_indexed:
                records = _with_omitted(index, reader, records, notices)
        elif only_indexed:
            raise SourceError(
                f"{index}: is absent, and --only-indexed goes by it: put it there, or leave that "
                "option out"
            )
        else:
            notices.append(f"{index} is absent: {rec.name} was scanned")
            index = None
            try:
                found = reader.offsets()
            except FramingError as error:
                remedy = NO_INDEX if error.offset else NO_RECORDIO
                raise FramingError(rec, error.offset, None, error.reason, remedy) from error
            records = _Records.of(reader, np.arange(len(found)), found, indexed=False)
        keys, offsets, blank, images = records.keys, records.offsets, records.blank, records.images
        if images == 0:
            raise SourceError(
                f"{rec}: none of its {len(offsets)} records holds an image; pass the .rec that has "
                "the images, not a list of identities"
            )
        announced = records.announced
        if announced is not None and not announces(announced, images):
            notices.append(
                f"{rec}: the header record announces {announced - 1:.0f} images, {images} were "
                f"found{f' by {index.name}' if index and only_indexed else ''}"
            )
        if index is not None:
            notices += _index_gaps(index, offsets, reader, only_indexed=only_indexed)
        size = reader.size
    keys = keys[~blank]
    # np.unique hashes, which takes a minute where sorting takes seconds.
    repeated = int(np.count_nonzero(np.diff(np.sort(keys)) == 0))
    if repeated:
        notices.append(
            f"{index}: {count_of(repeated, 'key occurs', 'keys occur')} more than once; every "
            "image is taken"
        )
    identities = blank.copy()
    if records.header is not None:
        identities[records.header] = False
    return RecLayout(
        rec=rec,
        index=index,
        file_size=size,
        keys=keys,
        keys_unique=repeated == 0,
        offsets=offsets[~blank],
        extents=np.diff(offsets, append=size)[~blank],
        header_offset=None if records.header is None else int(offsets[records.header]),
        identity_offsets=offsets[identities],
        classes=classes,
        image_size=image_size,
        complete=not only_indexed,
        notices=tuple(notices),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Records:
    """Records of a ``.rec``, in the order of the file, and which of them are no images."""

    keys: np.ndarray  # (n,) int64
    offsets: np.ndarray  # (n,) int64, increasing
    blank: np.ndarray  # (n,) bool, those without an image
    header: int | None  # row of the header record, or None
    announced: float | None  # its first label

    @classmethod
    def of(
        cls,
        reader: RecordReader,
        keys: np.ndarray,
        offsets: np.ndarray,
        *,
        indexed: bool,
        unsure: np.ndarray | None = None,
    ) -> _Records:
        """Sort records; those at the offsets ``unsure`` are read, however long they are."""
        extents = np.diff(offsets, append=reader.size)
        blank = _blank_records(reader, keys, offsets, extents, unsure)
        images = int(np.count_nonzero(~blank))
        header, announced = _find_header(reader, keys, offsets, blank, images, indexed)
        return cls(keys=keys, offsets=offsets, blank=blank, header=header, announced=announced)

    @property
    def images(self) -> int:
        """How many hold an image."""
        return int(np.count_nonzero(~self.blank))


def _with_omitted(
    index: Path, reader: RecordReader, listed: _Records, notices: list[str]
) -> _Records:
    """The records that the index lists and those that it does not."""
    announced = listed.announced
    fewer = announced is not None and announced > np.float32(listed.images + 1)
    omitted = find_omitted(reader, listed.keys, listed.offsets, thorough=bool(fewer))
    if not len(omitted):
        return listed
    keys, offsets = number_on(listed.keys, listed.offsets, omitted)
    records = _Records.of(reader, keys, offsets, indexed=True, unsure=omitted)
    if more := records.images - listed.images:
        notices.append(
            f"{index}: lists {count_of(listed.images, 'image')} and omits "
            f"{count_of(more, 'more, which is', 'more, which are')} taken too, as "
            "MXNet's ImageRecordIter does; --only-indexed leaves them out, if the index was "
            "cleaned on purpose"
        )
    return records


def announces(label: float, images: int) -> bool:
    """Whether a header whose first label is ``label`` announces ``images`` images.

    The label is the key after the last image as float32: above 2^24 it is rounded to a multiple of
    2, above 2^25 of 4, so that it is compared with the count rounded the same way.
    """
    return bool(np.float32(label) == np.float32(images + 1))


def read_property(path: Path | str) -> tuple[int | None, tuple[int, int] | None]:
    """Classes and (height, width) from a ``property`` file; ``(None, None)`` when there is none.

    The first line is ``classes,height,width``, or the same with blanks. Whatever writers add (a
    count, the word ``shuffled``, a time; in that line or below it) is ignored.
    """
    path = Path(path)
    if not path.exists():
        return None, None
    require_file(path)
    with read_errors(path), path.open("rb") as file:
        line = file.readline(1000).decode("ascii", "backslashreplace").strip()
    fields = re.split(r"[\s,]+", line)[:3]
    if len(fields) == 3 and all(f.isdecimal() and 0 < int(f) < 1 << 31 for f in fields):
        classes, height, width = map(int, fields)
        return classes, (height, width)
    raise SourceError(
        f"{path}: the first line is {line[:60]!r}; expected classes,height,width such as "
        "85742,112,112; correct it, or remove the file and the classes are counted"
    )


def _find_rec(source: Path) -> Path:
    if not source.is_dir():
        require_file(source)
        if source.suffix == ".idx":
            rec = source.with_suffix(".rec")
            raise SourceError(f"{source}: is the index of a .rec: pass {rec}, or its folder")
        return source
    rec = source / "train.rec"
    if rec.exists():
        require_file(rec)
        return rec
    others = sorted(path.name for path in source.glob("*.rec"))
    raise SourceError(
        f"{source}: holds no train.rec; "
        + (f"pass one of its files: {', '.join(others)}" if others else "pass a .rec or its folder")
    )


def _read_checked_index(
    index: Path, reader: RecordReader, notices: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets in physical order, checked against the file as far as is cheap."""
    require_file(index)
    keys, offsets = read_index(index)
    if len(offsets) == 0:
        raise SourceError(f"{index}: the index is empty; remove it and the .rec will be scanned")
    outside = (offsets >= reader.size) | (offsets % 4 != 0)
    if outside.any():
        line = int(np.argmax(outside))
        raise SourceError(
            f"{index}: line {line + 1}: key {keys[line]} points at byte {offsets[line]}, which is "
            f"no record of {reader.path} ({reader.size} bytes, records begin at multiples of 4); "
            "the .rec is cut short or the index belongs to another file: fetch both again, or "
            "remove the index and the .rec will be scanned"
        )
    _probe(index, keys, offsets, reader)
    if not (np.diff(offsets) > 0).all():
        order = np.lexsort((keys, offsets))
        keys, offsets = keys[order], offsets[order]
        again = (np.diff(offsets, prepend=-1) == 0) & (np.diff(keys, prepend=-1) == 0)
        if again.any():
            keys, offsets = keys[~again], offsets[~again]
            notices.append(
                f"{index}: {count_of(int(again.sum()), 'line is', 'lines are')} there twice"
            )
        twice = np.flatnonzero(np.diff(offsets) == 0)
        if len(twice):
            first = int(twice[0])
            raise SourceError(
                f"{index}: keys {keys[first]} and {keys[first + 1]} both point at byte "
                f"{offsets[first]}; fetch the index again, or remove it and the .rec will be "
                "scanned"
            )
    return keys, offsets


def _probe(index: Path, keys: np.ndarray, offsets: np.ndarray, reader: RecordReader) -> None:
    """Try lines all over the index: does it belong to this file at all?

    A record that is broken by itself is set aside when it is read. An index most of whose lines
    lead nowhere is another file's, and a last line that does was cut.
    """
    lines = np.unique(np.linspace(0, len(offsets) - 1, _PROBES).astype(np.int64)).tolist()
    failures: dict[int, RecordError] = {}
    for line in lines:
        try:
            reader.read_at(int(offsets[line]))
        except RecordError as error:
            failures[line] = error
    if 2 * len(failures) > len(lines) or lines[-1] in failures:
        line = next(iter(failures)) if 2 * len(failures) > len(lines) else lines[-1]
        found = failures[line]
        raise SourceError(f"{index}: line {line + 1}: key {keys[line]}: {found}") from found


def _blank_records(
    reader: RecordReader,
    keys: np.ndarray,
    offsets: np.ndarray,
    extents: np.ndarray,
    unsure: np.ndarray | None,
) -> np.ndarray:
    """Mask of the records without an image, among those too short for one and the likely ones."""
    likely = (extents <= _LONGEST_BLANK) | (keys == 0)
    if unsure is not None:
        likely[np.searchsorted(offsets, unsure)] = True
    likely[[0, -1]] = True
    blank = np.zeros(len(offsets), bool)
    rows = np.flatnonzero(likely)
    done = 0
    for item in reader.iter_blocks(offsets[rows]):
        if isinstance(item, tuple):
            found = are_blank(*item)
        elif isinstance(item, FramingError):  # refused, with its offset, when the images are read
            found = np.zeros(1, bool)
        else:
            found = are_blank(item, np.zeros(1, np.int64), np.array([len(item)]))
        blank[rows[done : done + len(found)]] = found
        done += len(found)
    return blank


def _find_header(
    reader: RecordReader,
    keys: np.ndarray,
    offsets: np.ndarray,
    blank: np.ndarray,
    images: int,
    indexed: bool,
) -> tuple[int | None, float | None]:
    """Row of the header record and its first label, or (None, None).

    An index names it: key 0. Without one it is the first or the last record without an image, and
    tells itself by announcing the images that were found.
    """
    rows = np.flatnonzero(blank)
    candidates = rows[keys[rows] == 0] if indexed else rows[[0, -1]] if len(rows) else rows
    for row in candidates.tolist():
        label = unpack_header(reader.read_at(int(offsets[row]))).labels[0]
        if indexed or announces(label, images):
            return row, label
    return None, None


def _index_gaps(
    index: Path, offsets: np.ndarray, reader: RecordReader, *, only_indexed: bool
) -> list[str]:
    outside = int(offsets[0]) + reader.size - reader.end_of(int(offsets[-1]))
    if not outside:
        return []
    if only_indexed:
        left_out = "belong to no line; the records there are left out"
    else:
        left_out = "are no records"
    return [f"{index}: {outside} bytes at the ends of {reader.path.name} {left_out}"]
