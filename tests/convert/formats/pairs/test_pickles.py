"""Verification sets: every flavour is read, and nothing in one is ever run."""

import bz2
import codecs
import contextlib
import functools
import gzip
import io
import lzma
import os
import pickle
import pickletools
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facepack.convert.formats.pairs import pickle_stream
from facepack.convert.formats.pairs.pickles import BinSet, read_bin, write_bin
from facepack.errors import SourceError

DATA = Path(__file__).parents[4].parent / "shared" / "data" / "bins"

IMAGES = [
    b"\xff\xd8one",
    b"\x89PNG\r\n\x1a\n two",
    b"'quoted' \\ \x00\x80\xff",
    bytes(range(256)) * 2,
]
SAME = [True, False]
PROTOCOLS = range(6)


def read(tmp_path: Path, data: bytes) -> BinSet:
    path = tmp_path / "lfw.bin"
    path.write_bytes(data)
    return read_bin(path)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(SourceError) as raised:
        read(tmp_path, data)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'lfw.bin'}: ")
    assert len(message) < 1000
    return message


def assert_reads(tmp_path: Path, data: bytes) -> None:
    found = read(tmp_path, data)
    assert [bytes(image) for image in found.images] == IMAGES
    assert found.issame.tolist() == SAME
    assert found.issame.dtype == bool
    assert len(found) == 2
    assert all(image.readonly and image.format == "B" and image.ndim == 1 for image in found.images)


def with_numpy_core(data: bytes, core: str) -> bytes:
    """The same stream as NumPy 1 (``core``) or 2 (``_core``) writes it."""
    for module in ("multiarray", "numeric"):
        for name in ("numpy._core", "numpy.core"):
            old, new = f"{name}.{module}".encode(), f"numpy.{core}.{module}".encode()
            data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")
            data = data.replace(
                b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new
            )
    if data[2:3] == pickle.FRAME:
        data = data[:3] + struct.pack("<Q", len(data) - 11) + data[11:]
    return data


def python2_stream(images: list[bytes], flags: list[bool], protocol: int) -> bytes:
    """What Python 2's pickle writes: byte strings have opcodes of their own."""

    def string(value: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(value)[1:].encode() + b"\n"
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    def boolean(value: bool) -> bytes:
        return (b"\x89", b"\x88")[value] if protocol == 2 else b"I0%d\n" % value

    if protocol == 0:
        body = b"((lp0\n" + b"".join(string(image) + b"p1\na" for image in images)
        return body + b"(lp2\n" + b"".join(boolean(flag) + b"a" for flag in flags) + b"tp3\n."
    head = b"\x80\x02" if protocol == 2 else b""
    body = b"(" + b"]q\x00(" + b"".join(string(image) + b"q\x01" for image in images) + b"e"
    return head + body + b"]q\x02(" + b"".join(map(boolean, flags)) + b"etq\x03."


AS_ARRAY: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda image: image,
    "bytearray": bytearray,
    "flat": lambda image: np.frombuffer(image, np.uint8),
    "column": lambda image: np.frombuffer(image, np.uint8).reshape(-1, 1).copy(),
    "row": lambda image: np.frombuffer(image, np.uint8).reshape(1, -1),
    "fortran": lambda image: np.asfortranarray(np.frombuffer(image, np.uint8).reshape(-1, 1)),
    "strided": lambda image: np.repeat(np.frombuffer(image, np.uint8), 2)[::2],
}


class TestFlavours:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("core", ["core", "_core"])
    @pytest.mark.parametrize("flavour", AS_ARRAY)
    def test_images(self, tmp_path: Path, flavour: str, core: str, protocol: int) -> None:
        images = [AS_ARRAY[flavour](image) for image in IMAGES]
        assert_reads(tmp_path, with_numpy_core(pickle.dumps((images, SAME), protocol), core))

    @pytest.mark.parametrize("protocol", [0, 1, 2])
    def test_python_2(self, tmp_path: Path, protocol: int) -> None:
        data = python2_stream(IMAGES, SAME, protocol)
        assert pickle.loads(data, encoding="bytes") == (IMAGES, SAME)
        assert_reads(tmp_path, data)

    @pytest.mark.parametrize("encoding", [b"U\x07latin-1", b"X\x07\0\0\0latin-1"])
    def test_python_2_bytearrays(self, tmp_path: Path, encoding: bytes) -> None:
        """Text and its encoding, under protocol 2; and a bytearray without bytes."""
        stream = b"\x80\x02]("
        for image in (b"\xff\xd8one", b"two\x80"):
            text = image.decode("latin-1").encode()
            stream += b"c__builtin__\nbytearray\nX" + struct.pack("<I", len(text)) + text
            stream += encoding + b"\x86R"
        stream += b"c__builtin__\nbytearray\n)R" * 2 + b"e](\x88\x89e\x86."
        twin, _ = pickle.loads(stream)
        found = [bytes(image) for image in read(tmp_path, stream).images]
        assert found == [b"\xff\xd8one", b"two\x80", b"", b""] == [bytes(image) for image in twin]

    @pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
    def test_what_is_compressed_is_unpacked(
        self, tmp_path: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = compress(pickle.dumps((IMAGES, SAME)))
        assert [bytes(image) for image in read(tmp_path, whole).images] == IMAGES
        for length in range(8, len(whole), 7):  # cut short anywhere
            assert "fetch it again" in refusal(tmp_path, whole[:length])
        monkeypatch.setenv("FACEPACK_MAX_TABLE_BYTES", str(len(whole)))
        large = compress(bytes(100_000))
        assert len(large) < len(whole)
        assert "FACEPACK_MAX_TABLE_BYTES says more" in refusal(tmp_path, large)

    def test_python_2_arrays(self, tmp_path: Path) -> None:
        """There the dtype's name, its byte order and the content are byte strings."""

        def text(value: bytes) -> bytes:
            return b"U" + bytes([len(value)]) + value

        dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        stream = b"\x80\x02]("
        for image in (b"one", b"two"):
            stream += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
            stream += text(b"b") + b"\x87R(K\x01K\x03K\x01\x86" + dtype + b"\x89" + text(image)
            stream += b"tb"
        stream += b"e](\x88e\x86."
        twin, _ = pickle.loads(stream, encoding="bytes")
        found = read(tmp_path, stream)
        assert [bytes(i) for i in found.images] == [b"one", b"two"] == [t.tobytes() for t in twin]

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("core", ["core", "_core"])
    @pytest.mark.parametrize(
        "flags",
        [
            [True, False],
            (True, False),
            [1, 0],
            [np.bool_(True), np.bool_(False)],
            [np.int64(1), np.uint8(0)],
            np.array([True, False]),
            np.array([1, 0]),
            np.array([[1], [0]], np.int8),
            np.array([1, 0], ">i4"),
            np.array([1, 0], np.uint16),
            [1.0, 0.0],
            [np.float64(1), np.float32(0)],
            np.array([1, 0], ">f4"),
        ],
        ids=lambda flags: f"{type(flags).__name__}-{getattr(flags, 'dtype', type(flags[0]))}",
    )
    def test_flags(self, tmp_path: Path, flags: Any, core: str, protocol: int) -> None:
        assert_reads(tmp_path, with_numpy_core(pickle.dumps((IMAGES, flags), protocol), core))

    def test_containers(self, tmp_path: Path) -> None:
        assert_reads(tmp_path, pickle.dumps([tuple(IMAGES), SAME]))
        assert_reads(tmp_path, pickle.dumps(([bytearray(i) for i in IMAGES], SAME), 5))

    def test_an_image_used_twice(self, tmp_path: Path) -> None:
        found = read(tmp_path, pickle.dumps(([IMAGES[0]] * 4, SAME)))
        assert [bytes(i) for i in found.images] == [IMAGES[0]] * 4

    def test_a_pure_python_pickler(self, tmp_path: Path) -> None:
        for protocol in PROTOCOLS:
            stream = io.BytesIO()
            pickle._Pickler(stream, protocol).dump((IMAGES, SAME))
            assert_reads(tmp_path, stream.getvalue())

    def test_a_stream_without_memo(self, tmp_path: Path) -> None:
        arrays = [AS_ARRAY["column"](image) for image in IMAGES]
        for images in (IMAGES, arrays):
            assert_reads(tmp_path, pickletools.optimize(pickle.dumps((images, SAME), 4)))

    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        pairs=st.lists(st.tuples(st.binary(), st.binary(), st.booleans()), min_size=1, max_size=6),
        flavour=st.sampled_from(sorted(AS_ARRAY)),
        protocol=st.integers(0, 5),
    )
    def test_the_same_as_pickle_loads(
        self, tmp_path: Path, pairs: list[tuple[bytes, bytes, bool]], flavour: str, protocol: int
    ) -> None:
        raw = [image for pair in pairs for image in pair[:2]]
        # Python 3 writes empty bytes as a call of builtins.bytes under the old protocols.
        if protocol < 3:
            raw = [image or b"-" for image in raw]
        images = [AS_ARRAY[flavour](image) for image in raw]
        data = pickle.dumps((images, [same for _, _, same in pairs]), protocol)
        found = read(tmp_path, data)
        twin, flags = pickle.loads(data)
        assert [bytes(i) for i in found.images] == [np.asarray(t).tobytes() for t in twin] or (
            [bytes(i) for i in found.images] == twin
        )
        assert found.issame.tolist() == flags

    @settings(
        max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        pairs=st.lists(st.tuples(st.binary(), st.binary(), st.booleans()), min_size=1, max_size=6)
    )
    def test_what_is_written_is_read(
        self, tmp_path: Path, pairs: list[tuple[bytes, bytes, bool]]
    ) -> None:
        images = [image for pair in pairs for image in pair[:2]]
        flags = [same for _, _, same in pairs]
        write_bin(tmp_path / "a.bin", images, flags)
        assert pickle.loads((tmp_path / "a.bin").read_bytes()) == (images, flags)
        found = read_bin(tmp_path / "a.bin")
        assert [bytes(i) for i in found.images] == images
        assert found.issame.tolist() == flags

    def test_views_and_numpy_flags_are_written_as_plain_values(self, tmp_path: Path) -> None:
        images = [memoryview(image) for image in IMAGES]
        write_bin(tmp_path / "a.bin", images, np.array(SAME))
        assert pickle.loads((tmp_path / "a.bin").read_bytes()) == (IMAGES, SAME)

    @pytest.mark.parametrize(("images", "flags"), [(3, 2), (0, 0), (4, 1)])
    def test_counts_that_disagree_are_not_written(
        self, tmp_path: Path, images: int, flags: int
    ) -> None:
        with pytest.raises(ValueError, match=f"{images} images and {flags} flags"):
            write_bin(tmp_path / "a.bin", [b"x"] * images, [True] * flags)
        assert not (tmp_path / "a.bin").exists()


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __call__(self) -> None:
        """Only here because pickle wants the function, which may be a call itself, callable."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


class State:
    """Pickles as an array whose state holds ``value``."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        reconstruct = np.zeros(1, np.uint8).__reduce__()[0]
        state = (1, (1,), np.dtype(np.uint8), False, self.value)
        return reconstruct, (np.ndarray, (0,), b"b"), state


RECONSTRUCT = np.zeros(1, np.uint8).__reduce__()[0]


class TestMalice:
    """Whatever a stream names or calls, nothing happens but a refusal."""

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("place", ["whole", "image", "flag", "images", "behind", "state"])
    @pytest.mark.parametrize("call", ["system", "eval", "exec", "getattr", "partial", "open"])
    def test_calls(self, tmp_path: Path, call: str, place: str, protocol: int) -> None:
        marker = tmp_path / "marker"
        touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        value = {
            "system": Calls(os.system, f"touch {marker}"),
            "eval": Calls(eval, touch),
            "exec": Calls(exec, touch),
            "getattr": Calls(Calls(getattr, Calls(__import__, "builtins"), "eval"), touch),
            "partial": Calls(Calls(functools.partial, eval, touch)),
            "open": Calls(open, str(marker), "w"),
        }[call]
        stream: Any = {
            "whole": value,
            "image": ([IMAGES[0], value], [True]),
            "flag": (IMAGES[:2], [value]),
            "images": (value, [True]),
            "behind": (IMAGES[:2], [True], value),
            "state": ([State(value), IMAGES[0]], [True]),
        }[place]
        data = pickle.dumps(stream, protocol)
        message = refusal(tmp_path, data)
        assert "nothing was run" in message
        assert not marker.exists()
        # It would have done what it says: this is what a careless reader meets.
        with contextlib.suppress(Exception):
            pickle.loads(data)
        assert marker.exists()

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "eval"),
            ("builtins", "bytes.fromhex"),
            ("bytes", "bytes"),
            ("this", "s"),
            ("numpy", "load"),
            ("numpy", "ndarray.tofile"),
            ("numpy", "fromfile"),
            ("numpy", "memmap"),
            ("numpy", "dtype.__init__"),
            ("numpy.core.multiarray", "fromfile"),
            ("numpy.core.multiarray", "_reconstruct.__self__"),
            ("numpy.core.multiarray", "numpy.os.system"),
            ("numpy._core.numeric", "_frombuffer.__globals__"),
            ("numpy.testing._private.utils", "runstring"),
            ("numpy.core.multiarray ", "_reconstruct"),
            ("numpy.core", "multiarray._reconstruct"),
            ("_codecs", "decode"),
            ("codecs", "encode"),
            ("_codecs.encode", "__self__"),
            ("copyreg", "_reconstructor"),
            ("a\x00b\x1b[31m", "é\u2028"),
            ("x" * 10_000, "y" * 10_000),
        ],
    )
    def test_names(self, tmp_path: Path, module: str, name: str) -> None:
        """Each by every opcode that can name, never imported and never looked up."""
        sys.modules.pop("this", None)

        def text(value: str) -> bytes:
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data

        lines = module.encode() + b"\n" + name.encode() + b"\n"
        streams = [
            b"\x80\x04" + text(module) + text(name) + b"\x93)R.",
            b"\x80\x04" + text(module) + text(name) + b"\x93.",
            b"c" + lines + b"(tR.",
        ]
        for stream in streams:
            message = refusal(tmp_path, stream)
            assert "names " in message
            assert ascii(f"{module[:100]}.{name[:100]}")[1:-1] in message
            assert "nothing was run" in message
            assert "do not open this file with pickle.load" in message
            assert message.isascii()
            assert message.isprintable()
        assert "opcode INST" in refusal(tmp_path, b"(i" + lines + b".")
        assert "this" not in sys.modules

    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            (codecs.encode, ("x", "rot13")),
            (codecs.encode, ("x", "zip")),
            (codecs.encode, ("x", "latin1", "strict")),
            (codecs.encode, (b"x", "latin1")),
            (codecs.encode, ("x",)),
            (bytes, (1 << 40,)),
            (bytearray, (1 << 40,)),
            (bytearray, ([1, 2],)),
            (bytearray, ("x", "utf-8")),
            (bytearray, (b"x", b"latin-1")),
            (bytearray, ("x", "latin-1", "strict")),
            (np.ndarray, ((1 << 40,), np.dtype("u1"))),
            (np.dtype, ("u1",)),
            (RECONSTRUCT, (np.ndarray, (1 << 40,), b"b")),
            (RECONSTRUCT, (np.dtype, (0,), b"b")),
        ],
    )
    def test_admitted_names_with_other_arguments(
        self, tmp_path: Path, function: Any, arguments: tuple[Any, ...]
    ) -> None:
        value = Calls(function, *arguments)
        message = refusal(tmp_path, pickle.dumps(([value, b"x"], [True]), 4))
        assert "with arguments that no set of images has; nothing was run" in message

    @pytest.mark.parametrize("content", [[b"an object"], "text", None, 1])
    def test_an_array_of_other_content(self, tmp_path: Path, content: object) -> None:
        message = refusal(tmp_path, pickle.dumps(([State(content), b"x"], [True])))
        assert "an empty array with arguments that no set of images has" in message

    def test_an_array_without_content(self, tmp_path: Path) -> None:
        value = Calls(RECONSTRUCT, np.ndarray, (0,), b"b")
        message = refusal(tmp_path, pickle.dumps(([value, b"x"], [True])))
        assert "image 0 is an empty array; expected bytes or a uint8 array" in message

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            (object, [b"x", None]),
            ("S3", [b"abc"]),
            ("U3", ["abc"]),
            ("c8", [1j]),
            ("V4", [b"abcd"]),
        ],
    )
    def test_other_dtypes(self, tmp_path: Path, dtype: Any, values: list[Any]) -> None:
        array = np.array(values, dtype)
        for data in (pickle.dumps(([array, b"x"], [True])), pickle.dumps((IMAGES[:2], array))):
            message = refusal(tmp_path, data)
            assert f"an array of dtype '{array.dtype.str.lstrip('|<>')[:1]}" in message
            assert "images are uint8 and flags bool or integer" in message

    def test_floats(self, tmp_path: Path) -> None:
        array = np.array([1.5, 0.0], "f4")
        message = refusal(tmp_path, pickle.dumps(([array, b"x"], [True])))
        assert "image 0 is a float32 array; expected bytes or a uint8 array" in message
        for flags in (array, [1.5]):
            message = refusal(tmp_path, pickle.dumps((IMAGES[: 2 * len(flags)], flags)))
            assert "the flag of pair 0 is 1.5; expected" in message

    def test_a_structured_dtype(self, tmp_path: Path) -> None:
        array = np.zeros(2, [("a", "u1"), ("b", object)])
        assert "opcode EMPTY_DICT" in refusal(tmp_path, pickle.dumps(([array], [True])))
        # Its unit is in a dictionary by some versions of NumPy.
        refusal(tmp_path, pickle.dumps(([np.array([0], "M8[s]")], [True])))
        fields = Calls(np.dtype, [("a", "u1")], False, True)
        assert "an array of dtype '?'" in refusal(tmp_path, pickle.dumps(([fields], [True])))

    @pytest.mark.parametrize(
        ("stream", "opcode"),
        [
            (b"\x80\x02}.", "EMPTY_DICT"),
            (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
            (b"\x80\x04cnumpy\nndarray\n)}\x92.", "EMPTY_DICT"),
            (b"\x80\x02\x82\x01.", "EXT1"),
            (b"(cnumpy\nndarray\no.", "OBJ"),
            (b"Pname\n.", "PERSID"),
            (b"\x80\x02Nq\x00Q.", "BINPERSID"),
            (b"\x80\x05\x97.", "NEXT_BUFFER"),
            (b"\x80\x04\x8f.", "EMPTY_SET"),
            (b"N2.", "DUP"),
        ],
    )
    def test_other_opcodes(self, tmp_path: Path, stream: bytes, opcode: str) -> None:
        assert f"opcode {opcode}, which no set of images has" in refusal(tmp_path, stream)

    @pytest.mark.parametrize(
        "target", [b"cnumpy\nndarray\n", b"]", b")", b"N", b"K\x01", b"c_codecs\nencode\n"]
    )
    def test_a_state_for_what_has_none(self, tmp_path: Path, target: bytes) -> None:
        for state in (b"N", b")", b"NN\x86", b"(K\x01K\x01tK\x02\x86", b"K\x01K\x02K\x03\x87"):
            refusal(tmp_path, b"\x80\x02" + target + state + b"b.")

    def test_a_call_of_what_is_no_name(self, tmp_path: Path) -> None:
        for target in (b"]", b")", b"N", b"K\x01", b"U\x01x", b"X\x01\0\0\0x"):
            assert "not callable" in refusal(tmp_path, b"\x80\x02" + target + b")R.")


class TestFaults:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (None, "holds NoneType; expected a pair"),
            ((IMAGES,), "holds a tuple of 1 elements; expected a pair"),
            ((IMAGES, SAME, SAME), "holds a tuple of 3 elements"),
            ((b"image", SAME), "its images are bytes; expected a list of bytes"),
            ((["text", b"x"], [True]), "image 0 is text; expected bytes or a uint8 array"),
            (([b"x", [b"y"]], [True]), "image 1 is a list of 1 elements; expected bytes"),
            (([np.zeros(3, np.int8), b"x"], [True]), "image 0 is a int8 array"),
            ((IMAGES, None), "its flags are NoneType; expected a list or an array"),
            ((IMAGES, [True, 2]), "the flag of pair 1 is 2; expected True or False, or 1 or 0"),
            ((IMAGES, [None, True]), "the flag of pair 0 is NoneType"),
            ((IMAGES, np.array([1, -1])), "the flag of pair 1 is -1"),
            ((IMAGES, [True]), "4 images and 1 flags; a set of P pairs has 2P images and P flags"),
            ((IMAGES[:3], SAME), "3 images and 2 flags"),
            (([], []), "0 images and 0 flags; a set of P pairs has 2P images and P flags, P at"),
        ],
    )
    def test_no_set(self, tmp_path: Path, value: Any, found: str) -> None:
        assert found in refusal(tmp_path, pickle.dumps(value, 4))

    def test_an_array_of_pixels(self, tmp_path: Path) -> None:
        pixels = np.zeros((112, 112, 3), np.uint8)
        message = refusal(tmp_path, pickle.dumps(([pixels, pixels], [True])))
        assert "an array of 3 axes, 3 of them longer than 1; expected shape (n,)" in message
        assert "encode each image as JPEG or PNG" in message

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"", "byte 0: the file is cut short"),
            (b"\xff\xd8\xff\xe0", "byte 0: 0xff is no opcode"),
            (b"hello", "byte 4: opcode OBJ"),
            (b"PK\x03\x04", "is compressed by zip"),
            (b"P1\n.", "byte 0: opcode PERSID"),
            (b"\x80\x06N.", "protocol: 6"),
            (b"\x80\x04\x95" + bytes([9] + [0] * 7) + b"N.", "byte 2: a frame of 9 bytes"),
            (b"\x80\x02T\xff\xff\xff\xff", "byte 2: the file is cut short"),
            (b"\x80\x02X\x01\x00\x00\x00\xff.", "'utf-8' codec can't decode"),
            (b"\x80\x02h\x07.", "index 7"),
            (b"\x80\x02.", "underflow"),
            (b"\x80\x02N(a.", "unexpected MARK"),
            (b"\x80\x02t.", "could not find MARK"),
            (b"\x80\x02NN.", "holds NoneType"),
            (b"\x80\x02NNa.", "has no attribute"),
            (b"\x80\x02" + b"(" * 200 + b".", "is no sound pickle"),
            (b"\x80\x02" + b"(" * 200 + b"t" * 200 + b".", "holds a tuple of 1 elements"),
            (b"\x80\x02)" + b"\x85" * 100_000 + b".", "holds a tuple of 1 elements"),
            (b"I1", "byte 0: the file is cut short"),
            (b"cnumpy\n", "byte 0: the file is cut short"),
            (b"I1_0\n.", "holds int"),
            (b"L" + b"9" * 5000 + b"L\n.", "byte 0: a number of 5002 characters"),
            (b"S'abc\n.", "must be quoted"),
            (b"S'a\\q'\n.", "lfw.bin: "),
            (b"NK\x01\x93.", "requires str"),
            (b"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", "'latin-1' codec can't encode"),
            (b"\x80\x04\x8c\0\x8c\0\x93.", "names ., which could run code"),
            (b"c\n\n.", "truncated"),
            (b"cnumpy\n\xff\n.", "'utf-8' codec can't decode"),
        ],
    )
    def test_no_stream(self, tmp_path: Path, data: bytes, found: str) -> None:
        assert found in refusal(tmp_path, data)

    def test_an_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"none\.bin: cannot be read: No such file"):
            read_bin(tmp_path / "none.bin")


class TestMemory:
    """A length in the stream makes nothing large; repetition is bounded by the file's size."""

    def measured(self, tmp_path: Path, data: bytes) -> tuple[str, int]:
        path = tmp_path / "lfw.bin"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(SourceError) as raised:
                read_bin(path)
            return str(raised.value), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "stream",
        [
            b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),
            b"\x80\x05\x96" + struct.pack("<Q", 1 << 40),
            b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40),
            b"\x80\x03B" + struct.pack("<I", (1 << 32) - 1),
            b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1),
            b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b"0.",
            b"\x80\x02Np999999999999999999\n0.",
            b"\x80\x04\x95" + struct.pack("<Q", 1 << 60),
        ],
    )
    def test_lengths(self, tmp_path: Path, stream: bytes) -> None:
        assert self.measured(tmp_path, stream)[1] < 100_000

    @pytest.mark.parametrize("shape", [(1 << 40,), (1 << 30, 1), (True,), (2, 2), (-4,), ()])
    def test_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        class Shaped:
            def __reduce__(self) -> tuple[Any, ...]:
                state = (1, shape, np.dtype(np.uint8), False, b"abcd")
                return RECONSTRUCT, (np.ndarray, (0,), b"b"), state

        message, peak = self.measured(tmp_path, pickle.dumps(([Shaped()], [True]), 4))
        assert "an array of " in message
        assert peak < 100_000

    @pytest.mark.parametrize("protocol", [3, 4, 5])
    @pytest.mark.parametrize("flavour", ["bytes", "flat", "column"])
    def test_images_are_views_of_the_file(
        self, tmp_path: Path, flavour: str, protocol: int
    ) -> None:
        images = [AS_ARRAY[flavour](bytes([k]) * 100_000) for k in range(40)]
        data = pickle.dumps((images, [True] * 20), protocol)
        tracemalloc.start()
        try:
            found = read_bin(tmp_path / "lfw.bin", data)
            assert tracemalloc.get_traced_memory()[1] < 200_000
        finally:
            tracemalloc.stop()
        assert [bytes(image) for image in found.images] == [bytes([k]) * 100_000 for k in range(40)]

    def test_one_text_encoded_again_and_again(self, tmp_path: Path) -> None:
        text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x00"
        encode = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02"
        again = b"h\x01h\x00h\x02\x86R"
        message, peak = self.measured(
            tmp_path, b"\x80\x02]" + text + encode + again * 10_000 + b"."
        )
        assert "encodes more text than the file holds" in message
        assert peak < 1_000_000

    def test_a_swarm_of_tiny_values(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pickle_stream, "_OPCODES_ALWAYS", 1000)
        message, peak = self.measured(tmp_path, b"\x80\x02" + b"]" * 500_000)
        assert "more values than a file of this size should have" in message
        assert peak < 8_000_000

    def test_a_list_that_holds_itself(self, tmp_path: Path) -> None:
        itself: list[Any] = []
        itself.append(itself)
        for protocol in (2, 4):
            for value in (itself, (itself, itself), (itself, [True])):
                refusal(tmp_path, pickle.dumps(value, protocol))


class TestFuzz:
    """Damage gives a set or a SourceError, never another end, and never much memory."""

    streams = (
        python2_stream([b"one", b"two"], [True], 0),
        python2_stream([b"one", b"two"], [True], 2),
        pickle.dumps(
            ([np.frombuffer(b"one", np.uint8), np.array([[1], [2]], np.uint8)], [True]), 2
        ),
        pickle.dumps(([b"one", b"two"], [np.bool_(True)]), 4),
        pickle.dumps(([np.frombuffer(b"one", np.uint8)] * 2, np.array([1])), 5),
    )

    def outcome(self, path: Path, data: bytes) -> BinSet | None:
        path.write_bytes(data)
        try:
            found = read_bin(path)
        except SourceError as error:
            assert str(path) in str(error)
            return None
        assert len(found.images) == 2 * len(found.issame)
        assert all(isinstance(bytes(image), bytes) for image in found.images)
        return found

    @pytest.mark.parametrize("stream", streams, ids=range(len(streams)))
    def test_every_flipped_bit(self, tmp_path: Path, stream: bytes) -> None:
        for bit in range(8 * len(stream)):
            damaged = bytearray(stream)
            damaged[bit // 8] ^= 1 << bit % 8
            self.outcome(tmp_path / "a.bin", bytes(damaged))

    @pytest.mark.parametrize("stream", streams, ids=range(len(streams)))
    def test_the_memory_of_large_numbers(self, tmp_path: Path, stream: bytes) -> None:
        tracemalloc.start()
        try:
            for at in range(len(stream)):
                damaged = bytearray(stream)
                damaged[at] ^= 0x80
                self.outcome(tmp_path / "a.bin", bytes(damaged))
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_what_is_read_of_damage_is_what_pickle_reads(self, tmp_path: Path) -> None:
        rng = random.Random(0)
        sound = [python2_stream([b"one", b"two"], [True], protocol) for protocol in (0, 1, 2)]
        sound += [pickle.dumps(([b"one", b"two"], [True]), protocol) for protocol in (2, 3, 4)]
        opcodes = [operation.code.encode("latin-1") for operation in pickletools.opcodes]
        read = 0
        for _ in range(1000):
            stream = bytearray(rng.choice(sound))
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(stream))
                if rng.random() < 0.5:
                    stream[at] ^= 1 << rng.randrange(8)
                else:
                    stream[at : at + rng.randrange(3)] = rng.choice(opcodes)
            found = self.outcome(tmp_path / "a.bin", bytes(stream))
            if found is not None:
                read += 1
                images, flags = pickle.loads(stream, encoding="bytes")
                assert [bytes(image) for image in found.images] == list(images)
                assert found.issame.tolist() == list(flags)
        assert read > 30

    @pytest.mark.parametrize("stream", streams, ids=range(len(streams)))
    def test_every_truncation(self, tmp_path: Path, stream: bytes) -> None:
        for length in range(len(stream)):
            assert self.outcome(tmp_path / "a.bin", stream[:length]) is None

    @settings(
        max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        pieces=st.lists(
            st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])
            | st.sampled_from(
                [
                    b"cnumpy\nndarray\n",
                    b"cnumpy\ndtype\n",
                    b"cnumpy.core.multiarray\n_reconstruct\n",
                    b"cnumpy.core.multiarray\nscalar\n",
                    b"cnumpy.core.numeric\n_frombuffer\n",
                    b"c_codecs\nencode\n",
                    b"U\x02u1",
                    b"U\x01b",
                    b"Vlatin1\n",
                    b"K\x00\x85",
                    b"K\x01\x85",
                    b"\x80\x02",
                ]
            )
            | st.binary(max_size=3),
            max_size=40,
        )
    )
    def test_any_opcodes(self, tmp_path: Path, pieces: list[bytes]) -> None:
        self.outcome(tmp_path / "a.bin", b"".join(pieces) + b".")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(("name", "pairs"), [("lfw", 6_000), ("cfp_fp", 2_000)])
def test_real_sets(name: str, pairs: int) -> None:
    found = read_bin(DATA / f"{name}.bin")
    assert len(found) == pairs
    assert len(found.images) == 2 * pairs
    assert np.count_nonzero(found.issame) == pairs // 2
    with (DATA / f"{name}.bin").open("rb") as file:
        images, flags = pickle.load(file, encoding="bytes")
    assert found.issame.tolist() == list(flags)
    for image, twin in zip(found.images, images, strict=True):
        assert image == (twin if isinstance(twin, bytes) else twin.tobytes())


def test_a_file_beyond_any_set_is_not_read(tmp_path):
    file = tmp_path / "lfw.bin"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 36)
    with pytest.raises(SourceError, match=r"at most 1,073,741,824 .* FACEPACK_MAX_TABLE_BYTES"):
        read_bin(file)
