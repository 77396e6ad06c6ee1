"""Procedural faces: pictures of people who do not exist, for demos, tests and benchmarks.

An identity is a set of shape and color traits; a picture of it varies pose, expression, light,
background, what is worn and what stands in the way, and the camera. Features sit on an ellipsoid
that yaw and pitch turn, so that they shift and foreshorten against the head's outline.

Drawn in NumPy: 1.1 ms a picture of 112 pixels, where Pillow's ImageDraw takes 2.2 ms for as many
plain and soft shapes, without textures, light and pose (AMD EPYC, by ``benchmarks/faces.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facepack.convert.faces import layers
from facepack.convert.faces.canvas import cut_field, noise_field
from facepack.convert.faces.scene import Columns, Scene, join_rgb
from facepack.convert.faces.traits import draw_traits

SIZES = range(32, 513)
"""The sides, in pixels, that a picture may have: features need 32, the noise fields end at 512."""

_SIDES = (-1.0, 1.0)
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
        rows = np.arange(start, min(start + _CHUNK, len(images)))
        scene = Scene(Columns(who, rows), Columns(shot, rows), size)
        _draw(scene)
        _photograph(scene, images[start : start + _CHUNK])
    return images


def _draw(scene: Scene) -> None:
    """Draw from back to front."""
    who, shot = scene.who, scene.shot
    layers.draw_background(scene)
    layers.draw_hair_back(scene)
    layers.draw_clothes(scene)
    for side in _SIDES:
        layers.draw_ear(scene, side)
    layers.draw_head(scene)
    for side in _SIDES:
        layers.draw_cheek(scene, side)
    _draw_where(who["freckles"], layers.draw_freckles, scene)
    _draw_where(who["beard"], layers.draw_beard, scene)
    layers.draw_mouth(scene)
    layers.draw_nose(scene)
    for side in _SIDES:
        layers.draw_eye(scene, side)
        layers.draw_brow(scene, side)
    for name in ("mole_a", "mole_b"):
        _draw_where(who[name], layers.draw_mole, scene, name)
    layers.draw_hair_front(scene)
    _draw_where(shot["hat"], layers.draw_hat, scene)
    own = who["glasses"]
    worn = own * (1 - shot["glasses_off"]) + (1 - own) * shot["glasses_on"] + shot["sunglasses"]
    _draw_where(worn, layers.draw_glasses, scene)


def _draw_where(
    there: np.ndarray, layer: Callable[..., None], scene: Scene, *arguments: object
) -> None:
    """Draw a layer in those pictures in which it is there."""
    rows = np.flatnonzero(there)
    if len(rows):
        layer(scene.part(rows), *arguments)


def _photograph(scene: Scene, images: np.ndarray) -> None:
    """Light the scene, blur it, add the sensor's noise, and write it into ``images``."""
    shot, canvas = scene.shot, scene.canvas
    layers.apply_light(scene)
    _draw_where(shot["shadow"], layers.cast_shadow, scene)
    warmth, contrast = shot["warmth"], shot["contrast"]
    gain = shot["gain"] * contrast
    canvas.pixels *= canvas.shade[:, None]
    canvas.pixels *= join_rgb(gain * (1 + warmth), gain * (1 + shot["tint"]), gain * (1 - warmth))
    _draw_where(shot["occluder"], layers.draw_occluder, scene)
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
