"""The tombstone: a deletion on record. Kind `tombstone`, signed, an entry of the deleter's log.

It outlives the manifest and says which entry of which log was deleted, so that a legal deletion
and a lost manifest are different things. With root and parent it tells so much that a lineage can
be followed past it. Example of its body:

    {"store_id":"store-...","signer":"...","sequence":4,"previous":"(base64)",
     "snapshot_id":"snap-...","volume_id":"vol-...","deleted_signer":"...","deleted_sequence":3,
     "deleted_digest":"(base64)","root":"(base64)","parent":null,"deleted_at":1760000100,
     "damaged":false}
"""

from typing import Final

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST
from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import SignedBody, SignerId, VerifierOf, decode_signed
from volcrypt.formats.document import Sealer, encode_document, known_bodies
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id

KIND: Final = "tombstone"
VERSION: Final = 1


class Tombstone(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1. `deleted_at` counts seconds since 1970-01-01 UTC.

    `damaged`: the manifest could not be read when it was deleted. Then volume and parent are None
    and the root is ZERO_DIGEST; `deleted_digest` is what the log says of the entry, NO_ENTRY where
    it does not.
    """

    sequence: int
    previous: bytes
    snapshot_id: SnapshotId
    volume_id: VolumeId | None
    deleted_signer: SignerId
    deleted_sequence: int
    deleted_digest: bytes
    root: bytes
    parent: SnapshotPoint | None
    deleted_at: int
    damaged: bool = False


def encode_tombstone(tombstone: Tombstone, signer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, tombstone, signer)


_BODIES: Final = known_bodies({VERSION: Tombstone})


def decode_tombstone(data: bytes, verifier_of: VerifierOf, *, what: str) -> Tombstone:
    """Raises FormatError and IntegrityError; `what` names the tombstone in them."""
    tombstone = decode_signed(data, KIND, _BODIES, verifier_of, what=what)
    if (
        not is_snapshot_id(tombstone.snapshot_id)
        or tombstone.sequence < 1
        or tombstone.deleted_sequence < 1
        or len(tombstone.previous) != DIGEST_BYTES
        or len(tombstone.deleted_digest) != DIGEST_BYTES
        or len(tombstone.root) != DIGEST_BYTES
        or tombstone.damaged != (tombstone.volume_id is None)
        or (tombstone.damaged and (tombstone.root != ZERO_DIGEST or tombstone.parent is not None))
    ):
        raise MalformedError(what, "its values contradict each other")
    return tombstone
