"""The token image: all files of a SoftHSM token directory in one document, with a digest.

Outer form as in `formats.document`, kind `token`, version 1, the seal replaced by the plain
SHA-256 of the bytes before it: it finds damage. Nothing needs to keep it from forgery, because the
secrets in the files are encrypted under the PIN, and a token with other keys verifies nothing.

The body maps each file's path, relative to SoftHSM's `directories.tokendir`, to its content.
"""

import hashlib
import hmac
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature

from volcrypt.errors import MalformedError
from volcrypt.formats.document import decode_document, encode_document, known_bodies

KIND: Final = "token"
VERSION: Final = 1


class TokenImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1."""

    files: dict[str, bytes]


class _DigestSeal:
    """SHA-256 in the place of a seal."""

    def seal(self, covered: bytes) -> bytes:
        return hashlib.sha256(covered).digest()

    def verify(self, covered: bytes, seal: bytes) -> None:
        if not hmac.compare_digest(self.seal(covered), seal):
            raise InvalidSignature


def encode_token_image(image: TokenImage) -> bytes:
    return encode_document(KIND, VERSION, image, _DigestSeal())


_BODIES: Final = known_bodies({VERSION: TokenImage})


def decode_token_image(data: bytes, *, what: str) -> TokenImage:
    """Raises FormatError and SealError; a path that leaves the directory is malformed."""
    image = decode_document(data, KIND, _BODIES, _DigestSeal(), what=what)
    for path in image.files:
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise MalformedError(what, "it names a file outside of the token")
    return image
