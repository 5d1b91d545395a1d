"""Digests of stored objects: BLAKE3-256, or SHA-256 for a store that was created so."""

import hashlib
from enum import Enum
from typing import Final

import blake3
from typing_extensions import Buffer

DIGEST_BYTES: Final = 32
ZERO_DIGEST: Final = bytes(DIGEST_BYTES)
"""Stands for a chunk, or a page of chunks, that is all holes; no object is stored for it."""


class DigestAlgorithm(Enum):
    BLAKE3 = "blake3"
    SHA256 = "sha256"

    def digest(self, data: Buffer) -> bytes:
        """32 bytes; releases the interpreter lock for large data."""
        if self is DigestAlgorithm.BLAKE3:
            return blake3.blake3(data).digest()
        return hashlib.sha256(data).digest()
