"""The sources and the sinks, from which the commands ``facepack SOURCE2SINK`` are made.

Nothing is imported here but when it is called, so that ``facepack --help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from facepack.convert.command_line import SinkCommand, SourceCommand


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """A format that is read."""

    title: str  #: what it is, after an article
    src: str  #: what SRC is, as a sentence for the command's help
    location: str  #: module:class
    #: module:class of what is its own on the command line
    own: str = "facepack.convert.command_line:SourceCommand"
    many: bool = False  #: whether the class takes a list of paths, else one

    @cached_property
    def command(self) -> SourceCommand:
        """What is its own on the command line."""
        return cast("SourceCommand", _load(self.own)())

    def open(self, paths: list[Any], options: dict[str, Any]) -> Any:
        """The source at ``paths``.

        Raises:
            SourceError: it is an unfinished conversion, or cannot be read.
        """
        from facepack.convert.file_target import require_finished
        from facepack.errors import SourceError

        for path in paths:
            require_finished(Path(path))
        try:
            return _load(self.location)(paths if self.many else paths[0], **options)
        except SourceError as error:
            from facepack.convert.first_bytes import tell_other_format

            name = next((name for name, kind in SOURCES.items() if kind is self), "")
            if told := tell_other_format(list(map(Path, paths)), name):
                raise SourceError(f"{told} ({error})") from error
            raise


@dataclass(frozen=True, kw_only=True)
class SinkKind:
    """A format that is written."""

    title: str  #: what it is, with its article
    out: str  #: what OUT becomes, as a sentence for the command's help
    location: str  #: module:function
    options: str = "facepack.convert.options:ConvertOptions"  #: module:class of its options
    #: module:class of what is its own on the command line
    own: str = "facepack.convert.command_line:SinkCommand"
    parallel: bool = False  #: whether several processes can write it

    @cached_property
    def command(self) -> SinkCommand:
        """What is its own on the command line."""
        return cast("SinkCommand", _load(self.own)())

    def write(self, source: Any, out: Any, options: dict[str, Any]) -> Any:
        """Convert ``source`` into ``out``; returns the Result."""
        return _load(self.location)(source, out, _load(self.options)(**options))


def _load(location: str) -> Any:
    module, _, name = location.partition(":")
    return getattr(import_module(module), name)


SOURCES = {
    "rec": SourceKind(
        title="an MXNet .rec data set",
        src="SRC is a .rec file, or a folder that holds train.rec (and train.idx and property).",
        location="facepack.convert.formats.rec.source:RecSource",
        own="facepack.convert.formats.rec.command:RecCommand",
    ),
    "bin": SourceKind(
        title="a verification set (.bin)",
        src="SRC is a .bin file such as lfw.bin, or lfw.xz, or lfw.bin.gz; or a folder, and each "
        "of these in it becomes OUT/<name>.",
        location="facepack.convert.formats.pairs.source:BinSource",
        own="facepack.convert.formats.pairs.command:BinSourceCommand",
    ),
    "pairs": SourceKind(
        title="a list of pairs",
        src="SRC is a list of pairs of images: LFW's pairs.txt, 'a b 1' a line, CSV, or an image a "
        "line.",
        location="facepack.convert.formats.pair_list.source:ListSource",
        own="facepack.convert.formats.pair_list.command:ListCommand",
    ),
    "zip": SourceKind(
        title="zips (WebFace260M's, WebDataset samples)",
        src="SRC are zips, or folders of zips; members are identity/image.jpg, or KEY.jpg and "
        "KEY.cls.",
        location="facepack.convert.formats.zip.source:ZipSource",
        own="facepack.convert.formats.zip.command:ZipCommand",
        many=True,
    ),
    "img": SourceKind(
        title="an image tree",
        src="SRC is a folder identity/image.jpg; a flat one with --index; or a verification folder "
        "with imgs/ and pair_label.npy.",
        location="facepack.convert.formats.tree.source:ImgSource",
        own="facepack.convert.formats.tree.command:ImgCommand",
    ),
    "kv": SourceKind(
        title="LMDBs of trainers",
        src="SRC are LMDBs whose records hold image and label (msgpack, pickled, Datums), or LMDB "
        "KV LMDB KV … with kv files of keys and labels (F2C), or folders of either.",
        location="facepack.convert.formats.kv.source:KvSource",
        own="facepack.convert.formats.kv.command:KvCommand",
        many=True,
    ),
    "parquet": SourceKind(
        title="Parquet files or Arrow folders",
        src="SRC are .parquet files, folders of them, or folders that save_to_disk of the datasets "
        "library wrote.",
        location="facepack.convert.formats.parquet.source:ParquetSource",
        own="facepack.convert.formats.parquet.command:ParquetCommand",
        many=True,
    ),
    "tar": SourceKind(
        title="tars (Glint360K's pieces, WebDataset, trees)",
        src="SRC are tars or the pieces of one, gzipped or not; no file is unpacked.",
        location="facepack.convert.formats.tar.source:TarSource",
        own="facepack.convert.formats.tar.command:TarCommand",
        many=True,
    ),
    "tfrecord": SourceKind(
        title="TFRecord files",
        src="SRC are TFRecord files, or folders of them; records are Examples with an encoded "
        "image and a label.",
        location="facepack.convert.formats.tfrecord.source:TfRecordSource",
        own="facepack.convert.formats.tfrecord.command:TfRecordCommand",
        many=True,
    ),
    "lst": SourceKind(
        title="a list of images (im2rec, face2rec2, Paddle, CSV)",
        src="SRC are .lst files, label.txt of Paddle, 'path label' a line, or CSV.",
        location="facepack.convert.formats.tree.list_source:LstSource",
        own="facepack.convert.formats.tree.command:LstCommand",
        many=True,
    ),
    "ijb": SourceKind(
        title="IJB-B or IJB-C",
        src="SRC is a folder with loose_crop/ and meta/.",
        location="facepack.convert.formats.benchmarks.ijb:IjbSource",
    ),
    "megaface": SourceKind(
        title="MegaFace and FaceScrub",
        src="SRC is a folder with the lists and images of both.",
        location="facepack.convert.formats.benchmarks.megaface:MegaFaceSource",
        own="facepack.convert.formats.benchmarks.command:MegaFaceCommand",
    ),
    "lmdb": SourceKind(
        title="a pack",
        src="SRC is a pack, or PACK:SET for a shard set of it.",
        location="facepack.convert.formats.pack.source:PackSource",
        own="facepack.convert.formats.pack.command:PackSourceCommand",
    ),
}

SINKS = {
    "lmdb": SinkKind(
        title="a pack",
        out="OUT becomes a pack: LMDB shards with a key-label index. Images are stored byte for "
        "byte.",
        location="facepack.convert.formats.pack.sink:convert_to_pack",
        own="facepack.convert.formats.pack.command:PackSinkCommand",
        options="facepack.convert.formats.pack.sink:PackOptions",
        parallel=True,
    ),
    "img": SinkKind(
        title="an image tree",
        out="OUT gets the images as files and the key-label index OUT/index.kv; of a verification "
        "set imgs/0.jpg, imgs/1.jpg, … and pair_label.npy.",
        location="facepack.convert.formats.tree.tree_sink:convert_to_img",
        own="facepack.convert.formats.tree.command:TreeCommand",
        options="facepack.convert.formats.tree.tree_sink:TreeOptions",
        parallel=True,
    ),
    "rec": SinkKind(
        title="an MXNet .rec data set",
        out="OUT gets train.rec, train.idx and property, as MXNet and arcface_torch read them.",
        location="facepack.convert.formats.rec.sink:convert_to_rec",
    ),
    "kv": SinkKind(
        title="F2C's LMDB and kv files",
        out="OUT gets faces.lmdb and faces.kv, as F2C reads them.",
        location="facepack.convert.formats.kv.sink:convert_to_kv",
    ),
    "msgpack": SinkKind(
        title="an LMDB of images and labels in msgpack",
        out="OUT gets faces.lmdb, as face_analysis_pytorch and the trainers that descend from it "
        "read it.",
        location="facepack.convert.formats.kv.msgpack_sink:convert_to_msgpack",
    ),
    "wds": SinkKind(
        title="WebDataset tars",
        out="OUT gets tar shards of key.jpg and key.cls, and shardindex.json for wids.",
        location="facepack.convert.formats.tar.wds_sink:convert_to_wds",
        own="facepack.convert.formats.tar.command:WdsCommand",
        options="facepack.convert.formats.tar.wds_sink:WdsOptions",
        parallel=True,
    ),
    "parquet": SinkKind(
        title="Parquet files",
        out="OUT gets Parquet files of an image and a label a row (of a verification set, of two "
        "images and a label), as Hugging Face's datasets and Hub read them.",
        location="facepack.convert.formats.parquet.sink:convert_to_parquet",
        own="facepack.convert.formats.parquet.command:ParquetSinkCommand",
        options="facepack.convert.formats.parquet.sink:TableOptions",
        parallel=True,
    ),
    "bin": SinkKind(
        title="a verification set (.bin)",
        out="OUT becomes a .bin file; the source must be a verification set.",
        location="facepack.convert.formats.pairs.bin_sink:convert_to_bin",
        own="facepack.convert.formats.pairs.command:BinSinkCommand",
    ),
}

CONVERSIONS = {f"{source}2{sink}": (source, sink) for source in SOURCES for sink in SINKS}


def summary(name: str) -> str:
    """One line of help for the conversion ``name``."""
    source, sink = CONVERSIONS[name]
    return f"Convert {SOURCES[source].title} into {SINKS[sink].title}."
