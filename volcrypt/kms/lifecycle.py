"""Key state x operation: what a key in which state may be used for. Pure; a table.

After the AWS KMS Developer Guide, "Key states of AWS KMS keys". The table holds every operation
that the service has on an existing key, also those that other modules answer. For UpdateAlias the
state that counts is the new target's. An operation on no key (ListKeys, ...) is not in it.

    OK                 allowed
    DISABLED           DisabledException
    PENDING_DELETION   KMSInvalidStateException, pending deletion
    PENDING_IMPORT     KMSInvalidStateException, pending import
    UNAVAILABLE        KMSInvalidStateException, its custom key store is not connected
    NOT_PENDING        KMSInvalidStateException, the key is not pending deletion

What depends on the origin is decided before the state: automatic rotation is for material of the
HSM, rotation on demand for that and for imported material, import for imported material.

The state in a key's row is what was last asked for. Whether the key can be used now also depends
on its material and its store; `current_state` says what a request sees.
"""

from enum import Enum
from types import MappingProxyType
from typing import Final

from volcrypt.errors import (
    InvalidStateError,
    KeyDisabledError,
    UnsupportedOperationError,
)
from volcrypt.kms.model import KeyMaterial, KeyOrigin, KeyState, KmsKey


class Rule(Enum):
    OK = "ok"
    DISABLED = "is disabled"
    PENDING_DELETION = "is pending deletion"
    PENDING_IMPORT = "is pending import"
    UNAVAILABLE = "is unavailable"
    NOT_PENDING = "is not pending deletion"


_STATES: Final = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.PENDING_IMPORT,
    KeyState.UNAVAILABLE,
)

# In the order of _STATES.
_USE: Final = (
    Rule.OK,
    Rule.DISABLED,
    Rule.PENDING_DELETION,
    Rule.PENDING_IMPORT,
    Rule.UNAVAILABLE,
)
_GRANT: Final = (Rule.OK, Rule.DISABLED, Rule.PENDING_DELETION, Rule.PENDING_IMPORT, Rule.OK)
_SWITCH: Final = (Rule.OK, Rule.OK, Rule.PENDING_DELETION, Rule.PENDING_IMPORT, Rule.OK)
_CHANGE: Final = (Rule.OK, Rule.OK, Rule.PENDING_DELETION, Rule.OK, Rule.OK)
_CANCEL: Final = (
    Rule.NOT_PENDING,
    Rule.NOT_PENDING,
    Rule.OK,
    Rule.NOT_PENDING,
    Rule.NOT_PENDING,
)
_ALWAYS: Final = (Rule.OK, Rule.OK, Rule.OK, Rule.OK, Rule.OK)

_ROWS: Final = {
    "Encrypt": _USE,
    "Decrypt": _USE,
    "ReEncrypt": _USE,
    "GenerateDataKey": _USE,
    "GenerateDataKeyWithoutPlaintext": _USE,
    "CreateGrant": _GRANT,
    "EnableKeyRotation": _USE,
    "DisableKeyRotation": _USE,
    "RotateKeyOnDemand": _USE,
    "GetKeyRotationStatus": _ALWAYS,
    "ListKeyRotations": _ALWAYS,
    "EnableKey": _SWITCH,
    "DisableKey": _SWITCH,
    "ScheduleKeyDeletion": _CHANGE,
    "CancelKeyDeletion": _CANCEL,
    "CreateAlias": _CHANGE,
    "UpdateAlias": _CHANGE,
    "DeleteAlias": _ALWAYS,
    "ListAliases": _ALWAYS,
    "TagResource": _CHANGE,
    "UntagResource": _CHANGE,
    "ListResourceTags": _ALWAYS,
    "UpdateKeyDescription": _CHANGE,
    "DescribeKey": _ALWAYS,
    "GetKeyPolicy": _ALWAYS,
    "PutKeyPolicy": _ALWAYS,
    "ListKeyPolicies": _ALWAYS,
    "ListGrants": _ALWAYS,
    "RetireGrant": _ALWAYS,
    "RevokeGrant": _ALWAYS,
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

_GENERATED: Final = frozenset({KeyOrigin.AWS_KMS})
_IMPORTED: Final = frozenset({KeyOrigin.EXTERNAL})
NEEDED_ORIGINS: Final = MappingProxyType(
    {
        "EnableKeyRotation": _GENERATED,
        "DisableKeyRotation": _GENERATED,
        "GetKeyRotationStatus": _GENERATED,
        "RotateKeyOnDemand": _GENERATED | _IMPORTED,
        "ListKeyRotations": _GENERATED | _IMPORTED,
        "GetParametersForImport": _IMPORTED,
        "ImportKeyMaterial": _IMPORTED,
        "DeleteImportedKeyMaterial": _IMPORTED,
    }
)


def check_state(operation: str, *, arn: str, state: KeyState, origin: KeyOrigin) -> None:
    """Raises the error with which the AWS KMS refuses `operation` on a key in this state.

    KeyDisabledError, InvalidStateError, or UnsupportedOperationError for the wrong origin.
    """
    if origin not in NEEDED_ORIGINS.get(operation, (origin,)):
        raise UnsupportedOperationError(
            f"{arn} origin is {origin.value} which is not valid for this operation."
        )
    rule = TABLE[operation, state]  # one that is not in the table is not allowed by mistake
    if rule is Rule.OK:
        return
    error = KeyDisabledError if rule is Rule.DISABLED else InvalidStateError
    raise error(f"{arn} {rule.value}.")


def current_state(key: KmsKey, *, now: float, is_connected: bool) -> KeyState:
    """The key's state as a request sees it.

    A key whose deletion is scheduled is pending deletion, whatever else happens to it. One for
    imported material is pending import as long as any of it is missing or over its date by the
    clock of the host; no need to wait until it is destroyed. `is_connected` is False for a key
    whose custom key store is not connected.
    """
    if key.state is KeyState.PENDING_DELETION:
        return key.state
    if key.origin is KeyOrigin.EXTERNAL and not has_material(key, now=now):
        return KeyState.PENDING_IMPORT
    return key.state if is_connected else KeyState.UNAVAILABLE


def has_material(key: KmsKey, *, now: float) -> bool:
    """Whether all material that the key ever encrypted with is there."""
    return bool(key.materials) and all(is_usable(m, now=now) for m in key.materials)


def is_usable(material: KeyMaterial, *, now: float) -> bool:
    """Whether the material is there, and not over its date by the clock of the host."""
    is_over = material.expiry is not None and material.expiry.date <= now
    return material.wrapped is not None and not is_over
