"""Arithmetic of ranges, and the sizes that people write."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import InvalidArgumentError
from volcrypt.geometry import (
    CHUNK_BYTES,
    MAX_VOLUME_BYTES,
    SECTOR_BYTES,
    UNIT_BYTES,
    UNITS_PER_CHUNK,
    ByteRange,
    align_to_units,
    check_volume_size,
    chunk_count,
    chunk_range,
    chunks_of,
    format_size,
    is_unit_aligned,
    parse_size,
    split_at_chunks,
)

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

# Near the edges of units and chunks, where mistakes live, and anywhere.
edges = st.builds(
    lambda edge, count, delta: max(0, edge * count + delta),
    st.sampled_from([SECTOR_BYTES, UNIT_BYTES, CHUNK_BYTES]),
    st.integers(0, 20),
    st.integers(-2, 2),
)
offsets = st.one_of(edges, st.integers(0, MAX_VOLUME_BYTES))
extents = st.builds(ByteRange, offsets, edges)


def test_constants_fit_together() -> None:
    assert CHUNK_BYTES == UNITS_PER_CHUNK * UNIT_BYTES
    assert UNIT_BYTES % SECTOR_BYTES == 0
    assert MAX_VOLUME_BYTES % CHUNK_BYTES == 0


@given(extent=extents)
def test_split_at_chunks_covers_in_order_without_overlap(extent: ByteRange) -> None:
    pieces = list(split_at_chunks(extent))
    offset = extent.offset
    for piece in pieces:
        assert piece.offset == offset
        assert piece.length > 0
        assert len(chunks_of(piece)) == 1
        offset = piece.end
    assert offset == extent.end
    # As few pieces as there are chunks.
    assert len(pieces) == len(chunks_of(extent))


@given(extent=extents)
def test_chunks_of_names_exactly_the_touched_chunks(extent: ByteRange) -> None:
    chunks = chunks_of(extent)
    for chunk in {0, chunks.start - 1, chunks.start, chunks.stop - 1, chunks.stop}:
        touched = ByteRange(chunk * CHUNK_BYTES, CHUNK_BYTES).overlaps(extent)
        assert (chunk in chunks) == touched


@given(extent=extents.filter(lambda extent: extent.length > 0))
def test_align_to_units_is_the_smallest_cover(extent: ByteRange) -> None:
    cover = align_to_units(extent)
    assert is_unit_aligned(cover)
    assert cover.offset <= extent.offset < cover.offset + UNIT_BYTES
    assert cover.end - UNIT_BYTES < extent.end <= cover.end
    assert is_unit_aligned(extent) == (cover == extent)


@given(one=extents, other=extents)
def test_overlap_means_a_common_byte(one: ByteRange, other: ByteRange) -> None:
    common = range(max(one.offset, other.offset), min(one.end, other.end))
    assert one.overlaps(other) == other.overlaps(one) == (len(common) > 0)


def test_overlaps_of_small_ranges() -> None:
    for a, b, c, d in itertools.product(range(4), repeat=4):
        common = set(range(a, a + b)) & set(range(c, c + d))
        assert ByteRange(a, b).overlaps(ByteRange(c, d)) == bool(common)


@given(size_bytes=st.one_of(edges, st.integers(1, MAX_VOLUME_BYTES)).filter(bool))
def test_chunk_ranges_cover_a_volume(size_bytes: int) -> None:
    count = chunk_count(size_bytes)
    assert chunks_of(ByteRange(0, size_bytes)) == range(count)
    first, last = chunk_range(0, size_bytes), chunk_range(count - 1, size_bytes)
    assert first.offset == 0
    assert last.end == size_bytes
    assert 0 < last.length <= CHUNK_BYTES
    if count > 1:
        assert first.length == CHUNK_BYTES
        assert last.offset == chunk_range(count - 2, size_bytes).end


def test_no_chunks() -> None:
    assert chunk_count(0) == 0
    assert chunks_of(ByteRange(CHUNK_BYTES, 0)) == range(0)
    assert list(split_at_chunks(ByteRange(5, 0))) == []


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("512b", 512),
        ("1K", KIB),
        ("1k", KIB),
        ("1KiB", KIB),
        ("1Ki", KIB),
        ("1KB", 1000),
        ("1kb", 1000),
        ("500M", 500 * MIB),
        ("500MB", 500 * 10**6),
        ("10GiB", 10 * GIB),
        ("10gib", 10 * GIB),
        ("10GB", 10 * 10**9),
        ("2T", 2 * TIB),
        ("2TB", 2 * 10**12),
        ("64TiB", MAX_VOLUME_BYTES),
        ("007", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 GiB",
        " 1",
        "1\n",
        "-1",
        "+1",
        "1.5G",
        "1e3",
        "0x10",
        "G",
        "GiB",
        "1P",
        "1GiBB",
        "1BB",
        "1Bi",
        "1_000",
        "9" * 21,
        "9" * 5000,
        "1\u212a",  # the Kelvin sign, which is a K to a regular expression that ignores case
        "1G\u0130B",
        "\u0661",  # a digit to str.isdigit
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.hint == "write it like 10GiB or 500M"


@given(st.text(max_size=30))
def test_parse_size_raises_only_its_error(text: str) -> None:
    with contextlib.suppress(InvalidArgumentError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize("size_bytes", [UNIT_BYTES, 7 * UNIT_BYTES, GIB, MAX_VOLUME_BYTES])
def test_volume_sizes(size_bytes: int) -> None:
    assert check_volume_size(size_bytes) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "message"),
    [
        (0, "larger than zero"),
        (-UNIT_BYTES, "larger than zero"),
        (1, "multiple of 4096 bytes, 1 is not"),
        (UNIT_BYTES + 512, "multiple of 4096 bytes, 4608 is not"),
        (MAX_VOLUME_BYTES + UNIT_BYTES, "larger than 64 TiB"),
    ],
)
def test_what_no_volume_may_have(size_bytes: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_volume_size(size_bytes)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (MIB - 1, "1024 KiB"),
        (MIB, "1 MiB"),
        (300 * MIB, "300 MiB"),
        (int(1.25 * GIB), "1.25 GiB"),
        (64 * TIB, "64 TiB"),
        (5000 * TIB, "5000 TiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
