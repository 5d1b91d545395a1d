"""Operations that import key material, and delete it.

    GetParametersForImport   makes an RSA key pair; the private key lies in the catalogue, sealed by
                             the HSM, under the import id that the token names
    ImportKeyMaterial        opens it, unwraps, imports; the private key is gone with that

    import    id = key id      body = ImportParameters

A key has parameters of one import at most: new ones replace the old. The key pair is made after the
decision is recorded, outside of every lock; the transaction that keeps it looks at the key again.
"""

import hmac
from dataclasses import dataclass, field
from typing import Final

import msgspec

from volcrypt.errors import (
    ExpiredImportTokenError,
    FormatError,
    InvalidImportTokenError,
    KeyNotFoundError,
    KmsValidationError,
)
from volcrypt.formats.import_token import (
    IMPORT_ID_BYTES,
    ImportToken,
    decode_import_token,
    encode_import_token,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.clock import deadline
from volcrypt.kms.import_wrapping import check_wrapping, generate_key_pair, unwrap
from volcrypt.kms.imported_material import (
    check_import_type,
    with_imported,
    without_material,
)
from volcrypt.kms.keyring import IMPORTS, get_key, put_key
from volcrypt.kms.messages.imports import (
    DOES_NOT_EXPIRE,
    EXPIRES,
    DeleteImportedKeyMaterialRequest,
    DeleteImportedKeyMaterialResponse,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
    ImportKeyMaterialResponse,
)
from volcrypt.kms.model import DAY_SECONDS, KeyMaterial, KmsKey
from volcrypt.kms.rewrap import mark_rewrap_due
from volcrypt.kms.scope import Scope
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

PARAMETERS_VALID_SECONDS: Final = DAY_SECONDS
MAX_VALID_DAYS: Final = 365
_TOKEN_INFO: Final = b"volcrypt import token 1\0"
_MATERIAL_INFO: Final = b"volcrypt imported material 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportParameters:
    """What ImportKeyMaterial needs; `private_key` is a sealed secret, `valid_to` whole seconds
    since 1970-01-01 UTC."""

    import_id: str
    algorithm: str
    valid_to: int
    private_key: bytes = field(repr=False)


class ImportOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def get_parameters_for_import(
        self, attempt: Attempt, request: GetParametersForImportRequest
    ) -> Effect[GetParametersForImportResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "GetParametersForImport")
        attempt.check_state(key)
        check_wrapping(algorithm=request.wrapping_algorithm, key_spec=request.wrapping_key_spec)

        def act() -> GetParametersForImportResponse:
            public_key, private_key = generate_key_pair(request.wrapping_key_spec)
            try:
                with self._catalog.changing() as change:
                    now = get_key(change, key.key_id)
                    if now is None:
                        raise KeyNotFoundError(f"Key '{key.arn}' does not exist")
                    attempt.check_state(now)
                    token = self._put_parameters(
                        change, key, private_key, algorithm=request.wrapping_algorithm
                    )
            finally:
                private_key[:] = bytes(len(private_key))
            return GetParametersForImportResponse(
                key_id=key.arn,
                import_token=encode_import_token(token, self._tag(token)),
                public_key=public_key,
                parameters_valid_to=token.valid_to,
            )

        return Effect(act=act)

    def import_key_material(
        self, attempt: Attempt, request: ImportKeyMaterialRequest
    ) -> Effect[ImportKeyMaterialResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "ImportKeyMaterial")
        attempt.check_state(key)
        valid_to = _valid_to(request, now=self._clock())
        check_import_type(request.import_type, expected_id=request.key_material_id)
        parameters = self._parameters(attempt.change, key, request.import_token)
        attempt.response_elements = {"keyId": key.arn}
        imported: list[str] = []

        def change(change: Change) -> None:
            now = self._clock()
            plaintext = self._unwrapped(key, parameters, request.encrypted_key_material)
            try:
                material = KeyMaterial(
                    material_id=self._material_id(key, plaintext),
                    wrapped=self._keystore.import_material(plaintext),
                    created_at=now,
                    expiry=None if valid_to is None else deadline(change, date=valid_to, now=now),
                    description=request.key_material_description,
                )
            finally:
                plaintext[:] = bytes(len(plaintext))
            changed = with_imported(
                key,
                material,
                import_type=request.import_type,
                expected_id=request.key_material_id,
            )
            put_key(change, changed)
            change.delete(IMPORTS, key.key_id)
            imported.append(material.material_id)

        def act() -> ImportKeyMaterialResponse:
            return ImportKeyMaterialResponse(key_id=key.arn, key_material_id=imported[0])

        return Effect(change=change, act=act)

    def delete_imported_key_material(
        self, attempt: Attempt, request: DeleteImportedKeyMaterialRequest
    ) -> Effect[DeleteImportedKeyMaterialResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "DeleteImportedKeyMaterial")
        attempt.check_state(key)
        changed, material_id = without_material(key, request.key_material_id)
        attempt.response_elements = {"keyId": key.arn}

        def change(change: Change) -> None:
            if changed != key:
                put_key(change, changed)
                mark_rewrap_due(change, key)

        def act() -> DeleteImportedKeyMaterialResponse:
            return DeleteImportedKeyMaterialResponse(key_id=key.arn, key_material_id=material_id)

        return Effect(change=change, act=act)

    def _put_parameters(
        self, change: Change, key: KmsKey, private_key: bytearray, *, algorithm: str
    ) -> ImportToken:
        token = ImportToken(
            key_id=key.key_id,
            import_id=self._keystore.random(IMPORT_ID_BYTES).hex(),
            valid_to=int(self._clock()) + PARAMETERS_VALID_SECONDS,
        )
        parameters = ImportParameters(
            import_id=token.import_id,
            algorithm=algorithm,
            valid_to=token.valid_to,
            private_key=self._keystore.seal(private_key, token.covered()),
        )
        body = msgspec.json.encode(parameters)
        change.put(Item(kind=IMPORTS, id=key.key_id, body=body))
        return token

    def _parameters(self, view: View, key: KmsKey, data: bytes) -> ImportParameters:
        """What belongs to an import token. Raises InvalidImportTokenError for one that is not
        ours, another key's, used or replaced, and ExpiredImportTokenError."""
        try:
            token, tag = decode_import_token(data)
        except FormatError as error:
            raise InvalidImportTokenError(str(error)) from error
        if not hmac.compare_digest(self._tag(token), tag):
            raise InvalidImportTokenError("the import token was changed, or is another service's")
        if token.key_id != key.key_id:
            raise InvalidImportTokenError("the import token is another key's")
        if self._clock() >= token.valid_to:
            raise ExpiredImportTokenError("the import token has expired")
        item = view.get(IMPORTS, key.key_id)
        parameters = None if item is None else _decode(item)
        if parameters is None or parameters.import_id != token.import_id:
            raise InvalidImportTokenError("the import token was used, or replaced by a newer one")
        return parameters

    def _unwrapped(self, key: KmsKey, parameters: ImportParameters, wrapped: bytes) -> bytearray:
        token = ImportToken(
            key_id=key.key_id, import_id=parameters.import_id, valid_to=parameters.valid_to
        )
        private_key = self._keystore.open_sealed(parameters.private_key, token.covered())
        try:
            return unwrap(wrapped, private_key=private_key, algorithm=parameters.algorithm)
        finally:
            private_key[:] = bytes(len(private_key))

    def _tag(self, token: ImportToken) -> bytes:
        return bytes(self._keystore.derive(_TOKEN_INFO + token.covered()))

    def _material_id(self, key: KmsKey, plaintext: bytearray) -> str:
        return self._keystore.derive(_MATERIAL_INFO + key.key_id.encode() + plaintext).hex()


def remove_expired_imports(change: Change, *, now: float) -> None:
    """Forget the private keys of imports whose tokens have expired."""
    for item in change.items(IMPORTS):
        if _decode(item).valid_to <= now:
            change.delete(IMPORTS, item.id)


def _decode(item: Item) -> ImportParameters:
    return msgspec.json.decode(item.body, type=ImportParameters)


def _valid_to(request: ImportKeyMaterialRequest, *, now: float) -> float | None:
    """When the material expires, if it does. Raises KmsValidationError."""
    model = request.expiration_model or EXPIRES
    if model == DOES_NOT_EXPIRE:
        if request.valid_to is not None:
            raise KmsValidationError(
                "A validTo date cannot be set if the ExpirationModel is "
                "KEY_MATERIAL_DOES_NOT_EXPIRE"
            )
        return None
    if request.valid_to is None:
        raise KmsValidationError(
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"
        )
    # Written so that NaN is refused too.
    if not now < request.valid_to <= now + MAX_VALID_DAYS * DAY_SECONDS:
        raise KmsValidationError(
            f"The validTo date must be in the future, and at most {MAX_VALID_DAYS} days from now"
        )
    return request.valid_to
