"""The clean copy of a change map: which chunks differ from the parent snapshot, kept at detach.

A sealed document of kind `change-map` (see `volcrypt.formats.document`), then the bitmap:

    volcrypt change-map 1\\n       magic and version
    BODY\\n                        members of CleanChangeMap, bytes as Base64
    SEAL\\n                        HMAC-SHA-256, 64 hexadecimal digits
    BITMAP                        ceil(chunks / 8) bytes; bit i % 8 (from the lowest) of byte i // 8
                                  is chunk i, 1 = changed; bits beyond the last chunk are 0

Rationale. The bitmap stands outside the JSON because it may have 16 MiB; its SHA-256 is inside, so
the seal covers it. Size and time of the data file say whether somebody wrote to it without this
map knowing. The file exists only while nobody may write to the volume: it is removed, durably,
before the first write. Whoever can write to storage and set file times can put an older copy back;
that hides chunks from the next snapshot, and he could as well have put the older chunks back.

A worked example, 10 chunks of which 0 and 9 changed, sealed under 32 zero bytes, is in
`tests/formats/test_change_map.py`.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, chunk_count
from volcrypt.names import SnapshotId, StoreId, VolumeId, is_volume_id

KIND: Final = "change-map"
VERSION: Final = 1
_DOCUMENT_LINES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentPoint:
    """The snapshot that changes are counted from; `root` is the digest of its page table."""

    store_id: StoreId
    snapshot_id: SnapshotId
    root: bytes


class CleanChangeMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1; `data_bytes` and `data_mtime_ns` are the data file's at detach."""

    volume_id: VolumeId
    size_bytes: int
    chunk_bytes: int
    parent: ParentPoint
    data_bytes: int
    data_mtime_ns: int
    bitmap_sha256: bytes


def encode_change_map(
    bitmap: bytes,
    sealer: Sealer,
    *,
    volume_id: VolumeId,
    size_bytes: int,
    parent: ParentPoint,
    data_bytes: int,
    data_mtime_ns: int,
) -> bytes:
    """The whole file."""
    assert len(bitmap) == bitmap_length(size_bytes), "internal error: a bitmap of another size"
    body = CleanChangeMap(
        volume_id=volume_id,
        size_bytes=size_bytes,
        chunk_bytes=CHUNK_BYTES,
        parent=parent,
        data_bytes=data_bytes,
        data_mtime_ns=data_mtime_ns,
        bitmap_sha256=hashlib.sha256(bitmap).digest(),
    )
    return encode_document(KIND, VERSION, body, sealer) + bitmap


_BODIES: Final = known_bodies({VERSION: CleanChangeMap})


def decode_change_map(
    data: bytes, verifier: Verifier, *, what: str
) -> tuple[CleanChangeMap, bytes]:
    """The body and the bitmap. Raises FormatError and SealError; `what` names the file in them."""
    lines = data.split(b"\n", _DOCUMENT_LINES)
    document_length = len(data) - len(lines[_DOCUMENT_LINES]) if len(lines) > _DOCUMENT_LINES else 0
    # A document that was cut goes to its decoder as it is, which says what is wrong with it.
    document = data[:document_length] if document_length else data
    body = decode_document(document, KIND, _BODIES, verifier, what=what)
    bitmap = data[document_length:]
    if (
        not is_volume_id(body.volume_id)
        or body.chunk_bytes != CHUNK_BYTES
        or not 0 < body.size_bytes <= MAX_VOLUME_BYTES
        or len(body.parent.root) != DIGEST_BYTES
        or len(bitmap) != bitmap_length(body.size_bytes)
        or hashlib.sha256(bitmap).digest() != body.bitmap_sha256
    ):
        raise MalformedError(what, "its values contradict each other, or it was cut")
    return body, bitmap


def bitmap_length(size_bytes: int) -> int:
    """Bytes of the bitmap of a volume of `size_bytes`."""
    return -(-chunk_count(size_bytes) // 8)
