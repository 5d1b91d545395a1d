"""HOME/scratch: where mounted snapshots have what they need, as long as they are mounted.

HOME/scratch/VOLUME-ID/ is what serves as a volume: an owner lock, and a data file, which holds the
chunks that were touched, and is removed as soon as the process that serves has it open. So nothing
is left of a mount that ended, however it ended, but a directory without data, and the next command
removes that.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.durable import make_directory_durably
from volcrypt.errors import VolcryptError
from volcrypt.names import VolumeId, is_volume_id
from volcrypt.operations.home import Home
from volcrypt.volume.mountpoint import remove_dead_mounts_of
from volcrypt.volume.owner import OwnerLock, current_owner, hold_volume

SCRATCH: Final = "scratch"


def scratch_path(home: Home, volume_id: VolumeId) -> Path:
    return home.path / SCRATCH / volume_id


def make_scratch(home: Home, volume_id: VolumeId) -> OwnerLock:
    """A directory for a snapshot that is about to be mounted, owned by us."""
    with home.exclusive():
        make_directory_durably(home.path / SCRATCH)
        path = scratch_path(home, volume_id)
        make_directory_durably(path)
        return hold_volume(path, purpose="mount")


def mounted_snapshots(home: Home) -> set[VolumeId]:
    """What mounted snapshots are called, as long as their processes live."""
    return {VolumeId(path.name) for path in _all(home) if current_owner(path) is not None}


def remove_scratch(home: Home) -> None:
    """Remove what mounts that ended left. Never fails."""
    with suppress(VolcryptError, OSError):
        if all(current_owner(path) is not None for path in _all(home)):
            return
        with home.exclusive():
            for path in _all(home):
                if current_owner(path) is None:
                    remove_dead_mounts_of(VolumeId(path.name), home.runtime)
                    shutil.rmtree(path)


def _all(home: Home) -> list[Path]:
    found = sorted((home.path / SCRATCH).glob("vol-*"))
    return [path for path in found if is_volume_id(path.name)]
