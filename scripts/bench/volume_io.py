"""Reads, writes and files on a mounted volume, beside its peers, in one run on one machine.

Every system keeps its data in the same directory and serves it through FUSE: an encrypted and an
unencrypted volume of volcrypt, each on the compiled data plane and on Python's, QEMU's export of a
LUKS image, gocryptfs, and a bare pass-through in Python. At the place `file` fio opens the served
file itself, with O_DIRECT (psync), as a loop device does, so that no cache above FUSE answers. At
the place `ext4` there is a loop device on that file and ext4 on it (gocryptfs is a file system and
is used as it is): fio opens a file there, again with O_DIRECT, and a source tree is unpacked,
synced, and read back with cold caches. The systems take turns at each job: a busy moment hits them
all. Beside each rate is what the processes that serve took for it, without the kernel's threads.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from scripts.bench._chart import draw_bars
from scripts.bench._lib import print_json, print_table
from scripts.bench.volume_io_jobs import (
    FILL,
    JOBS,
    TREE,
    fio,
    run_fio,
    run_tree,
    source_tree,
    titles_of,
)
from scripts.bench.volume_io_report import HEADER, Figure, median, members, panels, table
from scripts.bench.volume_io_systems import EXT4, FILE, PLACES, SYSTEMS, Served, check_served
from volcrypt.errors import VolcryptError
from volcrypt.geometry import check_volume_size, format_size, parse_size

# What a file system is for: the planes in Python are compared on the file alone.
EXT4_SYSTEMS = [name for name in SYSTEMS if not name.endswith("-python")]


def measure(
    systems: dict[str, Served],
    jobs: list[str],
    place: str,
    *,
    size_bytes: int,
    seconds: int,
    rounds: int,
) -> dict[str, dict[str, Figure]]:
    """Job -> system -> the median of its turns."""
    turns: dict[str, dict[str, list[Figure]]] = {
        name: {system: [] for system in systems} for name in titles_of(jobs, place)
    }
    fio_jobs = [JOBS[name] for name in turns if name in JOBS]
    for name, served in systems.items() if fio_jobs else ():
        print(f"{place}: filling {name}", file=sys.stderr)
        if place == EXT4:
            with served.file.open("xb") as file:
                file.truncate(size_bytes)
        fio(served.file, FILL, size_bytes, None)
        check_served(served, size_bytes)
    for job in fio_jobs:
        print(f"{place}: measuring {job.title}", file=sys.stderr)
        for _ in range(rounds):
            for name, served in systems.items():
                turns[job.name][name].append(run_fio(served, job, size_bytes, seconds))
    if fio_jobs:
        for served in systems.values():
            check_served(served, size_bytes)
    if any(name in TREE for name in turns):
        archive = source_tree(size_bytes // 4)
        print(f"{place}: measuring a tree of {archive.files} files", file=sys.stderr)
        for _ in range(rounds):
            for name, served in systems.items():
                for part, figure in run_tree(served, archive).items():
                    turns[part][name].append(figure)
    return {
        job: {name: median(figures) for name, figures in by_system.items()}
        for job, by_system in turns.items()
    }


def measure_place(
    directory: Path, place: str, arguments: argparse.Namespace, size_bytes: int
) -> dict[str, dict[str, Figure]]:
    among = list(SYSTEMS) if place == FILE else EXT4_SYSTEMS
    names = [name for name in arguments.only or among if name in SYSTEMS]
    # In ext4 there is room for the file, and for the tree beside it.
    file_bytes = size_bytes if place == FILE else size_bytes // 2
    with ExitStack() as stack:
        systems = {}
        for name in names:
            own = directory / place / name
            own.mkdir(parents=True)
            systems[name] = stack.enter_context(SYSTEMS[name](own, size_bytes, place))
        return measure(
            systems,
            arguments.jobs or [*JOBS, "tree"],
            place,
            size_bytes=file_bytes,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/volume_io",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="256MiB", help="of each volume (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="per job and turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        choices=SYSTEMS,
        help="the first is what others are compared with",
    )
    parser.add_argument("--place", action="append", choices=PLACES, help="one of both")
    parser.add_argument(
        "--jobs", action="append", choices=[*JOBS, "tree"], help="repeat for several (all)"
    )
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="for all data")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.add_argument("--chart", type=Path, metavar="SVG", help="draw a picture, too")
    arguments = parser.parse_args()
    try:
        size_bytes = check_volume_size(parse_size(arguments.size))
    except VolcryptError as error:
        parser.error(str(error))

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="volcrypt-bench-", dir=arguments.dir))
    found = {}
    try:
        for place in arguments.place or PLACES:
            found[place] = measure_place(directory, place, arguments, size_bytes)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)

    titles = {name: job.title for name, job in JOBS.items()} | TREE
    if arguments.chart is not None:
        bars = {
            f"{place}: {title}": panel
            for place, figures in found.items()
            for title, panel in panels(figures, titles).items()
        }
        draw_bars(arguments.chart, f"volumes of {format_size(size_bytes)}", bars)
    if arguments.json:
        places = {place: members(figures) for place, figures in found.items()}
        print_json("volume_io", size_bytes=size_bytes, seconds=arguments.seconds, places=places)
    else:
        for place, figures in found.items():
            header = [f"{format_size(size_bytes)}, {place}", *HEADER[1:]]
            print_table(header, table(figures, titles))
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
