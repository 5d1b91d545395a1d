"""Scheduling and cancelling the deletion of keys."""

from typing import Any

import pytest

from tests.fakes.kms import NOW, ROOT, USER, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    InvalidStateError,
    KmsValidationError,
)
from volcrypt.kms.model import DAY_SECONDS


def call(kms: MemoryKms, operation: str, key_id: str, **members: Any) -> dict[str, Any]:
    return kms.service.call(ROOT, operation, {"KeyId": key_id} | members)


def described(kms: MemoryKms, key_id: str) -> dict[str, Any]:
    metadata: dict[str, Any] = call(kms, "DescribeKey", key_id)["KeyMetadata"]
    return metadata


@pytest.mark.parametrize(("members", "days"), [({}, 30), ({"PendingWindowInDays": 7}, 7)])
def test_scheduling(kms: MemoryKms, members: dict[str, int], days: int) -> None:
    key_id = kms.new_key()
    before = described(kms, key_id)
    date = NOW + days * DAY_SECONDS
    assert call(kms, "ScheduleKeyDeletion", key_id, **members) == {
        "KeyId": before["Arn"],
        "DeletionDate": date,
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": days,
    }
    assert described(kms, key_id) == before | {
        "Enabled": False,
        "KeyState": "PendingDeletion",
        "DeletionDate": date,
    }
    with pytest.raises(InvalidStateError, match="is pending deletion"):
        call(kms, "ScheduleKeyDeletion", key_id)


@pytest.mark.parametrize("was_disabled", [False, True])
def test_cancelling_leaves_the_key_disabled(kms: MemoryKms, was_disabled: bool) -> None:
    key_id = kms.new_key()
    before = described(kms, key_id)
    if was_disabled:
        call(kms, "DisableKey", key_id)
    call(kms, "ScheduleKeyDeletion", key_id)
    assert call(kms, "CancelKeyDeletion", key_id) == {"KeyId": before["Arn"]}
    disabled = before | {"Enabled": False, "KeyState": "Disabled"}
    assert described(kms, key_id) == disabled
    with pytest.raises(InvalidStateError, match="is not pending deletion"):
        call(kms, "CancelKeyDeletion", key_id)


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (6, "PendingWindowInDays must be between 7 and 30"),
        (31, "PendingWindowInDays must be between 7 and 30"),
        (
            0,
            (
                "1 validation error detected: Value '0' at 'pendingWindowInDays' failed to satisfy "
                "constraint: Member must have value greater than or equal to 1"
            ),
        ),
        (
            366,
            (
                "1 validation error detected: Value '366' at 'pendingWindowInDays' failed to "
                "satisfy constraint: Member must have value less than or equal to 365"
            ),
        ),
    ],
)
def test_windows_that_are_refused(kms: MemoryKms, days: int, text: str) -> None:
    key_id = kms.new_key()
    with pytest.raises(KmsValidationError) as raised:
        call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=days)
    assert str(raised.value) == text
    assert described(kms, key_id)["KeyState"] == "Enabled"


def test_others_may_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for operation in ("ScheduleKeyDeletion", "CancelKeyDeletion"):
        with pytest.raises(AccessDeniedError, match=f"kms:{operation}"):
            kms.service.call(USER, operation, {"KeyId": key_id})


def test_what_is_recorded(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    answer = call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    record = kms.records()[-1]
    assert record.event_name == "ScheduleKeyDeletion"
    assert record.request_parameters == {"keyId": key_id, "pendingWindowInDays": 7}
    assert record.response_elements == {
        "keyId": answer["KeyId"],
        "deletionDate": answer["DeletionDate"],
    }
