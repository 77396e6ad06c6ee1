"""Damaged and unusual images: refused when packed, or to both backends the same, refusal included.

The images are drawn and then changed. Those of :func:`dc_jpeg` are encoded here, one value a block,
since no encoder at hand writes all that the format allows.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, features

import facepack
from facepack.cli import root
from facepack.errors import DecodeError
from facepack.images import check_decodes, check_image, decode
from facepack.loading import dali_decoder
from facepack.loading.loader import Loader
from facepack.loading.pixels import is_common_jpeg
from facepack.store.checks import ImageCheck

HEIGHT, WIDTH = 40, 48
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DQT, DHT, SOF, SOS, DRI, APP14 = 0xDB, 0xC4, 0xC0, 0xDA, 0xDD, 0xEE

YCBCR = ((2, 2), (1, 1), (1, 1))
FULL = ((1, 1),) * 3


def encode(kind: str = "JPEG", mode: str = "RGB", height: int = HEIGHT, **options: object) -> bytes:
    y, x = np.mgrid[:height, :WIDTH].astype(float)
    noise = np.random.default_rng(0).normal(0, 6, (height, WIDTH, 3))
    waves = np.stack([np.sin(x * a + y * b) for a, b in ((0.2, 0.1), (0.1, 0.3), (0.3, 0.2))], -1)
    pixels = np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


# JPEGs, segment by segment ------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform: int) -> bytes:
    return segment(APP14, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def dc_jpeg(
    sampling: Sequence[tuple[int, int]] = YCBCR,
    ids: bytes = b"\1\2\3\4",
    before: bytes = JFIF,
    sof: int = SOF,
    precision: int = 8,
    restart: int = 0,
) -> bytes:
    """A JPEG of one colour a block: its lone code for what follows a DC value is a 0."""
    across = max(horizontal for horizontal, _ in sampling)
    down = max(vertical for _, vertical in sampling)
    components = [bytes([c, h << 4 | v, 0]) for c, (h, v) in zip(ids, sampling, strict=False)]
    frame = struct.pack(">BHHB", precision, HEIGHT, WIDTH, len(sampling)) + b"".join(components)
    count = bytes([len(sampling)])
    scan = count + b"".join(bytes([c, 0]) for c in ids[: len(sampling)]) + b"\0\x3f\0"
    data = SOI + before + segment(DQT, b"\0" + bytes([8] * 64)) + segment(sof, frame)
    data += segment(DHT, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)))
    data += segment(DHT, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    data += segment(DRI, struct.pack(">H", restart)) if restart else b""
    data += segment(SOS, scan)
    units = -(-WIDTH // (8 * across)) * -(-HEIGHT // (8 * down))
    if len(sampling) == 1:
        units, sampling = -(-WIDTH // 8) * -(-HEIGHT // 8), FULL[:1]
    blocks = [c for c, (h, v) in enumerate(sampling) for _ in range(h * v)]
    rng = np.random.default_rng(1)
    last = [0] * len(sampling)
    bits = ""
    for unit in range(units):
        if restart and unit and unit % restart == 0:
            data += pad(bits) + bytes([0xFF, 0xD0 + (unit // restart - 1) % 8])
            bits, last = "", [0] * len(sampling)
        for c in blocks:
            value = int(rng.integers(-100, 101))
            step, last[c] = value - last[c], value
            size = abs(step).bit_length()
            bits += f"{size:04b}"
            bits += f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else ""
            bits += "0"
    return data + pad(bits) + EOI


def pad(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    octets = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return octets.replace(b"\xff", b"\xff\0")


def segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and stop of each segment down to the first scan header."""
    found, at = [], 2
    while not found or found[-1][0] != SOS:
        stop = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append((jpeg[at + 1], at, stop))
        at = stop
    return found


def start(jpeg: bytes, marker: int) -> int:
    return next(begin for found, begin, _ in segments(jpeg) if found == marker)


def scan(jpeg: bytes) -> int:
    return segments(jpeg)[-1][2]


def without(jpeg: bytes, marker: int) -> bytes:
    for found, begin, stop in reversed(segments(jpeg)):
        if found == marker:
            jpeg = jpeg[:begin] + jpeg[stop:]
    return jpeg


def put(jpeg: bytes, at: int, octets: bytes) -> bytes:
    return jpeg[:at] + octets + jpeg[at + len(octets) :]


def insert(jpeg: bytes, at: int, octets: bytes) -> bytes:
    return jpeg[:at] + octets + jpeg[at:]


def cut(jpeg: bytes, share: float = 0.5) -> bytes:
    """Cut within the scan and closed with an end marker."""
    begin = scan(jpeg)
    return jpeg[: begin + int((len(jpeg) - 2 - begin) * share)] + EOI


def sized(jpeg: bytes, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """Another size in the header."""
    return put(jpeg, start(jpeg, SOF) + 5, struct.pack(">HH", height, width))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16() -> bytes:
    rows = np.random.default_rng(2).integers(0, 1 << 16, (HEIGHT, WIDTH * 3)).astype(">u2")
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# What should come of them -------------------------------------------------------------------------


def sound() -> dict[str, bytes]:
    """What everybody takes, and both backends make the same pixels of."""
    jpeg, progressive = encode(quality=90), encode(progressive=True, quality=90)
    cmyk = encode(mode="CMYK", quality=90)
    frame = start(jpeg, SOF)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "4:2:0": jpeg,
        "4:2:2": encode(subsampling="4:2:2"),
        "4:4:4": encode(subsampling="4:4:4"),
        "4:1:1": dc_jpeg(((4, 1), (1, 1), (1, 1))),
        "4:1:0": dc_jpeg(((4, 2), (1, 1), (1, 1))),
        "chroma at unequal resolutions": dc_jpeg(((2, 2), (2, 1), (1, 1))),
        "3:1:1": dc_jpeg(((3, 1), (1, 1), (1, 1))),
        "chroma finer than luma": dc_jpeg(((1, 1), (2, 2), (2, 2))),
        "grey": encode(mode="L"),
        "grey with factors of 2": dc_jpeg(((2, 2),)),
        "progressive": progressive,
        "progressive, without its last scan": progressive[: progressive.rindex(b"\xff\xda")] + EOI,
        "extended sequential": dc_jpeg(sof=0xC1),
        "optimized tables": encode(optimize=True),
        "restart markers": encode(restart_marker_blocks=2),
        "restart markers, encoded here": dc_jpeg(restart=2),
        "RGB": encode(keep_rgb=True),
        "RGB by component names": dc_jpeg(FULL, ids=b"RGB", before=b""),
        "RGB by Adobe's marker": dc_jpeg(FULL, before=adobe(0)),
        "RGB by Adobe's marker, YCbCr by JFIF's": dc_jpeg(FULL, before=JFIF + adobe(0)),
        "YCbCr by Adobe's marker": dc_jpeg(FULL, before=adobe(1)),
        "YCbCr by no marker": dc_jpeg(before=b""),
        "components named at random": dc_jpeg(ids=b"\5\x09\x4d", before=b""),
        "CMYK": cmyk,
        "CMYK without Adobe's marker": without(cmyk, APP14),
        "YCCK": dc_jpeg(((1, 1),) * 4, before=adobe(2)),
        "CMYK, 4:2:0": dc_jpeg(((2, 2), (1, 1), (1, 1), (2, 2)), before=adobe(0)),
        "turned by EXIF": encode(exif=exif.tobytes()),
        "thumbnail": insert(jpeg, 2, segment(0xE1, b"Exif\0\0" + encode(height=16))),
        "a frame header in a comment": insert(jpeg, 2, segment(0xFE, sized(jpeg, 8, 8)[frame:])),
        "200 kB of segments": insert(jpeg, 2, segment(0xE2, bytes(65000)) * 3),
        "fill bytes": insert(jpeg, frame, b"\xff\xff\xff"),
        "restart marker in the header": insert(jpeg, frame, b"\xff\xd0"),
        "no Huffman tables, as in MJPEG": without(jpeg, DHT),
        "zeros behind the end": jpeg + bytes(100),
        "a JPEG behind the end": jpeg + cut(jpeg),
        "PNG": encode("PNG"),
        "PNG of 16 bits": png16(),
        "PNG, palette": encode("PNG", "P"),
        "PNG, grey and transparency": encode("PNG", "LA"),
        "BMP": encode("BMP"),
        "GIF, animated": encode("GIF", save_all=True, append_images=[Image.new("RGB", (48, 40))]),
        "TIFF": encode("TIFF"),
    }
    if features.check("webp"):
        images["WebP"] = encode("WEBP")
        more = [Image.new("RGB", (WIDTH, HEIGHT))]
        images["WebP, animated"] = encode("WEBP", save_all=True, append_images=more)
    return images


def refused() -> dict[str, bytes]:
    """What packing sets aside, as both backends would."""
    jpeg, cmyk = encode(quality=90), encode(mode="CMYK", quality=90)
    frame, table = start(jpeg, SOF), start(jpeg, DHT)
    whole_frame = jpeg[frame : frame + 19]
    images = {
        "nothing": b"",
        "text": b"not an image",
        "start marker": SOI,
        "start and end marker": SOI + EOI,
        "junk before the start": b"\0" + jpeg,
        "12 bits": put(jpeg, frame + 4, b"\x0c"),
        "12 bits, encoded here": dc_jpeg(precision=12, sof=0xC1),
        "lossless, RGB as YCbCr": dc_jpeg(sof=0xC3),
        "hierarchical": dc_jpeg(sof=0xC5),
        "two components": dc_jpeg(((1, 1), (1, 1))),
        "16 blocks a unit": dc_jpeg(((2, 2),) * 4),
        "fractions of chroma": dc_jpeg(((3, 1), (2, 1), (1, 1))),
        "unknown colours": dc_jpeg(FULL, before=adobe(2)),
        "no height": sized(jpeg, 0),
        "no quantization table": without(jpeg, DQT),
        "another quantization table": put(jpeg, start(jpeg, DQT) + 4, b"\3"),
        "impossible Huffman table": put(jpeg, table + 5, b"\3\1\2"),
        "no frame header": without(jpeg, SOF),
        "two frame headers": insert(jpeg, frame, whole_frame),
        "two frame headers of two sizes": insert(jpeg, frame, sized(jpeg, 16, 16)[frame:][:19]),
        "junk in the header": insert(jpeg, frame, b"\0\0\0"),
        "a marker that nobody knows": insert(jpeg, frame, segment(0xF0, b"abc")),
        "no end marker": jpeg[:-2],
        "cut": jpeg[: len(jpeg) // 2],
        "CMYK, cut and closed": cut(cmyk),
        "CMYK without Adobe's marker, cut and closed": cut(without(cmyk, APP14)),
        "4:1:0, cut and closed": cut(dc_jpeg(((4, 2), (1, 1), (1, 1)))),
        "PNG, cut": encode("PNG")[:-60],
        "BMP, cut": encode("BMP")[:-60],
        "GIF, cut and closed": encode("GIF")[:-60] + b"\0;",
        "TIFF, cut": encode("TIFF")[:3000],
    }
    if features.check("webp"):
        images["WebP, cut"] = encode("WEBP")[:-60]
    return images


def hidden() -> dict[str, bytes]:
    """JPEGs whose scan is damaged: packed by default, found by decoding, refused by both."""
    jpeg, progressive = encode(quality=90), encode(progressive=True, quality=90)
    restarts = encode(quality=90, restart_marker_blocks=2)
    at = scan(jpeg) + 200
    begin = scan(restarts)
    markers = [m for m in range(begin, len(restarts)) if restarts[m : m + 2] in RESTARTS]
    first, second = markers[1:3]
    swapped = put(restarts, first, restarts[second : second + 2])
    swapped = put(swapped, second, restarts[first : first + 2])
    images = {f"cut at {share}, closed": cut(jpeg, share) for share in (0, 0.2, 0.5, 0.9, 0.98)}
    return images | {
        "grey, cut and closed": cut(encode(mode="L")),
        "progressive, cut and closed": cut(progressive, 0.9),
        "without JFIF, cut and closed": cut(dc_jpeg(before=b"")),
        "with restart markers, cut and closed": cut(restarts),
        "cut and closed, before another": cut(jpeg) + jpeg,
        "a shorter image": sized(encode(height=HEIGHT - 16)),
        "a taller image": sized(encode(height=HEIGHT + 16)),
        "more columns": sized(jpeg, width=WIDTH + 16),
        "restart markers swapped": swapped,
        "restart marker gone": restarts[:first] + restarts[first + 2 :],
        "restart interval gone": restarts[:first] + restarts[second:],
        "restart interval not stated": without(restarts, DRI),
        "restart markers promised": insert(jpeg, start(jpeg, SOF), segment(DRI, b"\0\2")),
        "zeros in the scan": put(jpeg, at, bytes(200)),
        "bytes gone": jpeg[:at] + jpeg[at + 200 :],
        "end marker in the scan": insert(jpeg, at, EOI),
        "comment in the scan": insert(jpeg, at, segment(0xFE, b"hello")),
        "junk before the end": insert(jpeg, len(jpeg) - 2, b"\x12" * 20),
        "two scans": jpeg[:-2] + jpeg[start(jpeg, SOS) :],
    }


RESTARTS = {bytes([0xFF, 0xD0 + number]) for number in range(8)}
KINDS = {"sound": sound, "refused": refused, "hidden": hidden}
CASES = [(kind, name) for kind, make in KINDS.items() for name in make()]


class Images:
    """A list of images as a loader takes them, packed or not."""

    path = Path("images")
    content_id = "images"
    channels = "rgb"
    image_size = HEIGHT, WIDTH

    def __init__(self, images: Sequence[bytes]) -> None:
        self.images = images
        self.labels = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        return str(index)

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        yield [memoryview(self.images[int(position)]) for position in positions]


def load(images: Sequence[bytes], backend: str, epochs: int = 2) -> dict[int, torch.Tensor]:
    """The pixels of those images that a backend takes, by position; the same in each epoch."""
    loaded: dict[int, torch.Tensor] = {}
    options = {"shuffle": False, "mirror": False, "drop_last": False, "on_error": "skip"}
    with Loader(Images(images), backend=backend, batch_size=16, **options) as loader:
        for epoch in range(epochs):
            met = set()
            for batch in loader:
                for position, pixels in zip(batch.positions.tolist(), batch.images, strict=True):
                    met.add(position)
                    assert torch.equal(loaded.setdefault(position, pixels.clone()), pixels)
            assert met == {*loaded}, epoch
    return loaded


def assert_backends_agree(images: Sequence[bytes]) -> set[int]:
    """Both take the same images, and make the same pixels of them: those of :func:`decode`."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    cpu, dali = load(images, "cpu"), load(images, "dali")
    assert cpu.keys() == dali.keys()
    for position, pixels in cpu.items():
        assert torch.equal(pixels, dali[position]), position
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), decode(images[position]))
    return {*cpu}


def passes(check: Callable[[bytes], object], image: bytes) -> bool:
    try:
        check(image)
    except DecodeError:
        return False
    return True


class TestPacking:
    @pytest.mark.parametrize(("kind", "name"), CASES)
    def test_what_passes(self, kind: str, name: str) -> None:
        image = KINDS[kind]()[name]
        for _ in range(2):  # also once its beginning is known
            assert passes(check_image, image) == (kind != "refused")
            assert passes(check_decodes, image) == passes(decode, image) == (kind == "sound")

    def test_12_bits_are_told_as_that(self) -> None:
        with pytest.raises(DecodeError, match="Unsupported JPEG data precision 12"):
            check_image(refused()["12 bits"])

    def test_does_not_depend_on_what_came_before(self) -> None:
        """The beginnings that are remembered are good ones, whatever was read in between."""
        images = [*hidden().values(), *refused().values(), *sound().values()]
        expected = [passes(check_image, image) for image in images]
        for seed in range(3):
            order = random.Random(seed).sample(range(len(images)), len(images))
            for number in order:
                passes(decode, images[number])
                assert passes(check_image, images[number]) == expected[number]


class TestCommands:
    """A pack with a hidden image, as its user finds it."""

    @pytest.fixture()
    def pack(self, tmp_path: Path) -> Path:
        images = [encode(quality=quality) for quality in (80, 85, 90)]
        images[1] = cut(images[1])
        with facepack.PackWriter(tmp_path / "pack", order="source") as writer:
            for image in images:
                writer.add(image, 0)
        return tmp_path / "pack"

    def test_verify_finds_it_when_asked_to(self, pack: Path) -> None:
        assert CliRunner().invoke(root, ["verify", str(pack)]).exit_code == 0
        for options in (["--decode"], ["--decode", "--untrusted"]):
            result = CliRunner().invoke(root, ["verify", *options, str(pack)])
            assert result.exit_code == 3
            assert "shard-000/0000000001: the jpeg image does not decode" in result.output
            assert f"facepack salvage --decode {pack} OUT" in result.output

    def test_salvage_leaves_it_out_when_asked_to(self, pack: Path, tmp_path: Path) -> None:
        for options, kept in (([], 3), (["--decode"], 2)):
            out = tmp_path / f"out-{kept}"
            result = CliRunner().invoke(root, ["salvage", *options, str(pack), str(out)])
            assert result.exit_code == 0
            assert f"{kept} of 3 records salvaged" in result.output
            assert f"{3 - kept} lost" in result.output
            report = CliRunner().invoke(root, ["verify", "--decode", str(out)])
            assert report.exit_code == (3 if kept == 3 else 0)
        line = (tmp_path / "out-2" / "quarantine.jsonl").read_text()
        assert '"0000000001"' in line and "premature end" in line

    def test_packing_refuses_it_when_asked_to(self, tmp_path: Path) -> None:
        check = ImageCheck(decode=True)
        with facepack.PackWriter(tmp_path / "pack", check=check) as writer:
            with pytest.raises(DecodeError, match="premature end"):
                writer.add(cut(encode()), 0)
            writer.add(encode(), 0)


class TestBackends:
    def test_take_the_same_images_and_make_the_same_of_them(self) -> None:
        images = {name: image for make in KINDS.values() for name, image in make().items()}
        loaded = assert_backends_agree([image or b"\0" for image in images.values()])
        assert {name for place, name in enumerate(images) if place in loaded} == {*sound()}

    def test_raise_the_same(self) -> None:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        for name, image in hidden().items():
            said = []
            for backend in ("cpu", "dali"):
                loader = Loader(Images([encode(), image]), backend=backend, batch_size=2)
                with loader, pytest.raises(DecodeError) as caught:
                    next(iter(loader))
                said.append(str(caught.value))
            assert said[0] == said[1], name

    def test_only_common_jpegs_are_dalis(self) -> None:
        """Its decoders on GPUs read markers otherwise; what is rare goes the sure way."""
        size = HEIGHT, WIDTH
        common = {name for name, image in sound().items() if is_common_jpeg(image, size)}
        assert {"4:2:0", "4:4:4", "grey", "progressive", "turned by EXIF"} <= common
        assert not {name for name in common if "RGB by" in name and "JFIF" not in name}
        assert not common & {"RGB", "CMYK", "4:1:0", "PNG", "fill bytes"}
        for make in (refused, hidden):
            assert not any(is_common_jpeg(image, size) for image in make().values())
        assert not is_common_jpeg(encode(height=16), size)

    def test_mutants(self) -> None:
        rng = random.Random(0)
        bases = [*(encode(quality=quality) for quality in (50, 90)), encode(mode="CMYK")]
        bases += [encode(progressive=True), encode(restart_marker_blocks=2), encode(mode="L")]
        bases += [dc_jpeg(), dc_jpeg(((4, 2), (1, 1), (1, 1))), encode(keep_rgb=True)]
        images = [mutate(rng, rng.choice(bases)) for _ in range(400)]
        loaded = assert_backends_agree(images)
        assert 40 < len(loaded) < 360
        for place, image in enumerate(images):
            whole = passes(decode, image)
            assert passes(check_decodes, image) == whole
            assert whole <= passes(check_image, image)
            assert (place in loaded) == (whole and decode(image).shape == (HEIGHT, WIDTH, 3))

    def test_what_dali_refuses_all_the_same_is_decoded_here(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As its decoders on GPUs may, of a JPEG that the processor's takes."""
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        images = [encode(quality=quality) for quality in range(50, 90)]
        expected = load(images, "cpu")
        images[20] = cut(images[20], 0.1)[:-100]  # no decoder takes it as an image
        looked = []

        def take(image: memoryview, size: tuple[int, int]) -> bool:
            looked.append(bytes(image))
            return True

        monkeypatch.setattr("facepack.loading.dali.is_common_jpeg", take)
        loaded = load(images, "dali")
        assert {*range(40)} - {*loaded} == {20}
        assert all(torch.equal(pixels, expected[place]) for place, pixels in loaded.items())
        assert sorted(looked) == sorted(images)  # each once, in two epochs

    def test_decoders_are_timed_with_what_they_will_get(self) -> None:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        images = Images([cut(encode()), encode("PNG"), encode(quality=90), encode(mode="CMYK")])
        settings = Loader(images, backend="dali", batch_size=4)._settings
        sample = dali_decoder._sample(settings)
        assert [data.tobytes() for data in sample] == [encode(quality=90)] * 4


def mutate(rng: random.Random, jpeg: bytes) -> bytes:
    """Some bytes of an image changed, gone, doubled or come from elsewhere; most often closed."""
    data, begin = bytearray(jpeg), scan(jpeg)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 10])):
        at = rng.randrange(2 if rng.random() < 0.5 else min(begin, len(data) - 1), len(data))
        length = rng.choice([1, 2, 20, 60])
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.randbytes(length)
            case 4:
                data = data[: max(at, 4)] + EOI
            case 5:
                data[at:at] = data[max(0, at - length) : at]
            case 6:
                marker = rng.choice([0, *range(0xC0, 0x100)])
                data[at : at + 2] = bytes([0xFF, marker])
        if len(data) < 8:
            data = bytearray(jpeg)
    return bytes(data) + (EOI if rng.random() < 0.6 and data[-2:] != EOI else b"")
