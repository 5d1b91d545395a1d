"""Medium: a data file as a stranger would find it, read past the page cache under a key of its own.

For who wants to know whether what was written can be read again: neither the pages nor the ciphers
of who wrote it are used. What others wrote and did not sync yet the kernel writes out first. Where
a file system cannot be read past the cache (tmpfs), clean pages are dropped before, and `is_direct`
says so.
"""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError
from volcrypt.geometry import UNIT_BYTES

if TYPE_CHECKING:
    from volcrypt.volume.migration import ComparedSide


class Medium:
    """Close it; the key is the caller's to wipe."""

    def __init__(self, path: Path, data_key: DataKey) -> None:
        """Raises OSError."""
        self._path = path
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        self.is_direct = True
        try:
            self._descriptor = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.is_direct = False
            self._descriptor = os.open(path, flags)
        self._kernel = data_key.kernel()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer`, whose memory is aligned to pages, with the plaintext of whole data units.

        Raises IntegrityError when the file ends before, and OSError.
        """
        view = memoryview(buffer)
        if not self.is_direct:
            os.posix_fadvise(self._descriptor, offset, view.nbytes, os.POSIX_FADV_DONTNEED)
        read = 0
        while read < view.nbytes:
            count = os.preadv(self._descriptor, [view[read:]], offset + read)
            if count == 0:
                raise IntegrityError(f"data file {self._path} ends at {offset + read}")
            read += count
        self._kernel.decrypt_sparse_units(offset // UNIT_BYTES, view, view)

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._kernel.wipe()


if TYPE_CHECKING:

    def _conformance(medium: Medium) -> ComparedSide:
        return medium
