from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from PIL import Image

import facepack
from facepack.commands.sheet import sheet
from facepack.errors import ConfigError, PackError
from facepack.store.output import require_writable, write_output
from facepack.view.sample import SampleOptions, sample_rows
from facepack.view.sheet import _KEY_HEIGHT, _KEY_LINES, draw_sheet, thumbnail, write_sheet

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def flat_jpeg(color: tuple[int, int, int], size: int = 64) -> bytes:
    image = np.full((size, size, 3), color, np.uint8)
    return simplejpeg.encode_jpeg(image, quality=95)


def shows(picture: Image.Image, color: tuple[int, int, int], tolerance: int = 6) -> int:
    """How many pixels are of this color."""
    far = np.abs(np.asarray(picture).astype(int) - color).max(axis=2)
    return int((far <= tolerance).sum())


def test_a_sample_is_a_function_of_its_seed(make_pack: MakePack) -> None:
    with facepack.open(make_pack(60)) as pack:
        rows = sample_rows(pack, SampleOptions(identities=3, images=5, seed=7))
        assert rows == sample_rows(pack, SampleOptions(identities=3, images=5, seed=7))
        assert rows != sample_rows(pack, SampleOptions(identities=3, images=5, seed=8))
        assert len(rows) == 3
        for row in rows:
            assert len(row.positions) == 5 and row.same is None
            assert len({pack[position].label for position in row.positions}) == 1
        every = sample_rows(pack, SampleOptions(identities=99, images=99))
        assert [len(row.positions) for row in every] == [15] * 4
        assert every[0].title == "label 0 · ann · 15 images"


def test_chosen_labels(make_pack: MakePack) -> None:
    with facepack.open(make_pack(20)) as pack:
        rows = sample_rows(pack, SampleOptions(labels=(3, 1), images=2))
        assert [pack[row.positions[0]].label for row in rows] == [3, 1]
        with pytest.raises(ConfigError, match=r"label 4: no record .* 4 labels below 4"):
            sample_rows(pack, SampleOptions(labels=(4,)))
    for options in ({"images": 0}, {"identities": 10**6}, {"labels": ()}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            SampleOptions(**options)


def test_pairs_come_two_by_two(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    pairs = np.array([[2 * k, 2 * k + 1, k % 2] for k in range(10)])
    with facepack.PackWriter(tmp_path / "pairs", order="source") as writer:
        writer.add_table("pairs", pairs)
        for i in range(20):
            writer.add(make_jpeg(i), -1)
    with facepack.open(tmp_path / "pairs") as pack:
        rows = sample_rows(pack, SampleOptions(identities=3, images=4))
        assert [row.same for row in rows] == [True, False, True]
        for row in rows:
            assert len(row.positions) in (2, 4)
            for first, second in zip(row.positions[::2], row.positions[1::2], strict=True):
                assert second == first + 1 and (first // 2 % 2 == 1) == row.same
        picture = draw_sheet(pack, rows)
        assert shows(picture, (22, 128, 84), 0) > 400 and shows(picture, (196, 57, 43), 0) > 400


def test_images_without_identity_are_shown_too(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "none") as writer:
        for i in range(10):
            writer.add(make_jpeg(i), -1)
    with facepack.open(tmp_path / "none") as pack:
        rows = sample_rows(pack, SampleOptions(identities=2, images=4))
        assert [row.title for row in rows] == ["no identity"] * 2
        assert len({position for row in rows for position in row.positions}) == 8


def test_every_image_is_on_the_sheet(tmp_path: Path) -> None:
    colors = [(200, 30, 30), (30, 180, 40), (40, 60, 210)]
    with facepack.PackWriter(tmp_path / "flat") as writer:
        for label, color in enumerate(colors):
            writer.add(flat_jpeg(color), label, identity=f"name {label}")
    out = tmp_path / "sheet.png"
    with facepack.open(tmp_path / "flat") as pack:
        write_sheet(pack, out, options=SampleOptions(identities=3, images=1), size=80)
    with Image.open(out) as picture:
        for color in colors:
            assert shows(picture, color) == 80 * 80
    assert not list(tmp_path.glob(".sheet*"))


def test_a_broken_image_leaves_a_crossed_box(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    jpeg = bytearray(make_jpeg(1, 64))
    start = jpeg.index(b"\xff\xda") + 40
    jpeg[start : start + 200] = b"\xff\xd9" * 100  # its end marker stays, its middle does not
    with facepack.PackWriter(tmp_path / "broken") as writer:
        writer.add(bytes(jpeg), 0)
    with facepack.open(tmp_path / "broken") as pack:
        with pytest.raises(facepack.errors.DecodeError):
            pack.decode(0)
        picture = draw_sheet(pack, sample_rows(pack, SampleOptions()), size=100)
    assert shows(picture, (253, 240, 238), 0) > 3000 and shows(picture, (196, 57, 43), 0) > 300


@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000), (1, 1), (112, 112), (60, 20)])
def test_a_thumbnail_of_any_shape_has_pixels(shape: tuple[int, int]) -> None:
    image = thumbnail(np.zeros((*shape, 3), np.uint8), 48)
    assert max(image.size) == 48 and min(image.size) == max(1, 48 * min(shape) // max(shape))


def test_names_that_the_font_lacks_or_that_are_long(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    names = ["Jürgen Ünal", "李小龙", "line\nbreak\x1b[31m", "x" * 3000]
    with facepack.PackWriter(tmp_path / "names", stem="s" * 150) as writer:
        for label, name in enumerate(names):
            writer.add(make_jpeg(label), label, identity=name)
    with facepack.open(tmp_path / "names") as pack:
        small = draw_sheet(pack, sample_rows(pack, SampleOptions()), size=24)
    assert small.width == 460 and small.height > 4 * (24 + _KEY_LINES * _KEY_HEIGHT)


def test_an_empty_pack_has_a_sheet(tmp_path: Path) -> None:
    with facepack.PackWriter(tmp_path / "empty"):
        pass
    with facepack.open(tmp_path / "empty") as pack:
        assert draw_sheet(pack, sample_rows(pack, SampleOptions())).width == 460


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".gif", ".PNG"])
def test_any_suffix_that_pillow_writes(make_pack: MakePack, tmp_path: Path, suffix: str) -> None:
    if suffix == ".webp":
        from PIL import features

        if not features.check("webp"):
            pytest.skip("this Pillow writes no WebP")
    out = tmp_path / f"out{suffix}"
    done = CliRunner().invoke(sheet, [str(make_pack(8)), str(out), "--identities", "2"])
    assert done.exit_code == 0, done.exception
    with Image.open(out) as picture:
        assert picture.width >= 460


def test_what_cannot_be_drawn(make_pack: MakePack, tmp_path: Path) -> None:
    pack = str(make_pack(8))

    def fails(*words: str) -> Exception:
        done = CliRunner().invoke(sheet, [pack, *words])
        assert done.exit_code != 0 and isinstance(done.exception, Exception)
        return done.exception

    out = str(tmp_path / "o.png")
    for words, message in (
        ([str(tmp_path / "o.txt")], r"'\.txt' is no picture's: take one of \.png"),
        ([out, "--size", "5"], "size = 5 is not allowed: it must be from 24 to 1,024"),
        ([out, "--labels", "1,x"], "--labels '1,x': write numbers"),
        ([out, "--labels", "99"], "label 99"),
        ([out, "--images", "0"], "images = 0 is not allowed"),
    ):
        error = fails(*words)
        assert isinstance(error, ConfigError)
        with pytest.raises(ConfigError, match=message):
            raise error
    error = fails(str(Path(__file__) / "folder.png"))
    assert isinstance(error, PackError) and "cannot write" in str(error)
    assert not (tmp_path / "o.png").exists()


def test_a_sheet_beyond_memory_is_refused(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), -1)
    with facepack.open(tmp_path / "p") as pack:
        rows = sample_rows(pack, SampleOptions()) * 300
        with pytest.raises(ConfigError, match="too large"):
            draw_sheet(pack, rows, size=1024)


def test_folders_of_output_are_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "below" / "file"
    require_writable(target)
    assert not any(tmp_path.iterdir())
    write_output(target, b"new")
    assert target.read_bytes() == b"new"
    with pytest.raises(PackError, match="cannot write"):
        require_writable(target / "below" / "file")


def test_output_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_output(target, b"old")
    write_output(target, b"new")
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(PackError, match="cannot write"):
        write_output(target / "file", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PackError, match="cannot write"):
        write_output(tmp_path / "folder", b"")
