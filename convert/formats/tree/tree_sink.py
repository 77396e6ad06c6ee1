"""Any source into a tree of image files with a key-label index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.delivery import deliver
from facepack.convert.file_target import STATE, has_size, write_image
from facepack.convert.formats.pairs.folder_sink import convert_to_pair_folder
from facepack.convert.formats.tree.distinct import (
    path_in,
    require_distinct,
    require_distinct_ahead,
)
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import ASIDE, INDEX, image_path, is_safe_path
from facepack.convert.result import Result
from facepack.convert.sink import ParallelSink
from facepack.convert.source import Part, Source
from facepack.convert.spans import Span
from facepack.errors import PackError, SourceError
from facepack.images import SUFFIXES
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.places import nearest
from facepack.store.preview import Preview
from facepack.store.record import Buffer, SourceRecord
from facepack.system import block_bytes
from facepack.wording import count_of

NAMING = ("source", "number")
_BATCH = 256  # files that are named in the state before they are written


@dataclass(frozen=True, kw_only=True)
class TreeOptions(ConvertOptions):
    """How an image tree is written."""

    # source keeps the source's names of images where they are safe as paths; number calls every
    # file <label>/<n>.jpg, where n counts the source's records
    naming: str = "source"

    def __post_init__(self) -> None:
        if self.naming not in NAMING:
            raise PackError(f"naming {self.naming!r}: allowed are {', '.join(NAMING)}")


class TreeSink(ParallelSink):
    """Write the images of ``source`` as files with their original bytes.

    A record that has a name in the source keeps it, as far as it is a safe relative path; others
    become ``<label>/<n>.jpg``, where ``n`` is the record's key in the source, or its ordinal where
    it has none or ``naming`` is ``number``. ``out/index.kv`` has a line ``<path> <label>`` for each
    file, in source order, and is written last; ``out/labels.txt`` has the names of identities.
    Records that are no images go to ``out/quarantine.jsonl``; tables of an evaluation set to
    ``out/NAME.npy``, positions being lines of the index.
    """

    kind = "tree"
    kept = (".kv", ".jsonl", ".bytes", ".names", ".identities")
    written = (INDEX, fmt.LABELS)
    options: TreeOptions

    def plan(self) -> dict[str, Any]:
        """What the target is a function of, the naming of files among it."""
        return super().plan() | {"naming": self.options.naming}

    def look_ahead(self) -> None:
        """Make sure, as far as names are known, that no two records want one file."""
        if self.options.naming == "source":
            path_of = partial(_path_of, "source")
            require_distinct_ahead(self.out, self.source, self.options.check, path_of)

    def expected_bytes(self) -> int:
        """About how many bytes the images take, each of them whole blocks of the disk."""
        return int(self._disk_bytes().sum())

    def left_bytes(self) -> int:
        """Bytes that the images of the spans that are there take."""
        super().left_bytes()
        taken = self._disk_bytes()
        missing = sum(int(taken[span.start : span.stop].sum()) for span in self._missing)
        return int(taken.sum()) - missing

    def _disk_bytes(self) -> np.ndarray:
        sizes = self.source.sizes().astype(np.int64)
        block = block_bytes(nearest(self.out))
        return -(-sizes // block) * block

    def outcome(self) -> dict[str, Any]:
        """The images, and what stands beside them."""
        return super().outcome() | {"image_files": len(self.source)}

    def is_whole(self, done: dict[str, Any]) -> bool:
        """Whether a finished tree is there: every file of its index, as far as sizes tell."""
        index = self.out / INDEX
        return super().is_whole(done) and _bytes_of(self.out, index) == done["payload_bytes"]

    def written_bytes(self, span: Span) -> int | None:
        """Bytes of the span's images if an earlier run wrote them and they are there in full.

        Images are left to the system's own write-back, as tar leaves them: after a power cut, files
        that were written may be short. So their sizes are looked at.
        """
        index, size = self.state / f"{span.name}.kv", self.state / f"{span.name}.bytes"
        if not (index.exists() and size.exists()):
            return None
        total = int(size.read_text())
        return total if _bytes_of(self.out, index) == total else None

    @staticmethod
    def write_span(part: Part, out: Path, name: str, options: TreeOptions) -> None:
        """Write the files of a span and what the state keeps of them; runs in a worker."""
        lines: list[str] = []
        labels: set[int] = set()
        folders: set[str] = set()
        batch: list[tuple[str, Buffer]] = []
        size = 0
        state = out / STATE
        written = state / f"{name}.names"
        again = options.resume or written.exists()  # so that some images may be there
        root = os.fspath(out)  # joining strings is a tenth of the work of joining paths

        def flush() -> None:
            log.write("".join(f"{path}\n" for path, _ in batch))
            log.flush()  # so that --overwrite knows what to remove, whenever this ends
            for path, image in batch:
                folder = path.rpartition("/")[0]
                try:
                    if folder not in folders:
                        (out / folder).mkdir(parents=True, exist_ok=True)
                        folders.add(folder)
                    if not (again and has_size(out / path, len(image))):
                        write_image(f"{root}/{path}", image, replace=again)
                except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                    raise SourceError(f"{out}: {path!r} {_obstacle(out / path)}") from error
            batch.clear()

        def accept(record: SourceRecord) -> None:
            nonlocal size
            image, header = options.check.look(record.image)
            path = _path_of(options.naming, record, SUFFIXES[header.format])
            batch.append((path, image))
            labels.add(record.label)
            lines.append(f"{path} {record.label}\n")
            size += len(image)
            if len(batch) == _BATCH:
                flush()

        with write_errors(out), written.open("a", encoding="utf-8") as log:
            log.write("\n")  # ends what a killed run may have left of a line
            refused = deliver(part, accept, strict=options.strict)
            flush()
        write_file(state / f"{name}.jsonl", [fmt.json_lines(refused)])
        write_file(state / f"{name}.bytes", [str(size).encode()])
        known = part.identity_names()
        names = {label: known[label] for label in labels if label in known}
        write_file(state / f"{name}.identities", [json.dumps(names).encode()])
        write_file(state / f"{name}.kv", ["".join(lines).encode()])

    def finish(self) -> dict[str, Any]:
        """Join what the spans left, piece by piece: an index may be larger than the memory."""
        refused = b"".join(self.pieces(".jsonl"))
        paths, labels = _look_through(self.pieces(".kv"))
        self.require_usable(len(paths), refused)
        require_distinct(self.out, paths, self.pieces(".kv"))
        names: dict[int, str] = {}
        for identities in self.pieces(".identities"):
            names |= {int(label): name for label, name in json.loads(identities).items()}
        classes = max(self.source.classes or 0, max(labels, default=fmt.NO_IDENTITY) + 1)
        files, _ = self.write_beside(refused, names, classes)
        _, files[INDEX] = write_file(self.out / INDEX, self.pieces(".kv"))
        return {
            "files": files,
            "packed": len(paths),
            "quarantined": refused.count(b"\n"),
            "identities": len(labels - {fmt.NO_IDENTITY}),
            "classes": classes,
            "payload_bytes": sum(map(int, self.pieces(".bytes"))),
            "renamed": sum(
                (b"\n" + index).count(f"\n{ASIDE}/".encode()) for index in self.pieces(".kv")
            ),
        }

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        logs = sorted(self.state.glob("*.names"))
        lists = [_lines(log) for log in logs]
        if (self.out / INDEX).exists():
            lists.append(_indexed(self.out / INDEX))
        folders = set()
        for path in filter(is_safe_path, chain.from_iterable(lists)):
            with suppress(NotADirectoryError, IsADirectoryError):  # of two names, one was written
                (self.out / path).unlink(missing_ok=True)
            folders.add(path.rpartition("/")[0])
        super().remove()
        for log in logs:
            log.unlink()
            log.with_suffix(".identities").unlink(missing_ok=True)
        for folder in sorted(folders, key=len, reverse=True):
            while (
                folder and (self.out / folder).is_dir() and not any((self.out / folder).iterdir())
            ):
                (self.out / folder).rmdir()
                folder = folder.rpartition("/")[0]

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result; images are files, too. A notice tells of names that could not be kept."""
        if renamed := done.get("renamed", 0):  # not noted by earlier versions
            self.source.notices.append(
                count_of(
                    renamed, "name of an image is no safe path", "names of images are no safe paths"
                )
                + f" (hidden, too long, or with odd characters): called by number in {ASIDE}"
            )
        result = super().result(done, began)
        return replace(result, file_bytes=result.file_bytes + result.payload_bytes)


convert_to_tree = TreeSink.convert


def convert_to_img(source: Source, out: Path, options: TreeOptions) -> Result | Preview:
    """Write ``source`` as image files: a verification set as numbered pairs, else as a tree."""
    write = convert_to_pair_folder if source.content == "pairs" else convert_to_tree
    return write(source, out, options)


def _path_of(naming: str, record: SourceRecord, suffix: str) -> str:
    """Where the image of a record goes; ``suffix`` is that of its format."""
    if naming == "number":
        return image_path(None, record.label, record.ordinal, suffix)
    number = record.extra.get("key") if record.extra else None
    ordinal = record.ordinal if number is None else int(number)
    return image_path(record.name, record.label, ordinal, suffix)


def _obstacle(path: Path) -> str:
    """Why ``path`` could not be written, where something is in the way, and what to do."""
    if path.is_file():
        return (
            "is there already: either its name occurs more than once in the source (start anew "
            "with --overwrite --naming number), or someone else wrote it (choose another target)"
        )
    return (
        "cannot be written because a name in the source is a file here and a folder there: start "
        "anew with --overwrite --naming number"
    )


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file that was written here, one by one: a name may hold other line ends."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _indexed(path: Path) -> Iterator[str]:
    """The files that an index lists."""
    return (line.rsplit(" ", 1)[0] for line in _lines(path))


def _bytes_of(out: Path, index: Path) -> int | None:
    """Bytes of the files that ``index`` lists; None if one is missing."""
    try:
        return sum((out / path).stat().st_size for path in _indexed(index))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _look_through(indices: Iterable[bytes]) -> tuple[np.ndarray, set[int]]:
    """The XXH3-64 of each path, uint64 (n,), and the labels that there are."""
    hashes, labels = [np.empty(0, np.uint64)], set()
    for index in indices:
        lines = index.split(b"\n")[:-1]
        sums = (xxhash.xxh3_64_intdigest(path_in(line)) for line in lines)
        hashes.append(np.fromiter(sums, np.uint64, len(lines)))
        labels |= {int(line.rsplit(b" ", 1)[1]) for line in lines}
    return np.concatenate(hashes), labels
