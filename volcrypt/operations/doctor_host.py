"""Checks of `volcrypt doctor` on the host: kernel, FUSE, loop devices, programs, limits.

Each looks, and changes nothing. What it looks at is given by `Host`, so that a test can show it
another host.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from volcrypt.confinement import CAP_SYS_ADMIN, has_capability
from volcrypt.operations.findings import Finding, note, ok, problem

_OLDEST_KERNEL: Final = (5, 3)
_KERNELS: Final = (
    ((5, 6), "processes that serve volumes may wait for themselves when memory is short"),
    ((6, 2), "writes of several callers to one volume queue up (--data-plane native)"),
    ((6, 9), "a crash of the process that serves a volume ends its mount, also in a service"),
)
"""What an older kernel than that lacks (PR_SET_IO_FLUSHER, FOPEN_PARALLEL_DIRECT_WRITES,
FUSE_NOTIFY_RESEND)."""

_PROGRAMS: Final = (
    ("losetup", "mount", "'attach'"),
    ("blkid", "util-linux", "'volume create --data' and 'volume import'"),
    ("partx", "util-linux", "partitions of attached volumes on some kernels"),
    ("mkfs.ext4", "e2fsprogs", "'attach --mkfs ext4'"),
    ("resize2fs", "e2fsprogs", "'volume grow --resize-fs' of ext4"),
    ("mkfs.xfs", "xfsprogs", "'attach --mkfs xfs'"),
    ("xfs_growfs", "xfsprogs", "'volume grow --resize-fs' of XFS"),
    ("cryptsetup", "cryptsetup-bin", "'volume export-header' and 'volume import' of LUKS"),
)
_ENOUGH_FILES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`root` is where /proc, /sys and /dev are looked for; `find_program` is shutil.which."""

    root: Path = Path("/")
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    release: str = field(default_factory=lambda: os.uname().release)
    may_mount: bool = field(default_factory=lambda: has_capability(CAP_SYS_ADMIN))
    find_program: Callable[[str], str | None] = shutil.which

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """What a file of /proc or /sys says; None where it is not there or not for us."""
        try:
            return self.path(path).read_bytes().decode(errors="replace")  # "\r" ends no line
        except OSError:
            return None


def check_kernel(host: Host) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", host.release)
    if found is None:
        yield note("kernel", f"the kernel calls itself {host.release!r}, which says no version")
        return
    version = (int(found[1]), int(found[2]))
    if version < _OLDEST_KERNEL:
        yield problem(
            "kernel",
            f"Linux {host.release} is too old: processes cannot be held by descriptor (5.3)",
            "install a newer kernel and reboot",
        )
        return
    lacks = [f"before {a}.{b}, {what}" for (a, b), what in _KERNELS if version < (a, b)]
    if lacks:
        yield note("kernel", f"Linux {host.release}: {'; '.join(lacks)}", "a newer kernel")
    else:
        yield ok("kernel", f"Linux {host.release}")


def check_fuse(host: Host) -> Iterator[Finding]:
    """Whether this user can mount."""
    device = host.path("/dev/fuse")
    kinds = (host.text("/proc/filesystems") or "").split()
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        if "fuse" in kinds:
            yield problem(
                "fuse", "/dev/fuse is missing", "mknod -m 666 /dev/fuse c 10 229, or start udev"
            )
        else:
            yield problem("fuse", "this kernel offers no FUSE", "modprobe fuse")
        return
    except PermissionError:
        yield problem(
            "fuse",
            "this user may not open /dev/fuse",
            "chmod 666 /dev/fuse; in a container, let it have the device",
        )
        return
    except OSError as error:
        yield problem("fuse", f"/dev/fuse cannot be opened: {error.strerror}", "modprobe fuse")
        return
    if not stat.S_ISCHR(device.stat().st_mode):
        yield problem("fuse", "/dev/fuse is not a device", "rm /dev/fuse, and start udev")
        return
    yield from _fuse_helper(host)


def _fuse_helper(host: Host) -> Iterator[Finding]:
    helper = host.find_program("fusermount3")
    if host.is_root:
        if not host.may_mount:
            yield problem(
                "fuse",
                "this root lacks the capability to mount (CAP_SYS_ADMIN)",
                "run it outside of the container, or give that to it",
            )
        else:
            yield ok("fuse", "/dev/fuse opens, and root mounts by itself")
    elif helper is None:
        yield problem(
            "fuse",
            "fusermount3 is missing, by which users who are not root mount",
            "apt-get install fuse3",
        )
    elif not os.stat(helper).st_mode & stat.S_ISUID or os.stat(helper).st_uid != 0:
        yield problem(
            "fuse",
            f"{helper} is not set-user-id root, so that only root can mount",
            f"chown root {helper} && chmod 4755 {helper}",
        )
    else:
        yield ok("fuse", f"/dev/fuse opens, and {helper} mounts")


def check_loop(host: Host) -> Iterator[Finding]:
    """Whether `attach` gets a loop device."""
    control = host.path("/dev/loop-control")
    if not host.is_root:
        yield note(
            "loop", "'attach' and 'detach' need root", "'volcrypt mount' serves a volume as a file"
        )
        return
    try:
        os.close(os.open(control, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield problem("loop", "/dev/loop-control is missing: there is no 'attach'", "modprobe loop")
    except OSError as error:
        yield problem(
            "loop",
            f"/dev/loop-control cannot be opened: {error.strerror}",
            "in a container, let it have the device, and /dev/loop*",
        )
    else:
        yield ok("loop", "/dev/loop-control opens")


def check_programs(host: Host) -> Iterator[Finding]:
    """Other packages' programs, each of which some commands need."""
    missing = [each for each in _PROGRAMS if host.find_program(each[0]) is None]
    for program, package, commands in missing:
        text = f"{program} is missing, for {commands}"
        # Without losetup nothing can be attached at all; the others are for what may never be used.
        is_needed = program == "losetup" and host.is_root
        make = problem if is_needed else note
        yield make("programs", text, f"apt-get install {package}")
    if not missing:
        yield ok("programs", ", ".join(program for program, _, _ in _PROGRAMS))


def check_limits(host: Host, *, open_files: int) -> Iterator[Finding]:
    """Limits on input and output, and on descriptors (`open_files`)."""
    limited = False
    for line in (host.text("/proc/self/cgroup") or "").splitlines():
        _, _, group = line.rpartition(":")
        limit = host.text(f"/sys/fs/cgroup{group}/io.max")
        if limit and limit.strip():
            limited = True
            yield note(
                "limits",
                f"the cgroup {group} bounds input and output: {'; '.join(limit.splitlines())}",
                "volumes go no faster; raise it in io.max, or IOReadBandwidthMax= and "
                "IOWriteBandwidthMax= of the unit",
            )
    if open_files < _ENOUGH_FILES:
        limited = True
        yield problem(
            "limits",
            f"a process may open only {open_files} files",
            f"ulimit -n {_ENOUGH_FILES}, or LimitNOFILE= of the unit",
        )
    if not limited:
        yield ok("limits", f"{open_files} open files, input and output without a bound")
