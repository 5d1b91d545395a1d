"""Which chunks a page covers, and the worked sizes of the docstring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import BadMagicError, MalformedError
from volcrypt.formats.pages import (
    PAGE_CHUNKS,
    all_holes,
    decode_page,
    decode_table,
    digest_at,
    encode_page,
    encode_table,
    page_count,
    page_range,
    stored_positions,
)
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, chunk_count


@given(st.integers(1, 2**40).map(lambda units: units * 4096).filter(lambda s: s <= 2**46))
def test_pages_cover_every_chunk_once(size_bytes: int) -> None:
    count = page_count(size_bytes)
    assert (count - 1) * PAGE_CHUNKS < chunk_count(size_bytes) <= count * PAGE_CHUNKS
    last = page_range(count - 1, size_bytes)
    assert last.stop == chunk_count(size_bytes)
    assert 0 < len(last) <= PAGE_CHUNKS
    if count > 1:
        assert page_range(count - 2, size_bytes).stop == last.start


def test_the_sizes_that_the_specification_names() -> None:
    assert len(encode_page(all_holes(PAGE_CHUNKS))) == 32 * 1024 + 16
    assert page_count(MAX_VOLUME_BYTES) * 32 == 4 * 2**20
    assert PAGE_CHUNKS * CHUNK_BYTES == 512 * 2**20
    assert encode_page(b"") == b"volcrypt page 1\n"
    assert encode_table(b"") == b"volcrypt table 1\n"


@given(st.lists(st.sampled_from([bytes(32), bytes(31) + b"\1", b"\1" * 32]), min_size=1))
def test_stored_positions_are_those_that_are_not_holes(digests: list[bytes]) -> None:
    joined = b"".join(digests)
    expected = [position for position, digest in enumerate(digests) if any(digest)]
    assert stored_positions(joined) == stored_positions(bytearray(joined)) == expected
    assert [digest_at(joined, position) for position in range(len(digests))] == digests
    size_bytes = len(digests) * CHUNK_BYTES
    page = decode_page(encode_page(joined), number=0, size_bytes=size_bytes, what="page")
    assert page == joined


@pytest.mark.parametrize("data", [b"", b"volcrypt table 1\n", b"volcrypt page", b"PK\3\4"])
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises((BadMagicError, MalformedError)):
        decode_table(data, size_bytes=CHUNK_BYTES, what="table")
