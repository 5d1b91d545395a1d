"""Messages of the operations on custom key stores. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import (
    EmptyResponse,
    Message,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.limits import Limits

AWS_CLOUDHSM: Final = "AWS_CLOUDHSM"
_NAME: Final = Limits(minimum=1, maximum=256)
_LIMITS: Final = MappingProxyType(
    {
        "custom_key_store_id": Limits(minimum=1, maximum=64),
        "custom_key_store_name": _NAME,
        "new_custom_key_store_name": _NAME,
        "cloud_hsm_cluster_id": Limits(
            minimum=19, maximum=24, pattern="cluster-[2-7a-zA-Z]{11,16}"
        ),
        "trust_anchor_certificate": Limits(minimum=1, maximum=5000),
        "key_store_password": Limits(minimum=7, maximum=32),
        "custom_key_store_type": Limits(choices=(AWS_CLOUDHSM, "EXTERNAL_KEY_STORE")),
    }
)


class CreateCustomKeyStoreResponse(Response, frozen=True, kw_only=True):
    custom_key_store_id: str


class CreateCustomKeyStoreRequest(Request[CreateCustomKeyStoreResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_name: str
    cloud_hsm_cluster_id: str | None = None
    trust_anchor_certificate: str | None = None
    key_store_password: str | None = None
    custom_key_store_type: str | None = None


class CustomKeyStoresListEntry(Message, frozen=True, kw_only=True, omit_defaults=True):
    custom_key_store_id: str
    custom_key_store_name: str
    cloud_hsm_cluster_id: str
    trust_anchor_certificate: str
    connection_state: str
    connection_error_code: str | None = None
    creation_date: float
    custom_key_store_type: str


class DescribeCustomKeyStoresResponse(Response, frozen=True, kw_only=True):
    custom_key_stores: list[CustomKeyStoresListEntry]
    truncated: bool
    next_marker: str | None = None


class DescribeCustomKeyStoresRequest(
    PagedRequest[DescribeCustomKeyStoresResponse], frozen=True, kw_only=True
):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_id: str | None = None
    custom_key_store_name: str | None = None


class ConnectCustomKeyStoreRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_id: str


class DisconnectCustomKeyStoreRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_id: str


class UpdateCustomKeyStoreRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_id: str
    new_custom_key_store_name: str | None = None
    key_store_password: str | None = None
    cloud_hsm_cluster_id: str | None = None


class DeleteCustomKeyStoreRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS

    custom_key_store_id: str


KEY_STORE_OPERATIONS: Final = MappingProxyType(
    {
        "CreateCustomKeyStore": Operation(CreateCustomKeyStoreRequest, False),
        "DescribeCustomKeyStores": Operation(DescribeCustomKeyStoresRequest, True),
        "ConnectCustomKeyStore": Operation(ConnectCustomKeyStoreRequest, False),
        "DisconnectCustomKeyStore": Operation(DisconnectCustomKeyStoreRequest, False),
        "UpdateCustomKeyStore": Operation(UpdateCustomKeyStoreRequest, False),
        "DeleteCustomKeyStore": Operation(DeleteCustomKeyStoreRequest, False),
    }
)
