#!/bin/bash
# LitData 0.2.76 (Python 3.11, torch 2.13.0, Pillow 13.0.0): a JPEG that was opened from memory is compressed anew at quality 75.
#
# One would guess: litdata.optimize stores a JPEG that Pillow has opened as the bytes that it is: it knows a JpegImageFile, and
#                  that from a path it stores so. Whether these bytes were read from a file or come out of a .rec, a zip or a
#                  tar should make no difference.
# What happens:    Only an image with a file name keeps its bytes. One that was opened from io.BytesIO is saved again with
#                  Pillow's defaults, quality 75 and 4:2:0, whatever it was saved with before, without a word.
# Why it matters:  Faces lie in .rec files, zips and tars: converted the usual way, every one loses a generation, and the set
#                  shrinks to a fraction, which looks like a success. Training does not reveal it.
#
# Seen when written (noise of 112×112, quality 95, 4:4:4):
#   from a path:   30,952 bytes of 30,952, equal; pixels differ by 0 at most
#   from memory:    8,165 bytes of 30,952; pixels differ by 240 at most
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    litdata==0.2.76 torch==2.13.0 numpy==2.4.6 pillow==13.0.0
cat > "$tmp/see.py" <<'PY'
import io
import sys
from pathlib import Path

import litdata
import numpy as np
from PIL import Image

folder = Path(sys.argv[1])
file = folder / "face.jpg"
HOW = ("path", "memory")


def opened(how):
    """The same JPEG, opened by Pillow in one of two ways."""
    image = Image.open(file if how == "path" else io.BytesIO(file.read_bytes()))
    assert image.format == "JPEG"
    return {"image": image}


if __name__ == "__main__":
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95, subsampling=0)
    original = file.read_bytes()
    found = {}
    for how in HOW:
        litdata.optimize(fn=opened, inputs=[how], output_dir=str(folder / how), chunk_bytes="1MB", num_workers=1)
        (chunk,) = (folder / how).glob("*.bin")
        stored = chunk.read_bytes()
        jpeg = stored[stored.index(b"\xff\xd8\xff") : stored.rindex(b"\xff\xd9") + 2]
        pixels, before = (np.asarray(Image.open(io.BytesIO(data)), int) for data in (jpeg, original))
        found[how] = (len(jpeg), jpeg == original, int(np.abs(pixels - before).max()))
        print(f"from {how}: {len(jpeg):,} bytes of {len(original):,}, equal: {jpeg == original}; "
              f"pixels differ by {found[how][2]} at most", flush=True)
    assert found["path"] == (len(original), True, 0)
    size, equal, levels = found["memory"]
    assert not equal and size < len(original) / 2 and levels > 50
    again = io.BytesIO()
    Image.open(file).convert("RGB").save(again, "JPEG")
    assert size == len(again.getvalue()), "not what Pillow's defaults make of it"
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" | grep "^from" || { cat "$tmp/log"; exit 1; }
