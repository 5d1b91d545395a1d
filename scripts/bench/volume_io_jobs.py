"""What `volume_io` has each system do: fio on one file; a source tree unpacked, and read."""

import io
import itertools
import json
import subprocess
import sysconfig
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.bench._lib import run
from scripts.bench._processes import usage_of
from scripts.bench.volume_io_report import Figure, Unit
from scripts.bench.volume_io_systems import EXT4, Served, check_mounted, drop_caches

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    name: str
    title: str
    mode: str
    block_bytes: int
    callers: int

    @property
    def unit(self) -> Unit:
        return Unit.OPERATIONS if self.mode.startswith("rand") else Unit.BYTES


FILL: Final = Job(name="fill", title="fill", mode="write", block_bytes=MIB, callers=1)


def _jobs() -> list[Job]:
    jobs = []
    for callers in (1, 8):
        who = "1 caller" if callers == 1 else f"{callers} callers"
        for size, block_bytes, order in (("1m", MIB, ""), ("4k", 4096, "rand")):
            for mode in ("read", "write"):
                what = f"1 MiB sequential {mode}" if size == "1m" else f"4 KiB random {mode}"
                job = Job(
                    name=f"{mode}-{size}-{callers}",
                    title=f"{what}, {who}",
                    mode=order + mode,
                    block_bytes=block_bytes,
                    callers=callers,
                )
                jobs.append(job)
    return jobs


JOBS: Final = {job.name: job for job in _jobs()}
TREE: Final = {
    "unpack": "unpack a source tree, and sync",
    "read-back": "read it back, caches cold",
}
"""The file workload; the parts of it are measured together."""


def titles_of(jobs: list[str], place: str) -> dict[str, str]:
    """The figures of those jobs at that place, by name."""
    found = {name: job.title for name, job in JOBS.items() if name in jobs}
    return found | TREE if "tree" in jobs and place == EXT4 else found


def fio(path: Path, job: Job, size_bytes: int, seconds: int | None) -> tuple[float, int]:
    """`(seconds, requests)`; without `seconds` the whole file once."""
    command = ["fio", "--name=job", f"--filename={path}", "--ioengine=psync", "--direct=1"]
    # Callers in sequence have a part of the file each: writers at one place wait for each other.
    part_bytes = size_bytes // job.callers if job.unit is Unit.BYTES else size_bytes
    command += [f"--rw={job.mode}", f"--bs={job.block_bytes}", f"--size={part_bytes}"]
    command.append(f"--offset_increment={0 if job.unit is Unit.OPERATIONS else part_bytes}")
    command += [f"--numjobs={job.callers}", "--group_reporting", "--output-format=json"]
    # Random bytes that differ from block to block; no layout, no cache invalidation of its own.
    command += ["--refill_buffers", "--norandommap", "--randrepeat=0", "--allow_file_create=0"]
    if seconds is not None:
        command += ["--time_based", f"--runtime={seconds}"]
    report = json.loads(run(*command))["jobs"][0]
    if report["error"]:
        raise RuntimeError(f"fio failed on {path} with error {report['error']}")
    side = report["read" if "read" in job.mode else "write"]
    return side["runtime"] / 1000, side["total_ios"]


def measured(served: Served, unit: Unit, work: Callable[[], tuple[float, float]]) -> Figure:
    """`work` gives seconds and how many of the unit; the mount is there before and after it."""
    check_mounted(served)
    before = usage_of(served.process)
    seconds, count = work()
    after = usage_of(served.process)
    check_mounted(served)
    return Figure(
        unit=unit,
        value=seconds if unit is Unit.SECONDS else count / seconds,
        cpu_seconds=(after.cpu_seconds - before.cpu_seconds) / count,
        resident_bytes=after.resident_bytes,
    )


def run_fio(served: Served, job: Job, size_bytes: int, seconds: int) -> Figure:
    def work() -> tuple[float, float]:
        elapsed, requests = fio(served.file, job, size_bytes, seconds)
        return elapsed, requests * (job.block_bytes if job.unit is Unit.BYTES else 1)

    return measured(served, job.unit, work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A tar in memory."""

    data: bytes
    files: int
    size_bytes: int
    checksum: int
    """The sum of the CRCs of all files."""


def source_tree(size_bytes: int, root: Path | None = None) -> Archive:
    """The sources of Python's own library, which are on every machine that this runs on, as often
    as they are needed for so many bytes."""
    root = root or Path(sysconfig.get_path("stdlib"))
    sources = [path for path in sorted(root.rglob("*.py")) if path.is_file()]
    contents = {str(path.relative_to(root)): path.read_bytes() for path in sources}
    if not any(contents.values()):
        raise RuntimeError(f"there are no sources in {root}")
    buffer, files, written, checksum = io.BytesIO(), 0, 0, 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for copy in itertools.count():
            for name, content in contents.items():
                if written >= size_bytes:
                    break
                member = tarfile.TarInfo(f"{copy}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                files += 1
                written += len(content)
                checksum += zlib.crc32(content)
            if written >= size_bytes:
                break
    return Archive(data=buffer.getvalue(), files=files, size_bytes=written, checksum=checksum)


def run_tree(served: Served, archive: Archive) -> dict[str, Figure]:
    """Unpack the tree and sync it, read all of it back with cold caches, remove it again."""
    served.tree.mkdir()

    def unpack() -> tuple[float, float]:
        started = time.perf_counter()
        command = ["tar", "--extract", "--file=-", f"--directory={served.tree}"]
        subprocess.run([*command, "--no-same-owner"], input=archive.data, check=True)
        run("sync", "-f", served.tree)
        return time.perf_counter() - started, 1

    def read_back() -> tuple[float, float]:
        started = time.perf_counter()
        files = size_bytes = checksum = 0
        for path in served.tree.rglob("*.py"):
            content = path.read_bytes()
            files += 1
            size_bytes += len(content)
            checksum += zlib.crc32(content)
        elapsed = time.perf_counter() - started
        if (files, size_bytes, checksum) != (archive.files, archive.size_bytes, archive.checksum):
            raise RuntimeError(f"{served.tree} does not give back what was unpacked")
        return elapsed, 1

    figures = {"unpack": measured(served, Unit.SECONDS, unpack)}
    drop_caches(served)
    figures["read-back"] = measured(served, Unit.SECONDS, read_back)
    run("rm", "-r", served.tree)
    run("sync", "-f", served.mount)
    return figures
