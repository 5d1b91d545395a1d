"""`encrypt --online` and `rekey` below an ext4 on the loop device, with verify jobs of fio on it
all the time, while whoever drives them and whoever serves the volume are killed.

Where a service manager keeps the mount, fio hears of nothing. Else the mount ends with its process:
then what was synced is there after the next attach, and it goes on.
"""

import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.beside import Beside
from tests.command import VOLCRYPT, Command, Started, disposable_home, kill_and_wait
from tests.service_manager import ServiceManager, service_manager
from volcrypt.volume.kept_mount import KEPT

MIB = 2**20
UNIT = 4096
RECORD = 4096
HANGING_SECONDS = 600
AT_THE_SWITCH = "as it went over to new data"
"""What who takes a kept mount over says of one that ended in that moment: it is not kept."""


class Fio:
    """Verify jobs on a file system, direct and through the page cache, until they are stopped."""

    def __init__(self, point: Path, output: Path, *, size_bytes: int) -> None:
        self._output = output
        every = ["--rw=randwrite", "--ioengine=psync", f"--directory={point}", "--fsync=8"]
        every += [f"--size={size_bytes}", "--time_based", "--runtime=3600", "--verify=crc32c"]
        # It is to see each moment, and not to keep the processors from who is tested.
        every += [
            "--rate_iops=150,150",
            "--verify_backlog=8",
            "--verify_fatal=1",
            "--exitall_on_error=1",
        ]
        jobs = ["--name=direct", *every, "--direct=1", "--bsrange=4k-64k"]
        jobs += ["--name=cached", *every, "--bsrange=512-128k", "--invalidate=1"]
        self._files = [point / f"{name}.0.0" for name in ("direct", "cached")]
        self._process = subprocess.Popen(
            ["fio", "--thread", "--output-format=json", f"--output={output}", *jobs],
            cwd=output.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def go_on(self) -> None:
        """It does, and finds nothing wrong."""
        for file in self._files:
            wait_until(lambda file=file: file.exists() or self._has_ended)  # type: ignore[misc]
            before = file.stat().st_mtime_ns
            wait_until(
                lambda file=file, before=before: (  # type: ignore[misc]
                    file.stat().st_mtime_ns > before or self._has_ended
                )
            )
        assert not self._has_ended, self._output.read_text()

    @property
    def _has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> int:
        """How many requests there were; no error in them, and no wrong byte."""
        self.go_on()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        text = self._output.read_text()
        jobs = json.loads(text[text.index("{") :])["jobs"]
        assert [job["error"] for job in jobs] == [0, 0], text
        counts = [sum(job[kind]["total_ios"] for job in jobs) for kind in ("read", "write", "sync")]
        assert all(counts), counts
        return sum(counts)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Ledger(Beside):
    """A program that appends records and syncs each, until the first error, and knows which were
    acknowledged."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.acknowledged = 0
        self.error: OSError | None = None

    @staticmethod
    def record(number: int) -> bytes:
        return hashlib.sha256(b"%d" % number).digest() * (RECORD // 32)

    def _work(self) -> None:
        try:
            with open(self.path, "ab", buffering=0) as file:
                while not self._is_done.is_set() and self.acknowledged < 2000:
                    file.write(self.record(self.acknowledged))
                    os.fsync(file.fileno())
                    self.acknowledged += 1
        except OSError as error:
            self.error = error

    def check(self) -> None:
        """What was acknowledged is there."""
        found = self.path.read_bytes()
        assert len(found) >= self.acknowledged * RECORD
        for number in range(self.acknowledged):
            at = number * RECORD
            assert found[at : at + RECORD] == self.record(number), number


class Scene:
    """A home with a volume, and an ext4 on that at `point`."""

    def __init__(self, command: Command, directory: Path, manager: ServiceManager) -> None:
        self.command = command
        self.manager = manager
        self.directory = directory
        self.name = f"v{secrets.token_hex(5)}"
        self.point = directory / "point"
        self.point.mkdir()
        self.verb = "encrypt"
        """What is asked for; from the first switch on it is another key."""

    def create(self, size_bytes: int) -> None:
        self.command.run(
            "volume", "create", "--size", f"{size_bytes}", "--unencrypted", "--name", self.name
        )

    def attach(self, *options: str) -> None:
        self.command.run("attach", self.name, "--mount", self.point, *options)

    def service(self, *options: str) -> list[str | Path]:
        """The command of the service."""
        start: list[str | Path] = [VOLCRYPT, "--home", self.command.home, "attach", self.name]
        return [*start, "--foreground", "--mount", self.point, "--data-plane", "native", *options]

    def starts_again(self) -> bool:
        """The next process of the service; False where the mount had to end with the last one."""
        try:
            self.manager.start(self.service())
        except AssertionError:
            if AT_THE_SWITCH not in self.manager.errors:
                raise
            return False
        return True

    def clear(self) -> None:
        """After the end of the mount; whoever held files there has ended."""
        unmounting = ["umount", str(self.point)]
        wait_until(
            lambda: (
                not os.path.ismount(self.point)
                or subprocess.run(unmounting, check=False, capture_output=True).returncode == 0
            )
        )
        self.command.try_run("detach", self.name)

    @property
    def request(self) -> list[str]:
        return [self.verb, self.name, *(["--online"] if self.verb == "encrypt" else [])]

    @property
    def step(self) -> str | None:
        """The next one of what is unfinished."""
        found = self.command.json("status")["Workflows"]
        return found[0]["NextStep"] if found else None

    @contextmanager
    def driver(self, *, rate: str | None = None) -> Iterator[Started]:
        """The command, beside the test; killed at the end."""
        options = [] if rate is None else ["--rate", rate]
        begun = self.command.start(*self.request, *options)
        try:
            yield begun
        finally:
            begun.kill()

    def wait_until_copied(self, bytes_more: int) -> None:
        before = self.copied_bytes
        wait_until(lambda: self.copied_bytes >= before + bytes_more)

    @property
    def copied_bytes(self) -> int:
        """What of the target is there."""
        found = 0
        for path in self.command.home.glob("volumes/*/data.next"):
            with suppress(FileNotFoundError):
                found += path.stat().st_blocks * 512
        return found

    def finish(self) -> None:
        """Without anything by hand."""
        is_switched = self.command.json("volume", "show", self.name)["Encrypted"]
        if self.verb == "rekey" or not is_switched or self.step is not None:
            self.command.run(*self.request)
        self.verb = "rekey"
        assert self.step is None
        assert self.command.json("volume", "show", self.name)["Encrypted"]
        left = {path.name for path in self.command.home.glob("volumes/*/data*")}
        assert left == {"data"}

    def digests(self) -> dict[str, str]:
        files = [path for path in self.point.iterdir() if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def check_after_detach(self) -> None:
        """What the next attach reads is what was read at last."""
        before = self.digests()
        assert before
        self.command.run("detach", self.name)
        self.attach("--data-plane", "python")
        assert self.digests() == before
        device = os.path.realpath(f"/dev/volcrypt/{self.name}")
        subprocess.run(["umount", self.point], check=True)
        subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
        self.command.run("detach", self.name)


def wait_until(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """With a process beside it that ends mounts that nobody serves, when a test hangs: what waits
    in the kernel cannot be killed."""
    with disposable_home(tmp_path / "home") as command:
        is_long = request.node.get_closest_marker("soak") is not None
        seconds = HANGING_SECONDS * (10 if is_long else 1)
        waits = f"sleep {seconds}; umount --force {command.runtime}/*.mnt"
        guard = subprocess.Popen(["sh", "-c", waits], start_new_session=True)
        try:
            command.run("init")
            with service_manager(tmp_path) as manager:
                yield Scene(command, tmp_path, manager)
        finally:
            os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()


@pytest.mark.kept_mount
def test_fio_hears_nothing_of_kills_where_the_mount_is_kept(scene: Scene) -> None:
    """Of the driver and of who serves; and of a change of the key after that."""
    scene.create(40 * MIB)
    scene.manager.start(scene.service("--mkfs", "ext4"))
    scene.manager.wait_until_kept(KEPT)
    fio = Fio(scene.point, scene.directory / "fio", size_bytes=2 * MIB)
    try:
        with scene.driver(rate="1MiB") as driver:
            scene.wait_until_copied(UNIT)
            kill_and_wait(scene.manager.main_pid)
            assert driver.wait_for(30) not in (None, 0)
        scene.manager.start(scene.service())
        with scene.driver(rate="1MiB"):
            scene.wait_until_copied(UNIT)
        scene.finish()
        fio.go_on()
        scene.finish()
        fio.end()
    finally:
        fio.kill()
    scene.check_after_detach()


def play_kept(scene: Scene, *, rounds: int, seed: int) -> dict[str, int]:
    """Kills at any moment; one at the switch itself ends the mount, and the next attach goes on."""
    dice = random.Random(seed)
    seen = dict.fromkeys(("driver killed", "server killed", "went over", "ended at the switch"), 0)
    scene.create(64 * MIB)
    scene.manager.start(scene.service("--mkfs", "ext4"))
    scene.manager.wait_until_kept(KEPT)
    fio = Fio(scene.point, scene.directory / "fio", size_bytes=4 * MIB)
    try:
        for _ in range(rounds):
            for _ in range(dice.randrange(1, 4)):
                with scene.driver(rate=dice.choice([None, "4MiB", "16MiB"])) as driver:
                    is_over = driver.wait_for(dice.uniform(0.3, 4)) is not None
                    is_for_driver = dice.random() < 0.4
                    if is_over or is_for_driver:
                        seen["driver killed"] += not is_over
                        continue
                    kill_and_wait(scene.manager.main_pid)
                    seen["server killed"] += 1
                    if dice.random() < 0.5:
                        driver.kill()
                    assert driver.wait_for(60) is not None
                if not scene.starts_again():
                    seen["ended at the switch"] += 1
                    fio.kill()
                    scene.clear()
                    scene.manager.start(scene.service())
                    scene.manager.wait_until_kept(KEPT)
                    fio = Fio(scene.point, scene.directory / "fio", size_bytes=4 * MIB)
                fio.go_on()
            scene.finish()
            seen["went over"] += 1
            fio.go_on()
        seen["requests"] = fio.end()
    finally:
        fio.kill()
    scene.check_after_detach()
    return seen


def play_not_kept(scene: Scene, plane: str, *, rounds: int, seed: int) -> dict[str, int]:
    dice = random.Random(seed)
    seen = dict.fromkeys(("killed", "went over", "records"), 0)
    scene.create(64 * MIB)
    scene.attach("--mkfs", "ext4", "--data-plane", plane)
    for turn in range(rounds):
        ledger = Ledger(scene.point / f"ledger-{turn}")
        fio = Fio(scene.point, scene.directory / "fio", size_bytes=4 * MIB)
        try:
            with ledger, scene.driver(rate=dice.choice([None, "4MiB", "8MiB"])) as driver:
                driver.wait_for(dice.uniform(0.3, 5))
                scene.command.kill_processes()
                seen["killed"] += 1
                if dice.random() < 0.5:
                    driver.kill()
                assert driver.wait_for(60) is not None
        finally:
            fio.kill()
        scene.clear()
        scene.attach("--data-plane", plane)
        ledger.check()
        seen["records"] += ledger.acknowledged
        fio = Fio(scene.point, scene.directory / "fio", size_bytes=4 * MIB)
        try:
            scene.finish()
            seen["went over"] += 1
            fio.end()
        finally:
            fio.kill()
        ledger.check()
        ledger.path.unlink()
    scene.check_after_detach()
    return seen


@pytest.mark.soak
@pytest.mark.kept_mount
@pytest.mark.parametrize("seed", range(3))
def test_fio_hears_nothing_of_many_kills(scene: Scene, seed: int) -> None:
    seen = play_kept(scene, rounds=12, seed=seed)
    print(f"\n{seen}")
    assert seen["server killed"] > 4
    assert seen["driver killed"] > 2


@pytest.mark.soak
@pytest.mark.parametrize("plane", ["native", "python"])
def test_what_was_synced_is_there_after_many_kills(scene: Scene, plane: str) -> None:
    print(f"\n{play_not_kept(scene, plane, rounds=15, seed=2)}")
