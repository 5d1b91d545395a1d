"""Freezing file systems: what thaws them, whoever dies, and who is told."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.command import disposable_home
from tests.file_system import DisposableFileSystem, run
from tests.frozen import (
    LONG,
    freezers,
    frozen_by_another,
    is_frozen,
    opened,
    wait_until_gone,
    wait_until_thawed,
)
from volcrypt.errors import InvalidArgumentError, TryAgainError
from volcrypt.operations.freeze_notes import FreezeNote, freeze_warnings, thaw_overdue
from volcrypt.operations.freezers import Freeze


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


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


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
from volcrypt.operations.freezers import Freeze
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
        orphans = freezers(process.pid)
        process.send_signal(number)
    wait_until_thawed(ext4.directory)
    wait_until_gone(orphans)


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


def test_a_freezer_that_is_stopped_does_not_keep_it_frozen(
    ext4: DisposableFileSystem, notes: Path
) -> None:
    with Freeze([ext4.directory], [], seconds=1, notes=notes) as still:
        still.freeze()
        (freezer,) = freezers()
        os.kill(freezer, signal.SIGSTOP)
        wait_until_thawed(ext4.directory)
        with pytest.raises(TryAgainError, match="always thawed"):
            still.begin_thaw()
    assert not list(notes.iterdir())


def test_a_freezer_that_is_killed_is_noticed_at_once(
    ext4: DisposableFileSystem, notes: Path
) -> None:
    with Freeze([ext4.directory], [], seconds=LONG, notes=notes) as still:
        still.freeze()
        assert len(list(notes.iterdir())) == 1
        (freezer,) = freezers()
        os.kill(freezer, signal.SIGKILL)
        wait_until_thawed(ext4.directory)
        while list(notes.iterdir()):
            time.sleep(0.02)


def test_the_end_does_not_wait_for_one_that_is_stopped(ext4: DisposableFileSystem) -> None:
    with suppress(KeyboardInterrupt), Freeze([ext4.directory], [], seconds=LONG) as still:
        still.freeze()
        (freezer,) = freezers()
        os.kill(freezer, signal.SIGSTOP)
        raise KeyboardInterrupt
    assert not is_frozen(ext4.directory)


def test_the_next_command_thaws_what_was_left_when_all_were_killed(
    ext4: DisposableFileSystem, notes: Path
) -> None:
    with frozen_by_another(ext4.directory, notes, seconds=LONG):
        assert thaw_overdue(notes) == freeze_warnings(notes) == []  # somebody is at it
    assert is_frozen(ext4.directory)
    (warning,) = freeze_warnings(notes)
    assert f"fsfreeze -u {ext4.directory}" in warning
    assert thaw_overdue(notes) == [
        f"{ext4.directory} had been left frozen by a snapshot that was killed; it is thawed"
    ]
    assert not is_frozen(ext4.directory)
    assert not list(notes.iterdir())
    assert thaw_overdue(notes) == freeze_warnings(notes) == []


def test_the_next_command_thaws_what_those_who_are_stopped_keep_for_too_long(
    ext4: DisposableFileSystem, notes: Path
) -> None:
    with frozen_by_another(ext4.directory, notes, seconds=1):
        assert is_frozen(ext4.directory)
        while not thaw_overdue(notes):
            time.sleep(0.1)
        assert not is_frozen(ext4.directory)
    assert thaw_overdue(notes) == []
    assert not list(notes.iterdir())


def test_it_is_found_where_else_it_is_mounted(
    ext4: DisposableFileSystem, tmp_path: Path, notes: Path
) -> None:
    (tmp_path / "other").mkdir()
    (ext4.directory / "inner").mkdir()
    gone = ext4.directory / "inner"
    with frozen_by_another(gone, notes, seconds=LONG):
        pass
    run("mount", "--bind", tmp_path / "other", gone)
    try:
        assert not list(gone.iterdir())
        assert len(thaw_overdue(notes)) == 1
    finally:
        run("umount", gone)
    assert not is_frozen(ext4.directory)


@pytest.mark.parametrize("wrong", ["device", "file_system"])
def test_a_note_of_another_file_system_thaws_nothing(
    ext4: DisposableFileSystem, notes: Path, wrong: str
) -> None:
    with opened(ext4.directory) as descriptor:
        note = FreezeNote.of(ext4.directory, descriptor, [os.getpid()], -1)
    msgspec.structs.replace(note, **{wrong: 12345}).write(notes)
    run("fsfreeze", "--freeze", ext4.directory)
    try:
        assert thaw_overdue(notes) == []
        assert is_frozen(ext4.directory)
        note.write(notes)  # the control
        assert len(thaw_overdue(notes)) == 1
        assert not is_frozen(ext4.directory)
    finally:
        if is_frozen(ext4.directory):
            run("fsfreeze", "--unfreeze", ext4.directory)


def test_every_command_thaws_what_is_left_and_says_so(
    ext4: DisposableFileSystem, tmp_path: Path
) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        with frozen_by_another(ext4.directory, command.runtime, seconds=LONG):
            pass
        done = command.try_run("status")
        assert done.returncode == 0
        assert "had been left frozen by a snapshot that was killed" in done.stderr
        assert not is_frozen(ext4.directory)
        assert "frozen" not in command.try_run("status").stderr


def test_what_cannot_be_frozen_is_refused() -> None:
    for directory, says in ((Path("/proc"), "cannot be frozen"), (Path("/none"), "No such file")):
        with pytest.raises(Exception, match=says), Freeze([directory], [], seconds=LONG) as still:
            still.freeze()
