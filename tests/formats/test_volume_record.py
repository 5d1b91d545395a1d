"""The volume record: golden files, every damage, and values that contradict each other."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import FormatError, IntegrityError, MalformedError, SealError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import (
    KeySource,
    LazySource,
    VolumeRecord,
    WrappedDataKey,
    decode_volume_record,
    encode_volume_record,
)
from volcrypt.geometry import MAX_VOLUME_BYTES, UNIT_BYTES
from volcrypt.names import DataKeyId, SnapshotId, StoreId, VolumeId

SEAL = MacSeal(bytes(range(32)))

ENCRYPTED = VolumeRecord(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    counter=7,
    name="data",
    size_bytes=10 * 2**30,
    unit_bytes=4096,
    key_source=KeySource.KMS,
    wrapped_key=WrappedDataKey(
        data_key_id=DataKeyId("dk-00112233445566778"),
        ciphertext=bytes(range(256)),
        kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        encryption_context={"volcrypt:volume-id": "vol-0123456789abcdef0"},
    ),
    data_path="/var/lib/volcrypt/volumes/vol-0123456789abcdef0/data",
    account="000000000000",
    region="us-east-1",
    created_at=1_750_000_000,
    snapshot_id=SnapshotId("snap-fedcba98765432100"),
)
CUSTOMER = msgspec.structs.replace(
    ENCRYPTED,
    key_source=KeySource.CUSTOMER,
    wrapped_key=WrappedDataKey(
        data_key_id=DataKeyId("dk-00112233445566778"),
        ciphertext=bytes(72),
        kms_key_arn=None,
        encryption_context={},
    ),
)
UNENCRYPTED = VolumeRecord(
    volume_id=VolumeId("vol-00000000000000000"),
    counter=1,
    name=None,
    size_bytes=4096,
    unit_bytes=4096,
    key_source=KeySource.NONE,
    wrapped_key=None,
    data_path='/dev/disk/by-id/\u00e4 "quoted"\n',
    account="000000000000",
    region="us-east-1",
    created_at=0,
)


SOURCE = LazySource(
    store_id=StoreId("store-0123456789abcdef0"),
    snapshot_id=SnapshotId("snap-fedcba98765432100"),
    root=bytes(range(32)),
    size_bytes=8 * 2**30,
    digest=DigestAlgorithm.BLAKE3,
    wrapped_key=ENCRYPTED.wrapped_key,
    fill_rate=50 * 2**20,
)
LAZY = msgspec.structs.replace(ENCRYPTED, source=SOURCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    name: str
    record: VolumeRecord


GOLDEN = [
    Golden(name="volume-record-kms", record=ENCRYPTED),
    Golden(name="volume-record-customer", record=CUSTOMER),
    Golden(name="volume-record-none", record=UNENCRYPTED),
    Golden(name="volume-record-lazy", record=LAZY),
]
each_golden = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)


def decode(data: bytes) -> VolumeRecord:
    return decode_volume_record(data, SEAL, what="record of vol-1")


@each_golden
def test_golden_files(golden: Golden) -> None:
    data = golden_bytes("v1", golden.name)
    assert decode(data) == golden.record
    assert encode_volume_record(golden.record, SEAL) == data


@each_golden
def test_truncation_at_every_byte(golden: Golden) -> None:
    data = golden_bytes("v1", golden.name)
    for length in range(len(data)):
        with pytest.raises((FormatError, IntegrityError), match="record of vol-1: "):
            decode(data[:length])


@each_golden
def test_every_flipped_bit(golden: Golden) -> None:
    data = golden_bytes("v1", golden.name)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, IntegrityError), match="record of vol-1: "):
            decode(bytes(damaged))


def test_is_encrypted() -> None:
    assert ENCRYPTED.is_encrypted
    assert CUSTOMER.is_encrypted
    assert not UNENCRYPTED.is_encrypted


def test_encryption_cannot_be_turned_off_by_an_edit() -> None:
    data = encode_volume_record(ENCRYPTED, SEAL)
    with pytest.raises(SealError):
        decode(data.replace(b'"key_source":"kms"', b'"key_source":"none"'))
    bare = msgspec.structs.replace(ENCRYPTED, key_source=KeySource.NONE, wrapped_key=None)
    with pytest.raises(SealError):
        decode(encode_volume_record(bare, MacSeal(bytes(32))))


@pytest.mark.parametrize(
    "change",
    [
        {"volume_id": "vol-1"},
        {"volume_id": "snap-0123456789abcdef0"},
        {"unit_bytes": 512},
        {"size_bytes": 0},
        {"size_bytes": -UNIT_BYTES},
        {"size_bytes": UNIT_BYTES + 1},
        {"size_bytes": MAX_VOLUME_BYTES + UNIT_BYTES},
        {"counter": 0},
        {"key_source": KeySource.NONE},
        {"wrapped_key": None},
        {"data_path": "data"},
        {"data_path": ""},
        {"data_path": None, "device": "serial:1"},
        {"data_path": None, "lease": "store-0123456789abcdef0"},
        {"source": msgspec.structs.replace(SOURCE, root=b"short")},
        {"source": msgspec.structs.replace(SOURCE, size_bytes=0)},
        {"source": msgspec.structs.replace(SOURCE, size_bytes=UNIT_BYTES + 1)},
        {"source": msgspec.structs.replace(SOURCE, size_bytes=20 * 2**30)},
        {"source": msgspec.structs.replace(SOURCE, fill_rate=-1)},
        {"source": SOURCE, "key_source": KeySource.NONE, "wrapped_key": None},
    ],
    ids=str,
)
def test_values_that_contradict_each_other(change: dict[str, Any]) -> None:
    """Also under a seal that holds: a bug of a writer stops here."""
    data = encode_volume_record(msgspec.structs.replace(ENCRYPTED, **change), SEAL)
    with pytest.raises(MalformedError, match="record of vol-1: its values contradict"):
        decode(data)


def test_the_largest_volume_is_accepted() -> None:
    record = msgspec.structs.replace(ENCRYPTED, size_bytes=MAX_VOLUME_BYTES)
    assert decode(encode_volume_record(record, SEAL)) == record


def test_unknown_members_are_refused() -> None:
    for place in (b'{"volume_id"', b'{"data_key_id"'):
        covered = encode_volume_record(ENCRYPTED, SEAL).rsplit(b"\n", 2)[0] + b"\n"
        covered = covered.replace(place, b'{"extra":1,' + place[1:])
        with pytest.raises(MalformedError, match="its body does not parse"):
            decode(covered + SEAL.seal(covered).hex().encode() + b"\n")


@given(
    counter=st.integers(1, 2**63 - 1),
    name=st.none() | st.text(st.characters(codec="utf-8")),
    units=st.integers(1, MAX_VOLUME_BYTES // UNIT_BYTES),
    path=st.text(st.characters(codec="utf-8")),
    ciphertext=st.binary(max_size=300),
    context=st.dictionaries(st.text(st.characters(codec="utf-8")), st.just("value"), max_size=3),
)
def test_round_trip(
    counter: int,
    name: str | None,
    units: int,
    path: str,
    ciphertext: bytes,
    context: dict[str, str],
) -> None:
    assert ENCRYPTED.wrapped_key is not None
    record = msgspec.structs.replace(
        ENCRYPTED,
        counter=counter,
        name=name,
        size_bytes=units * UNIT_BYTES,
        data_path="/" + path,
        wrapped_key=msgspec.structs.replace(
            ENCRYPTED.wrapped_key, ciphertext=ciphertext, encryption_context=context
        ),
    )
    assert decode(encode_volume_record(record, SEAL)) == record
