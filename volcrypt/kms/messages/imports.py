"""Messages of the operations that import key material. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import Operation, Request, Response
from volcrypt.kms.messages.limits import Limits

EXPIRES: Final = "KEY_MATERIAL_EXPIRES"
DOES_NOT_EXPIRE: Final = "KEY_MATERIAL_DOES_NOT_EXPIRE"
NEW: Final = "NEW_KEY_MATERIAL"
EXISTING: Final = "EXISTING_KEY_MATERIAL"
_BLOB: Final = Limits(minimum=1, maximum=6144)
_MATERIAL_ID: Final = Limits(minimum=64, maximum=64, pattern="^[a-f0-9]+$")


class GetParametersForImportResponse(Response, frozen=True, kw_only=True):
    key_id: str
    import_token: bytes
    public_key: bytes
    parameters_valid_to: float


class GetParametersForImportRequest(
    Request[GetParametersForImportResponse], frozen=True, kw_only=True
):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {
            "wrapping_algorithm": Limits(
                choices=(
                    "RSAES_PKCS1_V1_5",
                    "RSAES_OAEP_SHA_1",
                    "RSAES_OAEP_SHA_256",
                    "RSA_AES_KEY_WRAP_SHA_1",
                    "RSA_AES_KEY_WRAP_SHA_256",
                    "SM2PKE",
                ),
            ),
            "wrapping_key_spec": Limits(choices=("RSA_2048", "RSA_3072", "RSA_4096", "SM2")),
        }
    )

    key_id: str
    wrapping_algorithm: str
    wrapping_key_spec: str


class ImportKeyMaterialResponse(Response, frozen=True, kw_only=True):
    key_id: str
    key_material_id: str


class ImportKeyMaterialRequest(Request[ImportKeyMaterialResponse], frozen=True, kw_only=True):
    """`valid_to` counts seconds since 1970-01-01 UTC."""

    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {
            "import_token": _BLOB,
            "encrypted_key_material": _BLOB,
            "expiration_model": Limits(choices=(EXPIRES, DOES_NOT_EXPIRE)),
            "import_type": Limits(choices=(NEW, EXISTING)),
            "key_material_description": Limits(
                minimum=0, maximum=256, pattern=r"^[a-zA-Z0-9:/_\s.-]+$"
            ),
            "key_material_id": _MATERIAL_ID,
        }
    )

    key_id: str
    import_token: bytes
    encrypted_key_material: bytes
    valid_to: float | None = None
    expiration_model: str | None = None
    import_type: str | None = None
    key_material_description: str | None = None
    key_material_id: str | None = None


class DeleteImportedKeyMaterialResponse(Response, frozen=True, kw_only=True):
    key_id: str
    key_material_id: str | None = None


class DeleteImportedKeyMaterialRequest(
    Request[DeleteImportedKeyMaterialResponse], frozen=True, kw_only=True
):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({"key_material_id": _MATERIAL_ID})

    key_id: str
    key_material_id: str | None = None


IMPORT_OPERATIONS: Final = MappingProxyType(
    {
        "GetParametersForImport": Operation(GetParametersForImportRequest, True),
        "ImportKeyMaterial": Operation(ImportKeyMaterialRequest, False),
        "DeleteImportedKeyMaterial": Operation(DeleteImportedKeyMaterialRequest, False),
    }
)
