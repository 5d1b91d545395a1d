"""Key state x operation, the whole table written out once more by hand (FACTS of the guide)."""

import pytest

from volcrypt.errors import (
    InvalidStateError,
    KeyDisabledError,
    KmsError,
    UnsupportedOperationError,
)
from volcrypt.kms.lifecycle import TABLE, check_state
from volcrypt.kms.model import KeyOrigin, KeyState

ARN = "arn:aws:kms:us-east-1:000000000000:key/k"
STATES = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.PENDING_IMPORT,
)
# o allowed, d disabled, p pending deletion, i pending import, n not pending deletion
EXPECTED = {
    "Encrypt": "odpi",
    "Decrypt": "odpi",
    "ReEncrypt": "odpi",
    "GenerateDataKey": "odpi",
    "GenerateDataKeyWithoutPlaintext": "odpi",
    "CreateGrant": "odpi",
    "RotateKeyOnDemand": "odpi",
    "EnableKeyRotation": "odpi",
    "DisableKeyRotation": "odpi",
    "GetKeyRotationStatus": "oooo",
    "EnableKey": "oopi",
    "DisableKey": "oopi",
    "ScheduleKeyDeletion": "oopo",
    "CancelKeyDeletion": "nnon",
    "CreateAlias": "oopo",
    "UpdateAlias": "oopo",
    "TagResource": "oopo",
    "UntagResource": "oopo",
    "UpdateKeyDescription": "oopo",
    "GetParametersForImport": "oopo",
    "ImportKeyMaterial": "oopo",
    "DeleteImportedKeyMaterial": "oooo",
    "DeleteAlias": "oooo",
    "DescribeKey": "oooo",
    "GetKeyPolicy": "oooo",
    "PutKeyPolicy": "oooo",
    "ListAliases": "oooo",
    "RetireGrant": "oooo",
    "RevokeGrant": "oooo",
}
ANSWERS: dict[str, tuple[type[KmsError], str]] = {
    "d": (KeyDisabledError, f"{ARN} is disabled."),
    "p": (InvalidStateError, f"{ARN} is pending deletion."),
    "i": (InvalidStateError, f"{ARN} is pending import."),
    "n": (InvalidStateError, f"{ARN} is not pending deletion."),
}
FOR_IMPORTED = {"GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"}
FOR_GENERATED = {"EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus"}


@pytest.mark.parametrize(
    ("operation", "state", "answer"),
    [
        (operation, state, answer)
        for operation, row in EXPECTED.items()
        for state, answer in zip(STATES, row, strict=True)
    ],
)
def test_the_table(operation: str, state: KeyState, answer: str) -> None:
    origin = KeyOrigin.EXTERNAL if operation in FOR_IMPORTED else KeyOrigin.AWS_KMS
    if answer == "o":
        check_state(operation, arn=ARN, state=state, origin=origin)
        return
    error, text = ANSWERS[answer]
    with pytest.raises(error) as raised:
        check_state(operation, arn=ARN, state=state, origin=origin)
    assert str(raised.value) == text


def test_every_row_of_the_table_is_tested() -> None:
    assert {operation for operation, _ in TABLE} <= EXPECTED.keys()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", sorted(FOR_IMPORTED | FOR_GENERATED))
def test_the_wrong_origin_is_refused_in_every_state(operation: str, state: KeyState) -> None:
    origin = KeyOrigin.AWS_KMS if operation in FOR_IMPORTED else KeyOrigin.EXTERNAL
    with pytest.raises(UnsupportedOperationError, match=f"origin is {origin.value} which is not"):
        check_state(operation, arn=ARN, state=state, origin=origin)
