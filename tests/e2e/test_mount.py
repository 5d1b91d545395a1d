"""A volume served by the real process on a real mount."""

import errno
import json
import os
import random
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.file_system import DisposableFileSystem
from tests.planes import DATA_PLANE
from tests.served_volume import OpenFile, ServedVolume, served_volume
from tests.strace import calls_in, strace
from tests.volume.test_volume import decrypt_independently
from volcrypt.errors import (
    IntegrityError,
    MountError,
    RecordMissingError,
    TryAgainError,
    VolumeError,
    VolumeInUseError,
)
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.names import SnapshotId, StoreId
from volcrypt.volume.control import ControlClient
from volcrypt.volume.mountpoint import FS_TYPE, mount_at

CHUNKS = 16
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=SIZE) as made:
        yield made


@pytest.fixture
def mounted(volume: ServedVolume) -> ServedVolume:
    volume.mount()
    return volume


def assert_nothing_left(volume: ServedVolume) -> None:
    assert mount_at(volume.mount_directory) is None
    assert list(volume.runtime.iterdir()) == []


def commit_parent(volume: ServedVolume) -> None:
    """Count changes from now, as after a snapshot."""
    with volume.control() as client:
        client.begin_capture()
        client.commit_capture(PARENT)


def changed_chunks(client: ControlClient) -> list[int]:
    changed = client.begin_capture().changed
    assert changed is not None
    client.abort_capture()
    return list(changed)


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("encrypted", [True, False])
def test_random_requests_against_a_model(tmp_path: Path, encrypted: bool) -> None:
    dice = random.Random(7)
    model = bytearray(SIZE)
    with served_volume(tmp_path, size_bytes=SIZE, encrypted=encrypted) as volume:
        for _ in range(2):
            volume.mount()
            with OpenFile(volume) as file:
                for _ in range(150):
                    length = dice.choice([1, 512, 700, 4096, 5000, 65536, 200_000, 3 * 2**20])
                    offset = dice.randrange(SIZE - length)
                    if dice.random() < 0.5:
                        piece = dice.randbytes(length)
                        file.write(offset, piece)
                        model[offset : offset + length] = piece
                    else:
                        assert file.read(offset, length) == model[offset : offset + length]
                file.sync()
                assert file.read(0, SIZE) == model
            volume.unmount()
            assert_nothing_left(volume)
        stored = volume.data_path.read_bytes()
        if encrypted:
            written = [o for o in range(0, SIZE, UNIT_BYTES) if any(stored[o : o + UNIT_BYTES])]
            opened = decrypt_independently(stored, volume.key)
            for offset in written:
                # Sectors that were never written are holes, also in a unit that was.
                for start in range(offset, offset + UNIT_BYTES, 512):
                    if any(stored[start : start + 512]):
                        assert opened[start : start + 512] == model[start : start + 512]
        else:
            assert stored == model


def test_many_writers_at_once(mounted: ServedVolume) -> None:
    """Each thread owns every n-th run of 700 bytes, so that all share data units."""
    threads, run = 6, 700
    runs = SIZE // run // threads
    model = bytearray(SIZE)

    def work(number: int) -> None:
        dice = random.Random(number)
        with OpenFile(mounted) as file:
            for _ in range(80):
                offset = (dice.randrange(runs) * threads + number) * run
                piece = dice.randbytes(run)
                file.write(offset, piece)
                model[offset : offset + run] = piece
                assert file.read(offset, run) == piece

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with OpenFile(mounted) as file:
        assert file.read(0, SIZE) == model


def test_what_the_file_looks_like(mounted: ServedVolume) -> None:
    status = mounted.file.stat()
    assert (status.st_size, status.st_mode & 0o7777, status.st_uid) == (SIZE, 0o600, os.geteuid())
    assert os.listdir(mounted.mount_directory) == ["volume"]
    assert os.statvfs(mounted.mount_directory).f_blocks * UNIT_BYTES == SIZE
    mount = mount_at(mounted.mount_directory)
    assert mount is not None
    assert (mount.fs_type, mount.source) == (FS_TYPE, mounted.volume_id)
    with OpenFile(mounted) as file:
        assert file.read(SIZE - 10, 100) == bytes(10)
        assert file.read(SIZE, 100) == b""
        assert file.read(1 << 45, 100) == b""
        assert os.pwrite(file.descriptor, b"abc", SIZE - 2) == 2
        os.ftruncate(file.descriptor, SIZE)
    os.utime(mounted.file)


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (errno.EFBIG, lambda v: OpenFile(v).write(SIZE, b"x")),
        (errno.EPERM, lambda v: os.truncate(v.file, 0)),
        (errno.EPERM, lambda v: os.truncate(v.file, SIZE + 4096)),
        (errno.EPERM, lambda v: v.file.unlink()),
        (errno.EPERM, lambda v: v.file.rename(v.file.with_name("other"))),
        (errno.EPERM, lambda v: v.file.chmod(0o644)),
        (errno.EPERM, lambda v: os.chown(v.file, 1, 1)),
        (errno.EPERM, lambda v: v.file.with_name("other").touch()),
        (errno.EPERM, lambda v: v.file.with_name("other").mkdir()),
        (errno.EPERM, lambda v: v.file.with_name("other").symlink_to("x")),
        (errno.EPERM, lambda v: v.file.with_name("other").hardlink_to(v.file)),
        (errno.ENOENT, lambda v: v.file.with_name("other").read_bytes()),
    ],
)
def test_what_cannot_be_done_says_so(
    mounted: ServedVolume, number: int, action: Callable[[ServedVolume], object]
) -> None:
    with pytest.raises(OSError, match=f"Errno {number}"):
        action(mounted)
    assert mounted.file.stat().st_size == SIZE


def test_a_read_only_mount(volume: ServedVolume) -> None:
    volume.mount()
    with OpenFile(volume) as file:
        file.write(5, b"kept")
    volume.unmount()
    before = volume.data_path.stat().st_mtime_ns
    volume.mount(read_only=True)
    with OpenFile(volume, os.O_RDONLY) as file:
        assert file.read(5, 4) == b"kept"
        with pytest.raises(OSError, match="Bad file descriptor"):
            file.write(0, b"x")
        file.sync()
    for action in (
        lambda: os.open(volume.file, os.O_WRONLY),
        lambda: os.truncate(volume.file, 0),
        lambda: volume.file.unlink(),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            action()
    with volume.control() as client:
        assert client.status().read_only
    volume.unmount()
    assert volume.data_path.stat().st_mtime_ns == before


def test_a_write_that_asks_to_be_durable_is_a_sync(mounted: ServedVolume, tmp_path: Path) -> None:
    """The kernel leaves that to us. The control does not ask."""

    def count_syncs(flags: int, write_flags: int = 0) -> int:
        log = tmp_path / "calls"
        descriptor = os.open(mounted.file, os.O_WRONLY | flags)
        with strace(mounted.pid, "trace=fdatasync", log=log):
            for offset, size in ((0, UNIT_BYTES), (0, UNIT_BYTES), (700, 3), (0, 16 * UNIT_BYTES)):
                assert os.pwritev(descriptor, [b"x" * size], offset, write_flags) == size
        os.close(descriptor)
        return len(calls_in(log, "fdatasync"))

    assert count_syncs(0) == 0
    assert count_syncs(os.O_DSYNC) >= 4
    assert count_syncs(os.O_SYNC) >= 4
    if DATA_PLANE == "native":
        # pyfuse3 does not tell Python's.
        assert count_syncs(0, os.RWF_DSYNC) >= 4


def test_a_full_disk_is_an_error_of_the_write_and_not_the_end(
    ext4: DisposableFileSystem, tmp_path: Path
) -> None:
    directory = ext4.directory / "home"
    with served_volume(directory, size_bytes=SIZE) as volume:
        volume.mount()
        ext4.fill()
        with OpenFile(volume) as file:
            with pytest.raises(OSError, match="No space left"):
                file.write(0, bytes(range(256)) * 4096)
            assert file.read(SIZE - 4, 4) == bytes(4)
            (ext4.directory / "ballast").unlink()
            file.write(0, b"works again")
            file.sync()
        volume.unmount()


# ---------------------------------------------------------------- start


def test_errors_of_the_start_arrive_as_themselves_and_leave_nothing(volume: ServedVolume) -> None:
    (volume.mount_directory / "something").touch()
    with pytest.raises(MountError, match=r"^mount point .* is not empty$"):
        volume.mount()
    (volume.mount_directory / "something").unlink()
    os.truncate(volume.data_path, SIZE - 1)
    with pytest.raises(IntegrityError, match="the volume's record says"):
        volume.mount()
    os.truncate(volume.data_path, SIZE)
    volume.mount_directory.rmdir()
    with pytest.raises(MountError, match="does not exist") as caught:
        volume.mount()
    assert caught.value.hint == f"mkdir {volume.mount_directory}"
    volume.mount_directory.mkdir()
    volume.data_path.unlink()
    with pytest.raises(RecordMissingError, match=r"data file .* missing on disk"):
        volume.mount()
    assert_nothing_left(volume)


def test_a_volume_is_mounted_once(mounted: ServedVolume) -> None:
    with pytest.raises(VolumeInUseError, match=rf"in use by process {mounted.pid} \(mount\)"):
        mounted.mount()
    # The loser must not have taken the winner's files away, nor its log.
    assert mounted.log.exists()
    with mounted.control() as client:
        assert client.status().pid == mounted.pid


def test_a_process_that_dies_at_once_is_told(
    volume: ServedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(VolumeError, match="volume books ended before it was ready") as caught:
        volume.mount()
    assert caught.value.hint == f"see {volume.log}"
    volume.log.unlink()


def test_without_the_privilege_to_mount(tmp_path: Path) -> None:
    """In a mount namespace where only root may open /dev/fuse, whatever the host allows."""
    program = """if True:
        import os
        from volcrypt.volume.fuse import check_fuse
        os.seteuid(65534)
        try:
            check_fuse()
        except Exception as error:
            print(type(error).__name__, error, sep=": ")
    """
    device = tmp_path / "fuse"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    shell = 'mount --bind "$0" /dev/fuse && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", shell, device, sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "PrivilegeError: this user may not open /dev/fuse\n"


def test_missing_devices_are_named() -> None:
    """In a mount namespace with an empty /dev."""
    program = """if True:
        from pathlib import Path
        from volcrypt.volume import fuse, loop
        for check in (fuse.check_fuse, loop.check_loop_devices):
            try:
                check()
            except Exception as error:
                print(type(error).__name__, error, error.hint, sep=": ")
    """
    shell = 'mount -t tmpfs x /dev && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", shell, "sh", sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "ComponentMissingError: /dev/fuse is missing: apt-get install fuse3"
    assert second.startswith("MountError: this kernel offers no loop devices")


# ---------------------------------------------------------------- the process


def test_the_process_is_confined_and_small(mounted: ServedVolume) -> None:
    with OpenFile(mounted) as file:
        for _ in range(8):
            file.write(0, bytes(8 * 2**20))
            file.read(0, 8 * 2**20)
    process = Path(f"/proc/{mounted.pid}")
    status = dict(
        line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if line
    )
    assert int(status["VmHWM"].split()[0]) < 100 * 1024
    assert int(status["VmLck"].split()[0]) > 0
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[kind], 16) == 1 << 21 | 1 << 14 | 1 << 1
    assert int(status["CapInh"], 16) == 0
    assert re.search(r"Max core file size +0 +0 ", (process / "limits").read_text())
    assert os.getsid(mounted.pid) == mounted.pid
    secrets = {mounted.key, mounted.key.hex().encode()}
    for name in ("cmdline", "environ"):
        content = (process / name).read_bytes()
        assert not any(secret in content for secret in secrets)
    maps = (process / "maps").read_text()
    assert not any(module in maps for module in ("pkcs11", "sqlite", "softhsm"))
    with mounted.control() as client:
        answer = client.status()
        assert answer.memory_locked
        assert answer.encrypted


def test_sigterm_ends_cleanly_also_with_the_file_open(mounted: ServedVolume) -> None:
    commit_parent(mounted)
    with OpenFile(mounted) as file:
        file.write(3 * CHUNK_BYTES, b"not synced by us")
        assert mounted.signal(signal.SIGTERM) == 0
        with pytest.raises(OSError, match=r"Transport endpoint is not connected|aborted"):
            file.read(0, 1)
    assert_nothing_left(mounted)
    mounted.mount()
    with OpenFile(mounted) as file:
        assert file.read(3 * CHUNK_BYTES, 16) == b"not synced by us"
    with mounted.control() as client:
        assert changed_chunks(client) == [3]


def test_unmount_of_a_busy_mount_names_the_user_and_keeps_serving(mounted: ServedVolume) -> None:
    with OpenFile(mounted) as file, mounted.control() as client:
        with pytest.raises(
            VolumeInUseError, match=r"^volume books is in use by this command itself$"
        ):
            client.unmount()
        file.write(0, b"still here")
        assert file.read(0, 10) == b"still here"
    mounted.unmount()
    assert_nothing_left(mounted)


def test_stop_ends_a_busy_mount(mounted: ServedVolume) -> None:
    with OpenFile(mounted), mounted.control() as client:
        client.stop()
    assert mounted.reap() == 0
    assert_nothing_left(mounted)


def test_unmounting_by_hand_ends_the_process_cleanly(mounted: ServedVolume) -> None:
    commit_parent(mounted)
    with OpenFile(mounted) as file:
        file.write(0, b"x")
    subprocess.run(["umount", str(mounted.mount_directory)], check=True)
    assert mounted.reap() == 0
    assert_nothing_left(mounted)
    assert (mounted.directory / "change-map").exists()


def test_a_snapshot_keeps_the_volume_mounted(mounted: ServedVolume) -> None:
    with mounted.control() as snapshot, mounted.control() as client:
        snapshot.begin_capture()
        with pytest.raises(TryAgainError, match="a snapshot of the volume is being taken"):
            client.unmount()
        snapshot.abort_capture()
        client.unmount()
    assert mounted.reap() == 0


def test_a_kill_loses_no_acknowledged_write_and_the_next_mount_needs_no_help(
    mounted: ServedVolume,
) -> None:
    """A writer numbers its writes; the kill comes in the middle of one."""
    commit_parent(mounted)
    acknowledged: list[int] = []
    dice = random.Random(3)
    offsets = [dice.randrange(8 * CHUNK_BYTES) // 4096 * 4096 for _ in range(100_000)]

    def writer() -> None:
        with OpenFile(mounted) as file:
            for number, offset in enumerate(offsets, start=1):
                try:
                    file.write(offset, struct.pack("<Q", number) * 512)
                except OSError:
                    return
                acknowledged.append(number)

    thread = threading.Thread(target=writer)
    thread.start()
    while len(acknowledged) < 500:
        thread.join(0.01)
    mounted.signal(signal.SIGKILL)
    thread.join()
    count = len(acknowledged)
    latest = {offset: number for number, offset in enumerate(offsets[:count], start=1)}

    mounted.mount()
    with OpenFile(mounted) as file:
        for offset, number in latest.items():
            expected = {struct.pack("<Q", number) * 512}
            if offset == offsets[count]:  # the one in flight is there or not
                expected.add(struct.pack("<Q", count + 1) * 512)
            assert file.read(offset, 4096) in expected
    with mounted.control() as client:
        changed = set(changed_chunks(client))
    assert {offset // CHUNK_BYTES for offset in latest} <= changed
    assert changed <= set(range(8))


def test_a_kill_during_a_capture_aborts_it(mounted: ServedVolume) -> None:
    commit_parent(mounted)
    with OpenFile(mounted) as file:
        file.write(2 * CHUNK_BYTES, b"x")
    with mounted.control() as client:
        client.begin_capture()
        mounted.signal(signal.SIGKILL)
        with pytest.raises(MountError):
            client.captured(range(1))
    mounted.mount()
    with mounted.control() as client:
        assert changed_chunks(client) == [2]


# ---------------------------------------------------------------- in the foreground

FOREGROUND = """if True:
    import json, sys
    import msgspec
    from volcrypt.crypto.data_key import DataKey
    from pathlib import Path
    from volcrypt.volume.launch import Assignment, exec_daemon
    from volcrypt.volume.owner import hold_volume
    given = json.load(sys.stdin)
    assignment = msgspec.convert(given["assignment"], Assignment)
    key = DataKey(bytearray.fromhex(given["key"]))
    owner = hold_volume(Path(assignment.volume_directory), purpose="mount")
    exec_daemon(assignment, key, bytearray.fromhex(given["seal_key"]), owner)
"""


def start_foreground(volume: ServedVolume, notify: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NOTIFY_SOCKET": str(notify)},
    )
    assert process.stdin is not None
    given = {
        "assignment": msgspec.to_builtins(volume.assignment()),
        "key": volume.key.hex(),
        "seal_key": volume.seal_key.hex(),
    }
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    return process


def test_in_the_foreground_as_a_notify_service(volume: ServedVolume) -> None:
    address = volume.runtime / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        with start_foreground(volume, address) as process:
            assert manager.recv(1000) == f"READY=1\nMAINPID={process.pid}".encode()
            with OpenFile(volume) as file:
                file.write(0, b"x")
            process.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"
            assert process.stderr is not None
            assert (process.wait(20), process.stderr.read()) == (0, "")
    address.unlink()
    assert_nothing_left(volume)


def test_errors_in_the_foreground(volume: ServedVolume) -> None:
    volume.mount_directory.rmdir()
    with start_foreground(volume, volume.runtime / "nobody") as process:
        assert process.stderr is not None
        assert process.stderr.read() == (
            f"error: mount point {volume.mount_directory} does not exist\n"
            f"hint: mkdir {volume.mount_directory}\n"
        )
        assert process.wait(20) == 1
    volume.mount_directory.mkdir()
