"""Lazy volumes as operations: pins, records and copies of records, from the making to the end."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.command import disposable_home
from tests.snapshots import create_snapshot
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    InvalidArgumentError,
    ObjectStoreError,
    SnapshotNotFoundError,
    TryAgainError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import VolumeId, make_volume_id
from volcrypt.operations import lazy_volumes, restore
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.lazy_fetch import fetch_rest
from volcrypt.operations.lazy_volumes import make_whole, settle_lazy_volumes
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record, present_path
from volcrypt.operations.registration import CopySource, register_volume
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.snapshot_deletion import delete_snapshot, sweep_store
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.store_admin import create_store
from volcrypt.operations.stores import home_signer, open_local_store, open_store
from volcrypt.operations.volume_deletion import delete_volume
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volumes import check_volume, create_volume
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.pin import hold_lastingly, lasting_pins
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.owner import hold_volume

CONTENT = Random(5).randbytes(3 * CHUNK_BYTES + 4096)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """With volume `data`, its snapshot `first`, and a shared store `shared`."""
    root = tmp_path_factory.mktemp("lazy")
    (root / "image").write_bytes(CONTENT)
    with disposable_home(root / "home") as command:
        init_home(
            command.home, runtime_root(), account=DEFAULT_ACCOUNT, region=DEFAULT_REGION, pin=None
        )
        with Home(command.home, runtime_root()) as opened:
            import_volume(opened, root / "image", name="data", choice=KeyChoice(), progress=SILENT)
            create_snapshot(opened, "data", name="first", store=None, progress=SILENT)
            create_store(
                opened,
                "shared",
                url=(root / "shared").as_uri(),
                region=None,
                endpoint=None,
                encryption=None,
                digest=DigestAlgorithm.SHA256,
            )
            yield opened


def make(home: Home, snapshot: str = "first", *, data: Path | None = None) -> VolumeRecord:
    return volume_from_snapshot(
        home,
        snapshot,
        size_bytes=None,
        name=None,
        choice=None,
        progress=SILENT,
        placement=Placement(data=data),
        fill_rate=12345,
    )


def pinning(store: SnapshotStore) -> set[VolumeId]:
    return {volume_id for volume_id, _ in lasting_pins(store)}


def whole(home: Home, record: VolumeRecord) -> VolumeRecord:
    with hold_volume(home.volumes.path_of(record.volume_id), purpose="test"):
        return make_whole(home, load_record(home, record.volume_id), SILENT)


def content(home: Home, record: VolumeRecord, tmp_path: Path) -> bytes:
    target = tmp_path / record.volume_id
    export_volume(home, record.volume_id, target, progress=SILENT)
    return target.read_bytes()


def test_the_record_says_where_the_chunks_are_until_they_are_here(
    home: Home, tmp_path: Path
) -> None:
    record = make(home)
    manifest = load_snapshot(home, "first")
    assert record.source is not None
    assert (record.source.root, record.source.fill_rate) == (manifest.root, 12345)
    assert record.volume_id in pinning(open_local_store(home))
    assert record.wrapped_key is not None
    assert record.wrapped_key.data_key_id == record.source.wrapped_key.data_key_id  # type: ignore[union-attr]
    filled = whole(home, record)
    assert filled.source is None
    assert filled.counter == record.counter + 1
    assert not present_path(home, record.volume_id).exists()
    assert pinning(open_local_store(home)) == set()
    assert whole(home, filled) == filled
    assert content(home, record, tmp_path) == CONTENT
    delete_volume(home, record.volume_id)


def test_a_store_with_another_digest(home: Home, tmp_path: Path) -> None:
    create_snapshot(home, "data", name="far", store="shared", progress=SILENT)
    record = make(home, "far")
    delete_snapshot(home, "far")
    assert pinning(open_store(home, "shared")) == {record.volume_id}
    assert content(home, record, tmp_path) == CONTENT
    sweep_store(home, open_store(home, "shared"))
    assert list(open_store(home, "shared").objects.list("chunks/")) == []
    delete_volume(home, record.volume_id)


def test_an_empty_snapshot_makes_an_ordinary_volume(home: Home) -> None:
    create_volume(home, size_bytes=2 * CHUNK_BYTES, name="void", choice=KeyChoice())
    create_snapshot(home, "void", name="nothing", store=None, progress=SILENT)
    record = make(home, "nothing")
    assert record.source is None
    assert not present_path(home, record.volume_id).exists()
    for volume in (record.volume_id, "void"):
        delete_volume(home, volume)
    delete_snapshot(home, "nothing")


def test_a_killed_making_leaves_a_pin_that_the_next_sweep_removes(home: Home) -> None:
    manifest = load_snapshot(home, "first")
    create_snapshot(home, "data", name="far", store="shared", progress=SILENT)
    far = load_snapshot(home, "far")
    kept = make(home, "far")
    for store, known in ((open_local_store(home), manifest), (open_store(home, "shared"), far)):
        killed = make_volume_id(home.random_id_bytes())
        hold_lastingly(store, killed, known, signer=home_signer(home), now=0)
        assert killed in pinning(store)
        sweep_store(home, store)
        assert killed not in pinning(store)
    assert pinning(open_store(home, "shared")) == {kept.volume_id}
    delete_volume(home, kept.volume_id)
    delete_snapshot(home, "far")


@pytest.mark.parametrize("store", ["local", "shared"])
@pytest.mark.parametrize("damage", ["deleted", "flipped", "another's"])
def test_a_pin_that_was_lost_is_put_again_before_a_sweep(
    home: Home, tmp_path: Path, store: str, damage: str
) -> None:
    """It is this home's sweep that would take what this home's volume needs."""
    create_snapshot(home, "data", name="far", store=store, progress=SILENT)
    record, other = make(home, "far"), make(home)
    objects = open_store(home, store).objects
    name = f"pins/{record.volume_id}"
    if damage == "flipped":
        objects.replace(name, objects.get(name).replace(b"roots", b"rootz"))
    elif damage == "another's":
        objects.replace(name, open_local_store(home).objects.get(f"pins/{other.volume_id}"))
    else:
        objects.delete(name)
    delete_snapshot(home, "far")
    assert record.volume_id in pinning(open_store(home, store))
    assert content(home, record, tmp_path) == CONTENT
    for each in (record, other):
        delete_volume(home, each.volume_id)


@pytest.mark.parametrize("step", ["make_present_map", "store.manifest"])
def test_a_failed_making_leaves_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = set(home.volumes.path.iterdir())

    def fail(*_: object) -> None:
        raise ObjectStoreError("it fails here")

    if step == "make_present_map":
        monkeypatch.setattr(restore, step, fail)
        expected: type[Exception] = ObjectStoreError
    else:
        # A sweep was there just before the pin: the snapshot is gone when it is looked up again.
        def gone(store: object, volume: VolumeId, *_: object, **members: object) -> None:
            hold_lastingly(open_local_store(home), volume, *_, **members)  # type: ignore[arg-type]
            monkeypatch.setattr(SnapshotStore, "manifest", not_found)

        def not_found(_: object, snapshot: str) -> None:
            raise SnapshotNotFoundError(snapshot)

        monkeypatch.setattr(lazy_volumes, "hold_lastingly", gone)
        expected = SnapshotNotFoundError
    with pytest.raises(expected):
        make(home)
    monkeypatch.undo()
    assert set(home.volumes.path.iterdir()) == before
    assert pinning(open_local_store(home)) == set()


def test_a_store_that_is_away_at_the_end_is_told_by_a_later_sweep(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make(home)
    delete = LocalObjects.delete

    def away(objects: LocalObjects, name: str) -> None:
        if name.startswith("pins/"):
            raise ObjectStoreError("it is away")
        delete(objects, name)

    monkeypatch.setattr(LocalObjects, "delete", away)
    assert whole(home, record).source is None
    monkeypatch.undo()
    assert pinning(open_local_store(home)) == {record.volume_id}
    sweep_store(home, open_local_store(home))
    assert pinning(open_local_store(home)) == set()
    delete_volume(home, record.volume_id)


def test_the_copy_of_its_record_follows_and_no_other_home_takes_it_before(
    home: Home, tmp_path: Path
) -> None:
    record = make(home, data=tmp_path / "elsewhere")
    check_volume(home, record.volume_id)
    with pytest.raises(InvalidArgumentError, match="are still in snapshot"):
        register_volume(home, tmp_path / "elsewhere", CopySource())
    with hold_volume(home.volumes.path_of(record.volume_id), purpose="test"):
        assert record.source is not None
        fetch_rest(home, record, record.source, SILENT)
    # As the process that serves it leaves it; this is what the next command does.
    settle_lazy_volumes(home)
    assert load_record(home, record.volume_id).source is None
    check_volume(home, record.volume_id)
    assert content(home, record, tmp_path) == CONTENT
    delete_volume(home, record.volume_id)


def test_a_home_does_not_forget_what_it_alone_knows(home: Home, tmp_path: Path) -> None:
    record = make(home, data=tmp_path / "elsewhere")
    with pytest.raises(InvalidArgumentError, match="only this home knows what"):
        delete_volume(home, record.volume_id, keep_data=True)
    assert content(home, record, tmp_path) == CONTENT
    delete_volume(home, record.volume_id, keep_data=True)
    assert (tmp_path / "elsewhere").exists()


def test_a_detached_snapshot_of_one_under_a_customer_provided_key(
    home: Home, tmp_path: Path
) -> None:
    """The command has no such key, and needs none when all chunks are here."""
    key = CustomerKey(bytearray(range(32)))
    choice = KeyChoice(customer_key=key)
    record = volume_from_snapshot(
        home, "first", size_bytes=None, name=None, choice=choice, progress=SILENT
    )
    assert record.source is not None
    with pytest.raises(TryAgainError, match="customer-provided key"):
        create_snapshot(home, record.volume_id, name="own", store=None, progress=SILENT)
    home.customer_keys.append(key)
    with hold_volume(home.volumes.path_of(record.volume_id), purpose="test"):
        fetch_rest(home, record, record.source, SILENT)
    home.customer_keys.clear()
    create_snapshot(home, record.volume_id, name="own", store=None, progress=SILENT)
    delete_snapshot(home, "own")
    delete_volume(home, record.volume_id)
