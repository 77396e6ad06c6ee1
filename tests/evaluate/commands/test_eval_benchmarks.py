"""``facepack eval`` of benchmarks that come as folders and lists, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from facepack.cli import root
from facepack.evaluate.scores.unit_rows import UnitRows

MakeJpeg = Callable[..., bytes]
PEOPLE, SHOTS = 4, 3


def facepack(*arguments: object) -> Result:
    return CliRunner().invoke(root, list(map(str, arguments)))


def write(folder: Path, names: list[str], make_jpeg: MakeJpeg) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_jpeg(k))


def write_embeddings(folder: Path, keys: list[str]) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    np.save(folder / "e.npy", rng.standard_normal((len(keys), 8)).astype(np.float16))
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    return folder / "e.npy", folder / "keys.txt"


def evaluate(protocol: str, target: object, given: tuple[Path, Path], *more: object) -> Result:
    rows, keys = given
    options = ["--embeddings", rows, "--keys", keys, *more]
    return facepack("eval", protocol, target, *options)


@pytest.fixture
def megaface(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    probes = [f"P{p}/P{p}_{k}.png" for p in range(PEOPLE) for k in range(SHOTS)]
    others = [f"{i}/{i}@N00/{i}_0.jpg" for i in range(20)]
    folder = tmp_path / "megaface"
    write(folder / "facescrub_images", probes, make_jpeg)
    write(folder / "megaface_images", others, make_jpeg)
    (folder / "facescrub_lst").write_text("\n".join(probes))
    (folder / "megaface_lst").write_text("\n".join(others))
    (folder / "megaface_noises.txt").write_text(others[0] + "\n")
    return folder


def test_megaface_from_its_folder_its_pack_and_the_kits_files(
    megaface: Path, tmp_path: Path
) -> None:
    assert facepack("megaface2lmdb", megaface, tmp_path / "pack").exit_code == 0
    names = sorted(str(p.relative_to(megaface)) for p in megaface.rglob("*.*g"))
    given = write_embeddings(tmp_path, names)
    shown = []
    for target in (megaface, tmp_path / "pack"):
        result = evaluate("megaface", target, given, "--sizes", "5", "--json")
        assert result.exit_code == 0, result.output
        (of,) = json.loads(result.stdout)
        assert of["protocol"] == "megaface" and of["counts"]["distractors"] == 19
        shown.append({name: figure["value"] for name, figure in of["figures"].items()})
    assert shown[0] == pytest.approx(shown[1])
    assert list(shown[0]) == [
        "rank-1",
        "rank-10",
        "TAR@1e-6",
        "TAR@1e-5",
        "TAR@1e-4",
        "rank-1 of 5",
    ]
    # A pack that has the protocol's tables is known by them.
    result = facepack(
        "eval",
        "pack",
        "--data",
        tmp_path,
        "--embeddings",
        given[0],
        "--keys",
        given[1],
        "--write-kit",
        tmp_path / "kit",
    )
    assert result.exit_code == 2 and "--write-kit" in result.stderr
    result = evaluate(
        "megaface", "pack", given, "--data", tmp_path, "--write-kit", tmp_path / "kit"
    )
    assert result.exit_code == 0 and result.stdout.startswith(
        "pack: megaface (12 probes, 4 persons"
    )
    again = facepack(
        "eval",
        "megaface",
        megaface,
        "--embeddings",
        tmp_path / "kit",
        "--json",
        "--keep-noisy",
        "--lists",
        tmp_path / "kit/templatelists",
    )
    assert again.exit_code == 0, again.output
    (of,) = json.loads(again.stdout)
    assert of["counts"]["distractors"] == 19
    assert of["figures"]["rank-1"]["value"] == pytest.approx(shown[0]["rank-1"])


def test_megaface_refuses_other_packs_and_sizes(
    megaface: Path, make_pack: Callable[..., Path], tmp_path: Path
) -> None:
    given = write_embeddings(tmp_path, ["x"])
    result = evaluate("megaface", make_pack(8), given)
    assert result.exit_code == 1 and "is a pack of kind 'train', not of MegaFace" in result.stderr
    result = evaluate("megaface", megaface, given, "--sizes", "9" * 5000)
    assert result.exit_code == 2 and "--sizes" in result.stderr
    result = evaluate("megaface", megaface, given, "--sizes", "10,many")
    assert result.exit_code == 2 and "--sizes '10,many'" in result.stderr
    result = evaluate("megaface", tmp_path / "nowhere", given)
    assert result.exit_code == 1 and "there is no pack or folder" in result.stderr
    result = evaluate("megaface", megaface, given)
    assert result.exit_code == 1 and "holds none for 32 of 32 images" in result.stderr


def test_tinyface(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    names = [f"Probe/{p}_1.jpg" for p in range(PEOPLE)]
    names += [f"Gallery_Match/{p}_2.jpg" for p in range(PEOPLE)]
    names += [f"Gallery_Distractor/{i}.jpg" for i in range(5)]
    write(tmp_path / "tinyface", names, make_jpeg)
    result = evaluate("tinyface", tmp_path / "tinyface", write_embeddings(tmp_path, sorted(names)))
    assert result.exit_code == 0, result.output
    title, header, _ = result.stdout.splitlines()
    assert title.endswith("tinyface (4 probes, 4 mates, 5 distractors, 4 identities)")
    assert header.split() == ["rank-1", "rank-5", "rank-20"]


def test_sllfw_and_ytf(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    names = [f"p{p}/{k}.jpg" for p in range(PEOPLE) for k in range(SHOTS)]
    write(tmp_path / "images", names, make_jpeg)
    pairs = [(names[i], names[(i + 1) % 12]) for i in range(12)]
    lines = [f"{a} {b} {int(a[:2] == b[:2])}" for a, b in pairs]
    (tmp_path / "images/pair_SLLFW.txt").write_text("\n".join(lines))
    given = write_embeddings(tmp_path, names)
    result = evaluate("sllfw", tmp_path / "images", given, "--json")
    assert result.exit_code == 0, result.output
    (of,) = json.loads(result.stdout)
    assert of["counts"] == {"pairs": 12} and of["figures"]["accuracy (F2C)"]["std"] is not None
    assert of["figures"]["std/√10 (F2C)"]["value"] is not None
    (tmp_path / "list.txt").write_text("".join(f"{name} {name[:2]}\n" for name in names))
    (tmp_path / "pairs.txt").write_text("p0 p1 0\np1 p2 0\np2 p9 0\n")
    result = evaluate(
        "ytf",
        tmp_path / "images",
        given,
        "--list",
        tmp_path / "list.txt",
        "--pairs",
        tmp_path / "pairs.txt",
        "--no-flip",
    )
    assert result.exit_code == 0, result.output
    assert "1 of 4 templates have no image, first p9" in result.stderr
    assert "all 2 pairs are different ones" in result.stderr
    result = evaluate("ytf", tmp_path / "images", given)
    assert result.exit_code == 1 and "ytf_list.txt: cannot be read" in result.stderr


def test_mfr_by_group(make_pack: Callable[..., Path], tmp_path: Path) -> None:
    import facepack as library

    pack = make_pack(40)
    keys = [library.open(pack).key(i) for i in range(40)]
    given = write_embeddings(tmp_path, keys)
    (tmp_path / "g.csv").write_text("who,sex\nann,f\ndora,f\n1,m\n2,m\n")
    result = evaluate("mfr", pack, given, "--group", tmp_path / "g.csv", "--far", "0.01")
    assert result.exit_code == 0, result.output
    rows = [line.split()[0] for line in result.stdout.splitlines()]
    assert rows[1:] == ["group", "all", "f", "m", "gap"]
    assert "mfr, multiracial (40 images, 4 identities, 180 mates, 600 impostors)" in result.stdout
    result = evaluate("mfr", pack, given, "--track", "mask")
    assert result.exit_code == 1 and "say with --group which images show a mask" in result.stderr
    result = evaluate("mfr", pack, given, "--far", "2")
    assert result.exit_code == 2 and "--far 2.0: a share between 0 and 1" in result.stderr
    result = evaluate("mfr", tmp_path / "nowhere", given)
    assert result.exit_code == 1 and "no pack or image tree" in result.stderr


def test_probe_gallery(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    names = [
        f"{part}/P{p}/{k}.jpg" for part in ("query", "gallery") for p in (0, 1) for k in (0, 1)
    ]
    names += [f"gallery/distractors/{k}.jpg" for k in range(5)]
    write(tmp_path / "set", names, make_jpeg)
    given = write_embeddings(tmp_path, names)
    result = evaluate("probe-gallery", tmp_path / "set", given, "--probe", "query", "--published")
    assert result.exit_code == 0, result.output
    title, header, _ = result.stdout.splitlines()
    assert title.endswith("probe-gallery (4 probes, 9 gallery, 4 mates, 28 impostors)")
    assert header.split()[:2] == ["TAR@1e-6", "TAR@1e-7"] and "TAR@1e-9 (F2C)" in header
    result = evaluate("probe-gallery", tmp_path / "set", given)
    assert result.exit_code == 1 and "no images in a folder 'probe'" in result.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "protocol", ["identities", "mfr", "tinyface", "probe-gallery", "megaface", "ijb"]
)
def test_scores_are_computed_on_the_device_that_is_asked_for(
    protocol: str,
    device: str,
    megaface: Path,
    tmp_path: Path,
    make_jpeg: MakeJpeg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch says that there is a GPU; what is meant for it is computed here."""
    probes, mates = (
        [f"{folder}/{p}_{k}.jpg" for p in range(3) for k in range(2)]
        for folder in ("Probe", "Gallery_Match")
    )
    names = {
        "megaface": sorted(str(p.relative_to(megaface)) for p in megaface.rglob("*.*g")),
        "tinyface": [*probes, *mates, "Gallery_Distractor/9.jpg"],
        "probe-gallery": [
            f"{of}/p{k % 3}/{k}{of}.jpg" for of in ("probe", "gallery") for k in range(6)
        ],
    }.get(protocol, [f"p{p}/{k}.jpg" for p in range(3) for k in range(3)])
    target = megaface if protocol == "megaface" else tmp_path / "set"
    if protocol == "ijb":
        names = write_ijb(target, make_jpeg)
    elif protocol != "megaface":
        write(target, names, make_jpeg)
    used = []
    from_embeddings = UnitRows.from_embeddings

    def spy(*given: Any, device: Any = "cpu", **named: Any) -> UnitRows:
        used.append(str(device))
        return from_embeddings(*given, device="cpu", **named)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(UnitRows, "from_embeddings", spy)
    given = write_embeddings(tmp_path, names)
    result = evaluate(protocol, target, given, "--device", device)
    assert result.exit_code == 0, result.output
    assert used and set(used) == {device}


def write_ijb(folder: Path, make_jpeg: MakeJpeg) -> list[str]:
    """Two people in a gallery and a third, with two templates each, of an image each."""
    names = [f"{i}.jpg" for i in range(6)]
    write(folder / "loose_crop", names, make_jpeg)
    (folder / "meta").mkdir()
    points = "38.3 51.7 73.5 51.5 56 71.7 41.5 92.4 70.7 92.2"

    def save(name: str, lines: Iterable[str]) -> None:
        (folder / "meta" / f"ijbc_{name}").write_text("".join(f"{line}\n" for line in lines))

    save("name_5pts_score.txt", (f"{name} {points} 0.9" for name in names))
    save("face_tid_mid.txt", (f"{name} {i} {i}" for i, name in enumerate(names)))
    save("1N_gallery_G1.csv", ["T,S,F", *(f"{i},{i // 2},{i}.jpg" for i in (0, 2))])
    save("1N_probe_mixed.csv", ["T,S,F", *(f"{i},{i // 2},{i}.jpg" for i in (1, 3, 5))])
    return names


@pytest.mark.parametrize(
    "protocol",
    [
        "pairs",
        "ijb",
        "megaface",
        "probe-gallery",
        "identities",
        "mfr",
        "tinyface",
        "sllfw",
        "ytf",
    ],
)
def test_a_name_that_is_not_found_is_told_with_the_places(protocol: str, tmp_path: Path) -> None:
    given = write_embeddings(tmp_path, ["a"])
    result = evaluate(protocol, "nonesuch", given, "--data", tmp_path)
    assert result.exit_code == 1
    assert "nonesuch" in result.stderr and str(tmp_path) in result.stderr
    assert "path" in result.stderr and "--shards" not in result.stderr
