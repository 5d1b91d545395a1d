"""What the KMS needs of an HSM. Owned by the KMS; `home_token` is the one of a home.

Key material is made inside, leaves it once, wrapped, and comes back as an object that cannot be
extracted. Whoever implements this is safe for several threads.

Wrapping keys have generations. New material is under the newest; `rewrap` makes a newer one and
wraps under it what is to survive, and `retire` destroys the older ones: from then on nothing opens
what was not rewrapped, also not an older copy of the catalogue. What makes material is called under
the home's writer lock only, and what it returns reaches the catalogue before the lock is let go of:
until then nobody can retire its generation.
"""

from collections.abc import Sequence
from typing import Protocol

from volcrypt.errors import IntegrityError, InvalidCiphertextError
from volcrypt.formats.sealed_secret import (
    SealedSecret,
    decode_sealed_secret,
    encode_sealed_secret,
)
from volcrypt.kms.model import WrappedMaterial


class MaterialStore(Protocol):
    """Where key material lives: the home's own token, or another one.

    Every method raises HsmUnavailableError when the HSM does not answer; that may be retried.
    """

    def generate_material(self) -> WrappedMaterial:
        """A new AES-256 key, generated in the HSM; it was unwrapped and tried before it is
        returned. Only under the home's writer lock."""
        ...

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        """AES-256-GCM under an IV drawn in the HSM: IV (12 bytes), ciphertext, tag (16 bytes)."""
        ...

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        """The plaintext of what `encrypt` returned.

        Raises InvalidCiphertextError when it does not authenticate, IntegrityError when `material`
        does not unwrap.
        """
        ...

    def random(self, count: int) -> bytearray:
        """`count` random bytes."""
        ...

    def rewrap(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        """The same materials under a wrapping key of a new generation, which is durable before
        this returns. Only under the home's writer lock. Raises IntegrityError for material that
        does not unwrap."""
        ...

    def generation(self) -> int:
        """The newest generation of the wrapping key."""
        ...

    def retire(self, *, older_than: int) -> None:
        """Destroy the wrapping keys of older generations, durably, and forget what they opened.
        Only under the home's writer lock."""
        ...


class KeyStore(MaterialStore, Protocol):
    """The token of a home: key material, and what the KMS needs for itself."""

    def import_material(self, plaintext: bytearray) -> WrappedMaterial:
        """AES-256 key material from outside (32 bytes), tried before it is returned; the caller
        wipes `plaintext`. Only under the home's writer lock."""
        ...

    def seal(self, plaintext: bytearray, aad: bytes) -> bytes:
        """A secret of the KMS (`formats.sealed_secret`). Only under the home's writer lock."""
        ...

    def open_sealed(self, sealed: bytes, aad: bytes) -> bytearray:
        """What was sealed under the same `aad`. Raises IntegrityError and FormatError."""
        ...

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 of 32 bytes under a key that only this purpose uses."""
        ...

    def derive(self, info: bytes) -> bytearray:
        """32 bytes, always the same for the same `info`: HMAC-SHA-256 under another key of its
        own."""
        ...


class Sealing:
    """`seal` and `open_sealed` of a KeyStore, by its other methods."""

    def seal(self: "KeyStore", plaintext: bytearray, aad: bytes) -> bytes:
        key = self.generate_material()
        return encode_sealed_secret(
            SealedSecret(
                generation=key.wrapping_key,
                wrapped_key=key.blob,
                sealed=self.encrypt(key, plaintext=plaintext, aad=aad),
            )
        )

    def open_sealed(self: "KeyStore", sealed: bytes, aad: bytes) -> bytearray:
        secret = decode_sealed_secret(sealed)
        key = WrappedMaterial(blob=secret.wrapped_key, wrapping_key=secret.generation)
        try:
            return self.decrypt(key, sealed=secret.sealed, aad=aad)
        except InvalidCiphertextError as error:
            raise IntegrityError("a sealed secret was changed, or is another's") from error
