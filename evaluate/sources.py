"""Targets that are images and nothing more: packs, shard sets, and folders of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import facepack
from facepack.convert.files import FileList, Root
from facepack.convert.image_tree import images_below
from facepack.convert.passed_over import PassedOver
from facepack.errors import EvaluationError, TrainingError
from facepack.evaluate.faces import SourceFaces
from facepack.store.home import is_pack
from facepack.train.data import ImageTree, find_training_data


class ImageFolder(ImageTree):
    """Every image below a folder, in the order of their paths, which are their keys.

    Which folders are identities is not asked: labels are −1.

    Args:
        path: the folder.

    Attributes:
        notices: what was passed over, for the user.

    Raises:
        SourceError: the folder cannot be read, or none of its images can.
        EvaluationError: there is no image in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        passed = PassedOver()
        files = FileList(path)
        for name, size in sorted(images_below(Root(path), passed)):
            files.append(name, size)
        if not len(files):
            raise EvaluationError(
                f"{path} holds no images (.jpg, .jpeg, .png), nor in folders below it"
            )
        self.notices = [f"{path}: {notice}" for notice in passed.notices()]
        self.identity_names = []
        self.labels = np.full(len(files), -1, np.int64)
        self.classes = self.identities = 0
        self._names = files.names
        self.content_id = files.digest()
        self.image_size = self._first_size()


def open_faces(target: str, data: Path | None) -> SourceFaces:
    """The images of the pack, shard set or folder that ``target`` names.

    Args:
        target: a name in the data home, a path, or ``PACK:SET``.
        data: the data home.

    Raises:
        EvaluationError: there is none.
        PackError, SourceError: what is there cannot be used.
    """
    try:
        folder, shard_set = find_training_data(target, data)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    if not is_pack(folder):
        return SourceFaces(ImageFolder(folder), target)
    pack = facepack.open(folder, shards=shard_set)
    return SourceFaces(pack, target, source_id=pack.pack_id)
