"""The format of ciphertext blobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import BadMagicError, FormatError, MalformedError, UnsupportedVersionError
from volcrypt.formats.ciphertext_blob import (
    CiphertextBlob,
    decode_ciphertext_blob,
    encode_ciphertext_blob,
)

EXAMPLE = CiphertextBlob(
    key_id="00112233-4455-6677-8899-aabbccddeeff",
    material_id="11" * 32,
    sealed=b"\x22" * 12 + b"\x33" * 17,
)
EXAMPLE_BYTES = bytes.fromhex(
    "564b43420100112233445566778899aabbccddeeff" + "11" * 32 + "22" * 12 + "33" * 17
)


def test_the_worked_example() -> None:
    assert encode_ciphertext_blob(EXAMPLE) == EXAMPLE_BYTES
    assert decode_ciphertext_blob(EXAMPLE_BYTES) == EXAMPLE


@given(
    st.builds(
        CiphertextBlob,
        key_id=st.uuids().map(str),
        material_id=st.binary(min_size=32, max_size=32).map(bytes.hex),
        sealed=st.binary(min_size=29, max_size=4124),
    )
)
def test_decode_undoes_encode(blob: CiphertextBlob) -> None:
    assert decode_ciphertext_blob(encode_ciphertext_blob(blob)) == blob


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: b"VKCB\x01" + b))
def test_junk_is_a_format_error_or_a_blob(data: bytes) -> None:
    try:
        blob = decode_ciphertext_blob(data)
    except FormatError:
        return
    assert encode_ciphertext_blob(blob) == data


@pytest.mark.parametrize("size", range(len(EXAMPLE_BYTES)))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        decode_ciphertext_blob(EXAMPLE_BYTES[:size])


def test_other_magic_version_and_excess_are_refused() -> None:
    with pytest.raises(BadMagicError):
        decode_ciphertext_blob(b"X" + EXAMPLE_BYTES[1:])
    with pytest.raises(UnsupportedVersionError):
        decode_ciphertext_blob(EXAMPLE_BYTES[:4] + b"\x02" + EXAMPLE_BYTES[5:])
    with pytest.raises(MalformedError, match="too long"):
        decode_ciphertext_blob(EXAMPLE_BYTES + bytes(6144))
