"""The procedural faces: pure functions of their numbers, alike within an identity."""

import hashlib
import math

import numpy as np
import pytest

from facepack.convert.faces.canvas import Canvas, Frame, noise_field, ramp, superellipse
from facepack.convert.faces.draw import render_faces
from facepack.convert.faces.scene import turn
from facepack.convert.faces.traits import (
    IDENTITY,
    PICTURE,
    bell,
    chance,
    choice,
    draw_traits,
    uniform,
)
from facepack.hashing import hash64

BITS = hash64(5, np.arange(50_000))


def _render(identities, pictures, **options):
    return render_faces(3, np.array(identities), np.array(pictures), **options)


def test_pictures_are_rgb_bytes_of_the_size_asked_for():
    for size in (32, 112, 160):
        images = _render([0, 1, 2], [0, 0, 5], size=size)
        assert images.shape == (3, size, size, 3)
        assert images.dtype == np.uint8
        # A face, a background and noise: no picture is flat, black or white.
        assert (images.reshape(3, -1).std(axis=1) > 15).all()


def test_a_picture_does_not_depend_on_what_is_drawn_with_it():
    identities = np.arange(40) // 2
    pictures = np.arange(40) % 2
    together = render_faces(3, identities, pictures)
    for i in (0, 1, 15, 16, 39):
        alone = render_faces(3, identities[i : i + 1], pictures[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])
    np.testing.assert_array_equal(render_faces(3, identities[::-1], pictures[::-1])[::-1], together)


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (32, "c71c88814e75606bfcd4171982b94bcb"),
        (112, "6d6e422d7727a8eca062c9281c5caf4d"),
        (160, "06ad7a2096d1d8185ef8e52b6943c339"),
    ],
)
def test_the_same_numbers_give_the_same_pixels_in_every_version(size, digest):
    numbers = np.arange(200)  # some of each: hats, beards, glasses, moles, shadows, occluders
    images = render_faces(3, numbers // 2, numbers % 2, size=size)
    assert hashlib.md5(images.tobytes()).hexdigest() == digest


def test_seed_identity_and_picture_each_change_the_picture():
    base = _render([7], [7])
    assert (render_faces(4, np.array([7]), np.array([7])) != base).mean() > 0.5
    assert (_render([8], [7]) != base).mean() > 0.5
    assert (_render([7], [8]) != base).mean() > 0.5


def test_an_identity_keeps_its_traits_and_each_picture_draws_its_conditions():
    who, shot = draw_traits(1, np.array([4, 4, 5]), np.array([0, 1, 0]))
    assert who.keys() == IDENTITY.keys()
    assert shot.keys() == PICTURE.keys()
    for name in ("face_width", "eye_x", "skin_tone", "mouth_width"):
        assert who[name][0] == who[name][1] != who[name][2]
    for name in ("yaw", "light_x", "back_grey"):
        assert len(set(shot[name].tolist())) == 3


def test_identities_and_pictures_far_apart_in_number_are_drawn_apart():
    numbers = np.array([0, 1, 1 << 32, 1 << 40])
    who, _ = draw_traits(0, numbers, np.zeros(4, np.int64))
    _, shot = draw_traits(0, np.zeros(4, np.int64), numbers)
    assert len(set(who["face_width"].tolist())) == 4
    assert len(set(shot["yaw"].tolist())) == 4


def test_pictures_of_one_identity_are_closer_than_those_of_two():
    images = _render(np.repeat(np.arange(60), 2), np.tile([0, 1], 60))
    # Mean colors of an 8×8 grid over the middle of the picture, where the face is.
    grid = images[:, 24:88, 24:88].reshape(120, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    features = grid.reshape(120, -1)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    same = distances[np.arange(0, 120, 2), np.arange(1, 120, 2)].mean()
    different = distances[0::2, 1::2][~np.eye(60, dtype=bool)].mean()
    assert same < 0.75 * different


@pytest.mark.parametrize(
    ("distribution", "mean", "deviation", "low", "high"),
    [
        (uniform(-1.0, 3.0), 1.0, 4 / math.sqrt(12), -1.0, 3.0),
        (bell(2.0, 0.5), 2.0, 0.5, 0.5, 3.5),
        (chance(0.2), 0.2, 0.4, 0.0, 1.0),
        (choice(1, 0, 3), 1.5, math.sqrt(0.75), 0, 2),
    ],
)
def test_distributions_have_their_moments_and_bounds(distribution, mean, deviation, low, high):
    values = distribution(BITS)
    assert abs(values.mean() - mean) < 5 * deviation / math.sqrt(len(values))
    assert abs(values.std() / deviation - 1) < 0.02
    assert values.min() >= low
    assert values.max() <= high


def test_turn_is_cosine_and_sine():
    angles = np.linspace(-1, 1, 201, dtype=np.float32)
    cosine, sine = turn(angles)
    np.testing.assert_allclose(cosine, np.cos(angles.astype(np.float64)), atol=5e-6)
    np.testing.assert_allclose(sine, np.sin(angles.astype(np.float64)), atol=3e-6)


def test_a_frame_maps_pixels_as_its_steps_say():
    column = np.full((1, 1, 1), 0.25, np.float32)
    cosine, sine = turn(np.full((1, 1, 1), 0.4, np.float32))
    frame = (
        Frame.of_image(1, 100).moved(column, -column).turned(cosine, sine).stretched(0.5, column)
    )
    px, py = 61.0, 12.0
    # The same in three steps: centre, turn, stretch.
    x, y = (px - 49.5) / 50 - 0.25, (py - 49.5) / 50 + 0.25
    u = (math.cos(0.4) * x + math.sin(0.4) * y) / 0.5
    v = (math.cos(0.4) * y - math.sin(0.4) * x) / 0.25
    got_u, got_v = frame.coordinates(np.array([px], np.float32), np.array([[py]], np.float32))
    np.testing.assert_allclose([got_u.item(), got_v.item()], [u, v], rtol=1e-5)
    got_x, got_y = frame.origin()
    np.testing.assert_allclose([got_x.item(), got_y.item()], [62.0, 37.0], rtol=1e-5)


def test_a_window_over_the_border_is_moved_inside_and_pasted_back():
    canvas = Canvas(2, 64)
    canvas.pixels[...] = 0
    frame = Frame.of_image(2, 64).moved(np.array([-1.0, 1.0], np.float32).reshape(2, 1, 1), 0.0)
    patch = canvas.cut(frame, 0.25, 0.125, np.arange(2))
    assert patch.pixels.shape == (2, 3, 8, 16)
    patch.blend(np.ones((2, 8, 16), np.float32), 9.0)
    patch.paste()
    expected = np.zeros((2, 3, 64, 64))
    expected[0, :, 28:36, :16] = 9
    expected[1, :, 28:36, 48:] = 9
    np.testing.assert_array_equal(canvas.pixels, expected)


def test_superellipse_goes_from_ellipse_to_rectangle_and_stays_negative_outside():
    corner = np.float32([0.9025])  # 0.95²
    assert superellipse(corner, corner, 0.0) < 0 < superellipse(corner, corner, 1.0)
    assert superellipse(np.float32([9]), np.float32([9]), 1.0) < 0


def test_ramp_is_half_on_the_edge_and_linear_around_it():
    distances = np.float32([-1, -0.1, 0, 0.1, 1])
    np.testing.assert_allclose(ramp(distances, 0.4), [0, 0.25, 0.5, 0.75, 1], atol=1e-6)


def test_noise_fields_are_standard():
    for name in ("grain", "clouds", "curls", "strands", "sheet"):
        field = noise_field(name)
        assert abs(field.mean()) < 0.01
        assert abs(field.std() - 1) < 0.01


def test_pixels_are_rounded_to_the_nearest_and_clipped():
    canvas = Canvas(1, 32)
    values = np.linspace(-40, 300, 32 * 32 * 3, dtype=np.float32).reshape(1, 3, 32, 32)
    canvas.pixels[...] = values
    images = np.empty((1, 32, 32, 3), np.uint8)
    canvas.write(images)
    expected = np.rint(np.clip(values, 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(images, expected)
