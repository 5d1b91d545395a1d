"""A KeyStore in memory, with the same cryptography and switches for failures."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from volcrypt.errors import HsmUnavailableError, IntegrityError, InvalidCiphertextError
from volcrypt.kms.keystore import KeyStore
from volcrypt.kms.model import WrappedMaterial


class MemoryKeyStore:
    """Keys of its own are made from `seed`, so that two stores of one seed are one token."""

    def __init__(self, seed: bytes = b"token") -> None:
        self._wrapping, self._mac, self._derive = (
            hashlib.sha256(seed + purpose).digest() for purpose in (b"wrap", b"mac", b"derive")
        )
        self.is_dead = False
        """From now on nothing answers, except `mac`."""
        self.encryptions = 0

    def generate_material(self) -> WrappedMaterial:
        self._check_alive()
        blob = aes_key_wrap_with_padding(self._wrapping, os.urandom(32))
        return WrappedMaterial(blob=blob, wrapping_key=1)

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        self._check_alive()
        self.encryptions += 1
        iv = os.urandom(12)
        return iv + AESGCM(self._unwrap(material)).encrypt(iv, bytes(plaintext), aad)

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        self._check_alive()
        if len(sealed) <= 28:
            raise InvalidCiphertextError("too short")
        key = AESGCM(self._unwrap(material))
        try:
            return bytearray(key.decrypt(sealed[:12], sealed[12:], aad))
        except InvalidTag as error:
            raise InvalidCiphertextError("not valid") from error

    def mac(self, data: bytes) -> bytes:
        return hmac.digest(self._mac, data, "sha256")

    def derive(self, info: bytes) -> bytearray:
        self._check_alive()
        return bytearray(hmac.digest(self._derive, info, "sha256"))

    def random(self, count: int) -> bytearray:
        self._check_alive()
        return bytearray(os.urandom(count))

    def _unwrap(self, material: WrappedMaterial) -> bytes:
        try:
            if material.wrapping_key != 1:
                raise IntegrityError("another wrapping key")
            return aes_key_unwrap_with_padding(self._wrapping, material.blob)
        except (InvalidUnwrap, ValueError) as error:
            raise IntegrityError("does not unwrap") from error

    def _check_alive(self) -> None:
        if self.is_dead:
            raise HsmUnavailableError("the HSM did not answer: it is dead")


def _conforms(store: MemoryKeyStore) -> KeyStore:
    return store
