"""The closed sets of words in requests, those of the AWS KMS's service model. Pure.

Words of the model that volcrypt does not do (key specs of asymmetric keys, say) are accepted as
valid and then answered with UnsupportedOperationException: the request is right, we lack it.

The `_LISTED` ones are what the AWS KMS writes in its refusals, in its order, as recorded; its
texts are older than its model.
"""

from types import MappingProxyType
from typing import Final

SYMMETRIC_DEFAULT: Final = "SYMMETRIC_DEFAULT"
ENCRYPT_DECRYPT: Final = "ENCRYPT_DECRYPT"
_RSA: Final = ("RSA_2048", "RSA_3072", "RSA_4096")
_ECC_NIST: Final = ("ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521")
_ECC_SECG: Final = "ECC_SECG_P256K1"
_HMAC: Final = ("HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512")
_ML_DSA: Final = ("ML_DSA_44", "ML_DSA_65", "ML_DSA_87")
_ML_KEM: Final = ("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024")
_EDWARDS: Final = "ECC_NIST_EDWARDS25519"

MASTER_KEY_SPECS: Final = (*_RSA, *_ECC_NIST, _ECC_SECG, SYMMETRIC_DEFAULT, *_HMAC, "SM2")
KEY_SPECS: Final = (*MASTER_KEY_SPECS, *_ML_DSA, _EDWARDS, *_ML_KEM)
KEY_SPECS_LISTED: Final = (
    "RSA_2048",
    "ECC_NIST_P384",
    "ECC_NIST_P256",
    "ECC_NIST_P521",
    "HMAC_384",
    "RSA_3072",
    "ECC_SECG_P256K1",
    "RSA_4096",
    "SYMMETRIC_DEFAULT",
    "HMAC_256",
    "HMAC_224",
    "HMAC_512",
)
KEY_USAGES: Final = (
    "SIGN_VERIFY",
    ENCRYPT_DECRYPT,
    "GENERATE_VERIFY_MAC",
    "KEY_AGREEMENT",
    "ENCAPSULATE_DECAPSULATE",
)
KEY_USAGES_LISTED: Final = (ENCRYPT_DECRYPT, "SIGN_VERIFY", "GENERATE_VERIFY_MAC")
ORIGINS: Final = ("AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")
DATA_KEY_SPECS: Final = ("AES_256", "AES_128")
ENCRYPTION_ALGORITHMS: Final = (
    SYMMETRIC_DEFAULT,
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "SM2PKE",
)

GRANTABLE_OPERATIONS: Final = (
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "Sign",
    "Verify",
    "GetPublicKey",
    "CreateGrant",
    "RetireGrant",
    "DescribeKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateMac",
    "VerifyMac",
    "DeriveSharedSecret",
    "Encapsulate",
    "Decapsulate",
)

USAGES_OF_SPEC: Final = MappingProxyType(
    {
        SYMMETRIC_DEFAULT: (ENCRYPT_DECRYPT,),
        **dict.fromkeys(_RSA, (ENCRYPT_DECRYPT, "SIGN_VERIFY")),
        **dict.fromkeys(_ECC_NIST, ("SIGN_VERIFY", "KEY_AGREEMENT")),
        _ECC_SECG: ("SIGN_VERIFY",),
        _EDWARDS: ("SIGN_VERIFY",),
        **dict.fromkeys(_HMAC, ("GENERATE_VERIFY_MAC",)),
        **dict.fromkeys(_ML_DSA, ("SIGN_VERIFY",)),
        **dict.fromkeys(_ML_KEM, ("ENCAPSULATE_DECAPSULATE",)),
        "SM2": (ENCRYPT_DECRYPT, "SIGN_VERIFY", "KEY_AGREEMENT"),
    }
)
"""Which uses a key of a spec can have."""
