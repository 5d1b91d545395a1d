"""`volcrypt snapshot`: create, list, show, delete, copy, verify."""

from typing import TYPE_CHECKING

import click

from volcrypt.cli.exits import Exit
from volcrypt.cli.session import Command, JsonValue, Session, pass_session, print_table
from volcrypt.cli.text import format_time, iso_time
from volcrypt.cli.volume import key_choice, key_options
from volcrypt.geometry import format_size

if TYPE_CHECKING:
    from volcrypt.formats.manifest import Manifest


def snapshot_document(manifest: "Manifest") -> dict[str, JsonValue]:
    """EBS's DescribeSnapshots, plus our own members."""
    key = manifest.wrapped_key
    return {
        "SnapshotId": manifest.snapshot_id,
        "Name": manifest.name,
        "State": "completed",
        "VolumeId": manifest.volume_id,
        "VolumeSize": manifest.size_bytes,
        "StartTime": iso_time(manifest.captured_at),
        "CompletionTime": iso_time(manifest.completed_at),
        "Encrypted": key is not None,
        "KmsKeyId": key.kms_key_arn if key else None,
        "DataEncryptionKeyId": key.data_key_id if key else None,
        "ParentSnapshotId": manifest.parent.snapshot_id if manifest.parent else None,
        "Root": manifest.root.hex(),
        "StoredChunks": manifest.stored_chunks,
        "StoredBytes": manifest.stored_bytes,
        "Consistency": manifest.consistency.value,
    }


def snapshot_fields(manifest: "Manifest") -> dict[str, str]:
    key = manifest.wrapped_key
    return {
        "snapshot": manifest.snapshot_id,
        "name": manifest.name or "",
        "state": "completed",
        "of volume": manifest.volume_id,
        "volume size": format_size(manifest.size_bytes),
        "newly stored": f"{format_size(manifest.stored_bytes)} in {manifest.stored_chunks} chunks",
        "encrypted": "yes" if key else "no",
        "kms key": (key.kms_key_arn or "") if key else "",
        "data key": key.data_key_id if key else "",
        "parent": manifest.parent.snapshot_id if manifest.parent else "",
        "captured": format_time(manifest.captured_at),
        "completed": format_time(manifest.completed_at),
    }


@click.group()
def snapshot() -> None:
    """Snapshots: immutable, incremental, signed."""


@snapshot.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option("--name", help="A name, unique among snapshots.")
@click.option("--wait", is_flag=True, help="Return when it is completed; this is always so.")
@pass_session
def create(session: Session, volume: str, name: str | None, wait: bool) -> None:
    """Take a snapshot of VOLUME as it is now, also while it is in use."""
    from volcrypt.operations.snapshots import create_snapshot

    manifest = create_snapshot(session.home, volume, name=name, progress=session.progress())
    session.show_created(
        manifest.snapshot_id, snapshot_document(manifest), snapshot_fields(manifest)
    )


@snapshot.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List all snapshots, oldest first."""
    from volcrypt.operations.snapshots import list_snapshots

    manifests, damaged = list_snapshots(session.home)
    document: list[JsonValue] = [snapshot_document(manifest) for manifest in manifests]
    document += [
        {"SnapshotId": snapshot_id, "State": "error", "StateReason": str(error)}
        for snapshot_id, error in damaged.items()
    ]

    def text() -> None:
        print_table(
            ["SNAPSHOT", "NAME", "STATE", "VOLUME", "SIZE", "STORED", "ENCRYPTED", "COMPLETED"],
            [
                [
                    manifest.snapshot_id,
                    manifest.name or "",
                    "completed",
                    manifest.volume_id,
                    format_size(manifest.size_bytes),
                    format_size(manifest.stored_bytes),
                    "yes" if manifest.wrapped_key else "no",
                    format_time(manifest.completed_at),
                ]
                for manifest in manifests
            ]
            + [[key, "", "error", str(error), "", "", "", ""] for key, error in damaged.items()],
        )

    session.show({"Snapshots": document}, text)


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@pass_session
def show(session: Session, snapshot: str) -> None:
    """Show everything about SNAPSHOT."""
    from volcrypt.operations.snapshots import load_snapshot

    manifest = load_snapshot(session.home, snapshot)
    session.show_fields(snapshot_document(manifest), snapshot_fields(manifest))


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@pass_session
def delete(session: Session, snapshot: str) -> None:
    """Delete SNAPSHOT and the chunks that no other snapshot needs."""
    from volcrypt.operations.snapshots import delete_snapshot

    snapshot_id = delete_snapshot(session.home, snapshot)
    session.show({"SnapshotId": snapshot_id}, lambda: print(f"{snapshot_id} is deleted"))


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@key_options
@click.option("--name", help="A name, unique among snapshots.")
@click.option("--wait", is_flag=True, help="Return when it is completed; this is always so.")
@pass_session
def copy(
    session: Session,
    snapshot: str,
    kms_key_id: str | None,
    unencrypted: bool,
    name: str | None,
    wait: bool,
) -> None:
    """Copy SNAPSHOT, re-encrypting it when the key is another. Interrupted, run it again."""
    from volcrypt.operations.copies import copy_snapshot

    manifest = copy_snapshot(
        session.home,
        snapshot,
        choice=key_choice(kms_key_id, unencrypted),
        name=name,
        progress=session.progress(),
    )
    session.show_created(
        manifest.snapshot_id, snapshot_document(manifest), snapshot_fields(manifest)
    )


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="[SNAPSHOT]", required=False)
@click.pass_context
def verify(context: click.Context, snapshot: str | None) -> None:
    """Check every chunk, page and manifest of SNAPSHOT and of its lineage, or of all; no data key
    is needed."""
    from volcrypt.operations.snapshots import verify_snapshots

    session = context.ensure_object(Session)
    found = verify_snapshots(session.home, snapshot)

    def text() -> None:
        for damage in found.damages:
            print(damage)
        print(
            f"snapshots checked: {len(found.snapshots)}, chunks read: {found.chunk_count}, "
            f"problems found: {len(found.damages)}"
        )

    session.show(
        {
            "Snapshots": found.snapshots,
            "ChunksRead": found.chunk_count,
            "FreshnessChecked": found.freshness_checked,
            "Damages": [
                {"Kind": damage.kind.value, "What": damage.what, "Object": damage.name}
                for damage in found.damages
            ],
        },
        text,
    )
    if found.damages:
        context.exit(Exit.INTEGRITY)
