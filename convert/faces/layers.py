"""The layers of a face, each a function that draws on a scene; :mod:`.faces` has their order.

Lengths are head units, as the traits are. A feature's frame has x outwards and y down.
"""

from __future__ import annotations

import numpy as np

from facepack.convert.faces.canvas import (
    TILE,
    clip01,
    cut_field,
    dot_square,
    noise_field,
    positive,
    ramp,
    superellipse,
)
from facepack.convert.faces.scene import (
    DEPTH,
    Scene,
    color_of,
    join_rgb,
    look_up,
    palette,
    tint,
    turn,
)

_IRIS = palette(
    (62, 38, 22), (104, 66, 34), (134, 108, 52), (78, 116, 66), (72, 118, 172), (120, 134, 144)
)
_LIPS = palette(
    (190, 100, 94), (168, 82, 78), (204, 74, 84), (150, 62, 70), (212, 124, 112), (120, 52, 56)
)
_LIDS = palette((96, 80, 140), (60, 110, 130), (130, 80, 60), (150, 90, 120))
_FRAMES = palette(
    (26, 26, 28), (94, 58, 34), (170, 150, 90), (150, 154, 160), (150, 30, 36), (40, 62, 130),
    (226, 222, 214),
)  # fmt: skip


def draw_background(scene: Scene) -> None:
    """Fill the picture: a slope between two colors, a texture, and a panel lighter or darker."""
    shot, canvas = scene.shot, scene.canvas
    u, v = canvas.coordinates(scene.image)
    grey, red, blue = shot["back_grey"], shot["back_red"], shot["back_blue"]
    slope = shot["back_x"] * u + shot["back_y"] * v
    np.multiply(color_of(shot, "back_d"), slope[:, None], out=canvas.pixels)
    canvas.pixels += join_rgb(grey + red, grey - 0.4 * (red + blue), grey + blue)
    texture = scene.textures(("clouds", "strands", "sheet"), shot["back_kind"], "back_tile")
    texture *= shot["back_texture"]
    panel = ramp(u - shot["panel_lean"] * v - shot["panel_edge"], 0.03)
    panel *= shot["panel"] * (shot["panel_light"] - 1)
    np.add(texture, panel, out=canvas.shade)
    canvas.shade += 1


def draw_hair_back(scene: Scene) -> None:
    """Draw the hair that lies behind the head."""
    mask = scene.haired * ramp(scene.hair_depth, 0.03)
    scene.whole.blend(mask, 0.72 * scene.hair)
    scene.texture(mask, scene.strands)


def draw_clothes(scene: Scene) -> None:
    """Draw the neck and the collar below it."""
    shot, first = scene.shot, scene.line_at(0.62)
    patch = scene.whole.below(first)
    out = np.abs(patch.u - (0.5 * DEPTH) * scene.yaw_sin)
    neck = ramp(np.minimum(0.62 * scene.who["face_width"] - out, patch.v - 0.5), scene.pixel)
    patch.blend(neck, 0.74 * scene.skin)
    scene.texture(neck, 1.0, first)
    opening = shot["collar"] * clip01(1.2 - 2.2 * out)
    cloth = ramp(patch.v - 0.98 - opening - 0.12 * out, 2 * scene.pixel)
    patch.blend(cloth, color_of(shot, "cloth_"))


def draw_ear(scene: Scene, side: float) -> None:
    """Draw an ear, with a stud or a hoop."""
    who, pixel = scene.who, scene.pixel
    x = side * (0.97 * who["face_width"] + who["ear_out"])
    # Ears sit behind the middle of the head: they swing the other way.
    frame = scene.head.moved(
        x * scene.yaw_cos - 0.10 * scene.yaw_sin, 0.04 + 0.10 * scene.pitch_sin
    )
    patch = scene.cut(frame.stretched(side, 1.0), 0.20, 0.26)
    size = who["ear_size"]
    u, v = patch.u / (0.55 * size), patch.v / size
    radius = dot_square(u, v)
    patch.blend(ramp((0.3 * size) * (1 - radius), pixel), 0.93 * scene.skin)
    inner = dot_square(1.8 * u, 1.5 * v)
    patch.shade(-0.22 * ramp((0.2 * size) * (1 - inner), 3 * pixel))
    drop = np.sqrt(dot_square(patch.u, patch.v - 1.05 * size))
    stud = ramp(0.035 - drop, pixel) * (who["earring"] == 1)
    hoop = ramp(0.016 - np.abs(drop - 0.060), pixel) * (who["earring"] == 2)
    gold = who["earring_gold"][:, None]
    patch.blend(stud + hoop, gold * tint(225, 180, 70) + (1 - gold) * 225)
    patch.paste()


def draw_head(scene: Scene) -> None:
    """Draw the face's bare surface."""
    mask = scene.face_mask()
    scene.whole.blend(mask, scene.skin)
    scene.texture(mask, 1.0)


def draw_cheek(scene: Scene, side: float) -> None:
    """Draw a cheek's blush and the fold between cheek and mouth."""
    who = scene.who
    patch = scene.cut(scene.place(side * 0.40, 0.26, side=side), 0.26, 0.22)
    soft = clip01(1 - dot_square(patch.u / 0.26, patch.v / 0.20))
    patch.blend(who["blush"] * soft, scene.skin * tint(1.0, 0.66, 0.62))
    line = np.abs(patch.u + 0.10 - 0.45 * patch.v)
    fold = ramp(0.02 - line, 0.03) * clip01(1 - 6 * np.abs(patch.v - 0.05))
    patch.shade((-0.38 * who["folds"]) * fold)
    patch.paste()


def draw_freckles(scene: Scene) -> None:
    """Draw freckles, always at the same places of the face."""
    who = scene.who
    patch = scene.cut(scene.place(0.0, 0.20), 0.52, 0.20)
    # Looked up by head coordinates, so that each freckle stays where it is on the face.
    column = (34 * patch.u + (60 + 390 * who["tile_x"])).astype(np.int64) % TILE
    line = (34 * patch.v + (60 + 390 * who["tile_y"])).astype(np.int64) % TILE
    spots = noise_field("grain")[line, column] - (2.1 - 1.4 * who["freckle_density"])
    mask = clip01(2.5 * spots) * clip01(2.4 - 2.4 * dot_square(patch.u / 0.58, patch.v / 0.21))
    patch.blend(0.55 * mask, scene.skin * tint(0.72, 0.55, 0.45))
    patch.paste()


def draw_mole(scene: Scene, name: str) -> None:
    """Draw a mole, ``mole_a`` or ``mole_b``."""
    who = scene.who
    patch = scene.cut(scene.place(who[f"{name}_x"], who[f"{name}_y"]), 0.08, 0.08)
    radius = np.sqrt(dot_square(patch.u, patch.v))
    patch.blend(0.85 * ramp(who[f"{name}_size"] - radius, 1.3 * scene.pixel), 0.36 * scene.skin)
    patch.paste()


def draw_beard(scene: Scene) -> None:
    """Draw stubble (1), a full beard (2), a goatee (3) or a moustache (4)."""
    who, kind, first = scene.who, scene.who["beard"], scene.line_at(0.45)
    patch = scene.whole.below(first)
    out = np.abs(patch.u - 0.45 * scene.yaw_sin)
    mouth = who["eye_y"] + who["nose_length"] + who["mouth_gap"]
    y = patch.v + (0.4 * scene.pitch_sin - mouth)
    lip = ramp(np.minimum(0.048 - np.abs(y + 0.095 - 0.25 * out * out), 0.25 - out), 0.03)
    # A full beard rises from the mouth to the ears.
    full = ramp(y + 0.10 - who["beard_line"] * (0.4 - 2.2 * positive(out - 0.15)), 0.05)
    chin = ramp(np.minimum(0.24 - out, y - 0.11), 0.05)
    shape = np.maximum(np.maximum(lip * (kind > 1), full * (kind <= 2)), chin * (kind == 3))
    inside = ramp((0.5 * who["face_width"]) * scene.face[:, first:], 2 * scene.pixel)
    dense = np.where(kind == 1, 0.28, who["beard_dense"]).astype(np.float32)
    day = scene.shot["stubble"] * (kind <= 2)
    mask = shape * inside * np.clip(dense + day, 0.1, 0.95)
    patch.blend(mask, 0.85 * scene.hair)
    patch.paste()
    scene.canvas.shade[scene.rows, first:] += mask * (scene.strands[:, first:] - 1)


def draw_mouth(scene: Scene) -> None:
    """Draw lips, the open mouth with teeth, the shade below and a cleft chin."""
    who, shot, skin, pixel = scene.who, scene.shot, scene.skin, scene.pixel
    frame = scene.place(0.0, who["eye_y"] + who["nose_length"] + who["mouth_gap"], lift=0.06)
    patch = scene.cut(frame, 0.36, 0.28)
    v, smile = patch.v, shot["smile"]
    width = who["mouth_width"] * (1 + 0.13 * smile)
    across = patch.u / width
    square = across * across
    arch = positive(1 - square)
    overshoot = positive(np.abs(patch.u) - width)
    middle = (who["lip_curve"] + 0.042 * smile) * (0.5 - square)
    gap = (0.13 * positive(shot["mouth_open"])) * (0.4 + 0.6 * arch) * arch
    top = middle - 0.25 * gap
    bottom = top + gap
    upper = top - who["lip_upper"] * arch * (1 - who["lip_bow"] * clip01(1 - 14 * square))
    lower = bottom + who["lip_lower"] * arch * (0.5 + 0.5 * arch)
    strength = who["lip_strength"][:, None]
    lips = look_up(_LIPS, who["lip_color"]) * (0.55 + skin / 440)
    lips = strength * lips + (1 - strength) * 0.82 * skin

    patch.blend(ramp(np.minimum(v - upper, lower - v) - overshoot, pixel), lips)
    shine = clip01(1 - dot_square(2.2 * across, (v - 0.5 * (bottom + lower)) / 0.022))
    patch.blend(0.28 * shine, np.clip(1.5 * lips + 20, 0, 255))
    hollow = ramp(np.minimum(v - top, bottom - v) - overshoot, pixel) * (gap > 0.25 * pixel)
    patch.blend(hollow, tint(70, 22, 26))
    teeth = ramp(np.minimum(v - top, top + 0.045 - v) - 0.06 * np.abs(across), pixel)
    patch.blend(hollow * teeth, 232)
    patch.blend(0.75 * ramp(0.010 - np.abs(v - top) - overshoot, pixel), 0.40 * lips)
    shade = ramp(0.02 - np.abs(v - lower - 0.035), 0.04) * clip01(1.2 * arch - 0.3)
    cleft = ramp(0.014 - np.abs(patch.u), 0.02) * clip01(1 - 14 * np.abs(v - lower - 0.14))
    patch.shade(-0.12 * shade - (0.22 * who["chin_cleft"]) * cleft)
    patch.paste()


def draw_nose(scene: Scene) -> None:
    """Draw the bridge, shaded on the side away from the light, the tip, wings and nostrils."""
    who, pixel = scene.who, scene.pixel
    frame = scene.place(0.0, who["eye_y"] + who["nose_length"], lift=0.14)
    patch = scene.cut(frame, 0.26, 0.36)
    u, v = patch.u, patch.v
    rise = clip01(-v / who["nose_length"])  # 0 at the tip, 1 between the eyes
    bridge = u + (0.17 * scene.yaw_sin) * rise
    half = who["nose_tip"] + (who["nose_bridge"] - who["nose_tip"]) * rise
    along = clip01(5 * (v + who["nose_length"])) * (v < 0)
    lean = 0.45 * np.clip(scene.shot["light_x"], -1, 1)
    left = ramp(0.030 - np.abs(bridge + half), 0.05)
    right = ramp(0.030 - np.abs(bridge - half), 0.05)
    depth = 1.9 * who["nose_depth"]
    ridge = clip01(1 - np.abs(bridge) / (0.8 * half))
    sides = (0.55 + lean) * left + (0.55 - lean) * right
    tip = clip01(1 - dot_square(u, v + 0.01) / (who["nose_tip"] * who["nose_tip"]))
    tone = depth * along * (0.10 * ridge - 0.45 * sides) + 0.10 * tip

    wings, out = who["nose_wings"], np.abs(u)
    wing = np.sqrt(dot_square(out - 0.62 * wings, v - 0.025))
    arc = ramp(0.013 - np.abs(wing - 0.42 * wings), 1.2 * pixel) * (out > 0.62 * wings)
    base = ramp(0.012 - np.abs(v - 0.055 + 0.25 * out), 0.02) * clip01(20 * (wings - out))
    tone -= who["nose_line"] * (0.52 * arc + 0.36 * base)
    hole = dot_square((out - 0.50 * wings) / (0.32 * wings), (v - 0.035) / 0.026)
    tone -= (0.70 * who["nostril"]) * ramp(0.02 * (1 - hole), pixel)
    patch.shade(tone)
    patch.paste()


def draw_eye(scene: Scene, side: float) -> None:
    """Draw an eye with its socket, lids and lashes."""
    who, shot, pixel = scene.who, scene.shot, scene.pixel
    slant_cos, slant_sin = turn(who["eye_slant"])
    frame = scene.place(side * who["eye_x"], who["eye_y"], side=side)
    # x points outwards: a positive slant lifts the outer corner.
    patch = scene.cut(frame.turned(slant_cos, -slant_sin), 0.26, 0.22)
    u, v = patch.u, patch.v
    width = who["eye_width"]
    opening = np.clip(shot["eyes_open"] * (1 - 0.12 * positive(shot["smile"])), 0.55, 1.15)
    opening = opening * (1 - 0.9 * shot["blink"])
    across = u / width
    arch = positive(1 - across * across)
    overshoot = positive(np.abs(u) - width)
    upper = (-opening * who["eye_upper"]) * (arch * (1 + who["eye_skew"] * across))
    lower = ((0.4 + 0.6 * opening) * who["eye_lower"]) * arch

    socket = clip01(1 - dot_square(across / 1.65, (v + 0.06) / 0.17))
    bag = ramp(0.012 - np.abs(v - lower - 0.055), 0.03) * clip01(1.5 * arch)
    patch.shade((-0.34 * who["socket"]) * socket - (0.40 * who["eye_bag"]) * bag)
    lid = ramp(np.minimum(v - upper + 0.055, upper - v), 0.02) * (arch > 0)
    patch.blend((0.6 * who["lid_tint"]) * lid, look_up(_LIDS, who["lid_hue"]))

    inside = ramp(np.minimum(v - upper, lower - v) - overshoot, pixel)
    patch.blend(inside, tint(238, 233, 228))
    size = who["iris_size"]
    gaze = u - (0.38 * side) * shot["gaze_x"] * (width - size)
    height = v + (0.012 - 0.25 * shot["gaze_y"] * who["eye_upper"])
    radius = np.sqrt(dot_square(gaze, height))
    iris = look_up(_IRIS, who["iris_color"]) * who["iris_light"][:, None]
    patch.blend(inside * ramp(size - radius, pixel), 0.45 * iris)
    patch.blend(inside * ramp(0.84 * size - radius, 1.5 * pixel), iris)
    patch.blend(inside * ramp(0.45 * size - radius, pixel), 18)
    glint = np.sqrt(dot_square(gaze - 0.025 * side, v + 0.030))
    patch.blend(0.9 * inside * ramp(0.017 - glint, pixel), 250)

    wing = positive(np.abs(u) - width * (1 + 0.18 * who["lash_wing"]))
    lash = who["lash"] * (0.7 + 0.5 * across) - np.abs(v - upper + 0.3 * who["lash"]) - 2 * wing
    patch.blend(ramp(lash, pixel), 34)
    under = ramp(0.008 - np.abs(v - lower) - 2 * overshoot, pixel)
    fold = upper - who["crease_gap"] * (0.4 + 0.6 * arch)
    crease = ramp(0.008 - np.abs(v - fold) - 2 * overshoot, pixel)
    patch.shade(-0.25 * under - (0.55 * who["crease"]) * crease)
    patch.paste()


def draw_brow(scene: Scene, side: float) -> None:
    """Draw the brow above an eye."""
    who, shot = scene.who, scene.shot
    y = who["eye_y"] - who["brow_gap"] - shot["brow_raise"]
    frame = scene.place(side * (who["eye_x"] + 0.01), y, side=side)
    frame = frame.turned(*turn(who["brow_tilt"] - shot["frown"]))
    patch = scene.cut(frame, 0.24, 0.14)
    across = patch.u / who["brow_length"]
    off = across - who["brow_peak"]
    curve = who["brow_arch"] * (off * off - 0.4)
    thick = who["brow_thick"] * (1 - who["brow_taper"] * positive(across))
    end = positive(np.abs(across) - 0.92)
    mask = ramp(thick - np.abs(patch.v - curve) - 0.4 * end, 1.4 * scene.pixel)
    patch.blend(who["brow_dark"] * mask, 0.62 * scene.hair + 8)
    patch.paste()


def draw_hair_front(scene: Scene) -> None:
    """Draw the hair that lies on the forehead and down the sides of the face."""
    who, whole = scene.who, scene.whole
    x = whole.u - 0.40 * scene.yaw_sin
    part = x - who["hair_part"]
    # The line falls from the parting at full slope on one side, 0.6 of it on the other.
    slope = scene.tilt * who["hairline_tilt"]
    line = (0.8 * slope) * np.abs(part)
    line += (0.2 * slope) * part
    line += (scene.curve * who["hairline_curve"]) * (x * x)
    curls = cut_field(noise_field("curls"), who["tile_y"], who["tile_x"], 1, scene.canvas.size)
    line += who["hair_jag"] * curls
    line += who["hairline"] + scene.fringe - 0.45 * scene.pitch_sin
    sides = np.minimum(np.abs(whole.u) - scene.cover * who["face_width"], scene.length - whole.v)
    front = np.maximum(line - whole.v, sides)
    mask = scene.haired * ramp(np.minimum(scene.hair_depth, front), 0.03)
    whole.blend(mask, scene.hair)
    scene.texture(mask, scene.strands)


def draw_hat(scene: Scene) -> None:
    """Draw a woollen hat over the hair."""
    shot, whole = scene.shot, scene.whole
    skull = (0.5 * scene.who["face_width"]) * scene.face
    # The brim is seen from below when the head is raised.
    brim = shot["hat_line"] - 0.45 * scene.pitch_sin - 0.12 * whole.u * whole.u - whole.v
    inside = np.minimum(np.maximum(scene.hair_depth, skull) + 0.03, brim)
    mask = ramp(inside, scene.pixel)
    whole.blend(mask, color_of(shot, "hat_"))
    whole.paste()
    cuff = 1 - 0.22 * ramp(0.13 - brim, scene.pixel)
    scene.canvas.shade[scene.rows] += mask * (cuff - scene.canvas.shade[scene.rows])


def draw_glasses(scene: Scene) -> None:
    """Draw glasses, or sunglasses."""
    who, pixel, dark = scene.who, scene.pixel, scene.shot["sunglasses"]
    color = look_up(_FRAMES, who["glasses_color"])
    width, height, thick = who["glasses_width"], who["glasses_height"], who["glasses_thick"]
    for side in (-1.0, 1.0):
        frame = scene.place(side * who["eye_x"], who["eye_y"] + 0.02, lift=0.08, side=side)
        patch = scene.cut(frame, 0.30, 0.26)
        x, y = patch.u / width, patch.v / height
        distance = (0.5 * height) * superellipse(x * x, y * y, who["glasses_square"])
        lens = ramp(distance, pixel) * (0.06 + 0.84 * dark)
        patch.blend(lens, 40 + 120 * (1 - dark[:, None]))
        arm = np.minimum(patch.u - width, 0.022 - np.abs(patch.v + 0.03))
        patch.blend(ramp(np.maximum(thick - np.abs(distance), arm), pixel), color)
        patch.paste()
    patch = scene.cut(scene.place(0.0, who["eye_y"], lift=0.10), 0.16, 0.08)
    gap = who["eye_x"] - width + 0.01
    patch.blend(ramp(np.minimum(gap - np.abs(patch.u), thick - np.abs(patch.v)), pixel), color)
    patch.paste()


def apply_light(scene: Scene) -> None:
    """Shade head and hair as an ellipsoid under one lamp."""
    who, shot, whole = scene.who, scene.shot, scene.whole
    x = np.clip(whole.u / (1.1 * who["face_width"]), -1, 1)
    y = np.clip(whole.v, -1, 1)
    z = np.sqrt(clip01(1 - 0.75 * dot_square(x, y)))
    lamp_x, lamp_y, lamp_z = shot["light_x"], shot["light_y"], 0.8
    power = 1.35 * (1 - shot["ambient"])
    power = power / np.sqrt(lamp_x * lamp_x + lamp_y * lamp_y + lamp_z * lamp_z)
    light = (power * lamp_x) * x
    light += (power * lamp_y) * y
    light += (power * lamp_z) * z
    light = positive(light)
    light += shot["ambient"] - 1
    # A little past the outline, so that no bright rim is left.
    light *= clip01(6 * np.maximum(scene.face, 4 * scene.hair_depth) + 1)
    light += 1
    scene.canvas.shade *= light


def cast_shadow(scene: Scene) -> None:
    """Let a straight-edged shadow fall on the picture."""
    shot = scene.shot
    u, v = scene.canvas.coordinates(scene.image)
    edge = shot["shadow_x"] * u + shot["shadow_y"] * v - shot["shadow_offset"]
    shade = 1 - shot["shadow_depth"] * ramp(edge, shot["shadow_soft"])
    scene.canvas.shade[scene.rows] *= shade


def draw_occluder(scene: Scene) -> None:
    """Put a plain thing, round or rectangular, before the face."""
    shot = scene.shot
    size = shot["occluder_size"]
    frame = scene.head.moved(shot["occluder_x"], shot["occluder_y"])
    patch = scene.cut(frame.turned(*turn(shot["occluder_turn"])), 0.62, 0.62)
    x = np.abs(patch.u) / (size * shot["occluder_stretch"])
    y = np.abs(patch.v) / size
    reach = np.where(shot["occluder"] == 1, np.sqrt(dot_square(x, y)), np.maximum(x, y))
    shaded = color_of(shot, "occluder_") * (1 - 0.25 * (patch.u + patch.v))[:, None]
    patch.blend(ramp(size * (1 - reach), 2 * scene.pixel), shaded)
    patch.paste()
