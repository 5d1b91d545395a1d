"""The second copy of a volume record: what another home needs to open the volume. Kind
`volume-copy`, sealed by HMAC under a key that is derived from the volume's data key.

A volume record is sealed under its home's own key, and no other home can check that. This copy has
the same body, and whoever can unwrap the data key in it can check it:

    seal key = HKDF-SHA-256(data key, info = "volcrypt record copy\\0" + volume id), no salt

So it proves that it was made by somebody who had the data key, and nothing of when: an older copy
has a good seal too, and only a home that knows the counter of a newer one can tell. What is written
in it of name, place and account is the home's that made it; others have their own.
"""

from typing import Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    MAC_KEY_BYTES,
    Sealer,
    Verifier,
    check_seal,
    encode_document,
    known_bodies,
    split_document,
)
from volcrypt.formats.volume_record import VolumeRecord, check_volume_record
from volcrypt.names import VolumeId

KIND: Final = "volume-copy"
VERSION: Final = 1


def copy_seal_key(data_key: "memoryview[int]", volume_id: VolumeId) -> bytearray:
    """The key of the seal; the caller wipes it."""
    key = bytearray(MAC_KEY_BYTES)
    info = b"volcrypt record copy\0" + volume_id.encode()
    HKDF(algorithm=SHA256(), length=MAC_KEY_BYTES, salt=None, info=info).derive_into(data_key, key)
    return key


def encode_record_copy(record: VolumeRecord, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, record, sealer)


_BODIES: Final = known_bodies({VERSION: VolumeRecord})


class RecordCopy:
    """A copy that was parsed and not yet believed."""

    __slots__ = ("_covered", "_seal", "_what", "claimed")

    def __init__(self, data: bytes, *, what: str) -> None:
        """Raises FormatError; `what` names the copy in errors. `claimed` is the record that it
        says: only what is needed to unwrap the data key may be taken from it before `checked`."""
        self.claimed, self._covered, self._seal = split_document(data, KIND, _BODIES, what=what)
        self._what = what
        check_volume_record(self.claimed, what=what)
        if self.claimed.wrapped_key is None:
            raise MalformedError(what, "only an encrypted volume has a copy of its record")

    def checked(self, verifier: Verifier) -> VolumeRecord:
        """The record, whose seal holds. Raises SealError."""
        check_seal(self._covered, self._seal, verifier, what=self._what)
        return self.claimed


def decode_record_copy(data: bytes, verifier: Verifier, *, what: str) -> VolumeRecord:
    """Raises FormatError and SealError."""
    return RecordCopy(data, what=what).checked(verifier)


def portable(record: VolumeRecord) -> VolumeRecord:
    """The part of a record in which all homes that have the volume agree."""
    return msgspec.structs.replace(
        record, name=None, data_path=None, device=None, account="", region=""
    )
