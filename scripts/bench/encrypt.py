"""How fast an unencrypted volume becomes an encrypted one, and what its writers notice.

    offline     `volcrypt encrypt`: snapshot, copy, new volume, comparison with the medium
    online      `volcrypt encrypt --online` while a writer goes on: copy, comparison
    rekey       `volcrypt rekey` of a volume that nobody uses
    cp          the same bytes, copied and synced
    qemu        `qemu-img convert` of the same bytes to a LUKS image, synced

Room is the most that the file system below had less than before, looked at ten times a second. The
writer writes 4 KiB at random places through the mount and syncs each, before, during and after.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench._lib import print_json, print_table, run
from volcrypt.geometry import format_size, parse_size

VOLCRYPT = Path(sys.executable).with_name("volcrypt")
UNIT = 4096
ALONE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One way; `room_bytes` at the peak beside the original."""

    name: str
    seconds: float
    bytes_a_second: float
    room_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of writes with their syncs, in microseconds."""

    when: str
    writes: int
    p50_us: float
    p99_us: float
    worst_us: float


def latency(when: str, times: list[float]) -> Latency:
    """Of times in seconds."""
    ordered = sorted(times) or [0.0]

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e6

    return Latency(
        when=when, writes=len(times), p50_us=at(0.5), p99_us=at(0.99), worst_us=ordered[-1] * 1e6
    )


class Room:
    """The least free room of a file system while something is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._least = self._free()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _free(self) -> int:
        space = os.statvfs(self._path)
        return space.f_bfree * space.f_frsize

    def _watch(self) -> None:
        while not self._is_done.wait(0.1):
            self._least = min(self._least, self._free())

    def of(self, work: Callable[[], Any]) -> int:
        """What it took at the peak."""
        self._thread.start()
        try:
            work()
        finally:
            self._is_done.set()
            self._thread.join()
        return max(0, self._before - min(self._least, self._free()))


class Writer:
    """Writes and syncs units at random places of a file until it is told to stop; `times` are in
    seconds, with when each began."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.times: list[tuple[float, float]] = []
        self._path = path
        self._units = size_bytes // UNIT
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._is_done.set()
            self._thread.join()

    def _run(self) -> None:
        numbers, text = random.Random(1), os.urandom(UNIT)
        with open(self._path, "r+b", buffering=0) as file:
            while not self._is_done.is_set():
                began = time.monotonic()
                os.pwrite(file.fileno(), text, numbers.randrange(self._units) * UNIT)
                os.fdatasync(file.fileno())
                self.times.append((began, time.monotonic() - began))

    def between(self, first: float, last: float) -> list[float]:
        return [seconds for began, seconds in self.times if first <= began < last]


def measured(directory: Path, name: str, size_bytes: int, work: Callable[[], Any]) -> Figures:
    """How long something took, and how much room."""
    os.sync()
    began = time.monotonic()
    room = Room(directory).of(work)
    seconds = time.monotonic() - began
    return Figures(name=name, seconds=seconds, bytes_a_second=size_bytes / seconds, room_bytes=room)


def copy_synced(source: Path, target: Path) -> None:
    run("cp", "--sparse=never", source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


_SECRET = ("--object", "secret,id=s,data=benchmark")


def make_luks(target: Path, size_bytes: int) -> None:
    """An empty LUKS image of qemu's, AES-256-XTS: deriving its key takes seconds by intent, and is
    not measured."""
    options = ("-f", "luks", "-o", "key-secret=s", target, str(size_bytes))
    run("qemu-img", "create", "-q", *_SECRET, *options)


def convert(source: Path, target: Path) -> None:
    """The bytes of an image into a LUKS image."""
    luks = f"driver=luks,key-secret=s,file.filename={target}"
    run("qemu-img", "convert", *_SECRET, "-n", "-f", "raw", source, "--target-image-opts", luks)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def bench(directory: Path, size_bytes: int) -> tuple[list[Figures], list[Latency]]:
    """All ways, one after the other, on the file system of `directory`."""
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.writelines(os.urandom(2**20) for _ in range(size_bytes // 2**20))
        os.fsync(file.fileno())
    command: list[str | Path] = [VOLCRYPT, "--home", directory / "home"]
    run(*command, "init")
    figures = []
    for name, verb in (("offline", ["encrypt", "plain"]), ("rekey", ["rekey", "plain"])):
        if name == "offline":
            run(*command, "volume", "import", image, "--unencrypted", "--name", "plain")
        figures.append(measured(directory, name, size_bytes, partial(run, *command, *verb)))
    run(*command, "volume", "import", image, "--unencrypted", "--name", "used")
    run(*command, "mount", "used", mounted)
    try:
        writer = Writer(mounted / "volume", size_bytes)
        with writer.writing():
            start = time.monotonic()
            time.sleep(ALONE_SECONDS)
            begun = time.monotonic()
            figures.append(
                measured(
                    directory,
                    "online, with a writer",
                    size_bytes,
                    lambda: run(*command, "encrypt", "used", "--online"),
                )
            )
            ended = time.monotonic()
            time.sleep(ALONE_SECONDS)
            last = time.monotonic()
        times = [
            latency("before", writer.between(start, begun)),
            latency("during", writer.between(begun, ended)),
            latency("after", writer.between(ended, last)),
        ]
    finally:
        subprocess.run([*command, "unmount", "used"], check=False, capture_output=True)
    copied = directory / "copied"
    figures.append(
        measured(directory, "cp and fsync", size_bytes, lambda: copy_synced(image, copied))
    )
    copied.unlink()
    if shutil.which("qemu-img") is not None:
        make_luks(copied, size_bytes)
        figures.append(
            measured(directory, "qemu-img to LUKS", size_bytes, lambda: convert(image, copied))
        )
    return figures, times


def show(figures: list[Figures], times: list[Latency]) -> None:
    print_table(
        ["", "seconds", "rate", "room at the peak"],
        [
            [
                each.name,
                f"{each.seconds:.1f}",
                f"{format_size(int(each.bytes_a_second))}/s",
                format_size(each.room_bytes),
            ]
            for each in figures
        ],
    )
    print()
    print_table(
        ["writer, 4 KiB and fdatasync", "writes", "p50", "p99", "worst"],
        [
            [
                each.when,
                str(each.writes),
                f"{each.p50_us:.0f} us",
                f"{each.p99_us:.0f} us",
                f"{each.worst_us:.0f} us",
            ]
            for each in times
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/encrypt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="1GiB", help="of the volume, all data [1GiB]")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="one JSON line instead of tables")
    arguments = parser.parse_args()
    size_bytes = parse_size(arguments.size)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures, times = bench(Path(directory), size_bytes)
    if arguments.json:
        print_json(
            "encrypt",
            size_bytes=size_bytes,
            ways=[asdict(each) for each in figures],
            writer=[asdict(each) for each in times],
        )
    else:
        show(figures, times)


if __name__ == "__main__":
    main()
