"""Any source into image files: a verification set as numbered pairs, anything else as a tree."""

from __future__ import annotations

from pathlib import Path

from facepack.convert.formats.pairs.folder_sink import convert_to_pair_folder
from facepack.convert.formats.tree.tree_sink import TreeOptions, convert_to_tree
from facepack.convert.result import Result
from facepack.convert.source import Source


def convert_to_img(source: Source, out: Path, options: TreeOptions) -> Result:
    """Write ``source`` as image files in the layout that suits its content.

    Raises:
        SourceError: the source cannot be read, or a record is bad under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    write = convert_to_pair_folder if source.content == "pairs" else convert_to_tree
    return write(source, out, options)
