"""What somebody does who imports key material: wrap it, and the key that it goes into."""

import os

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.keyring import put_key
from volcrypt.kms.messages.imports import (
    DOES_NOT_EXPIRE,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
)
from volcrypt.kms.model import KeyManager, KeyOrigin, KeyState, KmsKey
from volcrypt.kms.policy import default_policy
from volcrypt.kms.service import KmsService

KEY_ID = "11111111-2222-4333-8444-555555555555"
MATERIAL = bytes(range(32))
ALGORITHMS = (
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "RSA_AES_KEY_WRAP_SHA_1",
    "RSA_AES_KEY_WRAP_SHA_256",
)


def put_external_key(catalog: Catalog, key_id: str = KEY_ID) -> str:
    """A key of origin EXTERNAL, as CreateKey makes it; its id."""
    key = KmsKey(
        key_id=key_id,
        account=ACCOUNT,
        region=REGION,
        created_at=NOW,
        description="",
        state=KeyState.PENDING_IMPORT,
        manager=KeyManager.CUSTOMER,
        origin=KeyOrigin.EXTERNAL,
        policy=default_policy(ACCOUNT),
        materials=(),
    )
    with catalog.changing() as change:
        put_key(change, key)
    return key_id


def wrap(material: bytes, public_key: bytes, algorithm: str) -> bytes:
    """As the documentation of the AWS KMS has the customer do it."""
    key = load_der_public_key(public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    hash_: hashes.HashAlgorithm = hashes.SHA256() if algorithm.endswith("256") else hashes.SHA1()
    oaep = padding.OAEP(padding.MGF1(hash_), hash_, None)
    if algorithm.startswith("RSAES_"):
        return key.encrypt(material, oaep)
    aes_key = os.urandom(32)
    return key.encrypt(aes_key, oaep) + keywrap.aes_key_wrap_with_padding(aes_key, material)


def parameters(
    service: KmsService, key_id: str = KEY_ID, algorithm: str = "RSAES_OAEP_SHA_256"
) -> GetParametersForImportResponse:
    return service.perform(
        ROOT,
        GetParametersForImportRequest(
            key_id=key_id, wrapping_algorithm=algorithm, wrapping_key_spec="RSA_2048"
        ),
    )


def import_material(
    service: KmsService,
    material: bytes = MATERIAL,
    *,
    key_id: str = KEY_ID,
    algorithm: str = "RSAES_OAEP_SHA_256",
    import_type: str | None = None,
    material_id: str | None = None,
    description: str | None = None,
) -> str:
    """Import material that does not expire; its id."""
    given = parameters(service, key_id, algorithm)
    response = service.perform(
        ROOT,
        ImportKeyMaterialRequest(
            key_id=key_id,
            import_token=given.import_token,
            encrypted_key_material=wrap(material, given.public_key, algorithm),
            expiration_model=DOES_NOT_EXPIRE,
            import_type=import_type,
            key_material_id=material_id,
            key_material_description=description,
        ),
    )
    return response.key_material_id
