"""What the requests and responses of every operation have in common. Pure.

A struct is in Python what the operation's shape is on the wire: `key_id` is `KeyId`, blobs are
base64, times are seconds since 1970-01-01 UTC. Plaintext is a bytearray, so that it can be wiped,
and never shown by `repr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import msgspec

from volcrypt.kms.messages.limits import Limits

NO_CONTEXT: Final[dict[str, str]] = {}
_SECRET_MEMBERS: Final = frozenset({"plaintext"})


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A request or response; shows no secrets."""

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


class Request(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({})
    """Where a member's limits are others than in the rest of the operations."""


class Response(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A member that is None is absent on the wire."""


class EmptyResponse(Response, frozen=True, kw_only=True):
    """What operations answer that have nothing to say."""


class PagedRequest(Request, frozen=True, kw_only=True):
    limit: int = 100
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation takes and gives. `read_only` is what CloudTrail calls so."""

    request: type[Request]
    response: type[Response]
    read_only: bool
