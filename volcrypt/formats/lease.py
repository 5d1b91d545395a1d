"""The lease of a volume whose data several hosts can reach: who may open it. Kinds `lease` and
`lease-release`, signed by a signer of the store in which they lie.

Leases of a volume are numbered by *epochs*, 1, 2, 3, ..., each an object that is put if it is
absent and never changed: the highest epoch holds. It ends by a release, an object of its own beside
it, or by the next epoch; never by time. Example of the body of epoch 7:

    {"store_id":"store-...","signer":"...","volume_id":"vol-...","epoch":7,"home_id":"...",
     "machine_id":"...","host_name":"alpha","taken_over":false,"taken_at":1760000000}

and of its release:

    {"store_id":"store-...","signer":"...","volume_id":"vol-...","epoch":7,"released_at":1760000500}
"""

from typing import Final

from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import SignedBody, VerifierOf, decode_signed
from volcrypt.formats.document import Sealer, encode_document, known_bodies
from volcrypt.names import VolumeId, is_volume_id

KIND: Final = "lease"
RELEASE_KIND: Final = "lease-release"
VERSION: Final = 1
MAX_EPOCH: Final = 99_999_999
"""Eight digits in the name of the object."""


class Lease(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: a home on a machine (machine-id(5)); within a home, its owner lock says
    which process. `taken_over`: from a holder who had not released it. `taken_at` counts seconds
    since 1970-01-01 UTC, for people: nothing is decided by it.
    """

    volume_id: VolumeId
    epoch: int
    home_id: str
    machine_id: str
    host_name: str
    taken_over: bool
    taken_at: int


class LeaseRelease(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: the holder of this epoch writes no more."""

    volume_id: VolumeId
    epoch: int
    released_at: int


def encode_lease(lease: Lease, signer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, lease, signer)


_LEASE_BODIES: Final = known_bodies({VERSION: Lease})


def decode_lease(data: bytes, verifier_of: VerifierOf, *, what: str) -> Lease:
    """Raises FormatError and IntegrityError; `what` names the lease in them."""
    lease = decode_signed(data, KIND, _LEASE_BODIES, verifier_of, what=what)
    _check(lease, what)
    return lease


def encode_lease_release(release: LeaseRelease, signer: Sealer) -> bytes:
    return encode_document(RELEASE_KIND, VERSION, release, signer)


_LEASE_RELEASE_BODIES: Final = known_bodies({VERSION: LeaseRelease})


def decode_lease_release(data: bytes, verifier_of: VerifierOf, *, what: str) -> LeaseRelease:
    """Raises FormatError and IntegrityError; `what` names the release in them."""
    release = decode_signed(data, RELEASE_KIND, _LEASE_RELEASE_BODIES, verifier_of, what=what)
    _check(release, what)
    return release


def _check(body: Lease | LeaseRelease, what: str) -> None:
    if not is_volume_id(body.volume_id) or not 1 <= body.epoch <= MAX_EPOCH:
        raise MalformedError(what, "its values contradict each other")
