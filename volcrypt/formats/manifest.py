"""The manifest: everything about a snapshot but its chunks. Kind `manifest`, signed by its signer.

Its presence in the store is what `completed` means. The signature covers all of it: the root of the
chunks' digests, the wrapped data key with its context, the lineage, and the place in the signer's
log (see `certificate`). Example of its body (one line in the document):

    {"store_id":"store-0123456789abcdef0","signer":"...","sequence":3,"previous":"(base64)",
     "snapshot_id":"snap-0123456789abcdef0","name":"nightly","description":"",
     "volume_id":"vol-0123456789abcdef0","size_bytes":1073741824,"chunk_bytes":524288,
     "digest":"blake3","parent":{"snapshot_id":"snap-...","root":"(base64)"},"root":"(base64)",
     "data_chunks":1500,"stored_chunks":12,"stored_bytes":6291456,"key_source":"kms",
     "wrapped_key":{...},"region":"us-east-1","account":"000000000000",
     "consistency":"crash-consistent","captured_at":1760000000,"completed_at":1760000007,
     "origin":null,"written_bytes":1610612736}

and of a copy "origin":{"store_id":"store-...","snapshot_id":"snap-...","root":"(base64)"}.
"""

from enum import Enum
from typing import Final

import msgspec

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST, DigestAlgorithm
from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import SignedBody, VerifierOf, decode_signed
from volcrypt.formats.document import Sealer, encode_document, known_bodies
from volcrypt.formats.volume_record import KeySource, WrappedDataKey, key_source_of
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import SnapshotId, StoreId, VolumeId, is_snapshot_id, is_volume_id

KIND: Final = "manifest"
VERSION: Final = 1


class Consistency(Enum):
    """What may be expected of a file system on a volume made from the snapshot."""

    CRASH = "crash-consistent"
    FILE_SYSTEM = "file-system-consistent"


class SnapshotPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A snapshot of the same store, and its root: an id alone could be another's."""

    snapshot_id: SnapshotId
    root: bytes


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a copy was made from. `root` is that of the original: its id alone could be another's;
    empty where the maker did not say."""

    store_id: StoreId
    snapshot_id: SnapshotId
    root: bytes = b""


class Manifest(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1.

    `data_chunks` counts the chunks that are no holes; `stored_chunks` and `stored_bytes` count what
    the snapshot added to the store. Times count seconds since 1970-01-01 UTC. `wrapped_key` is None
    exactly when `key_source` is NONE. Up to the snapshot, at most `written_bytes` were encrypted
    under the data key, by all that share it in the home that made the snapshot.
    """

    sequence: int
    previous: bytes
    snapshot_id: SnapshotId
    name: str | None
    description: str
    volume_id: VolumeId
    size_bytes: int
    chunk_bytes: int
    digest: DigestAlgorithm
    parent: SnapshotPoint | None
    root: bytes
    data_chunks: int
    stored_chunks: int
    stored_bytes: int
    key_source: KeySource
    wrapped_key: WrappedDataKey | None
    region: str
    account: str
    consistency: Consistency
    captured_at: int
    completed_at: int
    origin: Origin | None
    written_bytes: int = 0

    @property
    def is_encrypted(self) -> bool:
        return self.key_source is not KeySource.NONE

    @property
    def point(self) -> SnapshotPoint:
        """How a child names this snapshot as its parent."""
        return SnapshotPoint(snapshot_id=self.snapshot_id, root=self.root)


def encode_manifest(manifest: Manifest, signer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, manifest, signer)


_BODIES: Final = known_bodies({VERSION: Manifest})


def decode_manifest(data: bytes, verifier_of: VerifierOf, *, what: str) -> Manifest:
    """Raises FormatError and IntegrityError; `what` names the snapshot in them."""
    manifest = decode_signed(data, KIND, _BODIES, verifier_of, what=what)
    if (
        not is_snapshot_id(manifest.snapshot_id)
        or not is_volume_id(manifest.volume_id)
        or manifest.sequence < 1
        or len(manifest.previous) != DIGEST_BYTES
        or manifest.chunk_bytes != CHUNK_BYTES
        or not 0 < manifest.size_bytes <= MAX_VOLUME_BYTES
        or manifest.size_bytes % UNIT_BYTES
        or len(manifest.root) != DIGEST_BYTES
        or not 0 <= manifest.stored_chunks <= manifest.data_chunks
        or manifest.data_chunks > chunk_count(manifest.size_bytes)
        or manifest.written_bytes < 0
        or (manifest.data_chunks == 0) != (manifest.root == ZERO_DIGEST)
        or manifest.key_source is not key_source_of(manifest.wrapped_key)
        or (manifest.parent is not None and len(manifest.parent.root) != DIGEST_BYTES)
        or (manifest.origin is not None and len(manifest.origin.root) not in (0, DIGEST_BYTES))
    ):
        raise MalformedError(what, "its values contradict each other")
    return manifest
