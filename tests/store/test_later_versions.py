"""What a later version of the format may add: passed over, kept, or refused in words.

Each table of docs/pack-format.md gets a key that nobody knows, as its reader promises to pass over;
and what a reader must understand is refused by all that open or rewrite packs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.care.merge import merge
from facepack.care.reindex import reindex
from facepack.care.salvage import salvage
from facepack.care.untrusted import verify_untrusted
from facepack.care.verify import verify
from facepack.cli import root
from facepack.errors import NewerFormatError
from facepack.store import format as fmt
from facepack.store.lmdb_read import leaf_numbers, read_page_size
from facepack.store.lmdb_write import lmdb_pages
from facepack.store.manifest import read_manifest
from facepack.store.pack_files import read_quarantine
from facepack.store.shard import ShardInfo, content_id
from tests.store.lmdb_twin import scan_leaf

MakePack = Callable[..., Path]
NEW = {"colour": "blue", "shape": {"round": [1, None]}}


def state_anew(path: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Let the manifest state the files as they are, and say what ``change`` makes it say."""
    manifest = json.loads((path / "pack.json").read_text())
    for files in [manifest["files"], *(shard["files"] for shard in manifest["shards"])]:
        for name, stated in files.items():
            data = (path / name).read_bytes()
            digest = fmt.file_digest()
            digest.update(data)
            stated |= {"bytes": len(data), "xxh3_128": digest.hexdigest()}
    shards = [ShardInfo.from_json(shard) for shard in manifest["shards"]]
    manifest["content_id"] = content_id(shards, manifest["files"])
    change(manifest)
    (path / "pack.json").write_text(fmt.json_text(manifest))


def rewrite_shard(shard: Path, change: Callable[[dict[bytes, Any]], object]) -> None:
    """The shard with other reserved records, whose bodies ``change`` is handed by key."""
    data = memoryview(shard.read_bytes())
    size = read_page_size(data)
    found = {k: bytes(v) for p in leaf_numbers(data, size) for k, v in scan_leaf(data, p, size)}
    bodies = {k: fmt.unpack_reserved(k, v) for k, v in found.items() if k.startswith(b"__")}
    change(bodies)
    found |= {k: fmt.pack_reserved(k, body) for k, body in bodies.items()}
    keys = sorted(found)
    shard.write_bytes(b"".join(lmdb_pages(keys, [found[key] for key in keys], page_size=size)))


def add_to(*where: str | int) -> Callable[[dict[str, Any]], object]:
    """Adds the unknown keys to the table at ``where`` in a manifest."""

    def change(manifest: Any) -> None:
        for key in where:
            manifest = manifest[key]
        manifest |= NEW

    return change


@pytest.fixture
def plain(make_pack: MakePack) -> Path:
    """A pack with names, a refused record, a set of shards and a list of duplicates."""
    path = make_pack(60)
    (path / "sets.json").write_text(fmt.json_text({"half": ["shard-000", "shard-001"]}))

    def refuse(bodies: dict[bytes, Any]) -> None:
        bodies[fmt.QUARANTINED] = [{"ordinal": 60, "file": "x", "reason": "bad", **NEW}]

    rewrite_shard(path / "shard-002.mdb", refuse)
    reindex(path)
    return path


IN_MANIFEST = {
    "the manifest": (),
    "its images": ("images",),
    "a shard's entry": ("shards", 1),
    "a shard's images": ("shards", 1, "images"),
    "a file of a shard": ("shards", 1, "files", "shard-001.mdb"),
    "a file beside the shards": ("files", "labels.txt"),
}


@pytest.mark.parametrize("where", IN_MANIFEST.values(), ids=IN_MANIFEST.keys())
def test_unknown_keys_of_the_manifest_are_passed_over(plain: Path, where: tuple) -> None:
    whole = [tuple(record) for record in facepack.open(plain)]
    identity = facepack.open(plain).content_id
    state_anew(plain, add_to(*where))
    assert verify(plain, deep=True).damage == []
    assert verify_untrusted(plain).damage == []
    with facepack.open(plain) as pack:
        assert [tuple(record) for record in pack] == whole
        assert pack.content_id == identity
    assert len(facepack.open(plain, shards="half")) == 50


@pytest.mark.parametrize("where", IN_MANIFEST.values(), ids=IN_MANIFEST.keys())
def test_what_is_wrong_in_known_keys_is_still_found(plain: Path, where: tuple) -> None:
    state_anew(plain, add_to(*where))
    state_anew(plain, lambda manifest: manifest["shards"][1].update(payload_bytes=1))
    (damage,) = verify(plain).damage
    assert "'shards' differs from what the shards say" in damage.reason
    state_anew(plain, lambda manifest: manifest["shards"][1]["images"]["formats"].update(png=1))
    assert "'shards' differs" in verify(plain).damage[0].reason


def plan_text(path: Path, **more: object) -> None:
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(fmt.json_text({**plan, **more}))


def test_unknown_keys_of_the_plan_are_passed_over_and_kept(plain: Path) -> None:
    def add(bodies: dict[bytes, Any]) -> None:
        bodies[fmt.META]["plan"] |= NEW

    for shard in sorted(plain.glob("*.mdb")):
        rewrite_shard(shard, add)
    plan_text(plain, **NEW)
    state_anew(plain)
    assert verify(plain).damage == [] and verify_untrusted(plain).damage == []
    before = (plain / "plan.json").read_bytes()
    (plain / "plan.json").unlink()
    reindex(plain)
    assert (plain / "plan.json").read_bytes() == before


IN_SHARDS: dict[str, Callable[[dict[bytes, Any]], object]] = {
    "__meta__": lambda bodies: bodies[fmt.META].update(NEW),
    "images in __meta__": lambda bodies: bodies[fmt.META]["images"].update(NEW),
    "__labels__": lambda bodies: bodies[fmt.LABEL_COLUMN].update(NEW),
    "__sums__": lambda bodies: bodies[fmt.CHECKSUMS].update(NEW),
    "__extra__": lambda bodies: bodies[fmt.EXTRA].update(NEW),
    "__identities__": lambda bodies: bodies[fmt.IDENTITIES].update(NEW),
    "a record": lambda bodies: bodies.update({b"__thumbnails__": [NEW]}),
}


@pytest.mark.parametrize("change", IN_SHARDS.values(), ids=IN_SHARDS.keys())
def test_unknown_keys_in_shards_are_passed_over_and_kept(
    plain: Path, tmp_path: Path, change: Callable[[dict[bytes, Any]], object]
) -> None:
    whole = [tuple(record) for record in facepack.open(plain)]
    names = facepack.open(plain).identity_names
    rewrite_shard(plain / "shard-001.mdb", change)
    state_anew(plain)
    data = (plain / "shard-001.mdb").read_bytes()
    assert verify(plain).damage == [] and verify_untrusted(plain).damage == []
    reindex(plain)
    assert verify(plain).damage == [] and (plain / "shard-001.mdb").read_bytes() == data
    with facepack.open(plain) as pack:
        assert [tuple(record) for record in pack] == whole
        assert pack.identity_names == names
        assert pack.source_name(30) is not None
    assert salvage(plain, tmp_path / "saved").lost == 0
    assert [tuple(record)[:2] for record in facepack.open(tmp_path / "saved")] == [
        record[:2] for record in whole
    ]


def kept(manifest: dict[str, Any], where: tuple) -> bool:
    table: Any = manifest
    for key in where:
        table = table[key]
    return all(table.get(key) == value for key, value in NEW.items())


KEPT = {name: where for name, where in IN_MANIFEST.items() if "images" not in where}


@pytest.mark.parametrize("where", KEPT.values(), ids=KEPT.keys())
def test_unknown_keys_stay_as_long_as_what_they_speak_of(
    plain: Path, make_pack: MakePack, tmp_path: Path, where: tuple
) -> None:
    state_anew(plain, add_to(*where))
    (plain / "shard-000.kv").unlink()
    assert kept(reindex(plain), where)
    assert kept(read_manifest(plain), where)
    other = make_pack(8, name="other", stem="other")
    of_shard = where[:1] == ("shards",)
    merged = merge([plain, other], tmp_path / "merged")
    assert verify(tmp_path / "merged").damage == []
    if of_shard or not where:
        assert kept(merged, where) is of_shard
    result = CliRunner().invoke(
        root, ["append", str(plain), str(_tree(tmp_path, other)), "--source", "img"]
    )
    assert result.exit_code == 0, result.output
    grown = read_manifest(plain)
    assert verify(plain).damage == [] and grown["records"] == 64
    if of_shard or not where:
        assert kept(grown, where) is of_shard


def _tree(tmp_path: Path, pack: Path) -> Path:
    """Four images of two people, as files."""
    for k, record in enumerate(facepack.open(pack)[:4]):
        folder = tmp_path / "tree" / f"p{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{k}.jpg").write_bytes(record.image)
    return tmp_path / "tree"


def test_unknown_keys_of_refused_records_stay(plain: Path, tmp_path: Path) -> None:
    def entries(path: Path) -> list[dict[str, Any]]:
        return [e for e in read_quarantine(path, read_manifest(path)) if e.get("file") == "x"]

    (entry,) = entries(plain)
    assert entry["shape"] == NEW["shape"]
    (plain / "quarantine.jsonl").unlink()
    reindex(plain)
    assert entries(plain) == [entry]
    with facepack.PackWriter(tmp_path / "other", stem="other") as writer:
        writer.add(facepack.open(plain)[0].image, 0)
    merge([plain, tmp_path / "other"], tmp_path / "merged")
    assert entries(tmp_path / "merged") == [entry]


def test_a_list_of_duplicates_may_say_more(plain: Path) -> None:
    group = {"keys": ["shard-000/0000000000"], "labels": [1], "scope": "within", **NEW}
    (plain / "duplicates.jsonl").write_text(json.dumps(group) + "\n")
    assert verify(plain).damage == [] and verify_untrusted(plain).damage == []
    for text in ("[1]\n", "{\n", '{"keys": 1, "labels": []}\n', "[" * 100_000):
        (plain / "duplicates.jsonl").write_text(text)
        (damage,) = verify_untrusted(plain).damage
        assert damage.shard == "duplicates.jsonl"


# What must be understood --------------------------------------------------------------------------


def requires(path: Path) -> None:
    state_anew(path, lambda manifest: manifest.update(requires=["tiles"]))


def newer(path: Path) -> None:
    state_anew(path, lambda manifest: manifest.update(format=2, shards="elsewhere"))


def of_another_shape(path: Path) -> None:
    state_anew(path, lambda manifest: manifest.update(requires=["tiles"], shards={}))


REFUSED = {"requires": requires, "format": newer, "another shape": of_another_shape}
COMMANDS = [
    "inspect PACK",
    "get PACK 0 --info",
    "sheet PACK OUT.png",
    "report PACK OUT.html",
    "verify PACK",
    "verify PACK --untrusted",
    "reindex PACK",
    "reindex PACK --partial",
    "salvage PACK OUT",
    "merge PACK OTHER OUT",
    "merge OTHER PACK OUT",
    "append PACK TREE --source img",
    "shards PACK",
    "shards PACK x --add y",
    "lmdb2lmdb PACK OUT",
    "lmdb2img PACK OUT",
    "bench load PACK",
    "train --shards PACK --out OUT --set backbone=tiny",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_what_must_be_understood_is_refused(
    make_pack: MakePack,
    tmp_path: Path,
    command: str,
    change: Callable[[Path], None],
) -> None:
    path, other = make_pack(10), make_pack(4, name="other", stem="other")
    change(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    words = {
        "PACK": str(path),
        "OTHER": str(other),
        "OUT": str(tmp_path / "out"),
        "OUT.png": str(tmp_path / "out.png"),
        "OUT.html": str(tmp_path / "out.html"),
        "TREE": str(_tree(tmp_path, other)),
    }
    result = CliRunner().invoke(root, [words.get(word, word) for word in command.split()])
    assert result.exit_code == 1, result.output
    assert "upgrade it" in result.output
    assert ("needs tiles" if change is not newer else "has format 2") in result.output
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("more", [{"requires": ["tiles"]}, {"format": 2}])
def test_plans_say_what_must_be_understood(
    make_pack: MakePack, tmp_path: Path, more: dict[str, object]
) -> None:
    """Shards repeat the plan, so that nothing is lost where the manifest is."""
    path = make_pack(60)
    plan_text(path, **more)
    state_anew(path)
    for look in (verify, reindex):
        with pytest.raises(NewerFormatError, match=r"plan\.json .*: upgrade it|plan.json needs"):
            look(path)
    (path / "plan.json").unlink()
    (path / "pack.json").unlink()
    for shard in sorted(path.glob("*.mdb")):
        rewrite_shard(shard, lambda bodies: bodies[fmt.META]["plan"].update(more))
    with pytest.raises(NewerFormatError, match="the shard's plan"):
        reindex(path)
    with pytest.raises(NewerFormatError, match="the shard's plan"):
        salvage(path, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_unfinished_appends_of_a_later_version_are_left_alone(
    make_pack: MakePack, tmp_path: Path
) -> None:
    path = make_pack(10)
    journal = {"format": 2, "shards": [{"name": "new-000"}]}
    (path / "append.json").write_text(json.dumps(journal))
    for option in ("--resume", "--discard"):
        words = ["append", str(path), str(_tree(tmp_path, path)), "--source", "img", option]
        result = CliRunner().invoke(root, words)
        assert result.exit_code == 1 and "append.json has format 2" in result.output
    with pytest.raises(NewerFormatError, match=r"append\.json has format 2"):
        reindex(path)
    assert (path / "append.json").exists()


def test_arrays_beside_the_shards_have_no_keys(tmp_path: Path, make_jpeg: Callable) -> None:
    """Tables, label maps and key-label indexes have a fixed form: other shapes are no tables."""
    with facepack.PackWriter(tmp_path / "pairs", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), -1)
    state_anew(tmp_path / "pairs", add_to("files", "pairs.npy"))
    assert verify(tmp_path / "pairs").damage == []
    assert facepack.open(tmp_path / "pairs").pairs is not None
    manifest = reindex(tmp_path / "pairs")
    assert kept(manifest, ("files", "pairs.npy"))
