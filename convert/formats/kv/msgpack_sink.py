"""Any source into the LMDB of trainers that keep image and label together, in msgpack."""

from __future__ import annotations

import msgpack

from facepack.convert.formats.kv.lmdb_sink import LmdbSink
from facepack.convert.formats.kv.msgpack_value import pack_msgpack
from facepack.convert.formats.kv.own_index import CLASSES, KEYS, LENGTH
from facepack.convert.formats.kv.writer import KvItem
from facepack.convert.left_out import Keeps, none
from facepack.store.record import Buffer, SourceRecord


class MsgpackSink(LmdbSink):
    """Write ``source`` as ``out/faces.lmdb``, as face_analysis_pytorch and its descendants open it.

    A value is ``[image, label]`` in msgpack, a key the record's position, in decimal; and last come
    ``__keys__``, ``__len__`` and ``__classnum__``, which such a trainer reads first. Names of
    records and identities have no place in it.
    """

    kind = "msgpack"
    keeps = Keeps(identities=False, names=none)
    without_identity = (
        "they have the label -1, of no use to such trainers: label them in the source"
    )

    def item(self, record: SourceRecord, image: Buffer, stem: str) -> KvItem:
        """Image and label under the next number."""
        key = str(self.counts.total)
        self.counts.next(record.label)
        return KvItem(None, key, pack_msgpack(image, record.label))

    def write_list(self, figures: dict[str, int]) -> dict[str, int]:
        """The list of keys, how many there are, and the width of a head."""
        packer = msgpack.Packer(autoreset=False)
        packer.pack_array_header(figures["packed"])
        for piece in self.pieces(".kv"):
            for line in piece.splitlines():
                packer.pack(line.partition(b" ")[0])
        values = {
            KEYS: packer.bytes(),
            LENGTH: msgpack.packb(figures["packed"]),
            CLASSES: msgpack.packb(self.classes(figures)),
        }
        with self.writer() as writer:
            writer.put([KvItem(None, key.decode(), value) for key, value in values.items()])
            writer.sync()
        return {}


convert_to_msgpack = MsgpackSink.convert
