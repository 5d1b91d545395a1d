"""Mounting a FUSE file system whose requests are to be read by us, not by libfuse. Synchronous.

What libfuse does at this point: root mounts by itself, and for others `fusermount3`, which is
set-user-id, opens /dev/fuse, mounts, and passes the descriptor over a socket.
"""

import ctypes
import errno
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Final

from volcrypt.durable import open_real_directory
from volcrypt.errors import ComponentMissingError, MountError
from volcrypt.volume.mountpoint import FS_TYPE

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4


def mount_connection(directory: Path, *, source: str, read_only: bool) -> int:
    """Mount at a directory that `check_mount_point` accepted: the descriptor of the connection, on
    which nothing was read yet. `source` is what mount(8) shows. Raises MountError with the reason.
    """
    if os.geteuid() == 0:
        try:
            place = open_real_directory(directory)
        except OSError as error:
            raise MountError(f"cannot mount at {directory}: {error.strerror}") from error
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            # By name it could be a link of somebody who may write beside it.
            number = _mount(descriptor, f"/proc/self/fd/{place}", source, read_only=read_only)
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            os.close(place)
        if number == 0:
            return descriptor
        os.close(descriptor)
        if number != errno.EPERM:
            raise MountError(f"cannot mount at {directory}: {os.strerror(number)}")
    return _fusermount(directory, source, read_only=read_only)


def _mount(descriptor: int, directory: str, source: str, *, read_only: bool) -> int:
    try:
        mode = stat.S_IFMT(os.stat(directory).st_mode)
    except OSError as error:
        return error.errno or errno.EIO
    options = f"fd={descriptor},rootmode={mode:o},user_id={os.getuid()},group_id={os.getgid()}"
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(
        source.encode(),
        os.fsencode(directory),
        FS_TYPE.encode(),
        ctypes.c_ulong(flags),
        f"{options},default_permissions".encode(),
    )
    return ctypes.get_errno() if failed else 0


def _fusermount(directory: Path, source: str, *, read_only: bool) -> int:
    options = ["default_permissions", f"fsname={source}"]
    options += [f"subtype={FS_TYPE.removeprefix('fuse.')}", *(["ro"] if read_only else [])]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = ["fusermount3", "-o", ",".join(options), "--", str(directory)]
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                pass_fds=[theirs.fileno()],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            )
        except FileNotFoundError as error:
            raise ComponentMissingError("fusermount3", package="fuse3") from error
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if done.returncode != 0 or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        reason = done.stderr.strip().rpartition("\n")[2]
        raise MountError(f"cannot mount at {directory}: {reason or 'fusermount3 failed'}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]
