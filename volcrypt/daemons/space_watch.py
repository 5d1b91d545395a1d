"""A line in the log of a volume's process before the file system under its data is full."""

import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from volcrypt.geometry import SECTOR_BYTES
from volcrypt.volume.space import space_warning
from volcrypt.volume.thread_start import in_thread

_LOOK_SECONDS: Final = 5
_LOOKS_UNTIL_NEW: Final = 60
"""A file system at the mark must not fill the log: it is told again after so long without need."""

_log: Final = logging.getLogger(__name__)


async def watch_space(data_path: Path, size_of: Callable[[], int]) -> None:
    """Look now and then, for ever; `size_of` tells the size of the volume, in bytes.

    Says nothing where the data is on a device, which has its room.
    """
    quiet_looks = _LOOKS_UNTIL_NEW
    while True:
        warning = None
        with suppress(OSError):  # no thread just now: who serves is not to end for that
            # The file system may be a remote one that hangs.
            warning = await in_thread(
                partial(_warning_of, data_path, size_of()), abandon_on_cancel=True
            )
        if warning is None:
            quiet_looks += 1
        else:
            if quiet_looks >= _LOOKS_UNTIL_NEW:
                _log.warning("%s", warning)
            quiet_looks = 0
        await trio.sleep(_LOOK_SECONDS)


def _warning_of(data_path: Path, size_bytes: int) -> str | None:
    try:
        status = os.stat(data_path, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return None
        wanted_bytes = max(0, size_bytes - status.st_blocks * SECTOR_BYTES)
        return space_warning(data_path.parent, wanted_bytes)
    except OSError:
        return None  # whoever reads or writes there will be told
