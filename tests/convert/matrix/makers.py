"""Sources of every kind, written by the plainest means, each with the truth about it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest
from matrix.command import facepack
from matrix.truth import MAGIC, Face, Made, Shot, Truth
from matrix.zip_cipher import encrypted

from facepack.convert.formats.tree.align import align_face  # has its own twin in test_align

Maker = Callable[[Path, Sequence[Shot]], Made]

NUMBERS = {"Zoë": 5, "b c": 0, "a": 7, "B": 1}  # labels of formats without names, with gaps
SECRET = b"open sesame"
SECOND = ("--identity-level", "2")


def file_name(shots: Sequence[Shot], place: int) -> str:
    """A name for the image, in the folder of its identity; one has a dot more."""
    base = f"m.{place}" if place == 1 else f"{7 * place % 23:02d}"
    return f"{shots[place].person}/{base}.jpg"


def ranks(shots: Sequence[Shot]) -> dict[str, int]:
    """Labels of formats that name identities: by name, sorted by UTF-8 bytes."""
    people = sorted({shot.person for shot in shots}, key=str.encode)
    return {person: label for label, person in enumerate(people)}


def named_faces(shots: Sequence[Shot], *, top: str = "", stem: str = "") -> list[Face]:
    """Faces whose names tell their identity, in the order of the shots."""
    labels = ranks(shots)
    return [
        Face(
            shot=shot,
            label=labels[shot.person],
            name=(name := top + file_name(shots, k)),
            person=shot.person,
            known_as=name,
            stem=stem,
        )
        for k, shot in enumerate(shots)
    ]


def split_faces(shots: Sequence[Shot], *, stem: str) -> list[Face]:
    """Faces as :func:`named_faces` has them, in two parts of a data set that share people."""
    faces = named_faces(shots, stem=stem)
    names = [f"{'val' if k % 3 == 0 else 'train'}/{face.name}" for k, face in enumerate(faces)]
    pairs = zip(faces, names, strict=True)
    return [replace(face, name=name, known_as=name) for face, name in pairs]


def strangers(shots: Sequence[Shot]) -> list[Shot]:
    """The shots, the seventh of nobody that is known, where the format can say so."""
    return [replace(shot, person="") if k == 6 else shot for k, shot in enumerate(shots)]


def number_of(shot: Shot) -> int:
    """The label of formats without names."""
    return NUMBERS.get(shot.person, -1)


# MXNet's RecordIO --------------------------------------------------------------------------------


def recordio(payload: bytes) -> bytes:
    """One record: parts between which the reader puts the magic back, padded to fours."""
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == MAGIC]
    starts = [0, *(at + 4 for at in cuts)]
    pieces = [payload[a:b] for a, b in zip(starts, [*cuts, len(payload)], strict=True)]
    record = b""
    for k, piece in enumerate(pieces):
        flag = 0 if len(pieces) == 1 else 1 if k == 0 else 3 if k == len(pieces) - 1 else 2
        record += MAGIC + struct.pack("<I", flag << 29 | len(piece)) + piece
    return record + bytes(-len(record) % 4)


def ir_header(labels: Sequence[float], id: int, id2: int = 0, *, vector: bool) -> bytes:
    """IRHeader: flag, label, id, id2; then the vector, if there is one."""
    flag = len(labels) if vector else 0
    head = struct.pack("<IfQQ", flag, 0.0 if vector else labels[0], id, id2)
    return head + (struct.pack(f"<{flag}f", *labels) if vector else b"")


def rec_files(
    shots: Sequence[Shot],
    *,
    vector: bool = False,
    header: str = "first",
    unlisted: Sequence[int] = (),
) -> tuple[dict[str, bytes], list[Face]]:
    """``train.rec``, ``train.idx``, ``property``, and what is in them.

    Images have the keys 1 to n; the header record is ``first``, ``last`` or ``none``. Keys that are
    ``unlisted`` have no line in the index; their images are numbered on.
    """
    records: list[tuple[int, bytes]] = []
    faces = []
    for k, shot in enumerate(shots):
        vector_here = vector and k % 3 > 0
        labels = [number_of(shot), k / 4, 1.0] if vector_here else [number_of(shot)]
        head = ir_header(labels, k + 1, 100 * k, vector=vector_here)
        records.append((k + 1, head + shot.image))
        key = k + 1
        if key in unlisted:
            key = len(shots) + 1 + list(unlisted).index(key)
        numbers: dict[str, float] = {"flag": 3 if vector_here else 0, "id": k + 1, "id2": 100 * k}
        if vector_here:
            numbers |= {"label_1": k / 4, "label_2": 1.0}
        faces.append(
            Face(
                shot=shot,
                label=number_of(shot),
                known_as=str(key),
                stem="train",
                numbers=numbers | {"key": key},
            )
        )
    if header != "none":
        end = len(shots) + 1
        record = (0, ir_header([end, end], 0, vector=True))
        records.insert(0 if header == "first" else len(records), record)
    rec, idx = b"", b""
    for key, payload in records:
        if key not in unlisted:
            idx += b"%d\t%d\n" % (key, len(rec))
        rec += recordio(payload)
    classes = max(NUMBERS.values()) + 1
    prop = f"{classes},{shots[0].side},{shots[0].side}\n".encode()
    return {"train.rec": rec, "train.idx": idx, "property": prop}, faces


def make_rec(folder: Path, shots: Sequence[Shot], **options: Any) -> Made:
    """A folder in InsightFace's layout."""
    files, faces = rec_files(strangers(shots), **options)
    write(folder, files)
    return Made(paths=[folder], truth=Truth(faces=faces))


UNLISTED = (3, 7)


def listed_only(made: Made) -> Made:
    """Without the images whose keys are :data:`UNLISTED`, by the option for it."""
    faces = [face for k, face in enumerate(made.truth.faces, 1) if k not in UNLISTED]
    return replace(made, truth=Truth(faces=faces), options=("--only-indexed",))


def make_cleaned_rec(folder: Path, shots: Sequence[Shot]) -> Made:
    """A ``.rec`` whose index leaves out some images on purpose."""
    return listed_only(make_rec(folder, shots, unlisted=UNLISTED))


def make_bare_rec(folder: Path, shots: Sequence[Shot]) -> Made:
    """A ``.rec`` by itself: its records are numbered."""
    files, faces = rec_files(shots, header="none")
    write(folder, {"faces.rec": files["train.rec"]})
    faces = [
        replace(face, known_as=str(k), stem="faces", numbers=face.numbers | {"key": k})
        for k, face in enumerate(faces)
    ]
    return Made(paths=[folder / "faces.rec"], truth=Truth(faces=faces))


# Verification sets -------------------------------------------------------------------------------

USES = (0, 1, 2, 3, 0, 2, 4, 5, 6, 7, 3, 6, 7, 8, 8, 1)  # of distinct images, by place; 8 pairs
SAME = (True, False, False, True, True, False, False, True)


def pair_shots(shots: Sequence[Shot]) -> list[Shot]:
    """The image at each place of a verification set; where one is broken, it is used twice."""
    distinct = list({shot.image: shot for shot in shots}.values())
    return [distinct[use] for use in USES]


def pair_truth(shots: Sequence[Shot], stem: str) -> Truth:
    """Distinct images in the order of their first use, without identity, and the pairs."""
    places = pair_shots(shots)
    distinct = list({shot.image: shot for shot in places}.values())
    uses = [distinct.index(shot) for shot in places]
    pairs = list(zip(uses[::2], uses[1::2], map(int, SAME), strict=True))
    faces = [Face(shot=shot, stem=stem) for shot in distinct]
    return Truth(faces=faces, content="pairs", tables={"pairs": pairs})


def python2_pickle(images: Sequence[bytes], issame: Sequence[bool]) -> bytes:
    """What Python 2's cPickle writes of ``(bins, issame_list)`` by protocol 2."""
    bins = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in images)
    flags = b"".join(b"\x88" if same else b"\x89" for same in issame)
    return b"\x80\x02](" + bins + b"e](" + flags + b"e\x86q\x00."


def numpy_pickle(images: Sequence[bytes], issame: Sequence[bool]) -> bytes:
    """Images as arrays of bytes, flags as NumPy's."""
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    return pickle.dumps((arrays, np.array(issame)), protocol=4)


def bytes_pickle(images: Sequence[bytes], issame: Sequence[bool]) -> bytes:
    """As Python 3 writes it."""
    return pickle.dumps((list(images), list(issame)), protocol=4)


def make_bin(
    folder: Path, shots: Sequence[Shot], *, dump: Callable[..., bytes] = bytes_pickle
) -> Made:
    """A ``.bin``."""
    path = folder / "lfw.bin"
    write(folder, {path.name: dump([shot.image for shot in pair_shots(shots)], SAME)})
    return Made(paths=[path], truth=pair_truth(shots, "lfw"))


def make_pair_folder(folder: Path, shots: Sequence[Shot]) -> Made:
    """``imgs/0.jpg`` and so on, and ``pair_label.npy``."""
    files = {f"imgs/{k}.jpg": shot.image for k, shot in enumerate(pair_shots(shots))}
    write(folder / "lfw", files)
    np.save(folder / "lfw" / "pair_label.npy", np.array(SAME))
    return Made(paths=[folder / "lfw"], truth=pair_truth(shots, "lfw"))


def make_listed_pairs(
    folder: Path, shots: Sequence[Shot], *, root: str = "faces", aligned: bool = False
) -> Made:
    """A list of pairs, and its images in a folder or a zip; perhaps landmarks of them."""
    truth = pair_truth(shots, "pairs")
    names = [f"people/p{k % 3}/{k}.jpg" for k in range(len(truth.faces))]
    files = {name: face.shot.image for name, face in zip(names, truth.faces, strict=True)}
    if root == "faces":
        write(folder / root, files)
    else:
        zipped = [
            Face(shot=face.shot, name=name) for name, face in zip(names, truth.faces, strict=True)
        ]
        write(folder, {root: zip_bytes(zipped[::-1], zipfile.ZIP_STORED)})
    listed = [name.removeprefix("people/") for name in names]
    pairs = truth.tables["pairs"]
    lines = ["one,other,same", *(f"{listed[a]},{listed[b]},{same}" for a, b, same in pairs)]
    write(folder, {"pairs.csv": "\n".join(lines).encode()})
    options: tuple[str, ...] = ("--root", str(folder / root))
    faces = [
        replace(face, name=name, known_as=name)
        for face, name in zip(truth.faces, listed, strict=True)
    ]
    if aligned:
        points = np.array([4, 6, 12, 6, 8, 9, 5, 13, 11, 13.25]).reshape(5, 2)
        text = "".join(f"{name}\t{' '.join(map(str, points.ravel()))}\n" for name in listed)
        write(folder, {"landmarks.txt": text.encode()})
        options += ("--landmarks", str(folder / "landmarks.txt"))
        faces = [
            replace(
                face, shot=replace(face.shot, image=align_face(face.shot.image, points), side=112)
            )
            if face.shot.whole
            else face
            for face in faces
        ]
    return Made(paths=[folder / "pairs.csv"], truth=replace(truth, faces=faces), options=options)


# Zips --------------------------------------------------------------------------------------------


def zip_bytes(faces: Sequence[Face], method: int) -> bytes:
    """A zip of images under their names."""
    return zip_of_files([(str(face.name), face.shot.image) for face in faces], method)


def zip_of_files(members: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def make_zip(folder: Path, shots: Sequence[Shot], *, by_hand: bool | None = None) -> Made:
    """One zip, stored; encrypted if the password is typed by hand, or else in a file."""
    faces = named_faces(shots, top="WebFace260M/", stem="0_0")
    data = zip_bytes(faces, zipfile.ZIP_STORED)
    write(folder, {"0_0.zip": data if by_hand is None else encrypted(data, SECRET)})
    options: tuple[str, ...] = ()
    if by_hand:
        options = ("--password",)
    elif by_hand is False:
        write(folder, {"password": SECRET + b"\n"})
        options = ("--password-file", str(folder / "password"))
    typed = SECRET.decode() + "\n" if by_hand else None
    made = Made(paths=[folder / "0_0.zip"], truth=Truth(faces=faces), options=options, typed=typed)
    return made


def make_split_zip(folder: Path, shots: Sequence[Shot]) -> Made:
    """A zip whose second folders are the people."""
    faces = split_faces(shots, stem="0_0")
    write(folder, {"0_0.zip": zip_bytes(faces, zipfile.ZIP_STORED)})
    return Made(paths=[folder / "0_0.zip"], truth=Truth(faces=faces), options=SECOND)


def make_zips(folder: Path, shots: Sequence[Shot], *, views: bool = False) -> Made:
    """A folder of two zips, deflated, that share people."""
    faces = with_views(named_faces(shots)) if views else named_faces(shots)
    halves = {"0_0": faces[:4], "0_1": faces[4:]}
    for stem, half in halves.items():
        write(folder, {f"{stem}.zip": zip_bytes(half, zipfile.ZIP_DEFLATED)})
    faces = [replace(face, stem=stem) for stem, half in halves.items() for face in half]
    return Made(paths=[folder], truth=Truth(faces=faces))


# Folders -----------------------------------------------------------------------------------------


def with_views(faces: Sequence[Face]) -> list[Face]:
    """The same, each image in one of two folders below its identity's."""
    moved = []
    for k, face in enumerate(faces):
        folder, _, base = str(face.name).rpartition("/")
        name = f"{folder}/{('frontal', 'profile')[k % 2]}/{base}"
        moved.append(replace(face, name=name, known_as=name))
    return moved


def make_tree(folder: Path, shots: Sequence[Shot], *, views: bool = False) -> Made:
    """``identity/image.jpg``, or with folders below; images come in the order of their paths."""
    faces = named_faces(shots, stem="faces")
    faces = with_views(faces) if views else faces
    write(folder / "faces", {str(face.name): face.shot.image for face in faces})
    faces.sort(key=lambda face: str(face.name).encode())
    return Made(paths=[folder / "faces"], truth=Truth(faces=faces))


def make_split_tree(folder: Path, shots: Sequence[Shot]) -> Made:
    """A tree whose second folders are the people; images come person by person."""
    faces = split_faces(shots, stem="faces")
    write(folder / "faces", {str(face.name): face.shot.image for face in faces})
    faces.sort(key=lambda face: (face.label, str(face.name).encode()))
    return Made(paths=[folder / "faces"], truth=Truth(faces=faces), options=SECOND)


def flat_faces(folder: Path, shots: Sequence[Shot], *, stem: str) -> list[Face]:
    """Images in one folder, whose names tell nothing."""
    names = [f"{7 * k % 23:02d}.jpg" for k in range(len(shots))]
    write(folder, {name: shot.image for name, shot in zip(names, shots, strict=True)})
    return [
        Face(shot=shot, label=number_of(shot), name=name, known_as=name, stem=stem)
        for name, shot in zip(names, shots, strict=True)
    ]


def make_indexed(folder: Path, shots: Sequence[Shot]) -> Made:
    """A flat folder, and a list with lines ``path label``."""
    faces = flat_faces(folder / "flat", strangers(shots), stem="flat")
    lines = "".join(f"{face.name} {face.label}\n" for face in faces)
    write(folder, {"labels.kv": lines.encode()})
    options = ("--index", str(folder / "labels.kv"))
    return Made(paths=[folder / "flat"], truth=Truth(faces=faces), options=options)


def im2rec(faces: Sequence[Face]) -> tuple[bytes, list[Face]]:
    """Lines ``idx TAB label TAB label TAB path``, counted from 0."""
    lines = [f"{k}\t{face.label}\t{k / 4}\t{face.name}\n" for k, face in enumerate(faces)]
    told = [replace(f, numbers={"key": k, "label_1": k / 4}) for k, f in enumerate(faces)]
    return "".join(lines).encode(), told


def make_indexed_by_lst(folder: Path, shots: Sequence[Shot]) -> Made:
    """A flat folder, and a list of im2rec's."""
    lines, faces = im2rec(flat_faces(folder / "flat", shots, stem="flat"))
    write(folder, {"train.lst": lines})
    options = ("--index", str(folder / "train.lst"))
    return Made(paths=[folder / "flat"], truth=Truth(faces=faces), options=options)


def paddle(faces: Sequence[Face]) -> bytes:
    """Lines ``path TAB label``, with blanks that belong to nothing."""
    return "".join(f"{face.name} \t {face.label}\n" for face in faces).encode()


def make_indexed_by_paddle(folder: Path, shots: Sequence[Shot]) -> Made:
    """Paddle's folder: images, and ``label.txt`` beside them."""
    faces = flat_faces(folder / "flat", strangers(shots), stem="flat")
    write(folder / "flat", {"label.txt": paddle(faces)})
    options = ("--index", str(folder / "flat" / "label.txt"))
    return Made(paths=[folder / "flat"], truth=Truth(faces=faces), options=options)


def table(faces: Sequence[Face], header: str, delimiter: str) -> bytes:
    """A CSV of Windows, with paths, identities and a column more; cells are quoted if need be."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(header.split())
    for k, face in enumerate(faces):
        writer.writerow([face.person or face.label, k / 2, str(face.name).replace("/", "\\")])
    return buffer.getvalue().encode("utf-8-sig")


def make_indexed_by_csv(folder: Path, shots: Sequence[Shot]) -> Made:
    """A flat folder, and a CSV with columns whose names tell nothing."""
    faces = flat_faces(folder / "flat", strangers(shots), stem="flat")
    write(folder, {"faces.csv": table(faces, "who quality photo", ";")})
    options = ("--index", str(folder / "faces.csv"))
    options += ("--path-column", "photo", "--label-column", "who")
    return Made(paths=[folder / "flat"], truth=Truth(faces=faces), options=options)


# Lists -------------------------------------------------------------------------------------------


def make_csv(folder: Path, shots: Sequence[Shot]) -> Made:
    """A CSV whose labels are names, beside the images."""
    faces = named_faces(shots, stem="faces")
    write(folder, {str(face.name): face.shot.image for face in faces})
    write(folder, {"faces.csv": table(faces, "who quality photo", ",")})
    options = ("--path-column", "photo", "--label-column", "who")
    return Made(paths=[folder / "faces.csv"], truth=Truth(faces=faces), options=options)


def make_im2rec(folder: Path, shots: Sequence[Shot]) -> Made:
    """A list of im2rec's beside the images."""
    lines, faces = im2rec(flat_faces(folder, strangers(shots), stem="train"))
    write(folder, {"train.lst": lines})
    return Made(paths=[folder / "train.lst"], truth=Truth(faces=faces))


def make_paddle(folder: Path, shots: Sequence[Shot]) -> Made:
    """A list of Paddle's beside the images."""
    faces = flat_faces(folder, strangers(shots), stem="label")
    write(folder, {"label.txt": paddle(faces)})
    return Made(paths=[folder / "label.txt"], truth=Truth(faces=faces))


def make_face2rec2(folder: Path, shots: Sequence[Shot]) -> Made:
    """A list of face2rec2's elsewhere; one face has yet to be aligned, by its landmarks."""
    faces = flat_faces(folder / "images", shots, stem="train")
    box, points = (1, 2, 13.5, 14), (4, 12, 8, 5, 11, 6, 6, 9, 13, 13.25)
    lines = []
    for k, face in enumerate(faces):
        fields: list[Any] = [int(k != 1), face.name, face.label]
        numbers: dict[str, float] = {"aligned": int(k != 1)}
        if k % 2:
            fields += [*box, *points]
            numbers |= {f"box_{i}": x for i, x in enumerate(box, 1)}
            numbers |= {f"landmark_{i}": x for i, x in enumerate(points, 1)}
        lines.append("\t".join(map(str, fields)) + "\n")
        if k == 1:
            corners = np.array(points, float).reshape(2, 5).T
            image = align_face(face.shot.image, corners)
            face = replace(face, shot=replace(face.shot, image=bytes(image), side=112))
            numbers = {"aligned": 1}
        faces[k] = replace(face, numbers=numbers)
    write(folder / "lists", {"train.lst": "".join(lines).encode()})
    options = ("--root", str(folder / "images"), "--align")
    made = Made(paths=[folder / "lists/train.lst"], truth=Truth(faces=faces), options=options)
    return made


# LMDBs of trainers: with kv files (F2C), or with labels in the records ----------------------------


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes, of 128 to 16,383 of them."""
    return bytes([number << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data


def datum_in_4(image: bytes) -> bytes:
    """As F2C's reader wants it, a number of Caffe's beside it."""
    return bytes([1 << 3, 3]) + field(4, image) + bytes([7 << 3, 1])


def datum_in_1(image: bytes) -> bytes:
    """As F2C's tool writes it."""
    return field(1, image)


def write_kv(
    database: Path, kv: Path, faces: Sequence[Face], pack: Callable[[bytes], bytes]
) -> None:
    """A database with its kv file."""
    database.mkdir(parents=True)
    with lmdb.open(str(database), map_size=1 << 22) as env, env.begin(write=True) as txn:
        for face in faces:
            txn.put(str(face.name).encode(), pack(face.shot.image))
    kv.write_text("".join(f"{face.name} {face.label}\n" for face in faces))


def kv_faces(shots: Sequence[Shot], stem: str) -> list[Face]:
    """Faces that are called by keys."""
    keys = [f"{stem}_{number_of(shot)}_{k}" for k, shot in enumerate(shots)]
    return [
        Face(shot=shot, label=number_of(shot), name=key, known_as=key, stem=stem)
        for key, shot in zip(keys, shots, strict=True)
    ]


def make_kv(folder: Path, shots: Sequence[Shot]) -> Made:
    """A folder with ``faces.lmdb`` and ``faces.kv``."""
    faces = kv_faces(strangers(shots), "faces")
    write_kv(folder / "faces.lmdb", folder / "faces.kv", faces, datum_in_4)
    return Made(paths=[folder], truth=Truth(faces=faces))


def make_labelled(
    folder: Path, shots: Sequence[Shot], *, pack: Callable[[bytes, int], bytes], listed: Any = None
) -> Made:
    """A database whose records have labels of their own; perhaps it lists them, by ``listed``."""
    shots = strangers(shots)
    faces = [
        Face(shot=shot, label=number_of(shot), name=str(k), known_as=str(k), stem="ms1m")
        for k, shot in enumerate(shots)
    ]
    path = folder / "ms1m.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as env, env.begin(write=True) as txn:
        for face in faces:
            txn.put(str(face.name).encode(), pack(face.shot.image, face.label))
        if listed is not None:
            txn.put(b"__keys__", listed([str(face.name).encode() for face in faces]))
            txn.put(b"__len__", listed(len(faces)))
            txn.put(b"__classnum__", listed(max(NUMBERS.values()) + 1))
    return Made(paths=[path], truth=Truth(faces=faces))


def labelled_datum(image: bytes, label: int) -> bytes:
    """As Caffe writes an encoded image."""
    number = b"\xff" * 9 + b"\x01" if label < 0 else bytes([label])
    return field(4, image) + bytes([5 << 3]) + number + bytes([7 << 3, 1])


def pickled_array(image: bytes, label: int) -> bytes:
    """A pickle of NumPy's."""
    return pickle.dumps((np.frombuffer(image, np.uint8), np.int64(label)))


def make_kvs(folder: Path, shots: Sequence[Shot], *, offset: bool) -> Made:
    """Two databases, one of Datums and one of bare images, named one by one."""
    faces = kv_faces(shots, "one")[:5] + kv_faces(shots, "two")[5:]
    write_kv(folder / "one.lmdb", folder / "one.kv", faces[:5], datum_in_1)
    write_kv(folder / "two.lmdb", folder / "two.kv", faces[5:], bytes)
    paths = [folder / name for name in ("one.lmdb", "one.kv", "two.lmdb", "two.kv")]
    if offset:
        first = 1 + max(face.label for face in faces[:5])
        faces[5:] = [replace(face, label=face.label + first) for face in faces[5:]]
    options = ("--offset-labels",) if offset else ("--keep-labels",)
    return Made(paths=paths, truth=Truth(faces=faces), options=options)


# TFRecords ---------------------------------------------------------------------------------------


def masked_crc32c(data: bytes) -> bytes:
    """The checksum of TFRecords, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(data: bytes) -> bytes:
    """One record."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc32c(length) + data + masked_crc32c(data)


def varint(value: int) -> bytes:
    """As protobuf writes a number, a negative one in 64 bits."""
    value %= 1 << 64
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def submessage(number: int, data: bytes) -> bytes:
    """A field of protobuf with bytes in it."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, bytes | int | float], *, packed: bool = True) -> bytes:
    """A ``tf.train.Example`` of features with one value each."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            kind, values = 1, submessage(1, value)
        elif isinstance(value, float):
            kind, values = 2, submessage(1, struct.pack("<f", value))
        else:
            kind = 3
            values = submessage(1, varint(value)) if packed else b"\x08" + varint(value)
        feature = submessage(kind, values)
        entries += submessage(1, submessage(1, name.encode()) + submessage(2, feature))
    return submessage(1, entries)


def tfrecord_bytes(faces: Sequence[Face]) -> bytes:
    """Faces as arcface-tf2 writes them."""
    return b"".join(
        tfrecord(
            example(
                {
                    "image/encoded": face.shot.image,
                    "image/filename": str(face.name).encode(),
                    "image/source_id": face.label,
                }
            )
        )
        for face in faces
    )


def make_tfrecord(
    folder: Path, shots: Sequence[Shot], *, compress: Callable[[bytes], bytes] = bytes
) -> Made:
    """A file of arcface-tf2, perhaps compressed, which its name does not tell."""
    faces = tfrecord_faces(strangers(shots), "ms1m_bin")
    write(folder, {"ms1m_bin.tfrecord": compress(tfrecord_bytes(faces))})
    return Made(paths=[folder / "ms1m_bin.tfrecord"], truth=Truth(faces=faces))


def make_tfrecords(folder: Path, shots: Sequence[Shot]) -> Made:
    """A folder of two of two files, one of them gzipped."""
    stems = [f"faces.tfrecord-0000{k}-of-00002" for k in range(2)]
    faces = tfrecord_faces(shots, stems[0])[:4] + tfrecord_faces(shots, stems[1])[4:]
    first, second = tfrecord_bytes(faces[:4]), gzip.compress(tfrecord_bytes(faces[4:]), mtime=0)
    write(folder, {stems[0]: first, stems[1]: second})
    return Made(paths=[folder], truth=Truth(faces=faces))


def make_other_tfrecord(folder: Path, shots: Sequence[Shot]) -> Made:
    """A file with features of other names, among others, some of which might be meant."""
    faces = [
        Face(shot=shot, label=number_of(shot), name=f"{k}", known_as=f"{k}", stem="other")
        for k, shot in enumerate(shots)
    ]
    data = b"".join(
        tfrecord(
            example(
                {
                    "who": face.label,
                    "height": face.shot.side,
                    "photo": face.shot.image,
                    "preview": shots[0].image,
                    "called": str(face.name).encode(),
                    "score": 0.5,
                },
                packed=False,
            )
        )
        for face in faces
    )
    write(folder, {"other.tfrec": data})
    options = ("--image-feature", "photo", "--label-feature", "who", "--name-feature", "called")
    return Made(paths=[folder / "other.tfrec"], truth=Truth(faces=faces), options=options)


def tfrecord_faces(shots: Sequence[Shot], stem: str) -> list[Face]:
    """Faces with a label and a name."""
    return [
        Face(
            shot=shot,
            label=number_of(shot),
            name=(name := f"{number_of(shot)}/{k}.jpg"),
            known_as=name,
            stem=stem,
        )
        for k, shot in enumerate(shots)
    ]


# Tars --------------------------------------------------------------------------------------------


def tar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_tar(
    folder: Path, shots: Sequence[Shot], *, gzipped: bool = False, pieces: int = 1
) -> Made:
    """A tree in a tar, perhaps gzipped and cut by bytes as Glint360K is."""
    faces = named_faces(shots, top="top/", stem="faces")
    data = tar_bytes([(str(face.name), face.shot.image) for face in faces])
    data = gzip.compress(data, mtime=0) if gzipped else data
    if pieces == 1:
        paths = [folder / ("faces.tar.gz" if gzipped else "faces.tar")]
    else:
        paths = [folder / f"faces_{k:02d}" for k in range(pieces)]
    size = -(-len(data) // pieces)
    write(folder, {path.name: data[k * size : (k + 1) * size] for k, path in enumerate(paths)})
    return Made(paths=paths, truth=Truth(faces=faces))


def listed_members(shots: Sequence[Shot]) -> tuple[list[tuple[str, bytes]], list[Face]]:
    """Images in one folder, and a CSV behind them that names their people."""
    faces = [
        replace(face, name=f"set/{k}.jpg", known_as=f"set/{k}.jpg")
        for k, face in enumerate(named_faces(shots, stem="faces"))
    ]
    members = [(str(face.name), face.shot.image) for face in faces]
    there = [replace(face, name=str(face.name).removeprefix("set/")) for face in faces]
    members.append(("set/faces.csv", table(there, "label size path", ",")))
    return members, faces


def make_listed_tar(folder: Path, shots: Sequence[Shot]) -> Made:
    """A tar with a list in it."""
    members, faces = listed_members(shots)
    write(folder, {"faces.tar": tar_bytes(members)})
    return Made(paths=[folder / "faces.tar"], truth=Truth(faces=faces))


def make_listed_zip(folder: Path, shots: Sequence[Shot]) -> Made:
    """A zip with a list in it, deflated."""
    members, faces = listed_members(shots)
    with zipfile.ZipFile(folder / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return Made(paths=[folder / "faces.zip"], truth=Truth(faces=faces))


def make_split_tar(folder: Path, shots: Sequence[Shot]) -> Made:
    """A tar whose second folders are the people."""
    faces = split_faces(shots, stem="faces")
    data = tar_bytes([(str(face.name), face.shot.image) for face in faces])
    write(folder, {"faces.tar": data})
    return Made(paths=[folder / "faces.tar"], truth=Truth(faces=faces), options=SECOND)


def make_rec_in_tar(
    folder: Path, shots: Sequence[Shot], *, gzipped: bool = False, **options: Any
) -> Made:
    """A tar as Glint360K's: a ``.rec`` with what belongs to it, and a verification set."""
    files, faces = rec_files(shots, vector=True, **options)
    files["lfw.bin"] = bytes_pickle([shot.image for shot in pair_shots(shots)], SAME)
    data = tar_bytes([(f"glint/{name}", data) for name, data in files.items()])
    path = folder / ("glint.tgz" if gzipped else "glint.tar")
    write(folder, {path.name: gzip.compress(data, mtime=0) if gzipped else data})
    return Made(paths=[path], truth=Truth(faces=faces))


def make_cleaned_rec_in_tar(folder: Path, shots: Sequence[Shot]) -> Made:
    """The index in the tar leaves out some images on purpose."""
    return listed_only(make_rec_in_tar(folder, shots, unlisted=UNLISTED))


def make_bin_in_tar(folder: Path, shots: Sequence[Shot]) -> Made:
    """The verification set of such a tar."""
    made = make_rec_in_tar(folder, shots)
    truth = pair_truth(shots, "lfw")
    return replace(made, truth=truth, options=("--member", "lfw.bin"))


def make_wds(
    folder: Path, shots: Sequence[Shot], *, as_json: bool = False, zipped: bool = False
) -> Made:
    """Two shards of samples with their labels, as the webdataset library reads them, or zipped."""
    faces = []
    for shard, here in (("s-0", strangers(shots)[:4]), ("s-1", strangers(shots)[4:])):
        members: list[tuple[str, bytes]] = []
        for k, shot in enumerate(here):
            label = number_of(shot)
            key = f"{len(faces) if k else 0:04d}"  # both shards begin with 0000
            told = json.dumps({"label": label}) if as_json else str(label)
            image = (f"{key}.jpg", shot.image)
            beside = (f"{key}.json" if as_json else f"{key}.cls", told.encode())
            members += [beside, image] if k % 2 else [image, beside]
            faces.append(Face(shot=shot, label=label, name=key, known_as=key, stem=shard))
        if zipped:  # the members of a sample do not follow each other
            write(folder, {f"{shard}.zip": zip_of_files(sorted(members, key=is_image))})
            continue
        data = tar_bytes(members)
        name = f"{shard}.tar.gz" if as_json else f"{shard}.tar"
        write(folder, {name: gzip.compress(data, mtime=0) if as_json else data})
    return Made(paths=[folder], truth=Truth(faces=faces))


def is_image(member: tuple[str, bytes]) -> bool:
    """Whether a member of a sample is its image."""
    return member[0].endswith(".jpg")


def make_text_wds(folder: Path, shots: Sequence[Shot], *, zipped: bool = False) -> Made:
    """Samples whose names have dots and whose labels are texts: they name identities."""
    labels = ranks(shots)
    members: list[tuple[str, bytes]] = []
    faces = []
    for k, shot in enumerate(shots):
        key, label = f"set/m.{k:04d}", labels[shot.person]
        members += [(f"{key}.jpg", shot.image), (f"{key}.cls", shot.person.encode())]
        named = Face(shot=shot, label=label, name=key, person=shot.person, known_as=key)
        faces.append(replace(named, stem="faces"))
    if zipped:
        data = zip_of_files(members, zipfile.ZIP_DEFLATED)
        write(folder, {"faces.zip": data})
    else:
        write(folder, {"faces.tar": tar_bytes(members)})
    path = folder / ("faces.zip" if zipped else "faces.tar")
    return Made(paths=[path], truth=Truth(faces=faces))


# Parquet and Arrow -------------------------------------------------------------------------------


def table_rows(faces: Sequence[Face], labels: Sequence[Any], **features: Any) -> Any:
    """A table as ``datasets`` makes it: an Image column, and one of labels, described."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": face.shot.image, "path": face.name} for face in faces]
    told = {"image": {"_type": "Image"}, **features}
    schema = pa.schema(
        [("image", kind), *((name, pa.int64()) for name in features)],
        {"huggingface": json.dumps({"info": {"features": told}})},
    )
    return pa.Table.from_arrays([pa.array(images, kind), pa.array(labels)], schema=schema)


def make_hub(folder: Path, shots: Sequence[Shot], *, saved: bool = False) -> Made:
    """Two files of the Hub, or a folder that ``save_to_disk`` wrote; labels have names."""
    people = sorted({shot.person for shot in shots}, reverse=True)
    faces = []
    for k, shot in enumerate(strangers(shots)):
        label = people.index(shot.person) if shot.person else -1
        named = Face(shot=shot, label=label, name=f"{7 * k % 23:02d}.jpg", stem="faces")
        faces.append(replace(named, person=shot.person or None, known_as=named.name))
    labels = [face.label for face in faces]
    described = {"label": {"_type": "ClassLabel", "names": people}}
    halves = [table_rows(faces[a:b], labels[a:b], **described) for a, b in ((0, 4), (4, None))]
    write_tables(folder / "faces", halves, saved=saved)
    return Made(paths=[folder / "faces"], truth=Truth(faces=faces))


def write_tables(folder: Path, tables: Sequence[Any], *, saved: bool) -> None:
    """Parquet files of small row groups, or the layout of ``save_to_disk``, files out of order."""
    import pyarrow.ipc
    import pyarrow.parquet

    folder.mkdir()
    names = [f"{'data' if saved else 'train'}-{k:05d}-of-{len(tables):05d}" for k in (1, 0)]
    names = names[-len(tables) :] if saved else sorted(names)[: len(tables)]
    for name, table in zip(names, tables, strict=True):
        if not saved:
            pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=3)
            continue
        with pyarrow.ipc.new_stream(str(folder / f"{name}.arrow"), table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    if saved:
        listed = [{"filename": f"{name}.arrow"} for name in names]
        write(folder, {"state.json": json.dumps({"_data_files": listed}).encode()})


def make_plain_parquet(folder: Path, shots: Sequence[Shot]) -> Made:
    """A file of binary columns and numbers, none of which is described; two are named."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    shots = strangers(shots)
    images = [shot.image for shot in shots]
    labels = [None if number_of(shot) < 0 else number_of(shot) for shot in shots]
    columns = {
        "thumb": pa.array([b"" for _ in shots], pa.binary()),
        "photo": pa.array(images, pa.large_binary()),
        "age": pa.array(range(len(shots)), pa.int32()),
        "who": pa.array(labels, pa.uint32()),
    }
    path = folder / "faces.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=4, compression="zstd")
    faces = [Face(shot=shot, label=number_of(shot), stem="faces") for shot in shots]
    options = ("--image-column", "photo", "--label-column", "who")
    return Made(paths=[path], truth=Truth(faces=faces), options=options)


def make_text_parquet(folder: Path, shots: Sequence[Shot]) -> Made:
    """Labels that are texts name the identities."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    shots = strangers(shots)
    people = [shot.person or None for shot in shots]
    labels = ranks([shot for shot in shots if shot.person])
    columns = {"jpg": [shot.image for shot in shots], "identity": people}
    path = folder / "faces.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=4)
    faces = [
        Face(
            shot=shot, label=labels[shot.person] if shot.person else -1, person=person, stem="faces"
        )
        for shot, person in zip(shots, people, strict=True)
    ]
    return Made(paths=[path], truth=Truth(faces=faces))


def make_parquet_pairs(folder: Path, shots: Sequence[Shot]) -> Made:
    """A verification set: two columns of images, and whether they are of one person."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    images = [shot.image for shot in pair_shots(shots)]
    columns = {"label": list(map(int, SAME)), "image1": images[::2], "image2": images[1::2]}
    path = folder / "lfw.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=3)
    return Made(paths=[path], truth=pair_truth(shots, "lfw"))


def make_saved_pairs(folder: Path, shots: Sequence[Shot]) -> Made:
    """CVLface's: rows in the order of their index, which two by two are pairs."""
    places = pair_shots(shots)
    index = {"_type": "Value", "dtype": "int64"}
    order = [7 * k % len(places) for k in range(len(places))]
    faces = [Face(shot=places[k]) for k in order]
    table = table_rows(faces, order, index=index)
    same = [[SAME[k // 2] for k in order]]
    table = table.append_column("is_same", same)
    write_tables(folder / "lfw", [table], saved=True)
    return Made(paths=[folder / "lfw"], truth=pair_truth(shots, "lfw"))


# IJB and MegaFace --------------------------------------------------------------------------------


def make_ijb(folder: Path, shots: Sequence[Shot]) -> Made:
    """IJB-B as InsightFace packages it; a 1:N list names an image that is not there."""
    names = [f"{7 * k % 23 + 1}.jpg" for k in range(len(shots))]
    faces = [
        Face(shot=shot, name=name, known_as=name, stem="IJBB")
        for name, shot in zip(names, shots, strict=True)
    ]
    count = len(faces)
    points = [[[k + p / 4, k + p / 2] for p in range(5)] for k in range(count)]
    scores = [k / 64 for k in range(count)]
    templates = [100 + k // 2 for k in range(count)]
    media = [7000 + k for k in range(count)]
    pairs = [(100, 101, 1), (102, 104, 0), (100, 104, 0)]
    gallery = [(100, 1, 0), (101, 2, 3), (101, 2, 2)]
    probes = [(103, 1, 6), (104, 9, -1)]
    numbers = [" ".join(str(x) for point in each for x in point) for each in points]
    rows = zip(names, numbers, scores, strict=True)
    listed = list(zip(names, templates, media, strict=True))
    random.Random(0).shuffle(listed)
    texts = {
        "name_5pts_score.txt": "".join(f"{name} {xy} {score}\n" for name, xy, score in rows),
        "face_tid_mid.txt": "".join(f"{name} {t} {m}\n" for name, t, m in listed),
        "template_pair_label.txt": "".join(f"{a} {b} {same}\n" for a, b, same in pairs),
    }
    for table, lines in (("1N_gallery_S1.csv", gallery), ("1N_probe_mixed.csv", probes)):
        cells = [f"{t},{s},{names[k] if k >= 0 else 'img/44.jpg'},0\n" for t, s, k in lines]
        texts[table] = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n" + "".join(cells)
    root = folder / "IJBB"
    write(root / "loose_crop", {str(face.name): face.shot.image for face in faces})
    write(root / "meta", {f"ijbb_{name}": text.encode() for name, text in texts.items()})
    tables = {
        "landmarks": points,
        "scores": scores,
        "template_ids": templates,
        "media_ids": media,
        "template_pairs": pairs,
        "gallery_S1": gallery,
        "probe_mixed": probes,
    }
    return Made(paths=[root], truth=Truth(faces=faces, content="templates", tables=tables))


def make_megaface(folder: Path, shots: Sequence[Shot], *, kit: bool) -> Made:
    """FaceScrub's people and MegaFace's distractors, listed plainly or by the development kit."""
    scrub, mega = shots[:7], shots[7:]
    labels = ranks(scrub)
    faces = [
        Face(shot=shot, label=labels[shot.person], name=file_name(scrub, k), person=shot.person)
        for k, shot in enumerate(scrub)
    ]
    faces += [Face(shot=shot, name=f"{k}/{50 + k}/{k}_0.jpg") for k, shot in enumerate(mega)]
    sets = [0] * len(scrub) + [1] * len(mega)
    noisy = [k in (2, len(scrub)) for k in range(len(faces))]
    paths: dict[str, list[str]] = {"facescrub": [], "megaface": []}
    for k, which in enumerate(sets):
        name = ("facescrub", "megaface")[which]
        paths[name].append(str(faces[k].name))
        full = f"{name}_images/{faces[k].name}"
        faces[k] = replace(faces[k], name=full, known_as=full, stem=name)
    write(folder, {str(face.name): face.shot.image for face in faces})
    noise = paths["facescrub"][2].rpartition("/")[2] + f"\n# a comment\n1\t{paths['megaface'][0]}\n"
    people = [shot.person for shot in scrub]
    options: tuple[str, ...] = ()
    if kit:
        lists = {
            "facescrub_features_list.json": json.dumps({"path": paths["facescrub"], "id": people}),
            "megaface_features_list.json_4_1": json.dumps({"path": paths["megaface"]}),
        }
        write(folder / "devkit/templatelists", {k: v.encode() for k, v in lists.items()})
        write(folder, {"noise": noise.encode()})
        options = ("--noises", str(folder / "noise"))
    else:
        write(folder, {f"{k}_lst": "".join(f"{p}\n" for p in v).encode() for k, v in paths.items()})
        write(folder, {"facescrub_noises.txt": noise.encode()})
    truth = Truth(faces=faces, content="megaface", tables={"sets": sets, "noisy": noisy})
    return Made(paths=[folder], truth=truth, options=options)


# Packs -------------------------------------------------------------------------------------------


def make_pack(
    folder: Path, shots: Sequence[Shot], *, source: str, make: Maker, shard_set: bool = False
) -> Made:
    """A pack of another source, some records of which are not what was packed.

    A pack takes no broken image, so that one is put in the place of a sound one.
    """
    whole = [
        replace(shot, image=sound(shot.image), whole=True) if not shot.whole else shot
        for shot in shots
    ]
    made = make(folder / "from", whole)
    pack = folder / "pack"
    command = [f"{source}2lmdb", *made.paths, pack, *made.options, "--shard-records", "4"]
    facepack(*command, "--order", "identity", typed=made.typed)
    for broken, mended in zip(shots, whole, strict=True):
        if not broken.whole:
            shards = [shard for shard in pack.glob("*.mdb") if mended.image in shard.read_bytes()]
            damaged = mended.image[:-40] + bytes(40)
            shards[0].write_bytes(shards[0].read_bytes().replace(mended.image, damaged))
    by_image = {mended.image: broken for broken, mended in zip(shots, whole, strict=True)}
    faces = [
        replace(face, shot=by_image.get(face.shot.image, face.shot), known_as=face.name)
        for face in made.truth.faces
    ]
    if not shard_set:
        return replace(made, paths=[pack], truth=replace(made.truth, faces=faces), options=())
    stem = faces[0].stem
    facepack("shards", pack, "--add", "some", f"{stem}*")
    some = [face for face in faces if face.stem == stem]
    return Made(paths=[Path(f"{pack}:some")], truth=Truth(faces=some))


def sound(image: bytes) -> bytes:
    """A whole image in place of one that was cut off."""
    from matrix.truth import draw

    return draw(len(image) + 1000)


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below ``folder``."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# source → variant → maker
MAKERS: dict[str, dict[str, Maker]] = {
    "rec": {
        "indexed": make_rec,
        "vectors": partial(make_rec, vector=True),
        "header-last": partial(make_rec, header="last"),
        "bare": make_bare_rec,
        "unlisted": partial(make_rec, unlisted=UNLISTED),
        "cleaned": make_cleaned_rec,
    },
    "bin": {
        "bytes": make_bin,
        "numpy": partial(make_bin, dump=numpy_pickle),
        "python2": partial(make_bin, dump=python2_pickle),
    },
    "pairs": {
        "folder": make_listed_pairs,
        "zip": partial(make_listed_pairs, root="faces.zip"),
        "aligned": partial(make_listed_pairs, aligned=True),
    },
    "zip": {
        "stored": make_zip,
        "several": make_zips,
        "views": partial(make_zips, views=True),
        "split": make_split_zip,
        "listed": make_listed_zip,
        "secret": partial(make_zip, by_hand=False),
        "typed": partial(make_zip, by_hand=True),
        "wds": partial(make_wds, zipped=True),
        "wds-json": partial(make_wds, zipped=True, as_json=True),
        "wds-text": partial(make_text_wds, zipped=True),
    },
    "img": {
        "tree": make_tree,
        "views": partial(make_tree, views=True),
        "split": make_split_tree,
        "indexed": make_indexed,
        "by-lst": make_indexed_by_lst,
        "by-paddle": make_indexed_by_paddle,
        "by-csv": make_indexed_by_csv,
        "pairs": make_pair_folder,
    },
    "kv": {
        "folder": make_kv,
        "several": partial(make_kvs, offset=True),
        "kept": partial(make_kvs, offset=False),
        "msgpack": partial(
            make_labelled, pack=lambda *pair: msgpack.packb(pair), listed=msgpack.packb
        ),
        "pickled": partial(
            make_labelled, pack=lambda *pair: pickle.dumps(pair), listed=pickle.dumps
        ),
        "arrays": partial(make_labelled, pack=pickled_array, listed=pickle.dumps),
        "labelled": partial(make_labelled, pack=labelled_datum),
    },
    "parquet": {
        "hub": make_hub,
        "saved": partial(make_hub, saved=True),
        "plain": make_plain_parquet,
        "texts": make_text_parquet,
        "pairs": make_parquet_pairs,
        "saved-pairs": make_saved_pairs,
    },
    "tar": {
        "tree": make_tar,
        "gzipped": partial(make_tar, gzipped=True),
        "split": make_split_tar,
        "listed": make_listed_tar,
        "pieces": partial(make_tar, gzipped=True, pieces=3),
        "rec": make_rec_in_tar,
        "rec-cleaned": make_cleaned_rec_in_tar,
        "rec-gzipped": partial(make_rec_in_tar, gzipped=True),
        "bin": make_bin_in_tar,
        "wds": make_wds,
        "wds-json": partial(make_wds, as_json=True),
        "wds-text": make_text_wds,
    },
    "tfrecord": {
        "plain": make_tfrecord,
        "zlib": partial(make_tfrecord, compress=zlib.compress),
        "several": make_tfrecords,
        "other": make_other_tfrecord,
    },
    "lst": {
        "im2rec": make_im2rec,
        "face2rec2": make_face2rec2,
        "paddle": make_paddle,
        "csv": make_csv,
    },
    "ijb": {"ijbb": make_ijb},
    "megaface": {
        "lists": partial(make_megaface, kit=False),
        "kit": partial(make_megaface, kit=True),
    },
    "lmdb": {
        "pack": partial(make_pack, source="rec", make=partial(make_rec, vector=True)),
        "named": partial(make_pack, source="img", make=make_tree),
        "set": partial(make_pack, source="zip", make=make_zips, shard_set=True),
        "pairs": partial(make_pack, source="bin", make=make_bin),
        "templates": partial(make_pack, source="ijb", make=make_ijb),
        "megaface": partial(make_pack, source="megaface", make=partial(make_megaface, kit=False)),
    },
}


PAIR_SETS = {(source, variant) for source in ("bin", "pairs") for variant in MAKERS[source]} | {
    ("img", "pairs"),
    ("tar", "bin"),
    ("lmdb", "pairs"),
    ("parquet", "pairs"),
    ("parquet", "saved-pairs"),
}


def variants() -> Iterator[tuple[str, str]]:
    """Source and variant, all."""
    for source, makers in MAKERS.items():
        for variant in makers:
            yield source, variant
