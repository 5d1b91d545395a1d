"""The present map's bytes: the worked example, every damage, and values that cannot be."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MalformedError,
    UnsupportedVersionError,
)
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES
from volcrypt.formats.present_map import (
    SECTOR_CHUNKS,
    PresentHeader,
    decode_header,
    decode_sectors,
    encode_header,
    encode_sector,
    sector_offset,
)
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId

HEADER = PresentHeader(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=9 * CHUNK_BYTES + UNIT_BYTES,
    root=bytes(range(32)),
)


def bits_of(*chunks: int) -> bytes:
    bits = bytearray(SECTOR_BITMAP_BYTES)
    for chunk in chunks:
        bits[chunk // 8] |= 1 << chunk % 8
    return bytes(bits)


def encode(header: PresentHeader, *chunks: int) -> bytes:
    return encode_header(header) + encode_sector(header, 0, bits_of(*chunks))


def decode(data: bytes) -> tuple[PresentHeader, bytes]:
    header = decode_header(data[:SECTOR_BYTES], what="map")
    return header, bytes(decode_sectors(header, data[SECTOR_BYTES:], what="map"))


def test_the_worked_example() -> None:
    data = golden_bytes("v1", "present-map")
    assert decode(data) == (HEADER, bits_of(0, 9))
    assert encode(HEADER, 0, 9) == data
    assert HEADER.file_bytes == len(data) == 2 * SECTOR_BYTES
    assert data[sector_offset(0) + 16] == 1
    assert data[sector_offset(0) + 17] == 2


def test_nothing_is_present_in_sectors_of_zeros() -> None:
    assert encode_sector(HEADER, 0, bits_of()) == bytes(SECTOR_BYTES)
    header = replace(HEADER, size_bytes=(2 * SECTOR_CHUNKS + 1) * CHUNK_BYTES)
    assert header.sector_count == 3
    decoded = decode_sectors(header, bytes(3 * SECTOR_BYTES), what="map")
    assert decoded == bytes(3 * SECTOR_BITMAP_BYTES)


def test_every_cut_and_every_flipped_bit_is_found() -> None:
    data = encode(HEADER, 0, 9)
    for length in range(len(data)):
        with pytest.raises((FormatError, IntegrityError)):
            decode(data[:length])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, IntegrityError)):
            decode(bytes(damaged))


def test_sectors_of_another_place_volume_or_snapshot_are_refused() -> None:
    header = replace(HEADER, size_bytes=2 * SECTOR_CHUNKS * CHUNK_BYTES)
    own = [encode_sector(header, index, bits_of(index)) for index in range(2)]
    assert decode_sectors(header, b"".join(own), what="map")[0] == 1
    for strange in (
        own[1] + own[0],
        own[0] + own[0],
        encode_sector(replace(header, root=bytes(32)), 0, bits_of(0)) + own[1],
        encode_sector(replace(header, volume_id=VolumeId("vol-" + 17 * "f")), 0, bits_of(0))
        + own[1],
    ):
        with pytest.raises(IntegrityError, match="map: it is damaged in sector"):
            decode_sectors(header, strange, what="map")


def test_bits_behind_the_last_chunk_are_refused() -> None:
    with pytest.raises(MalformedError, match="behind its last chunk"):
        decode(encode(HEADER, 0, 10))


def test_a_complete_map_says_so() -> None:
    complete = replace(HEADER, complete=True)
    assert decode_header(encode_header(complete), what="map") == complete


def test_other_kinds_and_versions_are_refused_by_name() -> None:
    with pytest.raises(BadMagicError):
        decode_header(b"VCRYPMAP".ljust(SECTOR_BYTES, b"\0"), what="map")
    with pytest.raises(UnsupportedVersionError):
        decode_header(_with(encode_header(HEADER), 8, (2).to_bytes(4, "little")), what="map")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (12, (2).to_bytes(4, "little")),
        (16, b"snap-0123456789abcdef0"),
        (16, b"\xff"),
        (48, bytes(8)),
        (48, (UNIT_BYTES + 1).to_bytes(8, "little")),
        (48, (MAX_VOLUME_BYTES + UNIT_BYTES).to_bytes(8, "little")),
        (56, (4096).to_bytes(8, "little")),
        (96, b"x"),
    ],
)
def test_values_that_cannot_be_are_refused(offset: int, value: bytes) -> None:
    with pytest.raises(MalformedError, match="contradict"):
        decode_header(_with(encode_header(HEADER), offset, value), what="map")


@given(st.binary(max_size=2 * SECTOR_BYTES))
def test_junk_raises_nothing_else(data: bytes) -> None:
    for junk in (data, encode_header(HEADER) + data):
        try:
            decode(junk)
        except (FormatError, IntegrityError):
            continue
        assert junk[SECTOR_BYTES:] == bytes(SECTOR_BYTES)


def _with(sector: bytes, offset: int, value: bytes) -> bytes:
    """The sector with other bytes in it, and the right digest."""
    covered = bytearray(sector[:480])
    covered[offset : offset + len(value)] = value
    return bytes(covered) + hashlib.sha256(covered).digest()
