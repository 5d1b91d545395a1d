"""Operations on keys: make, describe, list, enable, disable, describe anew, show the policy."""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from volcrypt.errors import (
    KeyNotFoundError,
    KmsValidationError,
    LimitExceededError,
    UnsupportedOperationError,
)
from volcrypt.formats.audit_record import Resource
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.custom_key_store import get_key_store
from volcrypt.kms.facts import Given
from volcrypt.kms.key_metadata import key_metadata
from volcrypt.kms.keyring import KEYS, decode_key, home_prefix, put_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.choices import ENCRYPT_DECRYPT, SYMMETRIC_DEFAULT, USAGES_OF_SPEC
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
    ListKeysRequest,
    ListKeysResponse,
    UpdateKeyDescriptionRequest,
)
from volcrypt.kms.model import KeyManager, KeyOrigin, KeyState, KmsKey, key_arn
from volcrypt.kms.policy import default_policy
from volcrypt.kms.policy_operations import check_policy
from volcrypt.kms.scope import Scope
from volcrypt.kms.tag_operations import checked_tags
from volcrypt.kms.view import Change, View

MAX_KEYS: Final = 100_000
_ONLY_KIND: Final[Given] = MappingProxyType(
    {"kms:KeySpec": (SYMMETRIC_DEFAULT,), "kms:KeyUsage": (ENCRYPT_DECRYPT,)}
)
"""Condition keys of every CreateKey that is not refused already, whether it says so or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewKey:
    """A decided CreateKey."""

    key_id: str
    arn: str
    origin: KeyOrigin
    policy: str
    tags: dict[str, str]
    custom_key_store_id: str | None


class KeyOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def create_key(self, attempt: Attempt, request: CreateKeyRequest) -> Effect[CreateKeyResponse]:
        _check_kind(request)
        attempt.authorise_account("CreateKey", facts=_ONLY_KIND)
        new = self._decide_new_key(attempt, request)
        attempt.resources.append(Resource(arn=new.arn, account_id=self._account))
        attempt.response_elements = {"keyMetadata": {"keyId": new.key_id, "arn": new.arn}}
        made: list[KmsKey] = []

        def change(change: Change) -> None:
            made.append(
                self._make_key(change, new, description=request.description, now=attempt.now)
            )
            put_key(change, made[0])

        def act() -> CreateKeyResponse:
            with self._catalog.reading() as view:
                cluster_id = _cluster_of(view, made[0])
            return CreateKeyResponse(
                key_metadata=key_metadata(
                    made[0], state=made[0].state, cluster_id=cluster_id, now=attempt.now
                )
            )

        return Effect(change=change, act=act)

    def describe_key(
        self, attempt: Attempt, request: DescribeKeyRequest
    ) -> Effect[DescribeKeyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "DescribeKey", grant_tokens=request.grant_tokens)
        metadata = key_metadata(
            key,
            state=attempt.state_of(key),
            cluster_id=_cluster_of(attempt.change, key),
            now=attempt.now,
        )
        return Effect(act=lambda: DescribeKeyResponse(key_metadata=metadata))

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

    def update_key_description(
        self, attempt: Attempt, request: UpdateKeyDescriptionRequest
    ) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "UpdateKeyDescription")
        attempt.check_state(key)
        changed = replace(key, description=request.description)
        return Effect(change=lambda change: put_key(change, changed), act=EmptyResponse)

    def get_key_policy(
        self, attempt: Attempt, request: GetKeyPolicyRequest
    ) -> Effect[GetKeyPolicyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "GetKeyPolicy")
        if request.policy_name != "default":
            raise KeyNotFoundError("No such policy exists")
        return Effect(act=lambda: GetKeyPolicyResponse(policy=key.policy, policy_name="default"))

    def _switch(self, attempt: Attempt, key_id: str, state: KeyState) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, key_id)
        attempt.authorise(key, attempt.operation)
        attempt.check_state(key)
        attempt.response_elements = {"keyId": key.arn}
        return Effect(
            change=lambda change: put_key(change, replace(key, state=state)), act=EmptyResponse
        )

    def _decide_new_key(self, attempt: Attempt, request: CreateKeyRequest) -> _NewKey:
        origin = _origin_of(request)
        key_id = self._new_key_id()
        arn = key_arn(self._account, self._region, key_id)
        tags = checked_tags(request.tags)
        if tags:
            attempt.authorise_account("TagResource", resource=arn)
        if request.policy is not None:
            check_policy(
                attempt,
                request.policy,
                arn=arn,
                tags=tags,
                bypass_lockout_check=request.bypass_policy_lockout_safety_check,
            )
        if request.custom_key_store_id is not None:
            self._connected_store(attempt.change, request.custom_key_store_id)
        count = attempt.change.count(KEYS, prefix=home_prefix(self._account, self._region))
        if count >= MAX_KEYS:
            raise LimitExceededError(
                f"Key quota for this account in this region is {MAX_KEYS}, "
                f"current usage is {count}."
            )
        return _NewKey(
            key_id=key_id,
            arn=arn,
            origin=origin,
            policy=request.policy or default_policy(self._account),
            tags=tags,
            custom_key_store_id=request.custom_key_store_id,
        )

    def _make_key(self, view: View, new: _NewKey, *, description: str, now: float) -> KmsKey:
        """The key, with material from the HSM unless it is to be imported."""
        is_imported = new.origin is KeyOrigin.EXTERNAL
        store = None
        if new.custom_key_store_id is not None:
            store = self._connected_store(view, new.custom_key_store_id)
        return KmsKey(
            key_id=new.key_id,
            account=self._account,
            region=self._region,
            created_at=now,
            description=description,
            state=KeyState.PENDING_IMPORT if is_imported else KeyState.ENABLED,
            manager=KeyManager.CUSTOMER,
            origin=new.origin,
            policy=new.policy,
            materials=() if is_imported else (self._generate_material(store),),
            tags=new.tags,
            custom_key_store_id=new.custom_key_store_id,
        )


def _check_kind(request: CreateKeyRequest) -> None:
    """Raises KmsValidationError for a kind of key that nobody has, UnsupportedOperationError for
    one that the AWS KMS has and we have not."""
    if request.key_spec is not None and request.customer_master_key_spec is not None:
        raise KmsValidationError(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
            "CustomerMasterKeySpec is deprecated."
        )
    spec = request.key_spec or request.customer_master_key_spec or SYMMETRIC_DEFAULT
    if request.key_usage is None and spec != SYMMETRIC_DEFAULT:
        raise KmsValidationError(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption "
            "keys."
        )
    usage = request.key_usage or ENCRYPT_DECRYPT
    if usage not in USAGES_OF_SPEC[spec]:
        raise KmsValidationError(f"KeyUsage {usage} is not compatible with KeySpec {spec}")
    if spec != SYMMETRIC_DEFAULT:
        raise UnsupportedOperationError(f"keys of key spec {spec} are not supported")
    if request.multi_region:
        raise UnsupportedOperationError("multi-region keys are not supported")


def _origin_of(request: CreateKeyRequest) -> KeyOrigin:
    """Raises KmsValidationError, UnsupportedOperationError."""
    if request.origin == "EXTERNAL_KEY_STORE":
        raise UnsupportedOperationError("keys in external key stores are not supported")
    origin = KeyOrigin(request.origin)
    if (origin is KeyOrigin.AWS_CLOUDHSM) != (request.custom_key_store_id is not None):
        raise KmsValidationError(
            "The CustomKeyStoreId is required for, and only valid with, the Origin AWS_CLOUDHSM"
        )
    return origin


def _cluster_of(view: View, key: KmsKey) -> str | None:
    """The cluster of the custom key store that the key is in."""
    id_ = key.custom_key_store_id
    if id_ is None:
        return None
    store = get_key_store(view, id_, account=key.account, region=key.region)
    return None if store is None else store.cluster_id
