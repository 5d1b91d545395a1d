"""What every KeyStore promises; on the memory one and on a SoftHSM token."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.errors import IntegrityError, InvalidCiphertextError
from volcrypt.kms.keystore import KeyStore
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.pkcs11 import make_token, open_token
from volcrypt.kms.token import configuration_of, private_copy


@pytest.fixture(params=["memory", "softhsm"], scope="module")
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyStore]:
    if request.param == "memory":
        yield MemoryKeyStore()
        return
    runtime: Path = tmp_path_factory.mktemp("runtime")
    with private_copy(runtime, master=None) as copy:
        make_token(configuration_of(copy), bytearray(b"a test pin"))
        with open_token(configuration_of(copy), bytearray(b"a test pin")) as key_store:
            yield key_store


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
    blob = bytearray(store.generate_material().blob)
    blob[7] ^= 1
    for wrong in (
        WrappedMaterial(blob=bytes(blob), wrapping_key=1),
        WrappedMaterial(blob=bytes(blob[:32]), wrapping_key=1),
        WrappedMaterial(blob=store.generate_material().blob, wrapping_key=2),
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
