"""Freezing and thawing a mounted file system (ioctl_fifreeze(2)), given any directory of it.

Small on purpose: the process that thaws imports this and little else.
"""

import ctypes
import fcntl
import os
from typing import Final

_FIFREEZE: Final = 0xC0045877
_FITHAW: Final = 0xC0045878


def freeze(directory: int) -> None:
    """Returns when all is written and every further write waits. Raises OSError: EBUSY when it is
    frozen already."""
    fcntl.ioctl(directory, _FIFREEZE, 0)


def thaw(directory: int) -> None:
    """Raises OSError: EINVAL when it is not frozen."""
    fcntl.ioctl(directory, _FITHAW, 0)


def sync_file_system(directory: int) -> None:
    """syncfs(2), for which Python has no name. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
