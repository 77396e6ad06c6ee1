"""What is drawn by chance about a face: the traits of an identity and the conditions of a picture.

Every value is a pure function of (seed, identity, picture, name of the trait), through
:mod:`facepack.hashing`; nothing depends on the order in which pictures are made or on how many are
made at once. Lengths are in head units: the half of a frontal, unscaled picture is 1.0, x points
right, y down, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xxhash

from facepack.hashing import derive_seed, hash64

Traits = dict[str, np.ndarray]  # trait name -> float32 array (n,); indices of a palette are int64

Distribution = Callable[[np.ndarray], np.ndarray]  # turns uint64 hashes (n,) into values (n,)


def uniform(low: float, high: float) -> Distribution:
    """Uniform on [low, high), float32."""
    return lambda bits: np.float32(low) + np.float32(high - low) * _unit(bits)


def _unit(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def bell(mean: float, deviation: float) -> Distribution:
    """A bell curve that ends at three deviations: the sum of three uniforms (Irwin–Hall), float32.

    It takes arithmetic only, so that the values do not depend on a machine's ``log`` or ``cos``.
    """
    field = np.uint64((1 << 21) - 1)

    def draw(bits: np.ndarray) -> np.ndarray:
        total = sum((bits >> np.uint64(shift)) & field for shift in (0, 21, 42))
        standard = total.astype(np.float32) * np.float32(2.0**-20) - np.float32(3.0)
        return np.float32(mean) + np.float32(deviation) * standard

    return draw


def chance(probability: float) -> Distribution:
    """1.0 with the given probability, else 0.0."""
    return lambda bits: (_unit(bits) < np.float32(probability)).astype(np.float32)


def choice(*weights: float) -> Distribution:
    """An int64 index, drawn in proportion to the weights."""
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    edges /= edges[-1]

    def draw(bits: np.ndarray) -> np.ndarray:
        index = np.searchsorted(edges, _unit(bits).astype(np.float64), side="right")
        return np.minimum(index, len(weights) - 1)

    return draw


IDENTITY: Mapping[str, Distribution] = {
    # Head: half-width at the cheekbones; from the eyes' height down to the chin, up to the crown.
    "face_width": bell(0.70, 0.045),
    "chin": bell(0.95, 0.055),
    "crown": bell(0.92, 0.045),
    "jaw_taper": uniform(0.02, 0.34),
    "jaw_square": uniform(0.0, 0.75),
    "chin_cleft": chance(0.12),
    "skin_tone": uniform(0.0, 5.0),
    "skin_red": bell(0.0, 7.0),
    "skin_yellow": bell(0.0, 6.0),
    "blush": uniform(0.0, 0.38),
    "freckles": chance(0.16),
    "freckle_density": uniform(0.25, 0.75),
    **dict.fromkeys(("tile_x", "tile_y"), uniform(0.0, 1.0)),
    "mole_a": chance(0.30),
    "mole_a_x": uniform(-0.50, 0.50),
    "mole_a_y": uniform(0.10, 0.72),
    "mole_a_size": uniform(0.016, 0.038),
    "mole_b": chance(0.18),
    "mole_b_x": uniform(-0.45, 0.45),
    "mole_b_y": uniform(-0.42, 0.60),
    "mole_b_size": uniform(0.016, 0.032),
    "folds": uniform(0.0, 0.50),
    # Eyes: half the distance between the centres, half-width, heights of the lids' arches.
    "eye_x": bell(0.300, 0.020),
    "eye_y": bell(-0.08, 0.020),
    "eye_width": bell(0.138, 0.013),
    "eye_upper": bell(0.085, 0.014),
    "eye_lower": bell(0.050, 0.010),
    "eye_skew": uniform(-0.35, 0.35),
    "eye_slant": bell(0.06, 0.080),
    "iris_size": bell(0.070, 0.006),
    "iris_color": choice(24, 22, 14, 12, 16, 12),
    "iris_light": bell(1.0, 0.10),
    "lash": uniform(0.008, 0.030),
    "lash_wing": uniform(0.0, 1.0),
    "lid_tint": chance(0.15),
    "lid_hue": choice(1, 1, 1, 1),
    "crease": uniform(0.0, 0.60),
    "crease_gap": uniform(0.020, 0.050),
    "socket": uniform(0.05, 0.40),
    "eye_bag": uniform(0.0, 0.35),
    # Brows: their height above the eye, half-length, thickness, arch, tilt.
    "brow_gap": bell(0.185, 0.020),
    "brow_length": bell(0.180, 0.016),
    "brow_thick": uniform(0.014, 0.046),
    "brow_arch": uniform(0.0, 0.075),
    "brow_peak": uniform(-0.1, 0.55),
    "brow_tilt": bell(-0.02, 0.09),
    "brow_dark": uniform(0.45, 0.95),
    "brow_taper": uniform(0.2, 0.85),
    # Nose: how far below the eyes it ends, half-widths of bridge and wings.
    "nose_length": bell(0.385, 0.035),
    "nose_bridge": bell(0.055, 0.011),
    "nose_wings": bell(0.125, 0.020),
    "nose_tip": bell(0.070, 0.012),
    "nose_depth": uniform(0.12, 0.30),
    "nose_line": uniform(0.25, 0.85),
    "nostril": uniform(0.2, 0.9),
    # Mouth: how far below the nose, half-width, thickness of the lips.
    "mouth_gap": bell(0.235, 0.025),
    "mouth_width": bell(0.235, 0.026),
    "lip_upper": bell(0.042, 0.011),
    "lip_lower": bell(0.060, 0.014),
    "lip_bow": uniform(0.0, 0.55),
    "lip_curve": bell(0.0, 0.014),
    "lip_color": choice(30, 25, 15, 12, 10, 8),
    "lip_strength": uniform(0.40, 0.92),
    # Ears and what hangs from them.
    "ear_size": bell(0.175, 0.022),
    "ear_out": uniform(0.0, 0.075),
    "earring": choice(82, 10, 8),
    "earring_gold": chance(0.5),
    # Hair.
    "hair_style": choice(5, 22, 20, 21, 16, 16),
    "hair_color": choice(20, 18, 15, 10, 8, 8, 9, 6, 4, 1.0, 1.0, 1.0),
    "hair_light": bell(1.0, 0.09),
    "hair_texture": choice(40, 25, 35),
    "hair_contrast": uniform(0.10, 0.42),
    "hair_volume": uniform(0.02, 0.17),
    "hair_height": uniform(0.02, 0.16),
    "hair_square": uniform(0.0, 0.6),
    "hair_rough": uniform(0.0, 0.055),
    "hair_length": uniform(0.35, 1.5),
    "hair_part": uniform(-0.45, 0.45),
    "hairline": bell(-0.52, 0.045),
    "hairline_curve": uniform(-0.15, 0.65),
    "hairline_tilt": bell(0.0, 0.13),
    "hair_jag": uniform(0.0, 0.085),
    # Beards and glasses.
    "beard": choice(70, 10, 8, 6, 6),
    "beard_dense": uniform(0.45, 0.92),
    "beard_line": uniform(0.10, 0.42),
    "glasses": chance(0.24),
    "glasses_width": uniform(0.185, 0.255),
    "glasses_height": uniform(0.120, 0.205),
    "glasses_square": uniform(0.0, 0.95),
    "glasses_thick": uniform(0.012, 0.036),
    "glasses_color": choice(40, 18, 12, 10, 8, 6, 6),
}
"""The traits of an identity; each is the same in all its pictures."""

PICTURE: Mapping[str, Distribution] = {
    # Camera: radians, head units, factors.
    "yaw": bell(0.0, 0.26),
    "pitch": bell(0.0, 0.12),
    "roll": bell(0.0, 0.11),
    "scale": bell(0.83, 0.045),
    "shift_x": bell(0.0, 0.040),
    "shift_y": bell(0.04, 0.040),
    # Expression.
    "smile": bell(0.25, 0.50),
    "mouth_open": uniform(-0.9, 1.0),
    "eyes_open": bell(0.94, 0.10),
    "blink": chance(0.03),
    "gaze_x": bell(0.0, 0.30),
    "gaze_y": bell(0.0, 0.18),
    "brow_raise": bell(0.0, 0.018),
    "frown": bell(0.0, 0.06),
    "flush": bell(0.0, 0.06),
    # Light.
    "light_x": bell(0.0, 0.55),
    "light_y": bell(-0.30, 0.30),
    "ambient": uniform(0.40, 0.92),
    "gain": bell(1.04, 0.12),
    "warmth": bell(0.0, 0.065),
    "tint": bell(0.0, 0.025),
    "contrast": bell(1.0, 0.12),
    "shadow": chance(0.22),
    **dict.fromkeys(("shadow_x", "shadow_y"), uniform(-1.0, 1.0)),
    "shadow_depth": uniform(0.15, 0.50),
    "shadow_offset": uniform(-0.5, 0.5),
    "shadow_soft": uniform(0.10, 0.60),
    # Things that change from day to day.
    **dict.fromkeys(("hair_tile_x", "hair_tile_y"), uniform(0.0, 1.0)),
    "hair_rise": bell(0.0, 0.022),
    "stubble": uniform(-0.15, 0.20),
    "glasses_off": chance(0.10),
    "glasses_on": chance(0.03),
    "sunglasses": chance(0.03),
    "hat": chance(0.10),
    "hat_line": bell(-0.42, 0.04),
    **dict.fromkeys(("hat_r", "hat_g", "hat_b", "cloth_r", "cloth_g", "cloth_b"), uniform(15, 235)),
    "collar": uniform(0.0, 0.35),
    # Background: two colours, a gradient between them, a texture over it and a panel.
    "back_grey": uniform(25, 225),
    **dict.fromkeys(("back_red", "back_blue"), bell(0, 26)),
    **dict.fromkeys(("back_dr", "back_dg", "back_db"), bell(0, 32)),
    **dict.fromkeys(("back_x", "back_y"), uniform(-1.0, 1.0)),
    "back_kind": choice(45, 25, 30),
    "back_texture": uniform(0.0, 0.22),
    **dict.fromkeys(("back_tile_x", "back_tile_y"), uniform(0.0, 1.0)),
    "panel": chance(0.45),
    "panel_edge": uniform(-0.9, 0.9),
    "panel_lean": bell(0.0, 0.3),
    "panel_light": uniform(0.55, 1.40),
    # What hides part of the face.
    "occluder": choice(84, 8, 8),
    "occluder_x": uniform(-0.85, 0.85),
    "occluder_y": uniform(-0.75, 1.05),
    "occluder_size": uniform(0.14, 0.38),
    "occluder_stretch": uniform(0.5, 1.8),
    "occluder_turn": uniform(-0.7, 0.7),
    **dict.fromkeys(("occluder_r", "occluder_g", "occluder_b"), uniform(15, 235)),
    # Sensor.
    "blur": uniform(-1.5, 1.0),
    "noise": uniform(1.5, 9.0),
    **dict.fromkeys(("noise_x", "noise_y"), uniform(0.0, 1.0)),
    "noise_turn": choice(1, 1, 1, 1, 1, 1, 1, 1),
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
