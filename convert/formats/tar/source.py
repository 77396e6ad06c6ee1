"""Tars as a source: Glint360K's pieces, WebDataset shards, trees of images in archives.

What archives hold is found by looking: a ``.rec`` gives what it gives unpacked, to
:class:`facepack.convert.formats.rec.source.RecSource`; else images are taken, labelled by samples
or folders; a verification set is taken when it is named. Everything is looked at before it is
converted. What is gzipped is inflated once for both, if there is room to keep it meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.tar import glint360k
from facepack.convert.formats.tar.images import ImageSet
from facepack.convert.formats.tar.look import look_at
from facepack.convert.formats.tar.records import RecordSet
from facepack.convert.formats.tar.stream import Files
from facepack.convert.identity_folder import OPTION
from facepack.convert.inputs import require_once
from facepack.convert.passed_over import PassedOver
from facepack.convert.samples import names_beside
from facepack.convert.source import SourceView
from facepack.convert.source_file import file_name, read_errors
from facepack.errors import SourceError
from facepack.store import format as fmt

_ARCHIVE = re.compile(r".+\.(tar|tgz|tar\.gz)([._-]?[0-9A-Za-z]{1,6})?|.+_\d{2,3}", re.IGNORECASE)
_BESIDE = (
    fmt.LABELS,
    "dataset.json",
    "shardindex.json",
    "README.md",
)  # as conversions to tars leave them
_LISTED = 64  # files that a plan names; a hash stands for all


class TarSource(SourceView):
    """The images of tars, in the order of the archives.

    Files are joined: an archive goes on in the next file until its end marker is met, and another
    may follow in the same file, so that pieces of one archive, archives by themselves and archives
    that were joined are all given as a list. Gzipped or not is found by looking. Archives are read
    by several processes at once. Gzipped ones for which there is no room once inflated are inflated
    twice, the second time in order by one process if any of them is large.

    Args:
        paths: the files; a folder stands for the tars in it, sorted by name, hidden ones aside. If
            it is all that is given and has a ``labels.txt``, line n of that is the name of identity
            n of samples.
        member: the name of a ``.rec`` or ``.bin`` in the archives which is taken alone.
        only_indexed: of a ``.rec``, leave out the images that no line of its ``.idx`` names.
        identity_level: of the folders of a tree that are identities; None chooses.
        labelled: whether images have identities; else all are taken, whatever they lie in or
            beside, and have none.

    Raises:
        SourceError: a file cannot be read, is damaged, not complete or no tar, or a piece of
            Glint360K differs from its published sum; no image is found, or it is in doubt which
            folders are identities.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        member: str | None = None,
        only_indexed: bool = False,
        identity_level: int | None = None,
        labelled: bool = True,
    ) -> None:
        if member is not None and not member.endswith((".rec", ".bin")):
            raise SourceError(
                f"--member {member}: only a .rec or a .bin can be taken alone; leave --member out "
                "and all images are taken"
            )
        files, passed_over = _find(paths)
        glint360k.check_pieces(files.names)
        names = names_beside(paths) if labelled else None
        look = look_at(files, member)
        self._files = files
        self._sums = look.sums if look.complete else {}
        content = look.content(names, only_indexed=only_indexed, identity_level=identity_level)
        if only_indexed and not isinstance(content, RecordSet):
            raise SourceError(
                f"--only-indexed is for a .rec and its .idx, and there is no .rec in "
                f"{files.names[0]}: leave that option out"
            )
        if identity_level is not None and not isinstance(content, ImageSet):
            raise SourceError(
                f"{OPTION} is for images in folders, and a .rec or a .bin is taken from "
                f"{files.names[0]}: leave that option out"
            )
        content.notices[:0] = [*passed_over, *look.notices]
        super().__init__(content)
        self.kind = "tar"
        self.parallel = isinstance(content, BinSource) or look.parallel

    def describe(self) -> dict[str, Any]:
        """The files (the first 64 by name, size and hash if gzipped; a hash of all) and content."""
        listed = [
            [name, size, self._sums.get(number)]
            for number, (name, size) in enumerate(
                zip(self._files.names, self._files.sizes, strict=True)
            )
        ]
        return self.inner.describe() | {
            "kind": self.kind,
            "files": listed[:_LISTED],
            "file_count": len(listed),
            "files_xxh3_128": xxhash.xxh3_128_hexdigest(repr(listed).encode()),
            "images": len(self),
        }


def _find(paths: Sequence[Path]) -> tuple[Files, list[str]]:
    """The files that ``paths`` mean, and notices of what was passed over."""
    files: list[Path] = []
    notices = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        with read_errors(path):
            entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            found = sorted(entry for entry in entries if entry.is_file())
        tars = [entry for entry in found if _ARCHIVE.fullmatch(entry.name)]
        if not tars:
            raise SourceError(
                f"{path}: the folder holds no tar (by names such as x.tar, x.tar.gz, x_00); pass "
                "the files themselves"
            )
        passed = PassedOver()
        for entry in found:
            if not _ARCHIVE.fullmatch(entry.name) and entry.name not in _BESIDE:
                passed.add("files that are no tars by their names", file_name(entry))
        notices += [f"{path}: {notice}" for notice in passed.notices()]
        files += tars
    require_once(files)
    return Files.look_at(files), notices
