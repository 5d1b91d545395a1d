"""Operations on the access keys of users, as AWS IAM has them; and their secrets.

A secret is told once, when it is made. It is kept sealed by the HSM, bound to the access key's id.
"""

from base64 import b32encode, b64encode
from dataclasses import replace
from typing import Final

from volcrypt.errors import (
    EntityExistsError,
    NoSuchEntityError,
    PrincipalAccessDeniedError,
    PrincipalLimitError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.principals import (
    AccessKeyMetadata,
    AccessKeyResponse,
    CreateAccessKeyRequest,
    DeleteAccessKeyRequest,
    ImportAccessKeyRequest,
    ImportAccessKeyResponse,
    ListAccessKeysRequest,
    ListAccessKeysResponse,
    NewAccessKey,
    UpdateAccessKeyRequest,
)
from volcrypt.kms.principal_operations import PrincipalOperations
from volcrypt.kms.principals import (
    ACCESS_KEYS,
    AccessKey,
    AccessKeyStatus,
    Principal,
    access_keys_of,
    find_access_key,
    put_access_key,
)
from volcrypt.kms.view import Change

MAX_ACCESS_KEYS: Final = 2
_ID_BYTES: Final = 10
_SECRET_BYTES: Final = 30
_AAD: Final = b"volcrypt access key 1\0"


class AccessKeyOperations(PrincipalOperations):
    """Requests raise the errors of AWS IAM; see the module `service`."""

    def create_access_key(
        self, attempt: Attempt, request: CreateAccessKeyRequest
    ) -> Effect[AccessKeyResponse]:
        user = self._owner_of_new_key(attempt, request.user_name, for_volumes=request.for_volumes)
        id_ = "AKIA" + b32encode(bytes(self._keystore.random(_ID_BYTES))).decode()
        secret = bytearray(b64encode(self._keystore.random(_SECRET_BYTES)))
        metadata = _metadata(user, id_, AccessKeyStatus.ACTIVE, attempt.now)
        attempt.response_elements = _told(metadata)

        def change(change: Change) -> None:
            self._put_key(change, user, metadata, secret, is_for_volumes=request.for_volumes)

        def act() -> AccessKeyResponse:
            key = NewAccessKey(
                user_name=user.name,
                access_key_id=id_,
                status=metadata.status,
                secret_access_key=secret.decode(),
                create_date=metadata.create_date,
            )
            return AccessKeyResponse(access_key=key)

        return Effect(change=change, act=act)

    def import_access_key(
        self, attempt: Attempt, request: ImportAccessKeyRequest
    ) -> Effect[ImportAccessKeyResponse]:
        user = self._owner_of_new_key(attempt, request.user_name, for_volumes=request.for_volumes)
        id_ = request.access_key_id
        if find_access_key(attempt.change, id_) is not None:
            raise EntityExistsError(f"The Access Key with id {id_} already exists.")
        metadata = _metadata(user, id_, AccessKeyStatus.ACTIVE, attempt.now)
        attempt.response_elements = _told(metadata)

        def change(change: Change) -> None:
            secret = bytearray(request.secret_access_key.encode())
            self._put_key(change, user, metadata, secret, is_for_volumes=request.for_volumes)

        return Effect(change=change, act=lambda: ImportAccessKeyResponse(access_key=metadata))

    def list_access_keys(
        self, attempt: Attempt, request: ListAccessKeysRequest
    ) -> Effect[ListAccessKeysResponse]:
        user = self._user(attempt, request.user_name)
        keys = access_keys_of(attempt.change, user)
        response = ListAccessKeysResponse(
            access_key_metadata=[_metadata(user, k.id, k.status, k.created_at) for k in keys],
            is_truncated=False,
        )
        return Effect(act=lambda: response)

    def update_access_key(
        self, attempt: Attempt, request: UpdateAccessKeyRequest
    ) -> Effect[EmptyResponse]:
        key = self._key(attempt, request.user_name, request.access_key_id)
        changed = replace(key, status=AccessKeyStatus(request.status))
        return Effect(change=lambda change: put_access_key(change, changed), act=EmptyResponse)

    def delete_access_key(
        self, attempt: Attempt, request: DeleteAccessKeyRequest
    ) -> Effect[EmptyResponse]:
        key = self._key(attempt, request.user_name, request.access_key_id)
        return Effect(change=lambda change: change.delete(ACCESS_KEYS, key.id), act=EmptyResponse)

    # ---------------------------------------------------------------- for who checks signatures

    def find_access_key(self, id_: str) -> AccessKey | None:
        """The access key of that id, also an inactive one; of any account."""
        with self._catalog.reading() as view:
            return find_access_key(view, id_)

    def open_secret(self, key: AccessKey) -> bytearray:
        """The secret of an access key; to be wiped after use. Raises HsmUnavailableError,
        IntegrityError."""
        return self._keystore.open_sealed(key.sealed, aad=_aad(key.id))

    # ---------------------------------------------------------------- parts

    def _owner_of_new_key(
        self, attempt: Attempt, name: str | None, *, for_volumes: bool
    ) -> Principal:
        """The user who gets another access key."""
        user = self._user(attempt, name)
        if for_volumes and not attempt.caller.is_root:
            # It opens what is for the volume service alone, whatever the user's policies say.
            raise PrincipalAccessDeniedError(
                "only the account root may make access keys for the volume service"
            )
        if len(access_keys_of(attempt.change, user)) >= MAX_ACCESS_KEYS:
            raise PrincipalLimitError(
                f"Cannot exceed quota for AccessKeysPerUser: {MAX_ACCESS_KEYS}"
            )
        return user

    def _key(self, attempt: Attempt, user_name: str | None, id_: str) -> AccessKey:
        user = self._user(attempt, user_name)
        key = find_access_key(attempt.change, id_)
        if key is None or key.principal != user.arn:
            raise NoSuchEntityError(f"The Access Key with id {id_} cannot be found.")
        return key

    def _put_key(
        self,
        change: Change,
        user: Principal,
        metadata: AccessKeyMetadata,
        secret: bytearray,
        *,
        is_for_volumes: bool,
    ) -> None:
        id_ = metadata.access_key_id
        sealed = self._keystore.seal(secret, aad=_aad(id_))
        put_access_key(
            change,
            AccessKey(
                id=id_,
                principal=user.arn,
                account=user.account,
                status=AccessKeyStatus(metadata.status),
                created_at=metadata.create_date,
                is_for_volumes=is_for_volumes,
                sealed=sealed,
            ),
        )


def _aad(id_: str) -> bytes:
    return _AAD + id_.encode()


def _metadata(
    user: Principal, id_: str, status: AccessKeyStatus, created_at: float
) -> AccessKeyMetadata:
    return AccessKeyMetadata(
        user_name=user.name, access_key_id=id_, status=status.value, create_date=created_at
    )


def _told(metadata: AccessKeyMetadata) -> dict[str, object]:
    """What the audit log says of a new access key."""
    return {
        "accessKey": {
            "accessKeyId": metadata.access_key_id,
            "userName": metadata.user_name,
            "status": metadata.status,
        }
    }
