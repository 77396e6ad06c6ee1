"""People who are compared with each other, as tables and as pictures side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facepack.cells import csv_text
from facepack.evaluate.embedding.embed_into import EmbedOptions, embed_into
from facepack.evaluate.embedding.embeddings import open_embeddings
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.noise.classifier import Classifier
from facepack.evaluate.noise.find import Noise
from facepack.evaluate.noise.people import (
    find_alike,
    find_elsewhere,
    find_mixed,
    identity_means,
)
from facepack.loading.source import ImageSource
from facepack.store.files import write_errors
from facepack.store.output import write_output
from facepack.store.pack import Pack
from facepack.train.data import ImageTree

_MOST = 200  # pairs of each kind that are listed
ALIKE, MIXED, AGAINST = "alike", "mixed", "against"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two who are compared: what they are called, and their images' positions."""

    name: str
    source: ImageSource
    positions: list[int]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A table of pairs of people, and what a page shows of them."""

    name: str  # of its files
    heading: str  # of its section
    order: str  # how the rows are sorted, in words
    rows: list[dict[str, Any]]  # of the table, all with the same columns
    sides: list[tuple[Side, Side]]  # the two of each row
    notices: Sequence[str] = ()  # of images without an embedding, for the user


def compare_neighbours(noise: Noise, device: torch.device) -> list[Compared]:
    """Identities that look like one person, and identities that look like two."""
    data, labels = noise.images.source, noise.images.labels
    means = identity_means(noise.rows, labels)
    images = dict(zip(means.labels.tolist(), means.images.tolist(), strict=True))
    alike = find_alike(means, _MOST, device=device)
    mixed = find_mixed(noise.rows, labels, _MOST)
    return [
        Compared(
            name=ALIKE,
            heading="Identities that look like one person",
            order="by the cosine of their mean embeddings, the likest first",
            rows=[
                {
                    **{"first": pair.first, "first_name": identity_name(data, pair.first)},
                    **{"second": pair.second, "second_name": identity_name(data, pair.second)},
                    **{"first_images": images[pair.first], "second_images": images[pair.second]},
                    "cosine": pair.cosine,
                }
                for pair in alike
            ],
            sides=[(_side(noise, pair.first), _side(noise, pair.second)) for pair in alike],
        ),
        Compared(
            name=MIXED,
            heading="Identities that look like two people",
            order="by how much liker images within a part are than across both, the clearest first",
            rows=[
                {
                    **{"label": each.label, "name": identity_name(data, each.label)},
                    **{"first_images": len(each.first), "second_images": len(each.second)},
                    **{"within": each.within, "between": each.between},
                    "second_keys": " ".join(map(data.key, each.second)),
                }
                for each in mixed
            ],
            sides=[
                (
                    Side(name=class_name(data, each.label), source=data, positions=each.first),
                    Side(name="the other part", source=data, positions=each.second),
                )
                for each in mixed
            ],
        ),
    ]


def compare_against(
    noise: Noise,
    out: Path,
    others: SourceFaces,
    classifier: Classifier,
    device: torch.device,
    options: EmbedOptions,
) -> Compared:
    """People of the set who are in another one: identities there, or images if it names none.

    The other set is embedded into ``out``.
    """
    embedded = embed_into(
        out,
        classifier.backbone.to(device),
        others,
        stated={"model": classifier.name, "model_xxh3_128": classifier.checksum},
        device=device,
        options=options,
    )
    rows, source = open_embeddings(out).rows, others.source
    names: Callable[[int], str] = others.key
    labels = np.arange(len(rows))
    if isinstance(source, Pack | ImageTree) and (source.labels >= 0).any():
        names, labels = partial(class_name, source), np.asarray(source.labels)
    there = identity_means(rows, labels)
    data = noise.images.source
    found = find_elsewhere(
        there.rows, identity_means(noise.rows, noise.images.labels), _MOST, device=device
    )
    who = [int(there.labels[each.other]) for each in found]
    return Compared(
        name=AGAINST,
        heading=f"People who are in {others.name.rpartition('/')[2]}, too",
        order="by the cosine of their mean embeddings, the likest first",
        rows=[
            {
                "there": names(other),
                **{"label": each.label, "name": identity_name(data, each.label)},
                "cosine": each.cosine,
            }
            for each, other in zip(found, who, strict=True)
        ],
        sides=[
            (
                Side(
                    name=names(other),
                    source=source,
                    positions=np.flatnonzero(labels == other)[:5].tolist(),
                ),
                _side(noise, each.label),
            )
            for each, other in zip(found, who, strict=True)
        ],
        notices=embedded.notices(),
    )


def _side(noise: Noise, label: int) -> Side:
    data = noise.images.source
    positions = np.flatnonzero(noise.images.labels == label)[:5].tolist()
    return Side(name=class_name(data, label), source=data, positions=positions)


def identity_name(data: Pack | ImageTree, label: int) -> str:
    """The name of an identity; empty where it has none."""
    names = data.identity_names
    return names[label] if names is not None and 0 <= label < len(names) else ""


def class_name(data: Pack | ImageTree, label: int) -> str:
    """What people call a class: its number, and its name where it has one."""
    return f"{label} {identity_name(data, label)}".rstrip()


def remove_compared(out: Path) -> None:
    """Remove the tables of an earlier run, which may be of another model or pack.

    Raises:
        PackError: one cannot be removed.
    """
    with write_errors(out):
        for name in (ALIKE, MIXED, AGAINST):
            for suffix in (".csv", ".json"):
                (out / f"{name}{suffix}").unlink(missing_ok=True)


def write_compared(out: Path, compared: Sequence[Compared], stated: dict[str, Any]) -> None:
    """Write each table as ``NAME.csv`` and ``NAME.json`` into the folder ``out``.

    Raises:
        PackError: a file cannot be written.
    """
    for each in compared:
        text = (
            csv_text([*each.rows[0]], [[*row.values()] for row in each.rows]) if each.rows else ""
        )
        write_output(out / f"{each.name}.csv", text.encode("utf-8", "backslashreplace"))
        whole = {**stated, "order": each.order, "pairs": each.rows}
        write_output(out / f"{each.name}.json", json.dumps(whole, indent=1).encode() + b"\n")
