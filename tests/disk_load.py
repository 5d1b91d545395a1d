"""Load on a file system that knows what must come back: `python -m tests.disk_load DIRECTORY SEED
STOP`.

Until the file STOP is there it writes to one file, direct or through the page cache and with fsync,
reads each piece back, and makes, renames and removes small files. It ends with exit code 1 and a
line at the first error or wrong byte, and otherwise prints the SHA-256 of what its file must hold.
"""

import hashlib
import mmap
import os
import random
import sys
from pathlib import Path
from typing import Final

SIZE: Final = 4 * 2**20
_PAGE: Final = 4096


def _put(descriptor: int, offset: int, data: bytes, *, direct: bool) -> None:
    if not direct:
        assert os.pwrite(descriptor, data, offset) == len(data), "a short write"
        return
    with mmap.mmap(-1, len(data)) as aligned:
        aligned[:] = data
        assert os.pwritev(descriptor, [aligned], offset) == len(data), "a short write"


def _get(descriptor: int, offset: int, length: int) -> bytes:
    with mmap.mmap(-1, length) as aligned:
        assert os.preadv(descriptor, [aligned], offset) == length, "a short read"
        return bytes(aligned)


def run(directory: Path, seed: int, stop: Path) -> str:
    chance = random.Random(seed)
    model = bytearray(SIZE)
    path = directory / f"load-{seed}"
    buffered = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(buffered, model, 0)
    os.fsync(buffered)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    is_direct = seed % 2 == 0
    turns = 0
    while not stop.exists():
        turns += 1
        length = _PAGE * chance.choice((1, 1, 2, 16, 64, 128))
        offset = _PAGE * chance.randrange((SIZE - length) // _PAGE)
        data = chance.randbytes(length)
        _put(direct if is_direct else buffered, offset, data, direct=is_direct)
        model[offset : offset + length] = data
        if chance.random() < 0.3:
            os.fsync(buffered)
        start = _PAGE * chance.randrange((SIZE - length) // _PAGE)
        if not is_direct:  # what is clean is read from the medium
            os.posix_fadvise(buffered, start, length, os.POSIX_FADV_DONTNEED)
        found = _get(direct, start, length) if is_direct else os.pread(buffered, length, start)
        assert found == model[start : start + length], f"wrong bytes at {start}"
        small = directory / f"small-{seed}-{turns % 5}"
        small.write_bytes(data[:100])
        small.rename(small.with_suffix(".renamed"))
    os.fsync(buffered)
    print(f"{seed}: {turns} turns", file=sys.stderr)
    return hashlib.sha256(model).hexdigest()


if __name__ == "__main__":
    try:
        print(run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
    except (OSError, AssertionError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
