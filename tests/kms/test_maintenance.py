"""What the KMS does of its own accord, and what clocks that jump make it do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, VOLUMES, MemoryKms, memory_kms
from volcrypt.errors import (
    AccessDeniedError,
    HsmUnavailableError,
    IntegrityError,
    InvalidStateError,
    KeyNotFoundError,
)
from volcrypt.kms.calls import CALLS
from volcrypt.kms.clock import deadline
from volcrypt.kms.import_operations import ImportParameters
from volcrypt.kms.keyring import DUE, KEYS, get_key, put_key
from volcrypt.kms.maintenance import LOOK_SECONDS
from volcrypt.kms.model import DAY_SECONDS, KeyMaterial, KeyOrigin, WrappedMaterial
from volcrypt.kms.sealing import Item

YEAR = 365 * DAY_SECONDS


def call(kms: MemoryKms, operation: str, key_id: str, **members: Any) -> dict[str, Any]:
    return kms.service.call(ROOT, operation, {"KeyId": key_id} | members)


def state_of(kms: MemoryKms, key_id: str) -> str:
    state: str = call(kms, "DescribeKey", key_id)["KeyMetadata"]["KeyState"]
    return state


def events(kms: MemoryKms) -> list[str]:
    return [r.event_name for r in kms.records() if r.event_type == "AwsServiceEvent"]


def live(kms: MemoryKms, days: int) -> None:
    """Days pass, and somebody looks on each of them."""
    for _ in range(days):
        kms.now += DAY_SECONDS
        kms.service.maintain()


def is_gone(kms: MemoryKms, key_id: str) -> bool:
    try:
        call(kms, "DescribeKey", key_id)
    except KeyNotFoundError as error:
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
        return str(error) == f"Key '{arn}' does not exist"
    return False


def items_about(kms: MemoryKms, key_id: str) -> list[tuple[str, str]]:
    """Whatever the catalogue holds of a key."""
    with kms.catalog.reading() as view:
        return [
            (item.kind, item.id)
            for kind in (KEYS, "alias", DUE, "grant", "import", CALLS)
            for item in view.items(kind)
            if key_id in f"{item.id} {item.owner}"
        ]


def test_after_the_window_everything_of_a_key_is_gone(kms: MemoryKms) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    sealed = call(kms, "Encrypt", key_id, Plaintext="AA==")
    material_id = call(kms, "DescribeKey", key_id)["KeyMetadata"]["CurrentKeyMaterialId"]
    for target, name in ((key_id, "alias/x"), (key_id, "alias/y"), (other, "alias/z")):
        kms.service.call(ROOT, "CreateAlias", {"AliasName": name, "TargetKeyId": target})
    with kms.catalog.changing() as change:
        change.put(Item(kind="grant", id=f"{key_id}/{'0' * 16}/1", name="1", body=b"{}"))
        change.put(Item(kind="grant", id=f"{other}/{'0' * 16}/2", name="2", body=b"{}"))
        never = ImportParameters(import_id="", algorithm="", valid_to=2**53, private_key=b"")
        change.put(Item(kind="import", id=key_id, body=msgspec.json.encode(never)))
    call(kms, "EnableKeyRotation", key_id)
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 6)
    assert state_of(kms, key_id) == "PendingDeletion"
    live(kms, 1)
    assert is_gone(kms, key_id)
    assert items_about(kms, key_id) == []
    with kms.catalog.reading() as view:
        assert view.get(CALLS, material_id) is None
    with pytest.raises(AccessDeniedError, match="does not exist"):
        kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": sealed["CiphertextBlob"]})
    with pytest.raises(KeyNotFoundError, match="is not found"):
        kms.service.call(ROOT, "DescribeKey", {"KeyId": "alias/x"})
    assert {kind for kind, _ in items_about(kms, other)} == {KEYS, "alias", "grant"}
    assert events(kms) == ["DeleteKey", "RewrapKeyMaterial"]
    record = next(r for r in kms.records() if r.event_name == "DeleteKey")
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    assert record.service_event_details == {"keyId": arn}
    assert [resource.arn for resource in record.resources] == [arn]


def test_a_cancelled_deletion_does_not_happen(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 3)
    call(kms, "CancelKeyDeletion", key_id)
    live(kms, 40)
    assert state_of(kms, key_id) == "Disabled"
    assert events(kms) == []


def test_a_clock_that_jumps_forward_destroys_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    kms.now += YEAR
    for _ in range(100):
        kms.service.maintain()
        kms.now += LOOK_SECONDS
    assert state_of(kms, key_id) == "PendingDeletion"
    kms.now = NOW
    call(kms, "CancelKeyDeletion", key_id)
    assert events(kms) == []


def test_after_a_jump_it_takes_the_time_that_is_left(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 2)
    kms.now += YEAR  # counts as one day
    kms.service.maintain()
    live(kms, 3)
    assert state_of(kms, key_id) == "PendingDeletion"
    live(kms, 1)
    assert is_gone(kms, key_id)


def test_a_clock_that_goes_back_delays(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 5)
    kms.now -= 4 * DAY_SECONDS
    kms.service.maintain()
    live(kms, 5)  # observed are ten days, but the date is not there
    assert state_of(kms, key_id) == "PendingDeletion"
    live(kms, 1)
    assert is_gone(kms, key_id)


def test_observed_time_survives_the_process(memory_path: Path) -> None:
    keystore = MemoryKeyStore()
    with memory_kms(memory_path / "kms", keystore) as kms:
        key_id = kms.new_key()
        call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    for day in range(1, 8):
        with memory_kms(memory_path / "kms", keystore) as kms:
            kms.now = NOW + day * DAY_SECONDS
            kms.service.maintain()
            assert is_gone(kms, key_id) == (day == 7)


def rotations(kms: MemoryKms, key_id: str) -> list[tuple[float, str]]:
    found = call(kms, "ListKeyRotations", key_id)["Rotations"]
    return [(entry["RotationDate"], entry["RotationType"]) for entry in found]


def test_rotation_by_the_calendar(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id, RotationPeriodInDays=90)
    sealed = call(kms, "Encrypt", key_id, Plaintext="AA==")["CiphertextBlob"]
    live(kms, 89)
    call(kms, "RotateKeyOnDemand", key_id)
    live(kms, 91)
    days = [(date - NOW) / DAY_SECONDS for date, _ in rotations(kms, key_id)]
    assert days == [89, 90, 180]
    kinds = [kind for _, kind in rotations(kms, key_id)]
    assert kinds == ["ON_DEMAND", "AUTOMATIC", "AUTOMATIC"]
    assert events(kms) == ["RotateKey", "RotateKey"]
    opened = kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": sealed})
    assert opened["Plaintext"] == "AA=="
    status = call(kms, "GetKeyRotationStatus", key_id)
    assert status["NextRotationDate"] == NOW + 270 * DAY_SECONDS


def test_a_disabled_key_is_rotated_once_when_it_is_enabled(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id, RotationPeriodInDays=90)
    call(kms, "DisableKey", key_id)
    kms.now += 1000 * DAY_SECONDS
    kms.service.maintain()
    assert rotations(kms, key_id) == []
    call(kms, "EnableKey", key_id)
    kms.now += LOOK_SECONDS
    kms.service.maintain()
    kms.now += LOOK_SECONDS
    kms.service.maintain()
    assert len(rotations(kms, key_id)) == 1
    status = call(kms, "GetKeyRotationStatus", key_id)
    assert status["NextRotationDate"] == kms.now - LOOK_SECONDS + 90 * DAY_SECONDS


def test_a_key_that_waits_for_its_deletion_is_not_rotated(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    call(kms, "EnableKeyRotation", key_id, RotationPeriodInDays=90)
    live(kms, 85)
    call(kms, "ScheduleKeyDeletion", key_id)
    live(kms, 20)
    assert rotations(kms, key_id) == []
    call(kms, "CancelKeyDeletion", key_id)
    call(kms, "EnableKey", key_id)
    live(kms, 1)
    assert len(rotations(kms, key_id)) == 1


def test_the_default_key_is_rotated_every_year(kms: MemoryKms) -> None:
    members = {"KeyId": "alias/aws/ebs", "NumberOfBytes": 64}
    made = kms.service.call(VOLUMES, "GenerateDataKey", members)
    for _ in range(2):
        kms.now += YEAR
        kms.service.maintain()
    assert events(kms) == ["CreateKey", "RotateKey", "RotateKey"]
    opened = kms.service.call(VOLUMES, "Decrypt", {"CiphertextBlob": made["CiphertextBlob"]})
    assert opened["Plaintext"] == made["Plaintext"]


def imported(kms: MemoryKms, *, days: int, waiting: bool = False) -> str:
    """The id of a key with imported material that expires."""
    key_id = kms.new_key()
    with kms.catalog.changing() as change:
        key = get_key(change, key_id)
        assert key is not None
        expiry = deadline(change, date=kms.now + days * DAY_SECONDS, now=kms.now)
        expiring = replace(key.current_material, expiry=expiry)
        if waiting:
            other = KeyMaterial(
                material_id="ab" * 32,
                wrapped=kms.keystore.generate_material(),
                created_at=kms.now,
                expiry=expiry,
            )
            key = replace(key, pending_material=other)
        else:
            key = replace(key, materials=(expiring,))
        put_key(change, replace(key, origin=KeyOrigin.EXTERNAL))
    return key_id


def wrapped(kms: MemoryKms, key_id: str) -> list[bool]:
    with kms.catalog.reading() as view:
        key = get_key(view, key_id)
    assert key is not None
    return [material.wrapped is not None for material in key.materials]


def test_expired_material_is_destroyed(kms: MemoryKms) -> None:
    key_id = imported(kms, days=10)
    live(kms, 9)
    assert (state_of(kms, key_id), wrapped(kms, key_id)) == ("Enabled", [True])
    live(kms, 1)
    assert (state_of(kms, key_id), wrapped(kms, key_id)) == ("PendingImport", [False])
    assert events(kms) == ["DeleteExpiredKeyMaterial", "RewrapKeyMaterial"]
    metadata = call(kms, "DescribeKey", key_id)["KeyMetadata"]
    assert "CurrentKeyMaterialId" in metadata
    assert not metadata.keys() & {"ExpirationModel", "ValidTo"}
    live(kms, 5)
    assert events(kms) == ["DeleteExpiredKeyMaterial", "RewrapKeyMaterial"]


def test_expired_material_cannot_be_used_from_its_date_on(kms: MemoryKms) -> None:
    """By the host's clock alone; and when that is put right, it can."""
    key_id = imported(kms, days=10)
    sealed = call(kms, "Encrypt", key_id, Plaintext="AA==")["CiphertextBlob"]
    kms.now += YEAR
    kms.service.maintain()
    assert (state_of(kms, key_id), wrapped(kms, key_id)) == ("PendingImport", [True])
    for operation, members in (
        ("Encrypt", {"KeyId": key_id, "Plaintext": "AA=="}),
        ("Decrypt", {"CiphertextBlob": sealed}),
    ):
        with pytest.raises(InvalidStateError, match="is pending import"):
            kms.service.call(ROOT, operation, members)
    kms.now = NOW + DAY_SECONDS
    kms.service.maintain()
    assert state_of(kms, key_id) == "Enabled"
    opened = kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": sealed})
    assert opened["Plaintext"] == "AA=="


def test_material_that_waits_to_be_rotated_to_expires_as_well(kms: MemoryKms) -> None:
    key_id = imported(kms, days=3, waiting=True)
    live(kms, 3)
    assert (state_of(kms, key_id), wrapped(kms, key_id)) == ("Enabled", [True])
    listed = call(kms, "ListKeyRotations", key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    assert len(listed["Rotations"]) == 1
    assert events(kms) == ["DeleteExpiredKeyMaterial", "RewrapKeyMaterial"]


def test_expired_material_of_a_key_that_waits_for_its_deletion(kms: MemoryKms) -> None:
    key_id = imported(kms, days=10)
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=30)
    live(kms, 12)
    assert (state_of(kms, key_id), wrapped(kms, key_id)) == ("PendingDeletion", [False])
    live(kms, 18)
    assert is_gone(kms, key_id)
    assert [name for name in events(kms) if name != "RewrapKeyMaterial"] == [
        "DeleteExpiredKeyMaterial",
        "DeleteKey",
    ]


def test_a_look_at_nothing_reads_nothing(kms: MemoryKms, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = kms.new_key()
    call(kms, "ScheduleKeyDeletion", key_id)
    kms.service.maintain()

    def fail() -> None:
        raise AssertionError("the catalogue was looked at")

    with monkeypatch.context() as patch:
        patch.setattr(kms.catalog, "reading", fail)
        patch.setattr(kms.catalog, "changing", fail)
        kms.now += LOOK_SECONDS - 1
        kms.service.maintain()
        kms.now += 1
        with pytest.raises(AssertionError):
            kms.service.maintain()


def test_a_look_changes_the_catalogue_once_an_hour_at_most(kms: MemoryKms) -> None:
    def counters() -> int:
        found = set()
        for _ in range(120):
            kms.now += LOOK_SECONDS
            kms.service.maintain()
            with kms.catalog.reading() as view:
                found.add(view.counter)
        return len(found)

    key_id = kms.new_key()
    assert counters() == 1
    call(kms, "ScheduleKeyDeletion", key_id)
    assert counters() in (2, 3)


def test_a_dead_hsm_puts_off_rotations_and_no_more(kms: MemoryKms) -> None:
    rotating, leaving = kms.new_key(), kms.new_key()
    call(kms, "EnableKeyRotation", rotating, RotationPeriodInDays=90)
    live(kms, 82)
    call(kms, "ScheduleKeyDeletion", leaving, PendingWindowInDays=7)
    live(kms, 7)
    assert is_gone(kms, leaving)
    kms.keystore.is_dead = True
    kms.now += DAY_SECONDS
    for _ in range(3):
        with pytest.raises(HsmUnavailableError):
            kms.service.maintain()
    kms.keystore.is_dead = False
    assert events(kms) == ["DeleteKey", "RewrapKeyMaterial"]
    kms.service.maintain()
    assert events(kms) == ["DeleteKey", "RewrapKeyMaterial", "RotateKey"]


def test_a_dead_hsm_leaves_the_removal_to_be_made_final(kms: MemoryKms) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    old = material_of(kms, key_id)
    call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 6)
    kms.keystore.is_dead = True
    for _ in range(2):
        kms.now += DAY_SECONDS
        with pytest.raises(HsmUnavailableError):
            kms.service.maintain()
    kms.keystore.is_dead = False
    assert is_gone(kms, key_id)
    assert kms.keystore.encrypt(old, plaintext=bytearray(1), aad=b"")
    kms.now += 1
    kms.service.maintain()
    assert events(kms) == ["DeleteKey", "RewrapKeyMaterial"]
    with pytest.raises(IntegrityError):
        kms.keystore.encrypt(old, plaintext=bytearray(1), aad=b"")
    assert call(kms, "Encrypt", other, Plaintext="AA==")


def test_imports_that_were_not_ended_are_forgotten(kms: MemoryKms) -> None:
    made = kms.service.call(ROOT, "CreateKey", {"Origin": "EXTERNAL"})["KeyMetadata"]
    members = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    call(kms, "GetParametersForImport", made["KeyId"], **members)
    live(kms, 1)
    with kms.catalog.reading() as view:
        assert view.items("import") == []


def material_of(kms: MemoryKms, key_id: str) -> WrappedMaterial:
    with kms.catalog.reading() as view:
        key = get_key(view, key_id)
    assert key is not None
    assert key.current_material.wrapped is not None
    return key.current_material.wrapped


def test_other_accounts_and_regions_are_looked_after(kms: MemoryKms) -> None:
    other = kms.service.scope("111111111111", "eu-west-1")
    caller = replace(ROOT, arn="arn:aws:iam::111111111111:root", account="111111111111")
    key_id = other.call(caller, "CreateKey", {})["KeyMetadata"]["KeyId"]
    other.call(caller, "ScheduleKeyDeletion", {"KeyId": key_id, "PendingWindowInDays": 7})
    live(kms, 7)
    with pytest.raises(KeyNotFoundError):
        other.call(caller, "DescribeKey", {"KeyId": key_id})
    record = next(r for r in kms.records() if r.event_name == "DeleteKey")
    assert (record.recipient_account_id, record.aws_region) == ("111111111111", "eu-west-1")


def test_many_keys_at_once(kms: MemoryKms) -> None:
    ids = [kms.new_key() for _ in range(120)]
    for key_id in ids:
        call(kms, "ScheduleKeyDeletion", key_id, PendingWindowInDays=7)
    live(kms, 7)
    assert all(is_gone(kms, key_id) for key_id in ids)
    with kms.catalog.reading() as view:
        assert view.items(DUE) == []
