"""Messages of the operations on aliases. Pure."""

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


class CreateAliasRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    alias_name: str
    target_key_id: str


class UpdateAliasRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    alias_name: str
    target_key_id: str


class DeleteAliasRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    alias_name: str


class AliasListEntry(Message, frozen=True, kw_only=True):
    alias_name: str
    alias_arn: str
    target_key_id: str
    creation_date: float
    last_updated_date: float


class ListAliasesResponse(Response, frozen=True, kw_only=True):
    aliases: list[AliasListEntry]
    truncated: bool
    next_marker: str | None = None


class ListAliasesRequest(PagedRequest[ListAliasesResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"limit": Limits(minimum=1, maximum=100)}
    )

    key_id: str | None = None
    limit: int = 50


ALIAS_OPERATIONS: Final = MappingProxyType(
    {
        "CreateAlias": Operation(CreateAliasRequest, False),
        "UpdateAlias": Operation(UpdateAliasRequest, False),
        "DeleteAlias": Operation(DeleteAliasRequest, False),
        "ListAliases": Operation(ListAliasesRequest, True),
    }
)
