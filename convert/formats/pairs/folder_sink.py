"""A verification set into a folder of files: ``imgs/0.jpg …`` and ``pair_label.npy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facepack.convert.file_target import has_size, remove_images, write_image
from facepack.convert.formats.pairs.pair_set import read_pair_set
from facepack.convert.left_out import Keeps, none
from facepack.convert.result import Result
from facepack.convert.sink import Sink
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.record import Buffer

IMAGES = "imgs"
LABELS = "pair_label.npy"


class PairFolderSink(Sink):
    """Write a verification set as ``out/imgs/0.jpg …`` and ``out/pair_label.npy``.

    Pair i is images 2i and 2i + 1, as the MHLR project reads them; the labels are written last. An
    image that cannot be used stops the run before anything is written. Resuming writes the files
    that are missing or have another size.
    """

    kind = "pair-folder"
    keeps = Keeps(names=none)

    def plan(self) -> dict[str, Any]:
        """What the target is a function of. The set is read here: a bad one leaves no folder."""
        plan = super().plan()
        self._pairs = pairs = read_pair_set(self.source, self.options.check)
        self._labels = fmt.npy_bytes(pairs.issame)
        self._files = [
            (self.out / IMAGES / f"{number}{pairs.suffixes[use]}", pairs.images[use])
            for number, use in enumerate(pairs.uses.tolist())
        ]
        return plan

    def is_whole(self, done: dict[str, Any]) -> bool:
        """Whether all files of the set are there, as far as sizes tell."""
        return not self._missing() and has_size(self.out / LABELS, len(self._labels))

    def _missing(self) -> list[tuple[Path, Buffer]]:
        return [(path, image) for path, image in self._files if not has_size(path, len(image))]

    def expected_bytes(self) -> int:
        """Bytes of the images."""
        return sum(len(image) for _, image in self._files)

    def left_bytes(self) -> int:
        """Bytes of those that are there."""
        return self.expected_bytes() - sum(len(image) for _, image in self._missing())

    def outcome(self) -> dict[str, Any]:
        """Images, of which a pair has two, and the labels."""
        count = len(self._files)
        payload = self.expected_bytes()
        return {"files": [LABELS], "image_files": count, "images": count, "payload": payload}

    def write(self) -> None:
        """Write the images that are missing or have another size."""
        missing = self._missing()
        (self.out / LABELS).unlink(missing_ok=True)  # without it, the set is not finished
        (self.out / IMAGES).mkdir(exist_ok=True)
        with Progress(len(self._files), unit="images", label=self.out.name) as progress:
            progress.skip(len(self._files) - len(missing))
            for path, image in missing:
                write_image(path, image)
                progress.update()

    def finish(self) -> dict[str, Any]:
        """Write the labels."""
        write_file(self.out / LABELS, [self._labels])
        return {"packed": len(self._files)}

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        (self.out / LABELS).unlink(missing_ok=True)
        if (self.out / IMAGES).is_dir() and not (self.out / IMAGES).is_symlink():
            remove_images(self.out / IMAGES)

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, of images that may be used several times."""
        size = sum(len(image) for _, image in self._files)
        figures = {"payload_bytes": size, "file_bytes": size + len(self._labels)}
        return Result.of(self.source, self.out, began, **self._pairs.counts(), **figures)


convert_to_pair_folder = PairFolderSink.convert
