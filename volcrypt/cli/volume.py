"""`volcrypt volume`: create, import, export, register, list, show, grow, check, delete."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from volcrypt.cli.confirmation import confirm, has_terminal, yes_to_deletion_option
from volcrypt.cli.customer_key import (
    check_one_stdin,
    give_key,
    opening_key_option,
    source_key_option,
)
from volcrypt.cli.fill_rate import fill_rate_option, parse_fill_rate
from volcrypt.cli.key_choice import key_choice, key_options
from volcrypt.cli.session import Command, Group, JsonValue, Session, pass_session
from volcrypt.cli.status_view import place_text
from volcrypt.cli.volume_transfer import export, export_header_, import_, register
from volcrypt.cli.volume_view import (
    key_text,
    show_created,
    state_text,
    uses_by_volume,
    volume_document,
    volume_fields,
)
from volcrypt.errors import VolcryptError
from volcrypt.geometry import format_size, parse_size

if TYPE_CHECKING:
    from volcrypt.names import VolumeId

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


@click.group(cls=Group)
def volume() -> None:
    """Volumes: encrypted block by block on this host."""


for command in (import_, export, export_header_, register):
    volume.add_command(command)


@volume.command(cls=Command)
@click.option("--size", help="Like 10GiB; a multiple of 4096 bytes, at most 64 TiB.")
@key_options
@click.option("--name", help="A name, unique among volumes.")
@click.option("--snapshot-id", metavar="S", help="Make the volume from this snapshot.")
@source_key_option
@click.option(
    "--data",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Where its data goes: a new file, or a block device, which is zeroed.",
)
@click.option("--force", is_flag=True, help="Take the block device whatever is on it.")
@click.option("--assume-zeroed", is_flag=True, help="The block device reads zeros already.")
@click.option(
    "--lease",
    metavar="STORE",
    help="Several hosts can reach the data: who opens it holds its lease in this snapshot store.",
)
@click.option("--single-host", is_flag=True, help="No other host can reach the block device.")
@click.option(
    "--preallocate", is_flag=True, help="Take all the room now: no write meets a full disk."
)
@fill_rate_option
@pass_session
def create(
    session: Session,
    size: str | None,
    kms_key_id: str | None,
    unencrypted: bool,
    customer_key_file: Path | None,
    name: str | None,
    snapshot_id: str | None,
    source_customer_key_file: Path | None,
    preallocate: bool,
    data: Path | None,
    force: bool,
    assume_zeroed: bool,
    lease: str | None,
    single_host: bool,
    fill_rate: str | None,
) -> None:
    """Create an empty volume, or one from a snapshot. Its size is that of the snapshot or the
    block device, unless --size says another.

    One from a snapshot can be used at once, whatever its size: while it is mounted, chunks come
    from the snapshot when they are touched, and the others one after the other. The snapshot may be
    deleted meanwhile."""
    from volcrypt.operations.placement import Placement, device_size
    from volcrypt.operations.volume_views import view_volume
    from volcrypt.operations.volumes import create_volume

    if snapshot_id is None and source_customer_key_file is not None:
        raise click.UsageError("--source-customer-key-file goes with --snapshot-id")
    check_one_stdin(customer_key_file, source_customer_key_file)
    if fill_rate is not None and snapshot_id is None:
        raise click.UsageError("--fill-rate is for a volume from a snapshot")
    size_bytes = parse_size(size) if size is not None else None
    placement = Placement(
        preallocate=preallocate,
        data=data,
        force=force,
        assume_zeroed=assume_zeroed,
        lease=lease,
        single_host=single_host,
    )
    if size_bytes is None and snapshot_id is None:
        size_bytes = device_size(placement)
    if snapshot_id is not None:
        from volcrypt.operations.restore import volume_from_snapshot

        choice = None
        if kms_key_id or unencrypted or customer_key_file:
            choice = key_choice(session, kms_key_id, unencrypted, customer_key_file)
        give_key(session, source_customer_key_file)
        record = volume_from_snapshot(
            session.home,
            snapshot_id,
            size_bytes=size_bytes,
            name=name,
            choice=choice,
            progress=session.progress(),
            placement=placement,
            fill_rate=parse_fill_rate(fill_rate),
        )
    elif size_bytes is not None:
        choice = key_choice(session, kms_key_id, unencrypted, customer_key_file)
        record = create_volume(
            session.home,
            size_bytes=size_bytes,
            name=name,
            choice=choice,
            placement=placement,
            progress=session.progress(),
        )
    else:
        raise click.UsageError("--size is needed, but for a volume from a snapshot or on a device")
    show_created(session, view_volume(session.home, record))


@volume.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List all volumes."""
    from volcrypt.operations.records import load_records
    from volcrypt.operations.volume_views import VolumeView, view_volume

    found = load_records(session.home)
    views = {
        volume_id: view_volume(session.home, record)
        for volume_id, record in found.items()
        if not isinstance(record, VolcryptError)
    }
    problems = {key: value for key, value in found.items() if isinstance(value, VolcryptError)}
    uses = uses_by_volume(session.home, views.values())

    def row(volume_id: "VolumeId") -> list[str]:
        if volume_id in problems:
            return [volume_id, "", "error", "", "unknown", "", "unknown"]
        view: VolumeView = views[volume_id]
        record, use = view.record, uses.get(volume_id)
        return [
            volume_id,
            record.name or "",
            state_text(view, use),
            format_size(record.size_bytes),
            "yes" if record.is_encrypted else "no",
            place_text(use) if use else "",
            key_text(record).rpartition("/")[2],
        ]

    document = [
        {"VolumeId": key, "State": "error", "StateReason": str(problems[key])}
        if key in problems
        else volume_document(views[key], uses.get(key))
        for key in found
    ]
    session.show_table(
        {"Volumes": document},
        ["VOLUME", "NAME", "STATE", "SIZE", "ENCRYPTED", "MOUNTED ON", "KMS KEY"],
        [row(key) for key in found],
    )
    session.warn(error.about(key) for key, error in problems.items())


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@pass_session
def show(session: Session, volume: str) -> None:
    """Show everything about VOLUME."""
    from volcrypt.operations.records import load_record
    from volcrypt.operations.volume_views import view_volume

    view = view_volume(session.home, load_record(session.home, volume))
    use = uses_by_volume(session.home, [view]).get(view.record.volume_id)
    session.show_fields(volume_document(view, use), volume_fields(view, use))


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option("--size", required=True, help="The size it will have; a volume cannot shrink.")
@click.option(
    "--resize-fs", is_flag=True, help="Also grow the ext4, xfs or btrfs that is mounted from it."
)
@opening_key_option
@pass_session
def grow(
    session: Session, volume: str, size: str, resize_fs: bool, customer_key_file: Path | None
) -> None:
    """Make VOLUME larger, also while it is in use. What is new reads zeros. Its customer-provided
    key, if it has one, is needed where its data is not in the home."""
    from volcrypt.operations.grow import grow_volume

    give_key(session, customer_key_file)

    grown = grow_volume(session.home, volume, size_bytes=parse_size(size), resize_fs=resize_fs)
    record, resized = grown.record, grown.file_system
    document: dict[str, JsonValue] = {
        "VolumeId": record.volume_id,
        "OriginalSize": grown.old_bytes,
        "TargetSize": record.size_bytes,
        "Loops": [str(loop) for loop in grown.loops],
        "FileSystem": resized.kind if resized else None,
        "MountPoint": str(resized.mount_point) if resized else None,
    }

    def text() -> None:
        if record.size_bytes == grown.old_bytes:
            print(f"{record.volume_id} has {format_size(record.size_bytes)} already")
        else:
            print(
                f"{record.volume_id} has {format_size(record.size_bytes)}, "
                f"it had {format_size(grown.old_bytes)}"
            )
        if resized:
            print(f"its {resized.kind} file system on {resized.mount_point} fills it")
        elif grown.loops:
            print("a file system on it keeps its size; see --resize-fs")
        if record.exported_at is not None and record.size_bytes > grown.old_bytes:
            print("the exported header shows noise where it is new; export it again")

    session.show(document, text)


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option(
    "--keep-data",
    is_flag=True,
    help="Only forget it here: its data elsewhere stays, for a home that has it registered.",
)
@yes_to_deletion_option
@pass_session
def delete(session: Session, volume: str, keep_data: bool, yes: bool) -> None:
    """Delete VOLUME and its data; its snapshots stay, and what is on a block device."""
    from volcrypt.operations.records import find_entry
    from volcrypt.operations.volume_deletion import delete_volume

    if not yes and not keep_data and has_terminal():
        entry = find_entry(session.home, volume)
        named = f"{entry.id} ({entry.name})" if entry.name else entry.id
        confirm("deleting a volume", f"delete volume {named} and its data?")
    deleted = delete_volume(session.home, volume, keep_data=keep_data)

    def text() -> None:
        print(f"{deleted.volume_id} is {'forgotten' if keep_data else 'deleted'}")
        if deleted.kept and not keep_data:
            print(f"{deleted.kept} still holds what was on it; overwrite it if it must not")

    kept = str(deleted.kept) if deleted.kept else None
    session.show({"VolumeId": deleted.volume_id, "DataKept": kept}, text)


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option(
    "--assume-whole",
    is_flag=True,
    help="All chunks of a volume from a snapshot are in its data: it was filled elsewhere.",
)
@opening_key_option
@pass_session
def check(
    session: Session, volume: str, assume_whole: bool, customer_key_file: Path | None
) -> None:
    """Check record, register entry, data file and key of VOLUME."""
    from volcrypt.operations.volumes import check_volume

    give_key(session, customer_key_file)
    if assume_whole:
        from volcrypt.operations import lazy_fetch

        lazy_fetch.assume_whole(session.home, volume)
    record = check_volume(session.home, volume)
    session.show(
        {"VolumeId": record.volume_id, "Result": "ok"},
        lambda: print(f"{record.volume_id} is in order: record, data file, key"),
    )
