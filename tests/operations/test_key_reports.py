"""Reports on a key: what dies with it, and where that is looked for."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.fakes.kms import MemoryKms, memory_kms
from tests.formats.samples import COPIED
from tests.operations.reporting import (
    ARN,
    PLAIN,
    SIZE,
    StoppedError,
    Stops,
    copy,
    found_by,
    new_key,
    snapshot,
    store,
    volume,
)
from volcrypt.errors import KeyNotFoundError
from volcrypt.formats.volume_record import KeySource
from volcrypt.kms.messages.aliases import (
    CreateAliasRequest,
    DeleteAliasRequest,
    UpdateAliasRequest,
)
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.encryption_report import (
    FindingKind,
    report_encryption,
)
from volcrypt.operations.home import Home
from volcrypt.operations.inventory import Inventory, take_inventory
from volcrypt.operations.key_report import KeyReport, report_key
from volcrypt.operations.key_use import Kind, dependents_of, find_key_use
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.vault import Access
from volcrypt.operations.volume_settings import set_default_key
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import runtime_root

# ---------------------------------------------------------------- what dies with a key


def test_what_dies_with_a_key_in_all_stores(home: Home, tmp_path: Path) -> None:
    key, other = new_key(home), new_key(home)
    store(home, "away", tmp_path)
    made = volume(home, "data", KeyChoice(kms_key=key), tmp_path)
    taken = snapshot(home, "data")
    there = copy(home, "data-1", choice=KeyChoice(kms_key=key), store="away")
    # Under another key, but what it has not fetched is under this one.
    lazy = volume_from_snapshot(
        home, "data-1", size_bytes=None, name="l", choice=KeyChoice(kms_key=other), progress=SILENT
    )
    copy(home, "data-1", choice=KeyChoice(kms_key=other))
    create_volume(home, size_bytes=SIZE, name="else", choice=KeyChoice())
    expected = {
        (Kind.VOLUME, made.volume_id, None),
        (Kind.SNAPSHOT, taken.snapshot_id, "local"),
        (Kind.COPY, there.snapshot_id, "away"),
        (Kind.UNFETCHED, lazy.volume_id, "local"),
    }
    home.kms.perform(home.caller, CreateAliasRequest(alias_name="alias/mine", target_key_id=key))
    for name in (
        key,
        key.rpartition("/")[2],
        "alias/mine",
        key.partition(":key")[0] + ":alias/mine",
    ):
        report = report_key(home, name)
        assert report.key_arn == key
        assert {(each.kind, each.id, each.store) for each in report.dependents} == expected
        assert report.usage is not None
        assert report.usage.volumes[made.volume_id].uses > 0
        assert report.usage.principals[home.caller.arn].uses > 0
    assert {each.id for each in find_key_use(home, "alias/mine").dependents} == {
        id_ for _, id_, _ in expected
    }


def test_a_copy_of_a_record_dies_with_its_volume(home: Home, tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(COPIED, exported_at=1)
    place = "/srv/orders.volcrypt"
    inventory = Inventory(volumes=[elsewhere], record_copies={elsewhere.volume_id: place})
    made, record_copy = dependents_of(inventory, ARN)
    assert (made.kind, made.exported_at) == (Kind.VOLUME, 1)
    assert (record_copy.kind, record_copy.place) == (Kind.RECORD_COPY, place)
    plain = msgspec.structs.replace(COPIED, key_source=KeySource.NONE, wrapped_key=None)
    assert list(dependents_of(Inventory(volumes=[plain]), ARN)) == []


def test_many_objects_are_named_briefly(home: Home) -> None:
    key = new_key(home)
    lines = list(find_key_use(home, key).lines("dies with the key"))
    assert lines == [f"no volume or snapshot of this home is under {key}"]
    for number in range(22):
        create_volume(home, size_bytes=4096, name=f"v{number}", choice=KeyChoice(kms_key=key))
    lines = list(find_key_use(home, key).lines("dies with the key"))
    assert len(lines) == 21
    assert "so do 2 more" in lines[-1]
    assert len(report_key(home, key).dependents) == 22


def test_a_name_that_a_key_had_still_finds_it(home: Home) -> None:
    """The key that had it last, as the log says."""
    first, second = new_key(home), new_key(home)
    root, name = home.caller, "alias/mine"
    home.kms.perform(root, CreateAliasRequest(alias_name=name, target_key_id=first))
    home.kms.perform(root, UpdateAliasRequest(alias_name=name, target_key_id=second))
    home.kms.perform(root, DeleteAliasRequest(alias_name=name))
    assert report_key(home, name).key_arn == second
    for unknown in ("alias/other", ARN, ARN.rpartition("/")[2]):
        with pytest.raises(KeyNotFoundError):
            report_key(home, unknown)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MemoryKms]:
    with memory_kms(tmp_path / "other") as kms:
        yield kms


def test_a_key_of_another_kms_has_its_uses_on_record_there(
    home: Home, other: MemoryKms, tmp_path: Path
) -> None:
    access = Access(region="us-east-1", other_kms=lambda: other.service, kms_name="other")
    home.rest()
    with Home(home.path, runtime_root(), access=access) as there:
        key = other.new_key()
        made = create_volume(there, size_bytes=SIZE, name="v", choice=KeyChoice(kms_key=key))
        report: KeyReport = report_key(there, key)
        assert report.usage is None
        assert not find_key_use(there, key).is_default
        set_default_key(there, key)
        assert find_key_use(there, key).is_default
        assert report_key(there, key).is_default
        assert [each.id for each in report.dependents] == [made.volume_id]
        assert load_record(there, "v").volume_id == made.volume_id


# ---------------------------------------------------------------- what is looked at


def test_the_only_store_is_away(home: Home, tmp_path: Path) -> None:
    volume(home, "data", KeyChoice(), tmp_path)
    snapshot(home, "data")
    local = home.stores_path / "local"
    local.rename(tmp_path / "gone")
    assert found_by(report_encryption(home)) == {(FindingKind.STORE_NOT_READ, "local")}
    (tmp_path / "gone").rename(local)
    assert report_encryption(home).findings == []


def test_a_damaged_manifest_is_named(home: Home, tmp_path: Path) -> None:
    volume(home, "data", KeyChoice(), tmp_path)
    taken = snapshot(home, "data")
    (manifest,) = (home.stores_path / "local").rglob(f"*{taken.snapshot_id}*")
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes()[:-9] + b"x" * 9)
    found = found_by(report_encryption(home))
    assert (FindingKind.NOT_READABLE, taken.snapshot_id) in found


def test_volumes_with_data_elsewhere(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "data"
    made = create_volume(
        home,
        size_bytes=SIZE,
        name="v",
        choice=KeyChoice(),
        placement=Placement(data=path),
    )
    found = take_inventory(home)
    assert found.record_copies == {made.volume_id: f"{path}.volcrypt"}


class StopsAtData(Stops):
    """Progress that ends the work when some of it is done."""

    def advance(self, done_bytes: int) -> None:
        if done_bytes:
            raise StoppedError


def test_unfinished_copies_are_looked_at(home: Home, tmp_path: Path) -> None:
    volume(home, "plain", PLAIN, tmp_path)
    snapshot(home, "plain")
    key = new_key(home)
    with pytest.raises((StoppedError, ExceptionGroup)):
        copy_snapshot(
            home,
            "plain-1",
            choice=KeyChoice(kms_key=key),
            name=None,
            store=None,
            region=None,
            progress=StopsAtData("nothing"),
        )
    (cursor,) = take_inventory(home).unfinished_copies
    (dependent,) = report_key(home, key).dependents
    assert (dependent.kind, dependent.id) == (Kind.UNFINISHED_COPY, cursor.target_snapshot_id)
    (file,) = home.work_path.glob("*.copy")
    file.write_bytes(b"junk")
    assert f"unfinished copy {cursor.target_snapshot_id}" in take_inventory(home).unreadable


def test_a_damaged_cursor_of_a_workflow_is_named(home: Home, tmp_path: Path) -> None:
    plain = volume(home, "plain", PLAIN, tmp_path)
    with pytest.raises(StoppedError):
        encrypt_volume(
            home,
            "plain",
            choice=KeyChoice(),
            keep_old=False,
            delete_plain_snapshots=False,
            progress=Stops("restoring"),
        )
    for path in home.work_path.glob(f"{plain.volume_id}*"):
        if not path.name.endswith(".copy"):
            path.write_bytes(b"junk")
    assert f"unfinished encryption of {plain.volume_id}" in take_inventory(home).unreadable
