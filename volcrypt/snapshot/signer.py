"""Signer: the key by which a host signs manifests and tombstones; LogHead: how far its log came."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volcrypt.formats.certificate import NO_ENTRY, SignerId, signer_id
from volcrypt.formats.document import SigningSeal


class Signer:
    """The Ed25519 key of a host. Never printed."""

    __slots__ = ("id", "public_key", "seal")

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.public_key = private_key.public_key().public_bytes_raw()
        self.id = signer_id(self.public_key)
        self.seal = SigningSeal(private_key)

    def __repr__(self) -> str:
        return f"<Signer {self.id}>"


@dataclass(frozen=True, slots=True)
class LogHead:
    """The last entry of a signer's log that somebody knows of.

    Who keeps it where the store cannot reach it notices when the store is rolled back.
    """

    signer: SignerId
    sequence: int
    digest: bytes


def empty_log(signer: SignerId) -> LogHead:
    return LogHead(signer, 0, NO_ENTRY)
