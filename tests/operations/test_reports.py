"""Reports: what is not encrypted, what is to be said of keys, what dies with one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.fakes.kms import MemoryKms, memory_kms
from tests.formats.samples import COPIED, CURSOR, MANIFEST
from tests.formats.test_job import JOB
from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import KeyNotFoundError
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import KeySource, VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.aliases import (
    CreateAliasRequest,
    DeleteAliasRequest,
    UpdateAliasRequest,
)
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DisableKeyRequest
from volcrypt.kms.messages.rotation import RotateKeyOnDemandRequest
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.encryption_report import (
    EncryptionReport,
    FindingKind,
    KeyLine,
    judge,
    keys_of,
    report_encryption,
)
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.inventory import Inventory, take_inventory
from volcrypt.operations.key_facts import KeyFacts, key_facts
from volcrypt.operations.key_report import KeyReport, report_key
from volcrypt.operations.key_use import Kind, dependents_of, find_key_use
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.store_admin import create_store
from volcrypt.operations.vault import Access
from volcrypt.operations.volume_settings import set_default_key
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.write_budget import note_written
from volcrypt.settings import runtime_root
from volcrypt.volume.write_counter import BUDGET_BYTES

PLAIN = KeyChoice(encrypted=False)
SIZE = 2 * CHUNK_BYTES
NOW = 2_000_000_000.0
ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"


def new_key(home: Home) -> str:
    return home.kms.perform(home.caller, CreateKeyRequest()).key_metadata.arn


def found_by(report: EncryptionReport) -> set[tuple[FindingKind, str]]:
    return {(finding.kind, finding.subject) for finding in report.findings}


def volume(home: Home, name: str, choice: KeyChoice, tmp_path: Path) -> VolumeRecord:
    (tmp_path / "image").write_bytes(b"some content " * (SIZE // 13))
    return import_volume(home, tmp_path / "image", name=name, choice=choice, progress=SILENT).record


def snapshot(home: Home, name: str) -> Manifest:
    return create_snapshot(home, name, name=f"{name}-1", store=None, progress=SILENT)


def store(home: Home, name: str, tmp_path: Path) -> Path:
    create_store(
        home,
        name,
        url=(tmp_path / name).as_uri(),
        region=None,
        endpoint=None,
        encryption=None,
        digest=DigestAlgorithm.BLAKE3,
    )
    return tmp_path / name


def copy(home: Home, name: str, *, choice: KeyChoice, store: str | None = None) -> Manifest:
    return copy_snapshot(
        home, name, choice=choice, name=None, store=store, region=None, progress=SILENT
    )


# ---------------------------------------------------------------- what is not encrypted


def test_where_all_is_encrypted_nothing_is_found(home: Home, tmp_path: Path) -> None:
    key = new_key(home)
    made = volume(home, "data", KeyChoice(kms_key=key), tmp_path)
    taken = snapshot(home, "data")
    report = report_encryption(home)
    assert report.findings == []
    (line,) = report.keys
    assert (line.facts.arn, line.facts.state) == (key, "Enabled")
    assert (line.volumes, line.snapshots) == ([made.volume_id], [taken.snapshot_id])


def test_everything_that_is_not_encrypted_is_found(home: Home, tmp_path: Path) -> None:
    store(home, "away", tmp_path)
    plain = volume(home, "plain", PLAIN, tmp_path)
    taken = snapshot(home, "plain")
    copied = copy(home, "plain-1", choice=PLAIN, store="away")
    copy(home, "plain-1", choice=KeyChoice())
    lazy = volume_from_snapshot(
        home, "plain-1", size_bytes=None, name="lazy", choice=KeyChoice(), progress=SILENT
    )
    report = report_encryption(home)
    assert found_by(report) == {
        (FindingKind.UNENCRYPTED_VOLUME, plain.volume_id),
        (FindingKind.UNENCRYPTED_SNAPSHOT, taken.snapshot_id),
        (FindingKind.UNENCRYPTED_SNAPSHOT, copied.snapshot_id),
        (FindingKind.UNENCRYPTED_SOURCE, lazy.volume_id),
    }
    assert "store away" in next(f.text for f in report.findings if f.subject == copied.snapshot_id)


class StoppedError(Exception):
    """The end of a command before its time."""


class Stops:
    """Progress that ends the work at a step."""

    def __init__(self, step: str) -> None:
        self._step = step

    def begin(self, step: str, total_bytes: int | None) -> None:
        if step.startswith(self._step):
            raise StoppedError

    def advance(self, done_bytes: int) -> None:
        pass


def test_an_unfinished_encryption_is_found(home: Home, tmp_path: Path) -> None:
    plain = volume(home, "plain", PLAIN, tmp_path)
    key = new_key(home)

    def encrypt(progress: Stops) -> None:
        encrypt_volume(
            home,
            "plain",
            choice=KeyChoice(kms_key=key),
            keep_old=False,
            delete_plain_snapshots=False,
            progress=progress,
        )

    with pytest.raises(StoppedError):
        encrypt(Stops("restoring"))
    report = report_encryption(home)
    assert (FindingKind.UNFINISHED_ENCRYPTION, plain.volume_id) in found_by(report)
    assert plain.volume_id in report.keys[0].unfinished
    dying = {(each.kind, each.id) for each in report_key(home, key).dependents}
    assert (Kind.UNFINISHED_ENCRYPTION, plain.volume_id) in dying
    encrypt(Stops("nothing"))
    assert report_encryption(home).findings == []


def test_a_store_that_does_not_answer_is_named(home: Home, tmp_path: Path) -> None:
    away = store(home, "away", tmp_path)
    key = new_key(home)
    volume(home, "data", KeyChoice(kms_key=key), tmp_path)
    snapshot(home, "data")
    there = copy(home, "data-1", choice=KeyChoice(kms_key=key), store="away")
    away.rename(tmp_path / "gone")
    home.open_stores.clear()
    report = report_encryption(home)
    assert found_by(report) == {(FindingKind.STORE_NOT_READ, "away")}
    assert list(report_key(home, key).unread) == ["away"]
    assert any("snapshot store away" in line for line in find_key_use(home, key).lines("dies"))
    (tmp_path / "gone").rename(away)
    home.open_stores.clear()
    assert report_encryption(home).findings == []
    assert there.snapshot_id in [each.id for each in report_key(home, key).dependents]


def test_what_cannot_be_read_is_named(home: Home, tmp_path: Path) -> None:
    made = volume(home, "data", KeyChoice(), tmp_path)
    taken = snapshot(home, "data")
    record = home.volumes.path_of(made.volume_id) / "record"
    sound = record.read_bytes()
    record.write_bytes(sound[:-1] + b"?")
    assert found_by(report_encryption(home)) == {(FindingKind.NOT_READABLE, made.volume_id)}
    record.write_bytes(sound)
    (manifest,) = (home.stores_path / "local").rglob(f"*{taken.snapshot_id}*")
    kept = tmp_path / "kept"
    shutil.copy(manifest, kept)
    manifest.unlink()
    # A store that withholds a snapshot is found out by the log of its signer.
    assert {kind for kind, _ in found_by(report_encryption(home))} == {FindingKind.NOT_READABLE}
    shutil.copy(kept, manifest)
    assert report_encryption(home).findings == []


# ---------------------------------------------------------------- keys


def facts(**known: object) -> KeyFacts:
    given = {"state": "Enabled", "created_at": NOW, "knows_rotation": True, **known}
    return KeyFacts(arn=ARN, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (facts(), None),
        (facts(state=None, problem="no"), FindingKind.NOT_READABLE),
        (facts(state="NotFound"), FindingKind.KEY_LOST),
        (facts(state="Disabled"), FindingKind.KEY_UNUSABLE),
        (facts(state="PendingImport"), FindingKind.KEY_UNUSABLE),
        (facts(state="Unavailable"), FindingKind.KEY_UNUSABLE),
        (facts(state="PendingDeletion", deletion_date=NOW + 1), FindingKind.KEY_ENDS),
        (facts(valid_to=NOW + 29 * DAY_SECONDS), FindingKind.KEY_ENDS),
        (facts(valid_to=NOW + 31 * DAY_SECONDS), None),
        (facts(created_at=NOW - 371 * DAY_SECONDS), None),
        (facts(created_at=NOW - 373 * DAY_SECONDS), FindingKind.KEY_NOT_ROTATED),
        (facts(created_at=NOW - 373 * DAY_SECONDS, knows_rotation=False), None),
        (facts(created_at=0.0, last_rotation=NOW - 371 * DAY_SECONDS), None),
        (
            facts(created_at=0.0, last_rotation=NOW - 373 * DAY_SECONDS),
            FindingKind.KEY_NOT_ROTATED,
        ),
        # Who wants two years has two years.
        (facts(created_at=NOW - 700 * DAY_SECONDS, rotation_days=730), None),
        (facts(created_at=NOW - 740 * DAY_SECONDS, rotation_days=730), FindingKind.KEY_NOT_ROTATED),
    ],
)
def test_what_is_found_of_a_key(line: KeyFacts, expected: FindingKind | None) -> None:
    found = [each.kind for each in judge(Inventory(), [KeyLine(facts=line)], now=NOW)]
    assert found == ([] if expected is None else [expected])


def test_what_the_kms_says_of_a_key(home: Home) -> None:
    key = new_key(home)
    root = home.caller
    assert key_facts(home, key).last_rotation is None
    home.kms.perform(root, RotateKeyOnDemandRequest(key_id=key))
    home.kms.perform(root, CreateAliasRequest(alias_name="alias/mine", target_key_id=key))
    found = key_facts(home, key)
    assert found.knows_rotation
    assert found.last_rotation is not None
    assert found.aliases == ("alias/mine",)
    home.kms.perform(root, DisableKeyRequest(key_id=key))
    assert key_facts(home, key).state == "Disabled"
    home.kms.perform(root, ScheduleKeyDeletionRequest(key_id=key))
    assert key_facts(home, key).state == "PendingDeletion"
    assert key_facts(home, key).deletion_date is not None
    assert key_facts(home, ARN).state == "NotFound"
    theirs = ARN.replace("000000000000:key", "111111111111:key")
    assert (key_facts(home, theirs).state, key_facts(home, theirs).problem is None) == (None, False)
    imported = home.kms.perform(root, CreateKeyRequest(origin="EXTERNAL")).key_metadata.arn
    assert key_facts(home, imported).state == "PendingImport"


def test_data_keys_that_encrypted_too_much(home: Home, tmp_path: Path) -> None:
    made = volume(home, "data", KeyChoice(), tmp_path)
    note_written(home, made.wrapped_key, BUDGET_BYTES // 2 - 2**30)
    assert report_encryption(home).findings == []
    note_written(home, made.wrapped_key, BUDGET_BYTES // 2)
    assert made.wrapped_key is not None
    assert found_by(report_encryption(home)) == {
        (FindingKind.WRITE_BUDGET, made.wrapped_key.data_key_id)
    }


def test_exported_headers_are_found_with_what_they_open() -> None:
    """A header of the volume opens the snapshot that shares its data key."""
    exported = msgspec.structs.replace(COPIED, exported_at=1)
    assert exported.wrapped_key is not None
    shared = Inventory(
        volumes=[exported],
        snapshots=[MANIFEST],
        written={exported.wrapped_key.data_key_id: 0},
    )
    (finding,) = judge(shared, [], now=NOW)
    assert (finding.kind, finding.subject) == (FindingKind.EXPORTED_HEADER, exported.volume_id)
    assert MANIFEST.snapshot_id in finding.text


def test_an_unfinished_copy_that_is_not_encrypted() -> None:
    plain = msgspec.structs.replace(CURSOR, wrapped_key=None)
    (finding,) = judge(Inventory(unfinished_copies=[plain]), [], now=NOW)
    assert finding.kind is FindingKind.UNENCRYPTED_SNAPSHOT
    assert list(judge(Inventory(unfinished_copies=[CURSOR]), [], now=NOW)) == []


def test_what_is_being_made_counts_too() -> None:
    job = msgspec.structs.replace(JOB, kms_key_arn=ARN)
    assert list(judge(Inventory(pending=[job]), [], now=NOW)) == []
    (line,) = keys_of(Inventory(pending=[job]), lambda arn: KeyFacts(arn=arn))
    assert line.unfinished == [job.snapshot_id]
    (dependent,) = dependents_of(Inventory(pending=[job]), ARN)
    assert (dependent.kind, dependent.id, dependent.store) == (
        Kind.PENDING,
        job.snapshot_id,
        "local",
    )
    assert list(dependents_of(Inventory(pending=[JOB]), ARN)) == []
    plain = msgspec.structs.replace(JOB, kms_key_arn=None, data_key_id=None)
    (finding,) = judge(Inventory(pending=[plain]), [], now=NOW)
    assert (finding.kind, finding.subject) == (
        FindingKind.UNENCRYPTED_SNAPSHOT,
        plain.snapshot_id,
    )


def test_an_unfinished_copy_dies_with_its_key() -> None:
    (dependent,) = dependents_of(Inventory(unfinished_copies=[CURSOR]), ARN)
    assert (dependent.kind, dependent.id) == (Kind.UNFINISHED_COPY, CURSOR.target_snapshot_id)
    # One that is being made is told once.
    job = msgspec.structs.replace(
        JOB, snapshot_id=CURSOR.target_snapshot_id, kms_key_arn=ARN, together=()
    )
    (dependent,) = dependents_of(Inventory(unfinished_copies=[CURSOR], pending=[job]), ARN)
    assert dependent.kind is Kind.PENDING


def test_keys_are_asked_for_once() -> None:
    asked: list[str] = []

    def facts_of(arn: str) -> KeyFacts:
        asked.append(arn)
        return KeyFacts(arn=arn)

    inventory = Inventory(
        volumes=[COPIED], snapshots=[MANIFEST, MANIFEST], unfinished_copies=[CURSOR]
    )
    (line,) = keys_of(inventory, facts_of)
    assert asked == [ARN]
    assert len(line.snapshots) == 2
    assert line.unfinished == [CURSOR.target_snapshot_id]


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
