"""A host of its own in namespaces: systemd as process 1 on the machine's own files.

    DIRECTORY/upper     what the host wrote; its root is this over the machine's
    DIRECTORY/log       what systemd said

It has processes, mounts, names, network and control groups of its own. Its /run, /tmp and /dev are
its own too (systemd empties /tmp when it boots); /proc/sys and /sys are read-only, and it is told
that it is in a container: so it leaves clock, modules, swap and loop devices of the machine alone.
No udevd runs. A power cut leaves nothing of it but `upper`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from volcrypt.volume.mountpoint import FS_TYPE, parse_mountinfo

REPOSITORY: Final = Path(__file__).parents[2]
DEADLINE_SECONDS: Final = 60
_LOOP_DEVICES: Final = 64
_CGROUPS: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a host in namespaces has no use for, or must not touch.
_MASKED: Final = (
    "dev-hugepages.mount",
    "e2scrub_all.timer",
    "getty.target",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)
_BOOT: Final = r"""
set -eu
directory=$1 repository=$2 root=$1/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -o remount,bind,ro "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
rm -f "$root/.dockerenv"
mkdir -p "$root$repository" "$root/dev/shm" "$root/dev/pts"
mount --bind "$repository" "$root$repository"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
node() { mknod -m "$1" "$root/dev/$2" "$3" "$4" "$5"; }
node 666 null c 1 3; node 666 zero c 1 5; node 666 full c 1 7; node 666 random c 1 8
node 666 urandom c 1 9; node 666 tty c 5 0; node 666 fuse c 10 229; node 660 loop-control c 10 237
number=0
while [ $number -lt $3 ]; do node 660 loop$number b 7 $number; number=$((number + 1)); done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/old"
cd "$root"
pivot_root . old
umount -l /old
mount --make-rshared /  # as systemd does on a machine
exec env -i container=volcrypt-test PATH="$PATH" LANG=C.UTF-8 TERM=dumb \
    /lib/systemd/systemd --log-target=console --show-status=1
"""
_GENERATOR: Final = """#!/bin/sh
exec unshare --mount sh -c 'mount -o remount,bind,rw /sys && exec "$@"' - \
    /lib/systemd/system-generators/systemd-fstab-generator "$@"
"""


class BootedHost:
    """Boots, and is off in the end, whatever happens. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._group: Path | None = None
        self.upper = directory / "upper"
        for part in ("upper", "work", "root"):
            (directory / part).mkdir(parents=True)
        units = self.upper / "etc/systemd/system"
        units.mkdir(parents=True)
        # Nothing that is enabled on the machine is enabled here.
        os.setxattr(units, "trusted.overlay.opaque", b"y")
        for unit in _MASKED:
            (units / unit).symlink_to("/dev/null")
        (self.upper / "etc/fstab").touch()
        (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
        # Where /sys is read-only systemd ignores devices in fstab: it sees another one here.
        generator = self.upper / "etc/systemd/system-generators/systemd-fstab-generator"
        generator.parent.mkdir()
        generator.write_text(_GENERATOR)
        generator.chmod(0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()

    def boot(self) -> None:
        """Returns when systemd has started everything, or has failed to."""
        assert self._process is None
        parent = next(each for each in _CGROUPS if (each / "cgroup.procs").exists())
        self._group = parent / f"volcrypt-test-{os.getpid()}-{time.monotonic_ns()}"
        self._group.mkdir()
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
        command += ["--cgroup", "--net", "--propagation", "private", "sh", "-c", _BOOT, "boot"]
        command += [str(self._directory), str(REPOSITORY), str(_LOOP_DEVICES)]
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, self._group, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": _PATH},
                start_new_session=True,
            )
        self.wait(lambda: self._state() in ("running", "degraded"), "the host has booted")

    def _state(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        if self._init() is None:
            return ""
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def _init(self) -> int | None:
        """Process 1 of the host, as the machine numbers it; None before there is one."""
        assert self._process is not None
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children or Path(f"/proc/{children[0]}/comm").read_text() != "systemd\n":
                return None
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(children[0])

    def run(
        self, *command: str | Path, check: bool = True, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command as root of the host."""
        enter = ["nsenter", f"--target={self._init()}", "--mount", "--pid", "--uts", "--ipc"]
        done = subprocess.run(
            [*enter, "--net", "--cgroup", "--root", "--wd", "--", *map(str, command)],
            check=False,
            capture_output=True,
            text=True,
            input=given,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            timeout=DEADLINE_SECONDS * 2,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
            time.sleep(0.05)

    def power_off(self) -> None:
        """As an operator does it: everything is stopped in order first."""
        assert self._process is not None
        self.run("systemctl", "poweroff", check=False)
        self._process.wait(DEADLINE_SECONDS)
        self._clear()

    def cut_power(self) -> None:
        """All processes are gone at once."""
        if self._process is None:
            return
        loops = self._loops()
        self._abort_mounts()
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)  # its child, process 1, goes with it
        self._process.wait(DEADLINE_SECONDS)
        self._clear()
        for loop in loops:  # with the machine they would be gone, too
            backing = Path("/sys/block", loop.name, "loop/backing_file")
            if backing.exists() and backing.read_text().endswith("/volume\n"):
                subprocess.run(["losetup", "--detach", loop], check=False, timeout=DEADLINE_SECONDS)

    def _loops(self) -> list[Path]:
        """The loop devices that volumes are attached to."""
        init = self._init()
        links = Path(f"/proc/{init}/root/dev/volcrypt").glob("*") if init is not None else ()
        return [Path(os.readlink(link)) for link in links]

    def _abort_mounts(self) -> None:
        """So that no process waits for what it would have to answer itself: the last one unmounts
        what is mounted, as the namespace ends."""
        init = self._init()
        if init is None:
            return
        for mount in parse_mountinfo(Path(f"/proc/{init}/mountinfo").read_text()):
            if mount.fs_type == FS_TYPE:
                connection = mount.device.partition(":")[2]
                abort = Path(f"/proc/{init}/root/sys/fs/fuse/connections/{connection}/abort")
                abort.write_text("1")

    def _clear(self) -> None:
        self._process = None
        assert self._group is not None
        group = self._group
        self.wait(lambda: not _populated(group), "no process is left")
        for below in sorted(group.rglob("*/"), reverse=True):
            below.rmdir()
        group.rmdir()

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")


def _populated(group: Path) -> bool:
    return "populated 1" in (group / "cgroup.events").read_text()
