"""What is particular to a PKCS#11 token; what every key store promises is in tests/conformance."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import AttributeSensitive, KeyUnextractable

from tests.softhsm import PIN, open_copy
from volcrypt.errors import (
    HsmUnavailableError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    TokenMissingError,
    WrongPinError,
)
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.pkcs11 import HANDLE_LIMIT, Pkcs11KeyStore
from volcrypt.kms.pkcs11_session import make_token
from volcrypt.kms.token import configuration_of, private_copy


@pytest.fixture
def configuration(memory_path: Path) -> Iterator[Path]:
    """Of a token that was just made."""
    with private_copy(memory_path / "run", master=None) as copy:
        make_token(configuration_of(copy), PIN)
        yield configuration_of(copy)


@pytest.fixture
def store(configuration: Path) -> Iterator[Pkcs11KeyStore]:
    with open_copy(configuration) as key_store:
        yield key_store


def test_keys_are_the_same_after_every_login(configuration: Path) -> None:
    with open_copy(configuration) as store:
        material = store.generate_material()
        sealed = store.encrypt(material, plaintext=bytearray(b"text"), aad=b"")
        mac, derived = store.mac(b"x"), store.derive(b"x")
    with open_copy(configuration) as store:
        assert store.decrypt(material, sealed=sealed, aad=b"") == b"text"
        assert (store.mac(b"x"), store.derive(b"x")) == (mac, derived)


def test_no_key_of_the_token_can_be_read_wrapped_or_misused(store: Pkcs11KeyStore) -> None:
    for key in (store._wrapping[1], store._mac_key, store._derive_key):
        assert key[Attribute.NEVER_EXTRACTABLE]
        assert key[Attribute.ALWAYS_SENSITIVE]
        with pytest.raises(AttributeSensitive):
            _ = key[Attribute.VALUE]
        with pytest.raises(KeyUnextractable):
            store._wrapping[1].wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
        assert not key[Attribute.ENCRYPT]
        assert not key[Attribute.DECRYPT]
    assert not store._mac_key[Attribute.WRAP]
    assert not store._wrapping[1][Attribute.SIGN]


def test_material_in_use_cannot_be_read_or_wrapped(store: Pkcs11KeyStore) -> None:
    material = store.generate_material()
    key = store._unwrapped(material)
    with pytest.raises(AttributeSensitive):
        _ = key[Attribute.VALUE]
    with pytest.raises(KeyUnextractable):
        store._wrapping[1].wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
    assert not key[Attribute.TOKEN]


def test_handles_are_bounded(store: Pkcs11KeyStore) -> None:
    for _ in range(HANDLE_LIMIT + 20):
        store.generate_material()
    assert len(store._handles) == HANDLE_LIMIT


def test_a_bad_tag_is_an_invalid_ciphertext_only_if_the_token_lives(store: Pkcs11KeyStore) -> None:
    material = store.generate_material()
    with pytest.raises(InvalidCiphertextError):
        store.decrypt(material, sealed=bytes(50), aad=b"")
    # From now on the token fails the known answer as well.
    store._probe_answer = bytes(len(store._probe_answer))
    with pytest.raises(HsmUnavailableError) as raised:
        store.decrypt(material, sealed=bytes(50), aad=b"")
    assert raised.value.retryable


def test_bad_material_is_damage_only_if_the_token_lives(store: Pkcs11KeyStore) -> None:
    material = store.generate_material()
    broken = WrappedMaterial(blob=bytes(40), wrapping_key=1)
    with pytest.raises(IntegrityError):
        store.encrypt(broken, plaintext=bytearray(1), aad=b"")
    assert store.encrypt(material, plaintext=bytearray(1), aad=b"")
    store._probe_answer = bytes(len(store._probe_answer))
    with pytest.raises(HsmUnavailableError):
        store.encrypt(broken, plaintext=bytearray(1), aad=b"")


def test_a_token_that_went_away_is_unavailable(configuration: Path) -> None:
    with open_copy(configuration) as store:
        material = store.generate_material()
    for call in (
        lambda: store.random(1),
        lambda: store.mac(b""),
        lambda: store.generate_material(),
        lambda: store.encrypt(material, plaintext=bytearray(1), aad=b""),
        lambda: store.decrypt(material, sealed=bytes(50), aad=b""),
    ):
        with pytest.raises(HsmUnavailableError):
            call()


def test_a_wrong_pin_is_said_without_it(configuration: Path) -> None:
    with (
        pytest.raises(WrongPinError) as raised,
        open_copy(configuration, bytearray(b"wrong pin")),
    ):
        pass
    assert str(raised.value) == "the PIN does not open the token"
    with open_copy(configuration):
        pass


@pytest.mark.parametrize("pin", [b"", b"abc", b"x" * 256, b"\xff\xfe\xfd\xfc", b"abc\0def"])
def test_pins_that_no_token_takes(memory_path: Path, pin: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="PIN"):
        make_token(memory_path / "softhsm2.conf", bytearray(pin))


def test_one_token_at_a_time(configuration: Path) -> None:
    with (
        open_copy(configuration),
        pytest.raises(RuntimeError, match="holds a token already"),
        open_copy(configuration),
    ):
        pass


def test_the_environment_is_as_before(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_copy(configuration):
        assert "SOFTHSM2_CONF" not in os.environ
    monkeypatch.setenv("SOFTHSM2_CONF", "/elsewhere")
    with open_copy(configuration):
        assert os.environ["SOFTHSM2_CONF"] == "/elsewhere"


def test_a_directory_without_token_is_said(memory_path: Path) -> None:
    with (
        private_copy(memory_path / "run", master=None) as copy,
        pytest.raises(TokenMissingError, match="no token 'volcrypt'"),
        open_copy(configuration_of(copy)),
    ):
        pass


def test_a_token_of_somebody_else_is_said(configuration: Path) -> None:
    with open_copy(configuration) as store:
        store._mac_key.destroy()
    with (
        pytest.raises(IntegrityError, match="lacks a key"),
        open_copy(configuration),
    ):
        pass


def test_nothing_secret_is_shown(store: Pkcs11KeyStore) -> None:
    assert repr(store) == "<Pkcs11KeyStore>"
    assert "blob" not in repr(store.generate_material())
