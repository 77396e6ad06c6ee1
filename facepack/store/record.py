"""Records on their way into a shard, one by one and as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

Buffer = bytes | bytearray | memoryview  # what holds the bytes of an image, or of any other value


@dataclass(slots=True)
class SourceRecord:
    """A record on its way into a shard."""

    # its number in the source, from 0; it seeds the order and names the record for good
    ordinal: int
    image: Buffer  # the encoded image, stored byte for byte
    label: int  # its identity, or -1
    name: str | None = None  # the source's name of the record, if it has one
    # numbers of the source's header that a round trip must keep
    extra: dict[str, float | int] | None = None


@dataclass(slots=True, kw_only=True)
class RecordRun:
    """Records that follow each other and lie in one piece of memory, as columns.

    What can be done for all of them at once then is.
    """

    ordinals: np.ndarray  # int64 (n,), as of SourceRecord
    data: memoryview  # the memory
    starts: np.ndarray  # int64 (n,), where each image begins in it
    stops: np.ndarray  # int64 (n,), where it ends
    labels: np.ndarray  # int64 (n,)
    names: Sequence[str | None] | None  # the source's names, if it has any
    extra: dict[str, np.ndarray]  # integers (n,) of the source's header, by name

    def __len__(self) -> int:
        return len(self.ordinals)

    def __getitem__(self, rows: slice) -> RecordRun:
        return RecordRun(
            ordinals=self.ordinals[rows],
            data=self.data,
            starts=self.starts[rows],
            stops=self.stops[rows],
            labels=self.labels[rows],
            names=self.names and self.names[rows],
            extra={name: values[rows] for name, values in self.extra.items()},
        )

    def images(self) -> list[Buffer]:
        """Each image, as a view."""
        data = self.data
        bounds = zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        return [data[start:stop] for start, stop in bounds]

    def records(self) -> Iterator[SourceRecord]:
        """The records one by one."""
        numbers = zip(*(values.tolist() for values in self.extra.values()), strict=True)
        extras = (dict(zip(self.extra, row, strict=True)) for row in numbers)
        return map(
            SourceRecord,
            self.ordinals.tolist(),
            self.images(),
            self.labels.tolist(),
            self.names or repeat(None),
            extras if self.extra else repeat(None),
        )
