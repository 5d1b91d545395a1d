"""A snapshot that is to be committed: what its maker knows of it. Pure."""

from dataclasses import dataclass, fields

from volcrypt.formats.certificate import SignerId
from volcrypt.formats.manifest import Consistency, Manifest, Origin, SnapshotPoint
from volcrypt.formats.store import StoreDocument
from volcrypt.formats.volume_record import KeySource, WrappedDataKey
from volcrypt.names import SnapshotId, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTable:
    """What a transfer put: the root of the chunks, and the counts that the manifest has."""

    root: bytes
    data_chunks: int
    stored_chunks: int
    stored_bytes: int
    repaired: tuple[str, ...] = ()
    """Names of objects that held wrong bytes and were replaced: a finding to report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDraft:
    """The members of a manifest that are not the store's; see `formats.manifest`."""

    snapshot_id: SnapshotId
    name: str | None = None
    description: str = ""
    volume_id: VolumeId
    size_bytes: int
    parent: SnapshotPoint | None
    root: bytes
    data_chunks: int
    stored_chunks: int
    stored_bytes: int
    key_source: KeySource
    wrapped_key: WrappedDataKey | None
    account: str
    consistency: Consistency
    captured_at: int
    completed_at: int
    origin: Origin | None = None
    written_bytes: int = 0

    def manifest(
        self, *, store: StoreDocument, signer: SignerId, sequence: int, previous: bytes
    ) -> Manifest:
        """The manifest of this snapshot at a place in a signer's log of a store."""
        return Manifest(
            store_id=store.store_id,
            region=store.region,
            digest=store.digest,
            chunk_bytes=store.chunk_bytes,
            signer=signer,
            sequence=sequence,
            previous=previous,
            **{field.name: getattr(self, field.name) for field in fields(self)},
        )
