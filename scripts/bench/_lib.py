"""What the benchmarks share: programs they run, mounts they check, tables and JSON they print."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What a figure means nothing without."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others, which are figures, to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_json(benchmark: str, **members: Any) -> None:
    print(json.dumps({"benchmark": benchmark, "machine": machine(), **members}))


def run(*command: str | Path) -> str:
    """The standard output of a program; raises RuntimeError with its last words when it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {words}")
    return done.stdout


def mount_of(path: Path) -> tuple[Path, str]:
    """The mount that `path` lies on, and the type of its file system."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4]
        inside = str(path) == place or str(path).startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, after.split(" ")[0]
    return Path(best), kind


def fuse_type_of(path: Path) -> str | None:
    """The type of the FUSE file system that `path` lies on, None when it lies on another."""
    _, kind = mount_of(path)
    return kind if kind.startswith("fuse") else None


def await_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a FUSE server has mounted `path`; raises RuntimeError when it ends instead."""
    deadline = time.monotonic() + 20
    while fuse_type_of(path) is None:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not mount {path}")
        time.sleep(0.02)
