"""The record of a migration: a golden file, every damage, and values that contradict each other."""

import msgspec
import pytest

from tests.golden import golden_bytes
from volcrypt.errors import FormatError, IntegrityError, MalformedError, SealError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.migration import (
    Migration,
    MigrationStep,
    decode_migration,
    encode_migration,
)
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, UNIT_BYTES
from volcrypt.names import DataKeyId, VolumeId

SEAL = MacSeal(bytes(range(32)))
MIGRATION = Migration(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    generation=4,
    step=MigrationStep.COPY,
    migration=bytes(range(16)),
    size_bytes=10 * CHUNK_BYTES + UNIT_BYTES,
    region_bytes=8 * CHUNK_BYTES,
    source_key_id=None,
    target_key=WrappedDataKey(
        data_key_id=DataKeyId("dk-00112233445566778"),
        ciphertext=bytes(range(64)),
        kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        encryption_context={"volcrypt:volume-id": "vol-0123456789abcdef0"},
    ),
    started_at=1_750_000_000,
    cursor=7,
    rate_bytes=2**20,
)
DONE = msgspec.structs.replace(
    MIGRATION, step=MigrationStep.RENAME, cursor=11, verified=11, paused=True
)


def decode(data: bytes) -> Migration:
    return decode_migration(data, SEAL, what="record")


def test_golden_file() -> None:
    figures = msgspec.structs.replace(
        MIGRATION,
        delete_plain_snapshots=True,
        volume_record=b"volcrypt volume 1\n{}\n",
        runs=3,
        copied_bytes=9 * 2**22,
        seconds={"copy": 12.5},
        worst_us=74_000,
    )
    assert decode(golden_bytes("v1", "migration")) == figures
    assert encode_migration(figures, SEAL) == golden_bytes("v1", "migration")
    # As it was written before there were figures.
    assert decode(golden_bytes("v1", "migration-before-figures")) == MIGRATION


@pytest.mark.parametrize("step", MigrationStep)
def test_round_trip(step: MigrationStep) -> None:
    migration = msgspec.structs.replace(DONE, step=step)
    assert decode(encode_migration(migration, SEAL)) == migration


def test_its_intents_are_of_this_volume_and_migration() -> None:
    header = MIGRATION.intents
    assert (header.volume_id, header.migration) == (MIGRATION.volume_id, MIGRATION.migration)
    assert header.region_count == 2


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    data = encode_migration(MIGRATION, SEAL)
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
        decode(encode_migration(MIGRATION, MacSeal(bytes(32))))


def test_there_is_none_without_a_target_key() -> None:
    """What would be a way back to plaintext does not parse."""
    data = encode_migration(msgspec.structs.replace(MIGRATION, target_key=None), SEAL)
    with pytest.raises(FormatError):
        decode(data)


@pytest.mark.parametrize(
    ("of", "wrong"),
    [
        (MIGRATION, {"volume_id": "../../etc"}),
        (MIGRATION, {"generation": 0}),
        (MIGRATION, {"migration": bytes(15)}),
        (MIGRATION, {"size_bytes": 0, "cursor": 0}),
        (MIGRATION, {"size_bytes": 10 * CHUNK_BYTES + 1}),
        (MIGRATION, {"size_bytes": MAX_VOLUME_BYTES + UNIT_BYTES}),
        (MIGRATION, {"region_bytes": 0}),
        (MIGRATION, {"region_bytes": CHUNK_BYTES + UNIT_BYTES}),
        (MIGRATION, {"source_key_id": MIGRATION.target_key.data_key_id}),
        (MIGRATION, {"cursor": 12}),
        (MIGRATION, {"cursor": -1, "verified": -1}),
        (MIGRATION, {"verified": 8}),
        (MIGRATION, {"rate_bytes": 0}),
        (MIGRATION, {"step": MigrationStep.VERIFY}),
        (DONE, {"verified": 10}),
        (DONE, {"step": MigrationStep.DESTROY, "verified": 10}),
    ],
)
def test_values_that_contradict_each_other(of: Migration, wrong: dict[str, object]) -> None:
    migration = msgspec.structs.replace(of, **wrong)
    with pytest.raises(MalformedError):
        decode(encode_migration(migration, SEAL))
