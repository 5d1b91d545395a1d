"""What the requests and responses of every operation have in common. Pure.

A struct is in Python what the operation's shape is on the wire: `key_id` is `KeyId`, blobs are
base64, times are seconds since 1970-01-01 UTC. Plaintext is a bytearray, so that it can be wiped,
and never shown by `repr`.

A member that a request may lack is None or has the default of the AWS KMS. What is in the service
model of the AWS KMS and in no struct here is not supported, and refused when it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from volcrypt.kms.messages.limits import Limits

A = TypeVar("A", bound="Response")
NO_CONTEXT: Final[dict[str, str]] = {}
_SECRET_MEMBERS: Final = frozenset({"plaintext", "key_store_password", "secret_access_key"})
_NONE_MISSING: Final[frozenset[str]] = frozenset()


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A request or response, or a structure in one; shows no secrets."""

    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({})
    """Where a member's limits are others than those of its name elsewhere."""

    def own_limits(self) -> Mapping[str, Limits]:
        return self.LIMITS

    def members(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def missing_members(self) -> frozenset[str]:
        return _NONE_MISSING

    def __repr__(self) -> str:
        members = ", ".join(
            f"{name}={'<redacted>' if name in _SECRET_MEMBERS else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({members})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [
            (name, "<redacted>" if name in _SECRET_MEMBERS else getattr(self, name))
            for name in self.__struct_fields__
        ]


class Request(Message, Generic[A], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for the operation that its class is named after; `A` is what answers it."""

    EVENT_SOURCE: ClassVar[str] = "kms.amazonaws.com"
    """The service whose operation it is, as the audit log names it."""


class Response(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A member that is None is absent on the wire."""


class EmptyResponse(Response, frozen=True, kw_only=True):
    """What operations answer that have nothing to say."""


class PagedRequest(Request[A], frozen=True, kw_only=True):
    limit: int = 100
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation, by its request. `read_only` is what CloudTrail calls so."""

    request: type[Request[Any]]
    read_only: bool
