"""`volcrypt snapshot`: create, wait, list, show, delete, copy, verify; for diff and export see
`snapshot_content`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from volcrypt.cli.confirmation import confirm, has_terminal, yes_to_deletion_option
from volcrypt.cli.customer_key import check_one_stdin, give_home_key, source_key_option
from volcrypt.cli.exits import Exit
from volcrypt.cli.key_choice import check_key_options, key_options
from volcrypt.cli.session import Command, Group, JsonValue, Session, pass_session, print_table
from volcrypt.cli.snapshot_content import diff, export
from volcrypt.cli.snapshot_view import (
    COLUMNS,
    begun_document,
    begun_fields,
    job_document,
    job_fields,
    job_row,
    show_all_made,
    show_made,
    snapshot_document,
    snapshot_fields,
    snapshot_row,
)
from volcrypt.cli.store import place_options
from volcrypt.errors import SnapshotNotFoundError, VolcryptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from volcrypt.errors import SweepBlockedError
    from volcrypt.formats.job import JobRecord
    from volcrypt.formats.manifest import Manifest
    from volcrypt.operations.home import Home

HEAD: Final = "Head of a signer's log, as an earlier look printed it; may be repeated."


@click.group(cls=Group)
def snapshot() -> None:
    """Snapshots: immutable, incremental, signed."""


snapshot.add_command(diff)
snapshot.add_command(export)


@snapshot.command(cls=Command)
@click.argument("volumes", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--name", help="A name, unique among snapshots; of several: NAME-VOLUMENAME.")
@click.option("--store", help="The store to keep it in [default: local].")
@click.option(
    "--freeze",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Freeze the file system mounted at DIR for the moment; may be repeated.",
)
@click.option("--rate", help="Bytes a second to read at most, like 50MiB.")
@click.option("--wait", is_flag=True, help="Return when it is completed.")
@pass_session
def create(
    session: Session,
    volumes: tuple[str, ...],
    name: str | None,
    store: str | None,
    freeze: tuple[Path, ...],
    rate: str | None,
    wait: bool,
) -> None:
    """Take a snapshot of VOLUME as it is now, also while it is in use. Its data is stored in the
    background, unless --wait is given: 'snapshot wait', 'list' and 'status' tell how far it is.
    Several volumes are one consistent set: all or none."""
    from volcrypt.cli.background import begin_snapshots
    from volcrypt.operations.background import stoppable
    from volcrypt.operations.snapshot_creation import SnapshotRequest, create_snapshots
    from volcrypt.operations.stores import store_names
    from volcrypt.snapshot.pace import parse_rate

    request = SnapshotRequest(
        volumes=volumes,
        name=name,
        store=store,
        freeze=[directory.absolute() for directory in freeze],
        rate=None if rate is None else parse_rate(rate),
    )
    if wait:
        with stoppable():
            made = create_snapshots(session.home, request, progress=session.progress())
        if len(made) == 1:
            show_made(session, made[0])
        else:
            names = store_names(session.home)
            documents = [snapshot_document(each, names) for each in made]
            show_all_made(session, [each.snapshot_id for each in made], documents)
        return
    begun = begin_snapshots(session, request)
    if len(begun) == 1:
        record = begun[0]
        session.show_created(record.snapshot_id, begun_document(record), begun_fields(record))
    else:
        documents = [begun_document(each) for each in begun]
        show_all_made(session, [each.snapshot_id for each in begun], documents)


@snapshot.command(cls=Command)
@click.argument("snapshots", metavar="SNAPSHOT...", nargs=-1, required=True)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most.")
@pass_session
def wait(session: Session, snapshots: tuple[str, ...], timeout: float | None) -> None:
    """Wait until SNAPSHOT is completed. Ends with code 1 when it cannot be any more, 7 when it is
    still being made after --timeout."""
    from volcrypt.operations.snapshot_waiting import wait_for_snapshots
    from volcrypt.operations.stores import store_names

    made = wait_for_snapshots(
        session.home, snapshots, timeout_seconds=timeout, progress=session.progress()
    )
    names = store_names(session.home)
    if len(made) == 1:
        session.show(
            snapshot_document(made[0], names),
            lambda: print(f"{made[0].snapshot_id} is completed"),
        )
    else:
        session.show(
            {"Snapshots": [snapshot_document(each, names) for each in made]},
            lambda: print("\n".join(f"{each.snapshot_id} is completed" for each in made)),
        )


@snapshot.command("list", cls=Command)
@click.option("--store", help="Only the snapshots of this store.")
@pass_session
def list_(session: Session, store: str | None) -> None:
    """List the snapshots of all stores, oldest first, then those that are being made or failed. A
    store that does not answer is named in a warning."""
    from volcrypt.operations.snapshot_lookup import list_snapshots
    from volcrypt.operations.stores import store_names

    found = list_snapshots(session.home, store)
    names = store_names(session.home)
    document: list[JsonValue] = [snapshot_document(each, names) for each in found.manifests]
    document += [job_document(job) for job in found.jobs]
    document += [
        {"SnapshotId": snapshot_id, "State": "error", "StateReason": str(error)}
        for snapshot_id, error in found.damaged.items()
    ]

    def text() -> None:
        rows = [snapshot_row(manifest, names) for manifest in found.manifests]
        rows += [job_row(job) for job in found.jobs]
        rows += [[key, "", "error", *[""] * 7] for key in found.damaged]
        print_table(COLUMNS, rows)

    unread = {name: str(error) for name, error in found.unread.items()}
    session.show({"Snapshots": document, "StoresNotRead": unread}, text)
    session.warn(error.about(key) for key, error in found.damaged.items())
    session.warn(unread.values())


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@pass_session
def show(session: Session, snapshot: str) -> None:
    """Show everything about SNAPSHOT."""
    from volcrypt.errors import SnapshotFailedError, SnapshotPendingError
    from volcrypt.operations.jobs import find_job
    from volcrypt.operations.snapshot_lookup import load_snapshot
    from volcrypt.operations.stores import store_names

    try:
        manifest = load_snapshot(session.home, snapshot)
    except (SnapshotPendingError, SnapshotFailedError) as error:
        job = find_job(session.home, error.snapshot)
        if job is None:  # it has ended in this moment
            manifest = load_snapshot(session.home, error.snapshot)
        else:
            session.show_fields(job_document(job), job_fields(job))
            return
    names = store_names(session.home)
    session.show_fields(snapshot_document(manifest, names), snapshot_fields(manifest, names))


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@yes_to_deletion_option
@pass_session
def delete(session: Session, snapshot: str, yes: bool) -> None:
    """Delete SNAPSHOT and the chunks that no other snapshot needs. One that is still being made is
    stopped, and with it those that are made together with it. One that is damaged is deleted
    by its id; until then its store is not swept, since nobody knows which chunks it needs."""
    from volcrypt.operations.snapshot_deletion import delete_snapshot

    if not yes and has_terminal():
        _check_there(session, snapshot)
        confirm("deleting a snapshot", f"delete snapshot {snapshot}?")
    blocked: list[SweepBlockedError] = []
    snapshot_id = delete_snapshot(session.home, snapshot, warn=blocked.append)
    session.show(
        {"SnapshotId": snapshot_id, "NotSwept": str(blocked[0]) if blocked else None},
        lambda: print(f"{snapshot_id} is deleted"),
    )
    session.warn(error.about() for error in blocked)


def _check_there(session: Session, snapshot: str) -> None:
    """Nobody is asked about one that is not there; one that is damaged or not completed is."""
    from volcrypt.operations.snapshot_lookup import load_snapshot

    try:
        load_snapshot(session.home, snapshot)
    except SnapshotNotFoundError:
        raise
    except VolcryptError:
        return


@snapshot.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@key_options
@source_key_option
@click.option("--name", help="A name, unique among snapshots.")
@click.option("--store", help="The store to copy it to [default: where it is].")
@click.option("--region", help="The region to copy it to; its key has to be of that region.")
@click.option("--wait", is_flag=True, help="Return when it is completed.")
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
    """Copy SNAPSHOT. Under the same key only what is not there yet is moved. Under another it is
    re-encrypted: all of it, or what changed since an earlier snapshot of the volume that was copied
    there under that key.

    The data is moved in the background, unless --wait is given: 'snapshot wait', 'list' and
    'status' tell how far it is. One that was interrupted goes on, under the id that it had, when
    the same command is given again."""
    from volcrypt.cli.background import begin_copy
    from volcrypt.operations.background import stoppable
    from volcrypt.operations.copy_creation import copy_snapshot
    from volcrypt.operations.keys import KeyChoice
    from volcrypt.operations.progress import SILENT

    check_one_stdin(customer_key_file, source_customer_key_file)
    check_key_options(kms_key_id, unencrypted, customer_key_file)

    def make(home: "Home", begun: "Callable[[JobRecord], None] | None") -> "Manifest":
        key = None if customer_key_file is None else give_home_key(home, customer_key_file)
        if source_customer_key_file is not None:
            give_home_key(home, source_customer_key_file)
        return copy_snapshot(
            home,
            snapshot,
            choice=KeyChoice(encrypted=not unencrypted, kms_key=kms_key_id, customer_key=key),
            name=name,
            store=store,
            region=region,
            progress=SILENT if begun is not None else session.progress(),
            begun=begun,
        )

    if wait:
        with stoppable():
            show_made(session, make(session.home, None))
        return
    shown = begin_copy(session, make)
    session.show_created(shown.snapshot_id, shown.document, shown.fields)


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
        if found.damages:
            print(
                "put that back from a copy of the store, or give up what needs it, by deleting it"
            )
        for head in found.heads:
            print(f"head of the log: {format_head(head)}")
        if not found.freshness_checked:
            print("freshness not checkable: no head of an earlier look to compare with")
        print(
            f"snapshots checked: {len(found.snapshots)}, chunks read: {found.chunk_count}, "
            f"problems found: {len(found.damages)}"
        )

    if snapshot is None and store is None and store_url is None:
        from volcrypt.operations.stores import LOCAL_STORE, known_stores

        for name in known_stores(session.home):
            if name != LOCAL_STORE:
                message = f"note: store {name} was not looked at: 'snapshot verify --store {name}'"
                print(message, file=sys.stderr)
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
