"""Any source into WebDataset tars: shards of samples ``key.jpg`` and ``key.cls``."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import xxhash

from facepack.convert.delivery import deliver
from facepack.convert.file_target import STATE, has_size
from facepack.convert.formats.tar.headers import BLOCK, LONGEST_NAME, member_header, padded
from facepack.convert.names import Names, later_occurrences
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import is_safe_path
from facepack.convert.result import Result
from facepack.convert.sink import ParallelSink
from facepack.convert.source import Part, Source
from facepack.convert.spans import Span
from facepack.errors import PackError
from facepack.images import IMAGE_SUFFIXES, SUFFIXES
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.record import Buffer, SourceRecord
from facepack.wording import count_of

SUMMARY = "dataset.json"
INDEX = "shardindex.json"  # as wids_index calls it
CARD = "README.md"
_CARD = b"""---
configs:
- config_name: default
  data_files: "*.tar"
---
"""
NAMING = ("source", "number")
SHARD_RECORDS = 10_000
SHARD_BYTES = 384 << 20
_LONGEST_SUFFIX = max(IMAGE_SUFFIXES, key=len)
_NUMBERED = re.compile(r"-?[0-9]+/[0-9]{10,}")  # no name may be, so that none is taken twice
_END = bytes(2 * BLOCK)
_HASH = np.dtype("<u8")


@dataclass(frozen=True, kw_only=True)
class WdsOptions(ConvertOptions):
    """How tars of samples are written."""

    # source makes keys of the source's names of images, where they can be; number calls every
    # sample <label>/<n>, where n counts the source's records
    naming: str = "source"
    shard_records: int = SHARD_RECORDS  # a tar's greatest number of samples
    # a tar's greatest size in bytes; a larger image has a tar by itself
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.naming not in NAMING:
            raise PackError(f"naming {self.naming!r}: allowed are {', '.join(NAMING)}")
        if min(self.shard_records, self.shard_bytes) < 1:
            raise PackError(
                f"tars of {self.shard_records} samples and {self.shard_bytes} bytes at most: "
                "allowed are 1 and more of each"
            )


class WdsSink(ParallelSink):
    """Write ``source`` as tars ``out/NAME.tar`` of samples, as the ``webdataset`` library has them.

    Tars are in source order. A sample is the image, byte for byte under its format's suffix, and
    ``key.cls``, its label in decimal (-1: none). No key is there twice, in whatever tars. It is the
    record's name in the source without an image's suffix, if that is a safe relative path of at
    most 100 bytes whose last part has no dot, and no record before has it. Else, and always where
    ``naming`` is ``number``, it is ``<label>/<n>``: identity and number, the record's ordinal in
    ten digits. Headers have no times and no owners, so that the same source gives the same bytes.

    ``out/shardindex.json`` lists the tars with their samples, for ``wids.ShardListDataset``;
    ``out/README.md`` says to Hugging Face's ``load_dataset(out)`` that the tars are the data.
    ``out/dataset.json``, written last, has the counts, and for each tar its name, samples, bytes
    and XXH3-128; ``out/labels.txt`` the names of identities, if there are any. Records that are no
    images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions counting samples through all tars. Numbers of a ``.rec`` header beside the label are
    not kept.
    """

    kind = "wds"
    written = (SUMMARY, INDEX, CARD, fmt.LABELS)
    shard_suffix = ".tar"
    shard_state = (".tar.json", ".keys")
    overhead = 4 * BLOCK  # two headers, the label, padding
    options: WdsOptions

    def __init__(self, source: Source, out: Path, options: WdsOptions) -> None:
        self.span_records = options.shard_records
        self.span_bytes = options.shard_bytes - len(_END)
        super().__init__(source, out, options)

    def plan(self) -> dict[str, Any]:
        """What the target is a function of; the summary tells of the classes stated."""
        own = {"classes": self.source.classes, "naming": self.options.naming}
        return super().plan() | own

    def written_bytes(self, span: Span) -> int | None:
        """Bytes of a span's tar if an earlier run wrote it."""
        try:
            tar = json.loads((self.state / f"{span.name}.tar.json").read_bytes())
            size = int(tar["bytes"])
            whole = has_size(self.out / tar["name"], size) and has_size(
                self.state / f"{span.name}.keys", _HASH.itemsize * tar["samples"]
            )
            return size if whole else None
        except (OSError, ValueError, LookupError, TypeError):  # none, or one that is damaged
            return None

    @staticmethod
    def write_span(part: Part, out: Path, name: str, options: WdsOptions) -> None:
        """Write a tar and what the state keeps of it; runs in a worker."""
        pieces: list[Buffer] = []
        keys: dict[str, None] = {}  # in order
        labels: set[int] = set()
        suffixes: Counter[str] = Counter()
        payload = renamed = 0

        def accept(record: SourceRecord) -> None:
            nonlocal payload, renamed
            fmt.check_label(record.label)
            image, header = options.check.look(record.image)
            number = numbered_key(record.label, record.ordinal)
            key = name_key(record.name) if options.naming == "source" else None
            if key is None or key in keys:
                key = number
                renamed += record.name not in (None, number) and options.naming == "source"
            suffix = SUFFIXES[header.format]
            pieces.extend(_sample(key, record.label, suffix, image))
            keys[key] = None
            labels.add(record.label)
            suffixes[suffix] += 1
            payload += len(image)

        refused = deliver(part, accept, strict=options.strict)
        names = part.identity_names()
        state = {
            "name": f"{name}.tar",
            "samples": len(keys),
            "payload_bytes": payload,
            "labels": {str(label): names.get(label, "") for label in sorted(labels)},
            "suffixes": dict(sorted(suffixes.items())),
            "renamed": renamed,
            "refused": refused,
        }
        _commit(out, state, pieces, Names.of(map(str.encode, keys)).hashes().astype(_HASH))

    def finish(self) -> dict[str, Any]:
        """Rename keys that are in several tars, write what stands beside the tars, the summary."""
        self._rename_repeated()
        names: dict[int, str] = {}
        tars: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        suffixes: Counter[str] = Counter()
        renamed = 0
        for state in self.pieces(".tar.json"):
            tar = json.loads(state)
            names |= {int(label): name for label, name in tar.pop("labels").items()}
            entries += tar.pop("refused")
            suffixes.update(tar.pop("suffixes"))
            renamed += tar.pop("renamed")
            tars.append(tar)
        packed = sum(tar["samples"] for tar in tars)
        refused = fmt.json_lines(entries)
        self.require_usable(packed, refused)
        classes = max(self.source.classes or 0, max(names, default=-1) + 1)
        known = {label: name for label, name in names.items() if name}
        files, pairs = self.write_beside(refused, known, classes)
        files |= {tar["name"]: tar["bytes"] for tar in tars}
        _, files[CARD] = write_file(self.out / CARD, [_CARD])
        _, files[INDEX] = write_file(self.out / INDEX, [fmt.json_text(_index(tars)).encode()])
        summary = {
            "format": fmt.FORMAT_VERSION,
            "kind": self.source.content,
            "samples": packed,
            "quarantined": len(entries),
            "identities": len({*names} - {fmt.NO_IDENTITY}),
            "classes": classes,
            "payload_bytes": sum(tar["payload_bytes"] for tar in tars),
            "tables": sorted(self.source.table_names),
            "tars": tars,
        }
        _, files[SUMMARY] = write_file(self.out / SUMMARY, [fmt.json_text(summary).encode()])
        kept = ("samples", "quarantined", "identities", "classes", "payload_bytes")
        return {key: summary[key] for key in kept} | {
            "files": files,
            "pairs": pairs,
            "notices": list(_notices(renamed, suffixes)),
        }

    def _rename_repeated(self) -> None:
        """Give samples whose keys an earlier tar has a key of identity and number.

        Which these are does not depend on what an interrupted run renamed already: who has a key
        first keeps it.
        """
        hashes = [np.frombuffer(piece, _HASH) for piece in self.pieces(".keys")]
        starts = np.cumsum([0, *map(len, hashes)])
        repeated = np.sort(later_occurrences(np.concatenate(hashes)))
        for k, span in enumerate(self.spans):
            here = repeated[(repeated >= starts[k]) & (repeated < starts[k + 1])] - starts[k]
            if len(here):
                _rename(self.out, span, here.tolist(), hashes[k])

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, with what users of the tars should know."""
        self.source.notices.extend(done["notices"])
        return super().result({**done, "packed": done["samples"]}, began)


convert_to_wds = WdsSink.convert


def name_key(name: str | None) -> str | None:
    """The key that a record's name gives a sample; None where it can give none."""
    if name is None:
        return None
    suffix = PurePosixPath(name).suffix
    key = name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
    longest = key + _LONGEST_SUFFIX
    usable = (
        "." not in key.rpartition("/")[2]
        and is_safe_path(longest)
        and len(longest.encode()) <= LONGEST_NAME
        and not _NUMBERED.fullmatch(key)
    )
    return key if usable else None


def numbered_key(label: int, ordinal: int) -> str:
    """A sample's key of identity and number, which no other sample has."""
    return f"{label}/{ordinal:010d}"


def _sample(key: str, label: int, suffix: str, image: Buffer) -> Iterator[Buffer]:
    """The members of a sample, image and label."""
    for name, data in ((key + suffix, image), (f"{key}.cls", b"%d" % label)):
        yield member_header(name, len(data))
        yield data
        yield bytes(padded(len(data)) - len(data))


def _commit(out: Path, state: dict[str, Any], pieces: Iterable[Buffer], hashes: np.ndarray) -> None:
    """Write a tar of samples, the hashes of its keys, and last what the state keeps of it."""
    stem = state["name"].removesuffix(".tar")
    digest, size = write_file(out / state["name"], chain(pieces, [_END]))
    write_file(out / STATE / f"{stem}.keys", [hashes.tobytes()])
    state = state | {"bytes": size, "xxh3_128": digest}
    write_file(out / STATE / f"{stem}.tar.json", [fmt.json_text(state).encode()])


def _rename(out: Path, span: Span, rows: list[int], hashes: np.ndarray) -> None:
    """Write the tar of ``span`` anew, its samples ``rows`` under keys of identity and number.

    Raises:
        PackError: the tar is no longer what was written.
    """
    path = out / STATE / f"{span.name}.tar.json"
    state = json.loads(path.read_bytes())
    path.unlink()  # whoever is interrupted now writes it from the source again
    refused = [entry["ordinal"] for entry in state["refused"]]
    ordinals = np.setdiff1d(np.arange(span.start, span.stop), refused)[rows].tolist()
    new = dict(zip(rows, ordinals, strict=True))
    hashes = hashes.copy()

    def pieces() -> Iterator[Buffer]:
        with tarfile.open(out / state["name"], "r:") as tar:
            members = ((info.name, cast("IO[bytes]", tar.extractfile(info)).read()) for info in tar)
            for row, ((name, image), (_, text)) in enumerate(zip(members, members, strict=True)):
                key, dot, suffix = name.rpartition(".")
                label = int(text)
                if row in new:
                    key = numbered_key(label, new[row])
                    hashes[row] = xxhash.xxh3_64_intdigest(key.encode())
                yield from _sample(key, label, dot + suffix, image)

    try:
        _commit(out, state | {"renamed": state["renamed"] + len(rows)}, pieces(), hashes)
    except (tarfile.TarError, ValueError) as error:
        raise PackError(
            f"{out / state['name']} is damaged ({error}): run with --resume, and it is written anew"
        ) from error


def _index(tars: list[dict[str, Any]]) -> dict[str, Any]:
    """The tars as ``wids`` lists them; their MD5, which nothing there checks, is left out.

    Source: ``wids_index create`` and ``resolve_dsdesc`` of wids 0.1.11.
    """
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": [
            {"url": tar["name"], "nsamples": tar["samples"], "filesize": tar["bytes"]}
            for tar in tars
        ],
    }


def _notices(renamed: int, suffixes: Counter[str]) -> Iterator[str]:
    """What users of the tars should know."""
    if renamed:
        yield (
            f"{count_of(renamed, 'name cannot be a key', 'names cannot be keys')} (a dot, too "
            "long, no safe path, or there before): identity and number take its place"
        )
    if len(suffixes) > 1:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common())
        yield (
            f"images are of several formats ({counts}): Hugging Face's loader has the columns of "
            "the first five samples, and of later images of another suffix None"
        )
