"""Operations on the tags of keys."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from volcrypt.errors import TagError
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.keyring import put_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.tags import (
    ListResourceTagsRequest,
    ListResourceTagsResponse,
    Tag,
    TagResourceRequest,
    UntagResourceRequest,
)
from volcrypt.kms.model import KmsKey
from volcrypt.kms.paging import page_of
from volcrypt.kms.scope import Scope

MAX_TAGS: Final = 50
_RESERVED: Final = "aws:"


class TagOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def tag_resource(self, attempt: Attempt, request: TagResourceRequest) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "TagResource")
        attempt.check_state(key)
        tags = key.tags | checked_tags(request.tags)
        if len(tags) > MAX_TAGS:
            raise TagError("Too many tags")
        return _retagged(key, tags)

    def untag_resource(
        self, attempt: Attempt, request: UntagResourceRequest
    ) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "UntagResource")
        attempt.check_state(key)
        return _retagged(key, {k: v for k, v in key.tags.items() if k not in request.tag_keys})

    def list_resource_tags(
        self, attempt: Attempt, request: ListResourceTagsRequest
    ) -> Effect[ListResourceTagsResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "ListResourceTags")
        page, marker = page_of(sorted(key.tags), request, place=str)
        response = ListResourceTagsResponse(
            tags=[Tag(tag_key=name, tag_value=key.tags[name]) for name in page],
            truncated=marker is not None,
            next_marker=marker,
        )
        return Effect(act=lambda: response)


def checked_tags(tags: Sequence[Tag]) -> dict[str, str]:
    """The tags of a request by their keys. Raises TagError."""
    found = {tag.tag_key: tag.tag_value for tag in tags}
    if len(found) < len(tags):
        raise TagError("Duplicate tag keys")
    if len(found) > MAX_TAGS:
        raise TagError("Too many tags")
    if _has_reserved(found):
        raise TagError("Tags beginning with aws: are reserved")
    return found


def _has_reserved(keys: Iterable[str]) -> bool:
    return any(key.lower().startswith(_RESERVED) for key in keys)


def _retagged(key: KmsKey, tags: dict[str, str]) -> Effect[EmptyResponse]:
    return Effect(change=lambda change: put_key(change, replace(key, tags=tags)), act=EmptyResponse)
