"""The cursor of a workflow: a golden file, every damage, and values that contradict each other."""

import msgspec
import pytest

from tests.golden import golden_bytes
from volcrypt.errors import FormatError, IntegrityError, MalformedError, SealError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.formats.workflow import Step, Workflow, decode_workflow, encode_workflow
from volcrypt.names import DataKeyId, SnapshotId, VolumeId

SEAL = MacSeal(bytes(range(32)))
KEY = WrappedDataKey(
    data_key_id=DataKeyId("dk-00112233445566778"),
    ciphertext=bytes(range(64)),
    kms_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    encryption_context={"volcrypt:snapshot-id": "snap-11111111111111111"},
)
WORKFLOW = Workflow(
    source_id=VolumeId("vol-0123456789abcdef0"),
    generation=4,
    step=Step.VERIFY,
    store="local",
    plain_snapshot_id=SnapshotId("snap-00000000000000000"),
    copy_snapshot_id=SnapshotId("snap-11111111111111111"),
    copy_key=KEY,
    target_id=VolumeId("vol-22222222222222222"),
    target_key=msgspec.structs.replace(
        KEY, encryption_context={"volcrypt:volume-id": "vol-22222222222222222"}
    ),
    keep_old=True,
    delete_plain_snapshots=False,
    started_at=1_750_000_000,
    verified_bytes=2**30,
)


def decode(data: bytes) -> Workflow:
    return decode_workflow(data, SEAL, what="cursor")


def test_golden_file() -> None:
    assert decode(golden_bytes("v1", "workflow")) == WORKFLOW
    assert encode_workflow(WORKFLOW, SEAL) == golden_bytes("v1", "workflow")


@pytest.mark.parametrize("step", Step)
def test_round_trip(step: Step) -> None:
    workflow = msgspec.structs.replace(
        WORKFLOW,
        step=step,
        keep_old=False,
        old_path="/dev/sdb",
        in_place=True,
        data_bytes=2**20,
        content_digest="00" * 32,
        seconds={"snapshot": 1.5},
    )
    assert decode(encode_workflow(workflow, SEAL)) == workflow


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    data = encode_workflow(WORKFLOW, SEAL)
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
        decode(encode_workflow(WORKFLOW, MacSeal(bytes(32))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_id": "../../etc"},
        {"target_id": "vol-2"},
        {"plain_snapshot_id": "vol-0123456789abcdef0"},
        {"copy_snapshot_id": ""},
        {"generation": 0},
        {"verified_bytes": -1},
        {"data_bytes": -1},
        {"in_place": True},
        {"step": Step.COMPARE},
        {"target_key": msgspec.structs.replace(KEY, data_key_id=DataKeyId("dk-another"))},
    ],
)
def test_values_that_contradict_each_other(wrong: dict[str, object]) -> None:
    workflow = msgspec.structs.replace(WORKFLOW, **wrong)
    with pytest.raises(MalformedError):
        decode(encode_workflow(workflow, SEAL))
