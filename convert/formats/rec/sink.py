"""Any source into an MXNet ``.rec`` in InsightFace's layout.

``train.rec`` begins with the header record (key 0), images have the keys 1 to N, and identity
records follow behind them. arcface_torch goes by the header's first label, N + 1; older readers go
by the identity records, each of which tells the keys ``[first, end)`` of one identity's images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.delivery import deliver
from facepack.convert.file_target import STATE
from facepack.convert.formats.rec.framing import MAX_PAYLOAD
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.recordio import MAX_CLASS, RecordWriter, pack_header
from facepack.convert.left_out import Keeps, none
from facepack.convert.sink import SpanSink
from facepack.convert.source import Source
from facepack.convert.spans import payload_bytes
from facepack.errors import PackError
from facepack.images import ImageHeader
from facepack.progress import Progress
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.record import Buffer, SourceRecord
from facepack.system import sync_folder
from facepack.wording import count_of

REC, INDEX, PROPERTY = "train.rec", "train.idx", "property"

_ROWS, _REFUSED, _MARK = "rows", "refused.jsonl", "mark.json"
_EXPECTED_OVERHEAD = 1.02  # of record heads over images of some KB
_EXACT = 1 << 24  # up to here, float32 holds every integer
_ROW = np.dtype([("key", "<i8"), ("label", "<i4")])
_NO_KEY = -1
_LABEL = re.compile(r"label_([1-9]\d{0,4})")
_MAX_LABELS = 1 << 16  # of a record: a forged count must not fill the memory
_LINES = 1 << 16  # of an index, made at a time


@dataclass(kw_only=True)
class _Mark:
    """How far an unfinished ``.rec`` has come."""

    spans: int = 0  # how many of the plan's are written
    # bytes of the .rec, the .idx, the rows and the list of refused records
    files: tuple[int, int, int, int] = (0, 0, 0, 0)
    images: int = 0  # how many were written
    payload: int = 0  # their bytes
    size: list[int] | None = None  # [height, width] in pixels of the first image
    other_sizes: bool = False  # whether another image has another size

    def count(self, image: Buffer, header: ImageHeader) -> None:
        """Count an image."""
        size = [header.height, header.width]
        self.size = self.size or size
        self.other_sizes |= self.size != size
        self.images += 1
        self.payload += len(image)


class RecSink(SpanSink):
    """Write ``source`` as ``out/train.rec``, ``train.idx`` and ``property``.

    Images are in source order, and labels are the source's, -1 for an image without identity. What
    a record of a ``.rec`` had beside them (label vector, ids) is written again, and so are the keys
    if they are 1 to N. The header record comes first and identity records come last, wherever they
    were; where an identity's images do not lie together, there are none. ``property`` has the size
    of the first image. Records that are no images go to ``out/quarantine.jsonl``; tables of an
    evaluation set to ``out/NAME.npy``, in which positions are the images' places from 0.

    The file is written by this process alone.
    """

    kind = "rec"
    keeps = Keeps(identities=False, names=none, numbers=rf"id2|{_LABEL.pattern}")
    span_records, span_bytes = 65_536, 256 << 20
    written = (REC, INDEX, PROPERTY)

    def plan(self) -> dict[str, Any]:
        """What the target is a function of; ``property`` tells of the classes stated."""
        return super().plan() | {"classes": self.source.classes}

    def state_files(self) -> list[Path]:
        """What an unfinished ``.rec`` needs, the mark first: the rest is nothing without."""
        names = (_MARK, REC, INDEX, _ROWS, _REFUSED, f"header-{REC}")
        return [self.state / name for name in names]

    def outcome(self) -> dict[str, Any]:
        """The files; of an evaluation set, ``property`` would have nothing to say."""
        outcome = super().outcome()
        if self.source.content != "train":
            outcome["files"].remove(PROPERTY)
        return outcome

    def expected_bytes(self) -> int:
        """About how long the ``.rec`` will be."""
        return int(payload_bytes(self.source) * _EXPECTED_OVERHEAD)

    def left_bytes(self) -> int:
        """How long it is."""
        self._mark = _read_mark(self.out)
        return self._mark.files[0]

    def write(self) -> None:
        """Write the images behind those that the mark tells of."""
        mark, state = self._mark, self.state
        if mark.spans and not (state / REC).exists():  # an earlier run ended on its last steps
            (self.out / REC).replace(state / REC)
        rows: list[tuple[int, int]] = []

        def accept(record: SourceRecord) -> None:
            image, header = self.options.check.look(record.image)
            payload = _header_of(record, mark.images + 1) + image
            if len(payload) > MAX_PAYLOAD:
                raise PackError(f"{len(payload):,} bytes; a record holds at most {MAX_PAYLOAD:,}")
            writer.write(mark.images + 1, payload)
            key = (record.extra or {}).get("key", _NO_KEY)
            rows.append((int(key) if 0 <= key < 1 << 63 else _NO_KEY, record.label))
            mark.count(image, header)

        with (
            RecordWriter(state / REC, state / INDEX, keep=mark.files[:2]) as writer,
            Progress(len(self.source), unit="images", label=self.out.name) as progress,
        ):
            if not mark.files[0]:
                writer.write(0, _record_of_header(0, 0))  # takes its place until N is known
            progress.skip(sum(span.stop - span.start for span in self.spans[: mark.spans]))
            for span in self.spans[mark.spans :]:
                part = self.source.part(span.start, span.stop)
                refused = deliver(part, accept, strict=self.options.strict, progress=progress)
                mark.files = (
                    *writer.sync(),
                    _append(state / _ROWS, mark.files[2], np.array(rows, _ROW).tobytes()),
                    _append(state / _REFUSED, mark.files[3], fmt.json_lines(refused)),
                )
                mark.spans += 1
                write_file(state / _MARK, [fmt.json_text(asdict(mark)).encode()])
                rows.clear()

    def finish(self) -> dict[str, Any]:
        """Write what follows the images and stands beside them; put ``train.rec`` in place."""
        source, mark, state = self.source, self._mark, self.state
        refused = (state / _REFUSED).read_bytes()
        self.require_usable(mark.images, refused)
        rows = np.fromfile(state / _ROWS, _ROW, mark.images)
        keys = _keys(source, rows["key"])
        labels = rows["label"] if keys is None else rows["label"][np.argsort(keys)]
        ranges = _ranges(source, labels)
        following = mark.images + 1
        with RecordWriter(state / REC, state / INDEX, keep=mark.files[:2]) as writer:
            for key, bounds in enumerate(ranges.tolist(), start=following):
                writer.write(key, pack_header(bounds, key))
            rec_size, _ = writer.sync()
        _write_header(source, state, following, following + len(ranges))
        present = np.unique(labels[labels >= 0])
        without = int(np.count_nonzero(labels < 0))
        classes = max(source.classes or 0, int(present.max(initial=-1)) + 1)
        if without:
            source.notices.append(
                f"{count_of(without, 'image has', 'images have')} no identity: the label is -1"
            )

        files, pairs = self.write_beside(refused)
        files[REC] = rec_size
        _, files[INDEX] = write_file(self.out / INDEX, _index(state / INDEX, keys))
        if classes and mark.size:
            if mark.other_sizes:
                source.notices.append(
                    f"images are of several sizes: {PROPERTY} has that of the first, "
                    f"{mark.size[1]}×{mark.size[0]}"
                )
            text = f"{classes},{mark.size[0]},{mark.size[1]}\n"
            _, files[PROPERTY] = write_file(self.out / PROPERTY, [text.encode()])
        (state / REC).replace(self.out / REC)
        sync_folder(self.out)
        return {
            "files": files,
            "packed": mark.images,
            "quarantined": refused.count(b"\n"),
            "identities": len(present),
            "classes": classes,
            "pairs": pairs,
            "payload_bytes": mark.payload,
        }

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        for file in self.state_files():
            file.unlink(missing_ok=True)
        super().remove()


convert_to_rec = RecSink.convert


def _read_mark(out: Path) -> _Mark:
    """How far an earlier run came; the start if what it left is not all there."""
    state = out / STATE
    try:
        stated = read_json(state / _MARK)
        mark = _Mark(**stated | {"files": tuple(stated["files"])})
    except (OSError, ValueError, LookupError, TypeError):  # none, or one that is damaged
        return _Mark()
    files = [state / name for name in (REC, INDEX, _ROWS, _REFUSED)]
    if not files[0].exists():  # it ended on its last steps
        files[0] = out / REC
    for file, size in zip(files, mark.files, strict=True):
        if not file.exists() or file.stat().st_size < size:
            return _Mark()
    return mark


def _header_of(record: SourceRecord, number: int) -> bytes:
    """What precedes the image of a record, the ``number``-th that is written.

    Raises:
        PackError: the label or an id cannot be stored.
    """
    if not fmt.NO_IDENTITY <= record.label <= MAX_CLASS:
        raise PackError(f"label {record.label}: a .rec holds 0 to {MAX_CLASS}, and -1 for none")
    extra = record.extra or {}
    id_ = _whole(extra, "id", number, 1 << 64)
    id2 = _whole(extra, "id2", 0, 1 << 64)
    others = {
        int(match[1]): value for name, value in extra.items() if (match := _LABEL.fullmatch(name))
    }
    flag = _whole(extra, "flag", 1 + max(others) if others else 0, _MAX_LABELS)
    if not flag:
        return pack_header(record.label, id_, id2)
    labels = [float(record.label), *(others.get(k, np.nan) for k in range(1, flag))]
    return pack_header(labels, id_, id2)


def _whole(extra: dict[str, float | int], name: str, default: int, below: int) -> int:
    value = extra.get(name, default)
    if not (0 <= value < below and int(value) == value):
        raise PackError(f"{name} {value}: a .rec holds whole numbers from 0 to {below - 1}")
    return int(value)


def _append(path: Path, size: int, data: bytes) -> int:
    """Write ``data`` behind the first ``size`` bytes, synced; return the bytes of the file."""
    with path.open("r+b" if size else "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return size + len(data)


def _keys(source: Source, stated: np.ndarray) -> np.ndarray | None:
    """The source's keys, int64 (n,), if they are 1 to N in another order; None numbers anew."""
    ordered = np.arange(1, len(stated) + 1)
    if (stated == _NO_KEY).all() or np.array_equal(stated, ordered):
        return None
    if np.array_equal(np.sort(stated), ordered):
        return stated
    source.notices.append(f"images are numbered anew: the source's keys are not 1 to {len(stated)}")
    return None


def _ranges(source: Source, labels: np.ndarray) -> np.ndarray:
    """The keys ``[first, end)`` of each identity's images, int64 (m, 2); labels are by key.

    There are none (m = 0) if images of an identity are strewn; notices of ``source`` tell.
    """
    cuts = np.flatnonzero(np.diff(labels)) + 1
    firsts, ends = np.append(0, cuts), np.append(cuts, len(labels))
    known = labels[firsts] >= 0
    ranges = np.stack([firsts, ends], axis=1)[known] + 1
    identities = len(np.unique(labels[firsts][known]))
    if len(ranges) > identities:
        why = "the images of an identity do not lie together"
    elif len(labels) + 1 + len(ranges) > _EXACT:
        why = f"keys beyond {_EXACT:,} cannot be told in float32"
    else:
        return ranges
    source.notices.append(
        f"there are no identity records, for {why}: arcface_torch does without, readers that go by "
        "them find no images"
    )
    return ranges[:0]


def _write_header(source: Source, state: Path, following: int, end: int) -> None:
    """Write the header record over what held its place."""
    told = float32_below(following)
    if told != following:
        source.notices.append(
            f"the header record tells of {told - 1:,} of the {following - 1:,} images, for a "
            "float32 cannot tell of them all: readers that go by it miss the last ones"
        )
    part = state / f"header-{REC}"
    with RecordWriter(part, os.devnull) as writer:
        writer.write(0, _record_of_header(told, told if told != following else end))
    with (state / REC).open("r+b") as file:
        file.write(part.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    part.unlink()


def float32_below(number: int) -> int:
    """The largest integer up to ``number`` that float32 holds: a reader must not ask beyond."""
    nearest = np.float32(number)
    return int(nearest if int(nearest) <= number else np.nextafter(nearest, np.float32(0)))


def _record_of_header(following: int, end: int) -> bytes:
    return pack_header([following, end], 0)


def _index(written: Path, keys: np.ndarray | None) -> Iterator[bytes]:
    """The lines of the index: as ``written``, or with other keys of images."""
    if keys is None:
        with written.open("rb") as file:
            while data := file.read(1 << 20):
                yield data
        return
    all_keys, offsets = read_index(written)
    all_keys[1 : len(keys) + 1] = keys
    for start in range(0, len(offsets), _LINES):
        stop = start + _LINES
        lines = zip(all_keys[start:stop].tolist(), offsets[start:stop].tolist(), strict=True)
        yield b"".join(b"%d\t%d\n" % line for line in lines)
