#!/bin/bash
# webdataset 1.0.2 (Python 3.11): TarWriter puts a pax record of 1,024 bytes before every member, to keep a fraction of a second.
#
# One would guess: a member of a shard takes a header of 512 bytes and its data, as GNU tar and tarfile's own add() of a
#                  file with a whole time write it: 1,024 bytes for a .cls.
# What happens:    TarWriter gives each member the time as a float, which Python's tarfile can keep in a pax record alone:
#                  a header and a block more. A .cls of four digits takes 2,048 bytes. TarWriter(…, mtime=0) writes none,
#                  and so the same samples give the same bytes in every run, too.
# Why it matters:  17 million faces with a .cls each carry 35 GB of such records (a face of 112×112 has some 6 KB); readers
#                  that look for plain headers first fall back to their slow way for every member; and shards that are
#                  made twice from the same images never compare equal.
#
# Seen when written (1,000 samples: a .jpg of 6,000 bytes and a .cls of 4):
#   TarWriter            9,728,000 bytes of members, 2,000 pax records, e.g. {'mtime': '1796071156.0291128'}
#   TarWriter, mtime=0   7,680,000 bytes of members, 0 pax records
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys
import tarfile

import numpy as np
import webdataset

COUNT, BLOCK = 1000, 512
faces = np.random.default_rng(0)
images = [faces.bytes(6000) for _ in range(COUNT)]


def write(name, **options):
    """A shard of all images; its bytes up to the end of the last member, and its pax records."""
    path = f"{sys.argv[1]}/{name}.tar"
    with webdataset.TarWriter(path, **options) as shard:
        for k, image in enumerate(images):
            shard.write({"__key__": f"{k:06d}", "jpg": image, "cls": f"{k:04d}".encode()})
    with tarfile.open(path) as shard:
        members = shard.getmembers()
    assert len(members) == 2 * COUNT
    end = members[-1].offset_data + -(-members[-1].size // BLOCK) * BLOCK
    return end, [member.pax_headers for member in members if member.pax_headers]


plain = sum(BLOCK + -(-size // BLOCK) * BLOCK for size in (6000, 4)) * COUNT
usual, records = write("usual")
print(f"TarWriter            {usual:,} bytes of members, {len(records):,} pax records, e.g. {records[0]}")
assert len(records) >= 2 * COUNT - 20 and all(set(record) == {"mtime"} for record in records)
assert usual == plain + len(records) * 2 * BLOCK
whole, none = write("whole", mtime=0)
print(f"TarWriter, mtime=0   {whole:,} bytes of members, {len(none):,} pax records")
assert whole == plain and not none
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
