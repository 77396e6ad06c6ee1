"""Any source into WebDataset tars: shards of samples ``key.jpg`` and ``key.cls``."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from facepack.convert.delivery import deliver
from facepack.convert.file_target import STATE, has_size
from facepack.convert.formats.tar.headers import BLOCK, member_header, padded
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import ASIDE, is_safe_path
from facepack.convert.result import Result, finished
from facepack.convert.sink import ParallelSink
from facepack.convert.source import Part
from facepack.convert.spans import Span
from facepack.images import IMAGE_SUFFIXES, SUFFIXES
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.record import Buffer, SourceRecord

SUMMARY = "dataset.json"
_LONGEST_SUFFIX = max(IMAGE_SUFFIXES, key=len)
_END = bytes(2 * BLOCK)


class WdsSink(ParallelSink):
    """Write ``source`` as tars ``out/NAME.tar`` of samples, as the ``webdataset`` library has them.

    A tar has at most 10,000 samples and 384 MiB of images, in source order. A sample is the image,
    byte for byte under its format's suffix, and ``key.cls``, its label in decimal (-1: none). The
    key is the record's name in the source without an image's suffix, if it is a safe relative path
    whose last part has no dot; the record's ordinal in ten digits if it has no name; and below
    ``_renamed/`` otherwise, or if another sample of the tar has that key. Headers have no times and
    no owners, so that the same source gives the same bytes.

    ``out/dataset.json``, written last, has the counts, and for each tar its name, samples, bytes
    and XXH3-128; ``out/labels.txt`` the names of identities, if there are any. Records that are no
    images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions counting samples through all tars. Numbers of a ``.rec`` header beside the label are
    not kept.
    """

    kind = "wds"
    span_records = 10_000
    written = (SUMMARY, fmt.LABELS)
    overhead = 4 * BLOCK  # two headers, the label, padding

    def plan(self) -> dict[str, Any]:
        """What the target is a function of; the summary tells of the classes stated."""
        return super().plan() | {"classes": self.source.classes}

    def written_bytes(self, span: Span) -> int | None:
        """Bytes of a span's tar if an earlier run wrote it."""
        try:
            tar = json.loads((self.state / f"{span.name}.tar.json").read_bytes())
            size = int(tar["bytes"])
            return size if has_size(self.out / tar["name"], size) else None
        except (OSError, ValueError, LookupError, TypeError):  # none, or one that is damaged
            return None

    @staticmethod
    def write_span(part: Part, out: Path, name: str, options: ConvertOptions) -> None:
        """Write a tar and what the state keeps of it; runs in a worker."""
        pieces: list[Buffer] = []
        keys: set[str] = set()
        labels: set[int] = set()
        payload = 0

        def accept(record: SourceRecord) -> None:
            nonlocal payload
            fmt.check_label(record.label)
            image, header = options.check.look(record.image)
            key = sample_key(record)
            if key is None or key in keys:
                key = f"{ASIDE}/{record.ordinal:010d}"
            for suffix, data in (
                (SUFFIXES[header.format], image),
                (".cls", b"%d" % record.label),
            ):
                pieces.append(member_header(key + suffix, len(data)))
                pieces.append(data)
                pieces.append(bytes(padded(len(data)) - len(data)))
            keys.add(key)
            labels.add(record.label)
            payload += len(image)

        refused = deliver(part, accept, strict=options.strict)
        names = part.identity_names()
        digest, size = write_file(out / f"{name}.tar", [*pieces, _END])
        state = {
            "name": f"{name}.tar",
            "samples": len(keys),
            "bytes": size,
            "xxh3_128": digest,
            "payload_bytes": payload,
            "labels": {str(label): names.get(label, "") for label in sorted(labels)},
            "refused": refused,
        }
        write_file(out / STATE / f"{name}.tar.json", [fmt.json_text(state).encode()])

    def finish(self) -> dict[str, Any]:
        """Write what stands beside the tars, and the summary."""
        names: dict[int, str] = {}
        tars: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for state in self.pieces(".tar.json"):
            tar = json.loads(state)
            names |= {int(label): name for label, name in tar.pop("labels").items()}
            entries += tar.pop("refused")
            tars.append(tar)
        packed = sum(tar["samples"] for tar in tars)
        refused = fmt.json_lines(entries)
        self.require_usable(packed, refused)
        classes = max(self.source.classes or 0, max(names, default=-1) + 1)
        known = {label: name for label, name in names.items() if name}
        files, pairs = self.write_beside(refused, known, classes)
        files |= {tar["name"]: tar["bytes"] for tar in tars}
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
        return {key: summary[key] for key in kept} | {"files": files, "pairs": pairs}

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        plan = json.loads((self.state / fmt.PLAN).read_bytes())
        super().remove()
        for stem in filter(fmt.is_plain_name, (shard["name"] for shard in plan.get("shards", []))):
            (self.out / f"{stem}.tar").unlink(missing_ok=True)
            (self.state / f"{stem}.tar.json").unlink(missing_ok=True)

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, its shards being the tars."""
        return finished(
            self.source,
            self.out,
            began,
            {**done, "packed": done["samples"]},
            file_bytes=sum(done["files"].values()),
            shards=sum(name.endswith(".tar") for name in done["files"]),
        )


convert_to_wds = WdsSink.convert


def sample_key(record: SourceRecord) -> str | None:
    """The key that a record's name gives a sample; None where it can give none."""
    if record.name is None:
        return f"{record.ordinal:010d}"
    suffix = PurePosixPath(record.name).suffix
    known = suffix.lower() in IMAGE_SUFFIXES
    key = record.name.removesuffix(suffix) if known else record.name
    parts = key.split("/")
    usable = "." not in parts[-1] and parts[0] != ASIDE and is_safe_path(key + _LONGEST_SUFFIX)
    return key if usable else None
