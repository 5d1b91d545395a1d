"""Checks of `volcrypt doctor` on where key and plaintext could get to: swap and core files."""

import os
from collections.abc import Iterator
from typing import Final

from volcrypt.operations.doctor_host import Host
from volcrypt.operations.findings import Finding, note, ok, problem

UNLIMITED: Final = -1
"""Of a limit on locked memory, as `resource` has it."""


def is_memory_lockable(host: Host, *, limit_bytes: int, may_lock: bool) -> bool:
    """Whether the process that serves a volume locks its memory: as
    `volcrypt.confinement.lock_memory` decides it. `may_lock`: CAP_IPC_LOCK."""
    return may_lock if host.is_root else limit_bytes == UNLIMITED


def check_memory_lock(host: Host, *, limit_bytes: int, may_lock: bool) -> Iterator[Finding]:
    """`limit_bytes` is RLIMIT_MEMLOCK."""
    if is_memory_lockable(host, limit_bytes=limit_bytes, may_lock=may_lock):
        yield ok("memory lock", "the memory of processes that hold a key is locked")
    elif host.is_root:
        yield problem(
            "memory lock",
            "this root may not lock memory (CAP_IPC_LOCK): keys can go to swap",
            "run it outside of the container, or give that to it",
        )
    else:
        yield problem(
            "memory lock",
            f"this user may lock {limit_bytes // 1024} KiB, so nothing is locked: keys can go to "
            "swap",
            "memlock unlimited in /etc/security/limits.conf, or LimitMEMLOCK=infinity of the unit",
        )


def check_swap(host: Host, *, locks_memory: bool) -> Iterator[Finding]:
    """Whether swap is there, and is encrypted or in memory only."""
    lines = (host.text("/proc/swaps") or "").splitlines()[1:]
    # Spaces in paths are escaped there.
    open_ones = [line.split()[0] for line in lines if line.split() and not _is_safe(host, line)]
    if not lines:
        yield ok("swap", "there is none")
    elif not open_ones:
        yield ok("swap", "it is encrypted, or in memory (zram)")
    else:
        what = f"{', '.join(open_ones)} is not encrypted"
        mend = f"swapoff {open_ones[0]}, or have /etc/crypttab encrypt it with a new key at boot"
        if locks_memory:
            text = f"{what}: keys are in locked memory, but what applications read may go there"
            yield note("swap", text, mend)
        else:
            yield problem("swap", f"{what}, and keys are not in locked memory", mend)


def _is_safe(host: Host, line: str) -> bool:
    path, kind = line.split()[:2]
    name = host.path(path).resolve().name  # dm-0 for /dev/mapper/NAME
    if kind == "file":
        try:
            device = host.path(path).stat().st_dev
        except OSError:
            return False
        return _is_encrypted(host, f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if name.startswith("zram"):
        # One with a backing device writes to that what is idle.
        return (host.text(f"/sys/class/block/{name}/backing_dev") or "none").strip() == "none"
    return _is_encrypted(host, f"/sys/class/block/{name}")


def _is_encrypted(host: Host, block: str) -> bool:
    """Whether a device of /sys is dm-crypt's, or stands on nothing but such."""
    if (host.text(f"{block}/dm/uuid") or "").startswith("CRYPT-"):
        return True
    below = sorted(each.name for each in host.path(f"{block}/slaves").glob("*"))
    return bool(below) and all(_is_encrypted(host, f"/sys/class/block/{each}") for each in below)


def check_core_dumps(host: Host, *, limit_bytes: int) -> Iterator[Finding]:
    """Where core files of commands would go; `limit_bytes` is RLIMIT_CORE. The processes that hold
    keys for long forbid theirs by themselves."""
    pattern = (host.text("/proc/sys/kernel/core_pattern") or "").strip()
    if limit_bytes == 0 and not pattern.startswith("|"):
        yield ok("core dumps", "none are written")
    else:
        # A pipe gets cores whatever the limit is.
        where = f"go to {pattern[1:].split()[0]}" if pattern.startswith("|") else "may be written"
        yield note(
            "core dumps",
            f"core files of commands that crash {where}; processes that serve volumes and keys "
            "forbid theirs",
            "ulimit -c 0, or LimitCORE=0 of the unit",
        )
