"""Who signs in a snapshot store: signers, their certificates, and how signed documents are read.

Every host signs with its own Ed25519 key. A certificate, signed by the root key of the store, says
that a signer may; a reader needs only the root's public key, pinned when it came to trust the
store. A signer is named by the first 32 hexadecimal digits of the SHA-256 of its public key.

The manifests and tombstones of one signer are its *log*: numbered 1, 2, 3, ..., each naming the
digest (SHA-256) of the one before it, the first naming 32 zero bytes.

A certificate is a document of kind `certificate`, sealed by the root's signature; example of its
body:

    {"store_id":"store-0123456789abcdef0","signer":"9f86d081884c7d659a2feaa0c55ad015",
     "public_key":"(base64 of 32 bytes)"}
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, NewType, TypeVar

import msgspec

from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    check_seal,
    decode_document,
    encode_document,
    known_bodies,
    split_document,
)
from volcrypt.names import StoreId

KIND: Final = "certificate"
VERSION: Final = 1
PUBLIC_KEY_BYTES: Final = 32
NO_ENTRY: Final = bytes(DIGEST_BYTES)
"""What the first entry of a log names as the one before it."""

SignerId = NewType("SignerId", str)
_SIGNER_DIGITS: Final = 32


class SignerCertificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1: the root of store `store_id` lets `signer` sign."""

    store_id: StoreId
    signer: SignerId
    public_key: bytes


class SignedBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members that every document signed by a signer begins with."""

    store_id: StoreId
    signer: SignerId


Signed = TypeVar("Signed", bound=SignedBody)
VerifierOf = Callable[[SignerId], Verifier]
"""Finds the verifier of a certified signer; raises IntegrityError when there is none."""


def signer_id(public_key: bytes) -> SignerId:
    return SignerId(hashlib.sha256(public_key).hexdigest()[:_SIGNER_DIGITS])


def entry_digest(data: bytes) -> bytes:
    """The digest by which the next entry of the log, and its head, name this one."""
    return hashlib.sha256(data).digest()


def encode_certificate(certificate: SignerCertificate, root: Sealer) -> bytes:
    return encode_document(KIND, VERSION, certificate, root)


_BODIES: Final = known_bodies({VERSION: SignerCertificate})


def decode_certificate(data: bytes, root: Verifier, *, what: str) -> SignerCertificate:
    """Raises FormatError and SealError; `what` names the certificate in them."""
    certificate = decode_document(data, KIND, _BODIES, root, what=what)
    if (
        len(certificate.public_key) != PUBLIC_KEY_BYTES
        or signer_id(certificate.public_key) != certificate.signer
    ):
        raise MalformedError(what, "its values contradict each other")
    return certificate


def decode_signed(
    data: bytes,
    kind: str,
    bodies: Mapping[int, type[Signed]],
    verifier_of: VerifierOf,
    *,
    what: str,
) -> Signed:
    """The body of a document of a certified signer, whose signature holds.

    Raises FormatError and IntegrityError; `what` names the document in them.
    """
    body, covered, seal = split_document(data, kind, bodies, what=what)
    check_seal(covered, seal, verifier_of(body.signer), what=what)
    return body
