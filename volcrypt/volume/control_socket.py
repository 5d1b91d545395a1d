"""The socket through which a process that serves a volume is controlled: whose it is, and its name.

No trio here: commands use it too.
"""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from volcrypt.errors import PrivilegeError

_PEER: Final = struct.Struct("<iII")


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600; for the owner of the volume, whose path this is."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        previous = os.umask(0o177)
        try:
            with_short_path(path, listener.bind)
        finally:
            os.umask(previous)
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


class Connection(Protocol):
    """What `check_peer` needs of a socket; Python's and trio's have it."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def check_peer(connection: Connection) -> None:
    """Raises PrivilegeError when the other side is neither our user nor root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise PrivilegeError(f"user {uid} may not control this volume")


def with_short_path(path: Path, use: Callable[[str], None]) -> None:
    """Call `use` with a name of `path` that fits into the 108 bytes of a socket address."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
