"""A source under the labels of a pack that it is appended to."""

from __future__ import annotations

from functools import partial

import numpy as np
import xxhash

from facepack.convert.source import Group, PartView, Source, SourceView
from facepack.store.format import NO_IDENTITY
from facepack.store.labelmap import LabelNames


class Relabelled(SourceView):
    """``source`` with labels of a pack: identities that it has by name keep theirs, others follow.

    Identities are told by name where the source names any: new names are numbered from ``first`` in
    the order of the source's labels, and labels without a name come behind them. Where there are
    no names, every label is a new one: ``first`` is added to it.

    ``first`` is the pack's ``classes``, ``names`` are those of its identities; ``prefix`` is put
    before the names of the groups, so that shards do not get names that the pack has.

    Raises:
        PackError: two identities of the pack have a name that occurs in the source.
        SourceError: the source cannot be read.
    """

    def __init__(self, source: Source, *, first: int, names: LabelNames, prefix: str = "") -> None:
        super().__init__(source)
        self._prefix = prefix
        self._labels: dict[int, int] = {}
        following = first
        for label, name in sorted(_identity_names(source).items()):
            known = names.label(name)
            self._labels[label] = following if known is None else known
            following += known is None
        self._offset = following
        # Labels without a name close ranks behind those that have one; where all have, there is
        # nothing to close, and parts need not know of it.
        named = np.array(sorted(self._labels), np.int32)
        complete = source.classes is not None and source.classes <= len(named)
        self._named = named[:0] if complete else named
        self.classes = following
        if not self._labels:
            self.classes = None if source.classes is None else first + source.classes

    @property
    def labels_digest(self) -> str:
        """XXH3-128 of the labels that identities get."""
        pairs = np.array([*sorted(self._labels.items()), (NO_IDENTITY, self._offset)], "<i8")
        return xxhash.xxh3_128_hexdigest(pairs.tobytes())

    def groups(self) -> list[Group]:
        """The source's, called otherwise where that is needed."""
        return [group._replace(stem=self._prefix + group.stem) for group in self.inner.groups()]

    def part(self, start: int, stop: int) -> PartView:
        """The records ``[start, stop)``."""
        inner = self.inner.part(start, stop)
        labels = {label: self._labels[label] for label in inner.identity_names()}
        other = partial(_behind, self._offset, self._named)
        return PartView(inner, start, range(stop - start), labels, other)


def _behind(offset: int, named: np.ndarray, label: int) -> int:
    """The new label of an identity without a name, of which the first one's is ``offset``.

    Those that have a name, ``named`` (m,), ascending, are not counted.
    """
    return offset + label - int(np.searchsorted(named, label))


def _identity_names(source: Source) -> dict[int, str]:
    names: dict[int, str] = {}
    for _, start, stop in source.groups():
        names.update(source.part(start, stop).identity_names())
    return names
