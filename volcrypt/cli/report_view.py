"""How `report` shows what it found: for a person, and as a JSON document with a version.

A member that a document of version 1 has keeps its name and meaning; others may be added.
"""

from typing import TYPE_CHECKING, Final

from volcrypt.cli.session import JsonValue, print_fields, print_paragraph, print_table
from volcrypt.cli.settings import encryption_text, settings_document
from volcrypt.cli.text import format_iso_time, format_time, iso_time
from volcrypt.cli.volume_view import key_text
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.kms.usage import NO_VOLUME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from volcrypt.formats.volume_record import VolumeRecord
    from volcrypt.kms.usage import Count, Deed
    from volcrypt.operations.encryption_report import EncryptionReport, KeyLine
    from volcrypt.operations.inventory import Inventory
    from volcrypt.operations.key_facts import KeyFacts
    from volcrypt.operations.key_report import KeyReport

VERSION: Final = 1


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds)


def _day(seconds: float | None) -> str:
    return "" if seconds is None else format_time(seconds).partition(" ")[0]


def _shown(time: str | None) -> str:
    """A time of the audit log, for people."""
    return "" if time is None else format_iso_time(time)


# ---------------------------------------------------------------- report encryption


def encryption_document(found: "EncryptionReport", notes: "Sequence[str]") -> JsonValue:
    inventory = found.inventory
    return {
        "Version": VERSION,
        "CreatedAt": iso_time(found.created_at),
        "Account": found.account,
        "Region": found.region,
        "Settings": settings_document(found.settings),
        "Findings": [
            {"Kind": each.kind.value, "Subject": each.subject, "Text": each.text}
            for each in found.findings
        ],
        "Notes": list(notes),
        "Volumes": [_volume_document(inventory, record) for record in inventory.volumes],
        "Snapshots": [
            {
                "SnapshotId": each.snapshot_id,
                "Name": each.name,
                "VolumeId": each.volume_id,
                "Store": inventory.store_name(each.store_id),
                "IsCopy": each.origin is not None,
                "Encrypted": each.is_encrypted,
                "KeySource": each.key_source.value,
                "KmsKeyId": key_arn_of(each.wrapped_key),
                "DataEncryptionKeyId": each.wrapped_key.data_key_id if each.wrapped_key else None,
            }
            for each in inventory.snapshots
        ],
        "PendingSnapshots": [
            {
                "SnapshotId": job.snapshot_id,
                "Name": job.name,
                "Store": job.store_name,
                "Encrypted": job.is_encrypted,
                "KmsKeyId": job.kms_key_arn,
            }
            for job in inventory.pending
        ],
        "UnfinishedCopies": [
            {
                "SnapshotId": each.target_snapshot_id,
                "SourceSnapshotId": each.source_snapshot_id,
                "Store": inventory.store_name(each.target_store_id),
                "Encrypted": each.wrapped_key is not None,
                "KmsKeyId": key_arn_of(each.wrapped_key),
            }
            for each in inventory.unfinished_copies
        ],
        "Workflows": [
            {
                "VolumeId": each.source_id,
                "NextStep": each.step.value,
                "KmsKeyId": each.target_key.kms_key_arn,
            }
            for each in inventory.workflows
        ]
        + [
            {
                "VolumeId": each.volume_id,
                "NextStep": each.step.value,
                "KmsKeyId": each.target_key.kms_key_arn,
            }
            for each in inventory.migrations
        ],
        "Keys": [_key_line_document(line) for line in found.keys],
        "Stores": list(inventory.stores.values()),
        "StoresNotRead": dict(inventory.unread),
        "NotReadable": dict(inventory.unreadable),
    }


def _volume_document(inventory: "Inventory", record: "VolumeRecord") -> JsonValue:
    source, wrapped = record.source, record.wrapped_key
    return {
        "VolumeId": record.volume_id,
        "Name": record.name,
        "Encrypted": record.is_encrypted,
        "KeySource": record.key_source.value,
        "KmsKeyId": key_arn_of(wrapped),
        "DataEncryptionKeyId": wrapped.data_key_id if wrapped else None,
        "WrittenBytes": inventory.written[wrapped.data_key_id] if wrapped else None,
        "HeaderExportedAt": _time(record.exported_at),
        "Source": {
            "SnapshotId": source.snapshot_id,
            "Store": inventory.store_name(source.store_id),
            "Encrypted": source.wrapped_key is not None,
            "KmsKeyId": key_arn_of(source.wrapped_key),
            "AbsentChunks": inventory.absent_chunks[record.volume_id],
        }
        if source
        else None,
    }


def _key_line_document(line: "KeyLine") -> JsonValue:
    return {
        **_facts_document(line.facts),
        "Volumes": line.volumes,
        "Snapshots": line.snapshots,
        "FetchingVolumes": line.fetching,
        "Unfinished": line.unfinished,
    }


def _facts_document(facts: "KeyFacts") -> dict[str, JsonValue]:
    return {
        "KeyArn": facts.arn,
        "KeyState": facts.state,
        "Problem": facts.problem,
        "Aliases": list(facts.aliases),
        "KeyManager": facts.manager,
        "Origin": facts.origin,
        "CreationDate": _time(facts.created_at),
        "DeletionDate": _time(facts.deletion_date),
        "ValidTo": _time(facts.valid_to),
        "RotationKnown": facts.knows_rotation,
        "RotationPeriodInDays": facts.rotation_days,
        "LastRotation": _time(facts.last_rotation),
    }


def print_encryption(found: "EncryptionReport", notes: "Sequence[str]") -> None:
    inventory, settings = found.inventory, found.settings
    print(
        f"account {found.account}, region {found.region}; encryption by default is "
        f"{encryption_text(settings)}, the default key is {settings.default_kms_key or 'none'}"
    )
    if inventory.volumes:
        print()
        print_table(
            ["VOLUME", "NAME", "ENCRYPTED", "STILL IN SNAPSHOT", "KMS KEY"],
            [
                [
                    record.volume_id,
                    record.name or "",
                    "yes" if record.is_encrypted else "NO",
                    _fetching_text(inventory, record),
                    key_text(record).rpartition("/")[2],
                ]
                for record in inventory.volumes
            ],
        )
    if inventory.snapshots:
        print()
        print_table(
            ["SNAPSHOT", "NAME", "STORE", "ENCRYPTED", "KMS KEY"],
            [
                [
                    each.snapshot_id,
                    each.name or "",
                    inventory.store_name(each.store_id),
                    "yes" if each.is_encrypted else "NO",
                    key_text(each).rpartition("/")[2],
                ]
                for each in inventory.snapshots
            ],
        )
    if found.keys:
        print()
        print_table(
            ["KMS KEY", "ALIASES", "STATE", "VOLUMES", "SNAPSHOTS", "MADE", "LAST ROTATION"],
            [
                [
                    line.facts.arn.rpartition("/")[2],
                    ", ".join(line.facts.aliases),
                    line.facts.state or "unknown",
                    str(len(line.volumes)),
                    str(len(line.snapshots)),
                    _day(line.facts.created_at),
                    rotation_text(line.facts),
                ]
                for line in found.keys
            ],
        )
    for job in inventory.pending:
        print(f"\nsnapshot {job.snapshot_id} is being made in store {job.store_name}")
    print()
    for each in found.findings:
        print_paragraph(f"finding: {each.text}")
    count = len(found.findings)
    print(f"findings: {count}" if count else "no findings")
    for note in notes:
        print_paragraph(f"note: {note}")


def _fetching_text(inventory: "Inventory", record: "VolumeRecord") -> str:
    absent = inventory.absent_chunks.get(record.volume_id)
    if record.source is None or not absent:
        return ""
    plain = "" if record.source.wrapped_key else ", NOT ENCRYPTED"
    return f"{absent} chunks{plain}"


def rotation_text(facts: "KeyFacts") -> str:
    if not facts.knows_rotation:
        return ""
    last = _day(facts.last_rotation) or "never"
    return last if facts.rotation_days is None else f"{last}, every {facts.rotation_days} days"


# ---------------------------------------------------------------- report key


def key_report_document(found: "KeyReport") -> JsonValue:
    usage = found.usage
    return {
        "Version": VERSION,
        **_facts_document(found.facts),
        "KeyArn": found.key_arn,
        "IsDefaultKey": found.is_default,
        "Dependents": [
            {
                "Kind": each.kind.name.lower().replace("_", "-"),
                "Id": each.id,
                "Name": each.name,
                "Store": each.store,
                "Place": each.place,
                "HeaderExportedAt": _time(each.exported_at),
            }
            for each in found.dependents
        ],
        "Usage": None
        if usage is None
        else {
            "CreatedAt": usage.created_at,
            "DeletedAt": usage.deleted_at,
            **_count_document(usage.total),
            "ByOperation": _counts_document(usage.operations),
            "ByPrincipal": _counts_document(usage.principals),
            "ByVolume": _counts_document(_with_volume(usage.volumes)),
            "WithoutVolume": _count_document(usage.volumes[NO_VOLUME])
            if NO_VOLUME in usage.volumes
            else None,
            "ExportedHeaders": [
                _deed_document(each, "VolumeId") for each in usage.exported_headers
            ],
            "Backups": [_deed_document(each, "HomeId") for each in usage.backups],
        },
        "StoresNotRead": dict(found.unread),
        "NotReadable": dict(found.unreadable),
    }


def _count_document(count: "Count") -> dict[str, JsonValue]:
    return {
        "Uses": count.uses,
        "Tried": count.tried,
        "Refused": count.refused,
        "FirstUse": count.first,
        "LastUse": count.last,
    }


def _counts_document(counts: "Mapping[str, Count]") -> JsonValue:
    return {name: _count_document(count) for name, count in _by_uses(counts)}


def _by_uses(counts: "Mapping[str, Count]") -> "list[tuple[str, Count]]":
    return sorted(counts.items(), key=lambda each: (-each[1].uses, each[0]))


def _with_volume(counts: "Mapping[str, Count]") -> "dict[str, Count]":
    return {name: count for name, count in counts.items() if name != NO_VOLUME}


def _deed_document(deed: "Deed", subject: str) -> JsonValue:
    return {"Time": deed.time, "Principal": deed.principal, subject: deed.subject}


def print_key_report(found: "KeyReport") -> None:
    facts, usage = found.facts, found.usage
    made = _shown(usage.created_at) if usage is not None else ""
    deleted = _shown(usage.deleted_at) if usage is not None else ""
    fields = {
        "key": found.key_arn,
        "aliases": ", ".join(facts.aliases),
        "state": f"deleted at {deleted}" if deleted else facts.state or "unknown",
        "made": made if facts.created_at is None else format_time(facts.created_at),
        "last rotation": rotation_text(facts),
        "default key": "yes" if found.is_default else "no",
    }
    if facts.deletion_date is not None:
        fields["will be deleted"] = format_time(facts.deletion_date)
    if facts.valid_to is not None:
        fields["material until"] = format_time(facts.valid_to)
    if usage is not None:
        fields["first use"] = _shown(usage.total.first) or "none on record"
        fields["last use"] = _shown(usage.total.last) or "none on record"
        fields["uses"] = _count_text(usage.total)
    else:
        fields["uses"] = "on record in the KMS of the profile, not here"
    print_fields(fields)
    print()
    if found.dependents:
        print("What cannot be read without it:")
        print_table(
            ["WHAT", "ID", "NAME", "WHERE"],
            [
                [
                    each.kind.value,
                    each.id,
                    each.name or "",
                    "an exported header opens it" if each.exported_at else each.place or "",
                ]
                for each in found.dependents
            ],
        )
    else:
        print("No volume or snapshot of this home is under it.")
    for name, reason in found.unread.items():
        print(f"warning: snapshot store {name} was not looked at: {reason}")
    for name, reason in found.unreadable.items():
        print(f"warning: {name} cannot be read, and may be under it: {reason}")
    if usage is None:
        return
    for title, counts in (
        ("PRINCIPAL", usage.principals),
        ("VOLUME OR SNAPSHOT", usage.volumes),
        ("OPERATION", usage.operations),
    ):
        if counts:
            print()
            _print_counts(title, counts)
    for deed in usage.exported_headers:
        print(f"\nheader of {deed.subject} exported at {_shown(deed.time)} by {deed.principal}")
    for deed in usage.backups:
        made = f"made under it at {_shown(deed.time)} by {deed.principal}"
        print(f"\nbackup of home {deed.subject} {made}")


def _print_counts(title: str, counts: "Mapping[str, Count]") -> None:
    print_table(
        [title, "USES", "TRIED", "REFUSED", "FIRST USE", "LAST USE"],
        [
            [
                "(no volume named)" if name == NO_VOLUME else name,
                str(count.uses),
                str(count.tried),
                str(count.refused),
                _shown(count.first),
                _shown(count.last),
            ]
            for name, count in _by_uses(counts)
        ],
    )


def _count_text(count: "Count") -> str:
    return f"{count.uses}; {count.tried} only tried, {count.refused} refused or failed"
