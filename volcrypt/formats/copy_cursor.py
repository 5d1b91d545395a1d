"""The cursor of a copy: how far it came, so that it resumes. Kind `copy`, sealed by HMAC.

Sealed under a key that the storage does not have: whoever could edit a cursor could make a copy
continue on chunks of his own, or under a key of his own. It binds source, target and the wrapped
new key. Written after all that it covers is durable. Example of its body:

    {"source_store_id":"store-...","source_snapshot_id":"snap-...","source_root":"(base64)",
     "target_store_id":"store-...","target_snapshot_id":"snap-...","wrapped_key":{...},
     "next_chunk":4711,"root":"(base64)","data_chunks":4000,"stored_chunks":3990,
     "stored_bytes":2091909120,"base":{"snapshot_id":"snap-...","root":"(base64)"}}
"""

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
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.names import SnapshotId, StoreId

KIND: Final = "copy"
VERSION: Final = 1


class CopyCursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: every chunk below `next_chunk` is in the target store, under `root`.

    `root` is a table of the target's size that holds what is done, and for the rest what `base`
    has, or holes; some of what comes later may be done too. `base` is the copy of an earlier
    snapshot, in the target store, that this one continues. The counts are those that the manifest
    would have now. `wrapped_key` is the data key of the
    target, None for an unencrypted one.
    """

    source_store_id: StoreId
    source_snapshot_id: SnapshotId
    source_root: bytes
    target_store_id: StoreId
    target_snapshot_id: SnapshotId
    wrapped_key: WrappedDataKey | None
    next_chunk: int
    root: bytes
    data_chunks: int
    stored_chunks: int
    stored_bytes: int
    base: SnapshotPoint | None = None


def encode_copy_cursor(cursor: CopyCursor, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, cursor, sealer)


_BODIES: Final = known_bodies({VERSION: CopyCursor})


def decode_copy_cursor(data: bytes, verifier: Verifier, *, what: str) -> CopyCursor:
    """Raises FormatError and SealError; `what` names the cursor in them."""
    cursor = decode_document(data, KIND, _BODIES, verifier, what=what)
    if (
        len(cursor.root) != DIGEST_BYTES
        or len(cursor.source_root) != DIGEST_BYTES
        or not 0 <= cursor.stored_chunks <= cursor.data_chunks
        or cursor.next_chunk < 0
        or (cursor.base is not None and len(cursor.base.root) != DIGEST_BYTES)
    ):
        raise MalformedError(what, "its values contradict each other")
    return cursor
