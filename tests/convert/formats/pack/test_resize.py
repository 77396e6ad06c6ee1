"""``--resize``: images of other sizes are encoded anew, no others, and the pack counts them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner, Result
from PIL import Image

import facepack
from facepack.cli import root
from facepack.convert.formats.pairs.pickles import read_bin, write_bin
from facepack.errors import DamageError, PackError
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.plan import PackPlan, check_plan

SIDE = 32


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Waves that no number shares, with some noise."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * (a * x + b * y) + c) for a, b, c in draw.uniform(0, 3, (3, 3))]
    pixels = 128 + 90 * np.stack(waves, axis=-1) + draw.normal(0, 4, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444"
    )


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


GREY = simplejpeg.encode_jpeg(
    np.ascontiguousarray(picture(5, 64, 64)[..., :1]), colorspace="GRAY", quality=90
)
FILES = {
    "a/0.jpg": jpeg(picture(0, SIDE, SIDE), 60),
    "a/1.jpg": jpeg(picture(1, 64, 64)),
    "a/2.png": png(picture(2, 24, 24)),
    "b/3.jpg": jpeg(picture(3, 65, 64)),  # less than a pixel of 32
    "b/4.jpg": jpeg(picture(4, 64, 48)),  # another shape
    "b/5.jpg": GREY,
    "b/6.png": png(picture(6, SIDE, SIDE)),
}
KEPT = ["a/0.jpg", "b/6.png"]
ENCODED = ["a/1.jpg", "a/2.png", "b/3.jpg", "b/5.jpg"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, image in FILES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(image)
    return tmp_path / "tree"


def run(*words: object) -> Result:
    return CliRunner().invoke(root, list(map(str, words)), catch_exceptions=False)


def facepack_(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def twin(data: bytes, side: int = SIDE) -> bytes:
    """What becomes of an image of another size, by Pillow and simplejpeg alone."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return jpeg(pixels, 95) if data[:2] == b"\xff\xd8" else png(pixels)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_only_images_of_other_sizes_are_encoded(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    said = facepack_("img2lmdb", tree, out, "--resize", SIDE).stderr
    assert "4 of 6 images were encoded anew (JPEG of quality 95, 4:4:4" in said
    with facepack.open(out) as pack:
        found = {str(pack.source_name(k)): pack[k].image for k in range(len(pack))}
        assert pack.image_size == (SIDE, SIDE)
        assert pack.manifest["images"]["encoded"] == 4
    assert found == {
        **{name: FILES[name] for name in KEPT},
        **{name: twin(FILES[name]) for name in ENCODED},
    }
    (line,) = (out / fmt.QUARANTINE).read_text().splitlines()
    assert "48×64" in line and "stretched" in line and "b/4.jpg" in line
    plan = json.loads((out / fmt.PLAN).read_text())
    assert plan["check"]["resize"] == [SIDE, SIDE]
    facepack_("verify", out, "--deep")
    facepack_("verify", out, "--untrusted")
    assert "encoded anew         4 images" in facepack_("inspect", out).stdout
    before = files(out)
    for name in (fmt.MANIFEST, fmt.PLAN):
        (out / name).unlink()
    facepack_("reindex", out)
    assert files(out) == before


def test_without_it_nothing_is_said_of_it(tree: Path, tmp_path: Path) -> None:
    facepack_("img2lmdb", tree, tmp_path / "pack")
    for file in (fmt.MANIFEST, fmt.PLAN):
        text = (tmp_path / "pack" / file).read_text()
        assert "encoded" not in text and "resize" not in text


def test_workers_and_interrupted_runs_write_the_same(
    tree: Path, tmp_path: Path, killed: Callable[..., None]
) -> None:
    words = ["--resize", SIDE, "--shard-records", 2]
    facepack_("img2lmdb", tree, tmp_path / "one", *words)
    facepack_("img2lmdb", tree, tmp_path / "two", *words, "--workers", 2)
    again = ["img2lmdb", tree, tmp_path / "again", *words, "--resume"]
    killed(lambda: facepack_(*again), 5)
    result = run("img2lmdb", tree, tmp_path / "again", "--shard-records", 2, "--resume")
    assert result.exit_code == 1 and "check" in result.stderr
    assert "4 of 6 images were encoded anew" in facepack_(*again).stderr
    assert files(tmp_path / "two") == files(tmp_path / "again") == files(tmp_path / "one")
    assert "4 of 6 images were encoded anew" in facepack_(*again).stderr  # nothing left to do


def test_other_checks_come_first(tree: Path, tmp_path: Path) -> None:
    """``--size`` speaks of what the source has, ``--color refuse`` too."""
    facepack_("img2lmdb", tree, tmp_path / "pack", "--resize", SIDE, "--size", 64)
    with facepack.open(tmp_path / "pack") as pack:
        assert sorted(map(pack.source_name, range(len(pack)))) == ["a/1.jpg", "b/5.jpg"]
        assert pack.image_size == (SIDE, SIDE)
    facepack_("img2lmdb", tree, tmp_path / "grey", "--resize", SIDE, "--color", "refuse")
    with facepack.open(tmp_path / "grey") as pack:
        assert len(pack) == 5 and pack.manifest["images"]["channels"] == {"3": 5}


def test_sizes_that_are_not_square(tree: Path, tmp_path: Path) -> None:
    facepack_("img2lmdb", tree, tmp_path / "pack", "--resize", "24x32")
    with facepack.open(tmp_path / "pack") as pack:
        assert pack.source_name(0) == "b/4.jpg" and pack.image_size == (32, 24)
        assert pack.manifest["quarantined"] == 6
    for size, code in (("0", 2), ("1000000", 1)):
        result = run("img2lmdb", tree, tmp_path / "no", "--resize", size)
        assert result.exit_code == code and "resize" in result.stderr
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_the_order_of_colours_stays(tree: Path, tmp_path: Path, channels: str) -> None:
    words = ["img2lmdb", tree, "--resize", SIDE, "--channels", channels]
    facepack_(*words, tmp_path / "pack")
    with facepack.open(tmp_path / "pack") as pack:
        assert pack.channels == channels
        for k in range(len(pack)):
            name = str(pack.source_name(k))
            wanted = np.asarray(Image.open(io.BytesIO(FILES[name])).convert("RGB"))
            if name in ENCODED:
                assert pack[k].image == twin(FILES[name])
            else:
                stored = wanted if channels == "rgb" else wanted[..., ::-1]
                np.testing.assert_array_equal(pack.decode(k), stored)
    facepack_(*words, tmp_path / "right", "--color", "convert")
    with facepack.open(tmp_path / "right") as pack:
        assert pack.channels == "rgb" and pack.image_size == (SIDE, SIDE)
        for k in range(len(pack)):
            pixels = np.asarray(
                Image.open(io.BytesIO(FILES[str(pack.source_name(k))])).convert("RGB")
            )
            wanted = Image.fromarray(pixels if channels == "rgb" else pixels[..., ::-1].copy())
            resized = np.asarray(wanted.resize((SIDE, SIDE), Image.Resampling.BICUBIC), int)
            assert np.abs(pack.decode(k) - resized).mean() < 3


def test_verification_sets_are_resized_too(tmp_path: Path) -> None:
    images = [jpeg(picture(k, 64, 64)) for k in range(4)]
    images[3] = jpeg(picture(3, SIDE, SIDE))
    write_bin(tmp_path / "set.bin", iter(images), [True, False])
    wanted = [*map(twin, images[:3]), images[3]]
    said = facepack_("bin2bin", tmp_path / "set.bin", tmp_path / "new.bin", "--resize", SIDE)
    assert f"another size than {SIDE}×{SIDE}" in said.stderr
    assert list(map(bytes, read_bin(tmp_path / "new.bin").images)) == wanted
    facepack_("bin2lmdb", tmp_path / "set.bin", tmp_path / "pack", "--resize", SIDE)
    with facepack.open(tmp_path / "pack") as pack:
        assert sorted(record.image for record in pack) == sorted(wanted)
        assert pack.pairs is not None and len(pack.pairs) == 2
    write_bin(tmp_path / "odd.bin", iter([*images, jpeg(picture(9, 64, 40)), images[0]]), [1, 0, 1])
    result = run("bin2bin", tmp_path / "odd.bin", tmp_path / "no.bin", "--resize", SIDE)
    assert result.exit_code == 1 and "stretched" in result.stderr
    facepack_("bin2lmdb", tmp_path / "odd.bin", tmp_path / "fewer", "--resize", SIDE)
    with facepack.open(tmp_path / "fewer") as pack:
        assert pack.pairs is not None and len(pack.pairs) == 2


def test_appending_counts_and_knows_what_is_there(tree: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    shutil.copytree(tree, more)
    for name in ("a/0.jpg", "a/1.jpg", "b/4.jpg"):
        (more / name).unlink()
    facepack_("img2lmdb", tree, tmp_path / "pack", "--resize", SIDE)
    words = ["append", tmp_path / "pack", more, "--source", "img", "--resize", SIDE]
    assert "3 of 4 images were encoded anew" in facepack_(*words).stderr
    assert "already" in run(*words).stderr
    facepack_("verify", tmp_path / "pack")
    with facepack.open(tmp_path / "pack") as pack:
        assert pack.manifest["images"]["encoded"] == 7 and pack.image_size == (SIDE, SIDE)
        some = pack.select(np.arange(len(pack)) < 3)
        assert some.manifest["images"]["height"] == [SIDE, SIDE]


def test_a_zip_that_was_resized_is_not_deleted(tree: Path, tmp_path: Path) -> None:
    (tree / "b" / "4.jpg").unlink()
    shutil.make_archive(str(tmp_path / "0_0"), "zip", tree)
    facepack_("zip2lmdb", tmp_path / "0_0.zip", tmp_path / "pack", "--resize", SIDE)
    words = ["append", tmp_path / "pack", tmp_path / "0_0.zip", "--source", "zip", "--resume"]
    said = facepack_(*words, "--delete-source").stderr
    assert "--resize" in said and (tmp_path / "0_0.zip").exists()
    # Another build of the same images, and a sample of them is resized to be compared.
    shutil.copy(tmp_path / "0_0.zip", tmp_path / "0_1.zip")
    assert "already" in facepack_(*words[:2], tmp_path / "0_1.zip", *words[3:]).stderr


def test_what_is_no_count_is_damage(tree: Path, tmp_path: Path) -> None:
    facepack_("img2lmdb", tree, tmp_path / "pack", "--resize", SIDE)
    manifest = json.loads((tmp_path / "pack" / fmt.MANIFEST).read_text())
    manifest["images"]["encoded"] = "many"
    (tmp_path / "pack" / fmt.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamageError, match="encoded"):
        facepack.open(tmp_path / "pack")


def test_shards_are_no_larger_than_they_may_be(tmp_path: Path) -> None:
    """Small images that become large ones: bytes are counted before these are known."""
    for number in range(8):
        (tmp_path / "tree" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / "a" / f"{number}.jpg").write_bytes(jpeg(picture(number, 8, 8)))
    most = 1 << 20
    facepack_("img2lmdb", tmp_path / "tree", tmp_path / "p", "--resize", 400, "--shard-size", 1)
    with facepack.open(tmp_path / "p") as pack:
        assert len(pack.shard_names) == 4
        assert all(shard["payload_bytes"] <= most for shard in pack.manifest["shards"])


@pytest.mark.parametrize("resize", ["112", [112], [1.5, 2], {"a": 1}])
def test_a_plan_with_no_size_is_none(resize: object) -> None:
    plan = PackPlan.make(kind="train", source={"kind": "img"}, shards=[]).fields
    check_plan(plan)
    plan["check"]["resize"] = resize
    with pytest.raises(ValueError, match="resize"):
        check_plan(plan)


def test_a_plan_keeps_it() -> None:
    check = ImageCheck(resize=(32, 24), color="convert", channels="bgr")
    assert ImageCheck.from_json(json.loads(json.dumps(check.as_json()))) == check
    with pytest.raises(PackError, match="resize"):
        ImageCheck(resize=(0, 24))
