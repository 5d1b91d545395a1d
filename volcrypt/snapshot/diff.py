"""Which chunks of two snapshots differ: told by their digests, page by page, without any data."""

from collections.abc import Iterator

from volcrypt.formats.pages import PAGE_CHUNKS, differing_positions
from volcrypt.snapshot.table import ChunkTable


def changed_chunks(older: ChunkTable, newer: ChunkTable) -> Iterator[int]:
    """Ascending indexes of the chunks that differ. Both are of one size, or shown so; digests and
    data keys are the same. Pages that both have are not read.

    Raises FormatError and IntegrityError.
    """
    assert older.size_bytes == newer.size_bytes, "internal error: tables of different sizes"
    for number in differing_positions(older.page_digests, newer.page_digests):
        first = number * PAGE_CHUNKS
        for position in differing_positions(older.page(number), newer.page(number)):
            yield first + position
