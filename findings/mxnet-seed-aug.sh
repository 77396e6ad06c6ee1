#!/bin/bash
# MXNet 1.9.1 (Python 3.11, NumPy 1.23.5): a seed for ImageRecordIter's augmentations ends them after the first epoch.
#
# One would guess: seed makes the order and the mirroring repeatable; seed_aug, "random seed for augmentations", gives them a
#                  seed of their own. Under either, each epoch draws anew, and another seed draws otherwise.
# What happens:    seed has no say in rand_mirror: any seed mirrors the same images. seed_aug does, but starts its generator
#                  again in every epoch: without shuffle an image is mirrored in all epochs or in none, for the whole
#                  training. With shuffle the same *places* in the epoch are mirrored each time.
# Why it matters:  who sets seed_aug to make a training repeatable trades the augmentation away: half of the images are only
#                  ever seen as they are, the others only mirrored. Who repeats a training with seed=1, 2, 3 to see
#                  the spread gets the same mirroring three times.
#
# Seen when written (256 images, batches of 32, the share that keeps its mirroring from epoch to epoch; half is chance):
#   no seed_aug:               epochs 1 and 2: 0.48, 2 and 3: 0.45; seeds 0, 1, 7: the same images mirrored in every epoch
#   seed_aug=1:                epochs 1 and 2: 1.00, 2 and 3: 1.00; seed_aug=3: others mirrored, in all epochs as well
#   seed_aug=1, shuffle=True:  by place in the epoch 1.00 and 1.00, by image 0.55 and 0.50
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check mxnet==1.9.1 numpy==1.23.5 pillow==11.3.0
cat > "$tmp/see.py" <<'PY'
import io
import sys

import mxnet as mx
import numpy as np
from PIL import Image

COUNT = 256
path = sys.argv[1] + "/faces"
writer = mx.recordio.MXIndexedRecordIO(path + ".idx", path + ".rec", "w")
for label in range(COUNT):
    face = np.zeros((112, 112, 3), np.uint8)
    face[:, 56:] = 200  # bright on the right, until it is mirrored
    png = io.BytesIO()
    Image.fromarray(face).save(png, "PNG")
    writer.write_idx(label, mx.recordio.pack(mx.recordio.IRHeader(0, float(label), label, 0), png.getvalue()))
writer.close()


def epochs(count=3, **options):
    """Of each epoch the labels in the order given, and whether each image was mirrored."""
    data = mx.io.ImageRecordIter(
        path_imgrec=path + ".rec", path_imgidx=path + ".idx", data_shape=(3, 112, 112), batch_size=32,
        rand_mirror=True, preprocess_threads=1, **options,
    )
    given = []
    for _ in range(count):
        batches = [(batch.label[0].asnumpy().astype(int), batch.data[0].asnumpy()[:, 0, 0, 0] > 100) for batch in data]
        labels, mirrored = (np.concatenate(part) for part in zip(*batches))
        assert sorted(labels) == list(range(COUNT))
        given.append((labels, mirrored))
        data.reset()
    return given


def kept(given, by_image=True):
    """The share whose mirroring is that of the epoch before."""
    rows = [mirrored[np.argsort(labels)] if by_image else mirrored for labels, mirrored in given]
    return [float((one == other).mean()) for one, other in zip(rows, rows[1:])]


plain = {seed: epochs(seed=seed) for seed in (0, 1, 7)}
print("no seed_aug:             ", kept(plain[0]), "share mirrored", [float(m.mean()) for _, m in plain[0]])
assert all(0.3 < share < 0.7 for share in kept(plain[0]))
alike = [all(np.array_equal(a[1], b[1]) for a, b in zip(plain[0], plain[seed])) for seed in (1, 7)]
print("seeds 1 and 7 mirror the same images as seed 0:", alike)
assert all(alike)

frozen = {seed: epochs(seed_aug=seed) for seed in (1, 3)}
print("seed_aug=1:              ", kept(frozen[1]), "share mirrored", [float(m.mean()) for _, m in frozen[1]])
assert kept(frozen[1]) == kept(frozen[3]) == [1.0, 1.0]
assert all(0.3 < mirrored.mean() < 0.7 for _, mirrored in frozen[1])
assert not np.array_equal(frozen[1][0][1], frozen[3][0][1])

shuffled = epochs(seed_aug=1, shuffle=True, seed=5)
print("seed_aug=1, shuffle=True:", "by place", kept(shuffled, by_image=False), "by image", kept(shuffled))
assert kept(shuffled, by_image=False) == [1.0, 1.0]
assert all(0.3 < share < 0.7 for share in kept(shuffled))
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2>/dev/null
echo "as described"
