"""Sealed documents: the common outer form of records, manifests, tombstones and cursors.

    volcrypt KIND VERSION\\n      magic and version, ASCII
    BODY\\n                       one line of JSON, UTF-8, members as the body's struct lists them
    SEAL\\n                       lower-case hexadecimal, over all bytes before it

The seal is an HMAC-SHA-256 (64 digits) where the reader shares a key with the writer, or an
Ed25519 signature (128 digits) where it must not. It covers the exact bytes, so no canonical JSON is
needed; KIND and VERSION are under it, so one kind cannot be passed off as another.

A worked example, sealed by HMAC under 32 zero bytes:

    volcrypt example 1
    {"answer":42}
    916e7bb73c3120c3410d02a46ecff0101302a5052009f04ee847388b4a5cfb0c
"""

import binascii
import hmac
from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from volcrypt.errors import BadMagicError, MalformedError, SealError, UnsupportedVersionError

MAX_DOCUMENT_BYTES: Final = 16 * 2**20
MAC_KEY_BYTES: Final = 32

Body = TypeVar("Body", bound=msgspec.Struct)


class Sealer(Protocol):
    """Makes the seal over the bytes of a document."""

    def seal(self, covered: bytes) -> bytes: ...


class Verifier(Protocol):
    """Checks a seal; raises InvalidSignature when it does not hold."""

    def verify(self, covered: bytes, seal: bytes) -> None: ...


class MacSeal:
    """HMAC-SHA-256 under a key of 32 bytes; seals and verifies."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes | bytearray) -> None:
        assert len(key) == MAC_KEY_BYTES, "internal error: a MAC key has 32 bytes"
        self._key = key

    def seal(self, covered: bytes) -> bytes:
        return hmac.digest(self._key, covered, "sha256")

    def verify(self, covered: bytes, seal: bytes) -> None:
        if not hmac.compare_digest(self.seal(covered), seal):
            raise InvalidSignature


class SigningSeal:
    """Ed25519 (RFC 8032), the side that holds the private key."""

    __slots__ = ("_private_key",)

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    def seal(self, covered: bytes) -> bytes:
        return self._private_key.sign(covered)


class SignatureVerifier:
    """Ed25519 (RFC 8032), the side of everybody else."""

    __slots__ = ("_public_key",)

    def __init__(self, public_key: bytes) -> None:
        self._public_key = Ed25519PublicKey.from_public_bytes(public_key)

    def verify(self, covered: bytes, seal: bytes) -> None:
        self._public_key.verify(seal, covered)


def encode_document(kind: str, version: int, body: msgspec.Struct, sealer: Sealer) -> bytes:
    """The bytes of a document; msgspec's JSON escapes newlines, so the body is one line."""
    covered = b"volcrypt %s %d\n%s\n" % (kind.encode(), version, msgspec.json.encode(body))
    return covered + sealer.seal(covered).hex().encode() + b"\n"


def known_bodies(bodies: Mapping[int, type[Body]]) -> Mapping[int, type[Body]]:
    """The structs of a kind of document by version, as the decoders below take them; for the module
    of the kind, when it is imported.

    msgspec finds out what a struct consists of when it first decodes one, and does not keep other
    threads from using what is half found: they crash the process (version 0.22). So it is done
    here, before there are threads.
    """
    for body in bodies.values():
        msgspec.json.Decoder(body)
    return bodies


def split_document(
    data: bytes, kind: str, bodies: Mapping[int, type[Body]], *, what: str
) -> tuple[Body, bytes, bytes]:
    """`(body, covered bytes, seal)`, for a reader that must look into the body to know whose
    seal to check. Until that is done nothing of the body may be believed.

    `bodies` maps the versions that the caller knows to their structs.
    Raises BadMagicError, UnsupportedVersionError, MalformedError.
    """
    if not data.startswith(b"volcrypt "):
        raise BadMagicError(what)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MalformedError(what, "too long")
    lines = data.split(b"\n")
    header = lines[0].split(b" ")
    if len(header) < 2 or header[1] != kind.encode():
        raise BadMagicError(what)
    # A document cut inside its first line still says what it was to be.
    if len(lines) != 4 or lines[3] or len(header) != 3 or not header[2].isdigit():
        raise MalformedError(what, "truncated or damaged")
    if len(header[2]) > 9 or int(header[2]) not in bodies:
        raise UnsupportedVersionError(what, int(header[2][:9]), max(bodies))
    try:
        body = msgspec.json.decode(lines[1], type=bodies[int(header[2])])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "its body does not parse") from error
    try:
        seal = binascii.unhexlify(lines[2])
    except binascii.Error as error:
        raise MalformedError(what, "its seal does not parse") from error
    # Upper-case digits would be a second spelling of the same document.
    if lines[2] != seal.hex().encode():
        raise MalformedError(what, "its seal does not parse")
    covered = data[: len(lines[0]) + len(lines[1]) + 2]
    return body, covered, seal


def decode_document(
    data: bytes, kind: str, bodies: Mapping[int, type[Body]], verifier: Verifier, *, what: str
) -> Body:
    """The body of a document whose seal holds.

    `what` names the document in errors. Raises what `split_document` raises, and SealError.
    """
    body, covered, seal = split_document(data, kind, bodies, what=what)
    check_seal(covered, seal, verifier, what=what)
    return body


def check_seal(covered: bytes, seal: bytes, verifier: Verifier, *, what: str) -> None:
    """Raises SealError when `seal` does not hold over `covered`."""
    try:
        verifier.verify(covered, seal)
    except InvalidSignature as error:
        raise SealError(what) from error
