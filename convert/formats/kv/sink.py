"""Any source into F2C's layout: an LMDB database of Datum values and a kv file."""

from __future__ import annotations

from facepack.convert.formats.kv.datum import pack_datum
from facepack.convert.formats.kv.index import is_plain_key
from facepack.convert.formats.kv.lmdb_sink import LmdbSink
from facepack.convert.formats.kv.writer import KvItem
from facepack.convert.left_out import Keeps
from facepack.store.files import write_file
from facepack.store.record import Buffer, SourceRecord

INDEX = "faces.kv"


class KvSink(LmdbSink):
    """Write ``source`` as ``out/faces.lmdb`` and ``out/faces.kv``, as F2C's own reader opens them.

    A value is a Datum with the encoded image in field 4. A line of the kv file is ``key label``, in
    source order. A record that has a name in the source keeps it as its key if it is printable and
    without spaces; others, and those whose name another record has, become
    ``<file>_<label>_<j>``, where ``j`` counts the records of the label. Records without identity
    have the label -1 there, which F2C cannot train on: a notice counts them.
    """

    kind = "kv"
    keeps = Keeps(identities=False, names=is_plain_key)
    written = (INDEX,)
    without_identity = f"{INDEX} gives them the label -1, which F2C's trainer cannot use"

    def item(self, record: SourceRecord, image: Buffer, stem: str) -> KvItem:
        """A Datum under the record's name."""
        fallback = f"{stem}_{record.label}_{self.counts.next(record.label)}"
        return KvItem(record.name, fallback, pack_datum(image))

    def write_list(self, figures: dict[str, int]) -> dict[str, int]:
        """The kv file."""
        return {INDEX: write_file(self.out / INDEX, self.pieces(".kv"))[1]}


convert_to_kv = KvSink.convert
