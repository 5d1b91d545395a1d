"""Importing key material, from the customer's wrapping to an encryption under it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, STRANGER, MemoryKms
from tests.kms.importing import (
    ALGORITHMS,
    KEY_ID,
    MATERIAL,
    import_material,
    parameters,
    put_external_key,
    wrap,
)
from volcrypt.errors import (
    AccessDeniedError,
    ExpiredImportTokenError,
    HsmUnavailableError,
    IncorrectKeyMaterialError,
    InvalidCiphertextError,
    InvalidImportTokenError,
    InvalidStateError,
    KmsError,
    KmsValidationError,
    UnsupportedOperationError,
)
from volcrypt.kms import import_operations
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.import_operations import remove_expired_imports
from volcrypt.kms.import_wrapping import generate_key_pair, unwrap
from volcrypt.kms.keyring import IMPORTS, get_key
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.imports import (
    DOES_NOT_EXPIRE,
    EXISTING,
    EXPIRES,
    NEW,
    DeleteImportedKeyMaterialRequest,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
)
from volcrypt.kms.model import KeyState, KmsKey
from volcrypt.kms.rewrap import is_rewrap_due
from volcrypt.kms.service import KmsService

OTHER_ID = "22222222-2222-4333-8444-555555555555"
ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{KEY_ID}"
DAY = 86_400.0


@pytest.fixture
def external(kms: MemoryKms) -> MemoryKms:
    """With a key that waits for its material."""
    put_external_key(kms.catalog)
    return kms


def key_of(kms: MemoryKms, key_id: str = KEY_ID) -> KmsKey:
    with kms.catalog.reading() as view:
        key = get_key(view, key_id)
    assert key is not None
    return key


def request_with(
    given: GetParametersForImportResponse, encrypted: bytes | None = None, **members: object
) -> ImportKeyMaterialRequest:
    if encrypted is None:
        encrypted = wrap(MATERIAL, given.public_key, "RSAES_OAEP_SHA_256")
    plain = ImportKeyMaterialRequest(
        key_id=KEY_ID,
        import_token=given.import_token,
        encrypted_key_material=encrypted,
        expiration_model=DOES_NOT_EXPIRE,
    )
    return msgspec.structs.replace(plain, **members)


def encrypted_by(service: KmsService, text: bytes = b"text") -> bytes:
    request = EncryptRequest(key_id=KEY_ID, plaintext=bytearray(text))
    return service.perform(ROOT, request).ciphertext_blob


def decrypted_by(service: KmsService, blob: bytes) -> bytes:
    return bytes(service.perform(ROOT, DecryptRequest(ciphertext_blob=blob)).plaintext)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_imported_material_encrypts(external: MemoryKms, algorithm: str) -> None:
    material_id = import_material(external.service, algorithm=algorithm)
    key = key_of(external)
    assert key.state is KeyState.ENABLED
    assert key.current_material.material_id == material_id
    assert len(material_id) == 64
    assert decrypted_by(external.service, encrypted_by(external.service)) == b"text"
    # It is the very key that was given.
    store, wrapped = external.keystore, key.current_material.wrapped
    assert wrapped is not None
    sealed = store.encrypt(wrapped, plaintext=bytearray(b"text"), aad=b"")
    assert AESGCM(MATERIAL).decrypt(sealed[:12], sealed[12:], b"") == b"text"


@pytest.mark.parametrize(("spec", "bits"), [("RSA_2048", 2048), ("RSA_3072", 3072)])
def test_parameters(external: MemoryKms, spec: str, bits: int) -> None:
    given = external.service.perform(
        ROOT,
        GetParametersForImportRequest(
            key_id=ARN, wrapping_algorithm="RSAES_OAEP_SHA_256", wrapping_key_spec=spec
        ),
    )
    assert given.key_id == ARN
    assert given.parameters_valid_to == int(NOW) + DAY
    assert getattr(load_der_public_key(given.public_key), "key_size", None) == bits
    record = external.records()[-1]
    assert (record.event_name, record.read_only, record.error_code) == (
        "GetParametersForImport",
        True,
        None,
    )


@pytest.mark.parametrize(
    ("algorithm", "spec"),
    [("RSAES_PKCS1_V1_5", "RSA_2048"), ("SM2PKE", "SM2"), ("RSAES_OAEP_SHA_256", "SM2")],
)
def test_other_ways_of_wrapping_are_not_supported(
    external: MemoryKms, algorithm: str, spec: str
) -> None:
    with pytest.raises(UnsupportedOperationError):
        external.service.perform(
            ROOT,
            GetParametersForImportRequest(
                key_id=KEY_ID, wrapping_algorithm=algorithm, wrapping_key_spec=spec
            ),
        )


def test_material_of_the_hsm_is_not_imported_over(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    text = f"{ARN.replace(KEY_ID, key_id)} origin is AWS_KMS which is not valid for this operation."
    with pytest.raises(UnsupportedOperationError) as raised:
        parameters(kms.service, key_id)
    assert str(raised.value) == text
    with pytest.raises(UnsupportedOperationError):
        kms.service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=key_id))


def test_who_may_not_learns_nothing(external: MemoryKms) -> None:
    given = parameters(external.service)
    requests: tuple[Request[Any], ...] = (
        GetParametersForImportRequest(
            key_id=ARN, wrapping_algorithm="SM2PKE", wrapping_key_spec="SM2"
        ),
        request_with(given, key_id=ARN, import_token=b"x"),
        DeleteImportedKeyMaterialRequest(key_id=ARN),
    )
    for request in requests:
        with pytest.raises(AccessDeniedError):
            external.service.perform(STRANGER, request)
    assert key_of(external).state is KeyState.PENDING_IMPORT


def test_nothing_secret_is_recorded_or_kept(external: MemoryKms) -> None:
    given = parameters(external.service)
    with external.catalog.reading() as view:
        (item,) = view.items(IMPORTS)
    assert b"PRIVATE" not in item.body
    request = request_with(given, key_material_description="from the safe")
    external.service.perform(ROOT, request)
    record = external.records()[-1]
    assert record.request_parameters == {
        "keyId": KEY_ID,
        "expirationModel": DOES_NOT_EXPIRE,
        "keyMaterialDescription": "from the safe",
    }
    assert record.response_elements == {"keyId": ARN}
    with external.catalog.reading() as view:
        assert view.items(IMPORTS) == []
    files = [path.read_bytes() for path in external.directory.rglob("*") if path.is_file()]
    assert files
    assert not any(MATERIAL in data or MATERIAL.hex().encode() in data for data in files)


# ------------------------------------------------------------------ tokens


def test_a_token_works_once(external: MemoryKms) -> None:
    given = parameters(external.service)
    external.service.perform(ROOT, request_with(given))
    with pytest.raises(InvalidImportTokenError, match="used, or replaced"):
        external.service.perform(ROOT, request_with(given))


def test_a_refused_import_leaves_the_token_usable(external: MemoryKms) -> None:
    given = parameters(external.service)
    with pytest.raises(KmsValidationError):
        external.service.perform(ROOT, request_with(given, expiration_model=None))
    with pytest.raises(InvalidCiphertextError):
        external.service.perform(ROOT, request_with(given, encrypted=bytes(256)))
    external.service.perform(ROOT, request_with(given))


def test_nothing_is_imported_into_a_key_that_is_about_to_be_deleted(external: MemoryKms) -> None:
    given = parameters(external.service)
    external.service.perform(ROOT, ScheduleKeyDeletionRequest(key_id=KEY_ID))
    with pytest.raises(InvalidStateError, match="pending deletion"):
        external.service.perform(ROOT, request_with(given))
    assert key_of(external).materials == ()


def test_a_second_token_replaces_the_first(external: MemoryKms) -> None:
    first, second = parameters(external.service), parameters(external.service)
    with pytest.raises(InvalidImportTokenError):
        external.service.perform(ROOT, request_with(first))
    external.service.perform(ROOT, request_with(second))


def test_a_token_is_for_its_key_only(external: MemoryKms) -> None:
    put_external_key(external.catalog, OTHER_ID)
    mine = parameters(external.service)
    parameters(external.service, OTHER_ID)
    with pytest.raises(InvalidImportTokenError, match="another key's"):
        external.service.perform(ROOT, request_with(mine, key_id=OTHER_ID))


def test_a_changed_token_is_invalid(external: MemoryKms) -> None:
    given = parameters(external.service)
    token = given.import_token
    for place in range(0, len(token), 7):
        changed = bytearray(token)
        changed[place] ^= 1
        with pytest.raises(InvalidImportTokenError):
            external.service.perform(ROOT, request_with(given, import_token=bytes(changed)))
    for wrong in (token[:-1], token + b"x", b"x"):
        with pytest.raises(InvalidImportTokenError):
            external.service.perform(ROOT, request_with(given, import_token=wrong))
    external.service.perform(ROOT, request_with(given))


def test_a_token_expires_and_its_private_key_goes(
    external: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parameters(external.service)
    with external.catalog.changing() as change:
        remove_expired_imports(change, now=NOW)
    monkeypatch.setattr(external.service, "_clock", lambda: given.parameters_valid_to)
    with pytest.raises(ExpiredImportTokenError):
        external.service.perform(ROOT, request_with(given))
    with external.catalog.changing() as change:
        assert len(change.items(IMPORTS)) == 1
        remove_expired_imports(change, now=NOW + DAY)
    with external.catalog.reading() as view:
        assert view.items(IMPORTS) == []


def test_a_key_that_is_about_to_be_deleted_gets_no_token(
    external: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making the key pair takes its time."""

    def slowly(key_spec: str) -> tuple[bytes, bytearray]:
        external.service.perform(ROOT, ScheduleKeyDeletionRequest(key_id=KEY_ID))
        return generate_key_pair(key_spec)

    monkeypatch.setattr(import_operations, "generate_key_pair", slowly)
    with pytest.raises(InvalidStateError, match="pending deletion"):
        parameters(external.service)
    with external.catalog.reading() as view:
        assert view.items(IMPORTS) == []


def test_secrets_on_their_way_are_wiped(
    external: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_sealed = external.keystore.open_sealed
    secrets: list[bytearray] = []

    def kept(secret: bytearray) -> bytearray:
        assert any(secret)
        secrets.append(secret)
        return secret

    def generated(key_spec: str) -> tuple[bytes, bytearray]:
        public_key, private_key = generate_key_pair(key_spec)
        return public_key, kept(private_key)

    monkeypatch.setattr(import_operations, "generate_key_pair", generated)
    monkeypatch.setattr(import_operations, "unwrap", lambda *a, **n: kept(unwrap(*a, **n)))
    monkeypatch.setattr(external.keystore, "open_sealed", lambda *a: kept(open_sealed(*a)))
    import_material(external.service)
    assert len(secrets) == 3
    assert not any(map(any, secrets))


# ------------------------------------------------------------------ what is in it


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_not_wrapped_so_is_an_invalid_ciphertext(
    external: MemoryKms, algorithm: str
) -> None:
    given = parameters(external.service, algorithm=algorithm)
    right = wrap(MATERIAL, given.public_key, algorithm)
    others = [wrap(MATERIAL, given.public_key, a) for a in ALGORITHMS if a != algorithm]
    flipped = bytearray(right)
    flipped[-1] ^= 1
    for wrong in (*others, bytes(flipped), right[:-1], right[:10], right + bytes(8), b"x"):
        with pytest.raises(InvalidCiphertextError):
            external.service.perform(ROOT, request_with(given, wrong))
    assert key_of(external).materials == ()


@pytest.mark.parametrize("size", [1, 16, 24, 31, 33, 64])
@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"])
def test_material_has_32_bytes(external: MemoryKms, algorithm: str, size: int) -> None:
    given = parameters(external.service, algorithm=algorithm)
    wrapped = wrap(bytes(size), given.public_key, algorithm)
    with pytest.raises(IncorrectKeyMaterialError):
        external.service.perform(ROOT, request_with(given, wrapped))
    assert external.records()[-1].error_code == "IncorrectKeyMaterialException"


def test_the_id_is_of_key_and_material(external: MemoryKms) -> None:
    put_external_key(external.catalog, OTHER_ID)
    first = import_material(external.service)
    assert import_material(external.service) == first
    assert import_material(external.service, key_id=OTHER_ID) != first


def test_the_same_material_comes_back(external: MemoryKms) -> None:
    first = import_material(external.service, description="first")
    blob = encrypted_by(external.service)
    deleted = external.service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID))
    assert (deleted.key_id, deleted.key_material_id) == (ARN, first)
    assert key_of(external).state is KeyState.PENDING_IMPORT
    with pytest.raises(InvalidStateError) as raised:
        encrypted_by(external.service)
    assert str(raised.value) == f"{ARN} is pending import."
    with pytest.raises(IncorrectKeyMaterialError):
        import_material(external.service, bytes(32))
    with pytest.raises(IncorrectKeyMaterialError):
        import_material(external.service, import_type=NEW)
    assert import_material(external.service, material_id=first) == first
    assert key_of(external).state is KeyState.ENABLED
    assert key_of(external).current_material.description == "first"
    assert decrypted_by(external.service, blob) == b"text"


def test_a_first_import_cannot_be_of_existing_material(external: MemoryKms) -> None:
    with pytest.raises(IncorrectKeyMaterialError):
        import_material(external.service, import_type=EXISTING)
    with pytest.raises(IncorrectKeyMaterialError):
        import_material(external.service, import_type=EXISTING, material_id="0" * 64)


def test_new_material_waits_for_its_rotation(external: MemoryKms) -> None:
    first = import_material(external.service)
    second = import_material(external.service, bytes(32), import_type=NEW)
    key = key_of(external)
    assert key.current_material.material_id == first
    assert key.pending_material is not None
    assert key.pending_material.material_id == second
    assert key.state is KeyState.ENABLED
    # The same again is an import of existing material; a third has no place.
    assert import_material(external.service, bytes(32)) == second
    with pytest.raises(InvalidStateError) as raised:
        import_material(external.service, b"\xff" * 32, import_type=NEW)
    assert str(raised.value).startswith("New key material (id: ")
    assert str(raised.value).endswith(
        f") cannot be imported into KMS key {ARN}, because another key material (id: {second}) is "
        "pending rotation."
    )


def test_pending_material_goes_without_a_trace(external: MemoryKms) -> None:
    import_material(external.service)
    second = import_material(external.service, bytes(32), import_type=NEW)
    request = DeleteImportedKeyMaterialRequest(key_id=KEY_ID, key_material_id=second)
    assert external.service.perform(ROOT, request).key_material_id == second
    assert key_of(external).pending_material is None
    assert key_of(external).state is KeyState.ENABLED
    import_material(external.service, b"\xff" * 32, import_type=NEW)


def test_a_material_id_must_be_the_materials(external: MemoryKms) -> None:
    first = import_material(external.service)
    second = import_material(external.service, bytes(32), import_type=NEW)
    with pytest.raises(IncorrectKeyMaterialError):
        import_material(external.service, material_id=second)
    with pytest.raises(KmsValidationError):
        import_material(external.service, import_type=NEW, material_id=first)
    with pytest.raises(KmsError, match="is not associated with"):
        external.service.perform(
            ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID, key_material_id="0" * 64)
        )


# ------------------------------------------------------------------ expiry


@pytest.mark.parametrize(
    ("model", "valid_to", "text"),
    [
        (None, None, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"),
        (EXPIRES, None, "A validTo date must be set"),
        (EXPIRES, NOW, "must be in the future"),
        (EXPIRES, NOW - 1, "must be in the future"),
        (EXPIRES, NOW + 365 * DAY + 1, "at most 365 days"),
        (EXPIRES, float("nan"), "must be in the future"),
        (DOES_NOT_EXPIRE, NOW + 60, "cannot be set"),
    ],
)
def test_wrong_dates(
    external: MemoryKms, model: str | None, valid_to: float | None, text: str
) -> None:
    given = parameters(external.service)
    with pytest.raises(KmsValidationError, match=text):
        external.service.perform(
            ROOT, request_with(given, expiration_model=model, valid_to=valid_to)
        )


@pytest.mark.parametrize("left", [60.0, 365 * DAY])
def test_material_with_a_date(external: MemoryKms, left: float) -> None:
    given = parameters(external.service)
    external.service.perform(
        ROOT, request_with(given, expiration_model=EXPIRES, valid_to=NOW + left)
    )
    expiry = key_of(external).current_material.expiry
    assert expiry is not None
    assert (expiry.date, expiry.observed_until) == (NOW + left, left)
    # The same material without a date takes the date away.
    import_material(external.service)
    assert key_of(external).current_material.expiry is None


def test_deleting_makes_a_rewrapping_due(external: MemoryKms) -> None:
    external.service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID))
    with external.catalog.reading() as view:
        assert not is_rewrap_due(view)
    import_material(external.service)
    external.service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID))
    with external.catalog.reading() as view:
        assert is_rewrap_due(view)


def test_an_hsm_that_fails_in_an_import_is_recorded(external: MemoryKms) -> None:
    given = parameters(external.service)
    external.keystore.is_dead = True
    with pytest.raises(HsmUnavailableError):
        external.service.perform(ROOT, request_with(given))
    external.keystore.is_dead = False
    assert external.records()[-1].error_code == "KeyUnavailableException"
    external.service.perform(ROOT, request_with(given))


def test_on_a_real_token(memory_path: Path) -> None:
    create_kms(memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION, pin=None)
    with open_kms(
        memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION
    ) as service:
        put_external_key(service._catalog)
        import_material(service, algorithm="RSA_AES_KEY_WRAP_SHA_256")
        blob = encrypted_by(service)
        service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID))
        import_material(service, algorithm="RSAES_OAEP_SHA_1")
        assert decrypted_by(service, blob) == b"text"
