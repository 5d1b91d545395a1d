"""Rotation: the settings, on demand, the list; and that blobs of every age decrypt."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.kms import NOW, ROOT, USER, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    InvalidMarkerError,
    InvalidStateError,
    KmsValidationError,
    LimitExceededError,
)
from volcrypt.kms.keyring import get_key, put_key
from volcrypt.kms.model import DAY_SECONDS, Deadline, KeyMaterial, KeyOrigin, KmsKey


def call(kms: MemoryKms, operation: str, key_id: str, **members: Any) -> dict[str, Any]:
    return kms.service.call(ROOT, operation, {"KeyId": key_id} | members)


def arn_of(kms: MemoryKms, key_id: str) -> str:
    arn: str = call(kms, "DescribeKey", key_id)["KeyMetadata"]["Arn"]
    return arn


def current(kms: MemoryKms, key_id: str) -> str:
    id_: str = call(kms, "DescribeKey", key_id)["KeyMetadata"]["CurrentKeyMaterialId"]
    return id_


def change_key(kms: MemoryKms, key_id: str, **changes: Any) -> KmsKey:
    with kms.catalog.changing() as change:
        key = get_key(change, key_id)
        assert key is not None
        changed = replace(key, **changes)
        put_key(change, changed)
    return changed


def test_rotation_is_off_at_first(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    off = {"KeyId": arn_of(kms, key_id), "KeyRotationEnabled": False}
    assert call(kms, "GetKeyRotationStatus", key_id) == off
    assert call(kms, "DisableKeyRotation", key_id) == {}
    assert call(kms, "GetKeyRotationStatus", key_id) == off


@pytest.mark.parametrize(("members", "days"), [({}, 365), ({"RotationPeriodInDays": 90}, 90)])
def test_rotation_switched_on(kms: MemoryKms, members: dict[str, int], days: int) -> None:
    key_id = kms.new_key()
    assert call(kms, "EnableKeyRotation", key_id, **members) == {}
    assert call(kms, "GetKeyRotationStatus", key_id) == {
        "KeyId": arn_of(kms, key_id),
        "KeyRotationEnabled": True,
        "RotationPeriodInDays": days,
        "NextRotationDate": NOW + days * DAY_SECONDS,
    }
    call(kms, "DisableKeyRotation", key_id)
    assert not call(kms, "GetKeyRotationStatus", key_id)["KeyRotationEnabled"]


def test_another_period_counts_from_now(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id)
    first = call(kms, "GetKeyRotationStatus", key_id)
    kms.now += DAY_SECONDS
    call(kms, "EnableKeyRotation", key_id)
    assert call(kms, "GetKeyRotationStatus", key_id) == first
    call(kms, "EnableKeyRotation", key_id, RotationPeriodInDays=2560)
    status = call(kms, "GetKeyRotationStatus", key_id)
    assert status["NextRotationDate"] == kms.now + 2560 * DAY_SECONDS


@pytest.mark.parametrize(
    ("days", "text"),
    [(89, "greater than or equal to 90"), (2561, "less than or equal to 2560")],
)
def test_periods_that_are_refused(kms: MemoryKms, days: int, text: str) -> None:
    with pytest.raises(KmsValidationError) as raised:
        call(kms, "EnableKeyRotation", kms.new_key(), RotationPeriodInDays=days)
    assert str(raised.value) == (
        f"1 validation error detected: Value '{days}' at 'rotationPeriodInDays' failed to satisfy "
        f"constraint: Member must have value {text}"
    )


def test_the_setting_survives_a_disabled_and_a_saved_key(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id)
    status = call(kms, "GetKeyRotationStatus", key_id)
    call(kms, "DisableKey", key_id)
    assert call(kms, "GetKeyRotationStatus", key_id) == status
    call(kms, "ScheduleKeyDeletion", key_id)
    off = {"KeyId": status["KeyId"], "KeyRotationEnabled": False}
    assert call(kms, "GetKeyRotationStatus", key_id) == off
    call(kms, "CancelKeyDeletion", key_id)
    assert call(kms, "GetKeyRotationStatus", key_id) == status


def test_blobs_of_every_age_decrypt(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id)
    status = call(kms, "GetKeyRotationStatus", key_id)
    arn = arn_of(kms, key_id)
    blobs: dict[str, tuple[str, str]] = {}
    for number in range(4):
        secret = base64.b64encode(b"%d" % number).decode()
        sealed = call(kms, "Encrypt", key_id, Plaintext=secret)
        blobs[current(kms, key_id)] = (sealed["CiphertextBlob"], secret)
        assert call(kms, "RotateKeyOnDemand", key_id) == {"KeyId": arn}
    assert len(blobs) == 4
    for material_id, (blob, secret) in blobs.items():
        opened = kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": blob})
        assert (opened["Plaintext"], opened["KeyId"]) == (secret, arn)
        assert opened["KeyMaterialId"] == material_id
    assert call(kms, "GetKeyRotationStatus", key_id) == status


def test_a_key_is_rotated_25_times_on_demand(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for _ in range(25):
        call(kms, "RotateKeyOnDemand", key_id)
    with pytest.raises(LimitExceededError) as raised:
        call(kms, "RotateKeyOnDemand", key_id)
    assert str(raised.value) == (
        "The on-demand rotations limit has been reached for the given keyId. No more on-demand "
        f"rotations can be performed for this key: {arn_of(kms, key_id)}"
    )


def test_imported_material_is_rotated_to_what_was_imported(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    key = change_key(kms, key_id, origin=KeyOrigin.EXTERNAL)
    with pytest.raises(InvalidStateError) as raised:
        call(kms, "RotateKeyOnDemand", key_id)
    assert str(raised.value) == (
        f"No available key material pending rotation for the key: {key.arn}."
    )
    sealed = call(kms, "Encrypt", key_id, Plaintext="AA==")
    new = KeyMaterial(
        material_id="ab" * 32,
        wrapped=kms.keystore.generate_material(),
        created_at=NOW,
        description="second",
        expiry=Deadline(date=NOW + 100, observed_until=100),
    )
    change_key(kms, key_id, pending_material=new)
    first = key.current_material.material_id
    assert current(kms, key_id) == first
    listed = call(kms, "ListKeyRotations", key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    expected_first = {
        "KeyId": key.arn,
        "KeyMaterialId": first,
        "KeyMaterialState": "CURRENT",
        "ImportState": "IMPORTED",
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }
    expected_second = {
        "KeyId": key.arn,
        "KeyMaterialId": "ab" * 32,
        "KeyMaterialState": "PENDING_ROTATION",
        "ImportState": "IMPORTED",
        "KeyMaterialDescription": "second",
        "ExpirationModel": "KEY_MATERIAL_EXPIRES",
        "ValidTo": NOW + 100,
    }
    assert listed["Rotations"] == [expected_first, expected_second]
    assert call(kms, "ListKeyRotations", key_id)["Rotations"] == []
    call(kms, "RotateKeyOnDemand", key_id)
    assert current(kms, key_id) == "ab" * 32
    kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": sealed["CiphertextBlob"]})
    listed = call(kms, "ListKeyRotations", key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    rotated = {"RotationDate": NOW, "RotationType": "ON_DEMAND", "KeyMaterialState": "CURRENT"}
    assert listed["Rotations"] == [
        expected_first | {"KeyMaterialState": "NON_CURRENT"},
        expected_second | rotated,
    ]
    kms.now = NOW + 100
    listed = call(kms, "ListKeyRotations", key_id)
    assert [entry["ImportState"] for entry in listed["Rotations"]] == ["PENDING_IMPORT"]
    assert "ValidTo" not in listed["Rotations"][0]
    with pytest.raises(InvalidStateError, match="is pending import"):
        call(kms, "Encrypt", key_id, Plaintext="AA==")


def test_the_list_of_rotations(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    assert call(kms, "ListKeyRotations", key_id) == {"Rotations": [], "Truncated": False}
    ids = [current(kms, key_id)]
    for _ in range(3):
        kms.now += 1
        call(kms, "RotateKeyOnDemand", key_id)
        ids.append(current(kms, key_id))
    rotations = call(kms, "ListKeyRotations", key_id)["Rotations"]
    assert rotations == [
        {
            "KeyId": arn_of(kms, key_id),
            "KeyMaterialId": ids[number],
            "KeyMaterialState": "CURRENT" if number == 3 else "NON_CURRENT",
            "RotationDate": NOW + number,
            "RotationType": "ON_DEMAND",
        }
        for number in (1, 2, 3)
    ]
    everything = call(kms, "ListKeyRotations", key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    assert [entry["KeyMaterialId"] for entry in everything["Rotations"]] == ids
    assert "RotationDate" not in everything["Rotations"][0]
    first = call(kms, "ListKeyRotations", key_id, Limit=1)
    assert (first["Rotations"], first["Truncated"]) == (rotations[:1], True)
    rest = call(kms, "ListKeyRotations", key_id, Limit=2, Marker=first["NextMarker"])
    assert rest == {"Rotations": rotations[1:], "Truncated": False}
    with pytest.raises(InvalidMarkerError):
        call(kms, "ListKeyRotations", key_id, Marker="%")
    with pytest.raises(KmsValidationError, match=r"\[ALL_KEY_MATERIAL, ROTATIONS_ONLY\]"):
        call(kms, "ListKeyRotations", key_id, IncludeKeyMaterial="x")


def test_others_may_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for operation in (
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "RotateKeyOnDemand",
        "ListKeyRotations",
    ):
        with pytest.raises(AccessDeniedError, match=f"kms:{operation}"):
            kms.service.call(USER, operation, {"KeyId": key_id})
