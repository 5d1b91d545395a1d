"""Messages of the operations on principals: those of AWS IAM, and ImportAccessKey of our own. Pure.

They are no operations of the KMS protocol: whoever speaks that does not reach them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

import msgspec

from volcrypt.kms.messages.base import (
    A,
    EmptyResponse,
    Message,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.limits import Limits
from volcrypt.kms.messages.policies import POLICY_TEXT

_NAME: Final = r"[\w+=,.@-]+"
_LIMITS: Final = MappingProxyType(
    {
        "user_name": Limits(minimum=1, maximum=64, pattern=_NAME),
        "policy_name": Limits(minimum=1, maximum=128, pattern=_NAME),
        "policy_document": POLICY_TEXT,
        "access_key_id": Limits(minimum=16, maximum=128, pattern=r"[\w]+"),
        "secret_access_key": Limits(minimum=16, maximum=128, pattern=r"[!-~]+"),
        "status": Limits(minimum=1, maximum=8, choices=("Active", "Inactive")),
        "limit": Limits(minimum=1, maximum=1000),
    }
)


class PrincipalRequest(Request[A], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS
    EVENT_SOURCE: ClassVar[str] = "iam.amazonaws.com"


class PagedPrincipalRequest(PagedRequest[A], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS
    EVENT_SOURCE: ClassVar[str] = "iam.amazonaws.com"

    limit: int = msgspec.field(default=100, name="MaxItems")


class PagedResponse(Response, frozen=True, kw_only=True):
    is_truncated: bool
    marker: str | None = None


# ---------------------------------------------------------------- users


class User(Message, frozen=True, kw_only=True):
    path: str = "/"
    user_name: str
    user_id: str
    arn: str
    create_date: float


class UserResponse(Response, frozen=True, kw_only=True):
    user: User


class CreateUserRequest(PrincipalRequest[UserResponse], frozen=True, kw_only=True):
    user_name: str


class GetUserRequest(PrincipalRequest[UserResponse], frozen=True, kw_only=True):
    """Without a name: the caller."""

    user_name: str | None = None


class DeleteUserRequest(PrincipalRequest[EmptyResponse], frozen=True, kw_only=True):
    user_name: str


class ListUsersResponse(PagedResponse, frozen=True, kw_only=True):
    users: list[User]


class ListUsersRequest(PagedPrincipalRequest[ListUsersResponse], frozen=True, kw_only=True):
    pass


# ---------------------------------------------------------------- policies of users


class PutUserPolicyRequest(PrincipalRequest[EmptyResponse], frozen=True, kw_only=True):
    user_name: str
    policy_name: str
    policy_document: str


class GetUserPolicyResponse(Response, frozen=True, kw_only=True):
    """The document as an object, as the AWS SDKs give it."""

    user_name: str
    policy_name: str
    policy_document: dict[str, Any]


class GetUserPolicyRequest(PrincipalRequest[GetUserPolicyResponse], frozen=True, kw_only=True):
    user_name: str
    policy_name: str


class DeleteUserPolicyRequest(PrincipalRequest[EmptyResponse], frozen=True, kw_only=True):
    user_name: str
    policy_name: str


class ListUserPoliciesResponse(PagedResponse, frozen=True, kw_only=True):
    policy_names: list[str]


class ListUserPoliciesRequest(
    PrincipalRequest[ListUserPoliciesResponse], frozen=True, kw_only=True
):
    user_name: str


# ---------------------------------------------------------------- access keys


class NewAccessKey(Message, frozen=True, kw_only=True):
    """An access key with its secret, which is told this once."""

    user_name: str
    access_key_id: str
    status: str
    secret_access_key: str
    create_date: float


class AccessKeyResponse(Response, frozen=True, kw_only=True):
    access_key: NewAccessKey


class CreateAccessKeyRequest(PrincipalRequest[AccessKeyResponse], frozen=True, kw_only=True):
    """Without a name: for the caller. `for_volumes` makes one of the volume service, whose
    requests count as made by it on the user's behalf."""

    user_name: str | None = None
    for_volumes: bool = False


class AccessKeyMetadata(Message, frozen=True, kw_only=True):
    user_name: str
    access_key_id: str
    status: str
    create_date: float


class ImportAccessKeyResponse(Response, frozen=True, kw_only=True):
    access_key: AccessKeyMetadata


class ImportAccessKeyRequest(PrincipalRequest[ImportAccessKeyResponse], frozen=True, kw_only=True):
    """Let a user sign with a key pair that exists elsewhere."""

    user_name: str
    access_key_id: str
    secret_access_key: str
    for_volumes: bool = False


class ListAccessKeysResponse(PagedResponse, frozen=True, kw_only=True):
    access_key_metadata: list[AccessKeyMetadata]


class ListAccessKeysRequest(PrincipalRequest[ListAccessKeysResponse], frozen=True, kw_only=True):
    user_name: str | None = None


class UpdateAccessKeyRequest(PrincipalRequest[EmptyResponse], frozen=True, kw_only=True):
    user_name: str | None = None
    access_key_id: str
    status: str


class DeleteAccessKeyRequest(PrincipalRequest[EmptyResponse], frozen=True, kw_only=True):
    user_name: str | None = None
    access_key_id: str


PRINCIPAL_OPERATIONS: Final = MappingProxyType(
    {
        "CreateUser": Operation(CreateUserRequest, False),
        "GetUser": Operation(GetUserRequest, True),
        "ListUsers": Operation(ListUsersRequest, True),
        "DeleteUser": Operation(DeleteUserRequest, False),
        "PutUserPolicy": Operation(PutUserPolicyRequest, False),
        "GetUserPolicy": Operation(GetUserPolicyRequest, True),
        "ListUserPolicies": Operation(ListUserPoliciesRequest, True),
        "DeleteUserPolicy": Operation(DeleteUserPolicyRequest, False),
        "CreateAccessKey": Operation(CreateAccessKeyRequest, False),
        "ImportAccessKey": Operation(ImportAccessKeyRequest, False),
        "ListAccessKeys": Operation(ListAccessKeysRequest, True),
        "UpdateAccessKey": Operation(UpdateAccessKeyRequest, False),
        "DeleteAccessKey": Operation(DeleteAccessKeyRequest, False),
    }
)
