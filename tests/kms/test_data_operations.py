"""Data keys, encryption, decryption: what works, what is refused, and how it is counted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, STRANGER, USER, VOLUMES, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    DryRunSucceededError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidKeyUsageError,
    InvalidStateError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsError,
    KmsValidationError,
    LimitExceededError,
)
from volcrypt.formats.ciphertext_blob import decode_ciphertext_blob, encode_ciphertext_blob
from volcrypt.kms.calls import CALLS, MAX_CALLS, Calls
from volcrypt.kms.keyring import get_key, put_key
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateRandomRequest,
    ReEncryptRequest,
)
from volcrypt.kms.messages.keys import DisableKeyRequest
from volcrypt.kms.model import Caller, KeyMaterial, KeyState, WrappedMaterial
from volcrypt.kms.sealing import Item

CONTEXT = {"volcrypt:volume-id": "vol-0123456789abcdef0"}


def encrypt(
    kms: MemoryKms, key: str, text: bytes = b"secret", context: dict[str, str] = CONTEXT
) -> bytes:
    request = EncryptRequest(key_id=key, plaintext=bytearray(text), encryption_context=context)
    return kms.service.perform(ROOT, request).ciphertext_blob


def decrypt(
    kms: MemoryKms,
    blob: bytes,
    context: dict[str, str] = CONTEXT,
    *,
    key: str | None = None,
    caller: Caller = ROOT,
) -> bytes:
    request = DecryptRequest(ciphertext_blob=blob, encryption_context=context, key_id=key)
    return bytes(kms.service.perform(caller, request).plaintext)


def set_state(kms: MemoryKms, key_id: str, state: KeyState) -> None:
    with kms.catalog.changing() as change:
        key = get_key(change, key_id)
        assert key is not None
        put_key(change, replace(key, state=state))


def test_what_was_encrypted_decrypts(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    assert b"secret" not in blob
    response = kms.service.perform(
        ROOT, DecryptRequest(ciphertext_blob=blob, encryption_context=CONTEXT)
    )
    assert response.plaintext == b"secret"
    assert response.key_id == f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    assert response.key_material_id == decode_ciphertext_blob(blob).material_id
    assert decrypt(kms, blob, key=key_id) == b"secret"


@pytest.mark.parametrize(
    "context", [{}, {"volcrypt:volume-id": "vol-1"}, CONTEXT | {"a": "b"}, {"a": "b"}]
)
def test_another_context_does_not_decrypt(kms: MemoryKms, context: dict[str, str]) -> None:
    blob = encrypt(kms, kms.new_key())
    with pytest.raises(InvalidCiphertextError):
        decrypt(kms, blob, context)


def test_contexts_that_concatenate_alike_are_apart(kms: MemoryKms) -> None:
    blob = encrypt(kms, kms.new_key(), context={"a": "bc"})
    with pytest.raises(InvalidCiphertextError):
        decrypt(kms, blob, {"ab": "c"})


def test_every_bit_of_a_blob_counts(kms: MemoryKms) -> None:
    blob = encrypt(kms, kms.new_key())
    for place in range(0, len(blob), 3):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises((InvalidCiphertextError, AccessDeniedError)):
            decrypt(kms, bytes(changed))
    for size in range(1, len(blob), 7):
        with pytest.raises(InvalidCiphertextError):
            decrypt(kms, blob[:size])


def test_a_blob_under_another_keys_name_does_not_decrypt(kms: MemoryKms) -> None:
    one, other = kms.new_key(), kms.new_key()
    blob = decode_ciphertext_blob(encrypt(kms, one))
    forged = decode_ciphertext_blob(encrypt(kms, other))
    moved = encode_ciphertext_blob(replace(forged, sealed=blob.sealed))
    with pytest.raises(InvalidCiphertextError):
        decrypt(kms, moved)
    mixed = encode_ciphertext_blob(replace(blob, key_id=other))
    with pytest.raises(InvalidCiphertextError, match="material that its key lacks"):
        decrypt(kms, mixed)


def test_old_material_decrypts_and_the_newest_encrypts(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    old = encrypt(kms, key_id)
    with kms.catalog.changing() as change:
        key = get_key(change, key_id)
        assert key is not None
        wrapped = kms.keystore.generate_material()
        newer = KeyMaterial(material_id="ab" * 32, wrapped=wrapped, created_at=0)
        put_key(change, replace(key, materials=(*key.materials, newer)))
    assert decode_ciphertext_blob(encrypt(kms, key_id)).material_id == "ab" * 32
    assert decrypt(kms, old) == b"secret"


def test_a_ciphertext_of_another_region_does_not_decrypt(kms: MemoryKms) -> None:
    blob = encrypt(kms, kms.new_key())
    elsewhere = kms.service.scope(ACCOUNT, "eu-west-1")
    request = DecryptRequest(ciphertext_blob=blob, encryption_context=CONTEXT)
    with pytest.raises(AccessDeniedError, match="does not exist in this region"):
        elsewhere.perform(ROOT, request)


def test_plaintexts_that_nobody_gets_are_wiped(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    plaintexts: list[bytearray] = []
    real = kms.keystore.encrypt

    def watched(material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        assert any(plaintext)
        plaintexts.append(plaintext)
        return real(material, plaintext=plaintext, aad=aad)

    monkeypatch.setattr(kms.keystore, "encrypt", watched)
    requests: list[Request[Any]] = [
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, number_of_bytes=64),
        ReEncryptRequest(
            ciphertext_blob=blob, source_encryption_context=CONTEXT, destination_key_id=key_id
        ),
    ]
    for request in requests:
        kms.service.perform(ROOT, request)
    assert plaintexts == [bytes(64), bytes(len(b"secret"))]


def test_the_key_that_is_named_must_be_the_right_one(kms: MemoryKms) -> None:
    one, other = kms.new_key(), kms.new_key()
    blob = encrypt(kms, one)
    with pytest.raises(IncorrectKeyError) as raised:
        decrypt(kms, blob, key=other)
    assert str(raised.value) == (
        "The key ID in the request does not identify a CMK that can perform this operation."
    )
    with pytest.raises(KeyNotFoundError):
        decrypt(kms, blob, key="alias/nothing")


def test_unknown_and_forbidden_keys_look_alike(kms: MemoryKms) -> None:
    blob = encrypt(kms, kms.new_key())
    unknown = encode_ciphertext_blob(
        replace(decode_ciphertext_blob(blob), key_id="00112233-4455-6677-8899-aabbccddeeff")
    )
    answers = set()
    for one, caller in ((blob, USER), (blob, STRANGER), (unknown, USER), (unknown, ROOT)):
        with pytest.raises(AccessDeniedError) as raised:
            decrypt(kms, one, caller=caller)
        answers.add(str(raised.value))
    (answer,) = answers
    assert answer == (
        "The ciphertext refers to a customer master key that does not exist, does not exist in "
        "this region, or you are not allowed to access."
    )


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (KeyState.DISABLED, KeyDisabledError, "is disabled."),
        (KeyState.PENDING_DELETION, InvalidStateError, "is pending deletion."),
        (KeyState.PENDING_IMPORT, InvalidStateError, "is pending import."),
    ],
)
def test_keys_in_other_states(
    kms: MemoryKms, state: KeyState, error: type[KmsError], text: str
) -> None:
    usable, key_id = kms.new_key(), kms.new_key()
    blob, other = encrypt(kms, key_id), encrypt(kms, usable)
    set_state(kms, key_id, state)
    service = kms.service
    requests: list[Callable[[], object]] = [
        lambda: encrypt(kms, key_id),
        lambda: decrypt(kms, blob),
        lambda: service.perform(ROOT, GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256")),
        lambda: service.perform(
            ROOT,
            ReEncryptRequest(
                ciphertext_blob=blob, source_encryption_context=CONTEXT, destination_key_id=usable
            ),
        ),
        lambda: service.perform(
            ROOT,
            ReEncryptRequest(
                ciphertext_blob=other, source_encryption_context=CONTEXT, destination_key_id=key_id
            ),
        ),
    ]
    for request in requests:
        with pytest.raises(error, match=text):
            request()


@pytest.mark.parametrize(("size", "spec"), [(64, None), (1024, None), (None, "AES_256")])
def test_data_keys(kms: MemoryKms, size: int | None, spec: str | None) -> None:
    key_id = kms.new_key()
    response = kms.service.perform(
        ROOT,
        GenerateDataKeyRequest(
            key_id=key_id, number_of_bytes=size, key_spec=spec, encryption_context=CONTEXT
        ),
    )
    assert len(response.plaintext) == (size or 32)
    assert decrypt(kms, response.ciphertext_blob) == response.plaintext
    hidden = kms.service.perform(
        ROOT,
        GenerateDataKeyWithoutPlaintextRequest(
            key_id=key_id, number_of_bytes=size, key_spec=spec, encryption_context=CONTEXT
        ),
    )
    other = decrypt(kms, hidden.ciphertext_blob)
    assert len(other) == (size or 32)
    assert other not in (response.plaintext, bytes(len(other)))


@pytest.mark.parametrize(("size", "spec"), [(None, None), (32, "AES_256")])
def test_a_data_key_has_one_size(kms: MemoryKms, size: int | None, spec: str | None) -> None:
    request = GenerateDataKeyRequest(key_id=kms.new_key(), number_of_bytes=size, key_spec=spec)
    with pytest.raises(KmsValidationError, match="either number of bytes or key spec"):
        kms.service.perform(ROOT, request)


def test_re_encrypting(kms: MemoryKms) -> None:
    one, other = kms.new_key(), kms.new_key()
    response = kms.service.perform(
        ROOT,
        ReEncryptRequest(
            ciphertext_blob=encrypt(kms, one),
            source_encryption_context=CONTEXT,
            destination_key_id=other,
            destination_encryption_context={"new": "context"},
        ),
    )
    assert response.source_key_id.endswith(one)
    assert response.key_id.endswith(other)
    assert decrypt(kms, response.ciphertext_blob, {"new": "context"}, key=other) == b"secret"


def test_random_bytes(kms: MemoryKms) -> None:
    response = kms.service.perform(ROOT, GenerateRandomRequest(number_of_bytes=32))
    assert len(response.plaintext) == 32
    with pytest.raises(KmsValidationError, match=r"NumberOfBytes is required\."):
        kms.service.perform(ROOT, GenerateRandomRequest())
    with pytest.raises(AccessDeniedError):
        kms.service.perform(USER, GenerateRandomRequest(number_of_bytes=1))


def test_algorithms_of_asymmetric_keys(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id, context={})
    text = "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."
    oaep = "RSAES_OAEP_SHA_256"
    requests: list[Request[Any]] = [
        EncryptRequest(key_id=key_id, plaintext=bytearray(1), encryption_algorithm=oaep),
        DecryptRequest(key_id=key_id, ciphertext_blob=blob, encryption_algorithm=oaep),
        ReEncryptRequest(
            ciphertext_blob=blob,
            source_key_id=key_id,
            destination_key_id=key_id,
            source_encryption_algorithm=oaep,
        ),
        ReEncryptRequest(
            ciphertext_blob=blob, destination_key_id=key_id, destination_encryption_algorithm=oaep
        ),
    ]
    for request in requests:
        with pytest.raises(InvalidKeyUsageError) as raised:
            kms.service.perform(ROOT, request)
        assert str(raised.value) == text
    with pytest.raises(KmsValidationError, match="A key ID is required"):
        kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob, encryption_algorithm=oaep))


def test_members_of_the_answers(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    call = kms.service.call

    def members(operation: str, **request: object) -> dict[str, object]:
        answer = call(ROOT, operation, request)
        blobs = ("CiphertextBlob", "Plaintext")
        return {k: "blob" if k in blobs else v for k, v in answer.items()}

    material_id = call(ROOT, "DescribeKey", {"KeyId": key_id})["KeyMetadata"][
        "CurrentKeyMaterialId"
    ]
    sealed = call(ROOT, "Encrypt", {"KeyId": key_id, "Plaintext": "AA=="})["CiphertextBlob"]
    algorithm = "SYMMETRIC_DEFAULT"
    assert members("Encrypt", KeyId=key_id, Plaintext="AA==") == {
        "CiphertextBlob": "blob",
        "KeyId": arn,
        "EncryptionAlgorithm": algorithm,
    }
    assert members("Decrypt", CiphertextBlob=sealed) == {
        "KeyId": arn,
        "Plaintext": "blob",
        "EncryptionAlgorithm": algorithm,
        "KeyMaterialId": material_id,
    }
    hidden = {"CiphertextBlob": "blob", "KeyId": arn, "KeyMaterialId": material_id}
    shown = hidden | {"Plaintext": "blob"}
    assert members("GenerateDataKey", KeyId=key_id, KeySpec="AES_128") == shown
    assert members("GenerateDataKeyWithoutPlaintext", KeyId=key_id, NumberOfBytes=64) == hidden
    assert members("ReEncrypt", CiphertextBlob=sealed, DestinationKeyId=key_id) == {
        "CiphertextBlob": "blob",
        "SourceKeyId": arn,
        "KeyId": arn,
        "SourceEncryptionAlgorithm": algorithm,
        "DestinationEncryptionAlgorithm": algorithm,
        "SourceKeyMaterialId": material_id,
        "DestinationKeyMaterialId": material_id,
    }
    assert members("GenerateRandom", NumberOfBytes=1) == {"Plaintext": "blob"}


def test_who_may_not_use_a_key_learns_nothing_of_it(kms: MemoryKms) -> None:
    """Neither its state, nor whether a ciphertext is of another key."""
    key_id, other = kms.new_key(), kms.new_key()
    blob = encrypt(kms, other)
    kms.service.perform(ROOT, DisableKeyRequest(key_id=key_id))
    asked: list[Request[Any]] = [
        EncryptRequest(key_id=key_id, plaintext=bytearray(1)),
        GenerateDataKeyRequest(key_id=key_id, number_of_bytes=32),
        DecryptRequest(ciphertext_blob=blob, key_id=key_id, encryption_context=CONTEXT),
    ]
    for request in asked:
        with pytest.raises(AccessDeniedError):
            kms.service.perform(USER, request)


def test_a_dry_run_does_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    before = kms.keystore.encryptions
    with pytest.raises(DryRunSucceededError) as raised:
        kms.service.perform(
            ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(1), dry_run=True)
        )
    assert str(raised.value) == ("The request would have succeeded, but the DryRun option is set.")
    with pytest.raises(DryRunSucceededError):
        kms.service.perform(
            ROOT, DecryptRequest(ciphertext_blob=blob, encryption_context=CONTEXT, dry_run=True)
        )
    with pytest.raises(InvalidCiphertextError):
        kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob, dry_run=True))
    moved = ReEncryptRequest(ciphertext_blob=blob, destination_key_id=key_id, dry_run=True)
    with pytest.raises(InvalidCiphertextError):
        kms.service.perform(ROOT, moved)
    with pytest.raises(DryRunSucceededError):
        kms.service.perform(ROOT, msgspec.structs.replace(moved, source_encryption_context=CONTEXT))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(
            USER, EncryptRequest(key_id=key_id, plaintext=bytearray(1), dry_run=True)
        )
    kms.service.perform(ROOT, DisableKeyRequest(key_id=key_id))
    with pytest.raises(KeyDisabledError):
        kms.service.perform(
            ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(1), dry_run=True)
        )
    assert kms.keystore.encryptions == before


def test_the_default_key_works_through_the_volume_service_only(kms: MemoryKms) -> None:
    request = GenerateDataKeyWithoutPlaintextRequest(
        key_id="alias/aws/ebs", number_of_bytes=64, encryption_context=CONTEXT
    )
    with pytest.raises(AccessDeniedError):
        kms.service.perform(ROOT, request)
    blob = kms.service.perform(VOLUMES, request).ciphertext_blob
    assert len(decrypt(kms, blob, caller=VOLUMES)) == 64
    with pytest.raises(AccessDeniedError):
        decrypt(kms, blob)


def calls_leased(kms: MemoryKms, blob: bytes) -> int:
    with kms.catalog.reading() as view:
        item = view.get(CALLS, decode_ciphertext_blob(blob).material_id)
    assert item is not None
    return msgspec.json.decode(item.body, type=Calls).leased


def test_encryptions_are_counted_before_they_happen(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    for used in range(1, 200):
        assert used <= calls_leased(kms, blob)
        encrypt(kms, key_id)
    assert calls_leased(kms, blob) == 16 + 16 * 8 + 16 * 64


def test_a_used_up_material_encrypts_no_more(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    blob = encrypt(kms, key_id)
    with kms.catalog.changing() as change:
        body = msgspec.json.encode(Calls(leased=MAX_CALLS - 5))
        material_id = decode_ciphertext_blob(blob).material_id
        change.put(Item(kind=CALLS, id=material_id, body=body))
    for _ in range(15 + 5):
        encrypt(kms, key_id)
    others: list[Request[Any]] = [
        EncryptRequest(key_id=key_id, plaintext=bytearray(1)),
        GenerateDataKeyRequest(key_id=key_id, number_of_bytes=32),
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, number_of_bytes=32),
        ReEncryptRequest(
            ciphertext_blob=blob, source_encryption_context=CONTEXT, destination_key_id=key_id
        ),
    ]
    for request in others:
        with pytest.raises(LimitExceededError, match="must be rotated"):
            kms.service.perform(ROOT, request)
    assert decrypt(kms, blob) == b"secret"
    assert calls_leased(kms, blob) == MAX_CALLS
