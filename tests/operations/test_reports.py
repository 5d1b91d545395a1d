"""Reports on encryption: what is not encrypted, and what is to be said of keys."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tests.formats.samples import COPIED, CURSOR, MANIFEST
from tests.formats.test_job import JOB
from tests.operations.reporting import (
    ARN,
    NOW,
    PLAIN,
    StoppedError,
    Stops,
    copy,
    found_by,
    new_key,
    snapshot,
    store,
    volume,
)
from tests.record_files import write_both
from volcrypt.kms.messages.aliases import (
    CreateAliasRequest,
)
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DisableKeyRequest
from volcrypt.kms.messages.rotation import RotateKeyOnDemandRequest
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.encryption_report import (
    FindingKind,
    KeyLine,
    judge,
    keys_of,
    report_encryption,
)
from volcrypt.operations.home import Home
from volcrypt.operations.inventory import Inventory
from volcrypt.operations.key_facts import KeyFacts, key_facts
from volcrypt.operations.key_report import report_key
from volcrypt.operations.key_use import Kind, dependents_of, find_key_use
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.write_budget import note_written
from volcrypt.volume.write_counter import BUDGET_BYTES

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
    write_both(record, sound[:-1] + b"?")
    assert found_by(report_encryption(home)) == {(FindingKind.NOT_READABLE, made.volume_id)}
    write_both(record, sound)
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
    assert f"'volcrypt rekey {exported.volume_id}'" in finding.text


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
