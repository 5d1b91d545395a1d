"""What the audit log says of a key: uses, by whom and for what; in one pass over real records."""

from pathlib import Path

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, USER, VOLUMES, MemoryKms
from tests.kms.people import add_user
from tests.kms.policies import allow
from volcrypt.errors import (
    AccessDeniedError,
    AuditChainError,
    DryRunSucceededError,
    InvalidCiphertextError,
)
from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.messages.data import (
    DecryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.kms.usage import NO_VOLUME, Count, Deed, KeyUsage, UsageReader
from volcrypt.names import NOBODYS_VOLUME

VOLUME = {"volcrypt:volume-id": "vol-0123456789abcdef0"}
SNAPSHOT = {"volcrypt:snapshot-id": "snap-0123456789abcdef0"}


def usage_of(kms: MemoryKms, key: str) -> KeyUsage:
    reader = UsageReader(key)
    for record in kms.audit.verified_records(kms.service.audit_head()):
        reader.read(record)
    return reader.usage


def generate(kms: MemoryKms, key: str, context: dict[str, str] | None = None) -> bytes:
    request = GenerateDataKeyWithoutPlaintextRequest(
        key_id=key, number_of_bytes=64, encryption_context=context or {}
    )
    return kms.service.perform(VOLUMES, request).ciphertext_blob


def arn_of(key: str) -> str:
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"


def uses(counts: dict[str, Count]) -> dict[str, int]:
    return {name: count.uses for name, count in counts.items()}


def test_uses_are_counted(kms: MemoryKms) -> None:
    key, other = kms.new_key(), kms.new_key()
    blob = generate(kms, key, VOLUME)
    kms.now += 10
    generate(kms, other, VOLUME)
    kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob, encryption_context=VOLUME))
    kms.now += 10
    kms.service.perform(
        ROOT,
        ReEncryptRequest(
            ciphertext_blob=blob,
            source_encryption_context=VOLUME,
            destination_key_id=other,
            destination_encryption_context=SNAPSHOT,
        ),
    )
    generate(kms, key, {"volcrypt:volume-id": NOBODYS_VOLUME})
    for name in (key, arn_of(key)):
        found = usage_of(kms, name)
        assert found.total.uses == 4
        assert uses(found.operations) == {
            "GenerateDataKeyWithoutPlaintext": 2,
            "Decrypt": 1,
            "ReEncrypt": 1,
        }
        assert uses(found.principals) == {ROOT.arn: 4}
        assert uses(found.volumes) == {
            VOLUME["volcrypt:volume-id"]: 3,
            SNAPSHOT["volcrypt:snapshot-id"]: 1,
            NO_VOLUME: 1,
        }
        times = [found.total.first, found.operations["Decrypt"].first, found.total.last]
        assert None not in times
        assert [str(time) for time in times] == sorted({str(time) for time in times})
    assert usage_of(kms, other).total.uses == 2
    assert usage_of(kms, kms.new_key()).total == Count()


def test_what_was_refused_failed_or_tried_is_no_use(kms: MemoryKms) -> None:
    key = kms.new_key()
    generate(kms, key, VOLUME)
    add_user(kms, "alice")
    with pytest.raises(AccessDeniedError):
        kms.service.perform(
            USER, GenerateDataKeyRequest(key_id=key, number_of_bytes=32, encryption_context=VOLUME)
        )
    with pytest.raises(DryRunSucceededError):
        kms.service.perform(
            ROOT, GenerateDataKeyRequest(key_id=key, number_of_bytes=32, dry_run=True)
        )
    found = usage_of(kms, key)
    assert (found.total.uses, found.total.tried, found.total.refused) == (1, 1, 1)
    hers = found.principals[USER.arn]
    assert (hers.uses, hers.refused, hers.first, hers.last) == (0, 1, None, None)


def test_a_failed_effect_takes_its_use_back(kms: MemoryKms) -> None:
    """It was allowed and recorded, and a second record says that nothing came of it."""
    key = kms.new_key()
    blob = generate(kms, key, VOLUME)
    assert usage_of(kms, key).total.uses == 1
    with pytest.raises(InvalidCiphertextError):
        kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob))
    assert len(kms.records()) == 4
    found = usage_of(kms, key)
    assert (found.total.uses, found.total.refused) == (1, 1)
    failed = found.operations["Decrypt"]
    assert (failed.uses, failed.refused, failed.first, failed.last) == (0, 1, None, None)


def test_the_life_of_a_key(kms: MemoryKms) -> None:
    key = kms.new_key()
    assert usage_of(kms, key).created_at is not None
    assert usage_of(kms, key).deleted_at is None
    kms.service.perform(ROOT, ScheduleKeyDeletionRequest(key_id=key, pending_window_in_days=7))
    for _ in range(8):
        kms.now += DAY_SECONDS
        kms.service.maintain()
    assert usage_of(kms, key).deleted_at is not None
    assert not usage_of(kms, "12345678-1234-1234-1234-123456789012").is_known


def test_what_went_outside_is_told(kms: MemoryKms) -> None:
    key = kms.new_key()
    alice = add_user(kms, "alice", [allow(Action="volcrypt:ExportHeader")])
    kms.service.authorise(alice, "volcrypt:ExportHeader", key_arn=arn_of(key), context=VOLUME)
    bob = add_user(kms, "bob")
    with pytest.raises(AccessDeniedError):
        kms.service.authorise(bob, "volcrypt:ExportHeader", key_arn=arn_of(key), context=VOLUME)
    context = {"volcrypt:backup-of": "0123456789abcdef"}
    kms.service.perform(
        ROOT,
        GenerateDataKeyRequest(key_id=key, number_of_bytes=32, encryption_context=context),
    )
    found = usage_of(kms, key)
    (header,), (backup,) = found.exported_headers, found.backups
    assert header == Deed(
        time=header.time, principal=alice.arn, subject=VOLUME["volcrypt:volume-id"]
    )
    assert (backup.principal, backup.subject) == (ROOT.arn, "0123456789abcdef")


def test_what_is_kept_does_not_grow_with_the_log(kms: MemoryKms) -> None:
    key = kms.new_key()
    generate(kms, key, VOLUME)
    record = kms.records()[-1]
    reader = UsageReader(key)
    for number in range(5000):
        reader.read(_with_request_id(record, str(number)))
    assert reader.usage.total.uses == 5000
    assert len(reader._done) == 1024


def _with_request_id(record: AuditRecord, request_id: str) -> AuditRecord:
    return msgspec.structs.replace(record, request_id=request_id)


@pytest.mark.parametrize("damage", ["edited", "cut"])
def test_a_log_that_does_not_hold_gives_no_answer(kms: MemoryKms, damage: str) -> None:
    key = kms.new_key()
    generate(kms, key, VOLUME)
    log = next(Path(kms.directory / "audit").glob("*.jsonl"))
    lines = log.read_bytes().splitlines(keepends=True)
    last = lines[-1].replace(b"vol-0123456789abcdef0", b"vol-0123456789abcdef1")
    log.write_bytes(b"".join([*lines[:-1], last] if damage == "edited" else lines[:-1]))
    with pytest.raises(AuditChainError):
        usage_of(kms, key)
    log.write_bytes(b"".join(lines))
    assert usage_of(kms, key).total.uses == 1
