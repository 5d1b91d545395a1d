"""What a crash and a full memory leave on disk of processes that hold keys: nothing of those."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.e2e.test_key_memory import UNWRAP, key_of
from tests.key_search import found_in_files, found_in_process, traces
from tests.planes import data_plane

MIB: Final = 2**20
_PROCESS_MADVISE: Final = 440
_MADV_PAGEOUT: Final = 21
CONTROL: Final = """
import os, signal, sys
key = bytearray(64)
assert os.readv(0, [key]) == 64
print("ready", flush=True)
signal.pause()
"""
"""A process that knows a key, and does nothing about it."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "create", "--size", "1MiB", "--name", "data")
        yield made


@pytest.fixture
def cores(tmp_path: Path) -> Path:
    """Where a core file lands, unless the system says another place for all of them."""
    directory = tmp_path / "cores"
    directory.mkdir()
    return directory


def allow_cores() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def start(cores: Path, *words: str | Path, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """A program whose cores are wanted."""
    return subprocess.Popen(
        words, cwd=cores, stdin=stdin, stdout=subprocess.PIPE, preexec_fn=allow_cores
    )


def crash(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether the kernel wrote a core, wherever the system wants it."""
    process.send_signal(number)
    _, status, _ = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    assert process.returncode == -number
    return os.WCOREDUMP(status)


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def knowing(cores: Path, key: bytes) -> subprocess.Popen[bytes]:
    process = start(cores, sys.executable, "-c", CONTROL, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(key)
    process.stdin.flush()
    assert line_of(process) == b"ready\n"
    return process


def await_true(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def serving(command: Command, cores: Path, point: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A mount whose process is our child."""
    words = ("mount", "data", point, "--foreground", "--data-plane", data_plane())
    process = start(cores, VOLCRYPT, "--home", command.home, *words)
    try:
        await_true(lambda: (point / "volume").exists() or process.poll() is not None)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            process.communicate(timeout=30)
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def test_a_crash_leaves_no_core(command: Command, cores: Path, tmp_path: Path) -> None:
    key = key_of(command.home, "data", tmp_path)
    wanted = traces(key)
    point = tmp_path / "point"
    point.mkdir()
    with serving(command, cores, point) as process:
        assert "data 0" in found_in_process(process.pid, wanted)
        with suppress(PermissionError):  # as root can, if he may: the limit is not all there is
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        assert not crash(process, signal.SIGSEGV)
    holder = start(cores, sys.executable, "-c", UNWRAP, command.home, "data", stdin=subprocess.PIPE)
    assert line_of(holder) == b"ready\n"
    assert "data 0" in found_in_process(holder.pid, wanted)
    assert not crash(holder, signal.SIGABRT)
    served = start(
        cores, VOLCRYPT, "--home", command.home, "kms", "serve", "--listen", "127.0.0.1:0"
    )
    assert b"127.0.0.1" in line_of(served)
    assert not crash(served, signal.SIGSEGV)
    assert list(cores.iterdir()) == []
    assert found_in_files([cores, command.home, command.runtime], wanted) == {}

    for number in (signal.SIGSEGV, signal.SIGABRT):
        assert crash(knowing(cores, key), number), "the control leaves one"
        if not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
            assert len(found_in_files([cores], {"it": key})) >= 1


# ---------------------------------------------------------------- swap


@contextmanager
def swap_file(path: Path) -> Iterator[Path]:
    path.touch(0o600)
    with path.open("r+b") as file:  # what is only reserved reads as zeros, whatever swapping wrote
        for _ in range(64):
            file.write(bytes(MIB))
        file.flush()
        os.fsync(file.fileno())
    subprocess.run(["mkswap", path], check=True, capture_output=True)
    subprocess.run(["swapon", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["swapoff", path], check=True)


def page_out(pid: int) -> None:
    """Have the kernel put all that a process has in memory into swap, as far as it can be."""
    libc = ctypes.CDLL(None, use_errno=True)
    count = ctypes.c_size_t(1)
    descriptor = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().split("\n"):
            extent, _, rest = line.partition(" ")
            if rest.startswith("rw"):
                start, end = (int(text, 16) for text in extent.split("-"))
                vector = (ctypes.c_size_t * 2)(start, end - start)
                libc.syscall(_PROCESS_MADVISE, descriptor, vector, count, _MADV_PAGEOUT, 0)
    finally:
        os.close(descriptor)


def swapped(pid: int) -> int:
    """Bytes of a process that are in swap."""
    text = Path(f"/proc/{pid}/status").read_text().partition("VmSwap:")[2]
    return int(text.split()[0]) * 1024


@pytest.mark.soak
def test_keys_do_not_go_to_swap(command: Command, cores: Path, tmp_path: Path) -> None:
    """It turns swapping on for the whole host, in a file of its own, for some seconds."""
    key = key_of(command.home, "data", tmp_path)
    other = os.urandom(64)
    point = tmp_path / "point"
    point.mkdir()
    (tmp_path / "swap").mkdir()
    with swap_file(tmp_path / "swap/file") as swap, serving(command, cores, point) as process:
        known = knowing(cores, other)
        try:
            with (point / "volume").open("rb") as file:
                file.read(MIB)
            page_out(process.pid)
            page_out(known.pid)
            await_true(lambda: traced(swap, {"it": other}) == {"it"})
            assert swapped(known.pid) > 0, "the control"
            assert traced(swap, traces(key)) == set()
            assert "data 0" in found_in_process(process.pid, traces(key))
            assert swapped(process.pid) == 0
        finally:
            known.kill()
            known.communicate()


def traced(file: Path, wanted: Mapping[str, bytes]) -> set[str]:
    """What is in the file on its disk: swapping goes past the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return found_in_files([file.parent], wanted).get(file, set())
