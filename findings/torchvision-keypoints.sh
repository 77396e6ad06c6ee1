#!/bin/bash
# torchvision 0.28.0 (torch 2.13.0, Pillow 13.0.0; Python 3.11): KeyPoints turn about another centre than their image, and whole ones lose their fractions.
#
# One would guess: transforms.v2 moves landmarks (tv_tensors.KeyPoints) with the image: rotating by 180° is flipping both ways, of
#                  the picture and of its landmarks.
# What happens:    flips mirror about (W − 1) / 2, as the pixels do; rotate, affine and resize take a pixel's corner for its
#                  middle. After 180° the picture is the flipped one and each landmark is a pixel right and down of its place,
#                  after 90° a pixel down, in a picture of 224 half a pixel up and left. expand=True gives KeyPoints another
#                  canvas_size than the image has. Landmarks of whole numbers, as CelebA's are given, stay so, their fractions cut
#                  off.
# Why it matters:  what lies on a landmark before an augmentation does not after it, by an amount that depends on which one was
#                  drawn, and whole landmarks lose half a pixel more on the way, always up and left: bias, not noise, for a network
#                  that learns landmarks, and for crops that are aligned by them. Give floats and turn by your own matrix.
#
# Seen when written (five landmarks in a picture of 112 × 96, each the middle of a blob; x and y of landmark − blob, in pixels):
#                            of floats        of whole numbers   image      canvas_size
#   flipped both ways        0.00   0.00      0.00   0.00      (112, 96) (112, 96)
#   rotated by 180           1.00   1.00      1.00   1.00      (112, 96) (112, 96)
#   rotated by 90            0.00   1.00      0.00   1.00      (112, 96) (112, 96)
#   rotated by 30           -0.18   0.32     -0.94  -0.16      (112, 96) (112, 96)
#   rotated by 90, expand    0.00   1.00      0.00   1.00      (96, 112) (96, 112)
#   rotated by 30, expand   -0.61  -0.19     -1.14  -0.76      (146, 140) (145, 140)
#   resized to 224 x 192    -0.50  -0.50     -0.50  -0.50      (224, 192) (224, 192)
#   resized to 56 x 48       0.25   0.25      0.05   0.15      (56, 48) (56, 48)
#   padded by 8              0.00   0.00      0.00   0.00      (128, 112) (128, 112)
#   the pictures rotated by 180 and flipped both ways differ by 0.0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pillow==13.0.0 numpy==2.4.6
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
cat > "$tmp/see.py" <<'PY'
import torch
from torch import library

if torch.version.cuda is None:
    # The registry's torchvision is compiled for torch with CUDA. None of its operators are needed here, only their names.
    operators = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image, KeyPoints

height, width = 112, 96
landmarks = torch.tensor([(30.0, 40), (65, 42), (48, 60), (34, 82), (61, 83)])


def grid(rows, columns):
    return torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")


def middles(picture):
    """The centre of mass of each channel, x and y, where (0, 0) is the middle of the first pixel."""
    rows, columns = grid(*picture.shape[-2:])
    total = picture.sum((1, 2))
    return torch.stack([(picture * columns).sum((1, 2)) / total, (picture * rows).sum((1, 2)) / total], 1)


rows, columns = grid(height, width)
picture = Image(torch.stack([torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) for x, y in landmarks.tolist()]))
assert (middles(picture) - landmarks).abs().max() < 1e-3
bilinear = {"interpolation": InterpolationMode.BILINEAR}
ways = {
    "flipped both ways": lambda it: functional.vertical_flip(functional.horizontal_flip(it)),
    "rotated by 180": lambda it: functional.rotate(it, 180, **bilinear),
    "rotated by 90": lambda it: functional.rotate(it, 90, **bilinear),
    "rotated by 30": lambda it: functional.rotate(it, 30, **bilinear),
    "rotated by 90, expand": lambda it: functional.rotate(it, 90, expand=True, **bilinear),
    "rotated by 30, expand": lambda it: functional.rotate(it, 30, expand=True, **bilinear),
    "resized to 224 x 192": lambda it: functional.resize(it, [224, 192]),
    "resized to 56 x 48": lambda it: functional.resize(it, [56, 48]),
    "padded by 8": lambda it: functional.pad(it, [8]),
}
print("                         of floats        of whole numbers   image      canvas_size")
away, turned = {}, {}
for name, way in ways.items():
    given = [way(KeyPoints(points, canvas_size=(height, width))) for points in (landmarks, landmarks.long())]
    turned[name] = way(picture)
    place = middles(turned[name])
    floats, whole = ((points - place).mean(0).tolist() for points in given)
    size, canvas = tuple(turned[name].shape[-2:]), tuple(given[0].canvas_size)
    away[name] = [round(value, 2) + 0.0 for value in floats + whole] + [size == canvas]
    print("{:<22} {:6.2f} {:6.2f}    {:6.2f} {:6.2f}     ".format(name, *away[name]), size, canvas)
both, half = turned["flipped both ways"], turned["rotated by 180"]
print("the pictures rotated by 180 and flipped both ways differ by", round((both - half).abs().max().item(), 4))
assert (both - half).abs().max() < 1e-4
assert away["flipped both ways"][:2] == away["padded by 8"][:2] == [0, 0]
assert away["rotated by 180"][:2] == [1, 1] and away["rotated by 90"][:2] == [0, 1]
assert away["resized to 224 x 192"][:2] == [-0.5, -0.5] and away["resized to 56 x 48"][:2] == [0.25, 0.25]
assert not away["rotated by 30, expand"][4]
assert away["rotated by 30"][2] < away["rotated by 30"][0] - 0.2 and away["rotated by 30"][3] < away["rotated by 30"][1] - 0.2
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
