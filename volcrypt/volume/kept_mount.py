"""A mount that outlives the process that serves it: what is kept of it, and how another takes it
over.

A service manager keeps these descriptors (`volcrypt.daemons.notify`), and gives them to the next
process of the service:

    volcrypt-fuse    the connection to the kernel (/dev/fuse). As long as one is open, requests wait
    volcrypt-owner   the owner lock: nobody else gets the volume in between
    volcrypt-data    the data file, opened before anything was written, and never synced. The kernel
                     tells each open file once of an error in writing back; what the process that
                     ended was told, and did not live to pass on, is told to this one again
    volcrypt-mount   a file in memory: a line of JSON, KeptMount, and after a fence its FenceNote
    volcrypt-witness the writing end of a pipe, of which the process has the other end: a service
                     manager does not say what it has no room for, but closes it. Not handed on:
                     systemd drops it when that process ends

The kernel sends FUSE_INIT once, so what was agreed then is in KeptMount, and libfuse is told it
again. Everything else that a process knows of a mount it finds as after any kill, in the change
map, the present map, and the record; nodes and handles have fixed numbers.
"""

import os
import re
import select
import signal
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from volcrypt.errors import MalformedError, MountError, UnsupportedVersionError
from volcrypt.names import VolumeId
from volcrypt.volume.fence import FenceNote
from volcrypt.volume.mountpoint import FS_TYPE, mounts

LEAVE_SIGNAL: Final = signal.SIGUSR2
"""Has the process that serves answer what is under way, and leave the mount to the next one."""

VERSION: Final = 1
FUSE: Final = "volcrypt-fuse"
OWNER: Final = "volcrypt-owner"
DATA: Final = "volcrypt-data"
FACTS: Final = "volcrypt-mount"
WITNESS: Final = "volcrypt-witness"
NAMES: Final = (FUSE, OWNER, DATA, FACTS)
"""What the next process needs."""
KEPT: Final = (*NAMES, WITNESS)

_MAX_BYTES: Final = 64 * 1024
_OLDEST_KERNEL: Final = (6, 9)
# linux/fuse.h
_INIT_IN: Final = struct.Struct("<IIIII")  # major, minor, max_readahead, flags, flags2
_INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI")
_HAS_RESEND: Final = 1 << (39 - 32)
_IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
_OUT_HEADER: Final = struct.Struct("<IiQ")
_FUSE_INIT: Final = 26
_NOTIFY_RESEND: Final = 7
# Requests of the kernel have even numbers, so the reply to this one is nobody's.
_OWN_NUMBER: Final = 1


class KeptMount(msgspec.Struct, frozen=True, kw_only=True):
    """What the next process must know of a mount. `device` is that of its file system,
    `major:minor`; `init_request` and `init_reply` are what was agreed with the kernel.
    `lease_epoch` is the lease under which all was written."""

    version: int = VERSION
    volume_id: VolumeId
    mount_directory: str
    device: str
    read_only: bool
    discard: bool
    discard_zeros: bool
    init_request: bytes
    init_reply: bytes
    lease_epoch: int | None = None

    @property
    def resends(self) -> bool:
        """Whether the kernel can send requests again, as it said when the mount was made."""
        return bool(_INIT_IN.unpack_from(self.init_request)[4] & _HAS_RESEND)

    @property
    def max_write(self) -> int:
        """The largest write that the kernel sends."""
        return int(_INIT_OUT.unpack_from(self.init_reply)[6])

    def introduction(self) -> bytes:
        """A FUSE_INIT for a libfuse that comes later, by a kernel that can what was agreed on."""
        major, minor, readahead, flags, flags2 = _INIT_IN.unpack_from(self.init_request)
        agreed = _INIT_OUT.unpack_from(self.init_reply)
        (agreed_flags2,) = struct.unpack_from("<I", self.init_reply, 32)
        body = _INIT_IN.pack(
            major, min(minor, agreed[1]), readahead, flags & agreed[3], flags2 & agreed_flags2
        ).ljust(len(self.init_request), b"\0")
        size = _IN_HEADER.size + len(body)
        return _IN_HEADER.pack(size, _FUSE_INIT, _OWN_NUMBER, 0, 0, 0, 0, 0, 0) + body

    def is_mounted(self) -> bool:
        """Whether it is still mounted, in this mount namespace; touches nothing of it."""
        return any(
            mount.fs_type == FS_TYPE
            and mount.device == self.device
            and mount.source == self.volume_id
            and mount.mount_point == self.mount_directory
            for mount in mounts()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedMount:
    """A mount that was handed to this process: its descriptors, and what is known of it."""

    fuse: int
    owner: int
    data: int
    facts: int
    mount: KeptMount
    fence: FenceNote | None

    @classmethod
    def find(cls, descriptors: Mapping[str, int]) -> Self | None:
        """None where nothing was handed on, or only a part, which is of no use. Raises
        FormatError."""
        if not all(name in descriptors for name in NAMES):
            return None
        mount, fence = read_facts(descriptors[FACTS])
        return cls(
            fuse=descriptors[FUSE],
            owner=descriptors[OWNER],
            data=descriptors[DATA],
            facts=descriptors[FACTS],
            mount=mount,
            fence=fence,
        )

    def is_alive(self) -> bool:
        """Whether there still is a mount, and a connection to the kernel."""
        poll = select.poll()
        poll.register(self.fuse, 0)  # POLLERR alone
        return self.mount.is_mounted() and not poll.poll(0)

    def close(self) -> None:
        """Our copies; the service manager has its own."""
        for descriptor in (self.fuse, self.owner, self.data, self.facts):
            with suppress(OSError):
                os.close(descriptor)


def write_facts(mount: KeptMount) -> int:
    """The descriptor of a new file in memory."""
    descriptor = os.memfd_create("volcrypt-mount", os.MFD_CLOEXEC)
    os.write(descriptor, msgspec.json.encode(mount) + b"\n")
    return descriptor


def add_fence(facts: int, note: FenceNote) -> None:
    """Have the next process know, too."""
    line = msgspec.json.encode(note) + b"\n"
    os.pwrite(facts, line, os.fstat(facts).st_size)


def read_facts(facts: int) -> tuple[KeptMount, FenceNote | None]:
    """Raises MalformedError, UnsupportedVersionError."""
    what = "what is kept of a mount"
    content = os.pread(facts, _MAX_BYTES, 0)
    first, _, rest = content.partition(b"\n")
    try:
        version = msgspec.json.decode(first, type=_AnyVersion).version
        if version != VERSION:
            raise UnsupportedVersionError(what, version, VERSION)
        mount = msgspec.json.decode(first, type=KeptMount)
        fence = msgspec.json.decode(rest.splitlines()[0], type=FenceNote) if rest else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "it does not parse") from error
    if min(len(mount.init_request), len(mount.init_reply)) < 36:
        raise MalformedError(what, "the agreement with the kernel is too short")
    return mount, fence


class _AnyVersion(msgspec.Struct, frozen=True):
    version: int


def resend_requests(fuse: int) -> None:
    """Have the kernel send every request again that was read and not answered. Raises
    MountError."""
    try:
        os.write(fuse, _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0))
    except OSError as error:
        raise MountError(f"the kernel does not send requests again: {error.strerror}") from error


def kernel_resends(release: str) -> bool:
    """Whether Linux `release` can do that, by its version."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _OLDEST_KERNEL


def mounted_device(directory: Path) -> str:
    """The device of what is mounted at `directory`. Raises MountError."""
    for mount in reversed(mounts()):
        if mount.mount_point == str(directory):
            return mount.device
    raise MountError(f"nothing is mounted on {directory}")
