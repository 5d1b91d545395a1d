"""Operations on the rotation of key material. Old material stays, and decrypts what it encrypted.

The rotation that is due by the calendar is done by `maintenance`.
"""

from dataclasses import replace
from typing import Final

from volcrypt.errors import InvalidStateError, LimitExceededError
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.key_metadata import rotation_entries
from volcrypt.kms.keyring import put_key
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.messages.rotation import (
    ALL_KEY_MATERIAL,
    DisableKeyRotationRequest,
    EnableKeyRotationRequest,
    GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse,
    ListKeyRotationsRequest,
    ListKeyRotationsResponse,
    RotateKeyOnDemandRequest,
    RotateKeyOnDemandResponse,
)
from volcrypt.kms.model import (
    DAY_SECONDS,
    KeyMaterial,
    KeyOrigin,
    KeyState,
    KmsKey,
    Rotation,
    RotationType,
)
from volcrypt.kms.paging import page_of
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import Change

MAX_ON_DEMAND_ROTATIONS: Final = 25


class RotationOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def enable_key_rotation(
        self, attempt: Attempt, request: EnableKeyRotationRequest
    ) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "EnableKeyRotation")
        attempt.check_state(key)
        days = request.rotation_period_in_days
        if key.rotation is not None and key.rotation.period_days == days:
            return Effect(act=EmptyResponse)
        rotation = Rotation(period_days=days, next_at=attempt.now + days * DAY_SECONDS)
        return _with_rotation(key, rotation)

    def disable_key_rotation(
        self, attempt: Attempt, request: DisableKeyRotationRequest
    ) -> Effect[EmptyResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "DisableKeyRotation")
        attempt.check_state(key)
        return _with_rotation(key, None)

    def get_key_rotation_status(
        self, attempt: Attempt, request: GetKeyRotationStatusRequest
    ) -> Effect[GetKeyRotationStatusResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "GetKeyRotationStatus")
        attempt.check_state(key)
        response = GetKeyRotationStatusResponse(key_id=key.arn, key_rotation_enabled=False)
        if key.rotation is not None and key.state is not KeyState.PENDING_DELETION:
            response = GetKeyRotationStatusResponse(
                key_id=key.arn,
                key_rotation_enabled=True,
                rotation_period_in_days=key.rotation.period_days,
                next_rotation_date=key.rotation.next_at,
            )
        return Effect(act=lambda: response)

    def rotate_key_on_demand(
        self, attempt: Attempt, request: RotateKeyOnDemandRequest
    ) -> Effect[RotateKeyOnDemandResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "RotateKeyOnDemand")
        attempt.check_state(key)
        if key.origin is KeyOrigin.EXTERNAL and key.pending_material is None:
            raise InvalidStateError(
                f"No available key material pending rotation for the key: {key.arn}."
            )
        if key.on_demand_rotations >= MAX_ON_DEMAND_ROTATIONS:
            raise LimitExceededError(
                "The on-demand rotations limit has been reached for the given keyId. No more "
                f"on-demand rotations can be performed for this key: {key.arn}"
            )
        attempt.response_elements = {"keyId": key.arn}

        def change(change: Change) -> None:
            material = key.pending_material or self._generate_material()
            rotated = rotated_key(key, material, RotationType.ON_DEMAND, now=attempt.now)
            put_key(change, replace(rotated, on_demand_rotations=key.on_demand_rotations + 1))

        return Effect(change=change, act=lambda: RotateKeyOnDemandResponse(key_id=key.arn))

    def list_key_rotations(
        self, attempt: Attempt, request: ListKeyRotationsRequest
    ) -> Effect[ListKeyRotationsResponse]:
        key = self._find_key(attempt, request.key_id)
        attempt.authorise(key, "ListKeyRotations")
        attempt.check_state(key)
        shows_all = request.include_key_material == ALL_KEY_MATERIAL
        entries = [
            (f"{number:08}", entry)
            for number, entry in enumerate(rotation_entries(key, now=attempt.now))
            if shows_all or entry.rotation_date is not None
        ]
        page, marker = page_of(entries, request, place=lambda entry: entry[0])
        response = ListKeyRotationsResponse(
            rotations=[entry for _, entry in page],
            truncated=marker is not None,
            next_marker=marker,
        )
        return Effect(act=lambda: response)


def rotated_key(
    key: KmsKey, material: KeyMaterial, rotation_type: RotationType, *, now: float
) -> KmsKey:
    """The key with `material` as its current one."""
    current = replace(material, rotated_at=now, rotation_type=rotation_type)
    return replace(key, materials=(*key.materials, current), pending_material=None)


def _with_rotation(key: KmsKey, rotation: Rotation | None) -> Effect[EmptyResponse]:
    return Effect(
        change=lambda change: put_key(change, replace(key, rotation=rotation)), act=EmptyResponse
    )
