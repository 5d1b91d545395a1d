"""A mount outlives the process that serves it: after a kill or an upgrade the next one goes on."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests import disk_load
from tests.file_system import disposable_file_system, run
from tests.file_user import FileUser
from tests.served_volume import ServedVolume, served_volume
from tests.service_manager import ServiceManager, service_manager
from tests.strace import injection, strace
from volcrypt.daemons.mount_keeper import MountKeeper
from volcrypt.daemons.notify import DescriptorStore
from volcrypt.daemons.volume import LEFT
from volcrypt.errors import LostMountError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.kept_mount import KEPT, LEAVE_SIGNAL, NAMES, HandedMount, KeptMount
from volcrypt.volume.launch import Discarding
from volcrypt.volume.loop import attach_loop, detach_loop, loops_of
from volcrypt.volume.owner import hold_volume

pytestmark = pytest.mark.kept_mount

MIB: Final = 2**20
PATIENCE_SECONDS: Final = 30
HANGING_SECONDS: Final = 240


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """With a process beside it that ends mounts that nobody serves any more, when a test hangs: one
    that waits in the kernel cannot be killed."""
    waits = f"sleep {HANGING_SECONDS}; umount --force {tmp_path}/*/mnt {tmp_path}/*/*/volume/mnt"
    guard = subprocess.Popen(["sh", "-c", waits], start_new_session=True)
    try:
        with service_manager(tmp_path) as made:
            yield made
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()


@pytest.fixture
def volume(tmp_path: Path, manager: ServiceManager) -> Iterator[ServedVolume]:
    with served_volume(tmp_path / "volume", data_plane="native", manager=manager) as made:
        made.mount()
        yield made


_KEPT: Final = KeptMount(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    mount_directory="/nowhere",
    device="0:0",
    read_only=False,
    discard=False,
    discard_zeros=False,
    init_request=bytes(64),
    init_reply=bytes(64),
)


class Later:
    """Something that may wait in the kernel, in a process of its own."""

    def __init__(self, volume: ServedVolume) -> None:
        self._user = FileUser(volume.file)
        self._calls: tuple[str, ...] = ()
        self.data = os.urandom(2 * UNIT_BYTES)
        self.found = b""

    def start(self, *calls: str) -> None:
        self._calls = calls
        for call in calls:
            self._user.begin(call, UNIT_BYTES, length=len(self.data), data=self.data)

    def end(self) -> None:
        """Raises OSError."""
        try:
            for call in self._calls:
                found = self._user.end()
                if call == "read":
                    self.found = found
        finally:
            self._user.close()

    @property
    def waits(self) -> bool:
        return self._user.answers() < len(self._calls)


@contextmanager
def file_system_on(volume: ServedVolume, point: Path) -> Iterator[Path]:
    """An ext4 on a loop device on a volume that is served, mounted at `point`; its device."""
    point.mkdir()
    loop = attach_loop(volume.file, sector_size=4096, read_only=False)
    run("mkfs.ext4", "-q", loop)
    run("mount", loop, point)
    try:
        yield loop
    finally:
        subprocess.run(["umount", point], check=False, capture_output=True)


class Load:
    """Processes that write and check, until they are told to stop."""

    def __init__(self, point: Path, stop: Path, *, count: int) -> None:
        self._point = point
        self._stop = stop
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.disk_load", str(point), str(seed), str(stop)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(count)
        ]

    def go_on(self) -> None:
        assert [process.poll() for process in self._processes] == [None] * len(self._processes)

    def stop(self) -> dict[str, str]:
        """The digest that each file must have."""
        self._stop.touch()
        ends = [process.communicate(timeout=PATIENCE_SECONDS) for process in self._processes]
        said = [output.strip() for output, _ in ends]
        assert [process.returncode for process in self._processes] == [0] * len(said), said
        return {f"load-{seed}": digest for seed, digest in enumerate(said)}

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def kill_under_load(volume: ServedVolume, tmp_path: Path, *, kills: int, seed: int) -> None:
    """Kill or upgrade under ext4 and load, and look at everything at the end."""
    chance = random.Random(seed)
    point = tmp_path / "point"
    with file_system_on(volume, point) as loop:
        load = Load(point, tmp_path / "stop", count=3)
        try:
            for turn in range(kills):
                time.sleep(chance.uniform(0, 0.4))
                if turn % 3 == 2:
                    assert volume.signal(LEAVE_SIGNAL) == LEFT
                else:
                    assert volume.signal(signal.SIGKILL) == -signal.SIGKILL
                volume.take_over()
                load.go_on()
            wanted = load.stop()
        finally:
            load.kill()
        assert loops_of(volume.file) == [loop]
        run("umount", point)
        run("e2fsck", "-fn", loop)
        detach_loop(loop, volume="books")
    volume.unmount()
    assert volume.manager is not None
    assert volume.manager.names == []
    volume.mount()
    loop = attach_loop(volume.file, sector_size=4096, read_only=False)
    run("mount", loop, point)
    for name, digest in wanted.items():
        content = (point / name).read_bytes()
        assert len(content) == disk_load.SIZE
        assert hashlib.sha256(content).hexdigest() == digest
    run("umount", point)
    detach_loop(loop, volume="books")
    volume.unmount()


def test_a_file_system_in_use_survives_kills_and_upgrades(
    tmp_path: Path, manager: ServiceManager
) -> None:
    with served_volume(
        tmp_path / "volume",
        size_bytes=64 * MIB,
        data_plane="native",
        manager=manager,
        discards=Discarding(requests=True),
    ) as volume:
        volume.mount()
        kill_under_load(volume, tmp_path, kills=6, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_file_system_in_use_survives_many_kills_and_upgrades(
    tmp_path: Path, manager: ServiceManager, seed: int
) -> None:
    with served_volume(
        tmp_path / "volume",
        size_bytes=64 * MIB,
        data_plane="native",
        encrypted=seed % 3 != 0,
        manager=manager,
        discards=Discarding(requests=bool(seed % 2), zeros=seed % 4 == 1),
    ) as volume:
        volume.mount()
        kill_under_load(volume, tmp_path, kills=60, seed=seed)


@pytest.mark.parametrize(
    ("calls", "killing"),
    [
        (("write", "sync"), "pwrite64"),  # before the bytes are written
        (("write", "sync"), "writev"),  # when they are, and nobody was told
        (("write", "sync"), "fdatasync"),
        (("read",), "preadv2,preadv,pread64"),
        (("read",), "writev"),
    ],
)
def test_a_request_that_was_not_answered_is_done_by_the_next_process(
    volume: ServedVolume, calls: tuple[str, ...], killing: str
) -> None:
    with FileUser(volume.file) as file:
        file.write(UNIT_BYTES, b"old" + bytes(2 * UNIT_BYTES - 3))
        file.sync()
    later = Later(volume)
    with strace(volume.pid, *injection(killing, "signal=KILL")):
        later.start(*calls)
        assert volume.reap() == -signal.SIGKILL
    assert later.waits
    volume.take_over()
    later.end()
    with FileUser(volume.file) as file:
        wanted = later.data if "write" in calls else b"old" + bytes(2 * UNIT_BYTES - 3)
        assert file.read(UNIT_BYTES, 2 * UNIT_BYTES) == wanted
        assert "write" in calls or later.found == wanted
    volume.unmount()


def test_the_end_of_the_service_is_the_end_of_the_mount(volume: ServedVolume) -> None:
    assert volume.manager is not None
    assert volume.manager.names == sorted(KEPT)
    with volume.control() as control:
        assert control.status().kept
    assert volume.signal(signal.SIGTERM) == 0
    assert volume.manager.names == []
    volume.mount()
    volume.unmount()


def test_who_gives_up_ends_what_waits(volume: ServedVolume) -> None:
    """As when a service fails again and again."""
    assert volume.manager is not None
    with FileUser(volume.file) as file:
        later = Later(volume)
        volume.signal(signal.SIGKILL)
        later.start("read")
        assert later.waits
        volume.manager.give_up()
        with pytest.raises(OSError, match=r"abort|not connected") as raised:
            later.end()
        assert raised.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)
        with pytest.raises(OSError, match="not connected"):
            file.read(0, 1)


def test_a_process_that_fails_to_take_over_leaves_all_to_the_next(volume: ServedVolume) -> None:
    assert volume.manager is not None
    later = Later(volume)
    volume.signal(signal.SIGKILL)
    later.start("write", "sync", "read")
    data = volume.data_path.rename(volume.data_path.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(Exception, match="data"):
            volume.take_over()
    data.rename(volume.data_path)
    assert volume.manager.names == sorted(NAMES)
    assert later.waits
    volume.take_over()
    later.end()
    assert later.found == later.data
    volume.unmount()


def test_two_upgrades_in_a_row(volume: ServedVolume) -> None:
    with FileUser(volume.file) as file:
        for turn in range(2):
            file.write(turn * UNIT_BYTES, bytes([turn + 1]) * UNIT_BYTES)
            assert volume.signal(LEAVE_SIGNAL) == LEFT
            volume.take_over()
        assert volume.manager is not None
        volume.manager.wait_until_kept(KEPT)  # it asks whether it still is
        assert file.read(0, 2 * UNIT_BYTES) == b"\1" * UNIT_BYTES + b"\2" * UNIT_BYTES
    volume.unmount()


def test_a_process_that_is_killed_as_it_takes_over(volume: ServedVolume) -> None:
    """At any moment: what waits is answered by the one that lives."""
    assert volume.manager is not None
    with FileUser(volume.file) as file:
        file.begin("read", length=UNIT_BYTES)
        file.end()
    later = Later(volume)
    volume.signal(signal.SIGKILL)
    later.start("write", "sync", "read")
    for seconds in (0.0, 0.05, 0.2, 0.4, 0.6):
        take_over_and_kill(volume, seconds)
        assert set(NAMES) <= set(volume.manager.names)
    volume.take_over()
    later.end()
    assert later.found == later.data
    volume.unmount()


def take_over_and_kill(volume: ServedVolume, seconds: float) -> None:
    """Kill the process that takes over, so long after it has begun."""
    with ThreadPoolExecutor() as beside:
        taking = beside.submit(volume.take_over)
        wait_for(lambda: children() or taking.done(), "it has begun")
        time.sleep(seconds)
        for new in children():
            os.kill(new, signal.SIGKILL)
        if taking.exception() is None:
            volume.reap()


def children() -> set[int]:
    """Those of this process that serve volumes, or are about to."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return {pid for pid in found if is_server(pid)}


def is_server(pid: int) -> bool:
    try:
        return b"volcrypt.daemons.volume" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_was_lost_before_is_not_gone_on_with(tmp_path: Path, manager: ServiceManager) -> None:
    """An error of writing back that only the process was told that ended."""
    (tmp_path / "below").mkdir()
    store = DescriptorStore(str(manager.address))
    with (
        disposable_file_system(tmp_path / "below") as below,
        served_volume(tmp_path / "volume", manager=manager) as volume,
        hold_volume(volume.directory, purpose="mount") as owner,
        (below.directory / "data").open("wb") as file,
    ):
        witness = os.open(file.name, os.O_RDONLY)
        file.write(b"unsafe")
        file.flush()
        below.shut_down()
        with pytest.raises(OSError, match="rror"):
            os.fsync(file.fileno())
        facts = os.memfd_create("facts")
        store.keep(dict.fromkeys(NAMES, facts))
        handed = HandedMount(fuse=-1, owner=-1, data=witness, facts=facts, mount=_KEPT, fence=None)
        with pytest.raises(LostMountError, match="is lost"):
            MountKeeper.of(volume.assignment(), owner, handed)
        os.close(witness)


def test_a_snapshot_under_way_ends_and_its_changes_stay_known(volume: ServedVolume) -> None:
    with FileUser(volume.file) as file:
        file.write(0, b"before")
        with volume.control() as control:
            control.begin_capture()
            file.write(CHUNK_BYTES, b"during")
            volume.signal(signal.SIGKILL)
        volume.take_over()
        with volume.control() as control:
            assert not control.status().capture_running
        file.write(2 * CHUNK_BYTES, b"after")
        assert file.read(CHUNK_BYTES, 6) == b"during"
    volume.unmount()


def test_a_read_only_mount_stays_one(tmp_path: Path, manager: ServiceManager) -> None:
    with served_volume(tmp_path / "volume", data_plane="native", manager=manager) as volume:
        volume.mount(read_only=True)
        volume.signal(signal.SIGKILL)
        volume.take_over()
        with pytest.raises(OSError, match="Read-only"):
            os.open(volume.file, os.O_RDWR)
        volume.unmount()


@pytest.mark.parametrize("room", [0, 2, len(KEPT) - 1])
def test_a_manager_without_room_is_none(tmp_path: Path, room: int) -> None:
    """It does not say so, and neither mount nor status believe in it."""
    with (
        service_manager(tmp_path, max_descriptors=room) as manager,
        served_volume(tmp_path / "volume", data_plane="native", manager=manager) as volume,
    ):
        volume.mount()
        wait_for(lambda: "FileDescriptorStoreMax" in volume.log.read_text(), "it is noticed")
        wait_for(lambda: manager.names == [], "nothing is left there")
        with volume.control() as control:
            assert not control.status().kept
        volume.unmount()


def test_what_the_manager_drops_is_not_kept(volume: ServedVolume) -> None:
    """As 'systemctl clean --what=fdstore' has it do."""
    assert volume.manager is not None
    with volume.control() as control:
        assert control.status().kept, "the control"
        volume.manager.give_up()
        assert not control.status().kept
    volume.unmount()


def wait_for(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
