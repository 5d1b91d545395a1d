"""A snapshot that another home deletes and sweeps while this one reads it: deleted, not damaged."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import InvalidArgumentError, SnapshotNotFoundError
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.restore import fill_from_snapshot
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.snapshot_diff import diff_snapshots
from volcrypt.operations.snapshot_export import export_snapshot
from volcrypt.operations.store_admin import certify_signer, create_store
from volcrypt.operations.stores import LOCAL_STORE, home_signer, open_store, store_log
from volcrypt.operations.volumes import create_volume, opened_volume
from volcrypt.operations.workflows import resumable_copies
from volcrypt.snapshot import layout
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.log import delete
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import sweep
from volcrypt.volume.datafile import DataFile

SIZE = 4 * CHUNK_BYTES


class Once:
    """Progress that does something at the first step of a work."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def begin(self, _step: str, _total_bytes: int | None) -> None:
        self._then()

    def advance(self, done_bytes: int) -> None:
        pass


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def snapshot(home: Home, tmp_path: Path) -> Manifest:
    """In a store that is shared."""
    for name in ("shared", "away"):
        create_store(
            home,
            name,
            url=(tmp_path / name).as_uri(),
            region=home.region,
            endpoint=None,
            encryption=None,
            digest=DigestAlgorithm.BLAKE3,
        )
    create_volume(home, size_bytes=SIZE, name="data", choice=KeyChoice())
    with opened_volume(home, load_record(home, "data"), read_only=False) as (volume, file):
        for chunk in range(4):
            volume.write(chunk * CHUNK_BYTES, b"data")
        file.sync()
    return create_snapshot(home, "data", name="first", store="shared", progress=SILENT)


@pytest.fixture
def store(home: Home, snapshot: Manifest) -> SnapshotStore:
    return open_store(home, "shared")


def delete_elsewhere(home: Home, store: SnapshotStore, snapshot: Manifest) -> Progress:
    """When the work begins; as this home's log, since who deletes does not matter."""

    def then() -> None:
        with store_log(home, store) as log:
            log.save(delete(store, snapshot.snapshot_id, log.signer, log.head, now=0))
        sweep(store)

    return Once(then)


def copy(home: Home, progress: Progress) -> Manifest:
    key = home.kms.perform(home.caller, CreateKeyRequest()).key_metadata.arn
    return copy_snapshot(
        home,
        "first",
        choice=KeyChoice(kms_key=key),
        name=None,
        store="away",
        region=None,
        progress=progress,
    )


def test_a_copy_ends_and_leaves_nothing(
    home: Home, store: SnapshotStore, snapshot: Manifest
) -> None:
    with pytest.raises(SnapshotNotFoundError, match=snapshot.snapshot_id):
        copy(home, delete_elsewhere(home, store, snapshot))
    assert resumable_copies(home) == []
    assert list(open_store(home, "away").objects.list(layout.PINS)) == []


def test_an_unfinished_copy_goes_with_its_source(home: Home, snapshot: Manifest) -> None:
    def end() -> None:
        raise Killed

    with pytest.raises(Killed):
        copy(home, Once(end))
    away = open_store(home, "away")
    assert len(resumable_copies(home)) == 1
    assert len(list(away.objects.list(layout.PINS))) == 2
    delete_snapshot(home, "first")
    assert resumable_copies(home) == []
    assert list(away.objects.list(layout.PINS)) == []


def test_a_volume_that_is_filled_from_it(
    home: Home, store: SnapshotStore, snapshot: Manifest, tmp_path: Path
) -> None:
    progress = delete_elsewhere(home, store, snapshot)
    with DataFile.create(tmp_path / "data", SIZE) as data, pytest.raises(SnapshotNotFoundError):
        fill_from_snapshot(
            home, snapshot, data, wrapped_key=snapshot.wrapped_key, progress=progress
        )


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_an_image_of_it(
    home: Home, store: SnapshotStore, snapshot: Manifest, tmp_path: Path, *, skip_damaged: bool
) -> None:
    with pytest.raises(SnapshotNotFoundError):
        export_snapshot(
            home,
            "first",
            tmp_path / "image",
            skip_damaged=skip_damaged,
            progress=delete_elsewhere(home, store, snapshot),
        )
    assert not (tmp_path / "image").exists()


def test_a_comparison_with_it(home: Home, store: SnapshotStore, snapshot: Manifest) -> None:
    with opened_volume(home, load_record(home, "data"), read_only=False) as (volume, file):
        volume.write(0, b"other")
        file.sync()
    create_snapshot(home, "data", name="second", store="shared", progress=SILENT)
    deletion = delete_elsewhere(home, store, snapshot)

    class Deleting(LocalObjects):
        """Somebody deletes the snapshot when the first page is read."""

        def get(self, name: str) -> bytes:
            if name.startswith(layout.PAGES):
                store.objects = objects
                deletion.begin("", None)
            return super().get(name)

    objects = store.objects
    with (
        closing(Deleting(Path(objects.location))) as store.objects,
        pytest.raises(SnapshotNotFoundError),
    ):
        diff_snapshots(home, "first", "second")


def test_the_local_store_takes_no_other_signer(home: Home) -> None:
    with pytest.raises(InvalidArgumentError, match="is this home's alone"):
        certify_signer(home, LOCAL_STORE, home_signer(home).public_key)
