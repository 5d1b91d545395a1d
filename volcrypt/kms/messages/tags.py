"""Messages of the operations on tags. Pure."""

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

_TAG_KEY: Final = Limits(minimum=1, maximum=128)
NO_TAGS: Final[list["Tag"]] = []


class Tag(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"tag_key": _TAG_KEY, "tag_value": Limits(minimum=0, maximum=256)}
    )

    tag_key: str
    tag_value: str


class TagResourceRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str
    tags: list[Tag]


class UntagResourceRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({"tag_keys": Limits(each=_TAG_KEY)})

    key_id: str
    tag_keys: list[str]


class ListResourceTagsResponse(Response, frozen=True, kw_only=True):
    tags: list[Tag]
    truncated: bool
    next_marker: str | None = None


class ListResourceTagsRequest(PagedRequest[ListResourceTagsResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"limit": Limits(minimum=1, maximum=50)}
    )

    key_id: str
    limit: int = 50


TAG_OPERATIONS: Final = MappingProxyType(
    {
        "TagResource": Operation(TagResourceRequest, False),
        "UntagResource": Operation(UntagResourceRequest, False),
        "ListResourceTags": Operation(ListResourceTagsRequest, True),
    }
)
