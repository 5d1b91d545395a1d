"""`volcrypt mount`, `unmount`, `attach`, `detach`."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.customer_key import give_key, opening_key_option
from volcrypt.cli.fill_rate import fill_rate_option, parse_fill_rate
from volcrypt.cli.session import Command, Session, pass_session
from volcrypt.names import is_snapshot_id

if TYPE_CHECKING:
    from volcrypt.names import VolumeId
    from volcrypt.operations.mounts import Launch
    from volcrypt.operations.watching import Watching
    from volcrypt.volume.launch import DataPlaneKind

_ON_KEY_LOSS = click.option(
    "--on-key-loss",
    type=click.Choice(["keep", "fence"]),
    default="keep",
    show_default=True,
    help="When the KMS takes the key away (disabled, pending deletion, access denied): go on, as "
    "EBS does, or within 60 s answer every request with an error and wipe the key.",
)
_READ_ONLY = click.option("--read-only", is_flag=True, help="Refuse every write.")
_FOREGROUND = click.option(
    "--foreground", is_flag=True, help="Serve from this process until it is stopped."
)


_TAKE_OVER = click.option(
    "--take-over",
    is_flag=True,
    help="Take the lease from another host, which is gone or can reach the data no more.",
)


_DATA_PLANE = click.option(
    "--data-plane",
    type=click.Choice(["native", "python"]),
    default="native",
    show_default=True,
    help="What answers simple reads and writes: compiled threads, or Python as all others.",
)


_DISCARD = click.option(
    "--discard",
    is_flag=True,
    help="Let fstrim, blkdiscard and file systems give room back; the holes show what is free. "
    "Not with --data-plane python.",
)
_DISCARD_ZEROS = click.option(
    "--discard-zeros",
    is_flag=True,
    help="Make holes of whole 4096-byte units of zeros that are written; they show what is zero.",
)


@click.command(cls=Command)
@click.argument("target", metavar="VOLUME|SNAPSHOT")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@_READ_ONLY
@_ON_KEY_LOSS
@_TAKE_OVER
@_FOREGROUND
@_DATA_PLANE
@_DISCARD
@_DISCARD_ZEROS
@fill_rate_option
@opening_key_option
@pass_session
def mount(
    session: Session,
    target: str,
    directory: Path,
    read_only: bool,
    on_key_loss: str,
    take_over: bool,
    foreground: bool,
    data_plane: "DataPlaneKind",
    discard: bool,
    discard_zeros: bool,
    fill_rate: str | None,
    customer_key_file: Path | None,
) -> None:
    """Serve the plaintext of a volume or snapshot as DIR/volume. Returns when the first read works.

    A snapshot is read-only, and only what is read is fetched, unless there is a --fill-rate. Of a
    volume and a snapshot with one name the volume is meant."""
    from volcrypt.operations.discarding import refuse_for_snapshot
    from volcrypt.operations.mounts import check_mountable, is_volume, mount_volume
    from volcrypt.operations.snapshot_mounts import mount_snapshot
    from volcrypt.volume.launch import Discarding, exec_daemon, spawn_daemon

    give_key(session, customer_key_file)
    launch: Launch = spawn_daemon
    if foreground:
        launch = exec_daemon
    rate = parse_fill_rate(fill_rate)
    watching = watching_of(session, on_key_loss)
    discards = Discarding(requests=discard, zeros=discard_zeros)
    if take_over:
        # Nobody is stopped for a volume that could not be had afterwards.
        check_mountable(
            session.home,
            target,
            directory,
            watching=watching,
            data_plane=data_plane,
            discards=discards,
        )
        _take_over(session, target)
    if is_volume(session.home, target):
        mounted = mount_volume(
            session.home,
            target,
            directory,
            read_only=read_only,
            launch=launch,
            watching=watching,
            fill_rate=rate,
            data_plane=data_plane,
            discards=discards,
        )
    else:
        refuse_for_snapshot(discards)
        mounted = mount_snapshot(
            session.home, target, directory, fill_rate=rate, launch=launch, data_plane=data_plane
        )
    served = mounted.snapshot_id or mounted.volume_id
    if mounted.snapshot_id is None:
        _warn_of_migration(session, mounted.volume_id)
    document = {
        "VolumeId": None if mounted.snapshot_id else mounted.volume_id,
        "SnapshotId": mounted.snapshot_id,
        "MountPoint": str(mounted.mount_point),
        "File": str(mounted.file),
        "Pid": mounted.pid,
        "OnKeyLoss": on_key_loss,
    }
    session.show(document, lambda: print(f"{served} is served as {mounted.file}"))


stop_snapshot_option = click.option(
    "--stop-snapshot",
    is_flag=True,
    help="Give up a snapshot that is still being made of it, instead of refusing.",
)


@click.command(cls=Command)
@click.argument("target", metavar="VOLUME|SNAPSHOT|DIR")
@stop_snapshot_option
@pass_session
def unmount(session: Session, target: str, stop_snapshot: bool) -> None:
    """Flush and end a mount. Refused while a process has its file open."""
    from volcrypt.operations.mounts import unmount_volume

    served = unmount_volume(session.home, target, stop_snapshot=stop_snapshot)
    kind = "SnapshotId" if is_snapshot_id(served) else "VolumeId"
    session.show({kind: served}, lambda: print(f"{target} ({served}) is unmounted"))


def _take_over(session: Session, volume: str) -> None:
    from volcrypt.operations.leases import check_not_used_here, take_over_lease

    check_not_used_here(session.home, volume)
    taken = take_over_lease(session.home, volume)
    if taken is not None and not taken.stopped:
        host = taken.lease.host_name
        print(
            f"warning: host {host} did not confirm that it stopped; if it can still reach the "
            "data, it must be kept from writing",
            file=sys.stderr,
        )


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option("--mkfs", metavar="TYPE", help="Make a file system first; refused over data.")
@click.option(
    "--mount",
    "mount_directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Mount the file system there.",
)
@_READ_ONLY
@_ON_KEY_LOSS
@_TAKE_OVER
@_FOREGROUND
@_DATA_PLANE
@_DISCARD
@_DISCARD_ZEROS
@fill_rate_option
@opening_key_option
@pass_session
def attach(
    session: Session,
    volume: str,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
    on_key_loss: str,
    take_over: bool,
    foreground: bool,
    data_plane: "DataPlaneKind",
    discard: bool,
    discard_zeros: bool,
    fill_rate: str | None,
    customer_key_file: Path | None,
) -> None:
    """Put VOLUME on a loop device, /dev/volcrypt/NAME.

    With --foreground in a service that has a file descriptor store, a crash of the process that
    serves VOLUME, or its upgrade, is a pause: the next start goes on with the same mount."""
    from volcrypt.cli.handover import handed_on, keeping, restart_dead_file_systems
    from volcrypt.daemons.foreground import hold_signals, stay_attached
    from volcrypt.daemons.notify import notify
    from volcrypt.operations.attachments import attach_volume, check_attachable
    from volcrypt.volume.launch import Discarding, spawn_daemon

    give_key(session, customer_key_file)
    rate = parse_fill_rate(fill_rate)
    watching = watching_of(session, on_key_loss)
    discards = Discarding(requests=discard, zeros=discard_zeros)
    if take_over:
        # Nobody is stopped for a volume that could not be had afterwards.
        check_attachable(
            session.home,
            volume,
            mkfs=mkfs,
            mount_directory=mount_directory,
            read_only=read_only,
            watching=watching,
            data_plane=data_plane,
            discards=discards,
        )
        _take_over(session, volume)
    with handed_on(foreground) as handed:
        if foreground and handed is None and os.environ.get("NOTIFY_SOCKET"):
            restart_dead_file_systems(session.home, volume)
        attached = attach_volume(
            session.home,
            volume,
            mkfs=mkfs,
            mount_directory=mount_directory,
            read_only=read_only,
            launch=partial(spawn_daemon, reports=foreground, handed=handed),
            watching=watching,
            fill_rate=rate,
            data_plane=data_plane if handed is None else "native",
            discards=discards,
            keeper=keeping(data_plane) if foreground else None,
            handed=handed,
        )
    _warn_of_migration(session, attached.volume_id)
    document = {
        "VolumeId": attached.volume_id,
        "Device": str(attached.device),
        "Loop": str(attached.loop),
        "Pid": attached.pid,
        "SectorSize": attached.sector_size,
        "MountPoint": str(attached.mount_point) if attached.mount_point else None,
        "OnKeyLoss": on_key_loss,
        "Partitions": [str(partition) for partition in attached.partitions],
    }

    def text() -> None:
        print(f"{attached.volume_id} is attached as {attached.device} ({attached.loop})")
        for partition in attached.partitions:
            print(f"it has the partition {partition}")
        if attached.mount_point:
            print(f"its file system is mounted on {attached.mount_point}")

    if foreground:
        hold_signals()
    session.show(document, text)
    if foreground and os.environ.get("NOTIFY_SOCKET"):
        # From here on the service manager watches the process that serves, and stops by detach.
        notify(
            f"MAINPID={attached.pid}\nREADY=1\n"
            f"STATUS={volume} is attached as {attached.device} ({attached.loop})"
        )
    elif foreground:
        stay_attached(session.home.path, volume, attached.pid)


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@stop_snapshot_option
@click.option(
    "--unit",
    metavar="UNIT",
    help="As the stop of systemd's UNIT: has it stop file systems on VOLUME and who needs "
    "them; when UNIT is about to be restarted, leaves everything to the next process instead.",
)
@pass_session
def detach(session: Session, volume: str, stop_snapshot: bool, unit: str | None) -> None:
    """Unmount the file system of VOLUME, take it off its loop device, flush and stop serving."""
    from volcrypt.cli.handover import is_restarting, leave, stop_file_systems
    from volcrypt.operations.detachment import detach_volume
    from volcrypt.operations.mounts import find_served

    served = None if unit is None else find_served(session.home, volume)
    if unit is not None and served is not None:
        if served.kept and is_restarting(unit):
            leave(served.pid)
            session.show(
                {"VolumeId": served.volume_id},
                lambda: print(f"{volume} ({served.volume_id}) is left to the next process"),
            )
            return
        stop_file_systems(Path(served.mount_directory))
    volume_id = detach_volume(
        session.home,
        volume,
        stop_snapshot=stop_snapshot,
        note=lambda text: print(f"note: {text}", file=sys.stderr),
    )
    session.show({"VolumeId": volume_id}, lambda: print(f"{volume} ({volume_id}) is detached"))


def _warn_of_migration(session: Session, volume_id: "VolumeId") -> None:
    """An encryption of the volume, which was begun while it was in use, goes on when asked to."""
    from volcrypt.operations.online import migration_warning

    warning = migration_warning(session.home, volume_id)
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


def watching_of(session: Session, on_key_loss: str) -> "Watching":
    """How a volume is watched that is served now."""
    from volcrypt.operations.watching import Watching

    return Watching(
        profile=session.profile,
        region=session.region,
        interval_seconds=session.settings.mounts.key_check_seconds,
        key=on_key_loss == "fence",
    )
