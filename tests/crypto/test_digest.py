"""Digests against published values."""

import hashlib

import pytest

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST, DigestAlgorithm

# BLAKE3: test_vectors.json of the reference, input lengths 0 and 1; SHA-256: FIPS 180-2, "abc".
PUBLISHED = [
    (
        DigestAlgorithm.BLAKE3,
        b"",
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    ),
    (
        DigestAlgorithm.BLAKE3,
        b"\x00",
        "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    ),
    (
        DigestAlgorithm.SHA256,
        b"abc",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ),
]


@pytest.mark.parametrize(("algorithm", "data", "expected"), PUBLISHED)
def test_published_values(algorithm: DigestAlgorithm, data: bytes, expected: str) -> None:
    assert algorithm.digest(data).hex() == expected


@pytest.mark.parametrize("algorithm", list(DigestAlgorithm))
def test_every_kind_of_buffer(algorithm: DigestAlgorithm) -> None:
    data = bytes(range(256)) * 4096
    expected = algorithm.digest(data)
    assert len(expected) == DIGEST_BYTES
    assert expected != ZERO_DIGEST
    assert algorithm.digest(bytearray(data)) == algorithm.digest(memoryview(data)) == expected


def test_names_as_they_are_stored() -> None:
    assert [algorithm.value for algorithm in DigestAlgorithm] == ["blake3", "sha256"]
    assert DigestAlgorithm.SHA256.digest(b"x") == hashlib.sha256(b"x").digest()
