"""Pages and tables: which chunk of a snapshot is which object. Objects named by their own digest.

    page    b"volcrypt page 1\\n"    then the digests of up to 1024 chunks in order, 32 bytes each
    table   b"volcrypt table 1\\n"   then the digests of all pages of the snapshot, 32 bytes each

Page n covers chunks 1024 n to 1024 n + 1023; the last page and no other may cover fewer. A chunk
whose ciphertext is all zero is a hole: ZERO_DIGEST stands for it, and no object is stored. The
same for a page of holes, and for a table of such pages. The digest of the table is the snapshot's
*root*, which the manifest signs; so everything below needs no signature, and what two snapshots
have in common is stored once.

A page is 32 KiB and covers 512 MiB; the table of the largest volume (64 TiB) is 4 MiB.
"""

from typing import Final

import numpy as np
from typing_extensions import Buffer

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST
from volcrypt.errors import BadMagicError, MalformedError, UnsupportedVersionError
from volcrypt.geometry import chunk_count

PAGE_CHUNKS: Final = 1024
VERSION: Final = 1


def page_count(size_bytes: int) -> int:
    """How many pages the table of a volume of this size names."""
    return -(-chunk_count(size_bytes) // PAGE_CHUNKS)


def page_range(number: int, size_bytes: int) -> range:
    """The indexes of the chunks that page `number` covers."""
    first = number * PAGE_CHUNKS
    return range(first, min(first + PAGE_CHUNKS, chunk_count(size_bytes)))


def encode_page(digests: Buffer) -> bytes:
    return _encode("page", digests)


def decode_page(data: bytes, *, number: int, size_bytes: int, what: str) -> bytes:
    """The digests in page `number` of a volume of this size, concatenated. Raises FormatError."""
    return _decode("page", data, len(page_range(number, size_bytes)), what=what)


def encode_table(digests: Buffer) -> bytes:
    return _encode("table", digests)


def decode_table(data: bytes, *, size_bytes: int, what: str) -> bytes:
    """The digests of all pages of a volume of this size, concatenated. Raises FormatError."""
    return _decode("table", data, page_count(size_bytes), what=what)


def digest_at(digests: Buffer, position: int) -> bytes:
    """The digest at `position` of what `decode_page` and `decode_table` return."""
    return bytes(memoryview(digests)[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES])


def stored_positions(digests: Buffer) -> list[int]:
    """Ascending positions of the digests that are not ZERO_DIGEST."""
    words = np.frombuffer(memoryview(digests), dtype=np.uint64).reshape(-1, DIGEST_BYTES // 8)
    positions: list[int] = np.flatnonzero(words.any(axis=1)).tolist()
    return positions


def differing_positions(one: Buffer, other: Buffer) -> list[int]:
    """Ascending positions at which two lists of as many digests differ."""
    ours, theirs = (
        np.frombuffer(memoryview(digests), dtype=np.uint64).reshape(-1, DIGEST_BYTES // 8)
        for digests in (one, other)
    )
    positions: list[int] = np.flatnonzero((ours != theirs).any(axis=1)).tolist()
    return positions


def all_holes(digest_count: int) -> bytearray:
    """The digests of a page or table that holds nothing yet."""
    return bytearray(ZERO_DIGEST * digest_count)


def _header(kind: str) -> bytes:
    return f"volcrypt {kind} {VERSION}\n".encode()


def _encode(kind: str, digests: Buffer) -> bytes:
    return _header(kind) + bytes(digests)


def _decode(kind: str, data: bytes, digest_count: int, *, what: str) -> bytes:
    header = _header(kind)
    if not data.startswith(header):
        words = data[:64].split(b"\n")[0].split(b" ")
        if words[:2] != [b"volcrypt", kind.encode()]:
            raise BadMagicError(what)
        if len(words) == 3 and words[2].isdigit() and len(words[2]) < 10:
            raise UnsupportedVersionError(what, int(words[2]), VERSION)
        raise MalformedError(what, "truncated or damaged")
    if len(data) != len(header) + digest_count * DIGEST_BYTES:
        raise MalformedError(what, "not of the length that the volume's size asks for")
    return data[len(header) :]
