"""Targets that are images and nothing more: packs, shard sets, and folders of image files."""

from __future__ import annotations

import os
from pathlib import Path

import facepack
from facepack.convert.files import Root
from facepack.convert.image_tree import images_below
from facepack.convert.passed_over import PassedOver
from facepack.errors import EvaluationError, TrainingError
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.sets.named_images import FolderImages
from facepack.store.home import is_pack
from facepack.train.data import find_training_data


def open_faces(target: str, data: Path | None) -> tuple[SourceFaces, list[str]]:
    """The images of the pack, shard set or folder that ``target`` names, and notices.

    Of a folder they are all images below it, in the order of their paths, which are their keys;
    which folders are identities is not asked. ``target`` is a name in the data home, a path, or
    ``PACK:SET``.

    Raises:
        EvaluationError: there is none, or there is no image in it.
        PackError, SourceError: what is there cannot be used.
    """
    try:
        folder, shard_set = find_training_data(target, data)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    if is_pack(folder):
        return SourceFaces(facepack.open(folder, shards=shard_set), target), []
    root, passed = Root(folder), PassedOver()
    found = sorted(images_below(root, passed))
    if not found:
        raise EvaluationError(
            f"{folder} holds no images (.jpg, .jpeg, .png), nor do folders below it"
        )
    images = FolderImages(
        root, [os.fsdecode(name) for name, _ in found], [size for _, size in found]
    )
    return SourceFaces(images, target), [f"{folder}: {notice}" for notice in passed.notices()]
