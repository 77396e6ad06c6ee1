"""The other side of test_mxnet.py: real MXNet, in an environment of its own without facepack.

``mxnet_peer.py write DIR`` writes sets of records, each with what it holds in ``expected.json``;
``mxnet_peer.py read DIR`` reads every set in DIR and writes what it found to ``digest.json``.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import mxnet as mx
from mxnet.recordio import IRHeader, MXIndexedRecordIO, MXRecordIO, pack, unpack

MAGIC = bytes.fromhex("0a23d7ce")
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 3


def images(count, vector):
    """Image records of keys 1 … count, two of an identity."""
    for key in range(1, count + 1):
        label = (key - 1) // 2
        header = IRHeader(0, [label, 1] if vector else label, key, 0)
        yield key, pack(header, JPEG[: 300 + key])


def blanks(count):
    """The header record and the identity records behind ``count`` images, in InsightFace's way."""
    identities = count // 2
    yield 0, pack(IRHeader(1, (count + 1, count + 1 + identities), 0, 0), b"")
    for n in range(identities):
        key = count + 1 + n
        yield key, pack(IRHeader(1, (2 * n + 1, 2 * n + 3), key, 0), b"")


def payloads_with_magic():
    """Payloads that the writer must cut into parts, and some that it must not."""
    filler = b"abcd"
    wholes = [
        MAGIC,
        MAGIC + filler,
        filler + MAGIC,
        filler + MAGIC + filler,
        MAGIC + MAGIC,
        MAGIC * 5 + b"x",
        filler + MAGIC * 3 + filler + MAGIC,
        b"a" + MAGIC,
        b"ab" + MAGIC + b"abcdef" + MAGIC,
        b"abc" + MAGIC + MAGIC + MAGIC,
        filler * 7 + MAGIC + b"tail not padded",
        MAGIC[:3],
        MAGIC + MAGIC[:3],
        MAGIC[2:] + MAGIC[:2] + MAGIC[2:],
        b"",
    ]
    for key, image in enumerate(wholes):
        yield key, pack(IRHeader(0, key, key, 0), image)
    # The magic inside the header: as the label, in the id's halves, and in a label vector.
    number = int.from_bytes(MAGIC, "little")
    label = struct.unpack("<f", MAGIC)[0]
    for key, header in enumerate(
        (
            IRHeader(0, label, 1, 1),
            IRHeader(0, 7, number, number),
            IRHeader(0, 7, number << 32, 0),
            IRHeader(0, [7, label, label, 1], 1, 1),
        ),
        start=len(wholes),
    ):
        yield key, pack(header, filler)


SETS = {
    "scalar-header-first": [*list(blanks(12))[:1], *images(12, False), *list(blanks(12))[1:]],
    "vector-header-last": [*images(12, True), *list(blanks(12))[1:], *list(blanks(12))[:1]],
    "scalar-header-after-images": [*images(12, False), *blanks(12)],
    "images-only": [*images(12, False)],
    "with-magic": [*payloads_with_magic()],
}


def describe(key, payload):
    header, image = unpack(payload)
    labels = [float(header.label)] if header.flag == 0 else [float(x) for x in header.label]
    return {
        "key": key,
        "payload": payload.hex(),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "flag": header.flag,
        "labels": labels,
        "id": header.id,
        "id2": header.id2,
        "image": image.hex(),
    }


def write(folder):
    for name, records in SETS.items():
        (folder / name).mkdir(parents=True)
        rec, idx = str(folder / name / "train.rec"), str(folder / name / "train.idx")
        indexed = MXIndexedRecordIO(idx, rec, "w")
        for key, payload in records:
            indexed.write_idx(key, payload)
        indexed.close()
        # The plain writer leaves no index.
        plain = MXRecordIO(str(folder / name / "plain.rec"), "w")
        for _, payload in records:
            plain.write(payload)
        plain.close()
        expected = [describe(key, payload) for key, payload in records]
        (folder / name / "expected.json").write_text(json.dumps(expected))


def read(folder):
    digest = {"mxnet": mx.__version__}
    for rec in sorted(folder.glob("*/train.rec")):
        indexed = MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
        by_key = [describe(key, indexed.read_idx(key)) for key in indexed.keys]
        indexed.close()
        plain = MXRecordIO(str(rec), "r")
        in_order = []
        while True:
            payload = plain.read()
            if payload is None:
                break
            in_order.append(hashlib.sha256(payload).hexdigest())
        plain.close()
        digest[rec.parent.name] = {"by_key": by_key, "in_order": in_order}
    (folder / "digest.json").write_text(json.dumps(digest))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
