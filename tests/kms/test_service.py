"""Check, log, act: what is recorded, in which order, and what happens when a part fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import ROOT, USER, VOLUMES, MemoryKms, memory_kms
from volcrypt.errors import (
    AccessDeniedError,
    AuditChainError,
    DryRunSucceededError,
    HsmUnavailableError,
    InvalidCiphertextError,
    KmsError,
    KmsValidationError,
    SealError,
    SerializationError,
    UnknownOperationError,
    UnsupportedOperationError,
)
from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DescribeKeyRequest, ListKeysRequest
from volcrypt.kms.register import RegisterEntry

SECRET = b"a very secret plaintext"


def encrypt(kms: MemoryKms, key_id: str) -> bytes:
    request = EncryptRequest(
        key_id=key_id, plaintext=bytearray(SECRET), encryption_context={"purpose": "test"}
    )
    return kms.service.perform(ROOT, request).ciphertext_blob


def last(kms: MemoryKms) -> AuditRecord:
    return kms.records()[-1]


def test_what_is_recorded_of_a_request(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    encrypt(kms, key_id)
    record = last(kms)
    assert record.event_name == "Encrypt"
    assert record.event_type == "AwsApiCall"
    assert record.event_time == "2027-01-15T08:00:00Z"
    assert record.user_identity.arn == ROOT.arn
    assert record.user_identity.type == "Root"
    assert record.request_parameters == {
        "keyId": key_id,
        "encryptionContext": {"purpose": "test"},
        "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "dryRun": False,
    }
    assert record.response_elements is None
    assert record.error_code is None
    assert record.read_only
    assert [resource.arn.rpartition("/")[2] for resource in record.resources] == [key_id]


def test_changes_record_the_key_they_made(kms: MemoryKms) -> None:
    made = kms.service.perform(ROOT, CreateKeyRequest()).key_metadata
    record = last(kms)
    assert not record.read_only
    assert record.response_elements == {"keyMetadata": {"keyId": made.key_id, "arn": made.arn}}
    assert [resource.arn for resource in record.resources] == [made.arn]


def test_of_a_long_name_of_a_program_as_much_is_recorded_as_cloudtrail_does(kms: MemoryKms) -> None:
    caller = replace(ROOT, user_agent="a" * 3000)
    kms.service.perform(caller, DescribeKeyRequest(key_id=kms.new_key()))
    assert last(kms).user_agent == "a" * 1024


def test_the_volume_service_is_recorded_as_such(kms: MemoryKms) -> None:
    kms.service.perform(VOLUMES, DescribeKeyRequest(key_id=kms.new_key()))
    assert last(kms).user_identity.invoked_by == "ec2.us-east-1.amazonaws.com"


def test_refusals_are_recorded(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    request = DescribeKeyRequest(key_id=key_id)
    with pytest.raises(AccessDeniedError) as denied:
        kms.service.perform(USER, request)
    assert (last(kms).error_code, last(kms).error_message) == (
        "AccessDenied",  # as CloudTrail calls it; on the wire it is AccessDeniedException
        str(denied.value),
    )
    assert last(kms).user_identity.type == "IAMUser"
    with pytest.raises(KmsValidationError):
        kms.service.perform(ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(5000)))
    assert last(kms).error_code == "ValidationException"
    with pytest.raises(DryRunSucceededError):
        kms.service.perform(
            ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(1), dry_run=True)
        )
    assert last(kms).error_code == "DryRunOperationException"


def test_a_failed_effect_adds_a_second_record(kms: MemoryKms) -> None:
    blob = encrypt(kms, kms.new_key())
    with pytest.raises(InvalidCiphertextError):
        kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob))
    decision, failure = kms.records()[-2:]
    assert decision.request_id == failure.request_id
    assert decision.event_id != failure.event_id
    assert (decision.error_code, failure.error_code) == (None, "InvalidCiphertextException")


def test_a_dead_hsm_leaves_a_record_and_no_key(kms: MemoryKms) -> None:
    kms.keystore.is_dead = True
    with pytest.raises(HsmUnavailableError):
        kms.service.perform(ROOT, CreateKeyRequest())
    kms.keystore.is_dead = False
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []
    assert [r.error_code for r in kms.records()][:1] == ["KeyUnavailableException"]


def test_a_failed_change_takes_its_transaction_with_it(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise HsmUnavailableError("the HSM did not answer: it has just died")

    with monkeypatch.context() as patch:
        patch.setattr(kms.keystore, "generate_material", fail)
        with pytest.raises(HsmUnavailableError):
            kms.service.perform(ROOT, CreateKeyRequest())
    decision, failure = kms.records()
    assert decision.request_id == failure.request_id
    assert (decision.error_code, failure.error_code) == (None, "KeyUnavailableException")
    assert failure.response_elements is None
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []


def test_no_effect_when_the_log_was_cut(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    (log,) = (kms.directory / "audit").glob("*.jsonl")
    log.write_bytes(b"")
    encryptions = kms.keystore.encryptions
    with pytest.raises(AuditChainError):
        encrypt(kms, key_id)
    with pytest.raises(AuditChainError):
        kms.new_key()
    assert kms.keystore.encryptions == encryptions


def test_secrets_are_in_no_file_and_no_text(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    response = kms.service.perform(
        ROOT, DecryptRequest(ciphertext_blob=blob, encryption_context={"purpose": "test"})
    )
    assert SECRET.decode() not in repr(response)
    with kms.catalog.reading() as view:
        assert "blob=" not in repr(view.get("key", key_id))
    for path in kms.directory.rglob("*"):
        if path.is_file():
            assert SECRET not in path.read_bytes()


def test_call_by_the_name_of_aws(kms: MemoryKms) -> None:
    made = kms.service.call(ROOT, "CreateKey", {"Description": "mine"})["KeyMetadata"]
    assert made["Description"] == "mine"
    assert made["KeyState"] == "Enabled"
    sealed = kms.service.call(ROOT, "Encrypt", {"KeyId": made["KeyId"], "Plaintext": "c2VjcmV0"})
    opened = kms.service.call(ROOT, "Decrypt", {"CiphertextBlob": sealed["CiphertextBlob"]})
    assert opened["Plaintext"] == "c2VjcmV0"
    assert kms.service.call(ROOT, "DisableKey", {"KeyId": made["KeyId"]}) == {}


@pytest.mark.parametrize(
    ("operation", "error", "name"),
    [
        ("Sign", UnsupportedOperationError, "Sign"),
        ("GenerateDataKeyPair", UnsupportedOperationError, "GenerateDataKeyPair"),
        ("Encipher", UnknownOperationError, "Encipher"),
        ("x\ny", UnknownOperationError, "Unknown"),
        ("", UnknownOperationError, "Unknown"),
    ],
)
def test_other_operations_are_refused_and_recorded(
    kms: MemoryKms, operation: str, error: type[KmsError], name: str
) -> None:
    with pytest.raises(error):
        kms.service.call(ROOT, operation, {})
    assert (last(kms).event_name, last(kms).error_code) == (name, error.code)


def test_unreadable_requests_are_refused_and_recorded(kms: MemoryKms) -> None:
    with pytest.raises(SerializationError):
        kms.service.call(ROOT, "Encrypt", {"KeyId": 1})
    assert last(kms).error_code == "SerializationException"
    assert last(kms).request_parameters is None
    with pytest.raises(KmsValidationError):
        kms.service.call(ROOT, "DescribeKey", {"KeyId": "\ud800"})
    assert last(kms).error_code == "ValidationException"
    with pytest.raises(KmsValidationError):
        kms.service.call(ROOT, "CreateKey", {"Description": "x" * 100_000})
    assert last(kms).request_parameters is None


def test_home_keys_differ_by_purpose(kms: MemoryKms) -> None:
    one = kms.service.derive_home_key(b"volume vol-1")
    assert len(one) == 32
    assert one == kms.service.derive_home_key(b"volume vol-1")
    assert one != kms.service.derive_home_key(b"volume vol-2")


def test_all_of_it_is_there_after_opening_again(memory_path: Path) -> None:
    keystore = MemoryKeyStore()
    with memory_kms(memory_path / "kms", keystore) as kms:
        blob = encrypt(kms, kms.new_key())
        entry = RegisterEntry(kind="volume", id="v", name="n", counter=1, digest=bytes(32))
        kms.service.register.apply(put=[entry])
        count = len(kms.records())
    with memory_kms(memory_path / "kms", keystore) as kms:
        request = DecryptRequest(ciphertext_blob=blob, encryption_context={"purpose": "test"})
        assert kms.service.perform(ROOT, request).plaintext == SECRET
        assert kms.service.register.find("volume", "n") == entry
        assert len(kms.records()) == count + 1


def test_a_catalogue_under_another_token_is_refused(memory_path: Path) -> None:
    with memory_kms(memory_path / "kms") as kms:
        kms.new_key()
    with pytest.raises(SealError), memory_kms(memory_path / "kms", MemoryKeyStore(b"other")):
        pass
