"""What a sweep means to delete, and that it has begun to. Kinds `condemned` and `sweeping`, signed.

    condemned   {"store_id":"store-...","signer":"...","names":["chunks/ab/ab...","pages/..."]}
    sweeping    {"store_id":"store-...","signer":"...","renewed_at":1760000000}

Neither makes a deletion right: the sweep reads manifests and pins again before it deletes.
"""

from typing import Final

from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import SignedBody, VerifierOf, decode_signed
from volcrypt.formats.document import Sealer, encode_document, known_bodies

CONDEMNED_KIND: Final = "condemned"
SWEEPING_KIND: Final = "sweeping"
VERSION: Final = 1
MAX_NAMES: Final = 100_000
"""Names in one list: about 8 MiB of JSON, half of what a document may have."""


class CondemnedList(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: names of objects that nothing referred to when the list was made."""

    names: list[str]


class SweepingMark(SignedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: deletions are under way. Seconds since 1970-01-01 UTC."""

    renewed_at: int


def encode_condemned(condemned: CondemnedList, signer: Sealer) -> bytes:
    return encode_document(CONDEMNED_KIND, VERSION, condemned, signer)


_CONDEMNED_LIST_BODIES: Final = known_bodies({VERSION: CondemnedList})


def decode_condemned(data: bytes, verifier_of: VerifierOf, *, what: str) -> CondemnedList:
    """Raises FormatError and IntegrityError; `what` names the list in them."""
    condemned = decode_signed(data, CONDEMNED_KIND, _CONDEMNED_LIST_BODIES, verifier_of, what=what)
    # Only chunks and pages are ever swept: a list must not reach manifests or certificates.
    if any(not name.startswith(("chunks/", "pages/")) for name in condemned.names):
        raise MalformedError(what, "its values contradict each other")
    return condemned


def encode_sweeping(mark: SweepingMark, signer: Sealer) -> bytes:
    return encode_document(SWEEPING_KIND, VERSION, mark, signer)


_SWEEPING_MARK_BODIES: Final = known_bodies({VERSION: SweepingMark})


def decode_sweeping(data: bytes, verifier_of: VerifierOf, *, what: str) -> SweepingMark:
    """Raises FormatError and IntegrityError; `what` names the mark in them."""
    return decode_signed(data, SWEEPING_KIND, _SWEEPING_MARK_BODIES, verifier_of, what=what)
