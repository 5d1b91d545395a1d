"""What processes cost: seconds of a processor and resident memory, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    cpu_seconds: float
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    parent: int
    usage: Usage


def parse_stat(line: str) -> tuple[int, Usage]:
    """The parent, and the usage of a process, also of its threads that ended; see proc(5)."""
    # The name is in parentheses and may have any byte in it, parentheses too.
    fields = line.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime
    resident_bytes = int(fields[21]) * _PAGE_BYTES
    usage = Usage(cpu_seconds=ticks / _TICKS_PER_SECOND, resident_bytes=resident_bytes)
    return int(fields[1]), usage


def descendants(root: int, parents: dict[int, int]) -> set[int]:
    """`root` and all below it; `parents` has the parent of each process."""
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def usage_of(root: int) -> Usage:
    """Of a process and its descendants together. Raises RuntimeError when it is gone."""
    processes: dict[int, _Process] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                parent, usage = parse_stat((directory / "stat").read_text(errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            processes[int(directory.name)] = _Process(parent=parent, usage=usage)
    if root not in processes:
        raise RuntimeError(f"process {root} is gone")
    members = descendants(root, {pid: process.parent for pid, process in processes.items()})
    return Usage(
        cpu_seconds=sum(processes[pid].usage.cpu_seconds for pid in members),
        resident_bytes=sum(processes[pid].usage.resident_bytes for pid in members),
    )
