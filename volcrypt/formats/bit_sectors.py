"""Bits in sectors that prove themselves, shared by the maps that a volume keeps beside its data.

A sector of 512 bytes is written as a whole, so that a power cut leaves the old or the new one:

    0       16      first bytes of the SHA-256 of: whose bits they are, index (8), bits
    16      496     bit b % 8 (from the lowest) of byte b // 8 is bit 3968 index + b

The digests are there against damage and mix-ups. They are no seal: whoever can write to the
volume's storage could as well change the data itself.
"""

import hashlib
import struct
from typing import Final

from volcrypt.geometry import SECTOR_BYTES

DIGEST_BYTES: Final = 16
SECTOR_BITMAP_BYTES: Final = SECTOR_BYTES - DIGEST_BYTES
SECTOR_BITS: Final = 8 * SECTOR_BITMAP_BYTES

_INDEX: Final = struct.Struct("<Q")


def sectors_for(bit_count: int) -> int:
    """How many sectors hold so many bits."""
    return -(-bit_count // SECTOR_BITS)


def seal_bits(owner: bytes, index: int, bits: bytes) -> bytes:
    """Sector `index` of the map of `owner`."""
    assert len(bits) == SECTOR_BITMAP_BYTES, "internal error: not the bits of one sector"
    return _digest(owner, index, bits) + bits


def open_bits(owner: bytes, index: int, sector: bytes) -> bytes | None:
    """The bits of a sector; None when it is damaged, or of another place or owner."""
    bits = sector[DIGEST_BYTES:]
    if len(sector) != SECTOR_BYTES or _digest(owner, index, bits) != sector[:DIGEST_BYTES]:
        return None
    return bits


def _digest(owner: bytes, index: int, bits: bytes) -> bytes:
    return hashlib.sha256(owner + _INDEX.pack(index) + bits).digest()[:DIGEST_BYTES]
