"""Processes whose memory is limited by the kernel, which kills one that needs more: a control group
of its own, of version 2 or, where the memory controller is still there, of version 1."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_VERSION_1: Final = Path("/sys/fs/cgroup/memory")
_VERSION_2: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Memory that a process has before it comes here does not count, nor does what others have."""

    path: Path
    is_version_1: bool

    def limit(self, limit_bytes: int | None) -> None:
        """From now on; None for no limit."""
        name = "memory.limit_in_bytes" if self.is_version_1 else "memory.max"
        unlimited = "-1" if self.is_version_1 else "max"
        (self.path / name).write_text(unlimited if limit_bytes is None else str(limit_bytes))

    def take(self, pid: int) -> None:
        """A running process, with all its threads."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def prefix(self) -> tuple[str, ...]:
        """What starts a program in the group when it stands before it."""
        return ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self.path))

    def killed(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        name = "memory.oom_control" if self.is_version_1 else "memory.events"
        words = (self.path / name).read_text().split()
        return int(words[words.index("oom_kill") + 1])


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """One without a limit; who is in it must have ended when the context does."""
    is_version_1 = (_VERSION_1 / "cgroup.procs").exists()
    root = _VERSION_1 if is_version_1 else _VERSION_2
    if not is_version_1:
        (root / "cgroup.subtree_control").write_text("+memory")
    path = root / f"volcrypt-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    try:
        yield MemoryGroup(path, is_version_1)
    finally:
        deadline = time.monotonic() + 30
        while True:
            try:
                path.rmdir()
            except OSError:
                # A process that has ended leaves its group a moment later.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                break
