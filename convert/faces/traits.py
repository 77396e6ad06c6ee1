"""What is drawn by chance about a face: the traits of an identity and the conditions of a picture.

Every value is a pure function of (seed, identity, picture, name of the trait), through
:mod:`facepack.hashing`; nothing depends on the order in which pictures are made or on how many are
made at once. Lengths are in head units: the half of a frontal, unscaled picture is 1.0, x points
right, y down, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash

from facepack.hashing import derive_seed, hash64

Traits = dict[str, np.ndarray]
"""Trait name -> float32 array (n,); indices of a palette are int64."""


class Distribution(Protocol):
    """Turns uint64 hashes (n,) into values (n,)."""

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Map each hash to one value."""


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high)."""

    low: float
    high: float

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Map each hash to one float32."""
        unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return np.float32(self.low) + np.float32(self.high - self.low) * unit


@dataclass(frozen=True)
class Bell:
    """A bell curve that ends at three deviations: the sum of three uniforms (Irwin–Hall).

    It takes arithmetic only, so that the values do not depend on a machine's ``log`` or ``cos``.
    """

    mean: float
    deviation: float

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Map each hash to one float32."""
        field = np.uint64((1 << 21) - 1)
        total = (
            (bits & field) + ((bits >> np.uint64(21)) & field) + ((bits >> np.uint64(42)) & field)
        )
        standard = total.astype(np.float32) * np.float32(2.0**-20) - np.float32(3.0)
        return np.float32(self.mean) + np.float32(self.deviation) * standard


@dataclass(frozen=True)
class Chance:
    """1.0 with the given probability, else 0.0."""

    probability: float

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Map each hash to 0.0 or 1.0."""
        return (Uniform(0.0, 1.0)(bits) < np.float32(self.probability)).astype(np.float32)


@dataclass(frozen=True)
class Choice:
    """An index, drawn in proportion to the weights."""

    weights: tuple[float, ...]

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Map each hash to one int64 index."""
        edges = np.cumsum(np.asarray(self.weights, dtype=np.float64))
        unit = Uniform(0.0, 1.0)(bits).astype(np.float64)
        index = np.searchsorted(edges / edges[-1], unit, side="right")
        return np.minimum(index, len(self.weights) - 1)


IDENTITY: Mapping[str, Distribution] = {
    # Head: half-width at the cheekbones; from the eyes' height down to the chin, up to the crown.
    "face_width": Bell(0.70, 0.045),
    "chin": Bell(0.95, 0.055),
    "crown": Bell(0.92, 0.045),
    "jaw_taper": Uniform(0.02, 0.34),
    "jaw_square": Uniform(0.0, 0.75),
    "chin_cleft": Chance(0.12),
    "skin_tone": Uniform(0.0, 5.0),
    "skin_red": Bell(0.0, 7.0),
    "skin_yellow": Bell(0.0, 6.0),
    "blush": Uniform(0.0, 0.38),
    "freckles": Chance(0.16),
    "freckle_density": Uniform(0.25, 0.75),
    "tile_x": Uniform(0.0, 1.0),
    "tile_y": Uniform(0.0, 1.0),
    "mole_a": Chance(0.30),
    "mole_a_x": Uniform(-0.50, 0.50),
    "mole_a_y": Uniform(0.10, 0.72),
    "mole_a_size": Uniform(0.016, 0.038),
    "mole_b": Chance(0.18),
    "mole_b_x": Uniform(-0.45, 0.45),
    "mole_b_y": Uniform(-0.42, 0.60),
    "mole_b_size": Uniform(0.016, 0.032),
    "folds": Uniform(0.0, 0.50),
    # Eyes: half the distance between the centres, half-width, heights of the lids' arches.
    "eye_x": Bell(0.300, 0.020),
    "eye_y": Bell(-0.08, 0.020),
    "eye_width": Bell(0.138, 0.013),
    "eye_upper": Bell(0.085, 0.014),
    "eye_lower": Bell(0.050, 0.010),
    "eye_skew": Uniform(-0.35, 0.35),
    "eye_slant": Bell(0.06, 0.080),
    "iris_size": Bell(0.070, 0.006),
    "iris_color": Choice((24, 22, 14, 12, 16, 12)),
    "iris_light": Bell(1.0, 0.10),
    "lash": Uniform(0.008, 0.030),
    "lash_wing": Uniform(0.0, 1.0),
    "lid_tint": Chance(0.15),
    "lid_hue": Choice((1, 1, 1, 1)),
    "crease": Uniform(0.0, 0.60),
    "crease_gap": Uniform(0.020, 0.050),
    "socket": Uniform(0.05, 0.40),
    "eye_bag": Uniform(0.0, 0.35),
    # Brows: their height above the eye, half-length, thickness, arch, tilt.
    "brow_gap": Bell(0.185, 0.020),
    "brow_length": Bell(0.180, 0.016),
    "brow_thick": Uniform(0.014, 0.046),
    "brow_arch": Uniform(0.0, 0.075),
    "brow_peak": Uniform(-0.1, 0.55),
    "brow_tilt": Bell(-0.02, 0.09),
    "brow_dark": Uniform(0.45, 0.95),
    "brow_taper": Uniform(0.2, 0.85),
    # Nose: how far below the eyes it ends, half-widths of bridge and wings.
    "nose_length": Bell(0.385, 0.035),
    "nose_bridge": Bell(0.055, 0.011),
    "nose_wings": Bell(0.125, 0.020),
    "nose_tip": Bell(0.070, 0.012),
    "nose_depth": Uniform(0.12, 0.30),
    "nose_line": Uniform(0.25, 0.85),
    "nostril": Uniform(0.2, 0.9),
    # Mouth: how far below the nose, half-width, thickness of the lips.
    "mouth_gap": Bell(0.235, 0.025),
    "mouth_width": Bell(0.235, 0.026),
    "lip_upper": Bell(0.042, 0.011),
    "lip_lower": Bell(0.060, 0.014),
    "lip_bow": Uniform(0.0, 0.55),
    "lip_curve": Bell(0.0, 0.014),
    "lip_color": Choice((30, 25, 15, 12, 10, 8)),
    "lip_strength": Uniform(0.40, 0.92),
    # Ears and what hangs from them.
    "ear_size": Bell(0.175, 0.022),
    "ear_out": Uniform(0.0, 0.075),
    "earring": Choice((82, 10, 8)),
    "earring_gold": Chance(0.5),
    # Hair.
    "hair_style": Choice((5, 22, 20, 21, 16, 16)),
    "hair_color": Choice((20, 18, 15, 10, 8, 8, 9, 6, 4, 1.0, 1.0, 1.0)),
    "hair_light": Bell(1.0, 0.09),
    "hair_texture": Choice((40, 25, 35)),
    "hair_contrast": Uniform(0.10, 0.42),
    "hair_volume": Uniform(0.02, 0.17),
    "hair_height": Uniform(0.02, 0.16),
    "hair_square": Uniform(0.0, 0.6),
    "hair_rough": Uniform(0.0, 0.055),
    "hair_length": Uniform(0.35, 1.5),
    "hair_part": Uniform(-0.45, 0.45),
    "hairline": Bell(-0.52, 0.045),
    "hairline_curve": Uniform(-0.15, 0.65),
    "hairline_tilt": Bell(0.0, 0.13),
    "hair_jag": Uniform(0.0, 0.085),
    # Beards and glasses.
    "beard": Choice((70, 10, 8, 6, 6)),
    "beard_dense": Uniform(0.45, 0.92),
    "beard_line": Uniform(0.10, 0.42),
    "glasses": Chance(0.24),
    "glasses_width": Uniform(0.185, 0.255),
    "glasses_height": Uniform(0.120, 0.205),
    "glasses_square": Uniform(0.0, 0.95),
    "glasses_thick": Uniform(0.012, 0.036),
    "glasses_color": Choice((40, 18, 12, 10, 8, 6, 6)),
}
"""The traits of an identity; each is the same in all its pictures."""

PICTURE: Mapping[str, Distribution] = {
    # Camera: radians, head units, factors.
    "yaw": Bell(0.0, 0.26),
    "pitch": Bell(0.0, 0.12),
    "roll": Bell(0.0, 0.11),
    "scale": Bell(0.83, 0.045),
    "shift_x": Bell(0.0, 0.040),
    "shift_y": Bell(0.04, 0.040),
    # Expression.
    "smile": Bell(0.25, 0.50),
    "mouth_open": Uniform(-0.9, 1.0),
    "eyes_open": Bell(0.94, 0.10),
    "blink": Chance(0.03),
    "gaze_x": Bell(0.0, 0.30),
    "gaze_y": Bell(0.0, 0.18),
    "brow_raise": Bell(0.0, 0.018),
    "frown": Bell(0.0, 0.06),
    "flush": Bell(0.0, 0.06),
    # Light.
    "light_x": Bell(0.0, 0.55),
    "light_y": Bell(-0.30, 0.30),
    "ambient": Uniform(0.40, 0.92),
    "gain": Bell(1.04, 0.12),
    "warmth": Bell(0.0, 0.065),
    "tint": Bell(0.0, 0.025),
    "contrast": Bell(1.0, 0.12),
    "shadow": Chance(0.22),
    "shadow_depth": Uniform(0.15, 0.50),
    "shadow_x": Uniform(-1.0, 1.0),
    "shadow_y": Uniform(-1.0, 1.0),
    "shadow_offset": Uniform(-0.5, 0.5),
    "shadow_soft": Uniform(0.10, 0.60),
    # Things that change from day to day.
    "hair_rise": Bell(0.0, 0.022),
    "hair_tile_x": Uniform(0.0, 1.0),
    "hair_tile_y": Uniform(0.0, 1.0),
    "stubble": Uniform(-0.15, 0.20),
    "glasses_off": Chance(0.10),
    "glasses_on": Chance(0.03),
    "sunglasses": Chance(0.03),
    "hat": Chance(0.10),
    "hat_line": Bell(-0.42, 0.04),
    "hat_r": Uniform(15, 235),
    "hat_g": Uniform(15, 235),
    "hat_b": Uniform(15, 235),
    "cloth_r": Uniform(15, 235),
    "cloth_g": Uniform(15, 235),
    "cloth_b": Uniform(15, 235),
    "collar": Uniform(0.0, 0.35),
    # Background: two colours, a gradient between them, a texture over it and a panel.
    "back_grey": Uniform(25, 225),
    "back_red": Bell(0, 26),
    "back_blue": Bell(0, 26),
    "back_dr": Bell(0, 32),
    "back_dg": Bell(0, 32),
    "back_db": Bell(0, 32),
    "back_x": Uniform(-1.0, 1.0),
    "back_y": Uniform(-1.0, 1.0),
    "back_kind": Choice((45, 25, 30)),
    "back_texture": Uniform(0.0, 0.22),
    "back_tile_x": Uniform(0.0, 1.0),
    "back_tile_y": Uniform(0.0, 1.0),
    "panel": Chance(0.45),
    "panel_edge": Uniform(-0.9, 0.9),
    "panel_lean": Bell(0.0, 0.3),
    "panel_light": Uniform(0.55, 1.40),
    # What hides part of the face.
    "occluder": Choice((84, 8, 8)),
    "occluder_x": Uniform(-0.85, 0.85),
    "occluder_y": Uniform(-0.75, 1.05),
    "occluder_size": Uniform(0.14, 0.38),
    "occluder_stretch": Uniform(0.5, 1.8),
    "occluder_turn": Uniform(-0.7, 0.7),
    "occluder_r": Uniform(15, 235),
    "occluder_g": Uniform(15, 235),
    "occluder_b": Uniform(15, 235),
    # Sensor.
    "blur": Uniform(-1.5, 1.0),
    "noise": Uniform(1.5, 9.0),
    "noise_x": Uniform(0.0, 1.0),
    "noise_y": Uniform(0.0, 1.0),
    "noise_turn": Choice((1, 1, 1, 1, 1, 1, 1, 1)),
}
"""The conditions of a picture; each picture draws its own."""

_IDENTITY_STREAM = 1
_PICTURE_STREAM = 2


def draw_traits(seed: int, identities: np.ndarray, pictures: np.ndarray) -> tuple[Traits, Traits]:
    """Draw identity traits and picture conditions.

    ``identities`` and ``pictures`` are non-negative integer arrays (n,). Returns two dictionaries
    of arrays (n,), with the names of :data:`IDENTITY` and :data:`PICTURE`.
    """
    who = hash64(derive_seed(seed, _IDENTITY_STREAM), identities)
    # Hashing the identity before the picture is mixed in leaves both their whole 64-bit range.
    shot = hash64(derive_seed(seed, _PICTURE_STREAM), who ^ hash64(seed, pictures))
    return _draw(IDENTITY, seed, who), _draw(PICTURE, seed, shot)


def _draw(table: Mapping[str, Distribution], seed: int, keys: np.ndarray) -> Traits:
    # Each trait's stream is keyed by its name: adding a trait leaves the others as they were.
    streams = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in table], dtype=np.uint64)
    bits = hash64(seed, hash64(seed, streams)[:, None] ^ keys[None, :])
    return {
        name: distribution(column)
        for (name, distribution), column in zip(table.items(), bits, strict=True)
    }
