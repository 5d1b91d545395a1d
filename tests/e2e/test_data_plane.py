"""Mounts on the compiled data plane: what could hang or kill them, and all that can happen at once.

What a mount promises is tested in the other files of this directory, on either plane
(`tests/planes.py`); here it is about the plane itself.
"""

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.e2e.test_captures import PARENT
from tests.e2e.test_exerciser import LONG_BYTES
from tests.e2e.test_overlap import SIZE as BED_BYTES
from tests.e2e.test_overlap import exercise
from tests.fsx import Exerciser, Options
from tests.served_volume import OpenFile, ServedVolume, served_volume
from volcrypt.errors import MountError
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.allocation import extend
from volcrypt.volume.mounting import mount_connection

SIZE = 16 * CHUNK_BYTES
MEBIBYTE = 2**20


@pytest.fixture(params=[True, False], ids=["encrypted", "unencrypted"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(
        tmp_path, size_bytes=SIZE, encrypted=request.param, data_plane="native"
    ) as made:
        made.mount()
        yield made


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=SIZE, data_plane="native") as made:
        made.mount()
        yield made


def aligned(data: bytes | int) -> memoryview:
    """Memory that begins with a page, as direct I/O has it."""
    view = memoryview(mmap.mmap(-1, len(data) if isinstance(data, bytes) else data))
    if isinstance(data, bytes):
        view[:] = data
    return view


def fast_requests(volume: ServedVolume) -> int:
    with volume.control() as client:
        return client.status().fast_requests


def test_what_is_written_is_read_and_lies_where_it_belongs(volume: ServedVolume) -> None:
    data = os.urandom(MEBIBYTE)
    with OpenFile(volume) as file:
        for _ in range(3):
            assert os.pwritev(file.descriptor, [aligned(data)], CHUNK_BYTES) == MEBIBYTE
            into = aligned(MEBIBYTE)
            assert os.preadv(file.descriptor, [into], CHUNK_BYTES) == MEBIBYTE
            assert into == data
        file.write(CHUNK_BYTES + 700, b"part")
        file.sync()
        assert fast_requests(volume) >= 4
    expected = data[:700] + b"part" + data[704:]
    volume.unmount()
    volume.data_plane = "python"
    volume.mount()
    with OpenFile(volume) as file:
        assert file.read(CHUNK_BYTES, MEBIBYTE) == expected
    volume.unmount()


def test_data_on_a_file_system_where_reads_cannot_be_tried() -> None:
    """tmpfs refuses RWF_NOWAIT, as all did before Linux 4.14: then reads are Python's."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        served_volume(Path(directory), size_bytes=SIZE, data_plane="native") as volume,
    ):
        volume.mount()
        data = os.urandom(UNIT_BYTES)
        with OpenFile(volume) as file:
            for _ in range(3):
                assert os.pwritev(file.descriptor, [aligned(data)], 0) == UNIT_BYTES
                assert file.read(0, UNIT_BYTES) == data
        assert fast_requests(volume) > 0
        volume.unmount()


def test_the_exerciser(tmp_path: Path) -> None:
    with served_volume(tmp_path, size_bytes=3 * MEBIBYTE, data_plane="native") as volume:
        volume.mount()
        for alignment, seed in ((UNIT_BYTES, 1), (1, 2)):
            options = Options(
                seed=seed,
                operations=600,
                size_bytes=3 * MEBIBYTE,
                longest_bytes=LONG_BYTES,
                fixed_size=True,
                alignment=alignment,
                map_write=False,
            )
            exerciser = Exerciser(volume.file, options, directory=tmp_path)
            exerciser.run()
        assert fast_requests(volume) > 100
        volume.unmount()
        volume.data_plane = "python"
        volume.mount(read_only=True)
        assert volume.file.read_bytes() == exerciser.expected
        volume.unmount()


@pytest.mark.parametrize(
    "turns", [150, pytest.param(3000, marks=pytest.mark.soak)], ids=["quick", "long"]
)
def test_no_sector_is_a_mixture(tmp_path: Path, turns: int) -> None:
    with served_volume(tmp_path, size_bytes=BED_BYTES, data_plane="native") as volume:
        volume.mount()
        exercise(volume.file, 0, seed=1, turns=turns)
        assert fast_requests(volume) > 0
        volume.unmount()


# ---------------------------------------------------------------- how the prototype was broken


def test_many_large_requests_at_once(volume: ServedVolume) -> None:
    """48 callers of 1 MiB, of whom one half begins inside a data unit, so that Python serves it."""
    contents = [os.urandom(MEBIBYTE) for _ in range(2)]
    with OpenFile(volume) as file:
        file.write(0, contents[0])
        file.write(7 * MEBIBYTE, contents[1])

        def read(number: int) -> bool:
            shift = 512 * (number % 2)
            into = aligned(MEBIBYTE)
            count = os.preadv(file.descriptor, [into[: MEBIBYTE - shift]], shift)
            return into[:count] == contents[0][shift:]

        def write(number: int) -> bool:
            shift = 512 * (number % 2)
            view = aligned(contents[1])[: MEBIBYTE - shift]
            offset = (1 + number % 6) * MEBIBYTE + shift
            return os.pwritev(file.descriptor, [view], offset) == MEBIBYTE - shift

        with ThreadPoolExecutor(48) as pool:
            done = [pool.submit(work, number) for number in range(48) for work in (read, write)]
            assert all(future.result(timeout=60) for future in done)
    volume.unmount()


@pytest.mark.parametrize("shift", [0, 32, SECTOR_BYTES, UNIT_BYTES - 1])
def test_buffers_that_begin_inside_a_page(mounted: ServedVolume, shift: int) -> None:
    """The kernel cuts 1 MiB of them in two, inside a data unit: no request has more than 256 pages
    (fs.fuse.max_pages_limit). What fits into these is one request, and fast."""
    data = os.urandom(MEBIBYTE)
    memory = memoryview(mmap.mmap(-1, MEBIBYTE + UNIT_BYTES))
    view, part = memory[shift : shift + MEBIBYTE], memory[shift : shift + MEBIBYTE // 2]
    with OpenFile(mounted) as file:
        file.write(0, bytes(2 * MEBIBYTE))
        view[:] = data
        assert os.pwritev(file.descriptor, [view], UNIT_BYTES) == MEBIBYTE
        memory[:] = bytes(len(memory))
        assert os.preadv(file.descriptor, [view], UNIT_BYTES) == MEBIBYTE
        assert view == data
        before = fast_requests(mounted)
        for _ in range(4):
            assert os.preadv(file.descriptor, [part], UNIT_BYTES) == MEBIBYTE // 2
            assert os.pwritev(file.descriptor, [part], UNIT_BYTES) == MEBIBYTE // 2
        assert fast_requests(mounted) >= before + 8
        assert part == data[: MEBIBYTE // 2]
        assert file.read(0, UNIT_BYTES) == bytes(UNIT_BYTES)
        assert file.read(MEBIBYTE + UNIT_BYTES, UNIT_BYTES) == bytes(UNIT_BYTES)
    mounted.unmount()


@pytest.mark.parametrize("offset", [1 << 45, SIZE, SIZE - UNIT_BYTES, 1 << 62])
def test_reads_and_writes_behind_the_end(mounted: ServedVolume, offset: int) -> None:
    with OpenFile(mounted) as file:
        file.write(SIZE - UNIT_BYTES, bytes(UNIT_BYTES))
        inside = max(0, min(2 * UNIT_BYTES, SIZE - offset))
        assert len(file.read(offset, 2 * UNIT_BYTES)) == inside
        if inside == 0:
            with pytest.raises(OSError, match="too large"):
                file.write(offset, bytes(UNIT_BYTES))
        else:
            assert os.pwrite(file.descriptor, bytes(2 * UNIT_BYTES), offset) == inside
    assert mounted.file.stat().st_size == mounted.data_path.stat().st_size == SIZE
    mounted.unmount()


def hammer(
    file: Path, *, seconds: float = 0.0, until: threading.Event | None = None, callers: int = 4
) -> list[int | None]:
    """Callers that read and write units; the errno that ended each of them."""
    ends: list[int | None] = []
    deadline = time.monotonic() + seconds

    def call(seed: int) -> None:
        dice = random.Random(seed)
        data = aligned(bytes([seed]) * UNIT_BYTES)
        into = aligned(UNIT_BYTES)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            ends.append(error.errno)
            return
        try:
            while time.monotonic() < deadline or (until is not None and not until.is_set()):
                offset = dice.randrange(SIZE // UNIT_BYTES) * UNIT_BYTES
                os.pwritev(descriptor, [data], offset)
                os.preadv(descriptor, [into], offset)
            ends.append(None)
        except OSError as error:
            ends.append(error.errno)
        finally:
            with suppress(OSError):
                os.close(descriptor)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller hangs"
    return ends


def abort_connection(volume: ServedVolume) -> None:
    # Fails as the mount is in use, but not before it has aborted the connection.
    subprocess.run(["umount", "--force", volume.mount_directory], check=False, capture_output=True)


def abort_by_control_file(volume: ServedVolume) -> None:
    """As an administrator does: /sys/fs/fuse/connections/N/abort."""
    number = os.minor(os.stat(volume.mount_directory).st_dev)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "fusectl", "fusectl", directory], check=True)
        try:
            (Path(directory) / str(number) / "abort").write_text("1")
        finally:
            subprocess.run(["umount", directory], check=True)


def kill(volume: ServedVolume) -> None:
    os.kill(volume.pid, signal.SIGKILL)


def terminate(volume: ServedVolume) -> None:
    os.kill(volume.pid, signal.SIGTERM)


def unmount_lazily(volume: ServedVolume) -> None:
    subprocess.run(["umount", "--lazy", volume.mount_directory], check=True)
    os.kill(volume.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "end", [kill, terminate, unmount_lazily, abort_connection, abort_by_control_file]
)
def test_under_load_it_ends_with_errors_and_nobody_hangs(
    mounted: ServedVolume, end: Callable[[ServedVolume], None]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(hammer, mounted.file, until=threading.Event())
        time.sleep(0.2)
        end(mounted)
        assert {*ends.result(60)} <= {
            errno.ENOTCONN,
            errno.ECONNABORTED,
            errno.ESHUTDOWN,
            errno.ENOENT,
            errno.EIO,
        }
    code = mounted.reap()
    assert code == (-signal.SIGKILL if end is kill else 0)
    if mounted.log.exists():
        assert "Traceback" not in mounted.log.read_text()


def test_a_caller_that_is_killed_while_it_waits(mounted: ServedVolume) -> None:
    """His request is waiting for a capture that holds writers; the next ones are answered."""
    program = f"open({str(mounted.file)!r}, 'r+b', buffering=0).write(b'x' * 4096)"
    with mounted.control() as client:
        client.hold_capture()
        caller = subprocess.Popen([sys.executable, "-c", program])
        time.sleep(0.3)
        caller.kill()
        with OpenFile(mounted, os.O_RDONLY) as file:
            file.read(0, UNIT_BYTES)
        client.resume_capture()
        caller.wait(timeout=20)
        client.abort_capture()
    with OpenFile(mounted) as file:
        file.write(0, bytes(UNIT_BYTES))
    mounted.unmount()
    assert not mounted.log.exists()


def test_the_size_is_known_when_growing_returns(mounted: ServedVolume) -> None:
    with OpenFile(mounted) as file:
        for step in range(1, 4):
            size = SIZE + step * CHUNK_BYTES
            assert os.fstat(file.descriptor).st_size == size - CHUNK_BYTES
            extend(mounted.data_path, size - CHUNK_BYTES, size)
            with mounted.control() as client:
                client.grow(size)
            assert os.fstat(file.descriptor).st_size == size
            file.write(size - UNIT_BYTES, b"e" * UNIT_BYTES)
            assert file.read(size - UNIT_BYTES, 2 * UNIT_BYTES) == b"e" * UNIT_BYTES
    mounted.size_bytes = SIZE + 3 * CHUNK_BYTES
    mounted.unmount()


# ---------------------------------------------------------------- all at once


@pytest.mark.parametrize(
    "seconds", [2, pytest.param(120, marks=pytest.mark.soak)], ids=["quick", "long"]
)
@pytest.mark.parametrize("is_killed", [False, True], ids=["unmounted", "killed"])
def test_writers_captures_growth_and_parts_of_units_at_once(
    volume: ServedVolume, seconds: int, is_killed: bool
) -> None:
    """Each writer has units of its own in every chunk, whole or in parts, and finds what it wrote
    last, while captures begin and end, the volume grows, and signals interrupt the writers. At the
    end, also of a process that is killed under load, the other plane finds what was written, or
    was just being written."""
    mounted = volume
    writers, chunks = 6, SIZE // CHUNK_BYTES
    done = threading.Event()
    last: dict[int, bytes] = {}
    doubtful: dict[int, bytes] = {}
    idents: list[int] = []

    def write(number: int) -> None:
        idents.append(threading.get_ident())
        try:
            write_until_the_end(number)
        except OSError:
            assert is_killed
            assert done.is_set()

    def write_until_the_end(number: int) -> None:
        dice = random.Random(number)
        into, data = aligned(UNIT_BYTES), aligned(UNIT_BYTES)
        with OpenFile(mounted) as file:
            while is_killed or not done.is_set():
                chunk = dice.randrange(chunks)
                offset = chunk * CHUNK_BYTES + number * UNIT_BYTES
                expected = bytearray(last.get(offset, bytes(UNIT_BYTES)))
                os.preadv(file.descriptor, [into], offset)
                assert into == expected
                if dice.random() < 0.1:
                    expected[100:612] = dice.randbytes(512)
                    doubtful[offset] = bytes(expected)
                    file.write(offset + 100, bytes(expected[100:612]))
                else:
                    expected[:] = dice.randbytes(8) * (UNIT_BYTES // 8)
                    doubtful[offset] = bytes(expected)
                    data[:] = expected
                    os.pwritev(file.descriptor, [data], offset)
                last[offset] = doubtful.pop(offset)
                if dice.random() < 0.01:
                    file.sync()

    def interrupt() -> None:
        while not done.wait(0.01):
            for ident in idents:
                signal.pthread_kill(ident, signal.SIGUSR1)

    def capture() -> int:
        turns, dice = 0, random.Random(99)
        while not done.is_set():
            with mounted.control() as client:
                client.begin_capture()
                for chunk in range(chunks):
                    client.captured(range(chunk, chunk + 1))
                    time.sleep(dice.random() / 1000)
                if dice.random() < 0.5:
                    client.commit_capture(PARENT)
                else:
                    client.abort_capture()
            turns += 1
        return turns

    def grow() -> None:
        size = SIZE
        while not done.wait(0.3) and size < 2 * SIZE:
            extend(mounted.data_path, size, size + CHUNK_BYTES)
            size += CHUNK_BYTES
            with mounted.control() as client:
                client.grow(size)
            mounted.size_bytes = size

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with ThreadPoolExecutor(writers + 3) as pool:
            futures = [pool.submit(write, number) for number in range(writers)]
            others = [pool.submit(work) for work in (grow, interrupt)]
            capturing = pool.submit(capture)
            time.sleep(seconds)
            assert fast_requests(mounted) > 100
            done.set()
            for future in others:
                future.result(60)
            assert capturing.result(60) > 2
            if is_killed:
                assert mounted.signal(signal.SIGKILL) == -signal.SIGKILL
            for future in futures:
                future.result(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    if not is_killed:
        assert not doubtful
        mounted.unmount()
    mounted.data_plane = "python"
    mounted.mount(read_only=True)
    with OpenFile(mounted, os.O_RDONLY) as file:
        for offset, content in last.items():
            found = file.read(offset, UNIT_BYTES)
            if offset not in doubtful:
                assert found == content
                continue
            for sector in range(0, UNIT_BYTES, SECTOR_BYTES):
                part = slice(sector, sector + SECTOR_BYTES)
                assert found[part] in {content[part], doubtful[offset][part]}
    mounted.unmount()


def test_a_read_only_mount(volume: ServedVolume) -> None:
    """Its reads are fast; nothing is written, and nobody can open it to write."""
    with OpenFile(volume) as file:
        file.write(0, b"w" * MEBIBYTE)
    volume.unmount()
    volume.mount(read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        OpenFile(volume)
    stored = volume.data_path.read_bytes()

    def read(number: int) -> bool:
        with OpenFile(volume, os.O_RDONLY) as file:
            return all(
                file.read(index * UNIT_BYTES, UNIT_BYTES) == b"w" * UNIT_BYTES
                for index in range(number, 256)
            )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert fast_requests(volume) > 1000
    volume.unmount()
    assert volume.data_path.read_bytes() == stored


def test_without_root() -> None:
    """`fusermount3` mounts, and hands the connection over."""
    program = """if True:
        import os, sys, tempfile
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from tests.served_volume import OpenFile, served_volume
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            with served_volume(Path(directory), data_plane="native") as volume:
                volume.mount()
                with OpenFile(volume) as file:
                    for _ in range(3):
                        file.write(4096, b"x" * 8192)
                        assert file.read(4096, 8192) == b"x" * 8192
                with volume.control() as client:
                    assert client.status().fast_requests > 0
                volume.unmount()
                print(os.geteuid())
    """
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [sys.executable, "-B", "-c", program, str(Path(__file__).parents[2])]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, "65534\n"), done.stderr


def test_a_mount_point_that_is_refused_is_named(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"cannot mount at .*: No such file"):
        mount_connection(tmp_path / "missing", source="vol", read_only=False)


def test_by_the_command_line(tmp_path: Path) -> None:
    """The default is native; `status` says which it is, and how much it answered."""
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        name = f"plane-{os.getpid()}"
        command.run("volume", "create", "--size", "8MiB", "--name", name, "--unencrypted")
        point = tmp_path / "mnt"
        point.mkdir()
        command.run("mount", name, point, "--data-plane", "python")
        assert in_use(command) == ("python", 0)
        command.run("unmount", name)
        attach = ["attach", name, "--mkfs", "ext4", "--mount", str(point)]
        subprocess.run([VOLCRYPT, "--home", command.home, *attach], check=True)
        try:
            with (point / "file").open("wb", buffering=0) as file:
                file.write(b"x" * MEBIBYTE)
                os.fsync(file.fileno())
            plane, fast = in_use(command)
            assert plane == "native"
            assert fast > 0
        finally:
            command.run("detach", name)
        assert (
            "invalid value"
            in command.fails(2, "mount", name, point, "--data-plane", "fast").lower()
        )


def in_use(command: Command) -> tuple[str, int]:
    (found,) = command.json("status")["InUse"]
    return found["DataPlane"], found["FastRequests"]
