"""Every published XTS vector of NIST (CAVS 11) whose data unit has whole bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import cryptography_vectors
import pytest

from volcrypt.crypto.xts import XtsKernel

FILES = [
    # NIST also tests units of 130, 140 and 250 bits, which no byte-oriented cipher can do.
    ("tweak-128hexstr", "XTSGenAES256.rsp", 600),
    ("tweak-dataunitseqno", "XTSGenAES256.rsp", 600),
    ("tweak-128hexstr", "XTSGenAES128.rsp", 800),
    ("tweak-dataunitseqno", "XTSGenAES128.rsp", 800),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    key: bytes
    tweak: int
    plaintext: bytes
    ciphertext: bytes


def read_vectors(folder: str, name: str) -> Iterator[Vector]:
    """The byte-length vectors of one file; its blocks are `NAME = VALUE` lines, CT or PT last."""
    members: dict[str, str] = {}
    with cryptography_vectors.open_vector_file(f"ciphers/AES/XTS/{folder}/{name}", "r") as file:
        lines = file.read().splitlines()
    for line in lines:
        label, equals, value = line.partition(" = ")
        if not equals:
            continue
        if label == "COUNT":
            members = {}
        members[label] = value
        if {"PT", "CT"} <= members.keys() and int(members["DataUnitLen"]) % 8 == 0:
            yield Vector(
                key=bytes.fromhex(members["Key"]),
                tweak=int.from_bytes(bytes.fromhex(members["i"]), "little")
                if "i" in members
                else int(members["DataUnitSeqNumber"]),
                plaintext=bytes.fromhex(members["PT"]),
                ciphertext=bytes.fromhex(members["CT"]),
            )


@pytest.mark.parametrize(("folder", "name", "count"), FILES)
def test_nist_vectors(folder: str, name: str, count: int) -> None:
    vectors = list(read_vectors(folder, name))
    assert len(vectors) == count
    for vector in vectors:
        kernel = XtsKernel(vector.key)
        output = bytearray(len(vector.plaintext))
        kernel.encrypt_one(vector.tweak, vector.plaintext, output)
        assert output == vector.ciphertext
        kernel.decrypt_one(vector.tweak, vector.ciphertext, output)
        assert output == vector.plaintext


@pytest.mark.parametrize(("folder", "name", "count"), FILES)
def test_nist_vectors_in_place(folder: str, name: str, count: int) -> None:
    for vector in read_vectors(folder, name):
        kernel = XtsKernel(vector.key)
        buffer = bytearray(vector.plaintext)
        kernel.encrypt_one(vector.tweak, buffer, buffer)
        assert buffer == vector.ciphertext
        kernel.decrypt_one(vector.tweak, buffer, buffer)
        assert buffer == vector.plaintext
        count -= 1
    assert count == 0
