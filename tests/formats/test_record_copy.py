"""The copy of a record: who can make one, and what it is not believed for."""

import hashlib
import hmac

import msgspec
import pytest

from tests.formats.samples import COPIED, COPY_SEAL
from volcrypt.errors import MalformedError, SealError
from volcrypt.formats.document import MacSeal, encode_document
from volcrypt.formats.record_copy import (
    KIND,
    VERSION,
    RecordCopy,
    copy_seal_key,
    decode_record_copy,
    encode_record_copy,
    portable,
)
from volcrypt.formats.volume_record import KeySource
from volcrypt.names import VolumeId

DATA_KEY = memoryview(bytes(range(64)))
OTHER_ID = VolumeId("vol-0123456789abcdef0")


def test_the_seal_key_is_hkdf_as_the_format_says() -> None:
    """RFC 5869 by hand: extract with a salt of zeros, expand once."""
    extracted = hmac.digest(bytes(32), bytes(DATA_KEY), "sha256")
    info = b"volcrypt record copy\0" + COPIED.volume_id.encode()
    expected = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    assert copy_seal_key(DATA_KEY, COPIED.volume_id) == expected


@pytest.mark.parametrize(
    ("data_key", "volume_id"),
    [(memoryview(bytes(64)), COPIED.volume_id), (DATA_KEY, OTHER_ID)],
)
def test_another_data_key_or_volume_makes_another_seal(
    data_key: "memoryview[int]", volume_id: VolumeId
) -> None:
    forged = encode_record_copy(COPIED, MacSeal(copy_seal_key(data_key, volume_id)))
    with pytest.raises(SealError, match="copy: its seal does not hold"):
        decode_record_copy(forged, COPY_SEAL, what="copy")


def test_only_encrypted_volumes_have_one() -> None:
    plain = msgspec.structs.replace(COPIED, key_source=KeySource.NONE, wrapped_key=None)
    data = encode_document(KIND, VERSION, plain, COPY_SEAL)
    with pytest.raises(MalformedError, match="only an encrypted volume has a copy"):
        RecordCopy(data, what="copy")


def test_values_that_contradict_each_other_are_refused() -> None:
    data = encode_record_copy(msgspec.structs.replace(COPIED, counter=0), COPY_SEAL)
    with pytest.raises(MalformedError, match="its values contradict each other"):
        RecordCopy(data, what="copy")


def test_homes_may_have_names_and_places_of_their_own() -> None:
    there = msgspec.structs.replace(
        COPIED, name="other", data_path="/dev/rbd7", device="", account="111111111111"
    )
    assert portable(there) == portable(COPIED)
    assert portable(msgspec.structs.replace(COPIED, counter=4)) != portable(COPIED)
    assert portable(msgspec.structs.replace(COPIED, lease=None)) != portable(COPIED)
