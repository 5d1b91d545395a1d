"""The process that thaws what a killed command left frozen: `--device`, `--file-system`, and
directories at which it may be. Started by `volcrypt.operations.freeze_notes`, which reads its exit
code.

A process of its own, since a thaw, and even the way to a directory, may wait for a volume that
hangs.
"""

import argparse
import errno
import os
import sys

from volcrypt.operations.freeze_notes import NOT_FOUND, NOT_FROZEN
from volcrypt.volume.freezing import thaw


def thaw_one_of(places: list[str], *, device: int, file_system: int) -> int:
    """An exit code: 0, NOT_FROZEN, NOT_FOUND, or an errno."""
    for place in places:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = os.fstat(descriptor).st_dev, os.fstatvfs(descriptor).f_fsid
            if found != (device, file_system):
                continue
            thaw(descriptor)
        except OSError as error:
            return NOT_FROZEN if error.errno == errno.EINVAL else error.errno or errno.EIO
        finally:
            os.close(descriptor)
        return 0
    return NOT_FOUND


def main() -> int:
    parser = argparse.ArgumentParser(prog="volcrypt-thaw", allow_abbrev=False)
    parser.add_argument("--device", type=int, required=True)
    parser.add_argument("--file-system", type=int, required=True)
    parser.add_argument("places", nargs="+")
    arguments = parser.parse_args()
    return thaw_one_of(arguments.places, device=arguments.device, file_system=arguments.file_system)


if __name__ == "__main__":
    sys.exit(main())
