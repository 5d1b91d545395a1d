"""Many requests at once: one sync for those that change no rows, each with its own answer."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, USER, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    HsmUnavailableError,
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsInternalError,
    KmsValidationError,
    LimitExceededError,
    NoSpaceError,
    SerializationError,
    VolcryptError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.audit import MAX_BATCH
from volcrypt.kms.calls import CALLS, MAX_CALLS, Calls
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
)
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    DescribeKeyRequest,
    DescribeKeyResponse,
    DisableKeyRequest,
    ListKeysRequest,
)
from volcrypt.kms.model import Caller, root_arn
from volcrypt.kms.service import Call, KmsService, Refusal

OTHER_ACCOUNT = "111111111111"


def perform_all(
    service: KmsService, *requests: Request[Any] | Refusal, caller: Caller = ROOT
) -> list[Any]:
    return list(
        service.perform_all([Call(service=service, caller=caller, request=r) for r in requests])
    )


def encryption(key_id: str, text: bytes = b"text") -> EncryptRequest:
    return EncryptRequest(key_id=key_id, plaintext=bytearray(text))


class Syncs:
    """Counts what makes data durable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = os.fdatasync

        def count(descriptor: int) -> None:
            self.count += 1
            real(descriptor)

        monkeypatch.setattr(os, "fdatasync", count)


def counter(kms: MemoryKms) -> int:
    with kms.catalog.reading() as view:
        return view.counter


def test_requests_without_rows_share_two_syncs_and_no_commit(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()
    (made,) = perform_all(kms.service, encryption(key_id))
    assert isinstance(made, EncryptResponse)
    before, records = counter(kms), len(kms.records())
    syncs = Syncs(monkeypatch)
    requests: list[Request[Any]] = [
        DecryptRequest(ciphertext_blob=made.ciphertext_blob),
        encryption(key_id),
        DescribeKeyRequest(key_id=key_id),
        GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256"),
        DecryptRequest(ciphertext_blob=made.ciphertext_blob),
    ]
    answers = perform_all(kms.service, *requests)
    assert syncs.count == 2
    assert counter(kms) == before
    assert [type(answer) for answer in answers] == [
        *(DecryptResponse, EncryptResponse, DescribeKeyResponse, GenerateDataKeyResponse),
        DecryptResponse,
    ]
    assert [r.event_name for r in kms.records()[records:]] == [
        *("Decrypt", "Encrypt", "DescribeKey", "GenerateDataKey", "Decrypt"),
    ]


def test_large_batches_are_parted(kms: MemoryKms, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = kms.new_key()
    syncs = Syncs(monkeypatch)
    perform_all(kms.service, *[DescribeKeyRequest(key_id=key_id)] * (2 * MAX_BATCH + 1))
    assert syncs.count == 2 * 3


def test_nothing_to_do_does_nothing(kms: MemoryKms) -> None:
    assert perform_all(kms.service) == []
    assert kms.records() == []


def test_the_order_is_kept_and_changes_are_seen_by_what_follows(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    answers = perform_all(
        kms.service,
        encryption(key_id),
        DisableKeyRequest(key_id=key_id),
        encryption(key_id),
        CreateKeyRequest(),
        ListKeysRequest(),
    )
    assert [isinstance(answer, VolcryptError) for answer in answers] == [
        *(False, False, True, False, False),
    ]
    assert isinstance(answers[2], KeyDisabledError)
    assert len(answers[4].keys) == 2
    assert [r.event_name for r in kms.records()[1:]] == [
        *("Encrypt", "DisableKey", "Encrypt", "CreateKey", "ListKeys"),
    ]


def test_each_has_its_own_answer_and_error(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    (made,) = perform_all(kms.service, encryption(key_id))
    assert isinstance(made, EncryptResponse)
    spoilt = made.ciphertext_blob[:-1] + bytes([made.ciphertext_blob[-1] ^ 1])
    before = len(kms.records())
    answers = perform_all(
        kms.service,
        DecryptRequest(ciphertext_blob=spoilt),
        DecryptRequest(ciphertext_blob=made.ciphertext_blob),
        encryption("alias/none"),
        encryption(key_id, b"x" * 5000),
        DecryptRequest(ciphertext_blob=spoilt),
    )
    assert [type(answer) for answer in answers] == [
        *(InvalidCiphertextError, DecryptResponse, KeyNotFoundError, KmsValidationError),
        InvalidCiphertextError,
    ]
    found = kms.records()[before:]
    assert [r.error_code for r in found] == [
        *(None, None, "NotFoundException", "ValidationException", None),
        # The second records of those that failed after they were allowed.
        *("InvalidCiphertextException", "InvalidCiphertextException"),
    ]
    assert [found[5].request_id, found[6].request_id] == [found[0].request_id, found[4].request_id]


def test_callers_are_decided_one_by_one(kms: MemoryKms) -> None:
    request = DescribeKeyRequest(key_id=kms.new_key())
    calls = [Call(service=kms.service, caller=caller, request=request) for caller in (USER, ROOT)]
    denied, allowed = kms.service.perform_all(calls)
    assert isinstance(denied, AccessDeniedError)
    assert isinstance(allowed, DescribeKeyResponse)


def test_a_dead_hsm_fails_each_with_a_second_record(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    perform_all(kms.service, encryption(key_id))
    before = len(kms.records())
    kms.keystore.is_dead = True
    answers = perform_all(kms.service, encryption(key_id), DescribeKeyRequest(key_id=key_id))
    assert [type(a) for a in answers] == [HsmUnavailableError, DescribeKeyResponse]
    assert [r.error_code for r in kms.records()[before:]] == [
        *(None, None, "KeyUnavailableException"),
    ]


def test_a_bug_in_one_request_leaves_the_others_alone(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(attempt: Attempt, request: object) -> Effect[object]:
        raise ZeroDivisionError

    key_id = kms.new_key()
    monkeypatch.setattr(kms.service, "describe_key", fail)
    answers = perform_all(kms.service, DescribeKeyRequest(key_id=key_id), encryption(key_id))
    assert isinstance(answers[0], KmsInternalError)
    assert isinstance(answers[0].__cause__, ZeroDivisionError)
    assert isinstance(answers[1], EncryptResponse)
    assert [r.error_code for r in kms.records()[1:]] == ["KMSInternalException", None]


def test_without_a_record_none_of_them_happens(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()
    perform_all(kms.service, encryption(key_id))
    encryptions = kms.keystore.encryptions

    def full(*_: object, **__: object) -> None:
        raise NoSpaceError("no space left for the log")

    with monkeypatch.context() as patch:
        patch.setattr(kms.audit, "append", full)
        answers = perform_all(kms.service, encryption(key_id), encryption("alias/none"))
    assert [type(answer) for answer in answers] == [NoSpaceError, NoSpaceError]
    assert kms.keystore.encryptions == encryptions
    assert isinstance(perform_all(kms.service, encryption(key_id))[0], EncryptResponse)


def test_unreadable_requests_are_recorded_with_the_others(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()
    error = SerializationError("a member has the wrong type")
    syncs = Syncs(monkeypatch)
    answers = perform_all(
        kms.service,
        DescribeKeyRequest(key_id=key_id),
        Refusal(operation="Encrypt", error=error),
        Refusal(operation="no\nname", error=error),
    )
    assert syncs.count == 2
    assert answers[1:] == [error, error]
    assert [(r.event_name, r.error_code) for r in kms.records()[2:]] == [
        ("Encrypt", "SerializationException"),
        ("Unknown", "SerializationException"),
    ]
    kms.service.refuse(USER, "Decrypt", error)
    last = kms.records()[-1]
    assert (last.event_name, last.user_identity.user_name) == ("Decrypt", "alice")
    assert last.request_parameters is None


def test_a_block_of_calls_serves_a_batch(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    before = counter(kms)
    perform_all(kms.service, *[encryption(key_id)] * 16)
    assert counter(kms) == before + 1
    assert leased(kms) == 16
    perform_all(kms.service, *[encryption(key_id)] * 17)
    assert counter(kms) == before + 2
    assert leased(kms) == 16 + 16 * 8


def leased(kms: MemoryKms) -> int:
    with kms.catalog.reading() as view:
        (item,) = view.items(CALLS)
    return item.decoded(Calls).leased


def test_the_last_calls_of_a_material_in_one_batch(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    perform_all(kms.service, encryption(key_id))
    with kms.catalog.changing() as change:
        (item,) = change.items(CALLS)
        body = b'{"leased":%d}' % (MAX_CALLS - 2)
        change.put(type(item)(kind=CALLS, id=item.id, body=body))
    encryptions = kms.keystore.encryptions
    # 15 are left of the first block, and two more can be had.
    answers = perform_all(kms.service, *[encryption(key_id)] * 20)
    errors = [answer for answer in answers if isinstance(answer, LimitExceededError)]
    assert answers[17:] == errors
    assert kms.keystore.encryptions == encryptions + 17
    assert leased(kms) == MAX_CALLS


def test_calls_of_a_change_that_failed_are_nobodys(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()

    def full(*_: object, **__: object) -> None:
        raise NoSpaceError("no space left for the log")

    with monkeypatch.context() as patch:
        patch.setattr(kms.audit, "append", full)
        perform_all(kms.service, *[encryption(key_id)] * 3)
    used = 0
    while used < 40:
        perform_all(kms.service, encryption(key_id))
        used += 1
        assert leased(kms) >= used


def test_services_of_one_home_are_performed_together(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kms.service.scope(OTHER_ACCOUNT, "eu-west-1")
    stranger = Caller(arn=root_arn(OTHER_ACCOUNT), account=OTHER_ACCOUNT)
    there = other.perform(stranger, CreateKeyRequest()).key_metadata
    assert there.arn == f"arn:aws:kms:eu-west-1:{OTHER_ACCOUNT}:key/{there.key_id}"
    here = kms.new_key()
    syncs = Syncs(monkeypatch)
    answers = kms.service.perform_all(
        [
            Call(service=kms.service, caller=ROOT, request=DescribeKeyRequest(key_id=here)),
            Call(service=other, caller=stranger, request=DescribeKeyRequest(key_id=there.key_id)),
            Call(service=kms.service, caller=ROOT, request=DescribeKeyRequest(key_id=there.key_id)),
        ]
    )
    assert syncs.count == 2
    assert [type(answer) for answer in answers] == [
        *(DescribeKeyResponse, DescribeKeyResponse, KeyNotFoundError),
    ]
    assert [(r.aws_region, r.recipient_account_id) for r in kms.records()[2:]] == [
        (REGION, ACCOUNT),
        ("eu-west-1", OTHER_ACCOUNT),
        (REGION, ACCOUNT),
    ]


def test_a_scope_is_one_service(kms: MemoryKms) -> None:
    other = kms.service.scope(OTHER_ACCOUNT, "eu-west-1")
    assert other is kms.service.scope(OTHER_ACCOUNT, "eu-west-1")
    assert other.scope(ACCOUNT, REGION) is kms.service
    for account, region in (("1", REGION), (ACCOUNT, ""), (ACCOUNT, "a:b"), ("x" * 12, REGION)):
        with pytest.raises(InvalidArgumentError):
            kms.service.scope(account, region)


def test_threads_side_by_side(kms: MemoryKms) -> None:
    """Batches, changes and single requests of several threads: every answer, every record."""
    key_id = kms.new_key()

    def work(number: int) -> int:
        done = 0
        for _ in range(6):
            answers = perform_all(
                kms.service,
                *[encryption(key_id)] * number,
                CreateKeyRequest(),
                DescribeKeyRequest(key_id=key_id),
            )
            assert not [a for a in answers if isinstance(a, VolcryptError)]
            done += len(answers)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(work, range(1, 5)))
    records = kms.records()
    assert len(records) == done + 1
    assert len({record.request_id for record in records}) == done + 1
    assert kms.keystore.encryptions <= leased(kms)


WORKER = """
import sys
from pathlib import Path
from tests.fakes.kms import ROOT, memory_kms
from tests.kms.test_batches import encryption, perform_all
from volcrypt.errors import VolcryptError
from volcrypt.kms.messages.keys import CreateKeyRequest, ListKeysRequest

with memory_kms(Path(sys.argv[1])) as kms:
    for _ in range(10):
        answers = perform_all(
            kms.service, *[encryption(sys.argv[2])] * 5, CreateKeyRequest(), ListKeysRequest()
        )
        assert not [a for a in answers if isinstance(a, VolcryptError)], answers
"""


def test_processes_side_by_side(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    command = [sys.executable, "-c", WORKER, str(kms.directory), key_id]
    root = Path(__file__).parents[2]
    workers = [subprocess.Popen(command, cwd=root) for _ in range(3)]
    for _ in range(30):
        perform_all(kms.service, *[encryption(key_id)] * 3, DescribeKeyRequest(key_id=key_id))
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    names = [record.event_name for record in kms.records()]
    assert (names.count("Encrypt"), names.count("CreateKey")) == (3 * 50 + 90, 31)
    assert "RecoverAuditLog" not in names
    (listed,) = perform_all(kms.service, ListKeysRequest())
    assert len(listed.keys) == 31
