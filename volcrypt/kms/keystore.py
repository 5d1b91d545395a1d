"""KeyStore: what the KMS needs of an HSM. Owned by the KMS; `pkcs11` is the real one.

Key material is made inside, leaves it once, wrapped, and comes back as an object that cannot be
extracted. Whoever implements this is safe for several threads.
"""

from typing import Protocol

from volcrypt.kms.model import WrappedMaterial


class KeyStore(Protocol):
    """Every method raises HsmUnavailableError when the HSM does not answer; that may be retried."""

    def generate_material(self) -> WrappedMaterial:
        """A new AES-256 key, generated in the HSM; it was unwrapped and tried before it is
        returned."""
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

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 of 32 bytes under a key that only this purpose uses."""
        ...

    def derive(self, info: bytes) -> bytearray:
        """32 bytes, always the same for the same `info`: HMAC-SHA-256 under another key of its
        own."""
        ...

    def random(self, count: int) -> bytearray:
        """`count` random bytes."""
        ...
