"""The owner lock: one at a time, named to the second, recovered after a kill, never from afar."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.file_system import DisposableFileSystem
from tests.syncs import recorded_syncs
from volcrypt.errors import (
    BadMagicError,
    MalformedError,
    NoSpaceError,
    VolumeInUseError,
    VolumeNotFoundError,
)
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.volume.owner import (
    OWNER_FILE,
    OwnerRecord,
    _own_record,
    current_owner,
    hold_volume,
    start_ticks,
)

HOLDER = """
import sys
from pathlib import Path
from volcrypt.volume.owner import hold_volume
lock = hold_volume(Path(sys.argv[1]), purpose="mount")
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "vol-0123456789abcdef0"
    directory.mkdir()
    return directory


@contextmanager
def holder(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the volume until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def record_of(directory: Path) -> bytes:
    return (directory / OWNER_FILE).read_bytes().strip(b" \n\0")


def put_record(directory: Path, **changes: object) -> OwnerRecord:
    """Leave the record of a process that is not this one."""
    record = msgspec.structs.replace(_own_record("mount"), **changes)
    content = b"volcrypt owner 1\n" + msgspec.json.encode(record)
    (directory / OWNER_FILE).write_bytes(content.ljust(SECTOR_BYTES))
    return record


def test_holds_and_releases(directory: Path) -> None:
    assert current_owner(directory) is None
    with hold_volume(directory, purpose="mount"):
        owner = current_owner(directory)
        assert owner is not None
        assert owner.pid == os.getpid()
        assert owner.purpose == "mount"
        assert str(owner) == f"process {os.getpid()} (mount)"
    assert current_owner(directory) is None
    assert record_of(directory) == b""
    assert (directory / OWNER_FILE).stat().st_mode & 0o777 == 0o600


def test_releases_when_the_block_fails_and_only_once(directory: Path) -> None:
    lock = hold_volume(directory, purpose="mount")
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    lock.release()
    with hold_volume(directory, purpose="mount"):
        pass


def test_second_process_is_told_who_holds_it(directory: Path) -> None:
    with holder(directory) as process:
        began = time.monotonic()
        with pytest.raises(
            VolumeInUseError,
            match=rf"vol-0123456789abcdef0 is in use by process {process.pid} \(mount\)",
        ):
            hold_volume(directory, purpose="delete")
        assert time.monotonic() - began < 0.9, "it waited for a holder that is known"
        owner = current_owner(directory)
        assert owner is not None
        assert owner.pid == process.pid


def test_second_holder_in_one_process_is_refused(directory: Path) -> None:
    with hold_volume(directory, purpose="mount"):
        with pytest.raises(VolumeInUseError):
            hold_volume(directory, purpose="delete")
        assert current_owner(directory) is not None


def test_killed_owner_is_cleared_without_asking(directory: Path) -> None:
    with holder(directory) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert record_of(directory) != b""
        assert current_owner(directory) is None
        with hold_volume(directory, purpose="mount"):
            pass


def test_killed_owner_that_nobody_waited_for_is_cleared(directory: Path) -> None:
    """A zombie still has its entry in /proc."""
    with holder(directory) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with hold_volume(directory, purpose="mount"):
            assert start_ticks(process.pid) is None


def test_owner_before_a_reboot_is_cleared(directory: Path) -> None:
    put_record(directory, boot_id="00000000-0000-0000-0000-000000000000")
    assert current_owner(directory) is None
    with hold_volume(directory, purpose="mount"):
        pass


def test_pid_that_is_used_again_is_not_the_owner(directory: Path) -> None:
    put_record(directory, start_ticks=1)
    assert current_owner(directory) is None
    with hold_volume(directory, purpose="mount"):
        pass


def test_owner_on_another_machine_is_never_cleared(directory: Path) -> None:
    put_record(directory, machine_id="f" * 32, host_name="elsewhere", pid=2**22 + 1)
    before = record_of(directory)
    with pytest.raises(VolumeInUseError, match="on elsewhere") as caught:
        hold_volume(directory, purpose="mount")
    assert caught.value.hint is not None
    assert "detach it on elsewhere" in caught.value.hint
    assert record_of(directory) == before
    owner = current_owner(directory)
    assert owner is not None
    assert not owner.is_local


def test_live_process_without_the_lock_is_respected(directory: Path) -> None:
    """Somebody replaced the owner file: the record still names a process that is there."""
    put_record(directory)
    with pytest.raises(VolumeInUseError, match=f"process {os.getpid()} "):
        hold_volume(directory, purpose="mount")


def test_lock_without_a_record_is_respected(directory: Path) -> None:
    with (directory / OWNER_FILE).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(VolumeInUseError, match="does not say who it is"):
            hold_volume(directory, purpose="mount")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"junk", BadMagicError),
        (b"volcrypt owner 2\n{}", BadMagicError),
        (b"volcrypt owner 1\n{}", MalformedError),
        (b'volcrypt owner 1\n{"machine_id":"\xff"}', MalformedError),
    ],
)
def test_record_that_cannot_be_read_is_no_free_volume(
    directory: Path, content: bytes, error: type[Exception]
) -> None:
    (directory / OWNER_FILE).write_bytes(content)
    with pytest.raises(error, match="owner record of vol-0123456789abcdef0"):
        hold_volume(directory, purpose="mount")
    with pytest.raises(error):
        current_owner(directory)
    assert (directory / OWNER_FILE).read_bytes() == content


@pytest.mark.parametrize("content", [b"", bytes(SECTOR_BYTES), b" " * SECTOR_BYTES])
def test_what_a_power_cut_leaves_of_a_new_file_is_no_owner(directory: Path, content: bytes) -> None:
    (directory / OWNER_FILE).write_bytes(content)
    assert current_owner(directory) is None
    with hold_volume(directory, purpose="mount"):
        pass


def test_record_survives_a_power_cut(file_system: DisposableFileSystem) -> None:
    """Another machine that gets the disk then must see who held the volume."""
    lock = hold_volume(file_system.directory, purpose="mount")
    record = record_of(file_system.directory)
    os.close(lock._descriptor)
    file_system.cut_power()
    assert record_of(file_system.directory) == record


def test_who_holds_it_is_on_the_medium_under_its_name(directory: Path) -> None:
    with recorded_syncs() as synced:
        hold_volume(directory, purpose="mount").release()
    assert synced == [directory / OWNER_FILE, directory, directory / OWNER_FILE]


def test_the_lock_of_a_file_that_was_removed_holds_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume was deleted, and made again, between our look and our lock."""
    flock, path = fcntl.flock, directory / OWNER_FILE

    def too_late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    with hold_volume(directory, purpose="mount") as lock:
        assert os.path.samestat(path.stat(), os.fstat(lock.descriptor))


def test_the_lock_of_a_file_that_a_link_leads_to_is_not_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody puts a link in its place between our look and our lock."""
    flock, path = fcntl.flock, directory / OWNER_FILE

    def exchanged(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", exchanged)
    with pytest.raises(MalformedError, match="not a regular file"):
        hold_volume(directory, purpose="mount")
    assert (tmp_path / "elsewhere").read_bytes() == b""


@pytest.mark.parametrize(
    ("purpose", "hint"),
    [
        ("mount", "'volcrypt unmount {id}', or 'volcrypt detach {id}' where it is attached"),
        ("export", "a command is at work on it: wait for its end; 'ps -fp {pid}' shows it"),
    ],
)
def test_who_comes_second_is_told_the_way_out(directory: Path, purpose: str, hint: str) -> None:
    with hold_volume(directory, purpose=purpose), pytest.raises(VolumeInUseError) as caught:
        hold_volume(directory, purpose="delete")
    assert caught.value.hint == hint.format(id=directory.name, pid=os.getpid())


def test_no_such_volume(tmp_path: Path) -> None:
    with pytest.raises(VolumeNotFoundError, match="vol-0 does not exist"):
        hold_volume(tmp_path / "vol-0", purpose="mount")
    assert current_owner(tmp_path / "vol-0") is None


def test_full_disk(ext4: DisposableFileSystem) -> None:
    ext4.fill()
    with pytest.raises(NoSpaceError):
        hold_volume(ext4.directory, purpose="mount")
    assert current_owner(ext4.directory) is None


def test_many_processes_one_at_a_time(directory: Path) -> None:
    """Each adds one to a counter that nothing but the lock protects."""
    counter = directory / "counter"
    counter.write_text("0")
    script = """
import sys, time
from pathlib import Path
from volcrypt.errors import VolumeInUseError
from volcrypt.volume.owner import hold_volume
directory = Path(sys.argv[1])
for _ in range(10):
    while True:
        try:
            with hold_volume(directory, purpose="count"):
                value = int((directory / "counter").read_text())
                (directory / "counter").write_text(str(value + 1))
            break
        except VolumeInUseError:
            time.sleep(0.001)
"""
    workers = [subprocess.Popen([sys.executable, "-c", script, directory]) for _ in range(3)]
    assert [worker.wait(30) for worker in workers] == [0] * 3
    assert counter.read_text() == "30"
