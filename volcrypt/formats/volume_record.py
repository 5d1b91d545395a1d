"""The volume record: everything about a volume but its data. A sealed document of kind `volume`.

Sealed by HMAC under a key that the KMS derives for this volume alone (its id is bound there), also
for an unencrypted volume: otherwise an edited record could turn encryption off or swap keys.
`counter` grows with every change; the register in the KMS catalogue names the current counter and
the digest of the current bytes, so an older record with a valid seal is refused too.
"""

from enum import Enum
from typing import Final

import msgspec

from volcrypt.crypto.digest import DIGEST_BYTES, DigestAlgorithm
from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)
from volcrypt.geometry import MAX_VOLUME_BYTES, UNIT_BYTES
from volcrypt.names import DataKeyId, SnapshotId, StoreId, VolumeId, is_volume_id

KIND: Final = "volume"
VERSION: Final = 1


class KeySource(Enum):
    """Who wraps the data key."""

    KMS = "kms"
    CUSTOMER = "customer"
    NONE = "none"


class WrappedDataKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data key as it may lie on storage.

    `ciphertext` is a KMS ciphertext blob made under `encryption_context` and `kms_key_arn`, or for
    a customer-provided key the AES-KWP wrapping (RFC 5649), with `kms_key_arn` None and no context.
    `data_key_id` names the lineage: equal wherever the plaintext key is the same.
    """

    data_key_id: DataKeyId
    ciphertext: bytes
    kms_key_arn: str | None
    encryption_context: dict[str, str]


def key_source_of(wrapped_key: WrappedDataKey | None) -> KeySource:
    """Who wraps it; NONE for no data key."""
    if wrapped_key is None:
        return KeySource.NONE
    return KeySource.CUSTOMER if wrapped_key.kms_key_arn is None else KeySource.KMS


def key_arn_of(wrapped_key: WrappedDataKey | None) -> str | None:
    """The KMS key that it is under; None for a customer-provided one, and for no data key."""
    return None if wrapped_key is None else wrapped_key.kms_key_arn


class LazySource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The snapshot that absent chunks of a lazy volume come from (`volcrypt.formats.present_map`).

    The pinned root is what everything fetched is checked against; it does not matter what becomes
    of the snapshot itself. `size_bytes` and `wrapped_key` are the snapshot's; chunks are
    re-encrypted when that is another data key than the volume's. `fill_rate` is in bytes a second,
    None for as fast as it goes, 0 for chunks that are touched only.
    """

    store_id: StoreId
    snapshot_id: SnapshotId
    root: bytes
    size_bytes: int
    digest: DigestAlgorithm
    wrapped_key: WrappedDataKey | None
    fill_rate: int | None


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1.

    `data_path` is absolute, or None for the file `data` beside the record, which goes where the
    home goes; `created_at` counts seconds since 1970-01-01 UTC. `wrapped_key` is None
    exactly when `key_source` is NONE. `snapshot_id` is what the volume was made from.
    `device` is None for a file; for a block device it is what that said of itself when the volume
    was made, empty if nothing (`volcrypt.volume.block_device`). `preallocated`: the data file has
    all its room, also when it grows. `lease` is the store in which whoever opens the volume has to
    hold its lease (`volcrypt.formats.lease`), where several hosts can reach the data. `exported_at`
    is when a LUKS2 header of the volume was last exported (`volcrypt.operations.header_export`):
    since then others may write to the data too.
    `source` is there while not all chunks are the volume's own.
    """

    volume_id: VolumeId
    counter: int
    name: str | None
    size_bytes: int
    unit_bytes: int
    key_source: KeySource
    wrapped_key: WrappedDataKey | None
    data_path: str | None
    account: str
    region: str
    created_at: int
    snapshot_id: SnapshotId | None = None
    preallocated: bool = False
    device: str | None = None
    lease: StoreId | None = None
    exported_at: int | None = None
    source: LazySource | None = None

    @property
    def is_encrypted(self) -> bool:
        return self.key_source is not KeySource.NONE


def encode_volume_record(record: VolumeRecord, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, record, sealer)


_BODIES: Final = known_bodies({VERSION: VolumeRecord})


def decode_volume_record(data: bytes, verifier: Verifier, *, what: str) -> VolumeRecord:
    """Raises FormatError and SealError; `what` names the record in them."""
    record = decode_document(data, KIND, _BODIES, verifier, what=what)
    check_volume_record(record, what=what)
    return record


def check_volume_record(record: VolumeRecord, *, what: str) -> None:
    """Raises MalformedError for values that no writer of ours puts together."""
    if (
        not is_volume_id(record.volume_id)
        or record.unit_bytes != UNIT_BYTES
        or not 0 < record.size_bytes <= MAX_VOLUME_BYTES
        or record.size_bytes % UNIT_BYTES
        or record.counter < 1
        or record.key_source is not key_source_of(record.wrapped_key)
        or (record.data_path is not None and not record.data_path.startswith("/"))
        or (record.device is not None and record.data_path is None)
        or (record.lease is not None and record.data_path is None)
        or not _is_sound(record.source, record)
    ):
        raise MalformedError(what, "its values contradict each other")


def _is_sound(source: LazySource | None, record: VolumeRecord) -> bool:
    return source is None or (
        len(source.root) == DIGEST_BYTES
        and 0 < source.size_bytes <= record.size_bytes
        and source.size_bytes % UNIT_BYTES == 0
        and (source.wrapped_key is None or record.is_encrypted)
        and (source.fill_rate is None or source.fill_rate >= 0)
    )
