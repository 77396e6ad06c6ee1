"""Image lists of im2rec, face2rec2 and Paddle, and CSV, as a source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.files import Root
from facepack.convert.formats.tree.listing import (
    Listing,
    ListingPart,
    keys_are_unique,
    number_names,
)
from facepack.convert.inputs import require_once
from facepack.convert.list_lines import KINDS, Columns
from facepack.convert.source import Group, Source
from facepack.errors import SourceError


class LstSource(Source):
    """The images that one or several lists name, in the order of the lists; labels are theirs.

    A list has the lines of MXNet's im2rec (``idx TAB label … TAB path``), those of InsightFace's
    face2rec2 (``aligned TAB path TAB label``, perhaps four numbers of a box and ten of landmarks:
    five x, then five y), those of Paddle (``path TAB label``), a blank between path and label, or
    it is a CSV; each list is told by its columns. Labels may be names of identities, in all lists
    or in none. What a line says beside path and label is kept with the record, but of a CSV. Boxes
    are kept, never used.

    Args:
        root: the folder that paths are relative to, and that files are taken from; default is each
            list's own.
        align: warp the images of lines with ``aligned`` 0 and landmarks to 112×112 pixels, onto
            ArcFace's template, and encode them as JPEG of quality 95, 4:4:4. Without it, and
            without landmarks, files are taken as they are.

    Raises:
        SourceError: a file is no such list, or names no image that is there; ``align`` without
            landmarks.
    """

    kind = "lst"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        root: Path | None = None,
        align: bool = False,
        path_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        require_once(paths)
        self._align = align
        columns = Columns(path_column, label_column)
        self._listings = [
            Listing(path, Root(path.parent if root is None else root), KINDS, columns)
            for path in paths
        ]
        self._names = number_names(self._listings)
        self.classes = None if self._names is None else len(self._names)
        self._firsts = list(accumulate(map(len, self._listings), initial=0))
        self._keyed = keys_are_unique(self._listings)
        self.notices = [notice for listing in self._listings for notice in listing.notices()]
        self._note_alignment()

    def _note_alignment(self) -> None:
        unaligned = sum(listing.unaligned for listing in self._listings)
        with_landmarks = sum(listing.with_landmarks for listing in self._listings)
        if self._align and not with_landmarks:
            raise SourceError(
                f"{self._listings[0].file}: no line has aligned 0 and landmarks, so there is "
                "nothing to align: leave --align away"
            )
        rest = unaligned - with_landmarks if self._align else unaligned
        if rest:
            why = (
                "have no landmarks"
                if self._align
                else f"are packed as they are (--align warps the {with_landmarks} with landmarks)"
            )
            self.notices.append(f"{rest} of {len(self)} images are not aligned and {why}")

    def __len__(self) -> int:
        return self._firsts[-1]

    def describe(self) -> dict[str, Any]:
        """Of each list: name, kind, image count, hashes of its lines and of the files' sizes."""
        lists = [listing.describe() for listing in self._listings]
        return {"kind": self.kind, "images": len(self), "align": self._align, "lists": lists}

    def groups(self) -> list[Group]:
        """One for each list."""
        pairs = zip(self._listings, self._firsts[:-1], strict=True)
        return [listing.group(first) for listing, first in pairs]

    def sizes(self) -> np.ndarray:
        """Bytes of each file."""
        return np.concatenate([listing.sizes() for listing in self._listings])

    def part(self, start: int, stop: int) -> ListingPart:
        """The records ``[start, stop)``, of one list."""
        number = bisect_right(self._firsts, start) - 1
        first = self._firsts[number]
        return self._listings[number].part(
            start - first,
            stop - first,
            first=first,
            keyed=self._keyed,
            align=self._align,
            identities=self._names,
        )
