"""Procedural faces: pictures of people who do not exist, for demos, tests and benchmarks.

An identity is a set of shape and color traits; a picture of it varies pose, expression, light,
background, what is worn and what stands in the way, and the camera. Features sit on an ellipsoid
that yaw and pitch turn, so that they shift and foreshorten against the head's outline.
"""

from __future__ import annotations

import numpy as np

from facepack.convert.faces import layers
from facepack.convert.faces.canvas import cut_field, noise_field
from facepack.convert.faces.scene import Scene, join_rgb
from facepack.convert.faces.traits import draw_traits

SIZES = range(32, 513)
"""The sides, in pixels, that a picture may have: features need 32, the noise fields end at 512."""

_CHUNK = 16  # pictures drawn together: enough to hide NumPy's calls, few enough for the cache


def render_faces(
    seed: int, identities: np.ndarray, pictures: np.ndarray, *, size: int = 112
) -> np.ndarray:
    """Draw picture ``pictures[i]`` of identity ``identities[i]``.

    Both are arrays (n,) of non-negative integers; ``size``, one of :data:`SIZES`, is the side in
    pixels. Returns uint8 RGB (n, size, size, 3). Each picture is a function of its seed, identity,
    number and size alone.
    """
    who, shot = draw_traits(seed, np.asarray(identities), np.asarray(pictures))
    images = np.empty((len(identities), size, size, 3), dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        scene = Scene(
            {name: values[part] for name, values in who.items()},
            {name: values[part] for name, values in shot.items()},
            size,
        )
        _draw(scene)
        _photograph(scene, images[part])
    return images


def _draw(scene: Scene) -> None:
    """Draw from back to front."""
    layers.draw_background(scene)
    layers.draw_hair_back(scene)
    layers.draw_clothes(scene)
    layers.draw_ears(scene)
    layers.draw_head(scene)
    layers.draw_cheeks(scene)
    layers.draw_freckles(scene)
    layers.draw_beard(scene)
    layers.draw_mouth(scene)
    layers.draw_nose(scene)
    layers.draw_eyes(scene)
    layers.draw_moles(scene)
    layers.draw_hair_front(scene)
    layers.draw_hat(scene)
    layers.draw_glasses(scene)


def _photograph(scene: Scene, images: np.ndarray) -> None:
    """Light the scene, blur it, add the sensor's noise, and write it into ``images``."""
    shot, canvas = scene.shot, scene.canvas
    layers.apply_light(scene)
    warmth, contrast = shot["warmth"], shot["contrast"]
    gain = shot["gain"] * contrast
    canvas.expose(join_rgb(gain * (1 + warmth), gain * (1 + shot["tint"]), gain * (1 - warmth)))
    layers.draw_occluder(scene)
    for row in np.flatnonzero(shot["blur"] > 0):
        _soften(canvas.pixels[row], 0.28 * shot["blur"][row])
    noise = _grain(scene)
    noise *= shot["noise"]
    noise += 118 * (1 - contrast)
    canvas.pixels += noise[:, None]
    canvas.write(images)


def _grain(scene: Scene) -> np.ndarray:
    """Cut white noise, (n, size, size), in one of eight orientations a picture."""
    shot, size = scene.shot, scene.canvas.size
    grain = cut_field(noise_field("grain"), shot["noise_x"], shot["noise_y"], size, size)
    for window, orientation in zip(grain, shot["noise_turn"].reshape(-1).tolist(), strict=True):
        view = window.T if orientation & 4 else window
        view = view[::-1] if orientation & 2 else view
        window[...] = (view[:, ::-1] if orientation & 1 else view).copy()
    return grain


def _soften(planes: np.ndarray, weight: np.ndarray) -> None:
    """Blur (3, height, width) in place by (weight, 1 − 2·weight, weight) along both axes."""
    for view in (planes, planes.transpose(0, 2, 1)):
        around = view[:, :-2] + view[:, 2:]
        around *= weight
        inner = view[:, 1:-1]
        inner *= 1 - 2 * weight
        inner += around
