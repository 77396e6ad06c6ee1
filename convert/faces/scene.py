"""What the layers of a face share: colors, pose, and where a feature falls in the picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from facepack.convert.faces.canvas import (
    Canvas,
    Frame,
    Patch,
    cut_field,
    noise_field,
    positive,
    ramp,
    superellipse,
)
from facepack.convert.faces.traits import Traits

DEPTH = 0.55  # of the ellipsoid that carries the features, head units


def palette(*colors: tuple[int, int, int]) -> np.ndarray:
    """Return RGB colors as float32 (count, 3)."""
    return np.array(colors, dtype=np.float32)


_SKIN = palette(
    (252, 222, 200), (240, 198, 164), (222, 172, 130), (192, 136, 94), (150, 100, 68), (110, 72, 52)
)
_HAIR = palette(
    (28, 24, 24), (56, 36, 26), (90, 58, 36), (126, 80, 46), (150, 70, 34), (172, 128, 76),
    (222, 184, 112), (144, 142, 140), (216, 214, 208), (66, 96, 186), (206, 88, 140), (70, 146, 96),
)  # fmt: skip

# One row a style: whether there is hair; lowers the hairline; scales its curve and its tilt; cuts
# the length to [from, to], head units below the eyes; scales the volume; hides the face's sides
# from this part of its half-width on.
_STYLES = np.array(
    [
        (0, 0.00, 0.0, 0.0, -0.60, -0.60, 0.00, 1.10),  # bald
        (1, 0.02, 0.5, 0.4, -0.02, 0.12, 0.60, 0.96),  # short
        (1, 0.05, 0.7, 2.2, 0.08, 0.28, 1.10, 0.93),  # parted
        (1, 0.00, 1.0, 0.7, 0.55, 1.50, 1.20, 0.90),  # long
        (1, 0.20, -0.1, 0.3, 0.40, 1.20, 1.20, 0.87),  # fringe
        (1, -0.14, 1.3, 0.2, -0.08, 0.04, 0.25, 1.00),  # receding
    ],
    dtype=np.float32,
)


def look_up(colors: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the colors (n, 3, 1, 1) at the indices (n, 1, 1)."""
    return colors[index.reshape(-1)][:, :, None, None]


def join_rgb(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Join three channels (n, 1, 1) to (n, 3, 1, 1)."""
    return np.stack([red, green, blue], axis=1)


def color_of(traits: Columns, prefix: str) -> np.ndarray:
    """Return the color (n, 3, 1, 1) that three traits are, named by the prefix and r, g or b."""
    return np.stack([traits[f"{prefix}{channel}"] for channel in "rgb"], axis=1)


def tint(red: float, green: float, blue: float) -> np.ndarray:
    """Return one color, or one factor a channel, for all pictures: (1, 3, 1, 1)."""
    return np.array([red, green, blue], dtype=np.float32).reshape(1, 3, 1, 1)


def turn(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of angles below one radian by arithmetic alone, within 3e-6."""
    square = angle * angle
    sine = angle * (1 - square / 6 * (1 - square / 20 * (1 - square / 42)))
    return np.sqrt(1 - sine * sine), sine


class Columns(dict[str, np.ndarray]):
    """Traits of the pictures ``rows``, (n, 1, 1), cut out as they are asked for."""

    def __init__(self, traits: Traits, rows: np.ndarray) -> None:
        self._traits = traits
        self._rows = rows

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = column = self._traits[name][self._rows].reshape(-1, 1, 1)
        return column

    def take(self, rows: np.ndarray) -> Columns:
        """Keep some of the pictures."""
        return Columns(self._traits, self._rows[rows])


class Scene:
    """Pictures that are drawn together; every trait is (n, 1, 1), every color (n, 3, 1, 1).

    ``image`` is the frame of the picture, ``head`` that of the turned head; ``whole`` covers the
    canvas in head coordinates, where ``face`` is the level of the face's outline (1 in the middle,
    0 on it) and ``hair_depth`` the distance inside the hair's outer contour, both (n, size, size).
    ``rows`` are the pictures' places on the canvas.
    """

    def __init__(self, who: Columns, shot: Columns, size: int) -> None:
        self.who = who
        self.shot = shot
        count = len(who["face_width"])
        self.rows = np.arange(count)
        self.canvas = Canvas(count, size)
        self.yaw_cos, self.yaw_sin = turn(shot["yaw"])
        self.pitch_cos, self.pitch_sin = turn(shot["pitch"])
        self.image = Frame.of_image(count, size)
        # The head takes up half of the features' shift, as an aligner would have it.
        self.head = (
            self.image.moved(
                shot["shift_x"] - 0.5 * DEPTH * self.yaw_sin,
                shot["shift_y"] + 0.5 * DEPTH * self.pitch_sin,
            )
            .turned(*turn(shot["roll"]))
            .stretched(shot["scale"], shot["scale"])
        )
        self.pixel = 2 / (size * shot["scale"])  # the width of one, head units
        self.skin = self._skin_color()
        self.hair = look_up(_HAIR, who["hair_color"]) * who["hair_light"][:, None]
        style = _STYLES[who["hair_style"].reshape(-1)].T[:, :, None, None]
        self.haired, self.fringe, self.curve, self.tilt = style[:4]
        self.volume, self.cover = style[6:]
        self.length = np.clip(who["hair_length"], style[4], style[5])
        self.whole = Patch(self.canvas.pixels, *self.canvas.coordinates(self.head))
        self.face = self._face_level()
        self.hair_depth = self._hair_distance()
        self.strands = self._strands()

    def part(self, rows: np.ndarray) -> Scene:
        """Return a scene of the pictures ``rows`` alone, on the same canvas."""
        return _Part(self, rows)

    def cut(self, frame: Frame, width: float, height: float) -> Patch:
        """Return a window around the frame's origin, of fractions of the picture, to be pasted."""
        return self.canvas.cut(frame, width, height, self.rows)

    def line_at(self, height: float) -> int:
        """Return the line at a height, a fraction of the picture."""
        return round(height * self.canvas.size)

    def texture(self, mask: np.ndarray, target: np.ndarray | float, first: int = 0) -> None:
        """Bring the canvas' shade, from line ``first`` on, to ``target`` by ``mask`` in [0, 1]."""
        shade = self.canvas.shade[:, first:]
        difference = target - shade
        difference *= mask
        shade += difference

    def face_mask(self) -> np.ndarray:
        """Return the face's coverage, (n, size, size)."""
        return ramp(0.5 * self.who["face_width"] * self.face, self.pixel)

    def place(
        self, x: np.ndarray | float, y: np.ndarray | float, *, lift: float = 0.0, side: float = 1.0
    ) -> Frame:
        """Return the frame of a feature at (x, y) of the face's surface, ``lift`` above it.

        Yaw and pitch shift and foreshorten it. With ``side`` −1 the feature's own x axis points
        left, so that one code draws both of a pair, with x outwards.
        """
        who = self.who
        height = np.where(y > 0, who["chin"], who["crown"])
        slope_x = x / (who["face_width"] * who["face_width"])
        slope_y = y / (height * height)
        surface = DEPTH * np.sqrt(np.clip(1 - x * slope_x - y * slope_y, 0.08, 1))
        z = surface + lift
        column = x * self.yaw_cos + z * self.yaw_sin
        line = y * self.pitch_cos - (z * self.yaw_cos - x * self.yaw_sin) * self.pitch_sin
        bend = DEPTH * DEPTH / surface
        width = np.clip(self.yaw_cos - bend * slope_x * self.yaw_sin, 0.45, 1.15)
        length = np.clip(self.pitch_cos + bend * slope_y * self.pitch_sin, 0.55, 1.15)
        return self.head.moved(column, line).stretched(width * side, length)

    def _skin_color(self) -> np.ndarray:
        tone = self.who["skin_tone"]
        low = tone.astype(np.int64)
        part = (tone - low)[:, None].astype(np.float32)
        skin = look_up(_SKIN, low) * (1 - part) + look_up(_SKIN, low + 1) * part
        red = self.who["skin_red"] + 60 * self.shot["flush"]
        yellow = self.who["skin_yellow"]
        return skin + join_rgb(red + 0.5 * yellow, 0.3 * yellow - 0.3 * red, -yellow - 0.3 * red)

    def _face_level(self) -> np.ndarray:
        who, patch = self.who, self.whole
        below = positive(patch.v)
        lower = (below / who["chin"]) ** 2
        upper = ((patch.v - below) / who["crown"]) ** 2
        # The chin swings further than the temples.
        x = patch.u - (0.16 * self.yaw_sin) * below
        x /= who["face_width"] * (1 - who["jaw_taper"] * lower)
        return superellipse(x * x, lower, who["jaw_square"]) - upper

    def _hair_distance(self) -> np.ndarray:
        who, patch = self.who, self.whole
        width = who["face_width"] + 0.02 + self.volume * who["hair_volume"]
        top = who["crown"] - 0.05 + self.volume * (0.06 + who["hair_height"])
        x = patch.u / width
        y = np.clip(patch.v + 0.10, -np.inf, 0) / (top + self.shot["hair_rise"])
        level = superellipse(x * x, y * y, who["hair_square"])
        distance = np.minimum((0.5 * width) * level, self.length - patch.v)
        size = self.canvas.size
        curls = cut_field(noise_field("curls"), who["tile_x"], who["tile_y"], size, size)
        curls *= who["hair_rough"]
        distance += curls
        return distance

    def _strands(self) -> np.ndarray:
        """Return the hair's texture, a factor (n, size, size) around 1."""
        who = self.who
        texture = self.textures(("strands", "sheet", "curls"), who["hair_texture"], "hair_tile")
        texture *= 0.55 * who["hair_contrast"]
        texture += 1
        return texture

    def textures(self, names: tuple[str, ...], index: np.ndarray, tile: str) -> np.ndarray:
        """Cut a noise field a picture, ``names[index]``, where ``tile`` is: (n, size, size)."""
        x, y = self.shot[f"{tile}_x"], self.shot[f"{tile}_y"]
        size = self.canvas.size
        texture = np.empty((len(index), size, size), dtype=np.float32)
        for number, name in enumerate(names):
            rows = np.flatnonzero(index == number)
            texture[rows] = cut_field(noise_field(name), x[rows], y[rows], size, size)
        return texture


class _Part(Scene):
    """Some pictures of a scene; what belongs to them is cut out as it is asked for."""

    def __init__(self, scene: Scene, rows: np.ndarray) -> None:
        self.canvas = scene.canvas
        self._scene = scene
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._scene, name)
        value = value[self._rows] if isinstance(value, np.ndarray) else value.take(self._rows)
        setattr(self, name, value)
        return value
