"""Mount points: which are usable, what is mounted where, taking mounts away. Synchronous.

Looks at /proc/self/mountinfo (proc(5)) first and touches a mounted directory last: on a FUSE mount
whose process is gone every access fails with ENOTCONN, and on one whose process is stuck it never
returns.
"""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from volcrypt.durable import OTHERS_LINK, canonical
from volcrypt.errors import (
    ComponentMissingError,
    MountError,
    MountPointError,
    MountPointTakenError,
    PrivilegeError,
    TryAgainError,
    VolumeInUseError,
)

VOLUME_FILE: Final = "volume"
"""The one file of a mount: the volume's plaintext."""

FS_TYPE: Final = "fuse.volcrypt"

_LOOK_SECONDS: Final = 2.0

_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo; `device` is `major:minor`. `options` are those of the file system, not
    of this place."""

    mount_point: str
    device: str
    fs_type: str
    source: str
    options: frozenset[str]


class Liveness(Enum):
    """ALIVE answered, DEAD is a mount without a process, SILENT did not answer in time."""

    ALIVE = "alive"
    DEAD = "dead"
    SILENT = "silent"


def mounts() -> list[Mount]:
    """What is mounted in this mount namespace; the last at a mount point is the one on top."""
    return parse_mountinfo(read_mountinfo())


def read_mountinfo() -> str:
    """Its text, to the byte: read as a text file, a carriage return in a name would end a line."""
    return os.fsdecode(Path("/proc/self/mountinfo").read_bytes())


def lines_of(text: str) -> list[str]:
    """The lines of a file of the kernel. It escapes a newline in a name, and no other character
    that `str.splitlines` takes for the end of a line: whoever may mount chooses such names."""
    return text.removesuffix("\n").split("\n") if text else []


def parse_mountinfo(text: str) -> list[Mount]:
    found = []
    for line in lines_of(text):
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        found.append(
            Mount(
                mount_point=_unescape(fields[4]),
                device=fields[2],
                fs_type=tail[0],
                source=_unescape(tail[1]),
                options=frozenset(tail[2].split(",")),
            )
        )
    return found


def mount_at(directory: Path) -> Mount | None:
    """The topmost mount exactly at `directory`, which is an absolute path without symlinks."""
    return next((m for m in reversed(mounts()) if m.mount_point == str(directory)), None)


def check_mount_point(directory: Path) -> Path:
    """The canonical path of a directory on which a volume can be mounted now.

    A mount of ours that is dead (its process was killed) is taken away first.
    Raises MountError, PrivilegeError.
    """
    # The last component may be a dead mount, so only its parent is resolved.
    try:
        directory = canonical(directory.parent) / directory.name
    except OSError as error:
        is_theirs = error.strerror == OTHERS_LINK
        problem = f"cannot be used: {OTHERS_LINK}" if is_theirs else "does not exist"
        raise _unusable(directory, problem) from error
    mount = mount_at(directory)
    if mount is not None:
        if mount.fs_type != FS_TYPE or liveness(directory) is not Liveness.DEAD:
            hint = f"volcrypt unmount {directory}" if mount.fs_type == FS_TYPE else None
            raise MountPointTakenError(
                f"mount point {directory} already has {mount.source} mounted on it", hint=hint
            )
        remove_dead_mount(directory)
    try:
        directory = canonical(directory)
        if os.listdir(directory):
            raise _unusable(directory, "is not empty")
    except FileNotFoundError as error:
        raise _unusable(directory, "does not exist", hint=f"mkdir {directory}") from error
    except NotADirectoryError as error:
        raise _unusable(directory, "is not a directory") from error
    except PermissionError as error:
        if error.strerror == OTHERS_LINK:
            raise _unusable(directory, f"cannot be used: {OTHERS_LINK}") from error
        raise PrivilegeError(f"mount point {directory} cannot be opened by this user") from error
    except OSError as error:
        raise _unusable(directory, f"cannot be used: {error.strerror}") from error
    return directory


def liveness(directory: Path, *, timeout_seconds: float = 3.0) -> Liveness:
    """What the process behind a FUSE mount is doing."""
    answers: list[Liveness] = []

    def ask() -> None:
        try:
            os.statvfs(directory)  # asks the process; attributes come from the kernel's cache
            answers.append(Liveness.ALIVE)
        except OSError as error:
            dead = error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            answers.append(Liveness.DEAD if dead else Liveness.ALIVE)

    # A thread, since a call into a stuck mount returns only when the mount is aborted.
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(timeout_seconds)
    return answers[0] if answers else Liveness.SILENT


def is_mount_of(mount: Mount, source: str) -> bool:
    """Whether it is one of ours, of the volume or snapshot with this id."""
    return mount.fs_type == FS_TYPE and mount.source == source


def is_served_elsewhere(mount: Mount, runtime: Path) -> bool:
    """Whether a process of another home of this host serves a mount of ours, of a volume that both
    have: by `volume register`, or since one home was made of the other.

    Only for a volume that no process serves for the home with `runtime`. A mount that is silent is
    that of a process of another home when one has a socket for the volume there.
    """
    state = liveness(Path(mount.mount_point))
    if state is not Liveness.SILENT:
        return state is Liveness.ALIVE
    sockets = runtime.parent.glob(f"*/{mount.source}.sock")
    return any(path.parent != runtime for path in sockets)


def served_elsewhere(name: str, mount: Mount) -> VolumeInUseError:
    """What is said of a mount of which `is_served_elsewhere`; `name` is the volume's."""
    return VolumeInUseError(
        name,
        f"the process that serves it at {mount.mount_point}",
        hint="detach or unmount it in its home: it is on this host",
    )


def remove_dead_mounts_of(source: str, runtime: Path) -> None:
    """Take away every mount of ours that a process left behind when it was killed.

    Only for the holder of the volume's owner lock in the home with `runtime`: nobody else of that
    home can be serving `source`, so a mount of it that stays silent is dead too. Raises
    VolumeInUseError when a process of another home serves it.
    """
    for mount in mounts():
        if is_mount_of(mount, source):
            if is_served_elsewhere(mount, runtime):
                raise served_elsewhere(source, mount)
            remove_dead_mount(Path(mount.mount_point))


def check_not_served(source: str, *, name: str) -> None:
    """Raises VolumeInUseError when a process of this host serves `source`, of whatever home, or
    one that hangs does. `name` is the volume's in errors."""
    for mount in mounts():
        if is_mount_of(mount, source) and liveness(Path(mount.mount_point)) is not Liveness.DEAD:
            raise served_elsewhere(name, mount)


def remove_dead_mount(directory: Path) -> None:
    """Take away a FUSE mount of which the process is gone or stuck; waiting callers get an error.

    Raises MountError, PrivilegeError.
    """
    # MNT_FORCE makes FUSE abort the connection: what /sys/fs/fuse/connections/N/abort does, also
    # where that is not mounted. The mount itself stays when somebody is inside, hence the second.
    if os.geteuid() == 0:
        _umount2(directory, _MNT_FORCE)
        if mount_at(directory) is None:
            return
    unmount(directory, detach=True)


def unmount(directory: Path, *, detach: bool = False) -> None:
    """Unmount what is mounted at `directory`.

    With `detach` it disappears at once even if files are open on it; whoever has them open gets
    errors when the process behind it ends.
    Raises TryAgainError when it is busy, MountError, PrivilegeError.
    """
    if os.geteuid() == 0:
        error = _umount2(directory, _MNT_DETACH if detach else 0)
    else:
        error = _fusermount(directory, detach=detach)
    if error == errno.EBUSY:
        raise TryAgainError(f"{directory} is busy")
    if error == errno.EPERM:
        raise PrivilegeError(f"unmounting {directory} needs the privileges of its owner")
    if error:
        raise MountError(f"cannot unmount {directory}: {os.strerror(error)}")


def users_of(directory: Path) -> list[str]:
    """Who keeps a mount at `directory` busy, for people: `cat (pid 4711)`, `a mount at /mnt`.

    Never touches the mount itself.
    """
    users = [
        f"a mount at {mount.mount_point}"
        for mount in mounts()
        if mount.mount_point.startswith(f"{directory}/")
    ]
    return users + processes_below(directory)


def processes_below(directory: Path) -> list[str]:
    """The processes that use a directory or what is in it."""
    prefix = f"{directory}/"
    return processes_using(lambda path: path == str(directory) or path.startswith(prefix))


def processes_using(matches: Callable[[str], bool]) -> list[str]:
    """The processes that have something open, run it or stand in it; root sees everybody's.

    One that lets nobody look is passed over: all of /proc/PID waits while a process hangs in
    execve, where it closes a file of some mount that does not answer.
    """
    left = deque(process for process in Path("/proc").iterdir() if process.name.isdigit())
    users: list[Path] = []

    def look() -> None:
        while left:
            with suppress(IndexError):
                process = left.popleft()
                if _uses(process, matches):
                    users.append(process)

    while left:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        count = len(left) + 1
        while looking.is_alive() and len(left) < count:
            count = len(left)
            looking.join(_LOOK_SECONDS)
    return [
        "this command itself"
        if process.name == str(os.getpid())
        else f"{_command(process)} (pid {process.name})"
        for process in list(users)
    ]


def _uses(process: Path, matches: Callable[[str], bool]) -> bool:
    try:
        links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    except OSError:
        return False  # it has just ended, or belongs to somebody else
    for link in links:
        try:
            if matches(os.readlink(link)):
                return True
        except OSError:
            continue
    return False


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"


def _umount2(directory: Path, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(directory), flags) else 0


def _fusermount(directory: Path, *, detach: bool) -> int:
    if shutil.which("fusermount3") is None:
        raise ComponentMissingError("fusermount3", package="fuse3")
    arguments = ["fusermount3", "-u", *(["-z"] if detach else []), "--", str(directory)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return 0
    if "busy" in done.stderr:
        return errno.EBUSY
    return errno.EINVAL if "not found" in done.stderr else errno.EPERM


def _unusable(directory: Path, problem: str, *, hint: str | None = None) -> MountPointError:
    return MountPointError(f"mount point {directory} {problem}", hint=hint)


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
