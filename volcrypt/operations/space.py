"""Warnings before a disk is full: volumes are thin, and promise more than there is."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import SECTOR_BYTES, format_size
from volcrypt.operations.home import Home
from volcrypt.operations.records import nominal_data_path

LOW_FRACTION: Final = 0.05
"""Below this part of free space there is a warning in any case."""
WATERMARK_FRACTION: Final = 0.20
"""Below this one when the thin volumes there may still take more than is free."""


def space_warnings(home: Home, records: Iterable[VolumeRecord]) -> list[str]:
    """One for each file system, of those under the home and under its data files, that is full
    soon. What cannot be seen is for others to report."""
    directories = {home.path.stat().st_dev: home.path}
    wanted: defaultdict[int, int] = defaultdict(int)
    for record in records:
        path = nominal_data_path(home, record)
        try:
            status = path.lstat()
        except OSError:
            continue
        if path.is_file():
            directories.setdefault(status.st_dev, path.parent)
            wanted[status.st_dev] += max(0, record.size_bytes - status.st_blocks * SECTOR_BYTES)
    found = [_warning(path, wanted[device]) for device, path in directories.items()]
    return [warning for warning in found if warning is not None]


def _warning(directory: Path, wanted_bytes: int) -> str | None:
    space = os.statvfs(directory)
    free_bytes = space.f_bavail * space.f_frsize
    if space.f_bavail < space.f_blocks * LOW_FRACTION:
        return f"less than 5 % of the file system under {directory} is free"
    if space.f_bavail < space.f_blocks * WATERMARK_FRACTION and wanted_bytes > free_bytes:
        return (
            f"the file system under {directory} has {format_size(free_bytes)} free, and its thin "
            f"volumes may still take {format_size(wanted_bytes)}"
        )
    return None
