"""A service manager's part in `attach --foreground` and `detach`: mounts that outlive a process."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from volcrypt.daemons.notify import DescriptorStore, passed_descriptors
from volcrypt.volume.kept_mount import LEAVE_SIGNAL, NAMES, HandedMount, kernel_resends

if TYPE_CHECKING:
    from volcrypt.operations.home import Home
    from volcrypt.volume.launch import DataPlaneKind

_UNMOUNT_SECONDS: Final = 30
_UNMOUNT_STEP_SECONDS: Final = 0.05


def keeping(data_plane: "DataPlaneKind") -> str | None:
    """The address of who is to keep the mount; says so where a crash will end it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    reason = None
    if data_plane != "native":
        reason = "--data-plane native"
    elif not kernel_resends(os.uname().release):
        reason = "Linux 6.9"
    if reason is None:
        return address
    print(
        "note: a crash of the process that serves the volume ends the mount; to go on after one "
        f"takes {reason}",
        file=sys.stderr,
    )
    return None


@contextmanager
def handed_on(foreground: bool) -> Iterator[HandedMount | None]:
    """The mount that an earlier process of the service left, if it still is one. One that cannot be
    taken over any more is let go."""
    passed = passed_descriptors(os.environ, os.getpid()) if foreground else {}
    if not passed:
        yield None
        return
    from volcrypt.errors import LostMountError

    handed = HandedMount.find(passed)
    is_usable = handed is not None and handed.is_alive()
    try:
        if not is_usable:
            _let_go(passed)
        yield handed if is_usable else None
    except LostMountError:
        _let_go(passed)
        raise
    finally:
        for name in NAMES:
            if name in passed:
                os.close(passed[name])


def _let_go(passed: dict[str, int]) -> None:
    """Have the service manager close what it passed, and its copies."""
    names = [name for name in NAMES if name in passed]
    if names:
        with suppress(OSError):
            DescriptorStore(os.environ.get("NOTIFY_SOCKET", "")).forgotten(names)


def is_restarting(unit: str) -> bool:
    """Whether the service manager is about to start the unit again, and stops it for that alone."""
    done = subprocess.run(
        ["systemctl", "list-jobs", "--no-legend", "--no-pager", "--full", "--plain"],
        check=False,
        capture_output=True,
        text=True,
    )
    jobs = [line.split() for line in done.stdout.splitlines()]
    return any(job[1:3] == [unit, "restart"] for job in jobs)


def stop_file_systems(directory: Path) -> None:
    """Have systemd stop the file systems on the volume that is served at `directory`, and before
    that the services that need them. What cannot be stopped is found by who goes on."""
    from volcrypt.volume.loop import loops_of
    from volcrypt.volume.mountpoint import VOLUME_FILE

    for point in _file_systems(loops_of(directory / VOLUME_FILE)):
        subprocess.run(["systemctl", "stop", "--", point], check=False)


def restart_dead_file_systems(home: "Home", volume: str) -> None:
    """The same of a volume whose process ended and left nothing; they come back when this service
    is ready, and so do the services that need them. Raises VolumeInUseError while it is served.
    """
    from volcrypt.operations.attachments import device_name, private_mount_point
    from volcrypt.operations.detachment import loops_below
    from volcrypt.operations.mounts import check_free
    from volcrypt.operations.records import load_record

    record = load_record(home, volume)
    check_free(home, record.volume_id, volume)
    loops = loops_below(private_mount_point(home, record.volume_id), device_name(record))
    if dead := _file_systems(loops):
        subprocess.run(["systemctl", "--no-block", "try-restart", "--", *dead], check=False)
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while _file_systems(loops) and time.monotonic() < deadline:
        time.sleep(_UNMOUNT_STEP_SECONDS)


def _file_systems(loops: Sequence[Path]) -> list[str]:
    from volcrypt.operations.attachments import mounts_on

    return [mount.mount_point for loop in loops for mount in mounts_on(loop)]


def leave(pid: int) -> None:
    """Have the process that serves leave its mount to the next one; returns when it has ended."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, LEAVE_SIGNAL)
        select.select([process], [], [])
    finally:
        os.close(process)
