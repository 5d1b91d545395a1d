"""Messages of the operations on keys. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import msgspec

from volcrypt.kms.messages.base import (
    EmptyResponse,
    Message,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.limits import CREATE_KEY_SPEC, Limits
from volcrypt.kms.messages.tags import NO_TAGS, Tag


class KeyMetadata(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What DescribeKey and CreateKey tell of a key."""

    aws_account_id: str = msgspec.field(name="AWSAccountId")
    key_id: str
    arn: str
    creation_date: float
    enabled: bool
    description: str
    key_usage: str
    key_state: str
    deletion_date: float | None = None
    valid_to: float | None = None
    origin: str
    custom_key_store_id: str | None = None
    cloud_hsm_cluster_id: str | None = None
    expiration_model: str | None = None
    key_manager: str
    customer_master_key_spec: str
    key_spec: str
    encryption_algorithms: list[str]
    multi_region: bool
    current_key_material_id: str | None = None


class CreateKeyResponse(Response, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class CreateKeyRequest(Request[CreateKeyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({"key_spec": CREATE_KEY_SPEC})

    description: str = ""
    key_usage: str | None = None
    key_spec: str | None = None
    customer_master_key_spec: str | None = None
    origin: str = "AWS_KMS"
    policy: str | None = None
    bypass_policy_lockout_safety_check: bool = False
    custom_key_store_id: str | None = None
    tags: list[Tag] = NO_TAGS
    multi_region: bool = False


class DescribeKeyResponse(Response, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class DescribeKeyRequest(Request[DescribeKeyResponse], frozen=True, kw_only=True):
    key_id: str
    grant_tokens: list[str] = msgspec.field(default_factory=list)


class KeyListEntry(Message, frozen=True, kw_only=True):
    key_id: str
    key_arn: str


class ListKeysResponse(Response, frozen=True, kw_only=True):
    keys: list[KeyListEntry]
    truncated: bool
    next_marker: str | None = None


class ListKeysRequest(PagedRequest[ListKeysResponse], frozen=True, kw_only=True):
    pass


class EnableKeyRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str


class DisableKeyRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str


class UpdateKeyDescriptionRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str
    description: str


class GetKeyPolicyResponse(Response, frozen=True, kw_only=True):
    policy: str
    policy_name: str


class GetKeyPolicyRequest(Request[GetKeyPolicyResponse], frozen=True, kw_only=True):
    key_id: str
    policy_name: str = "default"


KEY_OPERATIONS: Final = MappingProxyType(
    {
        "CreateKey": Operation(CreateKeyRequest, False),
        "DescribeKey": Operation(DescribeKeyRequest, True),
        "ListKeys": Operation(ListKeysRequest, True),
        "EnableKey": Operation(EnableKeyRequest, False),
        "DisableKey": Operation(DisableKeyRequest, False),
        "UpdateKeyDescription": Operation(UpdateKeyDescriptionRequest, False),
        "GetKeyPolicy": Operation(GetKeyPolicyRequest, True),
    }
)
