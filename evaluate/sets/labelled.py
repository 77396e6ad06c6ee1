"""Images with identities: packs, shard sets and trees, and the groups that a table puts them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.errors import EvaluationError, TrainingError
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.sets.groups import Groups, group_images, read_column
from facepack.store.pack import Pack
from facepack.train.data import ImageTree, find_training_data, open_training_data


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Images to embed, and who they show."""

    source: Pack | ImageTree  # the pack or tree
    faces: SourceFaces  # its images

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, -1 for images of nobody."""
        return self.source.labels

    def group(self, table: Path) -> Groups:
        """The images' groups, by the column that ``FILE[:COLUMN]`` says.

        Raises:
            EvaluationError: the table cannot be read, or names none of the images.
        """
        source = self.source
        return group_images(
            read_column(table),
            keys=source.key,
            labels=self.labels,
            identity_names=source.identity_names,
            source_names=source.source_names() if isinstance(source, Pack) else None,
        )


def find_labelled(target: str, data: Path | None) -> None:
    """Make sure that a pack or tree is there.

    Raises:
        EvaluationError: none is.
    """
    try:
        find_training_data(target, data)
    except TrainingError as error:
        raise EvaluationError(str(error)) from error


def open_labelled(target: str, data: Path | None) -> LabelledImages:
    """Open the pack, shard set or tree that ``target`` names.

    Raises:
        EvaluationError: none is there, or its images have no identities.
        PackError, SourceError: what is there cannot be used.
    """
    find_labelled(target, data)
    source = open_training_data(target, data)
    if not (source.labels >= 0).any():
        raise EvaluationError(
            f"{target}: its images have no identities: give a pack or tree of labelled images"
        )
    return LabelledImages(source=source, faces=SourceFaces(source, target))
