"""The end of the unencrypted data: what lay where, how it is destroyed, and what the medium may
keep of it all the same.

A file is discarded (a hole is punched through all of it) and unlinked: where the file system passes
discards on, the device learns it, and nobody who has the file open can read it any more. A device
was overwritten with the ciphertext by then.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from volcrypt.volume.allocation import UNSUPPORTED, deallocate, open_data
from volcrypt.volume.remanence import medium_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OldData:
    """Where unencrypted data lies or lay, `what` it is, `method` how it is destroyed, and `notes`
    what that is worth there, for people. `device`, `rotates`, `discards`: see `Medium`."""

    what: str
    path: Path
    method: str
    file_system: str | None
    device: str | None
    rotates: bool | None
    discards: bool | None
    notes: list[str]


def old_data(what: str, path: Path, method: str) -> OldData:
    """What is known of the medium below `path`, or below the nearest directory that is there."""
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    medium = medium_of(there)
    return OldData(
        what=what,
        path=path,
        method=method,
        file_system=None if medium is None else medium.file_system,
        device=None if medium is None else medium.device,
        rotates=None if medium is None else medium.rotates,
        discards=None if medium is None else medium.discards,
        notes=[] if medium is None else medium.notes(),
    )


KEPT = "kept"
OVERWRITTEN = "overwritten in place with its ciphertext"
DISCARDED = "discarded and unlinked"
UNLINKED = "unlinked (its file system cannot discard parts of a file)"


def discard_file(path: Path) -> bool:
    """Punch a hole through all of a file, durably; nothing there is no error. False where the file
    system cannot: then it is cut to nothing. Raises OSError."""
    if not os.path.lexists(path):
        return True
    descriptor, is_device = open_data(path, os.O_RDWR)
    try:
        assert not is_device, "internal error: a device is overwritten"
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        was_discarded = True
        if size_bytes:
            try:
                deallocate(descriptor, 0, size_bytes, keeps_room=False)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                was_discarded = False
                os.ftruncate(descriptor, 0)
        os.fsync(descriptor)
        return was_discarded
    finally:
        os.close(descriptor)
