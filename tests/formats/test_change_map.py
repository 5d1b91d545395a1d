"""The clean copy of a change map: its bytes, and refusing what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.errors import FormatError, MalformedError, SealError, UnsupportedVersionError
from volcrypt.formats.change_map import (
    ParentPoint,
    bitmap_length,
    decode_change_map,
    encode_change_map,
)
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES
from volcrypt.names import SnapshotId, StoreId, VolumeId

SEAL = MacSeal(bytes(32))
VOLUME = VolumeId("vol-0123456789abcdef0")
PARENT = ParentPoint(
    store_id=StoreId("store-0123456789abcdef0"),
    snapshot_id=SnapshotId("snap-0123456789abcdef0"),
    root=bytes(range(32)),
)
SIZE = 10 * CHUNK_BYTES
BITMAP = b"\x01\x02"
"""Chunks 0 and 9 of 10."""


def encode(
    *,
    bitmap: bytes = BITMAP,
    size_bytes: int = SIZE,
    parent: ParentPoint = PARENT,
    volume_id: VolumeId = VOLUME,
) -> bytes:
    return encode_change_map(
        bitmap,
        SEAL,
        volume_id=volume_id,
        size_bytes=size_bytes,
        parent=parent,
        data_bytes=size_bytes,
        data_mtime_ns=1_700_000_000_123_456_789,
    )


def test_the_worked_example() -> None:
    assert encode() == golden_bytes("v1", "change-map")


def test_version_1_stays_readable() -> None:
    body, bitmap = decode_change_map(golden_bytes("v1", "change-map"), SEAL, what="map")
    assert bitmap == BITMAP
    assert body.volume_id == VOLUME
    assert body.parent == PARENT
    assert (body.size_bytes, body.chunk_bytes, body.data_bytes) == (SIZE, CHUNK_BYTES, SIZE)
    assert body.data_mtime_ns == 1_700_000_000_123_456_789


@given(st.binary(min_size=1, max_size=64))
def test_decode_gives_what_was_encoded(bitmap: bytes) -> None:
    size = len(bitmap) * 8 * CHUNK_BYTES
    body, decoded = decode_change_map(encode(bitmap=bitmap, size_bytes=size), SEAL, what="map")
    assert decoded == bitmap
    assert body.size_bytes == size


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(4096, 1), (8 * CHUNK_BYTES, 1), (8 * CHUNK_BYTES + 4096, 2), (MAX_VOLUME_BYTES, 2**24)],
)
def test_length_of_the_bitmap(size_bytes: int, expected: int) -> None:
    assert bitmap_length(size_bytes) == expected


def test_every_cut_and_every_extra_byte_is_refused() -> None:
    data = encode()
    for length in range(len(data)):
        with pytest.raises((FormatError, SealError), match="the map"):
            decode_change_map(data[:length], SEAL, what="the map")
    with pytest.raises(MalformedError):
        decode_change_map(data + b"\0", SEAL, what="the map")


def test_every_flipped_bit_is_refused() -> None:
    data = encode()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises((FormatError, SealError)):
            decode_change_map(bytes(damaged), SEAL, what="the map")


@given(st.binary(max_size=300))
def test_junk_raises_format_errors_only(junk: bytes) -> None:
    for data in (junk, b"volcrypt change-map 1\n" + junk, b"volcrypt " + junk):
        with pytest.raises((FormatError, SealError)):
            decode_change_map(data, SEAL, what="the map")


def test_another_key() -> None:
    with pytest.raises(SealError):
        decode_change_map(encode(), MacSeal(bytes([1] * 32)), what="the map")


def test_unknown_version() -> None:
    data = encode().replace(b"change-map 1", b"change-map 2", 1)
    with pytest.raises(UnsupportedVersionError, match="version 2 is not supported"):
        decode_change_map(data, SEAL, what="the map")


def test_sealed_values_that_contradict_each_other() -> None:
    short_root = ParentPoint(
        store_id=PARENT.store_id, snapshot_id=PARENT.snapshot_id, root=bytes(31)
    )
    with pytest.raises(MalformedError, match="contradict"):
        decode_change_map(encode(parent=short_root), SEAL, what="the map")
    with pytest.raises(MalformedError, match="contradict"):
        decode_change_map(encode(bitmap=b"", size_bytes=0), SEAL, what="the map")

    with pytest.raises(MalformedError, match="contradict"):
        decode_change_map(encode(volume_id=VolumeId("vol-1")), SEAL, what="the map")


def test_the_largest_volume() -> None:
    data = encode(bitmap=bytes(2**24), size_bytes=MAX_VOLUME_BYTES)
    body, _ = decode_change_map(data, SEAL, what="the map")
    assert body.size_bytes == MAX_VOLUME_BYTES


def test_a_document_that_was_cut_is_not_called_something_else() -> None:
    with pytest.raises(MalformedError, match="truncated"):
        decode_change_map(encode()[:40], SEAL, what="the map")


def test_a_bitmap_of_another_size_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="internal error"):
        encode(bitmap=b"\1")
