"""The format of the token's master copy."""

import pytest

from volcrypt.errors import FormatError, MalformedError, SealError
from volcrypt.formats.token_image import TokenImage, decode_token_image, encode_token_image

IMAGE = TokenImage(files={"serial/token.object": b"\0\1\2", "serial/generation": b""})


def test_decode_undoes_encode() -> None:
    assert decode_token_image(encode_token_image(IMAGE), what="token") == IMAGE


def test_every_truncation_and_flipped_bit_is_found() -> None:
    data = encode_token_image(IMAGE)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode_token_image(data[:size], what="token")
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises((FormatError, SealError)):
            decode_token_image(bytes(changed), what="token")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/\0"])
def test_a_path_outside_of_the_token_is_refused(path: str) -> None:
    data = encode_token_image(TokenImage(files={path: b""}))
    with pytest.raises(MalformedError, match="outside"):
        decode_token_image(data, what="token")
