"""What images must pass to be packed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facepack import images
from facepack.errors import DecodeError, PackError
from facepack.images import decode, read_header
from facepack.store.checks import ImageCheck

ODD = Path(__file__).parents[2] / ".." / "shared" / "data" / "odd-images"


def encoded(mode: str, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 20), 40).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_passes_is_stored_byte_for_byte(make_jpeg: Callable[..., bytes]) -> None:
    image = make_jpeg(0)
    for check in (ImageCheck(), ImageCheck(decode=True), ImageCheck(color="convert")):
        stored, header = check.look(image)
        assert stored is image and header.channels == 3 and header.orientation == 1
        assert ImageCheck.from_json(check.as_json()) == check


def test_another_size_is_refused(make_jpeg: Callable[..., bytes]) -> None:
    image = encoded("RGB", "JPEG")
    assert ImageCheck(size=(20, 24)).look(image)[0] is image
    with pytest.raises(DecodeError, match="24×20 pixels, not the 112×100 asked for"):
        ImageCheck(size=(100, 112)).look(image)


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [("L", "JPEG", 1), ("CMYK", "JPEG", 4), ("L", "PNG", 1), ("RGBA", "PNG", 4), ("P", "PNG", 1)],
)
def test_other_colours_are_kept_refused_or_converted(mode: str, kind: str, channels: int) -> None:
    image = encoded(mode, kind)
    assert ImageCheck().look(image)[0] is image
    with pytest.raises(DecodeError, match=f"it has {channels} colour channels, not 3"):
        ImageCheck(color="refuse").look(image)
    stored, header = ImageCheck(color="convert").look(image)
    assert (header.format, header.channels) == (kind.lower(), 3)
    assert read_header(stored) == header
    difference = np.abs(decode(stored).astype(int) - decode(image))
    assert difference.max() <= (0 if kind == "PNG" else 12)
    assert ImageCheck(color="convert").look(image)[0] == stored


def test_orientation_is_noticed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded("RGB", "JPEG", exif=exif)
    assert ImageCheck().look(image)[1].orientation == 6
    broken = image.replace(b"Exif\0\0", b"Exif\0\0", 1)[:30] + b"\xff" * 8 + image[38:]
    assert read_header(broken).orientation == 1


def test_limits(make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(DecodeError, match="FACEPACK_MAX_IMAGE_BYTES"):
        ImageCheck().look(make_jpeg(0))
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(DecodeError, match="FACEPACK_MAX_PIXELS"):
        ImageCheck().look(make_jpeg(0, quality=31))  # no beginning that was looked at before


def test_impossible_settings() -> None:
    with pytest.raises(PackError, match="color 'blue': allowed are"):
        ImageCheck(color="blue")
    with pytest.raises(PackError, match="size"):
        ImageCheck(size=(0, 5))


@pytest.mark.skipif(not ODD.exists(), reason="the real odd images are not here")
def test_real_odd_images() -> None:
    def outcome(name: str, **options: object) -> str:
        try:
            _, header = ImageCheck(**options).look((ODD / name).read_bytes())
        except DecodeError as error:
            return str(error)
        return f"{header.format} {header.channels} {header.orientation}"

    assert outcome("pil_sample_cmyk.jpg") == "jpeg 4 1"
    assert outcome("pil_sample_cmyk.jpg", color="convert") == "jpeg 3 1"
    assert outcome("hopper_gray.jpg", color="refuse").startswith("it has 1 colour channels")
    assert outcome("hopper_orientation_6.jpg") == "jpeg 3 6"
    assert "FACEPACK_MAX_PIXELS" in outcome("decompression_bomb.gif")
    assert "does not decode" in outcome("truncated_jpeg.jpg")
