"""The format page, followed to the letter with nothing of facepack imported by the reader."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "pack-format.md"


def test_the_page_s_own_program_reads_a_pack(make_pack: Callable[..., Path]) -> None:
    path = make_pack(60, "ms1mv3")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    # The assertions go in behind the lines that they are about.
    program = re.sub(r"(image = txn.get.*\n)", r"\1            seen.append(image)\n", program)
    program = "seen = []\n" + program
    program += """
    assert all(image[:3] == b"\\xff\\xd8\\xff" for image in seen)
    assert np.broadcast_to(column, len(records)).tolist() == [label for _, label in records]
print(len(seen))
import sys
assert "facepack" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "60\n"


READER = """
import sys, json, struct, lmdb, msgpack, numpy as np, xxhash
pack = sys.argv[1]
manifest = json.load(open(pack + "/pack.json"))
assert manifest["format"] == 1
total = 0
for k, shard in enumerate(manifest["shards"]):
    for name, stated in shard["files"].items():
        data = open(f"{pack}/{name}", "rb").read()
        assert len(data) == stated["bytes"]
        assert xxhash.xxh3_128_hexdigest(data) == stated["xxh3_128"]
    path = f"{pack}/{shard['name']}"
    lines = np.frombuffer(open(path + ".kv", "rb").read(), np.uint8).reshape(-1, 20)
    env = lmdb.open(path + ".mdb", subdir=False, readonly=True, lock=False)
    with env.begin() as txn:
        keys = [key for key, _ in txn.cursor()]
        count = shard["records"]
        assert keys[:count] == [b"%010d" % i for i in range(count)]
        reserved = {}
        for key in keys[count:]:
            body, stated = msgpack.unpackb(txn.get(key))
            assert xxhash.xxh3_64_intdigest(key + body) == stated
            reserved[key] = msgpack.unpackb(body, strict_map_key=False)
        meta = reserved[b"__meta__"]
        assert (meta["version"], meta["shard"], meta["records"]) == (1, k, count)
        assert meta["pack_id"] == manifest["pack_id"] and meta["name"] == shard["name"]
        assert env.stat()["psize"] == meta["page_size"] == shard["page_size"]
        def column(c):
            values = np.frombuffer(c["data"], c["dtype"])
            return np.broadcast_to(values, count)
        sums, labels = column(reserved[b"__sums__"]), column(reserved[b"__labels__"])
        size = 0
        for i in range(count):
            image = txn.get(keys[i])
            size += len(image)
            assert xxhash.xxh3_64_intdigest(keys[i] + image) == sums[i]
            line = bytes(lines[i]).decode()
            assert line == f"{i:010d} {labels[i]:08d}\\n"
        assert size == meta["payload_bytes"] == shard["payload_bytes"]
        ordinals = reserved[b"__extra__"]["first"] + column(reserved[b"__extra__"]["ordinal"])
        assert len(reserved[b"__names__"]) == count
        names = [n for n in reserved[b"__names__"]]
        assert names == [f"{o}.jpg" for o in ordinals]
        total += count
assert "facepack" not in sys.modules
print(total)
"""


def test_every_statement_of_the_page_holds(make_pack: Callable[..., Path]) -> None:
    path = make_pack(60)
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "60\n"
