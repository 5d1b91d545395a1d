"""Reads and writes through a mounted volume, beside its peers, in one run on one machine.

Every system serves one file of the same size from the same directory through FUSE: an encrypted
and an unencrypted volume of volcrypt, each on the compiled data plane and on Python's, QEMU's
export of a LUKS image, a file in gocryptfs, and a bare pass-through in Python. fio opens that file
with O_DIRECT (psync), as a loop device does, so that no cache above FUSE answers. The systems take
turns at each job: a busy moment hits them all.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench._lib import await_file, fuse_type_of, print_json, print_table, run
from volcrypt.errors import VolcryptError
from volcrypt.geometry import check_volume_size, format_size, parse_size
from volcrypt.operations.home import runtime_directory
from volcrypt.settings import runtime_root

VOLCRYPT = Path(sys.executable).with_name("volcrypt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    name: str
    mode: str
    block_bytes: int
    callers: int

    @property
    def is_sequential(self) -> bool:
        return not self.mode.startswith("rand")


JOBS = [
    Job(name="1 MiB sequential read", mode="read", block_bytes=2**20, callers=1),
    Job(name="1 MiB sequential write", mode="write", block_bytes=2**20, callers=1),
    Job(name="4 KiB random read, 1 caller", mode="randread", block_bytes=4096, callers=1),
    Job(name="4 KiB random write, 1 caller", mode="randwrite", block_bytes=4096, callers=1),
    Job(name="4 KiB random read, 8 callers", mode="randread", block_bytes=4096, callers=8),
    Job(name="4 KiB random write, 8 callers", mode="randwrite", block_bytes=4096, callers=8),
]


@contextmanager
def volcrypt_mount(
    directory: Path, size_bytes: int, options: list[str], *, plane: str
) -> Iterator[Path]:
    command: list[str | Path] = [VOLCRYPT, "--home", directory / "home"]
    mounted = directory / "mounted"
    mounted.mkdir()
    run(*command, "init")
    run(*command, "volume", "create", "--size", str(size_bytes), "--name", "bench", *options)
    run(*command, "mount", "bench", mounted, "--data-plane", plane)
    try:
        yield mounted / "volume"
    finally:
        run(*command, "unmount", mounted)
        shutil.rmtree(runtime_directory(directory / "home", runtime_root()))


def volume_on(plane: str, *options: str) -> "System":
    return lambda directory, size_bytes: volcrypt_mount(
        directory, size_bytes, list(options), plane=plane
    )


@contextmanager
def qemu_luks(directory: Path, size_bytes: int) -> Iterator[Path]:
    image, mounted, passphrase = directory / "image", directory / "mounted", directory / "key"
    passphrase.write_text("bench")
    mounted.touch()
    secret = ["--object", f"secret,id=key,file={passphrase}"]
    create: list[str | Path] = ["qemu-img", "create", "-q", "-f", "luks", *secret]
    create += ["-o", "key-secret=key,iter-time=10", image, str(size_bytes)]
    for attempt in range(10):
        try:
            run(*create)
            break
        except RuntimeError as error:
            # Its calibration of PBKDF2 fails now and then on a busy machine.
            if "Unable to get accurate CPU usage" not in str(error) or attempt == 9:
                raise
    command = ["qemu-storage-daemon", *secret]
    command += ["--blockdev", f"driver=file,node-name=file,filename={image}"]
    command += ["--blockdev", "driver=luks,node-name=luks,file=file,key-secret=key"]
    command += ["--export", f"type=fuse,id=e,node-name=luks,mountpoint={mounted},writable=on"]
    with server(command, mounted):
        yield mounted


@contextmanager
def gocryptfs(directory: Path, size_bytes: int) -> Iterator[Path]:
    cipher, mounted, passphrase = directory / "cipher", directory / "mounted", directory / "key"
    cipher.mkdir()
    mounted.mkdir()
    passphrase.write_text("bench")
    run("gocryptfs", "-q", "-init", "-scryptn=10", f"-passfile={passphrase}", cipher)
    command = ["gocryptfs", "-q", "-fg", "-nosyslog", f"-passfile={passphrase}", cipher, mounted]
    with server(list(map(str, command)), mounted):
        with (mounted / "volume").open("wb") as file:
            file.truncate(size_bytes)
        yield mounted / "volume"


@contextmanager
def passthrough(directory: Path, size_bytes: int) -> Iterator[Path]:
    backing, mounted = directory / "backing", directory / "mounted"
    mounted.mkdir()
    with backing.open("wb") as file:
        file.truncate(size_bytes)
    command = [sys.executable, "-m", "scripts.bench.passthrough", str(backing), str(mounted)]
    with server(command, mounted):
        yield mounted / "volume"


@contextmanager
def server(command: list[str], mounted: Path) -> Iterator[None]:
    """Run a FUSE server in the foreground from its first answer until it is unmounted."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        await_file(mounted, process)
        yield
    finally:
        if fuse_type_of(mounted) is not None:
            subprocess.run(["umount", mounted], check=False)
        for stop in (process.terminate, process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=3)
                break
            stop()
        process.wait()
        if fuse_type_of(mounted) is not None:
            subprocess.run(["umount", "--lazy", mounted], check=False)


System = Callable[[Path, int], AbstractContextManager[Path]]
SYSTEMS: dict[str, System] = {
    "volcrypt": volume_on("native"),
    "volcrypt-python": volume_on("python"),
    "volcrypt-unencrypted": volume_on("native", "--unencrypted"),
    "volcrypt-unencrypted-python": volume_on("python", "--unencrypted"),
    "qemu-luks": qemu_luks,
    "gocryptfs": gocryptfs,
    "passthrough": passthrough,
}


def check_served(path: Path, size_bytes: int) -> None:
    """Raise unless FUSE serves `path` in that size and gives back what is written."""
    if fuse_type_of(path) is None:
        raise RuntimeError(f"{path} is not on a FUSE mount")
    if path.stat().st_size != size_bytes:
        raise RuntimeError(f"{path} has {path.stat().st_size} bytes instead of {size_bytes}")
    pattern = os.urandom(4096)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, pattern, size_bytes - 4096)
        os.fsync(descriptor)
        if os.pread(descriptor, 4096, size_bytes - 4096) != pattern:
            raise RuntimeError(f"{path} does not give back what was written")
    finally:
        os.close(descriptor)


def fio(path: Path, job: Job, size_bytes: int, seconds: int | None) -> tuple[float, float]:
    """`(bytes a second, operations a second)`; without `seconds` the whole file once."""
    command = ["fio", "--name=job", f"--filename={path}", "--ioengine=psync", "--direct=1"]
    command += [f"--rw={job.mode}", f"--bs={job.block_bytes}", f"--size={size_bytes}"]
    command += [f"--numjobs={job.callers}", "--group_reporting", "--output-format=json"]
    # Random bytes that differ from block to block; no layout, no cache invalidation of its own.
    command += ["--refill_buffers", "--norandommap", "--randrepeat=0", "--allow_file_create=0"]
    if seconds is not None:
        command += ["--time_based", f"--runtime={seconds}"]
    report = json.loads(run(*command))["jobs"][0]
    if report["error"]:
        raise RuntimeError(f"fio failed on {path} with error {report['error']}")
    side = report["read" if "read" in job.mode else "write"]
    return side["bw_bytes"], side["iops"]


def measure(
    files: dict[str, Path], size_bytes: int, seconds: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Job name -> system -> median rate: bytes a second if sequential, else operations a second."""
    fill = Job(name="fill", mode="write", block_bytes=2**20, callers=1)
    for name, path in files.items():
        print(f"filling {name}", file=sys.stderr)
        fio(path, fill, size_bytes, None)
        check_served(path, size_bytes)
    results: dict[str, dict[str, float]] = {}
    for job in JOBS:
        print(f"measuring {job.name}", file=sys.stderr)
        rates: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, path in files.items():
                bandwidth, operations = fio(path, job, size_bytes, seconds)
                rates[name].append(bandwidth if job.is_sequential else operations)
        results[job.name] = {name: statistics.median(rates[name]) for name in files}
    for path in files.values():
        check_served(path, size_bytes)
    return results


def show(results: dict[str, dict[str, float]], names: list[str], size_bytes: int) -> None:
    rows = []
    for job in JOBS:
        row, rates = [job.name], results[job.name]
        for name in names:
            scale = 1e6 if job.is_sequential else 1
            row.append(f"{rates[name] / scale:,.0f} {'MB/s' if job.is_sequential else 'IOPS'}")
            if name != names[0]:
                row[-1] += f" ({rates[names[0]] / rates[name]:.2f}x)"
        rows.append(row)
    print_table([format_size(size_bytes), *names], rows)
    if len(names) > 1:
        print(f"(x): {names[0]} divided by this system")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/volume_io", description=__doc__)
    parser.add_argument("--size", default="256MiB", help="size of each file (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="per job and turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument("--only", action="append", choices=SYSTEMS, help="repeat for several")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="for all data")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    arguments = parser.parse_args()
    try:
        size_bytes = check_volume_size(parse_size(arguments.size))
    except VolcryptError as error:
        parser.error(str(error))
    names = [name for name in SYSTEMS if arguments.only is None or name in arguments.only]

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="volcrypt-bench-", dir=arguments.dir))
    try:
        with ExitStack() as stack:
            files = {}
            for name in names:
                (directory / name).mkdir()
                files[name] = stack.enter_context(SYSTEMS[name](directory / name, size_bytes))
                check_served(files[name], size_bytes)
            results = measure(files, size_bytes, arguments.seconds, arguments.rounds)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        ratios = {
            job: {name: round(rates[names[0]] / rates[name], 3) for name in names[1:]}
            for job, rates in results.items()
        }
        members = {"rates": results, "ratios": ratios, "ratios_of": names[0]}
        print_json("volume_io", size_bytes=size_bytes, seconds=arguments.seconds, **members)
    else:
        show(results, names, size_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
