"""Drawing a face: `facepack synth`'s drawer beside as many plain shapes by Pillow's ImageDraw.

    python benchmarks/faces.py [--size 112] [--rounds 7]

Pillow draws 24 shapes of one color, supersampled, and 12 soft ones (a blurred mask each), which is
about what a face of the drawer has; no noise field, light, pose or hair's texture. CPU time of one
core, the best of the rounds, over 256 pictures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from facepack.convert.faces.draw import render_faces

COUNT = 256
_POLYGONS, _ELLIPSES, _SOFT = 12, 12, 12


def draw_by_pillow(size: int, scale: int) -> np.ndarray:
    side = size * scale
    image = Image.new("RGB", (side, side), (120, 130, 140))
    draw = ImageDraw.Draw(image)
    turns = [2 * math.pi * step / 48 for step in range(48)]
    for number in range(_POLYGONS):
        radius = side * (0.45 - 0.035 * number)
        draw.polygon(
            [(side / 2 + radius * math.cos(t), side / 2 + radius * math.sin(t)) for t in turns],
            (10 * number, 90, 60),
        )
    for number in range(_ELLIPSES):
        x, y = side * (0.2 + 0.05 * number), side * 0.45
        draw.ellipse((x, y, x + side * 0.08, y + side * 0.06), (90, 15 * number, 70))
    image = image.reduce(scale)
    for number in range(_SOFT):
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).ellipse((number, size // 4, size // 3 + number, size // 2), 90)
        image.paste((90 + number, 60, 50), mask=mask.filter(ImageFilter.BoxBlur(3)))
    return np.asarray(image)


def best(draw: Callable[[], object], rounds: int) -> float:
    """Milliseconds a picture."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        draw()
        seconds.append(time.process_time() - began)
    return min(seconds) / COUNT * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    size, numbers = options.size, np.arange(COUNT)
    ours = best(lambda: render_faces(0, numbers // 2, numbers % 2, size=size), options.rounds)
    print(f"drawer: {ours:.2f} ms a picture")
    for scale in (2, 3, 4):
        theirs = best(lambda: [draw_by_pillow(size, scale) for _ in numbers], options.rounds)  # noqa: B023
        print(f"Pillow, supersampled {scale} times: {theirs:.2f} ms a picture")


if __name__ == "__main__":
    main()
