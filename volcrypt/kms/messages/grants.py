"""Messages of the operations on grants. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import msgspec

from volcrypt.kms.messages.base import (
    NO_CONTEXT,
    EmptyResponse,
    Message,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.choices import GRANTABLE_OPERATIONS
from volcrypt.kms.messages.limits import Limits

_PRINCIPAL: Final = Limits(minimum=1, maximum=256, pattern=r"^[\w+=,.@:/-]+$")
_SERVICE: Final = Limits(
    minimum=1, maximum=128, pattern=r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$"
)
_GRANT: Final = MappingProxyType(
    {
        "operations": Limits(each=Limits(choices=GRANTABLE_OPERATIONS)),
        "grantee_principal": _PRINCIPAL,
        "retiring_principal": _PRINCIPAL,
        "grantee_service_principal": _SERVICE,
        "retiring_service_principal": _SERVICE,
        "name": Limits(minimum=1, maximum=256, pattern="^[a-zA-Z0-9:/_-]+$"),
        "grant_id": Limits(minimum=1, maximum=128),
        "grant_token": Limits(minimum=1, maximum=8192),
    }
)
_PAGED: Final = MappingProxyType({**_GRANT, "limit": Limits(minimum=1, maximum=100)})


class GrantConstraints(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What binds a grant; a map that is empty does not."""

    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {
            "source_arn": Limits(
                minimum=20,
                maximum=512,
                pattern="^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$",
            )
        }
    )

    encryption_context_subset: dict[str, str] = NO_CONTEXT
    encryption_context_equals: dict[str, str] = NO_CONTEXT
    source_arn: str | None = None


class CreateGrantResponse(Response, frozen=True, kw_only=True):
    grant_token: str
    grant_id: str


class CreateGrantRequest(Request[CreateGrantResponse], frozen=True, kw_only=True):
    """Exactly one of the two grantees, and at most one of the two who may retire."""

    LIMITS: ClassVar[Mapping[str, Limits]] = _GRANT

    key_id: str
    operations: list[str]
    grantee_principal: str | None = None
    grantee_service_principal: str | None = None
    retiring_principal: str | None = None
    retiring_service_principal: str | None = None
    constraints: GrantConstraints | None = None
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    name: str | None = None
    dry_run: bool = False


class GrantListEntry(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What the lists tell of a grant; `key_id` is the ARN of its key."""

    key_id: str
    grant_id: str
    name: str
    creation_date: float
    issuing_account: str
    operations: list[str]
    grantee_principal: str | None = None
    grantee_service_principal: str | None = None
    retiring_principal: str | None = None
    retiring_service_principal: str | None = None
    constraints: GrantConstraints | None = None


class ListGrantsResponse(Response, frozen=True, kw_only=True):
    grants: list[GrantListEntry]
    truncated: bool
    next_marker: str | None = None


class ListGrantsRequest(PagedRequest[ListGrantsResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _PAGED

    key_id: str
    grant_id: str | None = None
    grantee_principal: str | None = None
    grantee_service_principal: str | None = None
    limit: int = 50


class ListRetirableGrantsRequest(PagedRequest[ListGrantsResponse], frozen=True, kw_only=True):
    """Exactly one of the two."""

    LIMITS: ClassVar[Mapping[str, Limits]] = _PAGED

    retiring_principal: str | None = None
    retiring_service_principal: str | None = None
    limit: int = 50


class RetireGrantRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    """The token, or key and grant id."""

    LIMITS: ClassVar[Mapping[str, Limits]] = _GRANT

    grant_token: str | None = None
    key_id: str | None = None
    grant_id: str | None = None
    dry_run: bool = False


class RevokeGrantRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _GRANT

    key_id: str
    grant_id: str
    dry_run: bool = False


GRANT_OPERATIONS: Final = MappingProxyType(
    {
        "CreateGrant": Operation(CreateGrantRequest, False),
        "ListGrants": Operation(ListGrantsRequest, True),
        "ListRetirableGrants": Operation(ListRetirableGrantsRequest, True),
        "RetireGrant": Operation(RetireGrantRequest, False),
        "RevokeGrant": Operation(RevokeGrantRequest, False),
    }
)
