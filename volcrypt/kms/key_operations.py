"""Operations on keys: make, describe, list, enable, disable, show the policy."""

from dataclasses import replace
from typing import Final

from volcrypt.errors import KeyNotFoundError, LimitExceededError, UnsupportedOperationError
from volcrypt.formats.audit_record import Resource
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.keyring import KEYS, decode_key, put_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    CreateKeyResponse,
    DescribeKeyRequest,
    DescribeKeyResponse,
    DisableKeyRequest,
    EnableKeyRequest,
    GetKeyPolicyRequest,
    GetKeyPolicyResponse,
    KeyListEntry,
    KeyMetadata,
    ListKeysRequest,
    ListKeysResponse,
)
from volcrypt.kms.messages.limits import SYMMETRIC_DEFAULT
from volcrypt.kms.model import KeyManager, KeyState, KmsKey, key_arn
from volcrypt.kms.policy import default_policy
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import Change

MAX_KEYS: Final = 100_000
_USAGE: Final = "ENCRYPT_DECRYPT"


class KeyOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def create_key(self, attempt: Attempt, request: CreateKeyRequest) -> Effect[CreateKeyResponse]:
        attempt.authorise_account("CreateKey")
        _check_kind(request)
        if attempt.change.count(KEYS) >= MAX_KEYS:
            raise LimitExceededError(f"an account cannot have more than {MAX_KEYS} keys per region")
        key_id = self._new_key_id()
        arn = key_arn(self._account, self._region, key_id)
        attempt.resources.append(Resource(arn=arn, account_id=self._account))
        attempt.response_elements = {"keyMetadata": {"keyId": key_id, "arn": arn}}
        made: list[KmsKey] = []

        def change(change: Change) -> None:
            key = self._generate_key(
                key_id,
                description=request.description,
                manager=KeyManager.CUSTOMER,
                policy=default_policy(self._account),
            )
            put_key(change, key)
            made.append(key)

        return Effect(change=change, act=lambda: CreateKeyResponse(key_metadata=_metadata(made[0])))

    def describe_key(
        self, attempt: Attempt, request: DescribeKeyRequest
    ) -> Effect[DescribeKeyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "DescribeKey", grant_tokens=request.grant_tokens)
        return Effect(act=lambda: DescribeKeyResponse(key_metadata=_metadata(key)))

    def list_keys(self, attempt: Attempt, request: ListKeysRequest) -> Effect[ListKeysResponse]:
        attempt.authorise_account("ListKeys")
        items, marker = self._page(attempt.change, KEYS, request)
        keys = [decode_key(item) for item in items]
        response = ListKeysResponse(
            keys=[KeyListEntry(key_id=key.key_id, key_arn=key.arn) for key in keys],
            truncated=marker is not None,
            next_marker=marker,
        )
        return Effect(act=lambda: response)

    def enable_key(self, attempt: Attempt, request: EnableKeyRequest) -> Effect[EmptyResponse]:
        return self._switch(attempt, request.key_id, KeyState.ENABLED)

    def disable_key(self, attempt: Attempt, request: DisableKeyRequest) -> Effect[EmptyResponse]:
        return self._switch(attempt, request.key_id, KeyState.DISABLED)

    def _switch(self, attempt: Attempt, key_id: str, state: KeyState) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, key_id)
        attempt.authorise(key, attempt.operation)
        attempt.check_state(key)
        attempt.response_elements = {"keyId": key.arn}
        return Effect(
            change=lambda change: put_key(change, replace(key, state=state)), act=EmptyResponse
        )

    def get_key_policy(
        self, attempt: Attempt, request: GetKeyPolicyRequest
    ) -> Effect[GetKeyPolicyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "GetKeyPolicy")
        if request.policy_name != "default":
            raise KeyNotFoundError("No such policy exists")
        return Effect(act=lambda: GetKeyPolicyResponse(policy=key.policy, policy_name="default"))


def _check_kind(request: CreateKeyRequest) -> None:
    """Raises UnsupportedOperationError for a kind of key that there is not."""
    if (
        request.key_usage != _USAGE
        or request.key_spec != SYMMETRIC_DEFAULT
        or request.customer_master_key_spec != SYMMETRIC_DEFAULT
        or request.origin != "AWS_KMS"
        or request.multi_region
    ):
        raise UnsupportedOperationError(
            "only single-region keys of key spec SYMMETRIC_DEFAULT, key usage ENCRYPT_DECRYPT and "
            "origin AWS_KMS can be created"
        )


def _metadata(key: KmsKey) -> KeyMetadata:
    return KeyMetadata(
        aws_account_id=key.account,
        key_id=key.key_id,
        arn=key.arn,
        creation_date=key.created_at,
        enabled=key.state is KeyState.ENABLED,
        description=key.description,
        key_usage=_USAGE,
        key_state=key.state.value,
        origin=key.origin.value,
        key_manager=key.manager.value,
        customer_master_key_spec=SYMMETRIC_DEFAULT,
        key_spec=SYMMETRIC_DEFAULT,
        encryption_algorithms=[SYMMETRIC_DEFAULT],
        multi_region=False,
        current_key_material_id=key.current_material.material_id,
    )
