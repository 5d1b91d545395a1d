"""The import token's bytes."""

import pytest

from volcrypt.errors import BadMagicError, FormatError, MalformedError, UnsupportedVersionError
from volcrypt.formats.import_token import ImportToken, decode_import_token, encode_import_token

EXAMPLE = ImportToken(
    key_id="00112233-4455-6677-8899-aabbccddeeff", import_id="11" * 16, valid_to=0x65
)
TAG = b"\x22" * 32
BYTES = bytes.fromhex(
    "564b49540100112233445566778899aabbccddeeff" + "11" * 16 + "0000000000000065" + "22" * 32
)


def test_an_example() -> None:
    assert encode_import_token(EXAMPLE, TAG) == BYTES
    assert decode_import_token(BYTES) == (EXAMPLE, TAG)


@pytest.mark.parametrize("size", range(len(BYTES)))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        decode_import_token(BYTES[:size])


def test_others_are_refused_by_name() -> None:
    with pytest.raises(BadMagicError):
        decode_import_token(b"VKCB" + BYTES[4:])
    with pytest.raises(UnsupportedVersionError):
        decode_import_token(BYTES[:4] + b"\x02" + BYTES[5:])
    with pytest.raises(MalformedError):
        decode_import_token(BYTES + b"x")
