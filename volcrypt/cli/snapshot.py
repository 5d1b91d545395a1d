"""`volcrypt snapshot`: create, list, show, delete, copy, verify; for diff and export see
`snapshot_content`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from volcrypt.cli.customer_key import check_one_stdin, give_key, source_key_option
from volcrypt.cli.exits import Exit
from volcrypt.cli.session import Command, JsonValue, Session, pass_session, print_table
from volcrypt.cli.snapshot_content import diff, export
from volcrypt.cli.store import place_options
from volcrypt.cli.text import format_time, iso_time
from volcrypt.cli.volume import key_choice, key_options
from volcrypt.cli.volume_view import key_text
from volcrypt.geometry import format_size

if TYPE_CHECKING:
    from volcrypt.errors import SweepBlockedError
    from volcrypt.formats.manifest import Manifest
    from volcrypt.names import StoreId

HEAD: Final = "Head of a signer's log, as an earlier look printed it; may be repeated."


def snapshot_document(manifest: "Manifest", names: Mapping["StoreId", str]) -> dict[str, JsonValue]:
    """EBS's DescribeSnapshots, plus our own members."""
    key = manifest.wrapped_key
    return {
        "SnapshotId": manifest.snapshot_id,
        "Name": manifest.name,
        "State": "completed",
        "StoreName": names.get(manifest.store_id),
        "StoreId": manifest.store_id,
        "Region": manifest.region,
        "VolumeId": manifest.volume_id,
        "VolumeSize": manifest.size_bytes,
        "StartTime": iso_time(manifest.captured_at),
        "CompletionTime": iso_time(manifest.completed_at),
        "Encrypted": key is not None,
        "KeySource": manifest.key_source.value,
        "KmsKeyId": key.kms_key_arn if key else None,
        "DataEncryptionKeyId": key.data_key_id if key else None,
        "ParentSnapshotId": manifest.parent.snapshot_id if manifest.parent else None,
        "Root": manifest.root.hex(),
        "StoredChunks": manifest.stored_chunks,
        "StoredBytes": manifest.stored_bytes,
        "WrittenBytes": manifest.written_bytes if key else None,
        "Consistency": manifest.consistency.value,
    }


def snapshot_fields(manifest: "Manifest", names: Mapping["StoreId", str]) -> dict[str, str]:
    key = manifest.wrapped_key
    return {
        "snapshot": manifest.snapshot_id,
        "name": manifest.name or "",
        "state": "completed",
        "store": names.get(manifest.store_id, manifest.store_id),
        "of volume": manifest.volume_id,
        "volume size": format_size(manifest.size_bytes),
        "newly stored": f"{format_size(manifest.stored_bytes)} in {manifest.stored_chunks} chunks",
        "encrypted": "yes" if key else "no",
        "key": key_text(manifest),
        "data key": key.data_key_id if key else "",
        "parent": manifest.parent.snapshot_id if manifest.parent else "",
        "captured": format_time(manifest.captured_at),
        "completed": format_time(manifest.completed_at),
    }


def show_made(session: Session, manifest: "Manifest") -> None:
    from volcrypt.operations.stores import store_names

    names = store_names(session.home)
    session.show_created(
        manifest.snapshot_id, snapshot_document(manifest, names), snapshot_fields(manifest, names)
    )


@click.group()
def snapshot() -> None:
    """Snapshots: immutable, incremental, signed."""


snapshot.add_command(diff)
snapshot.add_command(export)


@snapshot.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option("--name", help="A name, unique among snapshots.")
@click.option("--store", help="The store to keep it in [default: local].")
@click.option("--wait", is_flag=True, help="Return when it is completed; this is always so.")
@pass_session
def create(session: Session, volume: str, name: str | None, store: str | None, wait: bool) -> None:
    """Take a snapshot of VOLUME as it is now, also while it is in use."""
    from volcrypt.operations.snapshots import create_snapshot

    show_made(
        session,
        create_snapshot(session.home, volume, name=name, store=store, progress=session.progress()),
    )


@snapshot.command("list", cls=Command)
@click.option("--store", help="Only the snapshots of this store.")
@pass_session
def list_(session: Session, store: str | None) -> None:
    """List the snapshots of all stores, oldest first. A store that does not answer is named in a
    warning."""
    from volcrypt.operations.snapshot_lookup import list_snapshots
    from volcrypt.operations.stores import store_names

    found = list_snapshots(session.home, store)
    names = store_names(session.home)
    document: list[JsonValue] = [snapshot_document(each, names) for each in found.manifests]
    document += [
        {"SnapshotId": snapshot_id, "State": "error", "StateReason": str(error)}
        for snapshot_id, error in found.damaged.items()
    ]

    def text() -> None:
        columns = [
            "SNAPSHOT",
            "NAME",
            "STATE",
            "STORE",
            "VOLUME",
            "SIZE",
            "STORED",
            "ENCRYPTED",
            "COMPLETED",
        ]
        rows = [
            [
                manifest.snapshot_id,
                manifest.name or "",
                "completed",
                names.get(manifest.store_id, manifest.store_id),
                manifest.volume_id,
                format_size(manifest.size_bytes),
                format_size(manifest.stored_bytes),
                "yes" if manifest.wrapped_key else "no",
                format_time(manifest.completed_at),
            ]
            for manifest in found.manifests
        ]
        damaged = [
            [key, "", "error", str(error), "", "", "", "", ""]
            for key, error in found.damaged.items()
        ]
        print_table(columns, rows + damaged)

    unread = {name: str(error) for name, error in found.unread.items()}
    session.show({"Snapshots": document, "StoresNotRead": unread}, text)
    for error in unread.values():
        print(f"warning: {error}", file=sys.stderr)


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@pass_session
def show(session: Session, snapshot: str) -> None:
    """Show everything about SNAPSHOT."""
    from volcrypt.operations.snapshot_lookup import load_snapshot
    from volcrypt.operations.stores import store_names

    manifest = load_snapshot(session.home, snapshot)
    names = store_names(session.home)
    session.show_fields(snapshot_document(manifest, names), snapshot_fields(manifest, names))


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@pass_session
def delete(session: Session, snapshot: str) -> None:
    """Delete SNAPSHOT and the chunks that no other snapshot needs. One that is damaged is deleted
    by its id; until then its store is not swept, since nobody knows which chunks it needs."""
    from volcrypt.operations.snapshot_deletion import delete_snapshot

    blocked: list[SweepBlockedError] = []
    snapshot_id = delete_snapshot(session.home, snapshot, warn=blocked.append)
    session.show(
        {"SnapshotId": snapshot_id, "NotSwept": str(blocked[0]) if blocked else None},
        lambda: print(f"{snapshot_id} is deleted"),
    )
    for error in blocked:
        print(f"warning: {error}; {error.hint}", file=sys.stderr)


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@key_options
@source_key_option
@click.option("--name", help="A name, unique among snapshots.")
@click.option("--store", help="The store to copy it to [default: where it is].")
@click.option("--region", help="The region to copy it to; its key has to be of that region.")
@click.option("--wait", is_flag=True, help="Return when it is completed; this is always so.")
@pass_session
def copy(
    session: Session,
    snapshot: str,
    kms_key_id: str | None,
    unencrypted: bool,
    customer_key_file: Path | None,
    source_customer_key_file: Path | None,
    name: str | None,
    store: str | None,
    region: str | None,
    wait: bool,
) -> None:
    """Copy SNAPSHOT, re-encrypting it when the key is another; under the same key only what is not
    there yet is moved. Interrupted, run it again."""
    from volcrypt.operations.copies import copy_snapshot

    check_one_stdin(customer_key_file, source_customer_key_file)
    choice = key_choice(session, kms_key_id, unencrypted, customer_key_file)
    give_key(session, source_customer_key_file)
    manifest = copy_snapshot(
        session.home,
        snapshot,
        choice=choice,
        name=name,
        store=store,
        region=region,
        progress=session.progress(),
    )
    show_made(session, manifest)


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="[SNAPSHOT]", required=False)
@click.option("--store", help="The store to look at [default: that of SNAPSHOT, or local].")
@click.option("--expect-head", "heads", multiple=True, metavar="SIGNER:NUMBER:DIGEST", help=HEAD)
@click.option("--store-url", metavar="URL", help="Needs no home: the store at this URL ...")
@click.option("--public-key", metavar="HEX", help="... that has this public key.")
@place_options
@click.pass_context
def verify(
    context: click.Context,
    snapshot: str | None,
    store: str | None,
    heads: tuple[str, ...],
    store_url: str | None,
    public_key: str | None,
    region: str | None,
    endpoint: str | None,
    sse: str | None,
) -> None:
    """Check every chunk, page and manifest of SNAPSHOT and of its lineage, or of all in a store; no
    data key is needed. With --store-url and --public-key no home and no KMS are needed either:
    anybody can check. --region, --endpoint and --sse belong to --store-url."""
    from volcrypt.operations.verification import (
        format_head,
        parse_head,
        parse_public_key,
        public_place,
        verify_by_public_key,
        verify_snapshots,
    )
    from volcrypt.settings import DEFAULT_REGION

    session = context.ensure_object(Session)
    expected = [parse_head(head) for head in heads]
    if (store_url is None) != (public_key is None) or (store_url and store):
        raise click.UsageError("--store-url and --public-key go together, and without --store")
    if store_url is None or public_key is None:
        if region or endpoint or sse:
            raise click.UsageError("--region, --endpoint and --sse belong to --store-url")
        found = verify_snapshots(session.home, snapshot, store=store, heads=expected)
    else:
        place = public_place(
            store_url, region=region or DEFAULT_REGION, endpoint=endpoint, encryption=sse
        )
        key = parse_public_key(public_key)
        found = verify_by_public_key(place, key, snapshot, heads=expected)

    def text() -> None:
        for damage in found.damages:
            print(damage)
            for snapshot_id in damage.snapshots:
                if snapshot_id not in damage.what:
                    print(f"    also in {snapshot_id}")
        for head in found.heads:
            print(f"head of the log: {format_head(head)}")
        if not found.freshness_checked:
            print("freshness not checkable: no head of an earlier look to compare with")
        print(
            f"snapshots checked: {len(found.snapshots)}, chunks read: {found.chunk_count}, "
            f"problems found: {len(found.damages)}"
        )

    session.show(
        {
            "Snapshots": found.snapshots,
            "ChunksRead": found.chunk_count,
            "FreshnessChecked": found.freshness_checked,
            "Heads": [format_head(head) for head in found.heads],
            "Damages": [
                {
                    "Kind": damage.kind.value,
                    "What": damage.what,
                    "Object": damage.name,
                    "Snapshots": list(damage.snapshots),
                }
                for damage in found.damages
            ],
        },
        text,
    )
    if found.damages:
        context.exit(Exit.INTEGRITY)
