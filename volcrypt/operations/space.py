"""Warnings before a disk is full: volumes are thin, and promise more than there is."""

from collections import defaultdict
from collections.abc import Iterable

from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.operations.home import Home
from volcrypt.operations.records import nominal_data_path
from volcrypt.volume.space import space_warning


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
    found = [space_warning(path, wanted[device]) for device, path in directories.items()]
    return [warning for warning in found if warning is not None]
