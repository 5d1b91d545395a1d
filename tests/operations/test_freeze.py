"""Freezing file systems: what thaws them, whoever dies, and who is told."""

import errno
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem, run
from volcrypt.errors import InvalidArgumentError, TryAgainError
from volcrypt.operations.freeze import Freeze
from volcrypt.volume.freezing import freeze, thaw

LONG = 600.0


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_frozen(directory: Path) -> bool:
    """Asked by freezing it: that is refused where it is frozen already."""
    with opened(directory) as descriptor:
        try:
            freeze(descriptor)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return True
        thaw(descriptor)
        return False


def wait_until_thawed(directory: Path) -> None:
    while is_frozen(directory):
        time.sleep(0.02)


def freezers() -> list[int]:
    """The children of this process that freeze."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            ours = f"\nPPid:\t{os.getpid()}\n" in (path.parent / "status").read_text()
            if ours and b"volcrypt.daemons.freezer" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kib(pid: int, field: str) -> int:
    """A number of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0])


@pytest.fixture(autouse=True)
def nothing_stays_frozen(ext4: DisposableFileSystem) -> Iterator[None]:
    yield
    was_frozen = is_frozen(ext4.directory)
    if was_frozen:
        run("fsfreeze", "--unfreeze", ext4.directory)
    assert not was_frozen
    assert freezers() == []


def test_it_is_frozen_from_one_moment_to_the_other(ext4: DisposableFileSystem) -> None:
    with Freeze([ext4.directory], [], seconds=LONG) as still:
        assert not is_frozen(ext4.directory)
        still.freeze()
        assert is_frozen(ext4.directory)
        still.begin_thaw()
        still.finish_thaw()
        assert not is_frozen(ext4.directory)
    (ext4.directory / "written").touch()


def test_several_are_frozen_together(ext4: DisposableFileSystem, tmp_path: Path) -> None:
    from tests.file_system import disposable_file_system

    (tmp_path / "other").mkdir()
    with disposable_file_system(tmp_path / "other") as other:
        both = [ext4.directory, other.directory]
        with Freeze(both, [], seconds=LONG) as still:
            still.freeze()
            assert list(map(is_frozen, both)) == [True, True]
            still.begin_thaw()
            still.finish_thaw()
            assert list(map(is_frozen, both)) == [False, False]
        with (
            pytest.raises(InvalidArgumentError, match="cannot be frozen"),
            Freeze([*both, Path("/proc")], [], seconds=LONG) as still,
        ):
            still.freeze()
        assert list(map(is_frozen, both)) == [False, False]


def test_the_deadline_thaws_and_says_so(ext4: DisposableFileSystem) -> None:
    with Freeze([ext4.directory], [], seconds=0.1) as still:
        still.freeze()
        wait_until_thawed(ext4.directory)
        with pytest.raises(TryAgainError, match="always thawed"):
            still.begin_thaw()


def test_an_error_thaws(ext4: DisposableFileSystem) -> None:
    with suppress(KeyboardInterrupt), Freeze([ext4.directory], [], seconds=LONG) as still:
        still.freeze()
        raise KeyboardInterrupt
    assert not is_frozen(ext4.directory)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_whoever_froze_it_thaws(
    ext4: DisposableFileSystem, number: signal.Signals
) -> None:
    program = f"""
import time
from pathlib import Path
from volcrypt.operations.freeze import Freeze
with Freeze([Path({str(ext4.directory)!r})], [], seconds={LONG}) as still:
    still.freeze()
    print("frozen", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        assert is_frozen(ext4.directory)
        process.send_signal(number)
    wait_until_thawed(ext4.directory)


def test_the_end_of_the_process_that_thaws_thaws(ext4: DisposableFileSystem) -> None:
    with Freeze([ext4.directory], [], seconds=LONG) as still:
        still.freeze()
        (freezer,) = freezers()
        os.kill(freezer, signal.SIGKILL)
        with pytest.raises(TryAgainError, match="was killed"):
            still.begin_thaw()


def may_be_spared() -> bool:
    """Whether a process here may ask to be spared when memory is short (CAP_SYS_RESOURCE)."""
    (effective,) = re.findall(r"CapEff:\s+([0-9a-f]+)", Path("/proc/self/status").read_text())
    return bool(int(effective, 16) >> 24 & 1)


def test_it_is_deaf_to_all_other_signals_and_all_in_memory(ext4: DisposableFileSystem) -> None:
    with Freeze([ext4.directory], [], seconds=LONG) as still:
        still.freeze()
        (freezer,) = freezers()
        descriptor = os.pidfd_open(freezer)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(freezer, number)
        assert not select.select([descriptor], [], [], 0.2)[0]
        os.close(descriptor)
        assert kib(freezer, "VmLck") > 0.9 * kib(freezer, "VmRSS") > 0
        spared = Path(f"/proc/{freezer}/oom_score_adj").read_text().strip() == "-1000"
        assert spared == may_be_spared()
        still.begin_thaw()
        still.finish_thaw()


def test_somebody_elses_thaw_is_noticed(ext4: DisposableFileSystem) -> None:
    with Freeze([ext4.directory], [], seconds=LONG) as still:
        still.freeze()
        run("fsfreeze", "--unfreeze", ext4.directory)
        still.begin_thaw()
        with pytest.raises(TryAgainError, match="somebody else thawed"):
            still.finish_thaw()


def test_somebody_elses_freeze_is_respected(ext4: DisposableFileSystem) -> None:
    run("fsfreeze", "--freeze", ext4.directory)
    try:
        with (
            pytest.raises(TryAgainError, match="frozen already") as refused,
            Freeze([ext4.directory], [], seconds=LONG) as still,
        ):
            still.freeze()
        assert refused.value.hint == f"fsfreeze -u {ext4.directory}"
        assert is_frozen(ext4.directory)
    finally:
        run("fsfreeze", "--unfreeze", ext4.directory)


def test_what_cannot_be_frozen_is_refused() -> None:
    for directory, says in ((Path("/proc"), "cannot be frozen"), (Path("/none"), "No such file")):
        with pytest.raises(Exception, match=says), Freeze([directory], [], seconds=LONG) as still:
            still.freeze()
