"""`volcrypt volume`: create, import, export, list, show, grow, check, delete."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from volcrypt.cli.session import Command, JsonValue, Session, pass_session
from volcrypt.cli.text import format_time, iso_time
from volcrypt.geometry import format_size, parse_size

if TYPE_CHECKING:
    from volcrypt.names import VolumeId
    from volcrypt.operations.keys import KeyChoice
    from volcrypt.operations.volumes import VolumeView

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def key_options(function: Wrapped) -> Wrapped:
    """KEY OPTIONS: which key a new volume or copy is encrypted under."""
    function = click.option(
        "--unencrypted", is_flag=True, help="Do not encrypt (not for a copy of what is encrypted)."
    )(function)
    return click.option(
        "--kms-key-id",
        metavar="K",
        help="Key id, ARN, alias or alias ARN [default: the account's default key].",
    )(function)


def key_choice(kms_key_id: str | None, unencrypted: bool) -> "KeyChoice":
    from volcrypt.operations.keys import KeyChoice

    if unencrypted and kms_key_id is not None:
        raise click.UsageError("--kms-key-id and --unencrypted exclude each other")
    return KeyChoice(encrypted=not unencrypted, kms_key=kms_key_id)


def volume_document(view: "VolumeView") -> dict[str, JsonValue]:
    """EBS's DescribeVolumes, plus our own members."""
    record = view.record
    return {
        "VolumeId": record.volume_id,
        "Name": record.name,
        "State": view.state,
        "Size": record.size_bytes,
        "AllocatedBytes": view.allocated_bytes,
        "Preallocated": record.preallocated,
        "Encrypted": record.is_encrypted,
        "KeySource": record.key_source.value,
        "KmsKeyId": record.wrapped_key.kms_key_arn if record.wrapped_key else None,
        "DataEncryptionKeyId": record.wrapped_key.data_key_id if record.wrapped_key else None,
        "SnapshotId": record.snapshot_id,
        "CreateTime": iso_time(record.created_at),
        "DataPath": str(view.data_path),
        "Owner": {"Pid": view.owner.pid, "Purpose": view.owner.purpose} if view.owner else None,
    }


def volume_fields(view: "VolumeView") -> dict[str, str]:
    record = view.record
    return {
        "volume": record.volume_id,
        "name": record.name or "",
        "state": view.state,
        "size": f"{format_size(record.size_bytes)} ({record.size_bytes} bytes)",
        "allocated": _allocated_text(view),
        "encrypted": "yes" if record.is_encrypted else "no",
        "kms key": (record.wrapped_key.kms_key_arn or "") if record.wrapped_key else "",
        "data key": record.wrapped_key.data_key_id if record.wrapped_key else "",
        "from snapshot": record.snapshot_id or "",
        "created": format_time(record.created_at),
        "data": str(view.data_path),
        "in use by": f"{view.owner.purpose} (process {view.owner.pid})" if view.owner else "",
    }


def _allocated_text(view: "VolumeView") -> str:
    if view.allocated_bytes is None:
        return "data file is missing"
    kind = "all, in advance" if view.record.preallocated else "thin"
    return f"{format_size(view.allocated_bytes)} ({kind})"


@click.group()
def volume() -> None:
    """Volumes: encrypted block by block on this host."""


@volume.command(cls=Command)
@click.option("--size", help="Like 10GiB; a multiple of 4096 bytes, at most 64 TiB.")
@key_options
@click.option("--name", help="A name, unique among volumes.")
@click.option("--snapshot-id", metavar="S", help="Make the volume from this snapshot.")
@click.option(
    "--preallocate", is_flag=True, help="Take all the room now: no write meets a full disk."
)
@pass_session
def create(
    session: Session,
    size: str | None,
    kms_key_id: str | None,
    unencrypted: bool,
    name: str | None,
    snapshot_id: str | None,
    preallocate: bool,
) -> None:
    """Create an empty volume, or one from a snapshot (its size is then the default)."""
    from volcrypt.operations.placement import Placement
    from volcrypt.operations.restore import volume_from_snapshot
    from volcrypt.operations.volumes import create_volume, view_volume

    size_bytes = parse_size(size) if size is not None else None
    placement = Placement(preallocate=preallocate)
    if snapshot_id is not None:
        choice = key_choice(kms_key_id, unencrypted) if kms_key_id or unencrypted else None
        record = volume_from_snapshot(
            session.home,
            snapshot_id,
            size_bytes=size_bytes,
            name=name,
            choice=choice,
            progress=session.progress(),
            placement=placement,
        )
    elif size_bytes is not None:
        choice = key_choice(kms_key_id, unencrypted)
        record = create_volume(
            session.home, size_bytes=size_bytes, name=name, choice=choice, placement=placement
        )
    else:
        raise click.UsageError("--size is needed, but for a volume from a snapshot")
    show_created(session, view_volume(session.home, record))


def show_created(session: Session, view: "VolumeView") -> None:
    session.show_created(view.record.volume_id, volume_document(view), volume_fields(view))


@volume.command("import", cls=Command)
@click.argument(
    "source", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE|DEVICE"
)
@key_options
@click.option("--name", help="A name, unique among volumes.")
@pass_session
def import_(
    session: Session, source: Path, kms_key_id: str | None, unencrypted: bool, name: str | None
) -> None:
    """Make a volume of a raw image or block device; FILE|DEVICE is only read."""
    from volcrypt.operations.volumes import import_volume, view_volume

    record = import_volume(
        session.home,
        source,
        name=name,
        choice=key_choice(kms_key_id, unencrypted),
        progress=session.progress(),
    )
    show_created(session, view_volume(session.home, record))


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.argument("file", type=click.Path(path_type=Path))
@pass_session
def export(session: Session, volume: str, file: Path) -> None:
    """Write the plaintext of VOLUME to the new raw image FILE (sparse, mode 0600)."""
    from volcrypt.operations.volumes import export_volume

    record = export_volume(session.home, volume, file, progress=session.progress())
    document = {"VolumeId": record.volume_id, "File": str(file), "Size": record.size_bytes}
    session.show(document, lambda: print(f"{record.volume_id} is written, in plaintext, to {file}"))


@volume.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List all volumes."""
    from volcrypt.operations.records import load_records
    from volcrypt.operations.volumes import VolumeView, view_volume

    found = load_records(session.home)
    views = {
        volume_id: view_volume(session.home, record)
        for volume_id, record in found.items()
        if not isinstance(record, Exception)
    }
    problems = {key: str(value) for key, value in found.items() if isinstance(value, Exception)}

    def row(volume_id: "VolumeId") -> list[str]:
        if volume_id in problems:
            return [volume_id, "", "error", "", "", problems[volume_id]]
        view: VolumeView = views[volume_id]
        record = view.record
        key = record.wrapped_key.kms_key_arn if record.wrapped_key else None
        return [
            volume_id,
            record.name or "",
            view.state,
            format_size(record.size_bytes),
            "yes" if record.is_encrypted else "no",
            (key or "").rpartition("/")[2],
        ]

    document = [
        {"VolumeId": key, "State": "error", "StateReason": problems[key]}
        if key in problems
        else volume_document(views[key])
        for key in found
    ]
    session.show_table(
        {"Volumes": document},
        ["VOLUME", "NAME", "STATE", "SIZE", "ENCRYPTED", "KMS KEY"],
        [row(key) for key in found],
    )


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@pass_session
def show(session: Session, volume: str) -> None:
    """Show everything about VOLUME."""
    from volcrypt.operations.records import load_record
    from volcrypt.operations.volumes import view_volume

    view = view_volume(session.home, load_record(session.home, volume))
    session.show_fields(volume_document(view), volume_fields(view))


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option("--size", required=True, help="The size it will have; a volume cannot shrink.")
@click.option(
    "--resize-fs", is_flag=True, help="Also grow the ext4, xfs or btrfs that is mounted from it."
)
@pass_session
def grow(session: Session, volume: str, size: str, resize_fs: bool) -> None:
    """Make VOLUME larger, also while it is in use. What is new reads zeros."""
    from volcrypt.operations.grow import grow_volume

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
        print(
            f"{record.volume_id} has {format_size(record.size_bytes)}, "
            f"it had {format_size(grown.old_bytes)}"
        )
        if resized:
            print(f"its {resized.kind} file system on {resized.mount_point} fills it")
        elif grown.loops:
            print("a file system on it keeps its size; see --resize-fs")

    session.show(document, text)


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@pass_session
def delete(session: Session, volume: str) -> None:
    """Delete VOLUME and its data; its snapshots stay."""
    from volcrypt.operations.volumes import delete_volume

    volume_id = delete_volume(session.home, volume)
    session.show({"VolumeId": volume_id}, lambda: print(f"{volume_id} is deleted"))


@volume.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@pass_session
def check(session: Session, volume: str) -> None:
    """Check record, register entry, data file and key of VOLUME."""
    from volcrypt.operations.volumes import check_volume

    record = check_volume(session.home, volume)
    session.show(
        {"VolumeId": record.volume_id, "Result": "ok"},
        lambda: print(f"{record.volume_id} is in order: record, data file, key"),
    )
