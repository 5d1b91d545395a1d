"""What every KeyStore promises; on the memory one and on a home's SoftHSM token."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.fakes.keystore import MemoryKeyStore
from tests.softhsm import new_home_token
from volcrypt.errors import (
    FormatError,
    IncorrectKeyMaterialError,
    IntegrityError,
    InvalidCiphertextError,
)
from volcrypt.kms.keystore import KeyStore
from volcrypt.kms.model import WrappedMaterial


@pytest.fixture(params=["memory", "softhsm"], scope="module")
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyStore]:
    if request.param == "memory":
        yield MemoryKeyStore()
        return
    directory: Path = tmp_path_factory.mktemp("home")
    with new_home_token(directory) as token:
        yield token


@pytest.mark.parametrize("size", [1, 16, 64, 4096])
def test_what_was_encrypted_decrypts(store: KeyStore, size: int) -> None:
    material = store.generate_material()
    plaintext = store.random(size)
    sealed = store.encrypt(material, plaintext=plaintext, aad=b"aad")
    assert len(sealed) == 12 + size + 16
    assert store.decrypt(material, sealed=sealed, aad=b"aad") == plaintext


def test_encrypting_twice_uses_another_iv(store: KeyStore) -> None:
    material = store.generate_material()
    first, second = (
        store.encrypt(material, plaintext=bytearray(b"same"), aad=b"") for _ in range(2)
    )
    assert first[:12] != second[:12]


@pytest.mark.parametrize("place", [0, 11, 12, 20, -1])
def test_a_flipped_bit_is_an_invalid_ciphertext(store: KeyStore, place: int) -> None:
    material = store.generate_material()
    sealed = bytearray(store.encrypt(material, plaintext=bytearray(16), aad=b"aad"))
    sealed[place] ^= 1
    with pytest.raises(InvalidCiphertextError):
        store.decrypt(material, sealed=bytes(sealed), aad=b"aad")


def test_another_aad_or_material_is_an_invalid_ciphertext(store: KeyStore) -> None:
    material, other = store.generate_material(), store.generate_material()
    sealed = store.encrypt(material, plaintext=bytearray(16), aad=b"aad")
    with pytest.raises(InvalidCiphertextError):
        store.decrypt(material, sealed=sealed, aad=b"aae")
    with pytest.raises(InvalidCiphertextError):
        store.decrypt(other, sealed=sealed, aad=b"aad")


@pytest.mark.parametrize("size", [0, 11, 28])
def test_a_short_ciphertext_is_invalid(store: KeyStore, size: int) -> None:
    with pytest.raises(InvalidCiphertextError):
        store.decrypt(store.generate_material(), sealed=bytes(size), aad=b"")


def test_changed_material_does_not_unwrap(store: KeyStore) -> None:
    right = store.generate_material()
    blob = bytearray(right.blob)
    blob[7] ^= 1
    for wrong in (
        WrappedMaterial(blob=bytes(blob), wrapping_key=right.wrapping_key),
        WrappedMaterial(blob=bytes(blob[:32]), wrapping_key=right.wrapping_key),
        WrappedMaterial(blob=right.blob, wrapping_key=right.wrapping_key + 1),
    ):
        with pytest.raises(IntegrityError):
            store.encrypt(wrong, plaintext=bytearray(1), aad=b"")


def test_macs_and_derived_keys_are_of_their_input_and_apart(store: KeyStore) -> None:
    assert store.mac(b"x") == store.mac(b"x")
    assert store.derive(b"x") == store.derive(b"x")
    results = {store.mac(b"x"), store.mac(b"y"), bytes(store.derive(b"x"))}
    results.add(bytes(store.derive(b"y")))
    assert len(results) == 4
    assert {len(result) for result in results} == {32}


def test_random_bytes_differ(store: KeyStore) -> None:
    assert len(store.random(1024)) == 1024
    assert store.random(16) != store.random(16)


def test_more_materials_than_handles_stay_usable(store: KeyStore) -> None:
    materials = [store.generate_material() for _ in range(300)]
    sealed = [store.encrypt(m, plaintext=bytearray(b"text"), aad=b"") for m in materials]
    for material, one in zip(materials, sealed, strict=True):
        assert store.decrypt(material, sealed=one, aad=b"") == b"text"


def test_several_threads_may_use_it(store: KeyStore) -> None:
    material = store.generate_material()
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(100):
            text = bytearray(str(number).encode())
            sealed = store.encrypt(material, plaintext=text, aad=b"")
            assert store.decrypt(material, sealed=sealed, aad=b"") == text
            store.mac(bytes(text))
            store.random(16)
        done.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(8))


def test_imported_material_is_the_key_that_was_given(store: KeyStore) -> None:
    plaintext = store.random(32)
    material = store.import_material(plaintext)
    sealed = store.encrypt(material, plaintext=bytearray(b"text"), aad=b"aad")
    assert AESGCM(bytes(plaintext)).decrypt(sealed[:12], sealed[12:], b"aad") == b"text"
    # It is wrapped, and the same key again is another wrapping of it or the same, as the HSM likes.
    assert bytes(plaintext) not in material.blob
    assert store.decrypt(store.import_material(plaintext), sealed=sealed, aad=b"aad") == b"text"


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_material_of_another_length_is_not_imported(store: KeyStore, size: int) -> None:
    with pytest.raises(IncorrectKeyMaterialError):
        store.import_material(bytearray(size))


def test_a_sealed_secret_opens_under_its_aad_only(store: KeyStore) -> None:
    secret = bytearray(b"a secret of the KMS")
    sealed = store.seal(secret, b"of alice")
    assert bytes(secret) not in sealed
    assert store.open_sealed(sealed, b"of alice") == secret
    with pytest.raises(IntegrityError):
        store.open_sealed(sealed, b"of bob")
    for place in range(0, len(sealed), 5):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((IntegrityError, FormatError)):
            store.open_sealed(bytes(changed), b"of alice")
        with pytest.raises((IntegrityError, FormatError)):
            store.open_sealed(sealed[:place], b"of alice")


def test_only_what_was_rewrapped_survives_a_retired_wrapping_key(store: KeyStore) -> None:
    kept, imported, lost = (
        store.generate_material(),
        store.import_material(store.random(32)),
        store.generate_material(),
    )
    sealed = {m: store.encrypt(m, plaintext=bytearray(b"text"), aad=b"") for m in (kept, lost)}
    in_use = store.encrypt(imported, plaintext=bytearray(b"text"), aad=b"")
    before = store.generation()
    new_kept, new_imported = store.rewrap([kept, imported])
    assert store.generation() > before
    assert {new_kept.wrapping_key, new_imported.wrapping_key} == {store.generation()}
    # Until the old key is retired everything opens, and new material is under the new one.
    assert store.decrypt(lost, sealed=sealed[lost], aad=b"") == b"text"
    assert store.generate_material().wrapping_key == store.generation()
    store.retire(older_than=store.generation())
    assert store.decrypt(new_kept, sealed=sealed[kept], aad=b"") == b"text"
    assert store.decrypt(new_imported, sealed=in_use, aad=b"") == b"text"
    with pytest.raises(IntegrityError):
        store.decrypt(lost, sealed=sealed[lost], aad=b"")


def test_the_newest_wrapping_key_is_never_retired(store: KeyStore) -> None:
    material = store.generate_material()
    store.retire(older_than=store.generation() + 5)
    store.encrypt(material, plaintext=bytearray(1), aad=b"")


def test_changed_material_is_not_rewrapped(store: KeyStore) -> None:
    material = store.generate_material()
    with pytest.raises(IntegrityError):
        store.rewrap([WrappedMaterial(blob=bytes(40), wrapping_key=material.wrapping_key)])
    store.encrypt(material, plaintext=bytearray(1), aad=b"")
