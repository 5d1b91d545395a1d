"""The write intents' bytes: the worked example, and that every damage sets bits and clears none."""

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
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES, SECTOR_BITS
from volcrypt.formats.write_intents import (
    REGIONS,
    SMALLEST_REGION_BYTES,
    IntentsHeader,
    decode_header,
    decode_sectors,
    encode_header,
    encode_sector,
    region_bytes_for,
    sector_offset,
)
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId

HEADER = IntentsHeader(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=9 * SMALLEST_REGION_BYTES + UNIT_BYTES,
    region_bytes=SMALLEST_REGION_BYTES,
    migration=bytes(range(16)),
)


def bits_of(*regions: int) -> bytes:
    bits = bytearray(SECTOR_BITMAP_BYTES)
    for region in regions:
        bits[region // 8] |= 1 << region % 8
    return bytes(bits)


def encode(header: IntentsHeader, *regions: int) -> bytes:
    return encode_header(header) + encode_sector(header, 0, bits_of(*regions))


def test_the_worked_example() -> None:
    data = golden_bytes("v1", "write-intents")
    assert encode(HEADER, 0, 9) == data
    assert decode_header(data[:SECTOR_BYTES], what="file") == HEADER
    assert decode_sectors(HEADER, data[SECTOR_BYTES:]) == bits_of(0, 9)
    assert HEADER.file_bytes == len(data) == 2 * SECTOR_BYTES
    assert data[sector_offset(0) + 16] == 1
    assert data[sector_offset(0) + 17] == 2


def test_no_cut_and_no_flipped_bit_clears_anything() -> None:
    data = encode(HEADER, 0, 9)
    everything = b"\xff" * SECTOR_BITMAP_BYTES
    for length in range(len(data)):
        if length < SECTOR_BYTES:
            with pytest.raises((FormatError, IntegrityError)):
                decode_header(data[:length], what="file")
        else:
            assert decode_sectors(HEADER, data[SECTOR_BYTES:length]) == everything
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit < 8 * SECTOR_BYTES:
            with pytest.raises((FormatError, IntegrityError)):
                decode_header(bytes(damaged[:SECTOR_BYTES]), what="file")
        else:
            assert decode_sectors(HEADER, bytes(damaged[SECTOR_BYTES:])) == everything


def test_a_sector_of_zeros_says_nothing() -> None:
    assert decode_sectors(HEADER, bytes(SECTOR_BYTES)) == b"\xff" * SECTOR_BITMAP_BYTES
    assert decode_sectors(HEADER, encode_sector(HEADER, 0, bits_of())) == bits_of()


@pytest.mark.parametrize(
    "other",
    [
        replace(HEADER, migration=bytes(16)),
        replace(HEADER, volume_id=VolumeId("vol-" + 17 * "f")),
        replace(HEADER, size_bytes=HEADER.size_bytes + UNIT_BYTES),
        replace(HEADER, region_bytes=2 * SMALLEST_REGION_BYTES),
    ],
)
def test_sectors_of_another_file_say_nothing(other: IntentsHeader) -> None:
    assert decode_sectors(HEADER, encode_sector(other, 0, bits_of(1)))[0] == 0xFF


def test_sectors_in_each_others_place_say_nothing() -> None:
    header = replace(HEADER, size_bytes=2 * SECTOR_BITS * SMALLEST_REGION_BYTES)
    assert header.sector_count == 2
    own = [encode_sector(header, index, bits_of(index)) for index in range(2)]
    assert decode_sectors(header, b"".join(own)) == bits_of(0) + bits_of(1)
    assert decode_sectors(header, own[1] + own[0]) == b"\xff" * (2 * SECTOR_BITMAP_BYTES)


def test_other_kinds_and_versions_are_refused_by_name() -> None:
    with pytest.raises(BadMagicError):
        decode_header(b"VCRYPPRS".ljust(SECTOR_BYTES, b"\0"), what="file")
    with pytest.raises(UnsupportedVersionError):
        decode_header(_with(encode_header(HEADER), 8, (2).to_bytes(4, "little")), what="file")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (12, b"\x01"),
        (16, b"snap-0123456789abcdef0"),
        (16, b"\xff"),
        (48, bytes(8)),
        (48, (UNIT_BYTES + 1).to_bytes(8, "little")),
        (48, (MAX_VOLUME_BYTES + UNIT_BYTES).to_bytes(8, "little")),
        (56, bytes(8)),
        (56, (CHUNK_BYTES + UNIT_BYTES).to_bytes(8, "little")),
        (80, b"x"),
    ],
)
def test_values_that_cannot_be_are_refused(offset: int, value: bytes) -> None:
    with pytest.raises(MalformedError, match="contradict"):
        decode_header(_with(encode_header(HEADER), offset, value), what="file")


@pytest.mark.parametrize("size_bytes", [UNIT_BYTES, 2**30, 2**37, 2**37 + UNIT_BYTES, 2**46])
def test_there_are_no_more_regions_than_a_few_sectors_hold(size_bytes: int) -> None:
    header = replace(HEADER, size_bytes=size_bytes, region_bytes=region_bytes_for(size_bytes))
    assert header.region_count <= REGIONS
    assert header.region_bytes % CHUNK_BYTES == 0
    assert decode_header(encode_header(header), what="file") == header


@given(st.binary(max_size=2 * SECTOR_BYTES))
def test_junk_clears_nothing(data: bytes) -> None:
    assert decode_sectors(HEADER, data) == b"\xff" * SECTOR_BITMAP_BYTES
    with pytest.raises((FormatError, IntegrityError)):
        decode_header(data, what="file")


def _with(sector: bytes, offset: int, value: bytes) -> bytes:
    """The sector with other bytes in it, and the right digest."""
    covered = bytearray(sector[:480])
    covered[offset : offset + len(value)] = value
    return bytes(covered) + hashlib.sha256(covered).digest()
