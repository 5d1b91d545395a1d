"""The write count: its golden file, every damage, and values that are not possible."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.errors import BadMagicError, FormatError, MalformedError, UnsupportedVersionError
from volcrypt.formats.write_count import WriteCount, decode_write_count, encode_write_count
from volcrypt.names import DataKeyId

COUNT = WriteCount(data_key_id=DataKeyId("dk-0123456789abcdef0"), written_bytes=2**32)


def decode(data: bytes) -> WriteCount:
    return decode_write_count(data, what="count")


def test_golden() -> None:
    data = golden_bytes("v1", "write-count")
    assert decode(data) == COUNT
    assert encode_write_count(COUNT) == data
    assert len(data) == 512


@given(st.integers(0, 2**63 - 1))
def test_round_trip(written: int) -> None:
    count = WriteCount(data_key_id=COUNT.data_key_id, written_bytes=written)
    data = encode_write_count(count)
    assert len(data) == 512
    assert decode(data) == count


def test_every_damage_is_found() -> None:
    data = encode_write_count(COUNT)
    for end in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:end])
    for position in range(len(data.rstrip())):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(FormatError):
                decode(bytes(damaged))
    with pytest.raises(MalformedError):
        decode(data + b"\n")


@given(st.binary(max_size=600))
def test_junk(data: bytes) -> None:
    for junk in (data, b"volcrypt write-count " + data, b"volcrypt write-count 1\n" + data):
        with pytest.raises(FormatError):
            decode(junk)


def sealed(text: bytes) -> bytes:
    return (text + hashlib.sha256(text).hexdigest().encode()).ljust(511) + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"\xff",
        b'{"data_key_id":"dk-0123456789abcdef0","written_bytes":-1}',
        b'{"data_key_id":"../record","written_bytes":1}',
        b'{"data_key_id":"dk-0123456789abcdef0","written_bytes":1,"more":2}',
    ],
)
def test_values_that_are_not_possible(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(sealed(b"volcrypt write-count 1\n" + body + b"\n"))


def test_another_version() -> None:
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        decode(sealed(b"volcrypt write-count 2\n{}\n"))
    with pytest.raises(MalformedError):
        decode(sealed(b"volcrypt write-count x\n{}\n"))
    with pytest.raises(BadMagicError):
        decode(b"volcrypt owner 1\n")
