#!/bin/bash
# torchvision 0.28.0 (torch 2.13.0, Pillow 13.0.0; Python 3.11): batched_nms goes wrong where the numbers of images or frames are great.
#
# One would guess: batched_nms(boxes, scores, idxs, threshold) looks at idxs only for being equal: boxes of one image suppress each
#                  other, whatever its number.
# What happens:    with up to 1,000 boxes on a CPU (25,000 on a GPU) it adds idxs × (greatest coordinate + 1) to the coordinates,
#                  in the boxes' own type. In float32 image 1,000,000 of 1,920 pixels lies at 1.9 × 10⁹, where numbers are 128
#                  apart: boxes become lines and points, which overlap nothing. With more boxes each number is treated by itself,
#                  and the result is right.
# Why it matters:  a detector run over a data set or a video has the number of the image or frame at hand, and the same batch
#                  numbered from 0 is right. Faces come out twice, with two crops and two embeddings under one label. Number from 0
#                  in each batch, or give boxes in float64.
#
# Seen when written (64 images of 6 faces, each found twice; boxes that are left, and of which doubles):
#   image numbers from       left  doubles
#   0                         384        0
#   10,000                    384        0
#   100,000                   384        0
#   300,000                   384        0
#   1,000,000                 578      194
#   5,000,000                 768      384
#   5,000,000, float64        384        0
#   5,000,000, 1,536 boxes    384
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pillow==13.0.0 numpy==2.4.6
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
cat > "$tmp/see.py" <<'PY'
import torch
from torch import library


def plain(boxes, scores, threshold):
    """Non-maximum suppression as torchvision.ops.nms defines it."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    dead = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for best in scores.argsort(descending=True, stable=True).tolist():
        if not dead[best]:
            kept.append(best)
            sides = torch.minimum(boxes[best, 2:], boxes[:, 2:]) - torch.maximum(boxes[best, :2], boxes[:, :2])
            shared = sides.clamp(min=0).prod(1)
            dead |= shared / (area[best] + area - shared) > threshold
    return torch.tensor(kept)


if torch.version.cuda is None:
    # The registry's torchvision is compiled for torch with CUDA; without it, its operator is the one above.
    operators = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.ops import batched_nms, boxes as boxes_module

if torch.version.cuda is None:
    boxes_module.nms = plain

draw = torch.Generator().manual_seed(0)


def uniform(low, high, *shape):
    return low + (high - low) * torch.rand(*shape, generator=draw)


# six faces beside each other in each image; each is found twice, the second a little aside
images, faces = 64, 6
left = 40 + 300 * torch.arange(faces).float().repeat(images) + uniform(0, 100, images * faces)
top, side = uniform(50, 900, images * faces), uniform(40, 120, images * faces)
first = torch.stack([left, top, left + side, top + 1.25 * side], 1)
second = first + uniform(-3, 3, images * faces, 4)
boxes = torch.cat([first, second])
scores = torch.cat([uniform(0.8, 1, images * faces), uniform(0.5, 0.8, images * faces)])
within = torch.arange(images).repeat_interleave(faces).repeat(2)


def counts(boxes, number):
    kept = batched_nms(boxes, scores, number, 0.4)
    found = torch.bincount(kept % (images * faces), minlength=images * faces)
    assert (found > 0).all()
    return len(kept), int((found > 1).sum())


print("image numbers from       left  doubles")
seen = {}
for start in (0, 10_000, 100_000, 300_000, 1_000_000, 5_000_000):
    seen[start] = counts(boxes, within + start)
    print(f"{start:<22,}{seen[start][0]:7}{seen[start][1]:9}")
exact = counts(boxes.double(), within + 5_000_000)
print("{:<22}{:7}{:9}".format("5,000,000, float64", *exact))
many = torch.cat([boxes, boxes + 0.5])
kept = batched_nms(many, scores.repeat(2) - torch.arange(2).repeat_interleave(len(boxes)) * 0.01, within.repeat(2) + 5_000_000, 0.4)
print(f"{'5,000,000, 1,536 boxes':<22}{len(kept):7}")
assert seen[0] == seen[10_000] == exact == (images * faces, 0) and len(kept) == images * faces
assert seen[1_000_000][1] > 100 and seen[5_000_000][1] > 100
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
