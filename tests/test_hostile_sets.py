"""Evaluation sets, IJB and merged packs, mutated: words or the truth, never anything between."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.care.merge import merge
from facepack.care.reindex import reindex
from facepack.care.salvage import salvage
from facepack.care.untrusted import verify_untrusted
from facepack.care.verify import verify
from facepack.convert.formats.pack.append import append
from facepack.convert.formats.pack.sink import PackOptions
from facepack.convert.registry import SINKS, SOURCES
from facepack.errors import DecodeError, FacepackError
from facepack.evaluate.sets.pairs import load_pair_set
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck

RUNS = 80  # of each test
USES = (0, 1, 2, 3, 0, 4, 5, 6, 7, 8)
SAME = (True, False, True, True, False)

MakeJpeg = Callable[..., bytes]
Mutated = Callable[[bytes, random.Random], bytes]
Pairs = list[tuple[bytes, bytes, bool]]


@pytest.fixture
def faces(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(number, size=16) for number in range(9)]


def words_or(call: Callable[[], object]) -> object:
    """What ``call`` gives; None if it ends in words. All else goes on to the test."""
    try:
        return call()
    except FacepackError as error:
        assert str(error) and error.exit_code in (1, 2, 3)
        return None


def pairs_of(target: Path) -> Pairs:
    pairs = load_pair_set(target)
    return [
        (bytes(pairs.images[a]), bytes(pairs.images[b]), bool(same))
        for (a, b), same in zip(pairs.pairs.tolist(), pairs.issame.tolist(), strict=True)
    ]


def usable(image: bytes) -> bool:
    try:
        ImageCheck().look(image)
    except DecodeError:
        return False
    return True


def convert_as_evaluated(kind: str, path: Path, out: Path) -> bool:
    """Pack ``path`` if it can be opened; evaluation takes it then and only then, pair by pair."""
    source = words_or(lambda: SOURCES[kind].open([path], {}))
    pairs = words_or(lambda: pairs_of(path))
    assert (source is None) == (pairs is None)
    if source is None:
        return False
    result = words_or(lambda: SINKS["lmdb"].write(source, out, {"overwrite": True}))
    if result is not None:
        whole = [pair for pair in pairs if usable(pair[0]) and usable(pair[1])]
        assert pairs_of(out) == whole
        assert len(whole) == len(pairs) or any("pairs" in notice for notice in result.notices)
        assert not verify_untrusted(out).damage
    return True


def test_bins(tmp_path: Path, faces: list[bytes], mutated: Mutated) -> None:
    images = [faces[use] for use in USES]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    sets = [(images, list(SAME)), (arrays, np.array(SAME)), ([*map(bytearray, images)], SAME)]
    rng = random.Random(1)
    opened = 0
    for _ in range(RUNS):
        good = pickle.dumps(rng.choice(sets), protocol=rng.randrange(6))
        (tmp_path / "lfw.bin").write_bytes(mutated(good, rng))
        opened += convert_as_evaluated("bin", tmp_path / "lfw.bin", tmp_path / "out")
    assert 0 < opened < RUNS


def test_pair_folders(tmp_path: Path, faces: list[bytes], mutated: Mutated) -> None:
    rng = random.Random(2)
    opened = 0
    for number in range(RUNS):
        folder = tmp_path / str(number)
        (folder / "imgs").mkdir(parents=True)
        for place, use in enumerate(USES):
            (folder / f"imgs/{place}.jpg").write_bytes(faces[use])
        np.save(folder / "pair_label.npy", np.array(SAME, rng.choice((bool, np.int64, np.float32))))
        _harm_folder(folder, rng, mutated)
        opened += convert_as_evaluated("img", folder, tmp_path / "out")
    assert 0 < opened < RUNS


def _harm_folder(folder: Path, rng: random.Random, mutated: Mutated) -> None:
    labels, image = folder / "pair_label.npy", folder / f"imgs/{rng.randrange(10)}.jpg"
    match rng.randrange(6):
        case 0 | 1:
            labels.write_bytes(mutated(labels.read_bytes(), rng))
        case 2:
            image.write_bytes(mutated(image.read_bytes(), rng))
        case 3:
            np.save(labels, np.array(SAME[: rng.randrange(6)], bool))
        case 4:
            names = (image.stem + ".png", "0" + image.name, "17.jpg", "x.jpg", "²7.jpg")
            shutil.copy(image, image.with_name(rng.choice(names)))
        case _:
            image.unlink()
            if rng.random() < 0.5:
                image.symlink_to(rng.choice((image.name, "/etc/passwd", "../imgs", "0.jpg")))


def harmed(path: Path, rng: random.Random, mutated: Mutated) -> str:
    """Harm one file of the pack; its name."""
    file = rng.choice(sorted(path.iterdir()))
    good = file.read_bytes()
    if rng.random() < 0.2:
        file.unlink()
        if rng.random() < 0.5:
            file.symlink_to(rng.choice((file.name, "/etc/passwd", "nowhere")))
    elif file.suffix == ".json" and rng.random() < 0.7:
        file.write_bytes(_other_json(good, rng))
    else:
        file.write_bytes(mutated(good, rng))
    return file.name


def _other_json(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    holder, key = rng.choice(list(_places(value)))
    if rng.random() < 0.4:
        del holder[key]
    else:
        holder[key] = rng.choice((None, True, 0, -1, 5, 1.5, "", "../x", "labels-001.npy", [], {}))
    return fmt.json_text(value).encode()


def _places(value: object) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def test_packs_of_pairs(tmp_path: Path, faces: list[bytes], mutated: Mutated) -> None:
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([faces[use] for use in USES], SAME)))
    source = SOURCES["bin"].open([tmp_path / "lfw.bin"], {})
    SINKS["lmdb"].write(source, tmp_path / "good", {"shard_records": 5})
    truth = pairs_of(tmp_path / "good")
    rng = random.Random(3)
    fine = 0
    for _ in range(RUNS):
        path, out = tmp_path / "pack", tmp_path / "out"
        for folder in (path, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", path)
        name = harmed(path, rng, mutated)
        pairs = words_or(lambda path=path: pairs_of(path))
        assert pairs in (None, truth), name
        fine += pairs is not None
        words_or(lambda path=path: verify(path))
        words_or(lambda path=path: verify_untrusted(path))
        if salvaged := words_or(lambda path=path, out=out: salvage(path, out)):
            assert salvaged.salvaged + salvaged.lost == salvaged.found
            assert not verify(out).damage
            if facepack.open(out).pairs is not None and not salvaged.doubtful:
                assert set(pairs_of(out)) <= set(truth), name
        if words_or(lambda path=path: reindex(path)):
            assert pairs_of(path) == truth, name
    assert 0 < fine < RUNS


def people(path: Path) -> dict[bytes, str]:
    with facepack.open(path) as pack:
        names = pack.identity_names or []
        return {record.image: names[record.label] for record in pack}


def test_merged_packs(tmp_path: Path, make_jpeg: MakeJpeg, mutated: Mutated) -> None:
    made = {"a": ["ann", "bob"], "b": ["bob", "dé"], "c": ["ann", "eve"], "d": ["zoe"]}
    for name, identities in made.items():
        with facepack.PackWriter(tmp_path / name, shard_records=4, stem=name) as writer:
            for i in range(6):
                image = make_jpeg(1000 * ord(name) + i, size=16)
                writer.add(image, i % len(identities), identity=identities[i % len(identities)])
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab", by_name=True)
    merge([tmp_path / "ab", tmp_path / "c"], tmp_path / "good", by_name=True)
    truth, other = people(tmp_path / "good"), people(tmp_path / "d")
    rng = random.Random(4)
    fine = 0
    for number in range(RUNS):
        path, out = tmp_path / "pack", tmp_path / "out"
        for folder in (path, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", path)
        name = harmed(path, rng, mutated)
        sound = words_or(lambda path=path: verify(path).damage)
        words_or(lambda path=path: verify_untrusted(path))
        if sound == []:
            fine += 1
            assert people(path) == truth, name
        match number % 4:
            case 0 if words_or(lambda path=path: reindex(path)):
                assert people(path) == truth, name
            case 1 if salvaged := words_or(lambda path=path, out=out: salvage(path, out)):
                assert salvaged.salvaged + salvaged.lost == salvaged.found
                assert not verify(out).damage
                assert salvaged.doubtful or people(out).items() <= truth.items(), name
            case 2 if (
                words_or(
                    lambda path=path, out=out: merge([path, tmp_path / "d"], out, by_name=True)
                )
                and not verify(out).damage
            ):
                assert people(out) == truth | other, name
            case 3 if (
                words_or(
                    lambda path=path: append(
                        path, SOURCES["lmdb"].open([tmp_path / "d"], {}), PackOptions()
                    )
                )
                and not verify(path).damage
            ):
                assert people(path) == truth | other, name
    assert 0 < fine < RUNS


def test_ijb(tmp_path: Path, faces: list[bytes], mutated: Mutated) -> None:
    names = [f"{number}.jpg" for number in (3, 1, 10, 2, 4, 7, 5, 6)]
    points = {name: [k + c / 4 for c in range(11)] for k, name in enumerate(names)}
    media = {name: (100 + k // 2, 7000 + k) for k, name in enumerate(names)}
    lists = {
        "name_5pts_score.txt": "".join(
            f"{name} {' '.join(map(str, numbers))}\n" for name, numbers in points.items()
        ),
        "face_tid_mid.txt": "".join(f"{name} {t} {m}\n" for name, (t, m) in media.items()),
        "template_pair_label.txt": "100 101 1\n100 103 0\n",
        "1N_gallery_S1.csv": "T,S,F\n100,1,3.jpg\n101,2,10.jpg\n",
        "1N_probe_mixed.csv": "T,S,F\n102,1,img/44.jpg\n103,2,6.jpg\n",
    }
    root = tmp_path / "IJBB"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    for name, image in zip(names, faces, strict=False):
        (root / "loose_crop" / name).write_bytes(image)
    rng = random.Random(5)
    opened = 0
    for _ in range(RUNS):
        for name, content in lists.items():
            (root / f"meta/ijbb_{name}").write_text(content)
        harmed_list = root / f"meta/ijbb_{rng.choice(list(lists))}"
        harmed_list.write_bytes(mutated(harmed_list.read_bytes(), rng))
        source = words_or(lambda: SOURCES["ijb"].open([root], {}))
        if source is None:
            continue
        opened += 1
        out = tmp_path / "out"
        if words_or(
            lambda source=source, out=out: SINKS["lmdb"].write(source, out, {"overwrite": True})
        ):
            assert not verify_untrusted(out).damage
            _check_tables(out, root / "meta")
    assert 0 < opened < RUNS


def _check_tables(out: Path, meta: Path) -> None:
    """Compare the tables of images with the lists, read without any care."""
    rows = {}
    for name in ("name_5pts_score", "face_tid_mid"):
        lines = (meta / f"ijbb_{name}.txt").read_bytes().split(b"\n")
        fields = [line.split() for line in lines if line.strip()]
        rows[name] = {Path(first.decode()): rest for first, *rest in fields}
    with facepack.open(out) as pack:
        assert len(pack) == len(rows["face_tid_mid"])
        for i in range(len(pack)):
            name = Path(pack.source_name(i) or "")
            numbers = [np.float32(number) for number in rows["name_5pts_score"][name]]
            own = [*pack.table("landmarks")[i].ravel(), pack.table("scores")[i]]
            assert own == numbers
            ids = [pack.table("template_ids")[i], pack.table("media_ids")[i]]
            assert ids == [int(number) for number in rows["face_tid_mid"][name]]
