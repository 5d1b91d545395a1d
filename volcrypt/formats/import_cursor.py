"""The cursor of an import: what is imported, into what, and how far that is. Kind `import`.

Sealed under a key that the KMS derives for the volume to be; `generation` grows with every change
and the register names the current one, so an edited, foreign or older cursor is refused. It binds
the source as it was when the import began, and is written after all that it covers is durable.
Example of its body:

    {"volume_id":"vol-...","generation":7,"step":"copy","size_bytes":1073741824,"wrapped_key":{...},
     "source":{"path":"/srv/old.img","size_bytes":1073741824,"inode":4711,"modified_ns":...,
     "device":null,"luks_header":null},"started_at":1750000000,"next_chunk":1024,
     "data_bytes":400000000,"entries":763,"chain":"(base64)","verified_entries":0}
"""

from enum import Enum
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
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.geometry import UNIT_BYTES, chunk_count
from volcrypt.names import VolumeId, is_volume_id

KIND: Final = "import"
VERSION: Final = 1


class ImportStep(Enum):
    """What is to be done next, in this order."""

    COPY = "copy"
    VERIFY = "verify"


class SourceIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which image it is, and that it did not change. Of a file `inode` and `modified_ns`; of a
    block device `device`, what it says of itself. `luks_header` is the digest of the LUKS2 header
    that it is opened with. The number of a file's device is not in it: it is another one after a
    boot."""

    path: str
    size_bytes: int
    inode: int | None = None
    modified_ns: int | None = None
    device: str | None = None
    luks_header: bytes | None = None


class ImportCursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1.

    All chunks below `next_chunk` are in the volume's data file, with `data_bytes` that are in data
    units which are not all zeros. The log of the import has `entries` of what was read, `chain` is
    the digest over them. In step VERIFY what the first `verified_entries` of them say was read
    back, and is right.
    """

    volume_id: VolumeId
    generation: int
    step: ImportStep
    size_bytes: int
    wrapped_key: WrappedDataKey | None
    source: SourceIdentity
    started_at: int
    next_chunk: int = 0
    data_bytes: int = 0
    entries: int = 0
    chain: bytes = bytes(DIGEST_BYTES)
    verified_entries: int = 0


def encode_import_cursor(cursor: ImportCursor, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, cursor, sealer)


_BODIES: Final = known_bodies({VERSION: ImportCursor})


def decode_import_cursor(data: bytes, verifier: Verifier, *, what: str) -> ImportCursor:
    """Raises FormatError and SealError; `what` names the cursor in them."""
    cursor = decode_document(data, KIND, _BODIES, verifier, what=what)
    if not (
        is_volume_id(cursor.volume_id)
        and cursor.generation >= 1
        and cursor.size_bytes > 0
        and cursor.size_bytes % UNIT_BYTES == 0
        and 0 <= cursor.entries <= cursor.next_chunk <= chunk_count(cursor.size_bytes)
        and 0 <= cursor.verified_entries <= cursor.entries
        and cursor.data_bytes >= 0
        and len(cursor.chain) == DIGEST_BYTES
    ):
        raise MalformedError(what, "its values contradict each other")
    return cursor
