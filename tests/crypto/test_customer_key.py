"""Data keys under a customer-provided key; the oracle is RFC 5649 written down again."""

import pickle
import random

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError, InvalidArgumentError, WrongCustomerKeyError

KEY = random.Random(1).randbytes(32)
DATA_KEY = random.Random(2).randbytes(64)


def rfc_5649(key: bytes, plaintext: bytes) -> bytes:
    """The key wrap of section 4.1, for a plaintext of more than 8 bytes, by section 2.2.1 of RFC
    3394."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    a = bytes.fromhex("a65959a6") + len(plaintext).to_bytes(4, "big")
    blocks = [plaintext[i : i + 8] for i in range(0, len(plaintext), 8)]
    for j in range(6):
        for i, block in enumerate(blocks, start=1):
            b = encryptor.update(a + block)
            t = len(blocks) * j + i
            a = (int.from_bytes(b[:8], "big") ^ t).to_bytes(8, "big")
            blocks[i - 1] = b[8:]
    return a + b"".join(blocks)


def test_the_wrapping_is_that_of_the_rfc() -> None:
    key = CustomerKey(bytearray(KEY))
    with DataKey(bytearray(DATA_KEY)) as data_key:
        wrapped = key.wrap(data_key)
    assert wrapped == rfc_5649(KEY, DATA_KEY)
    with key.unwrap(wrapped) as opened:
        assert bytes(opened.view()) == DATA_KEY
    assert key.opens(wrapped)


def test_another_key_opens_nothing() -> None:
    wrapped = rfc_5649(KEY, DATA_KEY)
    other = CustomerKey(bytearray(KEY[:31] + bytes([KEY[31] ^ 1])))
    assert not other.opens(wrapped)
    with pytest.raises(WrongCustomerKeyError):
        other.unwrap(wrapped)


@pytest.mark.parametrize("position", range(72))
def test_a_changed_wrapping_is_not_opened(position: int) -> None:
    wrapped = bytearray(rfc_5649(KEY, DATA_KEY))
    wrapped[position] ^= 0x40
    with pytest.raises(WrongCustomerKeyError):
        CustomerKey(bytearray(KEY)).unwrap(bytes(wrapped))


@pytest.mark.parametrize("length", range(0, 72, 5))
def test_a_wrapping_that_was_cut_is_not_opened(length: int) -> None:
    with pytest.raises(WrongCustomerKeyError):
        CustomerKey(bytearray(KEY)).unwrap(rfc_5649(KEY, DATA_KEY)[:length])


@pytest.mark.parametrize(
    "inside", [DATA_KEY[:32], DATA_KEY[:32] * 2], ids=["short", "equal halves"]
)
def test_what_is_wrapped_must_be_a_data_key(inside: bytes) -> None:
    wrapped = keywrap.aes_key_wrap_with_padding(KEY, inside)
    with pytest.raises(IntegrityError, match="no data key"):
        CustomerKey(bytearray(KEY)).unwrap(wrapped)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_a_key_has_32_bytes(length: int) -> None:
    material = bytearray(b"k" * length)
    with pytest.raises(InvalidArgumentError, match="exactly 32 bytes"):
        CustomerKey(material)
    assert material == bytes(length)


def test_it_never_shows_and_is_wiped() -> None:
    material = bytearray(KEY)
    key = CustomerKey(material)
    assert repr(key) == str(key) == "<CustomerKey>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
    key.wipe()
    assert material == bytes(32)
    with pytest.raises(ValueError, match="wiped"):
        key.unwrap(rfc_5649(KEY, DATA_KEY))
    with DataKey(bytearray(DATA_KEY)) as data_key, pytest.raises(ValueError, match="wiped"):
        key.wrap(data_key)
