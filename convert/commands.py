"""``facepack rec2lmdb``, ``rec2img``, ``bin2lmdb``, ``bin2img``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from facepack.convert.bin import BinSource
    from facepack.convert.result import Result
    from facepack.convert.to_pack import PackOptions

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)

_SOURCE = (
    click.argument("src", type=_PATH),
    click.argument("out", type=_PATH),
    click.option("--decode", is_flag=True, help="Decode every image, not only its header."),
)
_STRICT = (
    click.option("--strict", is_flag=True, help="Stop at the first record that cannot be used."),
)
_TARGET = (
    click.option("--resume", is_flag=True, help="Complete what an interrupted run left."),
    click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
_COMMON = (*_SOURCE, *_STRICT, *_TARGET)
_PACKING = (
    click.option(
        "--order",
        type=click.Choice(["shuffled", "source", "identity"]),
        default="shuffled",
        show_default=True,
        help="Order of records in a shard; shuffled fills pages best.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffled order."),
    click.option(
        "--shard-size",
        type=click.IntRange(1, 384),
        default=384,
        show_default=True,
        help="A shard's greatest payload in MiB.",
    ),
    click.option(
        "--shard-records",
        type=click.IntRange(1, 65_536),
        default=65_536,
        show_default=True,
        help="A shard's greatest number of records.",
    ),
)


def _with(options: tuple[Callable[[_F], _F], ...]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _pack_options(order: str, shard_size: int, **options: Any) -> PackOptions:
    from facepack.convert.to_pack import PackOptions

    return PackOptions(order=order, shard_bytes=shard_size << 20, **options)


def _report(result: Result, as_json: bool) -> None:
    _comment(result)
    click.echo(_json(vars(result)) if as_json else _summary(result))


def _comment(result: Result) -> None:
    for notice in result.notices:
        click.echo(f"note: {_printable(notice)}", err=True)
    if result.quarantined:
        listed = _printable(str(Path(result.out) / "quarantine.jsonl"))
        click.echo(
            f"{result.quarantined:,} of {result.found:,} records were set aside: see {listed}",
            err=True,
        )


def _summary(result: Result) -> str:
    what = (
        f"{result.pairs:,} pairs"
        if result.pairs is not None
        else f"{result.identities:,} identities of {result.classes:,} classes"
    )
    ratio = result.file_bytes / result.payload_bytes if result.payload_bytes else float("nan")
    return (
        f"{_printable(result.out)}: {result.packed:,} images, {what}, {result.file_bytes:,} bytes "
        f"({ratio:.4f} × payload), {result.seconds:.1f} s"
    )


def _json(value: object) -> str:
    return _printable(json.dumps(value, indent=1, ensure_ascii=False))


def _printable(text: str) -> str:
    """``text`` with what is no UTF-8 in file names escaped, just as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _convert_bins(
    src: Path, out: Path, as_json: bool, convert: Callable[[BinSource, Path], Result]
) -> None:
    """Convert a set, or each set of a folder; the JSON of a folder is one list."""
    from facepack.convert.bin import BinSource

    listed = as_json and src.is_dir()
    results = []
    for file, target in _bins(src, out):
        result = convert(BinSource(file), target)
        if listed:
            _comment(result)
            results.append(vars(result))
        else:
            _report(result, as_json)
    if listed:
        click.echo(_json(results))


def _bins(src: Path, out: Path) -> list[tuple[Path, Path]]:
    """Source and target of each set: one file, or every .bin of a folder by its own name."""
    if not src.is_dir():
        return [(src, out)]
    files = sorted(src.glob("*.bin"))
    if not files:
        from facepack.errors import SourceError

        raise SourceError(f"{src}: the folder holds no .bin; pass a .bin or a folder of them")
    return [(file, out / file.stem) for file in files]


@click.command()
@_with(_COMMON)
@_with(_PACKING)
def rec2lmdb(src: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Pack an MXNet .rec data set.

    SRC is a .rec file, or a folder that holds train.rec (and train.idx and property, if there).
    OUT becomes a pack: LMDB shards with a key-label index. Images are stored byte for byte.
    """
    from facepack.convert.rec import RecSource
    from facepack.convert.to_pack import convert_to_pack

    settings = _pack_options(**options)
    _report(convert_to_pack(RecSource(src), out, settings), as_json)


@click.command()
@_with(_COMMON)
def rec2img(src: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Unpack an MXNet .rec data set into an image tree.

    SRC is a .rec file, or a folder that holds train.rec. Writes OUT/<label>/<n>.jpg with the
    original bytes, and the key-label index OUT/index.kv.
    """
    from facepack.convert.rec import RecSource
    from facepack.convert.to_tree import TreeOptions, convert_to_tree

    settings = TreeOptions(**options)
    _report(convert_to_tree(RecSource(src), out, settings), as_json)


@click.command()
@_with(_COMMON)
@_with(_PACKING)
def bin2lmdb(src: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Pack a verification set (.bin).

    SRC is a .bin file such as lfw.bin, and OUT becomes its pack; or SRC is a folder, and each .bin
    in it becomes OUT/<name>. Each distinct image is stored once; pairs.npy tells the pairs.
    """
    from facepack.convert.to_pack import convert_to_pack

    settings = _pack_options(**options)
    _convert_bins(src, out, as_json, lambda source, to: convert_to_pack(source, to, settings))


@click.command()
@_with(_SOURCE)
@_with(_TARGET)
def bin2img(src: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Unpack a verification set (.bin) into images.

    SRC is a .bin file, and OUT gets imgs/0.jpg, imgs/1.jpg, … and pair_label.npy; or SRC is a
    folder, and each .bin in it becomes OUT/<name>. An image that cannot be used stops the run.
    """
    from facepack.convert.to_pair_folder import convert_to_pair_folder

    _convert_bins(
        src, out, as_json, lambda source, to: convert_to_pair_folder(source, to, **options)
    )
