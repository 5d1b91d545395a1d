"""`report encryption`: what is not encrypted, and what is to be said of the keys of the rest.

A *finding* is something that somebody should change, or that could not be looked at; a *note* is
true of the home as it is set up. What is found follows from an inventory, the facts of the keys in
it, and the time; `judge` is pure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import VolumeRecord, key_arn_of
from volcrypt.kms.clock import host_time
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.names import DataKeyId
from volcrypt.operations.home import Home
from volcrypt.operations.inventory import Inventory, take_inventory
from volcrypt.operations.key_facts import KeyFacts, key_facts
from volcrypt.operations.key_states import NOT_FOUND, SOON_SECONDS
from volcrypt.operations.volume_settings import SettingsView, view_settings
from volcrypt.operations.write_budget import budget_warning

ROTATION_DAYS: Final = 365
"""A key should be rotated once in so many days, or as often as it says itself."""
_GRACE_DAYS: Final = 7
"""A rotation is done when somebody opens the home; and a year has 366 days now and then."""


class FindingKind(Enum):
    """Names that scripts may rely on."""

    UNENCRYPTED_VOLUME = "unencrypted-volume"
    UNENCRYPTED_SNAPSHOT = "unencrypted-snapshot"
    UNENCRYPTED_SOURCE = "unencrypted-source"
    UNFINISHED_ENCRYPTION = "unfinished-encryption"
    KEY_LOST = "key-lost"
    KEY_UNUSABLE = "key-unusable"
    KEY_ENDS = "key-ends"
    KEY_NOT_ROTATED = "key-not-rotated"
    WRITE_BUDGET = "write-budget"
    EXPORTED_HEADER = "exported-header"
    NOT_READABLE = "not-readable"
    STORE_NOT_READ = "store-not-read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`subject` is the id, ARN or name of what it is about."""

    kind: FindingKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLine:
    """A KMS key with what is under it: ids of volumes and snapshots, of lazy volumes that fetch
    from snapshots under it, and of what is being made."""

    facts: KeyFacts
    volumes: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    fetching: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionReport:
    """`created_at` is in seconds since 1970."""

    created_at: float
    account: str
    region: str
    settings: SettingsView
    inventory: Inventory
    keys: list[KeyLine]
    findings: list[Finding]


def report_encryption(home: Home) -> EncryptionReport:
    """Raises what opening the home's KMS does; what cannot be read is a finding."""
    now = host_time()
    inventory = take_inventory(home)
    lines = keys_of(inventory, lambda arn: key_facts(home, arn))
    return EncryptionReport(
        created_at=now,
        account=home.account,
        region=home.region,
        settings=view_settings(home),
        inventory=inventory,
        keys=lines,
        findings=list(judge(inventory, lines, now=now)),
    )


def keys_of(inventory: Inventory, facts_of: Callable[[str], KeyFacts]) -> list[KeyLine]:
    """Every KMS key that something is under, by ARN."""
    found: dict[str, KeyLine] = {}

    def line(arn: str | None) -> KeyLine | None:
        if arn is None:
            return None
        if arn not in found:
            found[arn] = KeyLine(facts=facts_of(arn))
        return found[arn]

    for record in inventory.volumes:
        if (of_volume := line(key_arn_of(record.wrapped_key))) is not None:
            of_volume.volumes.append(record.volume_id)
        source = record.source
        if source is not None and inventory.absent_chunks[record.volume_id]:
            of_source = line(key_arn_of(source.wrapped_key))
            if of_source is not None and of_source is not of_volume:
                of_source.fetching.append(record.volume_id)
    for manifest in inventory.snapshots:
        if (of_snapshot := line(key_arn_of(manifest.wrapped_key))) is not None:
            of_snapshot.snapshots.append(manifest.snapshot_id)
    unfinished = [
        *((job.snapshot_id, job.kms_key_arn) for job in inventory.pending),
        *((c.target_snapshot_id, key_arn_of(c.wrapped_key)) for c in inventory.unfinished_copies),
        *((w.source_id, key_arn_of(w.target_key)) for w in inventory.workflows),
        *((m.volume_id, key_arn_of(m.target_key)) for m in inventory.migrations),
    ]
    for id_, arn in unfinished:
        if (of_work := line(arn)) is not None and id_ not in of_work.unfinished:
            of_work.unfinished.append(id_)
    return [found[arn] for arn in sorted(found)]


def judge(inventory: Inventory, keys: Sequence[KeyLine], *, now: float) -> Iterator[Finding]:
    """What somebody should look at, the worst first."""
    yield from _plain(inventory)
    for line in keys:
        yield from _of_key(line.facts, now)
    yield from _data_keys(inventory)
    for name, reason in inventory.unread.items():
        yield Finding(
            kind=FindingKind.STORE_NOT_READ,
            subject=name,
            text=f"snapshot store {name} was not looked at: {reason}",
        )
    for name, reason in inventory.unreadable.items():
        yield Finding(
            kind=FindingKind.NOT_READABLE,
            subject=name.rpartition(" ")[2],
            text=f"{name} cannot be read: {reason}",
        )


def _plain(inventory: Inventory) -> Iterator[Finding]:
    for record in inventory.volumes:
        if not record.is_encrypted:
            yield Finding(
                kind=FindingKind.UNENCRYPTED_VOLUME,
                subject=record.volume_id,
                text=f"volume {_called(record)} is not encrypted",
            )
        absent = inventory.absent_chunks.get(record.volume_id, 0)
        if record.source is not None and record.source.wrapped_key is None and absent:
            store = inventory.store_name(record.source.store_id)
            yield Finding(
                kind=FindingKind.UNENCRYPTED_SOURCE,
                subject=record.volume_id,
                text=f"volume {_called(record)} still has {absent} chunks in the unencrypted "
                f"snapshot {record.source.snapshot_id} in store {store}",
            )
    for manifest in inventory.snapshots:
        if not manifest.is_encrypted:
            store = inventory.store_name(manifest.store_id)
            yield Finding(
                kind=FindingKind.UNENCRYPTED_SNAPSHOT,
                subject=manifest.snapshot_id,
                text=f"snapshot {_called(manifest)} in store {store} is not encrypted",
            )
    for job in inventory.pending:
        if not job.is_encrypted:
            yield Finding(
                kind=FindingKind.UNENCRYPTED_SNAPSHOT,
                subject=job.snapshot_id,
                text=f"snapshot {job.snapshot_id}, which is being made in store "
                f"{job.store_name}, is not encrypted",
            )
    pending = {job.snapshot_id for job in inventory.pending}
    for cursor in inventory.unfinished_copies:
        if cursor.wrapped_key is None and cursor.target_snapshot_id not in pending:
            store = inventory.store_name(cursor.target_store_id)
            yield Finding(
                kind=FindingKind.UNENCRYPTED_SNAPSHOT,
                subject=cursor.target_snapshot_id,
                text=f"the unfinished copy {cursor.target_snapshot_id} of "
                f"{cursor.source_snapshot_id} in store {store} is not encrypted",
            )
    for migration in inventory.migrations:
        is_plain = migration.source_key_id is None
        yield Finding(
            kind=FindingKind.UNFINISHED_ENCRYPTION,
            subject=migration.volume_id,
            text=f"the {migration.called} of {migration.volume_id} is "
            f"unfinished (next step: "
            f"{migration.step.value}), and its {'plaintext' if is_plain else 'old data'} is there",
        )
    for workflow in inventory.workflows:
        yield Finding(
            kind=FindingKind.UNFINISHED_ENCRYPTION,
            subject=workflow.source_id,
            text=f"the encryption of {workflow.source_id} is unfinished (next step: "
            f"{workflow.step.value}), and its plaintext is there",
        )


def _called(thing: VolumeRecord | Manifest) -> str:
    id_ = thing.volume_id if isinstance(thing, VolumeRecord) else thing.snapshot_id
    return f"{id_} ({thing.name})" if thing.name else id_


def _of_key(facts: KeyFacts, now: float) -> Iterator[Finding]:
    def finding(kind: FindingKind, text: str) -> Finding:
        return Finding(kind=kind, subject=facts.arn, text=f"key {facts.arn} {text}")

    if facts.state is None:
        yield finding(FindingKind.NOT_READABLE, f"cannot be looked at: {facts.problem}")
        return
    if facts.state == NOT_FOUND:
        text = "is not known to the KMS of this profile: it is deleted, or another KMS's"
        yield finding(FindingKind.KEY_LOST, text)
        return
    if facts.state == "PendingDeletion":
        text = (
            "is pending deletion, and all that is under it with it; "
            "'volcrypt kms cancel-key-deletion' keeps it"
        )
        yield finding(FindingKind.KEY_ENDS, text)
    elif facts.state != "Enabled":
        yield finding(FindingKind.KEY_UNUSABLE, _UNUSABLE.get(facts.state, f"is {facts.state}"))
    elif facts.valid_to is not None and facts.valid_to - now < SOON_SECONDS:
        yield finding(FindingKind.KEY_ENDS, "loses its key material within 30 days")
    if is_rotation_due(facts, now):
        since = "never" if facts.last_rotation is None else "too long ago"
        yield finding(
            FindingKind.KEY_NOT_ROTATED,
            f"was rotated {since}, and its material is "
            f"{int((now - _material_since(facts)) // DAY_SECONDS)} days old",
        )


_UNUSABLE: Final[Mapping[str, str]] = {
    "Disabled": "is disabled",
    "PendingImport": "has no key material: it was deleted, or has expired",
    "Unavailable": "is in a custom key store that is not connected",
}


def _material_since(facts: KeyFacts) -> float:
    return facts.last_rotation or facts.created_at or 0.0


def is_rotation_due(facts: KeyFacts, now: float) -> bool:
    """Whether the current material of a key that can be rotated is older than it should be."""
    if not facts.knows_rotation:
        return False
    days = max(ROTATION_DAYS, facts.rotation_days or 0) + _GRACE_DAYS
    return now - _material_since(facts) > days * DAY_SECONDS


def _data_keys(inventory: Inventory) -> Iterator[Finding]:
    users: dict[DataKeyId, list[str]] = {}
    exported: list[VolumeRecord] = []
    for record in inventory.volumes:
        if record.wrapped_key is not None:
            users.setdefault(record.wrapped_key.data_key_id, []).append(_called(record))
            exported += [record] if record.exported_at is not None else []
    for manifest in inventory.snapshots:
        if manifest.wrapped_key is not None:
            users.setdefault(manifest.wrapped_key.data_key_id, []).append(_called(manifest))
    for key, names in users.items():
        text = budget_warning(key, inventory.written[key], names)
        if text is not None:
            yield Finding(kind=FindingKind.WRITE_BUDGET, subject=key, text=text)
    for record in exported:
        assert record.wrapped_key is not None, "internal error: a header without a key"
        shared = [n for n in users[record.wrapped_key.data_key_id] if n != _called(record)]
        also = f", and with it {', '.join(shared)}" if shared else ""
        yield Finding(
            kind=FindingKind.EXPORTED_HEADER,
            subject=record.volume_id,
            text=f"volume {_called(record)} has an exported header, which opens it without any KMS"
            f"{also}; 'volcrypt rekey {record.volume_id}' gives the volume a new data key",
        )
