"""What snapshots cost: rates beside plain copies, and what follows size and change.

rates    A volume full of random data: a full snapshot into a new store, a copy under another
         key, and an export, beside `cp` and fsync of the same bytes and `qemu-img convert`
         between two LUKS images of the size. In turns, so that a busy moment hits them all; the
         sources are warm. Commands are timed as a user waits for them, their start included.
curve    Snapshots of sparse volumes of which nothing, or a chunk here and there, has changed:
         time, memory at its highest, objects written. A changed chunk is 4 KiB of new data,
         and they are spread as far as they go: each is in a page of its own while there are
         enough.
barrier  what writers feel: see `scripts.bench.barrier`
s3       see `scripts.bench.s3`
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scripts.bench._chart import draw_lines
from scripts.bench._lib import print_json, print_table, run
from volcrypt.errors import VolcryptError
from volcrypt.geometry import CHUNK_BYTES, check_volume_size, chunk_count, format_size, parse_size
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

VOLCRYPT: Final = Path(sys.executable).with_name("volcrypt")
PARTS: Final = ("rates", "curve", "barrier", "s3")
LARGEST: Final = 16 * 2**40 - 4096
"""The largest file of ext4."""
CURVES: Final = {2**30: (0, 1, 100), 2**40: (0, 1, 100), LARGEST: (0, 1, 100, 10_000)}


class Bench:
    """A home below a directory, and commands on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.run("init")

    def run(self, *arguments: str | Path) -> str:
        return run(VOLCRYPT, "--home", self.home, *arguments).strip()

    def measured(self, *arguments: str | Path) -> tuple[float, int]:
        """Seconds that a command took, and the most memory in bytes that it had at once."""
        started = time.monotonic()
        process = subprocess.Popen(
            [VOLCRYPT, "--home", self.home, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"volcrypt {' '.join(map(str, arguments))} failed")
        return time.monotonic() - started, usage.ru_maxrss * 1024


@contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    directory.mkdir()
    made = Bench(directory)
    try:
        yield made
    finally:
        shutil.rmtree(runtime_directory(made.home, runtime_root()), ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


# ---------------------------------------------------------------- rates


def measure_rates(directory: Path, size_bytes: int, rounds: int) -> dict[str, dict[str, float]]:
    """Job -> median seconds, and of them median seconds of processors."""
    with bench(directory) as made:
        image = made.directory / "image"
        with image.open("wb") as file:
            for at in range(0, size_bytes, 2**24):
                file.write(os.urandom(min(2**24, size_bytes - at)))
        made.run("volume", "import", image, "--name", "full")
        made.run("snapshot", "create", "full", "--name", "first", "--wait")
        passphrase = made.directory / "passphrase"
        passphrase.write_text("bench")
        luks = ("--object", f"secret,id=key,file={passphrase}")
        to_luks = ("-O", "luks", "-o", "key-secret=key,iter-time=10")
        encrypted = made.directory / "encrypted"
        run("qemu-img", "convert", "-q", *luks, "-f", "raw", *to_luks, image, encrypted)
        from_luks = ("--image-opts", f"driver=luks,key-secret=key,file.filename={encrypted}")

        def plain_copy(number: int) -> None:
            target = made.directory / f"plain-{number}"
            run("cp", "--reflink=never", image, target)
            run("sync", target)

        def full_snapshot(number: int) -> None:
            options = ("--name", f"full-{number}", "--store", f"fresh-{number}", "--wait")
            made.run("snapshot", "create", "full", *options)

        def recrypted(number: int) -> None:
            options = ("--name", f"copy-{number}", "--kms-key-id", f"alias/key-{number}", "--wait")
            made.run("snapshot", "copy", "first", *options)

        def export(number: int) -> None:
            made.run("snapshot", "export", "--yes", "first", made.directory / f"export-{number}")

        def convert(number: int) -> None:
            target = made.directory / f"luks-{number}"
            run("qemu-img", "convert", "-q", *luks, *from_luks, *to_luks, target)
            run("sync", target)

        jobs: dict[str, Callable[[int], None]] = {
            "cp + fsync": plain_copy,
            "full snapshot": full_snapshot,
            "copy under another key": recrypted,
            "export (restore)": export,
            "qemu-img convert, LUKS to LUKS": convert,
        }
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(rounds):
            store = (made.directory / f"store-{number}").as_uri()
            made.run("store", "create", f"fresh-{number}", "--url", store)
            key = made.run("kms", "create-key")
            alias = f"alias/key-{number}"
            made.run("kms", "create-alias", "--alias-name", alias, "--target-key-id", key)
            for name, job in jobs.items():
                warm(image, encrypted, made.home / "stores/local/chunks")
                os.sync()
                print(f"measuring {name}", file=sys.stderr)
                started, cpu_started = time.monotonic(), cpu_time()
                job(number)
                seconds[name].append(time.monotonic() - started)
                cpu_seconds[name].append(cpu_time() - cpu_started)
        return {
            name: {
                "seconds": statistics.median(seconds[name]),
                "cpu_seconds": statistics.median(cpu_seconds[name]),
            }
            for name in jobs
        }


def cpu_time() -> float:
    """Seconds of processors that the commands have taken so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def warm(*paths: Path) -> None:
    """Read all of this, so that no source has to come from the disk."""
    buffer = bytearray(2**20)
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb", buffering=0) as opened:
                    while opened.readinto(buffer):
                        pass


def show_rates(rates: dict[str, dict[str, float]], size_bytes: int) -> None:
    plain = rates["cp + fsync"]["seconds"]
    rows = [
        [
            name,
            f"{size_bytes / taken['seconds'] / 1e6:,.0f} MB/s",
            f"{plain / taken['seconds']:.2f}",
            f"{taken['cpu_seconds']:.1f} s",
        ]
        for name, taken in rates.items()
    ]
    print_table([format_size(size_bytes), "rate", "of cp", "cpu"], rows)
    copy, convert = rates["copy under another key"], rates["qemu-img convert, LUKS to LUKS"]
    ratios = [convert[unit] / copy[unit] for unit in ("seconds", "cpu_seconds")]
    print(
        f"a copy under another key is {ratios[0]:.1f} times as fast as qemu-img convert, and takes "
        f"1/{ratios[1]:.1f} of the processors' time\n"
    )


# ---------------------------------------------------------------- cost curves


def measure_curves(directory: Path, curves: dict[int, tuple[int, ...]]) -> list[dict[str, Any]]:
    """One entry for each size and number of changed chunks."""
    found = []
    for size_bytes, numbers in curves.items():
        with bench(directory) as made:
            made.run("volume", "create", "--size", str(size_bytes), "--name", "sparse")
            made.run("snapshot", "create", "sparse", "--wait")
            for number in numbers:
                print(f"{format_size(size_bytes)}, {number} chunks changed", file=sys.stderr)
                if number:
                    change(made, number, size_bytes)
                before = objects(made)
                seconds, memory_bytes = made.measured("snapshot", "create", "sparse", "--wait")
                after = objects(made)
                found.append(
                    {
                        "size_bytes": size_bytes,
                        "changed_chunks": number,
                        "seconds": round(seconds, 2),
                        "memory_bytes": memory_bytes,
                        "objects": {kind: after[kind] - before[kind] for kind in after},
                    }
                )
    return found


def change(made: Bench, number: int, size_bytes: int) -> None:
    """Write 4 KiB to each of so many chunks, evenly spread."""
    mounted = made.directory / "mounted"
    mounted.mkdir(exist_ok=True)
    made.run("mount", "sparse", mounted)
    try:
        descriptor = os.open(mounted / "volume", os.O_WRONLY)
        try:
            step = chunk_count(size_bytes) // number
            for place in range(number):
                os.pwrite(descriptor, os.urandom(4096), place * step * CHUNK_BYTES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        made.run("unmount", mounted)


def objects(made: Bench) -> dict[str, int]:
    store = made.home / "stores/local"
    return {
        kind: sum(1 for path in (store / kind).rglob("*") if path.is_file())
        for kind in ("chunks", "pages", "manifests")
    }


def show_curves(curves: list[dict[str, Any]]) -> None:
    rows = [
        [
            format_size(each["size_bytes"]),
            f"{each['changed_chunks']:,}",
            f"{each['seconds']:.2f} s",
            f"{each['memory_bytes'] / 1e6:.0f} MB",
            *[f"{count:,}" for count in each["objects"].values()],
        ]
        for each in curves
    ]
    print_table(
        ["sparse volume", "changed", "time", "memory", "chunks", "pages", "manifests"], rows
    )
    print()


def draw_curves(path: Path, curves: list[dict[str, Any]]) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in curves:
        size = format_size(each["size_bytes"])
        changed = max(each["changed_chunks"], 0.1)  # the axis has no zero: nothing is at its edge
        lines.setdefault(f"{size}: seconds", []).append((changed, each["seconds"]))
        lines.setdefault(f"{size}: 100 MB", []).append((changed, each["memory_bytes"] / 1e8))
    title = "An incremental snapshot: time and memory"
    draw_lines(path, title, "changed chunks (left edge: none)", "seconds, 100 MB", lines)


# ---------------------------------------------------------------- all


def other_bench(name: str, *arguments: str) -> dict[str, Any]:
    """Run another benchmark, whose last line is JSON; its table is printed."""
    text = run(sys.executable, "-m", f"scripts.bench.{name}", *arguments)
    table, _, last = text.strip().rpartition("\n")
    print(table, end="\n\n")
    document: dict[str, Any] = json.loads(last)
    return document


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/snapshot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="1GiB", help="of the volume for rates (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each rate (%(default)s)")
    parser.add_argument("--most", type=int, default=10_000, help="changed chunks (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="of the barrier (%(default)s)")
    parser.add_argument("--only", action="append", choices=PARTS, help="repeat for several")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="for all data")
    picture = Path(tempfile.gettempdir()) / "volcrypt-snapshot.svg"
    parser.add_argument("--picture", type=Path, default=picture, help="(%(default)s)")
    arguments = parser.parse_args()
    try:
        size_bytes = check_volume_size(parse_size(arguments.size))
    except VolcryptError as error:
        parser.error(str(error))
    parts = arguments.only or PARTS

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="volcrypt-bench-", dir=arguments.dir))
    found: dict[str, Any] = {}
    try:
        if "rates" in parts:
            rates = measure_rates(directory / "rates", size_bytes, arguments.rounds)
            show_rates(rates, size_bytes)
            found["rates"] = {"size_bytes": size_bytes, "jobs": rates}
        if "curve" in parts:
            wanted = {
                size: tuple(number for number in numbers if number <= arguments.most)
                for size, numbers in CURVES.items()
            }
            found["curves"] = measure_curves(directory / "curve", wanted)
            show_curves(found["curves"])
            draw_curves(arguments.picture, found["curves"])
            print(f"the curves are drawn in {arguments.picture}", file=sys.stderr)
        if "barrier" in parts:
            options = ("--seconds", str(arguments.seconds), "--directory", str(arguments.dir))
            found["barrier"] = other_bench("barrier", *options)["volumes"]
        if "s3" in parts:
            found["s3"] = other_bench("s3")["rates"]
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print_json("snapshot", **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
