"""Faces to embed: where they come from, in an order of their own, a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xxhash

from facepack.errors import DecodeError, EvaluationError
from facepack.evaluate.faces.decode import decode_batches, decode_face
from facepack.loading.source import ImageSource, pack_of
from facepack.store.pack import Pack

if TYPE_CHECKING:
    import torch

    Pixels = np.ndarray | torch.Tensor
    """uint8 RGB (n, H, W, 3), perhaps on a GPU; valid until the next but one is asked for."""


class Faces(Protocol):
    """Aligned faces by position; what makes them of files is each implementation's own."""

    @property
    def name(self) -> str:
        """What messages call them."""

    @property
    def content_id(self) -> str:
        """Tells these images, in this order, from any others, wherever they lie."""

    @property
    def source_id(self) -> str:
        """Of the pack or file whose records the keys number; empty of keys that are file names."""

    def __len__(self) -> int: ...

    def key(self, position: int, /) -> str:
        """What embeddings from elsewhere call the image at a position."""

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        device: str | torch.device,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Pixels]:
        """Yield the faces at [start, stop) in order, ``batch_size`` at a time; the rest comes last.

        Args:
            start: of the first image; a multiple of ``batch_size``.
            stop: behind the last; a multiple too, or the number of images.
            batch_size: images in a batch.
            image_size: (height, width) in pixels that the model takes.
            device: where the model is; the pixels may be there already, or in host memory.
            bad: takes the position of each image that does not decode, or not to that size, and
                why, by the time its batch is yielded, in which it is black. None raises.

        Raises:
            DecodeError: an image does not decode, or not to that size; names it.
        """


class SourceFaces:
    """The images of a pack or a tree, in its own order, by the loader that training uses."""

    def __init__(self, source: ImageSource, name: str) -> None:
        self.source = source
        self.name = name
        self.content_id = source.content_id
        self.source_id = pack_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def key(self, position: int) -> str:
        """The image's key in the source: ``shard/0000000012`` in a pack."""
        return self.source.key(position)

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        device: str | torch.device,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Pixels]:
        """As :meth:`Faces.batches`."""
        from facepack.loading.loader import Loader

        found = self.source.image_size
        some_may_fit = found is None and bad is not None  # those that do not are named
        if found != image_size and isinstance(self.source, Pack) and not some_may_fit:
            sizes = "several sizes" if found is None else f"{found[1]}×{found[0]} pixels"
            raise EvaluationError(
                f"{self.name} holds images of {sizes}, and the model takes aligned faces of "
                f"{image_size[1]}×{image_size[0]}: align the images to that size first"
            )
        with Loader(
            self.source,
            batch_size=batch_size,
            shuffle=False,
            mirror=False,
            drop_last=False,
            device=device,
            image_size=image_size,
            on_error="raise" if bad is None else "skip",
        ) as loader:
            loader.seek(0, start // batch_size)
            for number, batch in enumerate(islice(loader, -(-(stop - start) // batch_size))):
                pixels = batch.images.permute(0, 2, 3, 1)
                wanted = np.arange(start + number * batch_size, stop)[:batch_size]
                if bad is not None and len(pixels) < len(wanted):
                    there = np.isin(wanted, batch.positions)
                    for position in wanted[~there].tolist():
                        bad[position] = self._why_bad(position, image_size)
                    whole = pixels.new_zeros((len(wanted), *image_size, 3))
                    whole[np.flatnonzero(there)] = pixels
                    pixels = whole
                yield pixels

    def _why_bad(self, position: int, image_size: tuple[int, int]) -> str:
        """Why the loader left an image out: it tells only that it did."""
        with self.source.views([position]) as (image,):
            try:
                decode_face(image, image_size, f"{self.name}: {self.key(position)}")
            except DecodeError as error:
                return str(error)
        return f"{self.name}: {self.key(position)} does not decode"


class EncodedFaces:
    """Encoded images in memory, or arrays that were decoded before.

    Args:
        images: encoded; or decoded, uint8 RGB (n, H, W, 3).
        labels: what errors call each image; the keys, if None.
        source_id: of what the keys number; empty where they are file names.
        bad: position → why, of decoded images that are black because they could not be decoded.
        channels: the order of the colours in encoded images.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[bytes | memoryview] | np.ndarray,
        keys: Sequence[str],
        labels: Sequence[str] | None = None,
        *,
        source_id: str = "",
        bad: Mapping[int, str] = MappingProxyType({}),
        channels: str = "rgb",
    ) -> None:
        self.name = name
        self._channels = channels
        self._bad = bad
        self.source_id = source_id
        self.images = images
        self._keys = keys
        self._labels = keys if labels is None else labels

    def __len__(self) -> int:
        return len(self.images)

    def key(self, position: int) -> str:
        """The image's key."""
        return self._keys[position]

    @cached_property
    def content_id(self) -> str:
        """Of the images' bytes, as they are: encoded and decoded ones differ."""
        digest = xxhash.xxh3_128(b"" if self._channels == "rgb" else self._channels.encode())
        for image in self.images:
            digest.update(xxhash.xxh3_128_digest(image))
        return digest.hexdigest()

    def decoded(self, size: tuple[int, int], bad: dict[int, str] | None = None) -> EncodedFaces:
        """The same faces decoded, of ``size`` (H, W), for those that are embedded again and again.

        ``bad`` is as :meth:`batches` takes it; such an image stays bad.

        Raises:
            DecodeError: an image does not decode to ``size``; names it.
        """
        if isinstance(self.images, np.ndarray):
            return self
        pixels = np.empty((len(self), *size, 3), np.uint8)
        at = 0
        for batch in self.batches(
            0, len(self), batch_size=256, image_size=size, device="cpu", bad=bad
        ):
            pixels[at : at + len(batch)] = batch
            at += len(batch)
        return EncodedFaces(
            self.name,
            pixels,
            self._keys,
            self._labels,
            source_id=self.source_id,
            bad=bad or MappingProxyType({}),
        )

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        device: str | torch.device,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Pixels]:
        """As :meth:`Faces.batches`."""
        images = self.images
        if isinstance(images, np.ndarray):
            if images.shape[1:3] != image_size:
                raise EvaluationError(
                    f"{self.name}: its images were decoded at {images.shape[2]}×{images.shape[1]} "
                    f"pixels, but the model takes {image_size[1]}×{image_size[0]}: decode the set "
                    "at that size"
                )
            here = {at: why for at, why in self._bad.items() if start <= at < stop}
            if here and bad is None:
                raise DecodeError(next(iter(here.values())))
            if bad is not None:
                bad.update(here)
            for at in range(start, stop, batch_size):
                yield images[at : min(at + batch_size, stop)]
        else:
            yield from decode_batches(
                images[start:stop],
                keys=self._labels[start:stop],
                name=self.name,
                batch_size=batch_size,
                size=image_size,
                first=start,
                bad=bad,
                channels=self._channels,
            )
