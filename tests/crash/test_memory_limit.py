"""Too little memory: the kernel's limit on who serves a volume, and on commands.

Either there is enough, or the kernel kills the process, and then all is as after any other kill:
nobody waits for ever, what was acknowledged is there, and the same command does what it did not.
"""

import random
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

from tests.command import Command, disposable_home
from tests.crash.kills import Checkpoint
from tests.crash.test_storage_errors import PARENT, changed_chunks
from tests.memory_limit import MemoryGroup, memory_group
from tests.served_volume import OpenFile, ServedVolume, served_volume
from tests.wire.served import served
from volcrypt.errors import VolcryptError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.audit import verify_audit
from volcrypt.operations.home import Home
from volcrypt.settings import runtime_root

CHUNKS = 32
SIZE = CHUNKS * CHUNK_BYTES
IMAGE_BYTES = 4 * 2**20
THREADS = 4
KIB = 2**10


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as made:
        yield made


# ---------------------------------------------------------------- who serves a volume


@dataclass
class Load:
    """Threads that write chunks, each in places of its own, sync, and read; until one is told that
    something failed, or each has written so many."""

    volume: ServedVolume
    written: dict[int, bytes] = field(default_factory=dict)
    attempts: dict[int, set[bytes]] = field(default_factory=dict)
    errors: list[OSError] = field(default_factory=list)

    def run(self, rounds: int) -> None:
        threads = [
            threading.Thread(target=self._write, args=(number, rounds), daemon=True)
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "somebody waits for ever"

    def _write(self, thread: int, rounds: int) -> None:
        try:
            with OpenFile(self.volume) as file:
                for number in range(rounds):
                    chunk = (number * THREADS + thread) % CHUNKS
                    data = b"%7d\n" % (number + 1) * (CHUNK_BYTES // 8)
                    self.attempts.setdefault(chunk, set()).add(data)
                    file.write(chunk * CHUNK_BYTES, data)
                    file.sync()
                    self.written[chunk] = data
                    self.attempts[chunk] = {data}
                    assert file.read(chunk * CHUNK_BYTES, 4096) == data[:4096]
        except OSError as error:
            self.errors.append(error)

    def check(self, content: bytes) -> None:
        """What was acknowledged is there; where an attempt failed, each unit is old or new."""
        for chunk in range(CHUNKS):
            found = content[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            allowed = self.attempts.get(chunk, set()) | {
                self.written.get(chunk, bytes(CHUNK_BYTES))
            }
            for start in range(0, CHUNK_BYTES, 4096):
                unit = slice(start, start + 4096)
                assert found[unit] in {each[unit] for each in allowed}


def serve_with_little(directory: Path, group: MemoryGroup, limit_bytes: int) -> bool:
    """Load on a volume while its process gets no more memory than that; whether it was killed."""
    with served_volume(directory, size_bytes=SIZE) as volume:
        volume.mount()
        with volume.control() as client:
            client.begin_capture()
            client.commit_capture(PARENT)
        load = Load(volume)
        load.run(2)
        assert not load.errors
        group.limit(limit_bytes)
        group.take(volume.pid)
        # Whoever captures needs the most: chunks are kept before they are written to.
        with suppress(VolcryptError, OSError), volume.control() as client:
            client.begin_capture()
        load.run(5)
        killed = group.killed() > 0
        if killed:
            assert volume.reap() == -signal.SIGKILL
            assert load.errors
            group.limit(None)
            volume.clean_up()
            volume.mount()
        else:
            # Nobody has to start it again: it had enough, or said so, and goes on.
            group.limit(None)
            with suppress(VolcryptError, OSError), volume.control() as client:
                client.abort_capture()
        load.check(volume.file.read_bytes())
        load.errors.clear()
        load.run(1)
        assert not load.errors
        load.check(volume.file.read_bytes())
        marked = changed_chunks(volume)
        assert marked is None or marked >= set(load.written)
        volume.unmount()
    return killed


def test_who_serves_a_volume_is_killed_and_nothing_is_lost(
    tmp_path: Path, group: MemoryGroup
) -> None:
    # Where others find room with the first, they do not with the second.
    limits = {128 * KIB: tmp_path / "first", 16 * KIB: tmp_path / "second"}
    assert any(serve_with_little(directory, group, limit) for limit, directory in limits.items())


def test_who_has_enough_goes_on(tmp_path: Path, group: MemoryGroup) -> None:
    assert not serve_with_little(tmp_path, group, 64 * 2**20)


@pytest.mark.soak
@pytest.mark.parametrize("limit_kib", [64, 256, 512, *range(1024, 17 * 1024, 1024)])
def test_with_any_limit(tmp_path: Path, group: MemoryGroup, limit_kib: int) -> None:
    killed = serve_with_little(tmp_path, group, limit_kib * KIB)
    print(f"{limit_kib} KiB: {'killed' if killed else 'went on'}")


def test_memory_that_is_refused(tmp_path: Path) -> None:
    """No address space is left, and the kernel kills nobody: requests fail, and when there is room
    again all goes on. Where libfuse itself gets no memory for a request the process ends."""
    with served_volume(tmp_path, size_bytes=SIZE, data_plane="native") as volume:
        volume.mount()
        limits = resource.prlimit(volume.pid, resource.RLIMIT_AS)
        resource.prlimit(volume.pid, resource.RLIMIT_AS, (2**20, limits[1]))
        load = Load(volume)
        load.run(4)
        # Requests may do with what there is; a capture maps memory, and cannot.
        with pytest.raises(VolcryptError), volume.control() as client:
            client.begin_capture()
        load.run(2)
        resource.prlimit(volume.pid, resource.RLIMIT_AS, limits)
        load.errors.clear()
        load.run(1)
        if load.errors:
            assert volume.reap() != 0
            volume.mount()
            load.errors.clear()
            load.run(1)
        assert not load.errors
        load.check(volume.file.read_bytes())
        changed = changed_chunks(volume)
        assert changed is None or changed >= set(load.written)
        volume.unmount()


# ---------------------------------------------------------------- commands


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Command]:
    """Volumes `data` and, unencrypted, `plain`, a snapshot `first`, a key `alias/other`."""
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        (tmp_path / "image").write_bytes(random.Random(1).randbytes(IMAGE_BYTES))
        command.run("volume", "import", tmp_path / "image", "--name", "data")
        plain = ("--name", "plain", "--unencrypted")
        command.run("volume", "import", tmp_path / "image", *plain)
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        key = command.run("kms", "create-key")
        command.run("kms", "create-alias", "--alias-name", "alias/other", "--target-key-id", key)
        yield command


COMMANDS = {
    "snapshot": ("snapshot", "create", "--wait", "data", "--name", "next"),
    "copy": ("snapshot", "copy", "first", "--kms-key-id", "alias/other", "--name", "copied"),
    "encrypt": ("encrypt", "plain"),
    "restore": ("volume", "create", "--snapshot-id", "first", "--name", "restored"),
}


def run_with_little(command: Command, group: MemoryGroup, name: str, limit_bytes: int) -> bool:
    """A command that gets no more memory than that, and then once more; whether it was killed."""
    arguments = COMMANDS[name] + (("--wait",) if name == "copy" else ())
    before = group.killed()
    group.limit(limit_bytes)
    done = command.try_run(*arguments, prefix=group.prefix())
    killed = group.killed() > before
    assert done.returncode == 0 or killed, done.stderr
    again = command.try_run(*arguments)
    if again.returncode != 0:
        assert "exists already" in again.stderr or "is encrypted already" in again.stderr
    assert command.json("snapshot", "verify")["Damages"] == []
    assert command.json("status")["Workflows"] == []
    exported = command.home.with_name("exported")
    for volume in ("data", "plain", *(["restored"] if name == "restore" else [])):
        exported.unlink(missing_ok=True)
        command.run("volume", "export", "--yes", volume, exported)
        assert exported.read_bytes() == command.home.with_name("image").read_bytes()
    return killed


def test_a_command_that_is_killed_is_done_by_the_next(
    prepared: Command, group: MemoryGroup
) -> None:
    assert run_with_little(prepared, group, "snapshot", 28 * 2**20)


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_with_any_limit(
    prepared: Command, group: MemoryGroup, tmp_path: Path, name: str
) -> None:
    checkpoint = Checkpoint(prepared, tmp_path)
    found = {}
    for mib in range(16, 49, 2):
        checkpoint.restore()
        found[mib] = run_with_little(prepared, group, name, mib * 2**20)
    print(f"{name}: killed with {[mib for mib in found if found[mib]]} MiB")
    assert set(found.values()) == {True, False}


# ---------------------------------------------------------------- the KMS


def test_a_kms_that_is_killed_has_what_it_acknowledged(tmp_path: Path, group: MemoryGroup) -> None:
    with served(tmp_path) as daemon:
        client = daemon.client()
        group.limit(128 * KIB)
        group.take(daemon.pid)
        made: list[str] = []

        def make_keys() -> None:
            while len(made) < 2000:
                made.append(client.create_key()["KeyMetadata"]["KeyId"])

        with pytest.raises(BotoCoreError):
            make_keys()
        assert group.killed() == 1
        daemon.kill()
        group.limit(None)
        daemon.start()
        client = daemon.client()
        for key in made:
            assert client.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
        client.create_key()
        daemon.stop()
        with Home(daemon.home, runtime_root()) as home:
            assert verify_audit(home).unsealed == 0
