"""TFRecord files as a source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from facepack import images
from facepack.convert.files import text
from facepack.convert.formats.tfrecord.example import Feature, find_usual, read_example
from facepack.convert.formats.tfrecord.features import (
    LONGEST_NAME,
    USUAL,
    Chosen,
    Wanted,
    choose_features,
    read_image,
    read_label,
    read_label_name,
    read_name,
)
from facepack.convert.formats.tfrecord.files import open_records, reopened
from facepack.convert.formats.tfrecord.framing import HEAD, TAIL, check_records, find_bounds
from facepack.convert.inputs import files_below, require_once, unused_stem
from facepack.convert.source import Entry, Group, PartInRuns, Refusal, Source, shard_stem
from facepack.convert.source_file import SourceFile, file_name, require_file
from facepack.convert.sweep import MAX_BLOCK
from facepack.convert.workers import run_early
from facepack.errors import DecodeError, SourceError
from facepack.store.format import MAX_LABEL, NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord

T = TypeVar("T")

_PROBES = 64  # records by which features are told
_SAMPLE, _PIECE = 64, 4096  # pieces, and their bytes, that tell two files of equal lengths apart
_BLOCK = MAX_BLOCK  # bytes of records that are read together
_BESIDE = 1 << 20  # bytes of a record beside its image, at most
_SQUEEZED = r"(?:\.(?:gz|gzip|zlib|zz))?$"
_OF_MANY = re.compile(r"-(\d+)-of-(\d+)(?:\.tfrec(?:ord)?s?)?" + _SQUEEZED, re.ASCII)
_SUFFIX = re.compile(r"\.tfrec(?:ord)?s?" + _SQUEEZED, re.IGNORECASE)
_FETCH_AGAIN = (
    "fetch the file again and compare its size and checksum with the publisher's, or go on "
    "without this record"
)


@dataclass(eq=False, kw_only=True)
class TfRecordPart(PartInRuns):
    """Records of one file that follow each other; each is checked by its checksums."""

    remedy = "write the record again, or go on without it"
    path: Path
    size: int  # bytes of the file when it was looked at
    compressed: bool
    fault: str  # why nothing can be inflated behind the last of these records
    start: int
    bounds: np.ndarray  # (n + 1,) where each begins in what is inflated, and where the last ends
    chosen: Chosen = USUAL  # the features that are taken
    numbers: Mapping[bytes, int] = field(default_factory=dict)  # of labels that are names

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.bounds) - 1

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        with reopened(self.path, self.size, compressed=self.compressed) as file:
            if once and isinstance(file, SourceFile) and len(rows):
                file.sweep(int(self.bounds[rows[0]]), int(self.bounds[rows[-1] + 1]))
            for some in self._stretches(rows):
                begin, end = int(self.bounds[some[0]]), int(self.bounds[some[-1] + 1])
                if len(some) == 1 and end - begin > _longest():
                    yield self._overlong(int(some[0]))
                else:
                    yield from self._read_stretch(some, file.read_block(end - begin, begin), begin)

    def _stretches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """``rows``, cut where others lie between them, and into blocks."""
        for together in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            first = 0
            while first < len(together):
                upto = self.bounds[together[first]] + _BLOCK
                last = int(np.searchsorted(self.bounds[together + 1], upto, "right"))
                yield together[first : max(last, first + 1)]
                first = max(last, first + 1)

    def _read_stretch(
        self, rows: np.ndarray, block: memoryview, begin: int
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """The records ``rows``, which ``block`` holds, and nothing else, from byte ``begin`` on."""
        bounds = self.bounds[rows[0] : rows[-1] + 2] - begin
        starts, stops = bounds[:-1], bounds[1:]
        faults = check_records(np.frombuffer(block, np.uint8), starts, stops)
        run = _Run(self.start, block, self.chosen, self.numbers)
        for row, start, stop, fault in zip(
            rows.tolist(), starts.tolist(), stops.tolist(), faults, strict=True
        ):
            if not fault and run.add(row, start + HEAD, stop - TAIL):
                continue
            yield from run.take()
            if fault:
                yield self._damaged(row, fault)
            else:
                yield self._record(row, block[start + HEAD : stop - TAIL])
        yield from run.take()

    def _record(self, row: int, data: memoryview) -> SourceRecord | Refusal:
        """Any record, by itself: what :class:`_Run` takes of usual ones, and more."""
        name = None
        try:
            features = read_example(data)
            if self.chosen.name in features:
                name = _read(features, self.chosen.name, read_name)
            image = _read(features, self.chosen.image, read_image)
            if self.chosen.named:
                identity = _read(features, self.chosen.label, read_label_name)
                if identity not in self.numbers:
                    raise SourceError(
                        f"{self.path}: has other identities now: it changed since the conversion "
                        "began; start anew with --overwrite"
                    )
                label = self.numbers[identity]
            else:
                label = _read(features, self.chosen.label, read_label)
        except DecodeError as error:
            return self._refuse(row, name, str(error), self.remedy)
        return SourceRecord(self.start + row, image, label, name)

    def label_names(self) -> set[bytes]:
        """The different labels, where they are names."""
        found = set()
        with reopened(self.path, self.size, compressed=self.compressed) as file:
            for some in self._stretches(np.arange(self.stop - self.start)):
                bounds = self.bounds[some[0] : some[-1] + 2]
                if len(some) == 1 and bounds[1] - bounds[0] > _longest():
                    continue
                block = file.read_block(int(bounds[-1] - bounds[0]), int(bounds[0]))
                starts = bounds - bounds[0]
                faults = check_records(np.frombuffer(block, np.uint8), starts[:-1], starts[1:])
                for start, stop, fault in zip(
                    starts[:-1].tolist(), starts[1:].tolist(), faults, strict=True
                ):
                    with suppress(DecodeError):  # it is refused when it is read
                        data = block[start + HEAD : stop - TAIL]
                        if not fault:
                            found.add(_read(read_example(data), self.chosen.label, read_label_name))
        return found

    def identity_names(self) -> Mapping[int, str]:
        """The names of all identities, where labels are names."""
        return {number: text(name) for name, number in self.numbers.items()}

    def entries(self) -> Iterator[Entry]:
        """Label and name of each; -1 and None where it is damaged."""
        for record in self.read():
            if isinstance(record, Refusal):
                yield Entry(NO_IDENTITY, record.key)
            else:
                yield Entry(record.label, record.name)

    def _damaged(self, row: int, fault: str) -> Refusal:
        if self.fault and row == len(self.bounds) - 2:
            fault = self.fault
        size = int(self.bounds[row + 1] - self.bounds[row])
        return self._refuse(row, None, f"{fault} ({size:,} bytes)", _FETCH_AGAIN)

    def _overlong(self, row: int) -> Refusal:
        size = int(self.bounds[row + 1] - self.bounds[row])
        return self._refuse(
            row,
            None,
            f"{size:,} bytes; an image of at most {images.MAX_BYTES:,} is taken",
            "set the environment variable FACEPACK_MAX_IMAGE_BYTES to more, or leave it out",
        )

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        offset = int(self.bounds[row])
        if self.compressed:
            reason += "; its byte counts from the beginning of what is inflated"
        return Refusal(self.start + row, file_name(self.path), offset, name, reason, remedy)


def _read(features: dict[bytes, Feature], name: bytes, read: Callable[[Feature], T]) -> T:
    """What the feature ``name`` holds; DecodeError: it is missing, or not what is to be read."""
    if name not in features:
        raise DecodeError(f"it has no feature {text(name)!r}")
    try:
        return read(features[name])
    except DecodeError as error:
        raise DecodeError(f"feature {text(name)!r}: {error}") from None


class _Run:
    """Gathers usual records of a part, which begins at ``first``, that follow each other."""

    def __init__(
        self, first: int, block: memoryview, chosen: Chosen, numbers: Mapping[bytes, int]
    ) -> None:
        self._first, self._block = first, block
        self._chosen, self._numbers = chosen, numbers
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._rows: list[int] = []
        self._images: list[tuple[int, int]] = []
        self._labels: list[int] = []
        self._names: list[str] = []

    def add(self, row: int, start: int, stop: int) -> bool:
        """Add the record ``row`` whose data lie at ``[start, stop)``; False if it is unusual."""
        chosen = self._chosen
        found = find_usual(self._block, start, stop)
        if found is None:
            return False
        image, label = found.get(chosen.image), found.get(chosen.label)
        if chosen.named:  # by their bytes as they are; with blanks around them they are unusual
            label = (
                self._numbers.get(bytes(self._block[slice(*label)]))
                if isinstance(label, tuple)
                else None
            )
        if not isinstance(image, tuple) or not isinstance(label, int) or label > MAX_LABEL:
            return False
        if chosen.name is not None:
            name = found.get(chosen.name)
            if not isinstance(name, tuple) or not 0 < name[1] - name[0] <= LONGEST_NAME:
                return False
            self._names.append(text(bytes(self._block[slice(*name)])))
        self._rows.append(row)
        self._images.append(image)
        self._labels.append(label)
        return True

    def take(self) -> Iterator[RecordRun]:
        """What was gathered, if there is any; then there is none."""
        if self._rows:
            bounds = np.array(self._images, np.int64)
            yield RecordRun(
                ordinals=self._first + np.array(self._rows, np.int64),
                data=self._block,
                starts=bounds[:, 0],
                stops=bounds[:, 1],
                labels=np.array(self._labels, np.int64),
                names=self._names or None,
                extra={},
            )
            self._begin_anew()


def _describe(whole: TfRecordPart) -> dict[str, Any]:
    """Name, size, a hash of where records begin, and one of pieces of the file as it is."""
    bounds = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(whole.bounds, "<i8").tobytes())
    sample = xxhash.xxh3_128()
    with SourceFile(whole.path, whole.size) as file:
        for offset in np.linspace(0, whole.size - 1, _SAMPLE).astype(np.int64).tolist():
            sample.update(file.read(min(_PIECE, whole.size - offset), offset))
    return {
        "name": file_name(whole.path),
        "bytes": whole.size,
        "records": whole.stop - whole.start,
        "bounds_xxh3_128": bounds,
        "sample_xxh3_128": sample.hexdigest(),
    }


class TfRecordSource(Source):
    """The images of TFRecord files, in the order of the files and of the records in them.

    A record is a ``tf.train.Example`` with an encoded image, a label, and perhaps a name. Features
    are those of arcface-tf2, or are found (:mod:`facepack.convert.formats.tfrecord.features`); all
    others are left out. Files may be plain, or compressed as TensorFlow does (ZLIB, GZIP); a
    process inflates such a file once. Each file is a group, so that no shard holds images of two.
    Of folders, all files are taken that are called like TFRecords.

    Raises:
        SourceError: a file is no TFRecord file or cannot be read, or there is no record, or none
            with an image and a label.
    """

    kind = "tfrecord"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        image_feature: str | None = None,
        label_feature: str | None = None,
        name_feature: str | None = None,
    ) -> None:
        none = "has no file called NAME.tfrecord or NAME-00000-of-00010; pass the files themselves"
        files = list(files_below(paths, _is_called_so, none))
        require_once(files)
        self.notices = list(_missing(files))
        self._wholes: dict[str, TfRecordPart] = {}  # of each file all records, by their stem
        taken: set[str] = set()
        count = 0
        for whole in run_early(_look_at, [(path,) for path in files]):
            if not whole.stop:
                self.notices.append(f"{file_name(whole.path)}: has no records")
                continue
            stem = unused_stem(shard_stem(_SUFFIX.sub("", whole.path.name)), taken)
            self._wholes[stem] = replace(whole, start=count)
            count = self._wholes[stem].stop
        self._count = count
        if not count:
            raise SourceError(f"{', '.join(map(str, paths))}: there are no records")
        examples = list(islice(self._examples(), _PROBES))
        if not examples:
            raise SourceError(
                f"{files[0]}: none of the first records is a whole tf.train.Example: fetch the "
                "file again, or pass another"
            )
        wanted = Wanted(image=image_feature, label=label_feature, name=name_feature)
        try:
            self._chosen = choose_features(examples, wanted)
        except SourceError as error:
            raise SourceError(f"{files[0]}: {error}") from None
        if self._chosen != USUAL:
            self.notices.append(_told(self._chosen))
        self._numbers: dict[bytes, int] = {}
        if self._chosen.named:
            wholes = [(replace(each, chosen=self._chosen),) for each in self._wholes.values()]
            names = set().union(*run_early(TfRecordPart.label_names, wholes))
            self._numbers = {name: number for number, name in enumerate(sorted(names))}
            self.classes = len(names)

    def _examples(self) -> Iterator[dict[bytes, Feature]]:
        """The features of the first records of each file that are sound."""
        for each in self._wholes.values():
            stop = min(len(each.bounds) - 1, _PROBES)
            with reopened(each.path, each.size, compressed=each.compressed) as file:
                for begin, end in zip(each.bounds[:stop], each.bounds[1:], strict=False):
                    if end - begin > _longest():
                        continue
                    block = np.frombuffer(file.read(int(end - begin), int(begin)), np.uint8)
                    (fault,) = check_records(block, np.array([0]), np.array([end - begin]))
                    try:
                        example = {} if fault else read_example(block[HEAD:-TAIL].data)
                    except DecodeError:
                        continue
                    if example:
                        yield example

    def __len__(self) -> int:
        return self._count

    def describe(self) -> dict[str, Any]:
        """The features, and of each file name, size, and hashes of records' places and a sample.

        Raises:
            SourceError: a file cannot be read.
        """
        features = {field: getattr(self._chosen, field) for field in ("image", "label", "name")}
        described = {
            "kind": self.kind,
            "images": len(self),
            "features": {key: name and text(name) for key, name in features.items()},
            "files": [*map(_describe, self._wholes.values())],
        }
        return described | ({"identities": len(self._numbers)} if self._chosen.named else {})

    def groups(self) -> list[Group]:
        """One for each file, called like it."""
        return [Group(stem, each.start, each.stop) for stem, each in self._wholes.items()]

    def sizes(self) -> np.ndarray:
        """Bytes of each record's data; 0 for one that is larger than any that is taken."""
        spans = np.concatenate([np.diff(each.bounds) for each in self._wholes.values()])
        spans[spans > _longest()] = 0
        return np.maximum(spans - HEAD - TAIL, 0).astype(np.uint64)

    def part(self, start: int, stop: int) -> TfRecordPart:
        """The records ``[start, stop)``, which lie in one file."""
        whole = next(each for each in self._wholes.values() if start < each.stop)
        return replace(
            whole,
            fault=whole.fault if stop == whole.stop else "",
            start=start,
            bounds=whole.bounds[start - whole.start : stop - whole.start + 1],
            chosen=self._chosen,
            numbers=self._numbers,
        )


def _look_at(path: Path) -> TfRecordPart:
    """All records of a file, numbered from 0.

    Raises:
        SourceError: it is no TFRecord file, or cannot be read.
    """
    require_file(path)
    with open_records(path) as file:
        bounds = find_bounds(file)
        return TfRecordPart(
            path=path,
            size=file.size,
            compressed=not isinstance(file, SourceFile),
            fault=file.fault,
            start=0,
            bounds=bounds,
        )


def _is_called_so(file: Path) -> bool:
    """Whether it is called as TFRecords are.

    That is ``NAME.tfrecord``, ``.tfrecords`` or ``.tfrec``, or with the number of one of many at
    the end, ``NAME-00003-of-00010``.
    """
    return bool(_SUFFIX.search(file.name) or _OF_MANY.search(file.name)) and file.is_file()


def _missing(files: Sequence[Path]) -> Iterator[str]:
    """Notices of sets of files that say how many they are, and are fewer."""
    there: Counter[tuple[Path, int]] = Counter()
    for path in files:
        if (match := _OF_MANY.search(path.name)) is not None:
            there[path.with_name(path.name[: match.start()] + "-"), int(match[2])] += 1
    for (prefix, total), count in there.items():
        if count < total:
            yield f"{file_name(prefix)}…: {count:,} of {total:,} files are given"


def _longest() -> int:
    """Bytes of a record that can hold an image that is taken."""
    return images.MAX_BYTES + _BESIDE


def _told(chosen: Chosen) -> str:
    named = "nothing" if chosen.name is None else repr(text(chosen.name))
    return (
        f"images are the feature {text(chosen.image)!r}, labels {text(chosen.label)!r}"
        f"{' (names of identities)' if chosen.named else ''}, names "
        f"{named}: --image-feature, --label-feature and --name-feature take others"
    )
