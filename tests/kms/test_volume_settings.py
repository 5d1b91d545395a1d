"""Settings for new volumes: per account and region, sealed, on record before they change."""

import shutil
from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, STRANGER, MemoryKms, memory_kms
from tests.kms.people import add_user
from tests.kms.policies import allow
from volcrypt.errors import (
    AccessDeniedError,
    AuditChainError,
    IntegrityError,
    InvalidStateError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsValidationError,
    UnknownOperationError,
)
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.keys import DisableKeyRequest
from volcrypt.kms.messages.volume_settings import (
    VOLUME_SETTINGS_OPERATIONS,
    DisableEbsEncryptionByDefaultRequest,
    EnableEbsEncryptionByDefaultRequest,
    ModifyEbsDefaultKmsKeyIdRequest,
    ResetEbsDefaultKmsKeyIdRequest,
)
from volcrypt.kms.model import Caller, VolumeSettings
from volcrypt.kms.protocol import find_operation

ON = EnableEbsEncryptionByDefaultRequest()
OFF = DisableEbsEncryptionByDefaultRequest()


def settings(kms: MemoryKms, account: str = ACCOUNT, region: str = REGION) -> VolumeSettings:
    return kms.service.volume_settings(account, region)


def test_they_are_of_one_account_and_region(kms: MemoryKms) -> None:
    assert settings(kms) == VolumeSettings()
    assert kms.service.perform(ROOT, ON).ebs_encryption_by_default
    assert settings(kms).encryption_by_default
    assert not settings(kms, region="eu-west-1").encryption_by_default
    assert not settings(kms, account=STRANGER.account).encryption_by_default
    away = kms.service.scope(ACCOUNT, "eu-west-1")
    away.perform(ROOT, ON)
    assert not kms.service.perform(ROOT, OFF).ebs_encryption_by_default
    assert not settings(kms).encryption_by_default
    assert settings(kms, region="eu-west-1").encryption_by_default


def test_they_outlive_the_process(kms: MemoryKms) -> None:
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{kms.new_key()}"
    kms.service.perform(ROOT, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=arn))
    kms.service.perform(ROOT, ON)
    kms.close()
    with memory_kms(kms.directory, kms.keystore) as again:
        expected = {"home": arn}
        assert settings(again) == VolumeSettings(
            encryption_by_default=True, default_kms_keys=expected
        )


def test_an_older_catalogue_does_not_turn_it_off(kms: MemoryKms) -> None:
    kms.new_key()
    catalog = kms.directory / "catalog.sqlite3"
    older = catalog.with_name("older")
    shutil.copy(catalog, older)
    kms.service.perform(ROOT, ON)
    kms.new_key()
    kms.close()
    shutil.copy(older, catalog)
    with pytest.raises(IntegrityError), memory_kms(kms.directory, kms.keystore) as again:
        settings(again)


def test_the_default_key(kms: MemoryKms) -> None:
    """One for each KMS; in the home's own it can be looked at, and is named by its ARN."""
    key = kms.new_key()
    made = kms.service.perform(ROOT, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=key))
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"
    assert made.kms_key_id == arn
    other = "arn:aws:kms:eu-west-1:111111111111:key/anything"
    kms.service.perform(ROOT, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=other, kms="aws eu"))
    assert settings(kms).default_kms_keys == {"home": arn, "aws eu": other}
    assert kms.service.perform(ROOT, ResetEbsDefaultKmsKeyIdRequest()).kms_key_id is None
    assert settings(kms).default_kms_keys == {"aws eu": other}
    kms.service.perform(ROOT, ResetEbsDefaultKmsKeyIdRequest(kms="aws eu"))
    assert settings(kms) == VolumeSettings()


def test_a_default_key_has_to_be_usable(kms: MemoryKms) -> None:
    disabled, doomed = kms.new_key(), kms.new_key()
    kms.service.perform(ROOT, DisableKeyRequest(key_id=disabled))
    kms.service.perform(ROOT, ScheduleKeyDeletionRequest(key_id=doomed))
    for key, error in (
        (disabled, KeyDisabledError),
        (doomed, InvalidStateError),
        ("12345678-1234-1234-1234-123456789012", KeyNotFoundError),
        ("", KmsValidationError),
    ):
        with pytest.raises(error):
            kms.service.perform(ROOT, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=key))
        assert kms.records()[-1].error_code is not None
    assert settings(kms) == VolumeSettings()


def test_a_change_is_on_record(kms: MemoryKms) -> None:
    key = kms.new_key()
    requests: list[Request[Any]] = [
        ON,
        ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=key),
        ResetEbsDefaultKmsKeyIdRequest(),
        OFF,
    ]
    for request in requests:
        kms.service.perform(ROOT, request)
        record = kms.records()[-1]
        assert record.event_name == type(request).__name__.removesuffix("Request")
        assert record.event_source == "ec2.amazonaws.com"
        assert record.user_identity.arn == ROOT.arn
        assert not record.read_only
    changed = kms.records()[-3]
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"
    assert changed.request_parameters == {"kmsKeyId": key}
    assert changed.response_elements == {"kmsKeyId": arn}
    assert [resource.arn for resource in changed.resources] == [arn]
    assert kms.records()[-1].response_elements == {"ebsEncryptionByDefault": False}


def test_what_cannot_be_recorded_does_not_change(kms: MemoryKms) -> None:
    kms.service.perform(ROOT, ON)
    (log,) = (kms.directory / "audit").glob("*.jsonl")
    whole = log.read_bytes()
    log.write_bytes(b"")
    with pytest.raises(AuditChainError):
        kms.service.perform(ROOT, OFF)
    log.write_bytes(whole)
    assert settings(kms).encryption_by_default


@pytest.mark.parametrize("operation", VOLUME_SETTINGS_OPERATIONS)
def test_each_takes_the_permission_of_its_name(kms: MemoryKms, operation: str) -> None:
    key = kms.new_key()
    request_type = VOLUME_SETTINGS_OPERATIONS[operation].request
    given = {"kms_key_id": key} if "Modify" in operation else {}
    others = [f"volcrypt:{name}" for name in VOLUME_SETTINGS_OPERATIONS if name != operation]
    almost = add_user(kms, "alice", [allow(Action=["kms:*", "ec2:*", "iam:*", *others])])
    with pytest.raises(AccessDeniedError, match=f"volcrypt:{operation}"):
        kms.service.perform(almost, request_type(**given))
    assert kms.records()[-1].error_code == "AccessDenied"
    assert settings(kms) == VolumeSettings()
    allowed = add_user(kms, "bob", [allow(Action=f"volcrypt:{operation}")])
    kms.service.perform(allowed, request_type(**given))


def test_a_stranger_changes_nothing(kms: MemoryKms) -> None:
    with pytest.raises(AccessDeniedError):
        kms.service.perform(Caller(arn=STRANGER.arn, account=STRANGER.account), ON)


@pytest.mark.parametrize("operation", VOLUME_SETTINGS_OPERATIONS)
def test_who_speaks_the_protocol_of_the_kms_does_not_reach_them(operation: str) -> None:
    with pytest.raises(UnknownOperationError):
        find_operation(operation)
