"""The record of a job: a golden file, every damage, and values that contradict each other."""

from contextlib import suppress

import msgspec
import pytest

from tests.golden import golden_bytes
from volcrypt.errors import BadMagicError, FormatError, MalformedError, UnsupportedVersionError
from volcrypt.formats.job import JobKind, JobRecord, decode_job, encode_job
from volcrypt.formats.manifest import Consistency, Origin
from volcrypt.names import SnapshotId, StoreId, VolumeId

JOB = JobRecord(
    snapshot_id=SnapshotId("snap-0123456789abcdef0"),
    name="nightly-data",
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=2**30,
    store_id=StoreId("store-0123456789abcdef0"),
    store_name="local",
    region="us-east-1",
    kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    data_key_id="dk-00112233445566778",
    together=(SnapshotId("snap-0123456789abcdef0"), SnapshotId("snap-11111111111111111")),
    consistency=Consistency.FILE_SYSTEM,
    rate=50 * 2**20,
    started_at=1_760_000_000,
    captured_at=1_760_000_001,
    barrier_us=180,
    pid=4711,
    boot_id="6a7e4b1c-0000-4000-8000-000000000000",
    reason=None,
)
COPY = msgspec.structs.replace(
    JOB,
    name=None,
    together=(),
    consistency=Consistency.CRASH,
    rate=None,
    barrier_us=None,
    reason="its store was gone",
    origin=Origin(
        store_id=StoreId("store-11111111111111111"),
        snapshot_id=SnapshotId("snap-22222222222222222"),
        root=bytes(range(32)),
    ),
)


def decode(data: bytes) -> JobRecord:
    return decode_job(data, what="job")


def replaced_origin(**wrong: object) -> Origin:
    assert COPY.origin is not None
    return msgspec.structs.replace(COPY.origin, **wrong)


def test_golden_file() -> None:
    assert decode(golden_bytes("v1", "job")) == JOB
    assert encode_job(JOB) == golden_bytes("v1", "job")
    assert decode(golden_bytes("v1", "job-copy")) == COPY
    assert encode_job(COPY) == golden_bytes("v1", "job-copy")


def test_round_trip() -> None:
    failed = msgspec.structs.replace(
        JOB, name=None, kms_key_arn=None, data_key_id=None, together=(), reason="no space left"
    )
    assert decode(encode_job(failed)) == failed
    assert (JOB.is_encrypted, failed.is_encrypted) == (True, False)
    assert (JOB.kind, COPY.kind) == (JobKind.SNAPSHOT, JobKind.COPY)


def test_what_is_damaged_is_refused_by_name() -> None:
    data = encode_job(JOB)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:length])
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            # There is no seal, so another name is a name; nothing but FormatError comes out.
            with suppress(FormatError):
                assert decode(bytes(damaged)) != JOB


def test_other_kinds_and_versions_are_refused() -> None:
    with pytest.raises(BadMagicError):
        decode(b"volcrypt owner 1\n{}\n")
    with pytest.raises(UnsupportedVersionError):
        decode(encode_job(JOB).replace(b"job 1\n", b"job 2\n"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"snapshot_id": "../../etc"},
        {"volume_id": "vol-1"},
        {"store_id": "local"},
        {"store_name": "../local"},
        {"name": "snap-me"},
        {"together": ("snap-11111111111111111",)},
        {"together": ("snap-0123456789abcdef0", "x")},
        {"size_bytes": 0},
        {"size_bytes": 2**60},
        {"rate": 0},
        {"origin": replaced_origin(store_id="local")},
        {"origin": replaced_origin(snapshot_id="snap-1")},
        {"origin": replaced_origin(snapshot_id=JOB.snapshot_id)},
        {"origin": replaced_origin(root=b"short")},
    ],
)
def test_values_that_contradict_each_other(wrong: dict[str, object]) -> None:
    job = msgspec.structs.replace(JOB, **wrong)
    with pytest.raises(MalformedError):
        decode(encode_job(job))
