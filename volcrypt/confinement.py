"""What a process that holds a plaintext data key does to itself, before and after it gets it.

`prctl(2)`, `mlockall(2)`, `capset(2)` by ctypes: Python has no binding for them. All of this is per
thread or inherited by threads, so it is done before any thread is started.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_PR_SET_IO_FLUSHER: Final = 57
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_CAPABILITY_VERSION_3: Final = 0x20080522
_HIGHEST_CAPABILITY: Final = 63

WIPING_TUNABLES: Final = "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165"
"""GLIBC_TUNABLES with which glibc overwrites what is freed; without the caches of threads, which
that passes over."""

_WIPING_ALLOCATOR: Final[Mapping[str, str]] = MappingProxyType(
    {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": WIPING_TUNABLES}
)

CAP_SYS_ADMIN: Final = 21
"""Mounting and unmounting; a number of capabilities(7)."""

CAP_DAC_OVERRIDE: Final = 1
"""Access to files whatever their mode."""

CAP_IPC_LOCK: Final = 14
"""Locked memory beyond the limit."""

CAP_SYS_RESOURCE: Final = 24
"""Among much else, resizing a mounted ext4."""

_BYTES_HEADER: Final = bytes.__basicsize__ - 1
"""Where the bytes of an object begin; a zero stands behind them."""

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_dumps() -> None:
    """No core file, and no ptrace or /proc/PID/mem but for root."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def become_io_flusher() -> bool:
    """Tell the kernel that memory of others is freed by writing through this process, so that it
    never waits for itself. False where that needs a privilege (CAP_SYS_RESOURCE) we lack.
    """
    return bool(_libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def lock_memory() -> bool:
    """Keep all memory, also what comes later, out of swap. False where the limits forbid it.

    Locked as it is touched: otherwise every thread's stack would become resident in full. Root
    has to keep CAP_IPC_LOCK for what comes later.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY:
        return False  # it might work now, and later allocations would fail at the limit
    return bool(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def lock_present_memory() -> bool:
    """The same with all of it resident at once, so that nothing has to be read in any more: for a
    small process that must go on when storage does not."""
    return bool(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)


def keep_memory_small() -> None:
    """Make glibc reuse blocks as large as a FUSE request instead of mapping each one afresh (256
    page faults for 1 MiB), and share one arena between threads, which hardly allocate.
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
    _libc.mallopt(_M_TRIM_THRESHOLD, 16 * 2**20)
    _libc.mallopt(_M_ARENA_MAX, 1)


def wipe_what_is_freed() -> None:
    """Become this program anew, with an allocator that overwrites every block when it is freed: for
    a process that stays, and has keys pass through memory that is not ours to wipe (of JSON, of
    connections, of the token's module). Returns in the new program. Costs a start, and some percent
    of the processor from then on.
    """
    if all(os.environ.get(name) == value for name, value in _WIPING_ALLOCATOR.items()):
        return
    sys.stdout.flush()
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, **_WIPING_ALLOCATOR})  # noqa: S606 no shell


def wipe_bytes(secret: bytes) -> None:
    """Overwrite an object that Python takes for unchangeable: one that a library made of a secret,
    that nobody but the caller refers to, and that is never looked at again.

    Not for constants, nor for less than two bytes: those are shared by the whole program.
    """
    if len(secret) > 1:
        ctypes.memset(id(secret) + _BYTES_HEADER, 0, len(secret))


def drop_capabilities(*, keep: frozenset[int] = frozenset()) -> None:
    """Give up every capability that is not in `keep`, in every set, for good."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(_HIGHEST_CAPABILITY + 1):
        if number not in keep:
            # Fails for numbers that this kernel does not know, and without CAP_SETPCAP.
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    effective, permitted, _ = _own_capabilities(header)
    wanted = sum(1 << number for number in keep)
    if not permitted & ~wanted:
        return  # a service may be forbidden to ask for more, and so to ask at all
    _set_capabilities(header, effective & wanted, permitted & wanted)


def has_capability(number: int) -> bool:
    """Whether this process may do what the capability is for; containers often lack some."""
    effective, _, _ = _own_capabilities(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    return bool(effective >> number & 1)


def _own_capabilities(header: bytes) -> tuple[int, int, int]:
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(ctypes.create_string_buffer(header, len(header)), data), "capget")
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("<6I", data.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def _set_capabilities(header: bytes, effective: int, permitted: int) -> None:
    mask = 2**32 - 1
    data = struct.pack(
        "<6I", effective & mask, permitted & mask, 0, effective >> 32, permitted >> 32, 0
    )
    _check(_libc.capset(ctypes.create_string_buffer(header, len(header)), data), "capset")


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
