"""Operations that delete keys: after a window in which it can be cancelled, by `maintenance`."""

from dataclasses import replace
from typing import Final

from volcrypt.errors import KmsValidationError
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.clock import deadline
from volcrypt.kms.keyring import put_key
from volcrypt.kms.messages.deletion import (
    CancelKeyDeletionRequest,
    CancelKeyDeletionResponse,
    ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse,
)
from volcrypt.kms.model import DAY_SECONDS, KeyState
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import Change

SHORTEST_WINDOW_DAYS: Final = 7
LONGEST_WINDOW_DAYS: Final = 30


class DeletionOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def schedule_key_deletion(
        self, attempt: Attempt, request: ScheduleKeyDeletionRequest
    ) -> Effect[ScheduleKeyDeletionResponse]:
        days = request.pending_window_in_days
        if not SHORTEST_WINDOW_DAYS <= days <= LONGEST_WINDOW_DAYS:
            raise KmsValidationError(
                f"PendingWindowInDays must be between {SHORTEST_WINDOW_DAYS} and "
                f"{LONGEST_WINDOW_DAYS}"
            )
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "ScheduleKeyDeletion")
        attempt.check_state(key)
        date = attempt.now + days * DAY_SECONDS
        response = ScheduleKeyDeletionResponse(
            key_id=key.arn,
            deletion_date=date,
            key_state=KeyState.PENDING_DELETION.value,
            pending_window_in_days=days,
        )
        attempt.response_elements = {"keyId": key.arn, "deletionDate": date}

        def change(change: Change) -> None:
            deletion = deadline(change, date=date, now=attempt.now)
            put_key(change, replace(key, state=KeyState.PENDING_DELETION, deletion=deletion))

        return Effect(change=change, act=lambda: response)

    def cancel_key_deletion(
        self, attempt: Attempt, request: CancelKeyDeletionRequest
    ) -> Effect[CancelKeyDeletionResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "CancelKeyDeletion")
        attempt.check_state(key)
        attempt.response_elements = {"keyId": key.arn}
        kept = replace(key, state=KeyState.DISABLED, deletion=None)
        return Effect(
            change=lambda change: put_key(change, kept),
            act=lambda: CancelKeyDeletionResponse(key_id=key.arn),
        )
