"""The place of a store: where a home finds a snapshot store that is not its own directory. Kind
`store-place`, sealed by HMAC under a key of the home's KMS.

It says nothing that proves the store: that is the root's public key, in the register. The seal
keeps whoever can write to the home from turning off the encryption that the service was asked for,
or from having requests sent elsewhere. Example of its body:

    {"store_id":"store-0123456789abcdef0","url":"s3://bucket/prefix","region":"us-east-1",
     "endpoint":null,"encryption":"kms:alias/snapshots"}
"""

from typing import Final

import msgspec

from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)
from volcrypt.names import StoreId

KIND: Final = "store-place"
VERSION: Final = 1


class StorePlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of version 1. `url` is s3://BUCKET/PREFIX or file:///DIRECTORY; `region` and `endpoint`
    are the bucket's; `encryption` is `s3`, `kms`, `kms:KEY`, `customer:FILE`, or None."""

    store_id: StoreId
    url: str
    region: str
    endpoint: str | None
    encryption: str | None


def encode_store_place(place: StorePlace, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, place, sealer)


_BODIES: Final = known_bodies({VERSION: StorePlace})


def decode_store_place(data: bytes, verifier: Verifier, *, what: str) -> StorePlace:
    """Raises FormatError and SealError; `what` names the place in them."""
    return decode_document(data, KIND, _BODIES, verifier, what=what)
