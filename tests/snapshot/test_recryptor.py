"""Recryptor: from one data key to another, and what is left when the keys are wiped."""

import os

import pytest

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import KeyWipedError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, UNITS_PER_CHUNK
from volcrypt.snapshot.recryptor import Decryptor, Recryptor


def key(first: int) -> DataKey:
    return DataKey(bytearray(range(first, first + 64)))


def test_there_and_on_to_plaintext() -> None:
    plain = os.urandom(CHUNK_BYTES)
    chunk = bytearray(CHUNK_BYTES)
    key(0).kernel().encrypt_units(3 * UNITS_PER_CHUNK, plain, chunk)
    Recryptor(key(0), key(64))(3, memoryview(chunk))
    assert chunk != plain
    Decryptor(key(64))(3, memoryview(chunk))
    assert chunk == plain


@pytest.mark.parametrize("which", ["_old", "_new"])
def test_what_a_wipe_interrupts_is_ciphertext_still(which: str) -> None:
    chunk = bytearray(os.urandom(CHUNK_BYTES))
    before = bytes(chunk)
    step = Recryptor(key(0), key(64))
    getattr(step, which).wipe()
    with pytest.raises(KeyWipedError):
        step(0, memoryview(chunk))
    assert chunk == before


@pytest.mark.parametrize("which", ["_old", "_new"])
def test_what_runs_while_it_is_wiped_wipes_its_own(which: str) -> None:
    step = Recryptor(key(0), key(64))
    with getattr(step, which).taken() as kernel:
        step.wipe()
        kernel.encrypt_units(0, bytes(UNIT_BYTES), bytearray(UNIT_BYTES))
    with pytest.raises(ValueError, match="wiped"):
        kernel.encrypt_units(0, bytes(UNIT_BYTES), bytearray(UNIT_BYTES))
