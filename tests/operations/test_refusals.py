"""What is refused, by whom, and that nothing was done then."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.snapshots import create_snapshot
from volcrypt.errors import (
    AuditChainError,
    IntegrityError,
    InvalidArgumentError,
    SnapshotInUseError,
    TryAgainError,
    VolcryptError,
    VolumeInUseError,
    VolumeNotFoundError,
)
from volcrypt.formats import migration
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import DataKeyId
from volcrypt.operations import mounts, records
from volcrypt.operations.audit import list_audit, verified_records
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.grow import grow_volume
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice, make_data_key
from volcrypt.operations.leases import held_volume
from volcrypt.operations.mounts import mount_volume
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record, load_records, save_records
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.volume_deletion import delete_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.volume.owner import hold_volume

SIZE = 2 * CHUNK_BYTES


@pytest.fixture
def volume(home: Home) -> VolumeRecord:
    return create_volume(home, size_bytes=SIZE, name="data", choice=KeyChoice())


def test_who_holds_a_volume_has_it_under_the_key_that_he_looked_at(
    home: Home, volume: VolumeRecord
) -> None:
    """It may have got another one between the look and the hold: what he does with the old key
    would be noise."""
    assert volume.wrapped_key is not None
    with held_volume(home, volume, purpose="work"):
        pass
    other = msgspec.structs.replace(
        volume.wrapped_key, data_key_id=DataKeyId("dk-00000000000000bad")
    )
    looked_at = msgspec.structs.replace(volume, wrapped_key=other)
    with (
        pytest.raises(TryAgainError, match="just encrypted under a new data key"),
        held_volume(home, looked_at, purpose="work"),
    ):
        pytest.fail("it was held")


# ---------------------------------------------------------------- deleting


def served(home: Home, volume: VolumeRecord) -> Any:
    return hold_volume(home.volumes.path_of(volume.volume_id), purpose="mount")


@pytest.mark.parametrize("keep_data", [False, True])
def test_a_volume_in_use_is_not_deleted(home: Home, tmp_path: Path, keep_data: bool) -> None:
    made = create_volume(
        home,
        size_bytes=SIZE,
        name="away",
        choice=KeyChoice(),
        placement=Placement(data=tmp_path / "file"),
    )
    directory = home.volumes.path_of(made.volume_id)

    def still_there() -> None:
        assert load_record(home, "away") == made
        assert (tmp_path / "file").stat().st_size == SIZE
        assert not list(directory.glob("keep-data"))

    with served(home, made), pytest.raises(VolumeInUseError):
        delete_volume(home, "away", keep_data=keep_data)
    still_there()
    left = home.runtime / f"{made.volume_id}.mnt"
    left.mkdir(parents=True)
    with pytest.raises(VolumeInUseError, match="what a killed process left") as caught:
        delete_volume(home, "away", keep_data=keep_data)
    assert caught.value.hint == "volcrypt detach away"
    still_there()
    left.rmdir()
    work = RegisterEntry(
        kind=migration.KIND, id=made.volume_id, name=None, counter=1, digest=bytes(32)
    )
    home.register.apply(put=[work])
    with pytest.raises(VolcryptError):
        delete_volume(home, "away", keep_data=keep_data)
    still_there()
    home.register.apply(delete=[(migration.KIND, made.volume_id)])
    delete_volume(home, "away", keep_data=keep_data)
    assert load_records(home) == {}
    assert (tmp_path / "file").exists() is keep_data


def test_a_volume_that_changed_since_it_was_looked_at_is_not_deleted(
    home: Home, volume: VolumeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: Any) -> None:
        save_records(home, put=[msgspec.structs.replace(volume, counter=2)])

    monkeypatch.setattr("volcrypt.operations.volume_deletion.remove_dead_mounts_of", changed)
    with pytest.raises(TryAgainError):
        delete_volume(home, "data")
    assert load_record(home, "data").counter == 2
    assert (home.volumes.path_of(volume.volume_id) / "data").exists()


def test_data_in_the_home_is_not_kept_without_its_record(home: Home, volume: VolumeRecord) -> None:
    with pytest.raises(InvalidArgumentError, match="goes with its record"):
        delete_volume(home, "data", keep_data=True)
    assert load_record(home, "data") == volume


@pytest.mark.parametrize("member", ["plain_snapshot_id", "copy_snapshot_id"])
def test_snapshots_that_an_encryption_needs_are_not_deleted(
    home: Home, volume: VolumeRecord, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    made = create_snapshot(home, "data", name="snap", store=None, progress=SILENT)
    ids = {"plain_snapshot_id": None, "copy_snapshot_id": None, member: made.snapshot_id}
    work = SimpleNamespace(source_id=volume.volume_id, **ids)
    monkeypatch.setattr("volcrypt.operations.snapshot_deletion.load_workflows", lambda _: [work])
    for name in ("snap", made.snapshot_id):
        with pytest.raises(SnapshotInUseError, match="is needed by the unfinished encryption"):
            delete_snapshot(home, name)
    assert load_snapshot(home, "snap") == made


# ---------------------------------------------------------------- copying, growing, mounting


@pytest.mark.usefixtures("volume")
def test_a_copy_does_not_take_encryption_away(home: Home) -> None:
    create_snapshot(home, "data", name="snap", store=None, progress=SILENT)
    with pytest.raises(InvalidArgumentError, match="copy of an encrypted snapshot is always"):
        copy_snapshot(
            home,
            "snap",
            choice=KeyChoice(encrypted=False),
            name=None,
            store=None,
            region=None,
            progress=SILENT,
        )


def test_growth_that_cannot_be_leaves_the_size(home: Home, volume: VolumeRecord) -> None:
    path = home.volumes.path_of(volume.volume_id) / "data"

    def refused(match: str, kind: type[VolcryptError], **options: Any) -> None:
        given: dict[str, Any] = {"size_bytes": 2 * SIZE, "resize_fs": False}
        with pytest.raises(kind, match=match):
            grow_volume(home, "data", **(given | options))
        assert load_record(home, "data") == volume
        assert path.stat().st_size == SIZE

    refused("cannot shrink", InvalidArgumentError, size_bytes=SIZE - 4096)
    refused("no file system can be resized", InvalidArgumentError, resize_fs=True)
    with served(home, volume):
        refused("being mounted or unmounted just now", TryAgainError)
    with hold_volume(home.volumes.path_of(volume.volume_id), purpose="export"):
        refused("export", VolumeInUseError)
    assert grow_volume(home, "data", size_bytes=2 * SIZE, resize_fs=False).old_bytes == SIZE


def test_a_name_that_goes_to_another_volume_meanwhile_is_not_mounted(
    home: Home, volume: VolumeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = create_volume(home, size_bytes=SIZE, name="other", choice=KeyChoice())
    (tmp_path / "point").mkdir()
    real = records.find_entry
    monkeypatch.setattr(
        mounts, "find_entry", lambda home, name: real(home, "other" if name == "data" else name)
    )

    def launch(*_: Any, **__: Any) -> int:
        pytest.fail("it is served")

    with pytest.raises(TryAgainError, match="was just replaced"):
        mount_volume(home, "data", tmp_path / "point", read_only=False, launch=launch)
    assert {volume.volume_id, other.volume_id} == load_records(home).keys()


# ---------------------------------------------------------------- places


PLACES: list[tuple[Callable[[Path], Placement], bool, str]] = [
    (lambda _: Placement(force=True), True, "are for a block device"),
    (lambda _: Placement(assume_zeroed=True), True, "are for a block device"),
    (lambda _: Placement(single_host=True), True, "are for a block device"),
    (lambda _: Placement(lease="local"), True, "outside of the home"),
    (lambda at: Placement(data=at / "new", force=True), True, "is no block device"),
    (lambda at: Placement(data=at / "new", assume_zeroed=True), True, "is no block device"),
    (lambda at: Placement(data=at / "new", single_host=True), True, "is no block device"),
    (lambda at: Placement(data=at / "new", lease="local"), False, "needs no lease"),
    (lambda at: Placement(data=at / "there"), True, "exists already"),
    (lambda at: Placement(data=at / "copied"), True, "the copy of the record would go"),
    (lambda at: Placement(data=at / "no" / "new"), True, "is no directory"),
    (lambda at: Placement(data=at / "home" / "new"), True, "is in the home"),
]


@pytest.mark.parametrize(("place", "encrypted", "message"), PLACES)
def test_places_where_no_volume_goes(
    home: Home,
    tmp_path: Path,
    place: Callable[[Path], Placement],
    encrypted: bool,
    message: str,
) -> None:
    (tmp_path / "there").write_bytes(b"somebody's")
    (tmp_path / "copied.volcrypt").write_bytes(b"somebody's")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidArgumentError, match=message):
        create_volume(
            home,
            size_bytes=SIZE,
            name=None,
            choice=KeyChoice(encrypted=encrypted),
            placement=place(tmp_path),
        )
    assert sorted(tmp_path.iterdir()) == before
    assert load_records(home) == {}
    # Nor was the KMS asked for a key.
    assert "GenerateDataKeyWithoutPlaintext" not in {each.event_name for each in list_audit(home)}


# ---------------------------------------------------------------- keys, records, the log


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_data_key_of_another_length_is_none(length: int) -> None:
    answer: Any = SimpleNamespace(plaintext=bytearray(range(length)))
    with pytest.raises(IntegrityError, match="unusable data key"):
        make_data_key(answer)


def test_who_reads_a_record_while_it_is_changed_reads_the_new_one(
    home: Home, volume: VolumeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between his look at the register and his look at the file."""
    newer = msgspec.structs.replace(volume, counter=2, name="renamed")
    entry = home.register.get(records.KIND, volume.volume_id)
    save_records(home, put=[newer])
    monkeypatch.setattr(records, "find_entry", lambda *_: entry)
    assert load_record(home, "data") == newer
    home.register.apply(delete=[(records.KIND, volume.volume_id)])
    with pytest.raises(VolumeNotFoundError):
        load_record(home, "data")


@pytest.mark.usefixtures("volume")
def test_an_edited_log_is_not_listed(home: Home) -> None:
    (log,) = (home.path / "kms" / "audit").glob("audit-*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    log.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(AuditChainError):
        list_audit(home)
    with pytest.raises(AuditChainError):
        list(verified_records(home))
    log.write_bytes(b"".join(lines))
    assert [record.sequence for record in list_audit(home)] == [
        record.sequence for record in verified_records(home)
    ]
