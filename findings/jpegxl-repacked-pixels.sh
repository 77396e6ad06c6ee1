#!/bin/bash
# imagecodecs 2026.3.6 (libjxl 0.11.2), pillow-jxl-plugin 1.3.8, Python 3.11: a JPEG repacked without loss, two different pictures.
#
# One would guess: JPEG XL's repacking of a JPEG saves a fifth and is exact: the JPEG comes back byte for byte, so
#                  decoding the .jxl gives the JPEG's pixels, by whichever reader.
# What happens:    the bytes do come back. imagecodecs' jpegxl_decode lets libjxl draw the pixels by its own arithmetic, and
#                  most of them differ from those of libjpeg-turbo: by up to 8 levels with halved chroma, by up to 42 with full
#                  chroma, and more so the coarser the quality. pillow-jxl-plugin rebuilds the JPEG first and is exact.
# Why it matters:  42 million faces are hundreds of gigabytes, and a fifth off for nothing tempts. Whether the network sees
#                  the same pixels as before depends on the reader, not on the file. Rebuild the JPEG
#                  (jpegxl_decode_jpeg), then decode that.
#
# Seen when written (112 × 112 drawn noise; size; levels against Pillow on the JPEG):
#   4:4:4 quality 75: 79 % of the bytes, imagecodecs up to 42 (90 % of values), pillow-jxl-plugin up to 0
#   4:4:4 quality 95: 76 % of the bytes, imagecodecs up to 16 (81 % of values), pillow-jxl-plugin up to 0
#   4:2:0 quality 75: 86 % of the bytes, imagecodecs up to 8 (76 % of values), pillow-jxl-plugin up to 0
#   4:2:0 quality 95: 79 % of the bytes, imagecodecs up to 4 (53 % of values), pillow-jxl-plugin up to 0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    imagecodecs==2026.3.6 pillow-jxl-plugin==1.3.8 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io

import imagecodecs
import numpy as np
import pillow_jxl  # noqa: F401  registers the format with Pillow
from PIL import Image

small = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
image = Image.fromarray(small).resize((112, 112), Image.Resampling.BICUBIC)


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


most = {}
for sampling, name in ((0, "4:4:4"), (2, "4:2:0")):
    for quality in (75, 95):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=sampling)
        jpeg = buffer.getvalue()
        jxl = imagecodecs.jpegxl_encode_jpeg(jpeg)
        assert imagecodecs.jpegxl_decode_jpeg(jxl) == jpeg
        truth = pillow(jpeg)
        difference = np.abs(imagecodecs.jpegxl_decode(jxl).astype(int) - truth)
        plugin = np.abs(pillow(jxl) - truth).max()
        most[name, quality] = difference.max()
        print(
            f"{name} quality {quality}: {100 * len(jxl) / len(jpeg):.0f} % of the bytes, imagecodecs up to {difference.max()}"
            f" ({100 * (difference > 0).mean():.0f} % of values), pillow-jxl-plugin up to {plugin}"
        )
        assert plugin == 0
assert most["4:4:4", 75] > 20 and most["4:2:0", 75] > 3
assert most["4:4:4", 95] > 8 and most["4:2:0", 95] > 1
PY
"$tmp/venv/bin/python" "$tmp/see.py"
