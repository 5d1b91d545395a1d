"""Messages of the operations on key policies, but GetKeyPolicy (`keys`). Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import (
    EmptyResponse,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.limits import Limits

POLICY_TEXT: Final = Limits(
    minimum=1, maximum=131_072, pattern=r"[\u0009\u000A\u000D\u0020-\u00FF]+"
)
"""What can be a policy at all, of a key or of a principal."""


class PutKeyPolicyRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({"policy": POLICY_TEXT})

    key_id: str
    policy: str
    policy_name: str = "default"
    bypass_policy_lockout_safety_check: bool = False


class ListKeyPoliciesResponse(Response, frozen=True, kw_only=True):
    policy_names: list[str]
    truncated: bool
    next_marker: str | None = None


class ListKeyPoliciesRequest(PagedRequest[ListKeyPoliciesResponse], frozen=True, kw_only=True):
    key_id: str


POLICY_OPERATIONS: Final = MappingProxyType(
    {
        "PutKeyPolicy": Operation(PutKeyPolicyRequest, False),
        "ListKeyPolicies": Operation(ListKeyPoliciesRequest, True),
    }
)
