"""Key state x operation: what a key in which state may be used for. Pure; a table.

After the AWS KMS Developer Guide, "Key states of AWS KMS keys". The table holds the operations
that ask for a key's state, also those that other modules answer; operations that are not in it
(DescribeKey, DeleteAlias, the List operations, policies, retiring grants) are allowed in every
state. For UpdateAlias the state that counts is the new target's.

    OK                 allowed
    DISABLED           DisabledException
    PENDING_DELETION   KMSInvalidStateException, pending deletion
    PENDING_IMPORT     KMSInvalidStateException, pending import
    NOT_PENDING        KMSInvalidStateException, the key is not pending deletion

What depends on the origin is decided before the state: rotation is for material of the HSM,
import for imported material.
"""

from enum import Enum
from types import MappingProxyType
from typing import Final

from volcrypt.errors import (
    InvalidStateError,
    KeyDisabledError,
    UnsupportedOperationError,
)
from volcrypt.kms.model import KeyOrigin, KeyState


class Rule(Enum):
    OK = "ok"
    DISABLED = "is disabled"
    PENDING_DELETION = "is pending deletion"
    PENDING_IMPORT = "is pending import"
    NOT_PENDING = "is not pending deletion"


_STATES: Final = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.PENDING_IMPORT,
)

# In the order of _STATES.
_USE: Final = (Rule.OK, Rule.DISABLED, Rule.PENDING_DELETION, Rule.PENDING_IMPORT)
_SWITCH: Final = (Rule.OK, Rule.OK, Rule.PENDING_DELETION, Rule.PENDING_IMPORT)
_CHANGE: Final = (Rule.OK, Rule.OK, Rule.PENDING_DELETION, Rule.OK)
_CANCEL: Final = (Rule.NOT_PENDING, Rule.NOT_PENDING, Rule.OK, Rule.NOT_PENDING)
_ALWAYS: Final = (Rule.OK, Rule.OK, Rule.OK, Rule.OK)

_ROWS: Final = {
    "Encrypt": _USE,
    "Decrypt": _USE,
    "ReEncrypt": _USE,
    "GenerateDataKey": _USE,
    "GenerateDataKeyWithoutPlaintext": _USE,
    "CreateGrant": _USE,
    "EnableKeyRotation": _USE,
    "DisableKeyRotation": _USE,
    "RotateKeyOnDemand": _USE,
    "GetKeyRotationStatus": _ALWAYS,
    "EnableKey": _SWITCH,
    "DisableKey": _SWITCH,
    "ScheduleKeyDeletion": _CHANGE,
    "CancelKeyDeletion": _CANCEL,
    "CreateAlias": _CHANGE,
    "UpdateAlias": _CHANGE,
    "TagResource": _CHANGE,
    "UntagResource": _CHANGE,
    "UpdateKeyDescription": _CHANGE,
    "GetParametersForImport": _CHANGE,
    "ImportKeyMaterial": _CHANGE,
    "DeleteImportedKeyMaterial": _ALWAYS,
}

TABLE: Final = MappingProxyType(
    {
        (operation, state): rule
        for operation, row in _ROWS.items()
        for state, rule in zip(_STATES, row, strict=True)
    }
)

NEEDED_ORIGIN: Final = MappingProxyType(
    {
        "EnableKeyRotation": KeyOrigin.AWS_KMS,
        "DisableKeyRotation": KeyOrigin.AWS_KMS,
        "GetKeyRotationStatus": KeyOrigin.AWS_KMS,
        "GetParametersForImport": KeyOrigin.EXTERNAL,
        "ImportKeyMaterial": KeyOrigin.EXTERNAL,
        "DeleteImportedKeyMaterial": KeyOrigin.EXTERNAL,
    }
)


def check_state(operation: str, *, arn: str, state: KeyState, origin: KeyOrigin) -> None:
    """Raises the error with which the AWS KMS refuses `operation` on a key in this state.

    KeyDisabledError, InvalidStateError, or UnsupportedOperationError for the wrong origin.
    """
    needed = NEEDED_ORIGIN.get(operation, origin)
    if origin is not needed:
        raise UnsupportedOperationError(
            f"{arn} origin is {origin.value} which is not valid for this operation."
        )
    rule = TABLE.get((operation, state), Rule.OK)
    if rule is Rule.OK:
        return
    error = KeyDisabledError if rule is Rule.DISABLED else InvalidStateError
    raise error(f"{arn} {rule.value}.")
