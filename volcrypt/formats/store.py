"""The store document: what a snapshot store says about itself. Kind `store`, object `store`.

Signed by the root key that it names. A reader compares that key with the one it pinned; on its own
the document proves nothing. Example of its body:

    {"store_id":"store-0123456789abcdef0","region":"us-east-1","digest":"blake3",
     "chunk_bytes":524288,"root_public_key":"(base64 of 32 bytes)"}
"""

from typing import Final

import msgspec

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import MalformedError
from volcrypt.formats.certificate import PUBLIC_KEY_BYTES
from volcrypt.formats.document import (
    Sealer,
    SignatureVerifier,
    check_seal,
    encode_document,
    known_bodies,
    split_document,
)
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import StoreId

KIND: Final = "store"
VERSION: Final = 1


class StoreDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1. `digest` names chunks, pages and tables for as long as the store lives."""

    store_id: StoreId
    region: str
    digest: DigestAlgorithm
    chunk_bytes: int
    root_public_key: bytes


def encode_store_document(document: StoreDocument, root: Sealer) -> bytes:
    return encode_document(KIND, VERSION, document, root)


_BODIES: Final = known_bodies({VERSION: StoreDocument})


def decode_store_document(data: bytes, *, what: str) -> StoreDocument:
    """The document, whose signature holds under the key that it names itself.

    Raises FormatError and SealError; `what` names the store in them.
    """
    document, covered, seal = split_document(data, KIND, _BODIES, what=what)
    if len(document.root_public_key) != PUBLIC_KEY_BYTES or document.chunk_bytes != CHUNK_BYTES:
        raise MalformedError(what, "its values contradict each other")
    check_seal(covered, seal, SignatureVerifier(document.root_public_key), what=what)
    return document
