"""Bytes of a pack over bytes of its images, for each order, beside LMDB as usual.

    python benchmarks/size.py SRC… [--json]

SRC is a folder with train.rec or a .bin. "LMDB as usual" is one put for each image through the
engine, in the source's order, with pages of 4 KiB, as the field's own scripts do it. Sizes are
exact and repeatable, so n is 1 and there is no spread.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import lmdb

from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.source import RecSource
from facepack.store.record import SourceRecord


def usual_lmdb(source: RecSource | BinSource, folder: Path) -> int:
    """Size of the data file that plain puts make."""
    environment = lmdb.open(str(folder), map_size=1 << 40)
    with environment.begin(write=True) as transaction:
        for record in source.part(0, len(source)).read():
            if isinstance(record, SourceRecord):
                transaction.put(b"%d" % record.ordinal, bytes(record.image))
    environment.close()
    return (folder / "data.mdb").stat().st_size


def measure(path: Path) -> dict[str, object]:
    """The ratios of one source."""
    source = BinSource(path) if path.suffix == ".bin" else RecSource(path)
    row: dict[str, object] = {"set": path.name}
    with tempfile.TemporaryDirectory() as scratch:
        for order in ("shuffled", "source", "identity"):
            result = convert_to_pack(source, Path(scratch) / order, PackOptions(order=order))
            row[order] = result.file_bytes / result.payload_bytes
        row["usual"] = usual_lmdb(source, Path(scratch) / "usual") / result.payload_bytes
        row["records"] = result.packed
        row["mean_bytes"] = result.payload_bytes / result.packed
    return row


def main() -> None:
    """Measure each source and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(path) for path in options.sources]
    if options.json:
        print(json.dumps({"python": platform.python_version(), "rows": rows}, indent=1))
        return
    columns = ("shuffled", "source", "identity", "usual")
    print(f"{'set':<16}{'records':>9}{'bytes each':>12}" + "".join(f"{c:>10}" for c in columns))
    for row in rows:
        figures = "".join(f"{row[column]:>10.4f}" for column in columns)
        print(f"{row['set']:<16}{row['records']:>9}{row['mean_bytes']:>12.0f}{figures}")


if __name__ == "__main__":
    main()
