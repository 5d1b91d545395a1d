"""The cursor of an import: a golden file, every damage, and values that contradict each other."""

import msgspec
import pytest

from tests.golden import golden_bytes
from volcrypt.errors import FormatError, IntegrityError, MalformedError, SealError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.import_cursor import (
    ImportCursor,
    ImportStep,
    SourceIdentity,
    decode_import_cursor,
    encode_import_cursor,
)
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.names import DataKeyId, VolumeId

SEAL = MacSeal(bytes(range(32)))
CURSOR = ImportCursor(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    generation=4,
    step=ImportStep.COPY,
    size_bytes=2**30,
    wrapped_key=WrappedDataKey(
        data_key_id=DataKeyId("dk-00112233445566778"),
        ciphertext=bytes(range(64)),
        kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        encryption_context={"volcrypt:volume-id": "vol-0123456789abcdef0"},
    ),
    source=SourceIdentity(
        path="/srv/old.img",
        size_bytes=2**30 - 512,
        inode=4711,
        modified_ns=1_750_000_000_123_456_789,
        luks_header=bytes(range(32)),
    ),
    started_at=1_750_000_000,
    next_chunk=1024,
    data_bytes=400_000_000,
    entries=763,
    chain=bytes(range(32, 64)),
    verified_entries=0,
)


def decode(data: bytes) -> ImportCursor:
    return decode_import_cursor(data, SEAL, what="cursor")


def test_golden_file() -> None:
    assert decode(golden_bytes("v1", "import")) == CURSOR
    assert encode_import_cursor(CURSOR, SEAL) == golden_bytes("v1", "import")


@pytest.mark.parametrize("step", ImportStep)
def test_round_trip(step: ImportStep) -> None:
    source = SourceIdentity(path="/dev/sdb", size_bytes=2**30, device="serial:1")
    cursor = msgspec.structs.replace(CURSOR, step=step, wrapped_key=None, source=source)
    assert decode(encode_import_cursor(cursor, SEAL)) == cursor


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    data = encode_import_cursor(CURSOR, SEAL)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:length])
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises((FormatError, IntegrityError)):
                decode(bytes(damaged))


def test_another_volumes_seal_is_refused() -> None:
    with pytest.raises(SealError):
        decode(encode_import_cursor(CURSOR, MacSeal(bytes(32))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"volume_id": "../../etc"},
        {"generation": 0},
        {"size_bytes": 0},
        {"size_bytes": 2**30 + 1},
        {"next_chunk": 2049},
        {"entries": 1025},
        {"entries": -1},
        {"verified_entries": 764},
        {"verified_entries": -1},
        {"data_bytes": -1},
        {"chain": b""},
    ],
)
def test_values_that_contradict_each_other(wrong: dict[str, object]) -> None:
    cursor = msgspec.structs.replace(CURSOR, **wrong)
    with pytest.raises(MalformedError):
        decode(encode_import_cursor(cursor, SEAL))
