"""The RSA key pairs under which key material travels to an import, and the unwrapping of it.

In software: SoftHSM 2.6.1 cannot do OAEP with SHA-256, and making a key pair would hold the one
HSM lock for seconds. The private key is in memory while it is made and while it unwraps; in between
the HSM has it sealed.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from volcrypt.errors import InvalidCiphertextError, UnsupportedOperationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

# What of `cryptography` is needed here takes 10 ms to import, and each command would pay for it.

KEY_BITS: Final = MappingProxyType({"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096})
_ALGORITHMS: Final = (
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "RSA_AES_KEY_WRAP_SHA_1",
    "RSA_AES_KEY_WRAP_SHA_256",
)
_AES_BYTES: Final = (16, 24, 32)


def check_wrapping(*, algorithm: str, key_spec: str) -> None:
    """Raises UnsupportedOperationError for what the AWS KMS names and does not do either."""
    for value, known in ((algorithm, _ALGORITHMS), (key_spec, KEY_BITS)):
        if value not in known:
            raise UnsupportedOperationError(f"{value} is not supported for importing key material.")


def generate_key_pair(key_spec: str) -> tuple[bytes, bytearray]:
    """Public key (SubjectPublicKeyInfo) and private key (PKCS #8), both DER; takes up to seconds.

    The caller wipes the private key; copies that the library made are not in its reach.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS[key_spec])
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public, bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def unwrap(wrapped: bytes, *, private_key: bytearray, algorithm: str) -> bytearray:
    """The key material of whatever length; the caller wipes it. Raises InvalidCiphertextError."""
    from cryptography.hazmat.primitives import keywrap
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    # The HSM vouches for the key: checking its primes again would take 300 ms.
    key = load_der_private_key(bytes(private_key), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey), "internal error: not an RSA key"
    hash_ = _hash_of(algorithm)
    oaep = padding.OAEP(padding.MGF1(hash_), hash_, None)
    try:
        if algorithm.startswith("RSAES_"):
            return bytearray(key.decrypt(wrapped, oaep))
        # The AES key under RSA, and behind it the material under the AES key.
        size = key.key_size // 8
        aes_key = key.decrypt(wrapped[:size], oaep)
        if len(aes_key) not in _AES_BYTES:
            raise ValueError("not an AES key")
        return bytearray(keywrap.aes_key_unwrap_with_padding(aes_key, wrapped[size:]))
    except (ValueError, keywrap.InvalidUnwrap):
        # One text for all of them: which step failed is nobody's business.
        raise InvalidCiphertextError(
            "the encrypted key material is not what the public key and wrapping algorithm of the "
            "import token make"
        ) from None


def _hash_of(algorithm: str) -> "HashAlgorithm":
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256() if algorithm.endswith("_SHA_256") else hashes.SHA1()  # noqa: S303 as the KMS API names it
