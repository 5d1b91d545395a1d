"""CheckedObjects: pages and chunks of a store by their digests, which is all the proof they need.

Whoever knows a root can read everything below it with this: no certificate, no signature and no
document of the store is looked at.
"""

from typing_extensions import Buffer

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import ChunkCorruptError, ChunkMissingError, ObjectNotFoundError
from volcrypt.snapshot import layout
from volcrypt.snapshot.objects import ObjectStore


class CheckedObjects:
    """Safe for several threads at once."""

    def __init__(self, objects: ObjectStore, digest: DigestAlgorithm) -> None:
        self.objects = objects
        self.digest = digest

    def get_page(self, digest: bytes, *, where: str) -> bytes:
        """An encoded page or table. Raises ChunkMissingError and ChunkCorruptError."""
        try:
            data = self.objects.get(layout.page_name(digest))
        except ObjectNotFoundError as error:
            raise ChunkMissingError(digest.hex(), where) from error
        if self.digest.digest(data) != digest:
            raise ChunkCorruptError(digest.hex(), where)
        return data

    def get_chunk(self, digest: bytes, buffer: Buffer, *, where: str) -> None:
        """Fill `buffer`, which has the chunk's length, with the chunk of this digest.

        The buffer holds wrong bytes after an error. Raises ChunkMissingError, ChunkCorruptError.
        """
        try:
            length = self.objects.get_into(layout.chunk_name(digest), buffer)
        except ObjectNotFoundError as error:
            raise ChunkMissingError(digest.hex(), where) from error
        if length != memoryview(buffer).nbytes or self.digest.digest(buffer) != digest:
            raise ChunkCorruptError(digest.hex(), where)
