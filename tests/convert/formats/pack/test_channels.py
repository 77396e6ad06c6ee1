"""Sets stored with red and blue swapped: what a pack says of them, and what keeps saying it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner, Result
from PIL import Image

import facepack
from facepack.care.reindex import reindex
from facepack.cli import root
from facepack.errors import DamageError, NewerFormatError
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck

IDENTITIES = ("ann", "bob")
IMAGES = 12


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def picture(number: int) -> np.ndarray:
    """Redder than blue, so that a glance at the mean tells."""
    pixels = np.random.default_rng(number).integers(0, 100, (16, 16, 3)).astype(np.uint8)
    pixels[..., 0] += 140
    return pixels


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of JPEGs and PNGs, red and blue swapped in all of them."""
    for number in range(IMAGES):
        swapped = np.ascontiguousarray(picture(number)[..., ::-1])
        jpeg = simplejpeg.encode_jpeg(swapped, quality=90, colorsubsampling="444")
        file = tmp_path / "tree" / IDENTITIES[number % 2] / f"{number:02d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".png" if number % 3 else ".jpg").write_bytes(
            png(swapped) if number % 3 else jpeg
        )
    return tmp_path / "tree"


def run(*words: object) -> Result:
    return CliRunner().invoke(root, list(map(str, words)), catch_exceptions=False)


def facepack_(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def swapped(tree: Path, tmp_path: Path) -> Path:
    facepack_("img2lmdb", tree, tmp_path / "swapped", "--channels", "bgr", "--shard-records", 3)
    return tmp_path / "swapped"


def check(path: Path, channels: str = "bgr", records: int = IMAGES) -> None:
    """Whatever made the pack, it says its order everywhere, is sound, and decodes rightly."""
    manifest = json.loads((path / fmt.MANIFEST).read_text())
    plan = json.loads((path / fmt.PLAN).read_text())
    for stated in (manifest, plan):
        assert stated.get("channels", "rgb") == channels
        assert ("channels" in stated.get("requires", [])) == (channels == "bgr")
    assert facepack_("verify", path, "--deep")
    assert facepack_("verify", path, "--untrusted")
    with facepack.open(path) as pack:
        assert (pack.channels, len(pack)) == (channels, records)
        for position in range(len(pack)):
            name = pack.source_name(position)
            number = int(Path(name or str(position)).stem)
            difference = pack.decode(position).astype(int) - picture(number)
            assert np.abs(difference).mean() < (20 if number % 3 == 0 else 1e-9)


def encoded(path: Path) -> list[bytes]:
    """All images, whatever their order."""
    with facepack.open(path) as pack:
        return sorted(record.image for record in pack)


def test_the_bytes_stay_and_the_pack_says_it(tree: Path, swapped: Path, tmp_path: Path) -> None:
    check(swapped)
    facepack_("img2lmdb", tree, tmp_path / "plain")
    assert encoded(swapped) == encoded(tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / fmt.MANIFEST).read_text())
    assert "channels" not in plain and plain["requires"] == []
    assert "channels   " in facepack_("inspect", swapped).stdout
    assert json.loads(facepack_("inspect", swapped, "--json").stdout)["channels"] == "bgr"
    assert "channels bgr" in facepack_("get", swapped, "0", "-o", tmp_path / "x").stderr


def test_older_readers_refuse_it(swapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "_KNOWN_FEATURES", (fmt.SELECTION,))
    with pytest.raises(NewerFormatError, match="channels"):
        facepack.open(swapped)
    (swapped / fmt.MANIFEST).unlink()
    with pytest.raises(NewerFormatError):  # plan and shards say it as well
        reindex(swapped)
    (swapped / fmt.PLAN).unlink()
    with pytest.raises(NewerFormatError):
        reindex(swapped)


def test_shards_alone_tell_it(swapped: Path) -> None:
    before = {file.name: file.read_bytes() for file in swapped.iterdir()}
    for name in (fmt.MANIFEST, fmt.PLAN, fmt.LABELS):
        (swapped / name).unlink()
    facepack_("reindex", swapped)
    assert {file.name: file.read_bytes() for file in swapped.iterdir()} == before


def change(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(fields)


@pytest.mark.parametrize(
    "edit",
    [
        change(channels="grb"),
        change(channels=["bgr"]),
        change(channels="rgb"),
        change(requires=[]),
        lambda manifest: manifest.pop("channels"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damage(
    swapped: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    whole = (swapped / fmt.MANIFEST).read_bytes()
    manifest = json.loads(whole)
    edit(manifest)
    (swapped / fmt.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamageError, match="channels"):
        facepack.open(swapped)
    assert run("verify", swapped, "--untrusted").exit_code != 0
    facepack_("reindex", swapped)
    assert (swapped / fmt.MANIFEST).read_bytes() == whole


def test_a_manifest_that_another_order_was_written_into_is_found_out(
    swapped: Path, tree: Path, tmp_path: Path
) -> None:
    whole = (swapped / fmt.MANIFEST).read_bytes()
    manifest = json.loads(whole)
    del manifest["channels"]
    (swapped / fmt.MANIFEST).write_text(json.dumps(manifest | {"requires": []}))
    facepack.open(swapped).close()
    assert "'channels' differs" in run("verify", swapped).output
    facepack_("reindex", swapped)
    assert (swapped / fmt.MANIFEST).read_bytes() == whole
    facepack_("img2lmdb", tree, tmp_path / "plain")
    whole = (tmp_path / "plain" / fmt.MANIFEST).read_bytes()
    manifest = json.loads(whole) | {"channels": "bgr", "requires": ["channels"]}
    (tmp_path / "plain" / fmt.MANIFEST).write_text(json.dumps(manifest))
    assert "'requires' differs" in run("verify", tmp_path / "plain").output
    facepack_("reindex", tmp_path / "plain")
    assert (tmp_path / "plain" / fmt.MANIFEST).read_bytes() == whole


@pytest.mark.parametrize("from_pack", [False, True])
def test_encoding_anew_puts_it_right(
    tree: Path, swapped: Path, tmp_path: Path, from_pack: bool
) -> None:
    words = ["lmdb2lmdb", swapped] if from_pack else ["img2lmdb", tree, "--channels", "bgr"]
    out = tmp_path / "right"
    facepack_(*words, out, "--color", "convert")
    check(out, "rgb")
    with facepack.open(out) as pack, facepack.open(swapped) as source:
        theirs = {source.source_name(k): source[k].image for k in range(len(source))}
        for position in range(len(pack)):
            image = theirs[pack.source_name(position)]
            pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[..., ::-1]
            if image[:2] == b"\xff\xd8":
                twin = simplejpeg.encode_jpeg(
                    np.ascontiguousarray(pixels), quality=95, colorsubsampling="444"
                )
                assert pack[position].image == twin
            else:
                np.testing.assert_array_equal(pack.decode(position), pixels)


def test_what_is_made_of_the_pack_says_it(swapped: Path, tmp_path: Path) -> None:
    facepack_("lmdb2lmdb", swapped, tmp_path / "again")
    check(tmp_path / "again")
    facepack_("lmdb2lmdb", swapped, tmp_path / "some", "--sample", 5)
    check(tmp_path / "some", records=5)
    (tmp_path / "list").write_text("0\n3\n")
    facepack_("select", swapped, tmp_path / "chosen", "--exclude", tmp_path / "list")
    check(tmp_path / "chosen", records=IMAGES - 2)
    manifest = json.loads((tmp_path / "chosen" / fmt.MANIFEST).read_text())
    assert manifest["requires"] == ["channels", "selection"]
    facepack_("salvage", swapped, tmp_path / "rescued")
    with facepack.open(tmp_path / "rescued") as pack:
        assert pack.channels == "bgr"
    (swapped / fmt.MANIFEST).unlink()
    (swapped / fmt.PLAN).unlink()
    facepack_("salvage", swapped, tmp_path / "wreck")
    with facepack.open(tmp_path / "wreck") as pack:
        assert pack.channels == "bgr"


def test_the_user_has_the_last_word(swapped: Path, tree: Path, tmp_path: Path) -> None:
    facepack_("lmdb2lmdb", swapped, tmp_path / "plain", "--channels", "rgb")
    with facepack.open(tmp_path / "plain") as pack:
        assert pack.channels == "rgb"
        reds, _, blues = np.mean([pack.decode(k) for k in range(len(pack))], axis=(0, 1, 2))
        assert blues > reds + 50
    facepack_("lmdb2lmdb", tmp_path / "plain", tmp_path / "again", "--channels", "bgr")
    check(tmp_path / "again")


SINKS = {"img": "tree2", "rec": "rec", "kv": "kv", "wds": "wds"}


@pytest.mark.parametrize("sink", SINKS)
def test_formats_that_cannot_say_it_tell_of_it(swapped: Path, tmp_path: Path, sink: str) -> None:
    out = tmp_path / SINKS[sink]
    said = facepack_(f"lmdb2{sink}", swapped, out).stderr
    assert "red and blue" in said and "--channels bgr" in said
    back = {"wds": "tar"}.get(sink, sink)
    facepack_(f"{back}2lmdb", out, tmp_path / "back", "--channels", "bgr")
    with facepack.open(tmp_path / "back") as pack:
        assert pack.channels == "bgr" and len(pack) == IMAGES
    assert encoded(tmp_path / "back") == encoded(swapped)
    said = facepack_(f"lmdb2{sink}", swapped, tmp_path / "right", "--color", "convert").stderr
    assert "red and blue" not in said


def test_pairs_keep_it(tree: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.*"))
    pairs = zip(names[::2], names[1::2], strict=True)
    (tmp_path / "list.txt").write_text("".join(f"{a} {b} 1\n" for a, b in pairs))
    facepack_("img2lmdb", tree, tmp_path / "swapped", "--channels", "bgr")
    of_pack = ["pairs2lmdb", tmp_path / "list.txt", "--root", tmp_path / "swapped"]
    facepack_(*of_pack, tmp_path / "pairs")
    check(tmp_path / "pairs")
    of_tree = ["pairs2bin", tmp_path / "list.txt", "--root", tree, "--channels", "bgr"]
    assert "red and blue" in facepack_(*of_tree, tmp_path / "set.bin").stderr
    facepack_("bin2lmdb", tmp_path / "set.bin", tmp_path / "again", "--channels", "bgr")
    with facepack.open(tmp_path / "again") as pack:
        assert pack.channels == "bgr" and encoded(pack.path) == encoded(tmp_path / "pairs")


def test_a_pack_grows_by_its_own_order_alone(swapped: Path, tree: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    shutil.copytree(tree, more)
    for file in sorted(more.rglob("*.*"))[4:]:
        file.unlink()
    words = ["append", swapped, more, "--source", "img"]
    before = {file.name: file.read_bytes() for file in swapped.iterdir() if file.is_file()}
    result = run(*words)
    assert result.exit_code == 1 and "channels bgr" in result.stderr
    assert "--channels bgr" in result.stderr and "--color convert" in result.stderr
    result = run(*words, "--channels", "bgr", "--color", "convert")
    assert result.exit_code == 1
    after = {file.name: file.read_bytes() for file in swapped.iterdir() if file.name in before}
    assert after == before
    facepack_(*words, "--channels", "bgr")
    check(swapped, records=IMAGES + 4)
    facepack_("reindex", swapped)
    check(swapped, records=IMAGES + 4)

    facepack_("img2lmdb", tree, tmp_path / "right", "--channels", "bgr", "--color", "convert")
    words = ["append", tmp_path / "right", more, "--source", "img", "--channels", "bgr"]
    result = run(*words)
    assert result.exit_code == 1 and "encodes them anew as RGB" in result.stderr
    facepack_(*words, "--color", "convert")
    check(tmp_path / "right", "rgb", records=IMAGES + 4)


def test_packs_of_one_order_are_merged(swapped: Path, tree: Path, tmp_path: Path) -> None:
    facepack_("lmdb2lmdb", swapped, tmp_path / "a", "--sample", 4)
    facepack_("lmdb2lmdb", swapped, tmp_path / "b", "--sample", 4, "--seed", 1)
    facepack_("merge", tmp_path / "a", tmp_path / "b", tmp_path / "both")
    check(tmp_path / "both", records=8)
    (tmp_path / "both" / fmt.MANIFEST).unlink()
    facepack_("reindex", tmp_path / "both")
    check(tmp_path / "both", records=8)
    facepack_("img2lmdb", tree, tmp_path / "plain")
    for order in ((swapped, tmp_path / "plain"), (tmp_path / "plain", swapped)):
        result = run("merge", *order, tmp_path / "mixed")
        assert result.exit_code == 1 and f"lmdb2lmdb {swapped} OUT" in result.stderr
        assert not (tmp_path / "mixed").exists()


def test_a_run_is_resumed_under_the_same_order_alone(
    tree: Path, tmp_path: Path, killed: Callable[..., None]
) -> None:
    words = ["img2lmdb", tree, tmp_path / "out", "--shard-records", 3, "--resume"]
    killed(lambda: facepack_(*words, "--channels", "bgr"), 5)
    result = run(*words)
    assert result.exit_code == 1 and "channels" in result.stderr
    facepack_(*words, "--channels", "bgr")
    check(tmp_path / "out")


def test_pictures_show_the_right_colours(swapped: Path, tmp_path: Path) -> None:
    facepack_("sheet", swapped, tmp_path / "sheet.png", "--size", 48)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    colored = pixels[np.ptp(pixels, axis=-1) > 40]
    assert (colored[:, 0] > colored[:, 2]).mean() > 0.9


def test_a_writer_says_it_too(tmp_path: Path) -> None:
    order = ImageCheck(channels="bgr")
    with facepack.PackWriter(tmp_path / "pack", order="source", check=order) as writer:
        for number in range(IMAGES):
            writer.add(png(np.ascontiguousarray(picture(number)[..., ::-1])), 0, f"{number}.png")
    with facepack.open(tmp_path / "pack") as pack:
        np.testing.assert_array_equal(pack.decode(3), picture(3))
    assert facepack_("verify", tmp_path / "pack")
