"""From the command `volcrypt mount` to the last bytes of a volume, and back, by its size.

Nothing in it may depend on the size: every volume is empty but for a few units, and a snapshot was
taken of it, so that its change map is known and has to be opened too. Memory is that of the process
that serves it, the most that it ever had.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench._lib import print_json, print_table, run
from volcrypt.geometry import UNIT_BYTES, parse_size
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

VOLCRYPT = Path(sys.executable).with_name("volcrypt")


def measure(directory: Path, size_bytes: int, rounds: int) -> dict[str, float]:
    home, mounted = directory / "home", directory / "mounted"
    mounted.mkdir()
    command: list[str | Path] = [VOLCRYPT, "--home", home]
    run(*command, "init")
    run(*command, "volume", "create", "--size", str(size_bytes), "--name", "bench")
    opening, closing, memory = [], [], 0
    try:
        for number in range(rounds):
            started = time.perf_counter()
            run(*command, "mount", "bench", mounted)
            descriptor = os.open(mounted / "volume", os.O_RDWR)
            os.pread(descriptor, UNIT_BYTES, size_bytes - UNIT_BYTES)
            opening.append(time.perf_counter() - started)
            os.pwrite(descriptor, b"x", size_bytes // rounds * number)
            os.fsync(descriptor)
            os.close(descriptor)
            if number == 0:
                run(*command, "snapshot", "create", "bench", "--wait")
            memory = max(memory, most_memory(home))
            started = time.perf_counter()
            run(*command, "unmount", "bench")
            closing.append(time.perf_counter() - started)
    finally:
        shutil.rmtree(runtime_directory(home, runtime_root()), ignore_errors=True)
    return {
        "open_seconds": statistics.median(opening),
        "close_seconds": statistics.median(closing),
        "memory_bytes": memory,
    }


def most_memory(home: Path) -> int:
    """Of the one process that serves a volume of this home."""
    (owner,) = home.glob("volumes/*/owner")
    pid = int(owner.read_text().partition('"pid":')[2].partition(",")[0])
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/open_close", description=__doc__)
    parser.add_argument("--size", action="append", help="repeat for several (1GiB and 16TiB)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("/dev/shm"),
        help="where files of any size can be made (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    results = {}
    for size in arguments.size or ["1GiB", "16TiB"]:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
            results[size] = measure(Path(directory), parse_size(size), arguments.rounds)
    if arguments.json:
        print_json("open_close", sizes=results)
        return 0
    rows = [
        [
            size,
            f"{found['open_seconds']:.2f} s",
            f"{found['close_seconds']:.2f} s",
            f"{found['memory_bytes'] / 1e6:.0f} MB",
        ]
        for size, found in results.items()
    ]
    print_table(["size", "mount to first byte", "unmount", "memory"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
