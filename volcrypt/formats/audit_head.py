"""The head of the audit log, in a file of two slots: what every request overwrites and syncs.

    HOME/kms/audit/head     8192 bytes
    offset 0, offset 4096   slot 0 and slot 1: 512 bytes each, the rest is zero

A slot is a sealed document of kind `audit-head` (see `volcrypt.formats.document`) filled up with
zeros:

    volcrypt audit-head 1\\n     magic and version
    BODY\\n                      members of _Body
    SEAL\\n                      HMAC-SHA-256, 64 hexadecimal digits

    number            counts the writes of this file from 0; write n goes to slot n % 2
    sequence, hash    the last record of the log (`formats.audit_record`)
    file, end         the place behind that record: number of the log file, offset in it
    catalogue         the counter of the catalogue, at least, that goes with it

The slots are written in turn, so the one before the last write is whole whatever happens during
the next: a torn slot does not authenticate, and the other one is the head. Each lies on a page and
a sector of its own. A slot that was never written is all zero.

Rationale. A slot is overwritten in place, and the file never changes its size: its sync writes one
sector and no metadata, where a commit of the catalogue takes several syncs.

A worked example is `tests/golden/v1/audit-head`.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.errors import FormatError, IntegrityError, MalformedError, UnsupportedVersionError
from volcrypt.formats.audit_record import GENESIS_HASH, AuditHead
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)

KIND: Final = "audit-head"
VERSION: Final = 1
SLOT_BYTES: Final = 512
SLOT_OFFSETS: Final = (0, 4096)
FILE_BYTES: Final = 8192
_MAX_NUMBER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedHead:
    """What a slot says. `catalogue` is a counter that the catalogue had reached, durably."""

    number: int
    audit: AuditHead
    catalogue: int

    @property
    def offset(self) -> int:
        """Where in the file its slot lies."""
        return SLOT_OFFSETS[self.number % 2]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int
    sequence: int
    hash: str
    file: int
    end: int
    catalogue: int


def encode_slot(head: SealedHead, sealer: Sealer) -> bytes:
    """The 512 bytes that belong at `head.offset`."""
    audit = head.audit
    body = _Body(
        number=head.number,
        sequence=audit.sequence,
        hash=audit.hash,
        file=audit.file,
        end=audit.end,
        catalogue=head.catalogue,
    )
    slot = encode_document(KIND, VERSION, body, sealer).ljust(SLOT_BYTES, b"\0")
    assert len(slot) == SLOT_BYTES, "internal error: a head that does not fit its slot"
    return slot


def encode_file(head: SealedHead, sealer: Sealer) -> bytes:
    """A new file with one slot written."""
    data = bytearray(FILE_BYTES)
    data[head.offset : head.offset + SLOT_BYTES] = encode_slot(head, sealer)
    return bytes(data)


def decode_file(data: bytes, verifier: Verifier, *, what: str) -> SealedHead:
    """The newest slot that holds.

    Raises UnsupportedVersionError when either slot is of a version that this release does not
    know, otherwise, when no slot holds, FormatError or IntegrityError for the first.
    """
    if len(data) != FILE_BYTES:
        raise MalformedError(what, f"it has {len(data)} bytes, not {FILE_BYTES}")
    found: list[SealedHead] = []
    problems: list[FormatError | IntegrityError] = []
    for offset in SLOT_OFFSETS:
        try:
            found.append(_decode_slot(data[offset : offset + SLOT_BYTES], offset, verifier, what))
        except UnsupportedVersionError:
            raise
        except (FormatError, IntegrityError) as error:
            problems.append(error)
    if not found:
        raise problems[0]
    return max(found, key=lambda head: head.number)


_BODIES: Final = known_bodies({VERSION: _Body})


def _decode_slot(slot: bytes, offset: int, verifier: Verifier, what: str) -> SealedHead:
    document = slot.rstrip(b"\0")
    body = decode_document(document, KIND, _BODIES, verifier, what=what)
    numbers = (body.number, body.sequence, body.file - 1, body.end, body.catalogue)
    head = SealedHead(
        number=body.number,
        audit=AuditHead(sequence=body.sequence, hash=body.hash, file=body.file, end=body.end),
        catalogue=body.catalogue,
    )
    if (
        not all(0 <= number <= _MAX_NUMBER for number in numbers)
        or head.offset != offset
        or len(body.hash) != len(GENESIS_HASH)
        or (body.sequence == 0) != (body.hash == GENESIS_HASH)
    ):
        raise MalformedError(what, "its values contradict each other")
    return head
