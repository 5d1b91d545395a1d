"""The additional authenticated data of every encryption under a KMS key. Pure.

    version                       1 byte, 1
    account, region, key id, material id
    pair count                    4 bytes
    for each pair of the encryption context, sorted by the bytes of its key: key, value

Every field is UTF-8 behind its length in 4 bytes; all numbers are big-endian. Without the lengths
`{"a": "bc"}` and `{"ab": "c"}` would be one context.

The version is the ciphertext blob's. A key or material id from another blob gives other data, so a
blob whose header was changed does not decrypt.
"""

import struct
from collections.abc import Mapping
from typing import Final

from volcrypt.errors import KmsValidationError

MAX_CONTEXT_BYTES: Final = 8192
_VERSION: Final = b"\x01"
_NUMBER: Final = struct.Struct(">I")


def _field(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise KmsValidationError("the encryption context is not valid Unicode") from error
    return _NUMBER.pack(len(data)) + data


def encode_aad(
    context: Mapping[str, str], *, account: str, region: str, key_id: str, material_id: str
) -> bytes:
    """Raises KmsValidationError for text that has no UTF-8 form (a lone surrogate)."""
    pairs = [(_field(key), _field(value)) for key, value in context.items()]
    pairs.sort(key=lambda pair: pair[0][_NUMBER.size :])
    head = b"".join(map(_field, (account, region, key_id, material_id)))
    return b"".join((_VERSION, head, _NUMBER.pack(len(pairs)), *(k + v for k, v in pairs)))


def check_context(context: Mapping[str, str]) -> None:
    """Raises KmsValidationError for a context that the AWS KMS would not take."""
    size = sum(len(_field(key)) + len(_field(value)) - 8 for key, value in context.items())
    if size > MAX_CONTEXT_BYTES:
        raise KmsValidationError(
            f"the encryption context has {size} bytes, at most {MAX_CONTEXT_BYTES} are allowed"
        )
    if "" in context:
        raise KmsValidationError("a key of the encryption context is empty")
