"""Encrypted zips: the cipher in lockstep against a byte at a time, and passwords."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matrix.zip_cipher import encrypt, encrypted

from facepack.convert.formats.zip.crypto import decrypt, initial_keys
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

SecretZip = Callable[..., Path]


@pytest.fixture
def secret_zip(tmp_path: Path) -> SecretZip:
    """``secret_zip(password, count=8, method=…)``: a zip of encrypted members."""

    def make(
        password: bytes, count: int = 8, method: int = zipfile.ZIP_STORED, **options: int
    ) -> Path:
        rng = np.random.default_rng(count)
        plain = io.BytesIO()
        with zipfile.ZipFile(plain, "w", method) as archive:
            for i in range(count):
                data = rng.bytes(int(rng.integers(1, 400))) * 2
                archive.writestr(f"set/p{i // 3}/{i}.jpg", data)
        path = tmp_path / "0_0.zip"
        path.write_bytes(encrypted(plain.getvalue(), password, **options))  # type: ignore[arg-type]
        return path

    return make


@pytest.mark.parametrize("count", [0, 1, 5, 47, 48, 49, 130])
def test_lockstep_is_a_byte_at_a_time(count: int) -> None:
    rng = np.random.default_rng(count)
    lengths = rng.integers(0, 900, count)
    lengths[: count // 10] = rng.choice([0, 1, 255, 256, 257, 512, 3000], count // 10)
    plain = [rng.bytes(int(length)) for length in lengths]
    password = rng.bytes(7)
    cipher = [encrypt(text, password) for text in plain]
    assert [bytes(text) for text in decrypt(cipher, initial_keys(password))] == plain


@pytest.mark.parametrize("by_time", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("every", [1, 3])
def test_encrypted_zips_read_as_zipfile_reads_them(
    by_time: bool, method: int, every: int, secret_zip: SecretZip
) -> None:
    path = secret_zip(b"geheim", 70, method, by_time=by_time, every=every)
    source = ZipSource([path], password=b"geheim")
    part = pickle.loads(pickle.dumps(source.part(0, 70)))
    records = list(part.read())
    with zipfile.ZipFile(path) as archive:
        archive.setpassword(b"geheim")
        expected = [(info.filename, archive.read(info)) for info in archive.infolist()]
    assert [(r.name, bytes(r.image)) for r in records] == expected
    assert source.notices == []


def test_an_encrypted_zip_of_info_zip(shared: Path) -> None:
    path = shared / "webface-zips" / "encrypted-2_1.zip"
    source = ZipSource([path], password=b"webface")
    records = list(source.part(0, len(source)).read())
    with zipfile.ZipFile(path) as archive:
        archive.setpassword(b"webface")
        files = [info for info in archive.infolist() if not info.is_dir()]
        expected = [(info.filename, archive.read(info)) for info in files]
    assert [(r.name, bytes(r.image)) for r in records] == expected


def test_wrong_passwords(secret_zip: SecretZip) -> None:
    path = secret_zip(b"right")
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    begin = 30 + len(info.filename)
    header = path.read_bytes()[begin : begin + 12]
    wrong = [str(i).encode() for i in range(2000)]
    lucky = [p for p in wrong if decrypt([header], initial_keys(p))[0][-1] == info.CRC >> 24]
    assert lucky  # the check byte lets them pass
    for password in (b"", b"Right", *lucky[:3]):
        with pytest.raises(SourceError, match=r"0_0\.zip: wrong password.*--password-file") as e:
            ZipSource([path], password=password)
        assert not password or password not in str(e.value).encode()


def test_no_password(secret_zip: SecretZip) -> None:
    path = secret_zip(b"geheim", every=3)
    with pytest.raises(SourceError, match=r"set/p0/0\.jpg is encrypted; .*--password-file.*prompt"):
        ZipSource([path])


def test_a_password_for_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "0_0.zip", "w") as archive:
        archive.writestr("p/0.jpg", b"0")
    source = ZipSource([tmp_path / "0_0.zip"], password=b"geheim")
    assert source.notices == ["a password was given, but no image is encrypted"]


@pytest.mark.parametrize(("at", "value"), [(8, 0x41), (9, 0x20), (10, 99)])
def test_stronger_ciphers(at: int, value: int, secret_zip: SecretZip) -> None:
    path = secret_zip(b"geheim")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + at] = value
    path.write_bytes(data)
    for password in (None, b"geheim"):
        with pytest.raises(SourceError, match=r"0\.jpg is encrypted with AES or another strong"):
            ZipSource([path], password=password)


def test_damage_is_no_wrong_password(secret_zip: SecretZip) -> None:
    path = secret_zip(b"geheim")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offsets = [info.header_offset for info in archive.infolist()]
    data[offsets[0] + 30 + 12 + 11] ^= 1  # the encryption header's last byte
    data[offsets[1] + 30 + 12 + 12] ^= 1  # the image
    path.write_bytes(data)
    records = list(ZipSource([path], password=b"geheim").part(0, 8).read())
    found = [record for record in records if isinstance(record, Refusal)]
    assert [refusal.ordinal for refusal in found] == [0, 1]
    assert "the password does not fit this member" in found[0].reason
    assert "CRC-32" in found[1].reason
    assert all(isinstance(record, SourceRecord) for record in records[2:])


def test_the_password_stays_where_it_is(secret_zip: SecretZip) -> None:
    source = ZipSource([secret_zip(b"geheim")], password=b"geheim")
    assert "geheim" not in json.dumps(source.describe())
    part = source.part(0, 8)
    assert b"geheim" not in pickle.dumps(part)
    assert "geheim" not in repr(vars(part)) + repr(vars(source))
