"""A KeyStore in memory, with the same cryptography and switches for failures."""

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from volcrypt.errors import (
    HsmUnavailableError,
    IncorrectKeyMaterialError,
    IntegrityError,
    InvalidCiphertextError,
    UnknownGenerationError,
)
from volcrypt.kms.keystore import KeyStore, Sealing
from volcrypt.kms.model import WrappedMaterial


class MemoryKeyStore(Sealing):
    """Keys of its own are made from `seed`, so that two stores of one seed are one token."""

    def __init__(self, seed: bytes = b"token") -> None:
        self._seed = seed
        self._mac, self._derive = (self._own_key(purpose) for purpose in (b"mac", b"derive"))
        self._wrapping = {1: self._own_key(b"wrap")}
        self.is_dead = False
        """From now on nothing answers, except `mac`."""
        self.encryptions = 0

    def generate_material(self) -> WrappedMaterial:
        return self._wrap(os.urandom(32))

    def import_material(self, plaintext: bytearray) -> WrappedMaterial:
        if len(plaintext) != 32:
            raise IncorrectKeyMaterialError("not 32 bytes")
        return self._wrap(bytes(plaintext))

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

    def rewrap(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        self._check_alive()
        generation = self.generation() + 1
        self._wrapping[generation] = self._own_key(b"wrap %d" % generation)
        return [self._wrap(self._unwrap(material)) for material in materials]

    def generation(self) -> int:
        return max(self._wrapping)

    def retire(self, *, older_than: int) -> None:
        self._check_alive()
        newest = self.generation()
        self._wrapping = {
            generation: key
            for generation, key in self._wrapping.items()
            if generation >= min(older_than, newest)
        }

    def _own_key(self, purpose: bytes) -> bytes:
        return hashlib.sha256(self._seed + purpose).digest()

    def _wrap(self, key: bytes) -> WrappedMaterial:
        self._check_alive()
        generation = self.generation()
        blob = aes_key_wrap_with_padding(self._wrapping[generation], key)
        return WrappedMaterial(blob=blob, wrapping_key=generation)

    def _unwrap(self, material: WrappedMaterial) -> bytes:
        if material.wrapping_key not in self._wrapping:
            raise UnknownGenerationError(material.wrapping_key)
        try:
            return aes_key_unwrap_with_padding(self._wrapping[material.wrapping_key], material.blob)
        except (InvalidUnwrap, ValueError) as error:
            raise IntegrityError("does not unwrap") from error

    def _check_alive(self) -> None:
        if self.is_dead:
            raise HsmUnavailableError("the HSM did not answer: it is dead")


def _conforms(store: MemoryKeyStore) -> KeyStore:
    return store
