"""`encrypt --online` and `rekey` of volumes that nobody uses: data that lies elsewhere, what is
kept over an interruption, and what is refused before anything is made."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.operations.test_encrypt import MARK, StoppedError, Stops, device, make, plaintext
from tests.record_files import damage_both, write_both
from tests.snapshots import create_snapshot
from volcrypt.errors import (
    InvalidArgumentError,
    InvalidStateError,
    KeyDisabledError,
    KeyNotFoundError,
    RollbackError,
    VolcryptError,
    VolumeInUseError,
)
from volcrypt.formats.migration import Migration
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    DisableKeyRequest,
)
from volcrypt.operations.destruction import DISCARDED
from volcrypt.operations.driver_lock import driving, is_driven, stopped
from volcrypt.operations.encrypt import plan_of_encryption
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.migration_keys import new_key, try_new_key
from volcrypt.operations.migration_orders import abort_migration
from volcrypt.operations.migrations import load_migration
from volcrypt.operations.online import (
    MigrationReport,
    migrate_volume,
    plan_of_migration,
)
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.registration import CopySource, register_volume
from volcrypt.operations.snapshot_lookup import list_snapshots
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.watching import Watching
from volcrypt.volume.launch import spawn_daemon
from volcrypt.volume.mountpoint import FS_TYPE, mounts

__all__ = ["device"]

WATCHING = Watching(profile="default", region=None, interval_seconds=60.0)


def migrate(
    home: Home, progress: Progress = SILENT, *, rekeys: bool = False, deletes: bool = False
) -> MigrationReport:
    return migrate_volume(
        home,
        "data",
        choice=None if rekeys else KeyChoice(),
        rekeys=rekeys,
        launch=spawn_daemon,
        watching=WATCHING,
        progress=progress,
        delete_plain_snapshots=deletes,
    )


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def unfinished(home: Home) -> Migration:
    migration = load_migration(home, load_record(home, "data").volume_id)
    assert migration is not None
    return migration


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def is_as_before(home: Home) -> bool:
    """Nothing of a command is left on tmpfs, and nothing is mounted."""
    left = [path for path in home.runtime.iterdir() if path.suffix in (".driver", ".work", ".sock")]
    home_id = load_record(home, "data").volume_id
    return not left and not [m for m in mounts() if m.fs_type == FS_TYPE and m.source == home_id]


def test_data_elsewhere_stays_there_under_its_name(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "disk.img"
    place.parent.mkdir()
    volume_id = make(home, Placement(data=place)).volume_id
    image = place.read_bytes()
    planned = plan_of_migration(home, "data", choice=KeyChoice(), rekeys=False)
    assert planned.target == place.parent
    with pytest.raises(StoppedError):
        migrate(home, Stops("copying"))
    assert is_as_before(home)
    assert names(place.parent) == {"disk.img", f"disk.img.{volume_id}.next"}
    abort_migration(home, "data")
    assert names(place.parent) == {"disk.img"}
    assert place.read_bytes() == image
    with pytest.raises(StoppedError):
        migrate(home, Stops("removing"))
    assert names(place.parent) == {"disk.img", f"disk.img.{volume_id}.old", "disk.img.volcrypt"}
    report = migrate(home)
    assert report.runs == 2
    assert (report.old_data[0].path, report.old_data[0].method) == (place, DISCARDED)
    assert migrate(home, rekeys=True).old_data_key_id == report.data_key_id
    assert names(place.parent) == {"disk.img", "disk.img.volcrypt"}
    assert MARK not in place.read_bytes()
    assert load_record(home, "data").data_path == str(place)
    assert plaintext(home, tmp_path / "out") == image
    assert is_as_before(home)
    # A damaged record is taken from its copy.
    damage_both(home.volumes.path_of(volume_id) / "record", damage)
    with pytest.raises(RollbackError):
        load_record(home, "data")
    register_volume(home, place, CopySource())
    assert plaintext(home, tmp_path / "out") == image


def test_a_damaged_record_of_the_volume_is_put_back(home: Home, tmp_path: Path) -> None:
    record = make(home)
    path = home.volumes.path_of(record.volume_id) / "record"
    image = (path.parent / "data").read_bytes()
    before = path.read_bytes()
    damage_both(path, damage)
    with pytest.raises(RollbackError) as caught:
        migrate(home)
    assert f"put {path} back from a copy of the home" in str(caught.value.hint)
    write_both(path, before)
    with pytest.raises(StoppedError):
        migrate(home, Stops("copying"))
    damage_both(path, damage)
    with pytest.raises(RollbackError) as caught:
        load_record(home, "data")
    assert "'--abort', puts it back" in str(caught.value.hint)
    abort_migration(home, "data")
    assert path.read_bytes() == before
    with pytest.raises(StoppedError):
        migrate(home, Stops("removing"))
    damage_both(path, damage)
    migrate(home)
    assert load_record(home, "data").is_encrypted
    assert plaintext(home, tmp_path / "out") == image
    # An older one, though it was once true, is none.
    write_both(path, before)
    with pytest.raises(RollbackError):
        migrate(home, rekeys=True)


class Steps:
    """Progress that notes what each step has, and what of it was done at last."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._step = step
        self.totals[step] = total_bytes

    def advance(self, done_bytes: int) -> None:
        self.done[self._step] = done_bytes


def test_the_progress_of_copying_and_the_report_count_the_same_data(home: Home) -> None:
    make(home)
    steps = Steps()
    report = migrate(home, steps)
    assert 0 < report.copied_bytes < report.size_bytes, "there are holes"
    assert steps.totals["copying"] == steps.done["copying"] == report.copied_bytes
    assert steps.done["comparing with what is in use"] >= report.size_bytes, "they are compared too"


def test_what_a_device_has_cannot_move_within_it(home: Home, device: Path) -> None:
    make(home, Placement(data=device))
    with pytest.raises(InvalidArgumentError, match="no room for a second one") as caught:
        migrate(home)
    assert "then 'volcrypt encrypt data' leaves it on the device" in str(caught.value.hint)
    assert is_as_before(home)


def test_the_report_is_of_all_runs_and_wishes_are_kept(home: Home) -> None:
    make(home)
    plain = create_snapshot(home, "data", name="plain", store=None, progress=SILENT)
    took: list[dict[str, float]] = []
    for step in ("copying", "comparing", "removing"):
        with pytest.raises(StoppedError):
            migrate(home, Stops(step), deletes=step == "copying")
        migration = unfinished(home)
        assert migration.delete_plain_snapshots
        took.append(migration.seconds)
    planned = plan_of_migration(home, "data", choice=KeyChoice(), rekeys=False)
    assert planned.deletes_snapshots
    # A damaged record that is decided needs none, and still knows it.
    (home.work_path / f"{unfinished(home).volume_id}.migration").write_bytes(b"damaged")
    assert unfinished(home).delete_plain_snapshots
    report = migrate(home)
    assert report.plain_snapshots_deleted == [plain.snapshot_id]
    assert list_snapshots(home).manifests == []
    assert took[-1].keys() == {"copy", "verify", "switch"}


def test_a_key_that_cannot_be_used_is_told_by_the_plan(home: Home) -> None:
    make(home)
    key = home.kms.perform(home.volume_service, CreateKeyRequest()).key_metadata.arn
    home.kms.perform(home.caller, DisableKeyRequest(key_id=key))

    def online(choice: KeyChoice) -> object:
        return plan_of_migration(home, "data", choice=choice, rekeys=False)

    def offline(choice: KeyChoice) -> object:
        return plan_of_encryption(
            home, "data", choice=choice, keep_old=False, delete_plain_snapshots=False
        )

    plans: list[Callable[[KeyChoice], object]] = [online, offline]
    cases: list[tuple[str, type[VolcryptError]]] = [
        ("alias/typo", KeyNotFoundError),
        (key, KeyDisabledError),
    ]
    for plan in plans:
        for name, error in cases:
            with pytest.raises(error):
                plan(KeyChoice(kms_key=name))
        assert plan(KeyChoice()) is not None, "the control"
    volume = load_record(home, "data")
    lost = create_volume(home, size_bytes=4096, name="lost", choice=KeyChoice())
    assert lost.wrapped_key is not None
    disabled = replace(lost, wrapped_key=replace(lost.wrapped_key, kms_key_arn=key))
    for work in (try_new_key, new_key):
        with pytest.raises(KeyDisabledError) as caught:
            work(home, disabled, None)
        assert caught.value.hint == "'volcrypt rekey lost --kms-key-id K' puts it under another key"
        with pytest.raises(KeyDisabledError) as caught:
            work(home, volume, KeyChoice(kms_key=key))
        assert caught.value.hint == "enable it with 'volcrypt kms enable-key'"
    home.kms.perform(home.caller, ScheduleKeyDeletionRequest(key_id=key))
    with pytest.raises(InvalidStateError) as pending:
        new_key(home, volume, KeyChoice(kms_key=key))
    assert f"cancel-key-deletion --key-id {key}'" in str(pending.value.hint)


def test_one_drives_and_another_stops_it(home: Home) -> None:
    record = make(home)
    asked: list[int] = []
    assert not is_driven(home, record.volume_id)
    with driving(home, record) as lock:
        assert is_driven(home, record.volume_id)
        with pytest.raises(VolumeInUseError):
            ExitStack().enter_context(driving(home, record))
        before = lock.is_given_up
        (home.runtime / f"{record.volume_id}.driver").write_bytes(b"give it up")
        assert (before, lock.is_given_up) == (False, True)
    with stopped(home, record, lambda: asked.append(1), gives_up=True):
        assert is_driven(home, record.volume_id)
    # What a killed one asked for does not concern the next.
    (home.runtime / f"{record.volume_id}.driver").write_bytes(b"give it up")
    with driving(home, record) as lock:
        assert not lock.is_given_up
    assert asked == [1]
    assert is_as_before(home)
