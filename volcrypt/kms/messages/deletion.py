"""Messages of the operations that delete keys. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import Operation, Request, Response
from volcrypt.kms.messages.limits import Limits


class ScheduleKeyDeletionResponse(Response, frozen=True, kw_only=True):
    key_id: str
    deletion_date: float
    key_state: str
    pending_window_in_days: int


class ScheduleKeyDeletionRequest(Request[ScheduleKeyDeletionResponse], frozen=True, kw_only=True):
    """The window has its own, narrower limits; see `deletion_operations`."""

    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"pending_window_in_days": Limits(minimum=1, maximum=365)}
    )

    key_id: str
    pending_window_in_days: int = 30


class CancelKeyDeletionResponse(Response, frozen=True, kw_only=True):
    key_id: str


class CancelKeyDeletionRequest(Request[CancelKeyDeletionResponse], frozen=True, kw_only=True):
    key_id: str


DELETION_OPERATIONS: Final = MappingProxyType(
    {
        "ScheduleKeyDeletion": Operation(ScheduleKeyDeletionRequest, False),
        "CancelKeyDeletion": Operation(CancelKeyDeletionRequest, False),
    }
)
