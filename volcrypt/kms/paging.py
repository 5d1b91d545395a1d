"""Pages of lists: what a marker is, and the page behind it. Pure.

A marker is the place of the last item of a page, so that what is added or removed in between moves
nothing. To the caller it is opaque.
"""

from base64 import b64decode, urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from volcrypt.errors import InvalidMarkerError
from volcrypt.kms.messages.base import PagedRequest

T = TypeVar("T")


def encode_marker(place: str) -> str:
    return urlsafe_b64encode(place.encode()).decode()


def decode_marker(marker: str) -> str:
    """Raises InvalidMarkerError."""
    try:
        return b64decode(marker.encode(), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise InvalidMarkerError("the marker is not one that the KMS gave") from error


def page_of(
    items: Sequence[T], request: PagedRequest[Any], *, place: Callable[[T], str]
) -> tuple[list[T], str | None]:
    """The items on a page of a short list, and the marker of the next page if there is any.

    The list is in the order of its items' places, which are unique. Raises InvalidMarkerError.
    """
    start = 0
    if request.marker is not None:
        start = bisect_right(items, decode_marker(request.marker), key=place)
    page = list(items[start : start + request.limit])
    is_last = start + len(page) == len(items)
    return page, None if is_last else encode_marker(place(page[-1]))
