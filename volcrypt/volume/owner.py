"""OwnerLock: one process at a time holds a volume, and says who it is.

Two things together, in the file `owner` of the volume's directory:

- an exclusive `flock`, which the kernel drops when the process ends, however it ends. It decides
  between processes of one machine.
- a record of who holds it, cleared at release. It names the holder to whoever comes second, and it
  decides where the lock cannot: when the directory is seen by several machines, or was carried to
  another one. A record of a process of this machine that is gone is cleared without asking; one of
  another machine never is, since nobody here can know whether that process still writes.

The record is one sector, written in place (the lock belongs to the file itself, so the file is
never replaced) and synced: a power cut leaves the old or the new one.

    volcrypt owner 1\\n            magic and version
    {...}                         OwnerRecord as JSON, then spaces up to 511 bytes, then \\n

A file that is empty, all spaces or all zeros has no owner.
Asking who the owner is takes no lock: a question must not make a mount fail.
"""

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from volcrypt.durable import (
    held_directory,
    no_space_named,
    read_fully,
    sync_directory,
    write_fully,
)
from volcrypt.errors import BadMagicError, MalformedError, VolumeInUseError, VolumeNotFoundError
from volcrypt.file_lock import is_at
from volcrypt.geometry import SECTOR_BYTES

OWNER_FILE: Final = "owner"
_MAGIC: Final = b"volcrypt owner 1\n"
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.01


class OwnerRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that holds a volume.

    `start_ticks` is when it started (field 22 of /proc/PID/stat): with boot id and pid it names
    one process for ever, where a pid alone is used again.
    """

    machine_id: str
    host_name: str
    boot_id: str
    pid: int
    start_ticks: int
    purpose: str

    @property
    def is_local(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.machine_id == machine_id()

    @property
    def is_alive(self) -> bool:
        """Whether the process is there; of another machine it is, for all that is known here."""
        if not self.is_local:
            return True
        return self.boot_id == boot_id() and self.start_ticks == start_ticks(self.pid)

    def way_out(self, directory: Path) -> str:
        """How to end it, for whoever comes second to the volume in `directory`."""
        if not self.is_local:
            return (
                f"detach it on {self.host_name}; only if that machine is gone for good, "
                f"remove {directory / OWNER_FILE}"
            )
        if self.purpose == "mount":
            volume = directory.name
            return (
                f"'volcrypt unmount {volume}', or 'volcrypt detach {volume}' where it is attached"
            )
        return f"a command is at work on it: wait for its end; 'ps -fp {self.pid}' shows it"

    def __str__(self) -> str:
        where = "" if self.is_local else f" on {self.host_name}"
        return f"process {self.pid}{where} ({self.purpose})"


class OwnerLock:
    """Being the one owner of the volume in a directory, until `release`."""

    def __init__(self, descriptor: int) -> None:
        """Internal: use `hold_volume` or `adopt`. Takes the locked descriptor over."""
        self._descriptor = descriptor
        self._was_kept = False
        self.is_kept = False

    def keep(self) -> None:
        """Somebody has a copy of the descriptor, and so the lock stays when this process ends:
        until `is_kept` is made false before `release`."""
        self._was_kept = self.is_kept = True

    @classmethod
    def adopt(cls, descriptor: int, *, purpose: str) -> Self:
        """The lock that another process took and handed on with its `descriptor`: it was held all
        the time in between, so what was checked under it still holds. Takes the descriptor over.
        """
        os.set_inheritable(descriptor, False)
        assert _try_flock(descriptor), "internal error: the lock that was handed on is not held"
        _write_sector(descriptor, _encode(_own_record(purpose)))
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """What a process that is to adopt the lock must inherit."""
        return self._descriptor

    def let_go(self) -> None:
        """Another process has adopted the lock: close our descriptor, and leave its record."""
        os.close(self._descriptor)
        self._descriptor = -1

    def release(self) -> None:
        """May be called twice."""
        if self._descriptor < 0:
            return
        # While the lock is held, so that whoever gets it next finds no owner. If that fails the
        # record is one of a process that ends, and gets cleared by the next one.
        with suppress(OSError):
            _write_sector(self._descriptor, b"")
        if self._was_kept and not self.is_kept:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also for the copies
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold_volume(directory: Path, *, purpose: str) -> OwnerLock:
    """Become the owner: for `with hold_volume(...):`. `purpose` is a word or two for whoever comes
    second, such as `mount`.

    Raises VolumeInUseError that names the holder, VolumeNotFoundError when there is no such
    directory, FormatError when the record there cannot be read, NoSpaceError.
    """
    descriptor = _take_lock(directory)
    try:
        with no_space_named(directory / OWNER_FILE):
            _write_sector(descriptor, _encode(_own_record(purpose)))
            sync_directory(directory)
    except BaseException:
        os.close(descriptor)
        raise
    return OwnerLock(descriptor)


def current_owner(directory: Path) -> OwnerRecord | None:
    """Who holds the volume in `directory`: a live process here, or any of another machine.

    Raises FormatError when the record cannot be read.
    """
    try:
        descriptor = _open_in(directory, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MalformedError(f"owner record of {directory.name}", "not a regular file") from error
    try:
        record = _read_record(descriptor, directory)
    finally:
        os.close(descriptor)
    return record if record is not None and record.is_alive else None


def is_kept(directory: Path) -> bool:
    """Whether nobody is the owner, and somebody keeps the lock for the next one.

    Raises FormatError when the record cannot be read.
    """
    try:
        descriptor = _open_in(directory, os.O_RDONLY)
    except (OSError, MalformedError):
        return False
    try:
        return not _try_flock(descriptor) and current_owner(directory) is None
    finally:
        os.close(descriptor)


def _open_in(directory: Path, flags: int) -> int:
    """The owner file, in the directory itself and not where a link in its place leads."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with held_directory(directory) as held:
        return os.open(OWNER_FILE, flags, 0o600, dir_fd=held)


def _take_lock(directory: Path) -> int:
    """A descriptor of the owner file that holds its lock, with no live owner in its record.

    Refuses at once who is there by lock and by record. Where the two disagree it waits a moment
    for them to agree: a holder that took the lock and has not written its record yet, or a
    killed one whose files are closed and who has not quite ended.
    """
    path = directory / OWNER_FILE
    holder = None
    for _ in range(_ATTEMPTS):
        try:
            with no_space_named(path):
                descriptor = _open_in(directory, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:
            raise VolumeNotFoundError(directory.name) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                what = f"owner record of {directory.name}"
                raise MalformedError(what, "not a regular file") from error
            raise
        keep = False
        try:
            is_locked = _try_flock(descriptor)
            record = _read_record(descriptor, directory)
            holder = record if record is not None and record.is_alive else None
            if holder is not None and not (is_locked and holder.is_local):
                raise _in_use(directory, holder)
            if is_locked and holder is None and is_at(path, descriptor):
                keep = True
                return descriptor
        finally:
            if not keep:
                os.close(descriptor)
        time.sleep(_PAUSE_SECONDS)
    raise _in_use(directory, holder)


def _in_use(directory: Path, holder: OwnerRecord | None) -> VolumeInUseError:
    if holder is None:
        return VolumeInUseError(directory.name, "a process that does not say who it is")
    return VolumeInUseError(directory.name, str(holder), hint=holder.way_out(directory))


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_sector(descriptor: int, content: bytes) -> None:
    assert len(content) < SECTOR_BYTES, "internal error: an owner record is one sector"
    sector = content.ljust(SECTOR_BYTES - 1) + b"\n"
    write_fully(descriptor, sector, 0)
    os.fsync(descriptor)


def _encode(record: OwnerRecord) -> bytes:
    return _MAGIC + msgspec.json.encode(record)


def _read_record(descriptor: int, directory: Path) -> OwnerRecord | None:
    what = f"owner record of {directory.name}"
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise MalformedError(what, "not a regular file")
    content = read_fully(descriptor, SECTOR_BYTES + 1, 0).strip(b" \n\0")
    if not content:
        return None
    if not content.startswith(_MAGIC):
        raise BadMagicError(what)
    try:
        return msgspec.json.decode(content[len(_MAGIC) :], type=OwnerRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(what, "it does not parse") from error


def _own_record(purpose: str) -> OwnerRecord:
    started = start_ticks(os.getpid())
    assert started is not None, "internal error: this process is not in /proc"
    return OwnerRecord(
        machine_id=machine_id(),
        host_name=os.uname().nodename,
        boot_id=boot_id(),
        pid=os.getpid(),
        start_ticks=started,
        purpose=purpose,
    )


def machine_id() -> str:
    """What names this installation (machine-id(5)); without one, its host name has to do."""
    with suppress(OSError):
        found = Path("/etc/machine-id").read_text().strip()
        if found:
            return found
    return f"host {os.uname().nodename}"


def boot_id() -> str:
    """What names this run of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When process `pid` started; None when there is none, or it is only waiting to be reaped."""
    try:
        # The name in parentheses may hold anything, also spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
