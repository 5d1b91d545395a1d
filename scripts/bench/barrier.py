"""How long a snapshot's point in time stops writers, and how long the first write to a chunk waits.

For each size a sparse volume is served by the real process, and fio writes to all of it, 4 KiB and
1 MiB at a time, without a pause: first alone, then while captures begin one after the other, each
of which keeps what is replaced until it is given up a moment later. Nothing is stored: this is
about the writers.

    barrier      no write begins meanwhile; the process itself measures it
    first touch  the longest that a write waited for its chunk to be kept; likewise
    write        the longest of fio's, with and without captures: what a busy disk does is in both
    memory       resident, of the process that serves the volume, at the end
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.bench._lib import print_json, print_table, run
from volcrypt.geometry import check_volume_size, format_size, parse_size
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root
from volcrypt.volume.control import ControlClient

VOLCRYPT = Path(sys.executable).with_name("volcrypt")
DEFAULT_SIZES = ("1GiB", str(16 * 2**40 - 4096))
"""The second is the largest file of ext4."""
CAPTURE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    size_bytes: int
    captures: int
    barrier_median_us: float
    barrier_longest_us: int
    first_touch_longest_us: int
    write_longest_alone_us: int
    write_longest_us: int
    resident_bytes: int


@contextmanager
def served(directory: Path, size_bytes: int) -> Iterator[tuple[Path, Path]]:
    """An encrypted volume that is mounted: its file, and the socket of its process."""
    home, mounted = directory / "home", directory / "mounted"
    mounted.mkdir()
    command: list[str | Path] = [VOLCRYPT, "--home", home]
    run(*command, "init")
    created = run(*command, "volume", "create", "--size", str(size_bytes), "--name", "bench")
    run(*command, "mount", "bench", mounted)
    runtime = runtime_directory(home, runtime_root())
    try:
        yield mounted / "volume", runtime / f"{created.split()[0]}.sock"
    finally:
        run(*command, "unmount", mounted)
        shutil.rmtree(runtime)


def longest_write_us(volume: Path, seconds: int, meanwhile: Callable[[], None]) -> int:
    """The longest of many writes, during which `meanwhile` is called over and over."""
    command = ["fio", "--output-format=json", "--direct=1", "--ioengine=psync", "--thread"]
    command += [f"--filename={volume}", "--rw=randwrite", "--norandommap", "--randrepeat=0"]
    command += ["--time_based", f"--runtime={seconds}", "--allow_mounted_write=1"]
    command += ["--name=small", "--bs=4k", "--numjobs=6", "--name=large", "--bs=1m", "--numjobs=2"]
    fio = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while fio.poll() is None:
            meanwhile()
        answer = json.loads(fio.communicate()[0])
    finally:
        fio.kill()
        fio.wait()
    longest_ns: int = max(job["write"]["clat_ns"]["max"] for job in answer["jobs"])
    return longest_ns // 1000


def measure(directory: Path, size_bytes: int, seconds: int) -> Figures:
    barriers: list[int] = []
    with served(directory, size_bytes) as (volume, socket_path):
        with ControlClient(socket_path, volume="bench") as control:

            def capture() -> None:
                barriers.append(control.begin_capture().barrier_us)
                time.sleep(CAPTURE_SECONDS)
                control.abort_capture()

            alone = longest_write_us(volume, seconds, lambda: time.sleep(CAPTURE_SECONDS))
            longest = longest_write_us(volume, seconds, capture)
            status = control.status()
        return Figures(
            size_bytes=size_bytes,
            captures=len(barriers),
            barrier_median_us=statistics.median(barriers),
            barrier_longest_us=max(barriers),
            first_touch_longest_us=status.preserve_longest_us,
            write_longest_alone_us=alone,
            write_longest_us=longest,
            resident_bytes=resident_bytes(status.pid),
        )


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no resident memory")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="barrier", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", action="append", metavar="SIZE", help="of a volume; default: 1GiB and 16 TiB"
    )
    parser.add_argument("--seconds", type=int, default=20, help="of each run (default: 20)")
    parser.add_argument(
        "--directory", type=Path, help="where to put everything (default: /var/tmp)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    sizes = [check_volume_size(parse_size(size)) for size in arguments.size or DEFAULT_SIZES]
    found = []
    for size_bytes in sizes:
        with tempfile.TemporaryDirectory(dir=arguments.directory or "/var/tmp") as directory:
            found.append(measure(Path(directory), size_bytes, arguments.seconds))
    header = ["size", "captures", "barrier median", "longest", "first touch", "write alone", "with"]
    print_table(
        [*header, "memory"],
        [
            [
                format_size(figures.size_bytes),
                str(figures.captures),
                f"{figures.barrier_median_us / 1000:.3f} ms",
                f"{figures.barrier_longest_us / 1000:.3f} ms",
                f"{figures.first_touch_longest_us / 1000:.1f} ms",
                f"{figures.write_longest_alone_us / 1000:.1f} ms",
                f"{figures.write_longest_us / 1000:.1f} ms",
                format_size(figures.resident_bytes),
            ]
            for figures in found
        ],
    )
    print_json("barrier", volumes=[asdict(figures) for figures in found])


if __name__ == "__main__":
    main()
