"""The sealed secret's bytes."""

import pytest

from volcrypt.errors import BadMagicError, FormatError, MalformedError, UnsupportedVersionError
from volcrypt.formats.sealed_secret import (
    SealedSecret,
    decode_sealed_secret,
    encode_sealed_secret,
)

EXAMPLE = SealedSecret(generation=2, wrapped_key=b"\x11" * 40, sealed=b"\x22" * 12 + b"\x33" * 17)
BYTES = bytes.fromhex("564b53530100000002" + "11" * 40 + "22" * 12 + "33" * 17)


def test_the_worked_example() -> None:
    assert encode_sealed_secret(EXAMPLE) == BYTES
    assert decode_sealed_secret(BYTES) == EXAMPLE


@pytest.mark.parametrize("size", range(len(BYTES)))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        decode_sealed_secret(BYTES[:size])


def test_other_documents_are_refused_by_name() -> None:
    with pytest.raises(BadMagicError):
        decode_sealed_secret(b"VKCB" + BYTES[4:])
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        decode_sealed_secret(BYTES[:4] + b"\x02" + BYTES[5:])
    with pytest.raises(MalformedError):
        decode_sealed_secret(BYTES[:4])


def test_it_shows_no_bytes() -> None:
    assert repr(EXAMPLE) == "SealedSecret(generation=2)"
