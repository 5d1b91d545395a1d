"""What every KeyStore promises: the one in memory, and a home's SoftHSM token.

What a MaterialStore promises is asked of tokens in other processes as well: SoftHSM, and NSS, which
is another PKCS#11 module altogether.
"""

from collections.abc import Iterator
from threading import Thread

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.fakes.keystore import MemoryKeyStore
from tests.nss import NSS_PIN, make_nss_cluster
from tests.softhsm import CLUSTER_PIN, make_cluster, new_home_token
from volcrypt.errors import (
    FormatError,
    IncorrectKeyMaterialError,
    IntegrityError,
    InvalidCiphertextError,
)
from volcrypt.kms.home_token import HomeToken
from volcrypt.kms.keystore import KeyStore, MaterialStore
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.remote_store import Cluster, RemoteStore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def nss(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_nss_cluster(tmp_path_factory.mktemp("nss"))


@pytest.fixture(scope="module")
def home_token(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeToken]:
    """One for both fixtures below: a process holds one token."""
    with new_home_token(tmp_path_factory.mktemp("home")) as token:
        yield token


@pytest.fixture(params=["memory", "softhsm"], scope="module")
def store(request: pytest.FixtureRequest) -> KeyStore:
    if request.param == "memory":
        return MemoryKeyStore()
    token: HomeToken = request.getfixturevalue("home_token")
    return token


@pytest.fixture(params=["memory", "softhsm", "process", "nss"], scope="module")
def materials(
    request: pytest.FixtureRequest, cluster: Cluster, nss: Cluster
) -> Iterator[MaterialStore]:
    """What custom key stores promise as well, each in a process of its own; one is of NSS."""
    if request.param in ("process", "nss"):
        where, text = (cluster, CLUSTER_PIN) if request.param == "process" else (nss, NSS_PIN)
        pin = bytearray(text.encode())
        remote = RemoteStore(where, prefix="test-", pin=pin, make_key=True)
        assert not any(pin)
        yield remote
        remote.close()
    elif request.param == "memory":
        yield MemoryKeyStore()
    else:
        yield request.getfixturevalue("home_token")


@pytest.mark.parametrize("size", [1, 16, 64, 4096])
def test_what_was_encrypted_decrypts(materials: MaterialStore, size: int) -> None:
    material = materials.generate_material()
    plaintext = materials.random(size)
    sealed = materials.encrypt(material, plaintext=plaintext, aad=b"aad")
    assert len(sealed) == 12 + size + 16
    assert materials.decrypt(material, sealed=sealed, aad=b"aad") == plaintext


def test_encrypting_twice_uses_another_iv(materials: MaterialStore) -> None:
    material = materials.generate_material()
    first, second = (
        materials.encrypt(material, plaintext=bytearray(b"same"), aad=b"") for _ in range(2)
    )
    assert first[:12] != second[:12]


@pytest.mark.parametrize("place", [0, 11, 12, 20, -1])
def test_a_flipped_bit_is_an_invalid_ciphertext(materials: MaterialStore, place: int) -> None:
    material = materials.generate_material()
    sealed = bytearray(materials.encrypt(material, plaintext=bytearray(16), aad=b"aad"))
    sealed[place] ^= 1
    with pytest.raises(InvalidCiphertextError):
        materials.decrypt(material, sealed=bytes(sealed), aad=b"aad")


def test_another_aad_or_material_is_an_invalid_ciphertext(materials: MaterialStore) -> None:
    material, other = materials.generate_material(), materials.generate_material()
    sealed = materials.encrypt(material, plaintext=bytearray(16), aad=b"aad")
    with pytest.raises(InvalidCiphertextError):
        materials.decrypt(material, sealed=sealed, aad=b"aae")
    with pytest.raises(InvalidCiphertextError):
        materials.decrypt(other, sealed=sealed, aad=b"aad")


@pytest.mark.parametrize("size", [0, 11, 28])
def test_a_short_ciphertext_is_invalid(materials: MaterialStore, size: int) -> None:
    with pytest.raises(InvalidCiphertextError):
        materials.decrypt(materials.generate_material(), sealed=bytes(size), aad=b"")


def test_changed_material_does_not_unwrap(materials: MaterialStore) -> None:
    right = materials.generate_material()
    blob = bytearray(right.blob)
    blob[7] ^= 1
    for wrong in (
        WrappedMaterial(blob=bytes(blob), wrapping_key=right.wrapping_key),
        WrappedMaterial(blob=bytes(blob[:32]), wrapping_key=right.wrapping_key),
        WrappedMaterial(blob=right.blob, wrapping_key=right.wrapping_key + 1),
    ):
        with pytest.raises(IntegrityError):
            materials.encrypt(wrong, plaintext=bytearray(1), aad=b"")


def test_macs_and_derived_keys_are_of_their_input_and_apart(store: KeyStore) -> None:
    assert store.mac(b"x") == store.mac(b"x")
    assert store.derive(b"x") == store.derive(b"x")
    results = {store.mac(b"x"), store.mac(b"y"), bytes(store.derive(b"x"))}
    results.add(bytes(store.derive(b"y")))
    assert len(results) == 4
    assert {len(result) for result in results} == {32}


def test_random_bytes_differ(materials: MaterialStore) -> None:
    assert len(materials.random(1024)) == 1024
    assert materials.random(16) != materials.random(16)


def test_more_materials_than_handles_stay_usable(materials: MaterialStore) -> None:
    made = [materials.generate_material() for _ in range(300)]
    sealed = [materials.encrypt(m, plaintext=bytearray(b"text"), aad=b"") for m in made]
    for material, one in zip(made, sealed, strict=True):
        assert materials.decrypt(material, sealed=one, aad=b"") == b"text"


def test_several_threads_may_use_it(materials: MaterialStore) -> None:
    material = materials.generate_material()
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(100):
            text = bytearray(str(number).encode())
            sealed = materials.encrypt(material, plaintext=text, aad=b"")
            assert materials.decrypt(material, sealed=sealed, aad=b"") == text
            materials.random(16)
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


def test_only_what_was_rewrapped_survives_a_retired_wrapping_key(materials: MaterialStore) -> None:
    kept, lost = materials.generate_material(), materials.generate_material()
    sealed = {m: materials.encrypt(m, plaintext=bytearray(b"text"), aad=b"") for m in (kept, lost)}
    before = materials.generation()
    (renewed,) = materials.rewrap([kept])
    assert renewed.wrapping_key == materials.generation() > before
    # Until the old key is retired everything opens, and new material is under the new one.
    assert materials.decrypt(lost, sealed=sealed[lost], aad=b"") == b"text"
    assert materials.generate_material().wrapping_key == materials.generation()
    materials.retire(older_than=materials.generation())
    assert materials.decrypt(renewed, sealed=sealed[kept], aad=b"") == b"text"
    with pytest.raises(IntegrityError):
        materials.decrypt(lost, sealed=sealed[lost], aad=b"")


def test_imported_material_is_rewrapped_too(store: KeyStore) -> None:
    imported = store.import_material(store.random(32))
    sealed = store.encrypt(imported, plaintext=bytearray(b"text"), aad=b"")
    (renewed,) = store.rewrap([imported])
    store.retire(older_than=store.generation())
    assert store.decrypt(renewed, sealed=sealed, aad=b"") == b"text"


def test_the_newest_wrapping_key_is_never_retired(materials: MaterialStore) -> None:
    material = materials.generate_material()
    materials.retire(older_than=materials.generation() + 5)
    materials.encrypt(material, plaintext=bytearray(1), aad=b"")


def test_changed_material_is_not_rewrapped(materials: MaterialStore) -> None:
    material = materials.generate_material()
    with pytest.raises(IntegrityError):
        materials.rewrap([WrappedMaterial(blob=bytes(40), wrapping_key=material.wrapping_key)])
    materials.encrypt(material, plaintext=bytearray(1), aad=b"")
