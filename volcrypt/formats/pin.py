"""The pin: a snapshot on its way into a store holds what it stands on, and a lazy volume the
snapshot that its chunks come from. Kind `pin`, signed.

Everything under `roots` counts as referenced. While the pin of a snapshot in the making is alive no
sweep of another host deletes anything; a lasting one keeps nobody from sweeping what is not under
it, and never expires (see `snapshot.sweep`). Example of its body:

    {"store_id":"store-...","signer":"...","snapshot_id":"snap-...","size_bytes":1073741824,
     "roots":["(base64)"],"renewed_at":1760000000,"lasting":false}
"""

from typing import Final

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import SignedBody, VerifierOf, decode_signed
from volcrypt.formats.document import Sealer, encode_document, known_bodies
from volcrypt.geometry import MAX_VOLUME_BYTES, UNIT_BYTES
from volcrypt.names import SnapshotId, is_snapshot_id

KIND: Final = "pin"
VERSION: Final = 1


class PinBody(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: `snapshot_id` is the snapshot in the making, or the one that a lasting pin
    keeps the chunks of; `size_bytes` is the size of those that `roots` are of, which may be
    smaller; its own when there are none.

    `renewed_at` counts seconds since 1970-01-01 UTC; in a lasting pin it says when it was made.
    """

    snapshot_id: SnapshotId
    size_bytes: int
    roots: list[bytes]
    renewed_at: int
    lasting: bool = False


def encode_pin(pin: PinBody, signer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, pin, signer)


_BODIES: Final = known_bodies({VERSION: PinBody})


def decode_pin(data: bytes, verifier_of: VerifierOf, *, what: str) -> PinBody:
    """Raises FormatError and IntegrityError; `what` names the pin in them."""
    pin = decode_signed(data, KIND, _BODIES, verifier_of, what=what)
    if (
        not is_snapshot_id(pin.snapshot_id)
        or any(len(root) != DIGEST_BYTES for root in pin.roots)
        or not 0 < pin.size_bytes <= MAX_VOLUME_BYTES
        or pin.size_bytes % UNIT_BYTES
    ):
        raise MalformedError(what, "its values contradict each other")
    return pin
