"""The systems that `volume_io` compares, each from its first mount to its last trace.

A system serves one file through FUSE (`FILE`); with a loop device and ext4 on that it serves a
file system (`EXT4`). gocryptfs is a file system by itself, and is taken as it is for both.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.bench._lib import await_file, fuse_type_of, mount_of, run
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

VOLCRYPT: Final = Path(sys.executable).with_name("volcrypt")
FILE: Final = "file"
EXT4: Final = "ext4"
PLACES: Final = (FILE, EXT4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    file: Path
    """What fio opens."""
    mount: Path
    kind: str
    """What the type of the file system at `mount` begins with."""
    process: int
    """The server; its descendants belong to it."""
    backing: Path
    """Where everything that it stores lies."""
    is_block_device: bool = False
    """Whether `mount` is of a block device on the server's file."""

    @property
    def tree(self) -> Path:
        """A directory for many files."""
        return self.mount / "tree"


System = Callable[[Path, int, str], AbstractContextManager[Served]]


def check_mounted(served: Served) -> None:
    """Raise unless the file lies on that very mount: a mount that failed measures the disk."""
    place, kind = mount_of(served.file)
    if place != served.mount or not kind.startswith(served.kind):
        raise RuntimeError(f"{served.file} is on {place} ({kind}), not on {served.mount}")


def check_served(served: Served, size_bytes: int) -> None:
    """Raise unless the file is served in that size and gives back what is written."""
    check_mounted(served)
    path = served.file
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


def drop_caches(served: Served) -> None:
    """Have nothing of the mount in memory, neither above nor below it, and of no other."""
    run("sync", "-f", served.mount)
    if served.is_block_device:
        device = run("findmnt", "-n", "-o", "SOURCE", "-M", served.mount).strip()
        run("umount", served.mount)
        run("mount", device, served.mount)
    for directory in (served.mount, served.backing):
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


# ---------------------------------------------------------------- volcrypt


@contextmanager
def _volcrypt(
    directory: Path, size_bytes: int, place: str, options: list[str], *, plane: str
) -> Iterator[Served]:
    # Of all homes of the machine: links in /dev/volcrypt are.
    home, volume = directory / "home", f"bench-{os.getpid()}-{directory.name}"
    command: list[str | Path] = [VOLCRYPT, "--home", home]
    mounted = directory / "mounted"
    mounted.mkdir()
    run(*command, "init")
    run(*command, "volume", "create", "--size", str(size_bytes), "--name", volume, *options)
    if place == FILE:
        run(*command, "mount", volume, mounted, "--data-plane", plane)
        end: list[str | Path] = [*command, "unmount", mounted]
    else:
        attach = [*command, "attach", volume, "--mkfs", "ext4", "--mount", mounted]
        run(*attach, "--data-plane", plane)
        end = [*command, "detach", volume]
    try:
        (use,) = json.loads(run(*command, "status", "--json"))["InUse"]
        if use["DataPlane"] != plane:
            raise RuntimeError(f"the data plane is {use['DataPlane']}, not {plane}")
        yield Served(
            file=mounted / "volume",
            mount=mounted,
            kind="fuse" if place == FILE else "ext4",
            process=use["Pid"],
            backing=home / "volumes",
            is_block_device=place == EXT4,
        )
    finally:
        run(*end)
        shutil.rmtree(runtime_directory(home, runtime_root()))


def volume_on(plane: str, *options: str) -> System:
    return lambda directory, size_bytes, place: _volcrypt(
        directory, size_bytes, place, list(options), plane=plane
    )


# ---------------------------------------------------------------- peers


def qemu_luks(directory: Path, size_bytes: int, place: str) -> AbstractContextManager[Served]:
    backing, mounted, passphrase = directory / "backing", directory / "exported", directory / "key"
    backing.mkdir()
    passphrase.write_text("bench")
    mounted.touch()
    secret = ["--object", f"secret,id=key,file={passphrase}"]
    create: list[str | Path] = ["qemu-img", "create", "-q", "-f", "luks", *secret]
    create += ["-o", "key-secret=key,iter-time=10", backing / "image", str(size_bytes)]
    for attempt in range(10):
        try:
            run(*create)
            break
        except RuntimeError as error:
            # Its calibration of PBKDF2 fails now and then on a busy machine.
            if "Unable to get accurate CPU usage" not in str(error) or attempt == 9:
                raise
    command = ["qemu-storage-daemon", *secret]
    command += ["--blockdev", f"driver=file,node-name=file,filename={backing / 'image'}"]
    command += ["--blockdev", "driver=luks,node-name=luks,file=file,key-secret=key"]
    command += ["--export", f"type=fuse,id=e,node-name=luks,mountpoint={mounted},writable=on"]
    return _one_file(directory, place, command, mounted, mounted)


def passthrough(directory: Path, size_bytes: int, place: str) -> AbstractContextManager[Served]:
    backing, mounted = directory / "backing", directory / "exported"
    backing.mkdir()
    mounted.mkdir()
    with (backing / "file").open("wb") as file:
        file.truncate(size_bytes)
    command = [sys.executable, "-m", "scripts.bench.passthrough", str(backing / "file")]
    return _one_file(directory, place, [*command, str(mounted)], mounted, mounted / "volume")


@contextmanager
def gocryptfs(directory: Path, size_bytes: int, place: str) -> Iterator[Served]:
    backing, mounted, passphrase = directory / "backing", directory / "mounted", directory / "key"
    backing.mkdir()
    mounted.mkdir()
    passphrase.write_text("bench")
    run("gocryptfs", "-q", "-init", "-scryptn=10", f"-passfile={passphrase}", backing)
    command = ["gocryptfs", "-q", "-fg", "-nosyslog", f"-passfile={passphrase}", backing, mounted]
    with _server(list(map(str, command)), mounted) as process:
        if place == FILE:
            with (mounted / "volume").open("wb") as file:
                file.truncate(size_bytes)
        yield Served(
            file=mounted / "volume", mount=mounted, kind="fuse", process=process, backing=backing
        )


@contextmanager
def _one_file(
    directory: Path, place: str, command: list[str], exported: Path, file: Path
) -> Iterator[Served]:
    """A server of `file`, which has the mount `exported`."""
    backing = directory / "backing"
    with _server(command, exported) as process:
        if place == FILE:
            yield Served(file=file, mount=exported, kind="fuse", process=process, backing=backing)
            return
        mounted = directory / "mounted"
        mounted.mkdir()
        with _ext4(file, mounted):
            yield Served(
                file=mounted / "volume",
                mount=mounted,
                kind="ext4",
                process=process,
                backing=backing,
                is_block_device=True,
            )


@contextmanager
def _ext4(file: Path, mounted: Path) -> Iterator[None]:
    """As `volcrypt attach --mkfs ext4 --mount` has it."""
    device = run(
        "losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", "--", file
    ).strip()
    try:
        run("mkfs.ext4", "-q", device)
        run("mount", device, mounted)
        try:
            yield
        finally:
            run("umount", mounted)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def _server(command: list[str], mounted: Path) -> Iterator[int]:
    """Run a FUSE server in the foreground from its first answer until it is unmounted."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        await_file(mounted, process)
        yield process.pid
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


SYSTEMS: Final[dict[str, System]] = {
    "volcrypt": volume_on("native"),
    "volcrypt-python": volume_on("python"),
    "volcrypt-unencrypted": volume_on("native", "--unencrypted"),
    "volcrypt-unencrypted-python": volume_on("python", "--unencrypted"),
    "qemu-luks": qemu_luks,
    "gocryptfs": gocryptfs,
    "passthrough": passthrough,
}
