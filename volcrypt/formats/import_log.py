"""The log of an import: what was read of the source, chunk by chunk, to compare the volume with.

One entry for each chunk that is not all zeros, ascending, 40 bytes:

    offset  length
         0       8  index of the chunk, little endian
         8      32  BLAKE3 of its plaintext (512 KiB, shorter at the end), masked

A digest of plaintext says which of some guesses it is, so it is not written as it is: its mask is
the keyed BLAKE3 of the index, under a key that the KMS derives for the import. The log has no seal
of its own. Its *chain* begins with 32 zero bytes, and with each entry becomes the BLAKE3 of itself
and the entry; the cursor, which is sealed, has the chain and the number of entries.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import blake3

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import MalformedError

ENTRY_BYTES: Final = 8 + DIGEST_BYTES
EMPTY_CHAIN: Final = bytes(DIGEST_BYTES)
_INDEX: Final = struct.Struct("<Q")


class ImportChain:
    """Makes or reads entries in order. `key` has 32 bytes."""

    def __init__(self, key: bytes | bytearray, *, chain: bytes = EMPTY_CHAIN) -> None:
        self.chain = chain
        self._key = key

    def entry(self, index: int, digest: bytes) -> bytes:
        """The next entry."""
        number = _INDEX.pack(index)
        entry = number + self._masked(number, digest)
        self._extend(entry)
        return entry

    def read(self, entry: bytes) -> tuple[int, bytes]:
        """`(index, digest)` of the next entry. Nothing of the log may be believed before the chain
        at its end was compared with the cursor's."""
        number = entry[: _INDEX.size]
        self._extend(entry)
        return _INDEX.unpack(number)[0], self._masked(number, entry[_INDEX.size :])

    def _masked(self, number: bytes, digest: bytes) -> bytes:
        mask = blake3.blake3(number, key=bytes(self._key)).digest()
        return bytes(a ^ b for a, b in zip(digest, mask, strict=True))

    def _extend(self, entry: bytes) -> None:
        self.chain = blake3.blake3(self.chain + entry).digest()


def read_entries(
    chain: ImportChain, entries: Iterable[bytes], *, chunks: int, what: str
) -> Iterator[tuple[int, bytes]]:
    """Indexes and digests, of a volume of so many chunks. Raises MalformedError, naming the log
    `what`, unless they ascend within it."""
    last = -1
    for entry in entries:
        if len(entry) != ENTRY_BYTES:
            raise MalformedError(what, "it was cut short")
        index, digest = chain.read(entry)
        if not last < index < chunks:
            raise MalformedError(what, "its entries are in disorder")
        last = index
        yield index, digest


class ContentDigest:
    """One digest of all that a volume or image holds, whose cost follows the data: BLAKE3 over its
    size, and index and BLAKE3 of each 512 KiB that are not all zeros, ascending (8 bytes little
    endian each, 32 bytes). Import and export give the same for the same content."""

    def __init__(self, size_bytes: int) -> None:
        self._hash = blake3.blake3(b"volcrypt content 1\0" + _INDEX.pack(size_bytes))

    def add(self, index: int, digest: bytes) -> None:
        """The next chunk that is not all zeros."""
        self._hash.update(_INDEX.pack(index) + digest)

    def hex(self) -> str:
        return self._hash.hexdigest()
