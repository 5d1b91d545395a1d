"""A deletion is final: no older catalogue, no file and no handle gives the material back."""

import errno
import gc
import os
import shutil
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, MemoryKms
from tests.kms.importing import (
    KEY_ID,
    MATERIAL,
    import_material,
    parameters,
    put_external_key,
    wrap,
)
from volcrypt.errors import (
    HsmUnavailableError,
    IntegrityError,
    KmsInternalError,
    VolcryptError,
)
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.home_token import HomeToken
from volcrypt.kms.keyring import KEYS, decode_key, get_key, put_key
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.imports import (
    DOES_NOT_EXPIRE,
    NEW,
    DeleteImportedKeyMaterialRequest,
    ImportKeyMaterialRequest,
)
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.model import KmsKey, WrappedMaterial
from volcrypt.kms.performer import Performer
from volcrypt.kms.rewrap import is_rewrap_due, mark_rewrap_due
from volcrypt.kms.sealing import Item
from volcrypt.kms.service import KmsService


def new_key(service: KmsService) -> str:
    return service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id


def key_of(service: KmsService, key_id: str) -> KmsKey:
    with service._catalog.reading() as view:
        key = get_key(view, key_id)
    assert key is not None
    return key


def wrapped_of(service: KmsService, key_id: str) -> WrappedMaterial:
    wrapped = key_of(service, key_id).current_material.wrapped
    assert wrapped is not None
    return wrapped


def encrypted_by(service: KmsService, key_id: str) -> bytes:
    request = EncryptRequest(key_id=key_id, plaintext=bytearray(b"text"))
    return service.perform(ROOT, request).ciphertext_blob


def decrypted_by(service: KmsService, blob: bytes) -> bytes:
    return bytes(service.perform(ROOT, DecryptRequest(ciphertext_blob=blob)).plaintext)


def delete_key(service: KmsService, key_id: str) -> None:
    """What the end of a waiting period does to a key."""
    with service._catalog.changing() as change:
        (item,) = (item for item in change.items(KEYS) if key_id in item.id)
        change.delete(KEYS, item.id)
        mark_rewrap_due(change, decode_key(item))


def rewrap(service: KmsService) -> None:
    service.rewrap_all()


def is_due(service: KmsService) -> bool:
    with service._catalog.reading() as view:
        return is_rewrap_due(view)


@pytest.fixture
def home(memory_path: Path) -> Path:
    create_kms(memory_path / "kms", memory_path / "run", account=ACCOUNT, region=REGION, pin=None)
    return memory_path


def with_older_catalogue(home: Path, older: Path, name: str) -> Path:
    """The home as somebody would make it who has a backup of everything but the token."""
    restored = home / name
    shutil.copytree(older, restored / "kms")
    shutil.rmtree(restored / "kms" / "token")
    shutil.copytree(home / "kms" / "token", restored / "kms" / "token")
    return restored


def test_an_older_catalogue_revives_nothing(home: Path) -> None:
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        kept, deleted = new_key(service), new_key(service)
        blobs = {key_id: encrypted_by(service, key_id) for key_id in (kept, deleted)}
    older = home / "older"
    shutil.copytree(home / "kms", older)
    # The control: as long as nothing was rewrapped, the older catalogue gives everything back.
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        delete_key(service, deleted)
    restored = with_older_catalogue(home, older, "control")
    with open_kms(restored / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        assert decrypted_by(service, blobs[deleted]) == b"text"
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        rewrap(service)
        assert decrypted_by(service, blobs[kept]) == b"text"
        assert not is_due(service)
    restored = with_older_catalogue(home, older, "restored")
    with open_kms(restored / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        for blob in blobs.values():
            with pytest.raises(IntegrityError, match="which it does not have"):
                decrypted_by(service, blob)
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        assert decrypted_by(service, blobs[kept]) == b"text"


def test_no_handle_of_the_material_stays(home: Path) -> None:
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        kept, deleted = new_key(service), new_key(service)
        for key_id in (kept, deleted):
            encrypted_by(service, key_id)
        token = service._keystore
        assert isinstance(token, HomeToken)
        gone = wrapped_of(service, deleted)
        assert gone in token._connected()._handles
        delete_key(service, deleted)
        rewrap(service)
        assert gone not in token._connected()._handles
        assert gone not in token._successors
        with pytest.raises(IntegrityError):
            token.encrypt(gone, plaintext=bytearray(1), aad=b"")


def files_with(directory: Path, materials: list[WrappedMaterial]) -> set[str]:
    """The files in which any part of wrapped material lies, as bytes or as JSON has them."""
    pieces = set()
    for material in materials:
        text = b64encode(material.blob)
        pieces |= {text[start : start + 16] for start in range(len(text) - 16)}
        pieces |= {material.blob[start : start + 12] for start in range(len(material.blob) - 12)}
    found = set()
    for path in directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            windows = {data[at : at + size] for size in (12, 16) for at in range(len(data))}
            if pieces & windows:
                found.add(path.name)
    return found


def test_wrapped_material_is_in_no_file_any_more(kms: MemoryKms) -> None:
    ids = [kms.new_key() for _ in range(60)]
    # Rows of several sizes, so that pages are split, merged and overflow.
    for number, key_id in enumerate(ids[::3]):
        key = replace(key_of(kms.service, key_id), description="x" * number * 150)
        with kms.catalog.changing() as change:
            put_key(change, key)
    before = [wrapped_of(kms.service, key_id) for key_id in ids]
    for key_id in ids[::2]:
        delete_key(kms.service, key_id)
    assert files_with(kms.directory, before) == {"catalog.sqlite3", "catalog.sqlite3-journal"}
    rewrap(kms.service)
    assert files_with(kms.directory, before) == set()
    after = [wrapped_of(kms.service, key_id) for key_id in ids[1::2]]
    assert "catalog.sqlite3" in files_with(kms.directory, after)


def test_wrapped_material_is_in_no_object_any_more(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    wrapped = b64encode(wrapped_of(kms.service, key_id).blob)

    def is_kept() -> bool:
        return any(wrapped in each.body for each in gc.get_objects() if isinstance(each, Item))

    assert is_kept()
    delete_key(kms.service, key_id)
    rewrap(kms.service)
    assert not is_kept()


def test_a_rewrapping_is_recorded_and_happens_once(kms: MemoryKms) -> None:
    kept, deleted = kms.new_key(), kms.new_key()
    rewrap(kms.service)
    assert "RewrapKeyMaterial" not in {record.event_name for record in kms.records()}
    delete_key(kms.service, deleted)
    rewrap(kms.service)
    rewrap(kms.service)
    (record,) = (r for r in kms.records() if r.event_name == "RewrapKeyMaterial")
    assert record.event_type == "AwsServiceEvent"
    assert wrapped_of(kms.service, kept).wrapping_key == kms.keystore.generation() == 2


def test_everything_that_is_wrapped_survives(kms: MemoryKms) -> None:
    put_external_key(kms.catalog)
    import_material(kms.service)
    import_material(kms.service, bytes(32), import_type=NEW)
    blob = encrypted_by(kms.service, KEY_ID)
    given = parameters(kms.service)
    gone = kms.new_key()
    delete_key(kms.service, gone)
    rewrap(kms.service)
    key = key_of(kms.service, KEY_ID)
    assert key.pending_material is not None
    for material in (*key.materials, key.pending_material):
        assert material.wrapped is not None
        kms.keystore.encrypt(material.wrapped, plaintext=bytearray(1), aad=b"")
    assert decrypted_by(kms.service, blob) == b"text"
    # The private key of the import that is under way opens as well.
    kms.service.perform(
        ROOT,
        ImportKeyMaterialRequest(
            key_id=KEY_ID,
            import_token=given.import_token,
            encrypted_key_material=wrap(MATERIAL, given.public_key, "RSAES_OAEP_SHA_256"),
            expiration_model=DOES_NOT_EXPIRE,
        ),
    )


def test_deleted_imported_material_is_gone_for_good(kms: MemoryKms) -> None:
    put_external_key(kms.catalog)
    import_material(kms.service)
    wrapped = wrapped_of(kms.service, KEY_ID)
    kms.service.perform(ROOT, DeleteImportedKeyMaterialRequest(key_id=KEY_ID))
    kms.keystore.encrypt(wrapped, plaintext=bytearray(1), aad=b"")
    rewrap(kms.service)
    with pytest.raises(IntegrityError):
        kms.keystore.encrypt(wrapped, plaintext=bytearray(1), aad=b"")
    assert files_with(kms.directory, [wrapped]) == set()


def test_what_another_token_has_wrapped_is_left_alone(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    key = replace(key_of(kms.service, key_id), custom_key_store_id="cks-1")
    with kms.catalog.changing() as change:
        put_key(change, key)
    delete_key(kms.service, kms.new_key())
    rewrap(kms.service)
    assert key_of(kms.service, key_id) == key


def test_a_deletion_between_the_steps_is_not_forgotten(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, first, second = kms.new_key(), kms.new_key(), kms.new_key()
    delete_key(kms.service, first)
    with monkeypatch.context() as patch:
        patch.setattr(kms.keystore, "retire", _refuse)
        with pytest.raises(HsmUnavailableError):
            rewrap(kms.service)
    wrapped = wrapped_of(kms.service, second)
    assert wrapped.wrapping_key == 2
    delete_key(kms.service, second)
    assert is_due(kms.service)
    rewrap(kms.service)
    assert not is_due(kms.service)
    with pytest.raises(IntegrityError):
        kms.keystore.encrypt(wrapped, plaintext=bytearray(1), aad=b"")
    encrypted_by(kms.service, kept)


def test_a_deletion_right_behind_the_first_step_is_not_forgotten(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = kms.new_key(), kms.new_key()
    perform = Performer.perform_by_service

    def with_a_deletion(performer: Performer, operation: str, *rest: Any, **named: Any) -> None:
        perform(performer, operation, *rest, **named)
        delete_key(kms.service, second)

    delete_key(kms.service, first)
    with monkeypatch.context() as patch:
        patch.setattr(Performer, "perform_by_service", with_a_deletion)
        rewrap(kms.service)
    assert is_due(kms.service)


def test_nothing_is_rewrapped_that_is_not_on_record(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    delete_key(kms.service, kms.new_key())
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(KmsInternalError):
        rewrap(kms.service)
    assert kms.keystore.generation() == 1


def test_no_wrapping_key_goes_while_something_needs_it(
    kms: MemoryKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kms.new_key()
    key = key_of(kms.service, kept)
    delete_key(kms.service, kms.new_key())
    with monkeypatch.context() as patch:
        patch.setattr(kms.keystore, "retire", _refuse)
        with pytest.raises(HsmUnavailableError):
            rewrap(kms.service)
    # A row that got there under the older wrapping key, by a bug.
    with kms.catalog.changing() as change:
        put_key(change, key)
    with pytest.raises(IntegrityError, match=r"not under the newest wrapping key"):
        rewrap(kms.service)
    encrypted_by(kms.service, kept)


def _refuse(*, older_than: int) -> None:
    raise HsmUnavailableError("not now")


def test_a_failing_hsm_leaves_it_due(kms: MemoryKms) -> None:
    kept, deleted = kms.new_key(), kms.new_key()
    blob = encrypted_by(kms.service, kept)
    delete_key(kms.service, deleted)
    kms.keystore.is_dead = True
    with pytest.raises(VolcryptError):
        rewrap(kms.service)
    kms.keystore.is_dead = False
    assert is_due(kms.service)
    assert decrypted_by(kms.service, blob) == b"text"
    rewrap(kms.service)
    assert decrypted_by(kms.service, blob) == b"text"
    assert not is_due(kms.service)
