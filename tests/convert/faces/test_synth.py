"""``facepack synth``: the files, their layout, and that nothing but the options decides them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from facepack.convert.commands.synth import synth
from facepack.convert.faces.synth import (
    FOLDS,
    SynthOptions,
    generate,
    pair_pictures,
    pairs_same,
    train_pictures,
)
from facepack.convert.formats.pairs.pickles import read_bin
from facepack.convert.formats.rec.layout import read_layout
from facepack.convert.formats.rec.recordio import RecordReader, unpack_header
from facepack.errors import ConfigError, FacepackError

SMALL = SynthOptions(identities=30, images_per_identity=10, pairs=20, seed=9)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "small"
    result = generate(folder, SMALL, workers=1)
    return folder, result


def _records(folder):
    """Key -> header (with its image), in the order of the index."""
    lines = (folder / "train.idx").read_text().splitlines()
    pairs = [tuple(map(int, line.split("\t"))) for line in lines]
    with RecordReader(folder / "train.rec") as reader:
        return {key: unpack_header(reader.read_at(offset)) for key, offset in pairs}


def _files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_records_are_in_insightface_layout(small):
    folder, _ = small
    records = _records(folder)
    assert list(records) == list(range(1 + 300 + 30))
    assert records[0].labels == (301.0, 331.0)
    assert not records[0].image
    for number in range(300):
        header = records[1 + number]
        assert (header.flag, header.labels, header.id) == (0, (float(number // 10),), 1 + number)
    for identity in range(30):
        header = records[301 + identity]
        assert header.labels == (1.0 + 10 * identity, 11.0 + 10 * identity)
        assert not header.image
    assert (folder / "property").read_text() == "30,112,112\n"


def test_the_reader_finds_the_same_layout(small):
    layout = read_layout(small[0])
    assert len(layout) == 300
    assert (layout.classes, layout.image_size) == (30, (112, 112))
    assert layout.notices == ()


def test_images_decode_and_have_the_sizes_of_real_ones(small):
    folder, result = small
    images = [bytes(header.image) for header in _records(folder).values() if header.image]
    for image in images[::50]:
        assert simplejpeg.decode_jpeg(image).shape == (112, 112, 3)
        assert simplejpeg.decode_jpeg_header(image)[3] == "420"
    sizes = np.array([len(image) for image in images])
    assert 5_500 < sizes.mean() < 7_000
    assert ((sizes > 4_500) & (sizes < 9_000)).mean() > 0.9
    assert result.image_bytes_mean == pytest.approx(sizes.mean())
    assert result.rec_bytes == (folder / "train.rec").stat().st_size


def test_the_pair_set_is_read_and_has_ten_folds_half_of_each_the_same(small):
    pairs = read_bin(small[0] / "lfw.bin")
    assert len(pairs.images) == 40
    assert all(simplejpeg.decode_jpeg(bytes(i)).shape == (112, 112, 3) for i in pairs.images)
    same = np.array(pairs.issame)
    np.testing.assert_array_equal(same, pairs_same(SMALL))
    np.testing.assert_array_equal(same.reshape(FOLDS, -1), [[True, False]] * FOLDS)


def test_files_do_not_depend_on_the_number_of_workers(small, tmp_path):
    folder, result = small
    again = generate(tmp_path / "small", SMALL, workers=2)
    assert _files(tmp_path / "small") == _files(folder)
    assert again.mislabelled == result.mislabelled == 0


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(small, tmp_path):
    generate(tmp_path, SynthOptions(identities=2, images_per_identity=10, seed=9), workers=1)
    few, many = _records(tmp_path), _records(small[0])
    for key in range(1, 21):
        assert few[key].image == many[key].image
    assert not (tmp_path / "lfw.bin").exists()


def test_another_seed_gives_other_images(small, tmp_path):
    options = SynthOptions(identities=2, images_per_identity=2, seed=10)
    generate(tmp_path, options, workers=1)
    assert _records(tmp_path)[1].image != _records(small[0])[1].image


def test_held_out_identities_are_in_no_training_set():
    options = SynthOptions(identities=(1 << 24) - 1, images_per_identity=1, pairs=6000)
    identities, pictures = pair_pictures(options, np.arange(12_000))
    assert identities.min() >= 1 << 24
    first, second = identities[0::2], identities[1::2]
    np.testing.assert_array_equal(first == second, pairs_same(options))
    # Each image is there once, and no identity is in two folds.
    assert len(set(zip(identities.tolist(), pictures.tolist(), strict=True))) == 12_000
    folds = [set(fold.tolist()) for fold in identities.reshape(FOLDS, -1)]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 9_000


def test_label_noise_shows_another_identity_in_a_picture_of_its_own():
    options = SynthOptions(identities=50, images_per_identity=200, label_noise=0.2)
    numbers = np.arange(options.images)
    labels, shown, pictures = train_pictures(options, numbers)
    np.testing.assert_array_equal(labels, numbers // 200)
    wrong = labels != shown
    assert 0.18 < wrong.mean() < 0.22
    assert set(shown.tolist()) == set(range(50))
    assert (pictures[~wrong] == numbers[~wrong] % 200).all()
    assert len(set(zip(shown.tolist(), pictures.tolist(), strict=True))) == options.images
    clean = SynthOptions(identities=50, images_per_identity=200)
    np.testing.assert_array_equal(train_pictures(clean, numbers)[1], labels)
    # Any stretch of numbers says the same as the whole.
    for part, whole in zip(
        train_pictures(options, numbers[37:91]), (labels, shown, pictures), strict=True
    ):
        np.testing.assert_array_equal(part, whole[37:91])


def test_wrong_labels_are_listed(tmp_path):
    options = SynthOptions(identities=6, images_per_identity=20, label_noise=0.3, size=32)
    result = generate(tmp_path, options, workers=1)
    head, *lines = (tmp_path / "label_noise.tsv").read_text().splitlines()
    assert head == "key\tlabel\tidentity"
    assert len(lines) == result.mislabelled > 10
    records = _records(tmp_path)
    for line in lines:
        key, label, identity = map(int, line.split("\t"))
        assert records[key].labels == (float(label),)
        assert label != identity


def test_an_existing_set_is_kept_unless_told_otherwise(tmp_path):
    options = SynthOptions(identities=2, images_per_identity=2, size=32, label_noise=0.5)
    generate(tmp_path, options, workers=1)
    before = _files(tmp_path)
    with pytest.raises(FacepackError, match=r"train\.idx exists; choose another folder, or .*--ov"):
        generate(tmp_path, options, workers=1)
    assert _files(tmp_path) == before
    clean = SynthOptions(identities=3, images_per_identity=2, size=32)
    generate(tmp_path, clean, workers=1, overwrite=True)
    assert sorted(_files(tmp_path)) == ["property", "train.idx", "train.rec"]
    assert len(_records(tmp_path)) == 1 + 6 + 3


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FacepackError, match="cannot write"):
        generate(tmp_path / "file" / "out", SynthOptions(identities=1), workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": 0}, "identities = 0 is not allowed: it must be from 1 to 16,777,215"),
        ({"identities": 1 << 24}, "identities = 16777216"),
        ({"images_per_identity": 0}, "images_per_identity = 0"),
        ({"size": 16}, "size = 16 is not allowed: it must be from 32 to 512"),
        ({"quality": 101}, "quality = 101 is not allowed: it must be from 1 to 100"),
        ({"label_noise": 1.5}, "label_noise = 1.5 is not allowed: it must be from 0 to 1"),
        ({"label_noise": 0.1, "identities": 1}, "label_noise needs another identity"),
        ({"seed": -1}, "seed = -1"),
        ({"pairs": 1010}, "pairs = 1010.*give a multiple of 20, such as 1020"),
        ({"pairs": -20}, "pairs = -20.*give a multiple of 20, such as 20"),
        ({"bin_name": "a/b"}, "bin_name = 'a/b': give a plain name"),
        ({"bin_name": ""}, "bin_name is empty"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        SynthOptions(**options)


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="workers = 0 is not allowed: it must be at least 1"):
        generate(tmp_path, SMALL, workers=0)


def test_the_command_prints_its_result(tmp_path):
    arguments = [str(tmp_path / "out"), "--identities", "4", "--images-per-identity", "3"]
    arguments += ["--pairs", "20", "--bin-name", "held_out", "--size", "32", "--workers", "1"]
    outcome = CliRunner().invoke(synth, [*arguments, "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0
    result = json.loads(outcome.stdout)
    assert (result["images"], result["identities"], result["pairs"]) == (12, 4, 20)
    assert sorted(_files(tmp_path / "out")) == [
        "held_out.bin",
        "property",
        "train.idx",
        "train.rec",
    ]
    outcome = CliRunner().invoke(synth, [*arguments, "--overwrite"], catch_exceptions=False)
    assert "12 images of 4 identities" in outcome.stdout
    assert "20 pairs" in outcome.stdout


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
def test_an_interrupted_run_leaves_no_file_and_exits_130(tmp_path):
    command = [sys.executable, "-c", "from facepack.cli import main; main()", "synth"]
    command += [str(tmp_path / "out"), "--identities", "100000", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    part = tmp_path / "out" / "train.rec.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not (tmp_path / "out").exists()


TAIL = SynthOptions(identities=400, images_per_identity="zipf:1.5:2-60", seed=9)


def test_a_long_tail_has_as_many_pictures_as_its_distribution_says(tmp_path):
    labels, _, pictures = train_pictures(TAIL, np.arange(TAIL.images))
    counts = np.bincount(labels, minlength=400)
    assert len(labels) == TAIL.images and counts.min() == 2 and 40 < counts.max() <= 60
    # Pictures of an identity are numbered from 0.
    assert (np.bincount(labels, pictures) == counts * (counts - 1) / 2).all()
    sizes = np.arange(2, 61)
    expected = sizes**-1.5 / (sizes**-1.5).sum()
    shares = np.array([(counts == size).mean() for size in (2, 3, 4)])
    np.testing.assert_allclose(shares, expected[:3], atol=0.08)
    more = SynthOptions(identities=900, images_per_identity="zipf:1.5:2-60", seed=9)
    np.testing.assert_array_equal(
        train_pictures(more, np.arange(TAIL.images)), train_pictures(TAIL, np.arange(TAIL.images))
    )
    few = SynthOptions(identities=5, images_per_identity="zipf:1:2-6", seed=9)
    generate(tmp_path, few, workers=1)
    layout = read_layout(tmp_path)
    assert len(layout) == few.images and layout.classes == 5


def test_people_outside_the_set_are_shown_once_and_listed(tmp_path):
    options = SynthOptions(
        identities=30, images_per_identity=10, seed=9, label_noise=0.1, outside_noise=0.2
    )
    labels, shown, pictures = train_pictures(options, np.arange(300))
    outside = shown >= 30
    assert 30 < outside.sum() < 90 and len(np.unique(shown[outside])) == outside.sum()
    assert shown[outside].min() > pair_pictures(SMALL, np.arange(40))[0].max()
    only = SynthOptions(identities=30, images_per_identity=10, seed=9, label_noise=0.1)
    inside = ~outside  # whose labels are wrong as they are without any outside noise
    clean = train_pictures(only, np.arange(300))
    for before, now in zip(clean, (labels, shown, pictures), strict=True):
        np.testing.assert_array_equal(before[inside], now[inside])
    result = generate(tmp_path, options, workers=1)
    assert (result.mislabelled, result.outside) == ((shown != labels)[inside].sum(), outside.sum())
    for name, which in (("label", inside & (shown != labels)), ("outside", outside)):
        lines = (tmp_path / f"{name}_noise.tsv").read_text().splitlines()[1:]
        rows = np.array([line.split("\t") for line in lines], np.int64)
        np.testing.assert_array_equal(rows[:, 0] - 1, np.flatnonzero(which))
        np.testing.assert_array_equal(rows[:, 1:], np.column_stack([labels, shown])[which])
    generate(tmp_path, SMALL, workers=1, overwrite=True)
    assert not list(tmp_path.glob("*_noise.tsv"))


@pytest.mark.parametrize(
    "text", ["zipf", "zipf:1.5:9-2", "zipf:1.5:0-2", "zipf:-1:1-2", "zipf:nan:1-2", "many", 0]
)
def test_a_distribution_that_is_none_is_told(text):
    with pytest.raises(ConfigError, match="images_per_identity"):
        SynthOptions(images_per_identity=text)


def test_noise_cannot_be_of_more_images_than_there_are():
    with pytest.raises(ConfigError, match="at most 1"):
        SynthOptions(label_noise=0.6, outside_noise=0.6)
