"""A volume in two homes that have their keys in one KMS: the copy of its record, and the lease."""

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.file_system import run
from tests.wire.served import Served, served
from tests.wire.signing import ACCESS_KEY, SECRET
from volcrypt.geometry import UNIT_BYTES
from volcrypt.operations import leases
from volcrypt.operations.home import Home
from volcrypt.operations.leases import lease_loss, take_over_lease
from volcrypt.volume.mountpoint import FS_TYPE, mounts, unmount

MIB = 2**20
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("kms")) as made:
        yield made


class TwoHomes:
    """`first` and `second`, with keys in the KMS of a third; and a store that both write to."""

    def __init__(self, first: Command, second: Command, key: str, directory: Path) -> None:
        self.first = first
        self.second = second
        self.key = key
        self.directory = directory

    def share_store(self) -> None:
        url = (self.directory / "store").as_uri()
        self.first.run("store", "create", "shared", "--url", url)
        root = self.first.run("store", "public-key", "shared")
        self.second.run("store", "trust", "shared", "--url", url, "--public-key", root)
        signer = self.second.run("store", "public-key", "shared", "--signer")
        self.first.run("store", "trust", "shared", "--signer", signer)

    def store_id(self) -> str:
        return str(self.first.json("store", "show", "shared")["StoreId"])


@pytest.fixture
def homes(kms: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoHomes]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    key = kms.client().create_key()["KeyMetadata"]["Arn"]
    with ExitStack() as stack:
        commands = []
        for name in ("first", "second"):
            command = stack.enter_context(disposable_home(tmp_path / name / "home"))
            command.run("init")
            (command.home / "config.toml").write_text(
                f"[profiles.default]\nkms = '{kms.url}'\nregion = 'us-east-1'\n"
                f"default_kms_key = '{key}'\n"
            )
            commands.append(command)
        yield TwoHomes(commands[0], commands[1], key, tmp_path)
        for command in commands:
            command.kill_processes()
        for mount in mounts():
            if mount.fs_type == FS_TYPE and mount.mount_point.startswith(f"{tmp_path}/"):
                unmount(Path(mount.mount_point), detach=True)


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    with ExitStack() as stack:

        def make() -> Path:
            image = tmp_path / "disk"
            image.touch()
            os.truncate(image, SIZE)
            device = Path(run("losetup", "--find", "--show", image).strip())
            stack.callback(
                lambda: subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
            )
            return device

        yield make


@pytest.fixture
def device(make_device: Callable[[], Path], homes: TwoHomes) -> Path:
    """Taken away after the homes' processes."""
    return make_device()


@pytest.fixture
def point(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def wait_until(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def write(command: Command, volume: str, point: Path, content: bytes, offset: int = 0) -> None:
    command.run("mount", volume, point)
    with open(point / "volume", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, offset)
        os.fsync(file.fileno())
    command.run("unmount", volume)


def read(command: Command, volume: str, directory: Path) -> bytes:
    target = directory / "exported"
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    return target.read_bytes()


class TestFiles:
    def test_a_volume_goes_to_another_home_and_back(
        self, homes: TwoHomes, tmp_path: Path, point: Path
    ) -> None:
        first, second, path = homes.first, homes.second, tmp_path / "data"
        created = first.json(
            "volume", "create", "--size", str(SIZE), "--data", path, "--name", "orders"
        )
        assert created["RecordCopy"] == f"{path}.volcrypt"
        assert Path(created["RecordCopy"]).stat().st_mode & 0o777 == 0o600
        content = os.urandom(MIB)
        write(first, "orders", point, content)
        first.run("snapshot", "create", "orders", "--name", "monday", "--wait")

        registered = second.json("volume", "register", "--data", path)
        same = ("VolumeId", "Name", "Size", "KmsKeyId", "DataEncryptionKeyId", "CreateTime")
        assert [registered[name] for name in same] == [created[name] for name in same]
        assert registered["Freshness"] == "not checkable"
        assert read(second, "orders", tmp_path) == content + bytes(SIZE - MIB)
        second.run("volume", "check", "orders")
        other = os.urandom(MIB)
        write(second, "orders", point, other, 2 * MIB)
        # The first home's change map does not know of that; nothing may be missed by it.
        changed = first.json("snapshot", "create", "orders", "--name", "tuesday", "--wait")
        assert changed["StoredChunks"] >= 2
        restored = first.run("volume", "create", "--snapshot-id", "tuesday")
        assert read(first, restored, tmp_path) == read(second, "orders", tmp_path)

        # What one of them changes of the record the other has to take over first.
        second.run("volume", "grow", "orders", "--size", str(2 * SIZE))
        for command in (
            ["mount", "orders", str(point)],
            ["volume", "grow", "orders", "--size", str(3 * SIZE)],
            ["volume", "check", "orders"],
        ):
            said = first.fails(6, *command)
            assert "another home has changed volume orders" in said
            assert "volcrypt volume register" in said
        again = first.json("volume", "register", "--data", path)
        assert (again["Size"], again["Freshness"]) == (2 * SIZE, "compared with the record here")
        first.run("volume", "check", "orders")
        assert read(first, "orders", tmp_path) == read(second, "orders", tmp_path)

    def test_a_new_data_key_is_taken_over_when_it_is_whole(
        self, homes: TwoHomes, tmp_path: Path, point: Path
    ) -> None:
        first, second, path = homes.first, homes.second, tmp_path / "data"
        content = os.urandom(SIZE)
        first.run("volume", "create", "--size", str(SIZE), "--data", path, "--name", "orders")
        write(first, "orders", point, content)
        second.run("volume", "register", "--data", path)
        begun = first.start("rekey", "orders", "--rate", "1MiB")
        try:
            wait_until(lambda: bool(list(tmp_path.glob("data.vol-*.next"))))
            first.run("encrypt", "orders", "--pause")
            assert begun.wait_for(30) == 7
        finally:
            begun.kill()
        for command in (
            ["mount", "orders", str(point)],
            ["volume", "register", "--data", str(path)],
        ):
            said = second.fails(4, *command)
            assert "another home, which gives it a new data key" in said
            assert "there finishes that; if that home is lost, remove the file" in said
        first.run("rekey", "orders")
        copy = (tmp_path / "data.volcrypt").read_bytes()
        assert "another home has changed" in second.fails(6, "mount", "orders", point)
        assert (tmp_path / "data.volcrypt").read_bytes() == copy
        second.run("volume", "register", "--data", path)
        assert read(second, "orders", tmp_path) == content
        assert {each.name for each in tmp_path.glob("data*")} == {"data", "data.volcrypt"}

    def test_both_at_once_are_refused_on_one_host(
        self, homes: TwoHomes, tmp_path: Path, point: Path
    ) -> None:
        path = tmp_path / "data"
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "a")
        homes.second.run("volume", "register", "--data", path, "--name", "b")
        homes.first.run("mount", "a", point)
        (tmp_path / "other").mkdir()
        said = homes.second.fails(4, "mount", "b", tmp_path / "other")
        assert "in use by another process, perhaps of another home" in said
        homes.first.run("unmount", "a")
        homes.second.run("mount", "b", tmp_path / "other")
        homes.second.run("unmount", "b")

    def test_an_attached_volume_is_left_alone_by_another_home(
        self, homes: TwoHomes, tmp_path: Path
    ) -> None:
        path = tmp_path / "data"
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "orders")
        homes.second.run("volume", "register", "--data", path)
        homes.first.run("attach", "orders")
        device = Path("/dev/volcrypt/orders").resolve()
        assert "another volume, or home" in homes.second.fails(4, "attach", "orders")
        assert Path("/dev/volcrypt/orders").resolve() == device
        said = homes.second.fails(4, "volume", "delete", "orders", "--keep-data")
        assert "is in use by the process that serves it" in said
        homes.first.run("detach", "orders")

    def test_an_older_copy_is_refused_where_that_can_be_known(
        self, homes: TwoHomes, tmp_path: Path, point: Path
    ) -> None:
        path, copy = tmp_path / "data", tmp_path / "data.volcrypt"
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "a")
        old = copy.read_bytes()
        homes.first.run("volume", "grow", "a", "--size=2MiB")
        new = copy.read_bytes()
        assert old != new
        copy.write_bytes(old)
        said = homes.first.fails(6, "volume", "register", "--data", path)
        assert "not the current version" in said
        assert "missing, damaged or old" in homes.first.fails(6, "volume", "check", "a")
        taken = homes.second.json("volume", "register", "--data", path)
        assert (taken["Size"], taken["Freshness"]) == (MIB, "not checkable")
        # The home that knows better puts it right, and then the other one does too.
        write(homes.first, "a", point, b"x")
        assert copy.read_bytes() == new
        assert "another home has changed" in homes.second.fails(6, "mount", "a", point)
        homes.second.run("volume", "register", "--data", path)
        assert homes.second.json("volume", "show", "a")["Size"] == 2 * MIB

    @pytest.mark.parametrize("damage", ["missing", "cut", "another volume's", "flipped"])
    def test_a_damaged_copy_is_told_and_mended(
        self, homes: TwoHomes, tmp_path: Path, point: Path, damage: str
    ) -> None:
        path, copy = tmp_path / "data", tmp_path / "data.volcrypt"
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "a")
        right = copy.read_bytes()
        if damage == "missing":
            copy.unlink()
        elif damage == "cut":
            copy.write_bytes(right[:-30])
        elif damage == "flipped":
            copy.write_bytes(right.replace(b'"size_bytes":1048576', b'"size_bytes":2097152'))
        else:
            beside = tmp_path / "beside"
            homes.first.run("volume", "create", "--size=1MiB", "--data", beside)
            (tmp_path / "beside.volcrypt").rename(copy)
        wanted = ("--volume-id", homes.first.json("volume", "show", "a")["VolumeId"])
        code = 2 if damage == "missing" else 6
        homes.second.fails(code, "volume", "register", "--data", path, *wanted)
        assert homes.second.json("volume", "list")["Volumes"] == []
        assert "missing, damaged or old" in homes.first.fails(6, "volume", "check", "a")
        write(homes.first, "a", point, b"x")
        assert copy.read_bytes() == right
        homes.first.run("volume", "check", "a")

    def test_unencrypted_volumes_have_none(self, homes: TwoHomes, tmp_path: Path) -> None:
        path = tmp_path / "data"
        made = homes.first.json(
            "volume", "create", "--size=1MiB", "--data", path, "--unencrypted", "--name", "a"
        )
        assert made["RecordCopy"] is None
        assert not (tmp_path / "data.volcrypt").exists()
        said = homes.second.fails(2, "volume", "register", "--data", path)
        assert f"volcrypt volume import {path}" in said

    def test_delete_removes_the_copy_and_keep_data_leaves_all(
        self, homes: TwoHomes, tmp_path: Path, point: Path
    ) -> None:
        path, copy = tmp_path / "data", tmp_path / "data.volcrypt"
        create = ("volume", "create", "--size=1MiB", "--data", str(path), "--name", "a")
        homes.first.run(*create)
        homes.second.run("volume", "register", "--data", path)
        write(homes.second, "a", point, b"written by the second")
        deleted = homes.first.json("volume", "delete", "a", "--keep-data")
        assert deleted["DataKept"] == str(path)
        assert homes.first.json("volume", "list")["Volumes"] == []
        homes.first.run("volume", "create", "--size=1MiB", "--name", "clears-leftovers")
        assert read(homes.second, "a", tmp_path).startswith(b"written by the second")
        homes.first.run("volume", "register", "--data", path)
        homes.first.run("volume", "delete", "a")
        assert not path.exists()
        assert not copy.exists()
        homes.second.run("volume", "delete", "a")
        copy.write_text("somebody's")
        assert "would go" in homes.first.fails(2, *create)
        assert copy.read_text() == "somebody's"
        homes.first.run("volume", "create", "--size=1MiB", "--name", "inside")
        assert "in the home" in homes.first.fails(2, "volume", "delete", "inside", "--keep-data")

    def test_who_may_not_have_the_key_does_not_get_the_volume(
        self, homes: TwoHomes, tmp_path: Path, kms: Served
    ) -> None:
        path = tmp_path / "data"
        register = ("volume", "register", "--data", str(path))
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "a")
        other = kms.client().create_key()["KeyMetadata"]["Arn"]
        said = homes.second.fails(5, *register, "--kms-key-id", other)
        assert f"the volume is under KMS key {homes.key}, not under {other}" in said
        kms.client().disable_key(KeyId=homes.key)
        assert "disabled" in homes.second.fails(5, *register)
        # Nor is it made when its copy could not be.
        homes.first.fails(5, "volume", "create", "--size=1MiB", "--data", tmp_path / "b")
        assert not (tmp_path / "b").exists()
        kms.client().enable_key(KeyId=homes.key)
        with disposable_home(tmp_path / "third" / "home") as third:
            third.run("init")
            third.fails(5, *register, "--kms-key-id", homes.key)
            assert third.json("volume", "list")["Volumes"] == []
        homes.second.run(*register, "--kms-key-id", homes.key)

    def test_what_is_not_the_data_is_refused(self, homes: TwoHomes, tmp_path: Path) -> None:
        path, record = tmp_path / "data", tmp_path / "elsewhere"
        homes.first.run("volume", "create", "--size=1MiB", "--data", path, "--name", "a")
        (tmp_path / "data.volcrypt").rename(record)
        second = homes.second
        said = second.fails(2, "volume", "register", "--data", path)
        assert "there is no copy of a volume record" in said
        register = ("volume", "register", "--record", str(record))
        (tmp_path / "short").write_bytes(bytes(4096))
        for data, code in (("short", 6), ("missing", 6)):
            second.fails(code, *register, "--data", tmp_path / data)
        second.fails(2, *register, "--data", second.home / "home")
        second.run("volume", "create", "--size=1MiB", "--data", tmp_path / "taken")
        assert "in use by volume" in second.fails(4, *register, "--data", tmp_path / "taken")
        second.run("volume", "create", "--size=1MiB", "--name", "a")
        assert "named a exists" in second.fails(4, *register, "--data", path)
        second.fails(2, *register, "--data", path, "--name", "vol-1")
        second.fails(2, *register, "--data", path, "--volume-id", "vol-1")
        wrong = ("--volume-id", "vol-0123456789abcdef0")
        assert "it is of volume" in second.fails(6, *register, "--data", path, *wrong)
        second.run(*register, "--data", path, "--name", "b")
        assert second.json("volume", "show", "b")["DataPath"] == str(path)


class TestDevices:
    def test_a_volume_with_a_lease_in_two_homes(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        first, second = homes.first, homes.second
        homes.share_store()
        made = first.json(
            "volume", "create", "--data", device, "--name", "orders", "--lease", "shared"
        )
        volume_id = made["VolumeId"]
        assert made["RecordCopy"] == f"records/{volume_id} in snapshot store shared"
        assert made["LeaseStoreId"] == homes.store_id()
        register = ("volume", "register", "--data", str(device))
        assert "--store STORE" in second.fails(2, *register)
        second.run(*register, "--store", "shared", "--volume-id", volume_id)

        first.run("mount", "orders", point)
        (tmp_path / "other").mkdir()
        for command in (
            ["mount", "orders", str(tmp_path / "other")],
            ["volume", "export", "--yes", "orders", str(tmp_path / "out")],
            ["snapshot", "create", "orders"],
            ["volume", "grow", "orders", "--size", str(SIZE + 4096)],
            ["volume", "delete", "orders"],
        ):
            said = second.fails(4, *command)
            assert "by its lease 1" in said
            assert "volcrypt attach orders --take-over" in said
        with open(point / "volume", "r+b", buffering=0) as file:
            file.write(b"from the first" * 1000)
        first.run("unmount", "orders")
        assert read(second, "orders", tmp_path).startswith(b"from the first" * 1000)
        write(second, "orders", point, b"from the second" * 1000)
        assert read(first, "orders", tmp_path).startswith(b"from the second" * 1000)
        second.run("volume", "delete", "orders", "--keep-data")
        first.run("volume", "check", "orders")
        first.run("volume", "delete", "orders")
        assert not list((tmp_path / "store").glob("records/*"))

    def test_a_killed_process_gives_its_lease_back_at_the_next_command(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        first, second = homes.first, homes.second
        homes.share_store()
        volume_id = first.json(
            "volume", "create", "--data", device, "--name", "orders", "--lease", "shared"
        )["VolumeId"]
        second.run(
            "volume", "register", "--data", device, "--store=shared", "--volume-id", volume_id
        )
        first.run("snapshot", "create", "orders", "--name", "empty", "--store", "shared", "--wait")
        first.run("mount", "orders", point)
        with open(point / "volume", "r+b", buffering=0) as file:
            file.write(b"before the kill" * 1000)
            os.fsync(file.fileno())
        first.run(
            "snapshot", "create", "orders", "--name", "mounted", "--store", "shared", "--wait"
        )
        first.kill_processes()
        first.clear_dead_mount(point)
        assert "by its lease" in second.fails(4, "mount", "orders", point)
        first.run("volume", "list")
        write(second, "orders", point, b"by the second" * 1000, MIB)
        # What the killed process knew of changes is not all that has changed.
        first.run("snapshot", "create", "orders", "--name", "after", "--store", "shared", "--wait")
        restored = first.run("volume", "create", "--snapshot-id", "after")
        assert read(first, restored, tmp_path) == read(second, "orders", tmp_path)
        # Its own dead process is no hindrance, without any other command in between.
        first.run("mount", "orders", point)
        first.kill_processes()
        first.run("mount", "orders", point)
        first.run("unmount", "orders")

    def test_taking_over(
        self,
        homes: TwoHomes,
        device: Path,
        tmp_path: Path,
        point: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first, second = homes.first, homes.second
        homes.share_store()
        volume_id = first.json(
            "volume", "create", "--data", device, "--name", "orders", "--lease", "shared"
        )["VolumeId"]
        second.run(
            "volume", "register", "--data", device, "--store=shared", "--volume-id", volume_id
        )
        first.run("mount", "orders", point)
        slept: list[float] = []
        with opened(first) as one:
            assert lease_loss(one, volume_id) is None
        with opened(second) as two:
            taken = take_over_lease(two, "orders", sleep=slept.append)
            assert taken is not None
            assert (taken.lease.epoch, taken.stopped) == (1, False)
            assert sum(slept) >= leases.TAKE_OVER_SECONDS
        with opened(first) as one:
            said = lease_loss(one, volume_id)
            assert said is not None
            assert "has taken it over, by lease 2" in said
        # The first home's process is stopped by that; here by hand. The second one's own command
        # ended without using the volume, and its next one would give the lease back.
        first.run("unmount", "orders")
        with opened(second) as two:
            slept.clear()
            assert take_over_lease(two, "orders", sleep=slept.append) is None
            assert slept == []
        (tmp_path / "other").mkdir()
        done = second.try_run("mount", "orders", tmp_path / "other", "--take-over")
        assert (done.returncode, done.stderr) == (0, "")
        assert "by its lease" in first.fails(4, "mount", "orders", point)
        second.run("unmount", "orders")
        monkeypatch.setattr(leases, "TAKE_OVER_SECONDS", 10_000)
        first.run("mount", "orders", point)

        def stop(_seconds: float) -> None:
            first.run("unmount", "orders")

        with opened(second) as two:
            taken = take_over_lease(two, "orders", sleep=stop)
            assert taken is not None
            assert taken.stopped

    def test_the_old_holder_is_fenced_and_says_so(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        """Nothing of it is written after the new holder begins, and that one need not wait long."""
        first, second = homes.first, homes.second
        homes.share_store()
        with (first.home / "config.toml").open("a") as file:
            file.write("[mounts]\nkey_check_seconds = 1\n")
        volume_id = first.json(
            "volume", "create", "--data", device, "--name", "orders", "--lease", "shared"
        )["VolumeId"]
        second.run(
            "volume", "register", "--data", device, "--store=shared", "--volume-id", volume_id
        )
        first.run("mount", "orders", point)
        other = tmp_path / "other"
        other.mkdir()
        assert "is on this host" in second.fails(4, "mount", "orders", other, "--take-over")
        held = first.json("status")["InUse"][0]
        assert [check["Check"] for check in held["Checks"]] == ["lease"]
        with open(point / "volume", "r+b", buffering=0) as file:
            file.write(b"by the first, not synced" * 1000)
            # The device can be open in one place only; the data file is that of a shared disk.
            with opened(second) as two:
                taken = take_over_lease(two, "orders")
            assert taken is not None
            assert taken.stopped
            with pytest.raises(OSError, match="Input/output error"):
                file.read(1)
            with pytest.raises(OSError, match="Input/output error"):
                file.write(b"late")
            before = device_content(tmp_path / "disk")
        [used] = first.json("status")["InUse"]
        assert "has taken it over, by lease" in used["Fenced"]["Reason"]
        first.run("unmount", "orders")
        run("blockdev", "--flushbufs", device)
        assert device_content(tmp_path / "disk") == before
        second.run("mount", "orders", other)
        assert (other / "volume").read_bytes().startswith(b"by the first, not")
        second.run("unmount", "orders")

    def test_nobody_is_stopped_for_what_cannot_be_had(
        self,
        homes: TwoHomes,
        device: Path,
        make_device: Callable[[], Path],
        tmp_path: Path,
        point: Path,
    ) -> None:
        """Each refusal comes before the take-over: the holder keeps lease and volume."""
        first, second = homes.first, homes.second
        homes.share_store()
        name = f"v{secrets.token_hex(5)}"
        volume_id = first.json(
            "volume", "create", "--data", device, "--name", name, "--lease", "shared"
        )["VolumeId"]
        # Another way to the same disk: here nothing but the mount shows that it is in use.
        second.run(
            "volume", "register", "--data", make_device(), "--store=shared",
            "--volume-id", volume_id,
        )  # fmt: skip
        (tmp_path / "empty").mkdir()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        first.run("mount", name, point)
        mount = ("mount", name, "--take-over")
        attach = ("attach", name, "--take-over")
        here = f"the process that serves it at {point}"
        assert here in second.fails(4, *mount, tmp_path / "empty")
        assert here in second.fails(4, *attach)
        assert "is not empty" in second.fails(2, *mount, tmp_path / "full")
        assert "does not exist" in second.fails(2, *attach, "--mount", tmp_path / "none")
        assert "is not a rate" in second.fails(2, *attach, "--fill-rate", "none")
        second.fails(2, *attach, "--mkfs", "ext4", "--read-only")
        second.run("volume", "create", "--size=1MiB", "--name", f"{name}-part1")
        second.run("attach", f"{name}-part1")
        assert "another volume, or home" in second.fails(4, *attach)
        second.run("detach", f"{name}-part1")
        with opened(first) as one:
            assert lease_loss(one, volume_id) is None
        assert first.json("status")["InUse"][0]["Fenced"] is None
        first.run("unmount", name)

    @pytest.mark.soak
    @pytest.mark.parametrize("data_plane", ["python", "native"])
    def test_a_holder_that_cannot_ask_stops_writing_and_goes_on_when_it_can(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path, data_plane: str
    ) -> None:
        """That of a minute; `daemons/test_lease_keeper.py` and `volume/test_lease_gate.py` have it
        quickly, by a clock of their own."""
        first = homes.first
        homes.share_store()
        with (first.home / "config.toml").open("a") as file:
            file.write("[mounts]\nkey_check_seconds = 1\n")
        first.run("volume", "create", "--data", device, "--name", "orders", "--lease", "shared")
        first.run("mount", "orders", point, "--data-plane", data_plane)
        with open(point / "volume", "r+b", buffering=0) as file:
            for _ in range(3):
                os.pwrite(file.fileno(), b"before".ljust(UNIT_BYTES), 0)
            assert first.json("status")["InUse"][0]["WritesWait"] is False
            (tmp_path / "store").rename(tmp_path / "away")
            while not first.json("status")["InUse"][0]["WritesWait"]:
                time.sleep(1)
            said = first.try_run("status")
            assert "writes wait until" in said.stdout + said.stderr
            fast = first.json("status")["InUse"][0]["FastRequests"]
            assert (fast > 0) == (data_plane == "native")
            late = threading.Thread(
                target=os.pwrite, args=[file.fileno(), b"behind".ljust(UNIT_BYTES), 0]
            )
            late.start()
            late.join(3)
            assert late.is_alive()
            with open(point / "volume", "rb") as other:
                assert other.read(6) == b"before"
            (tmp_path / "away").rename(tmp_path / "store")
            late.join(20)
            assert not late.is_alive()
            assert os.pread(file.fileno(), 6, 0) == b"behind"
        assert first.json("status")["InUse"][0]["WritesWait"] is False
        first.run("unmount", "orders")

    def test_a_lease_of_an_older_store_is_refused(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        homes.share_store()
        homes.first.run("volume", "create", "--data", device, "--name", "a", "--lease", "shared")
        write(homes.first, "a", point, b"x")
        kept = list((tmp_path / "store").glob("leases/*/*"))
        assert kept
        for path in kept:
            path.unlink()
        assert "lease of volume a" in homes.first.fails(6, "mount", "a", point)

    def test_without_the_store_nothing_is_opened(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        homes.share_store()
        create = ("volume", "create", "--data", str(device), "--name", "a")
        assert "no other host can see" in homes.first.fails(2, *create, "--lease", "local")
        homes.first.fails(3, *create, "--lease", "unknown")
        said = homes.first.fails(2, *create, "--lease", "shared", "--unencrypted")
        assert "needs no lease" in said
        homes.first.fails(2, "volume", "create", "--size=1MiB", "--lease", "shared")
        made = homes.first.json(*create, "--lease", "shared")
        with disposable_home(tmp_path / "third" / "home") as third:
            third.home.mkdir(parents=True)
            third.run("init")
            (third.home / "config.toml").write_bytes(
                (homes.first.home / "config.toml").read_bytes()
            )
            copy = tmp_path / "copy"
            copy.write_bytes((tmp_path / "store" / "records" / made["VolumeId"]).read_bytes())
            said = third.fails(3, "volume", "register", "--data", device, "--record", copy)
            assert "volcrypt store trust" in said
            url = (tmp_path / "store").as_uri()
            root = homes.first.run("store", "public-key", "shared")
            third.run("store", "trust", "shared", "--url", url, "--public-key", root)
            third.run("volume", "register", "--data", device, "--record", copy)
            # It can read the lease, and nobody would believe the one that it took.
            assert "may read snapshot store" in third.fails(5, "mount", "a", point)
            # A kept copy is not believed before the newer one in the store.
            homes.first.run("volume", "delete", "a", "--keep-data")
        (tmp_path / "store").rename(tmp_path / "away")
        homes.second.run("volume", "list")
        (tmp_path / "away").rename(tmp_path / "store")

    def test_a_device_without_lease_takes_its_copy_along(
        self, homes: TwoHomes, device: Path, tmp_path: Path, point: Path
    ) -> None:
        made = homes.first.json("volume", "create", "--data", device, "--name", "usb")
        copy = Path(made["RecordCopy"])
        assert copy.parent == homes.first.home / "volumes" / made["VolumeId"]
        write(homes.first, "usb", point, b"carried")
        homes.second.run("volume", "register", "--data", device, "--record", copy)
        assert read(homes.second, "usb", tmp_path).startswith(b"carried")
        refused = homes.second.fails(2, "mount", "usb", point, "--take-over")
        assert "has no lease" in refused
        # It is another device now, as when another disk is in its place.
        homes.second.run("volume", "delete", "usb", "--keep-data")
        run("losetup", "-d", device)
        (tmp_path / "disk").rename(tmp_path / "moved")
        run("losetup", device, tmp_path / "moved")
        register = ("volume", "register", "--data", str(device), "--record", str(copy))
        assert "and the volume was made on" in homes.second.fails(6, *register)
        homes.second.run(*register, "--force")
        assert read(homes.second, "usb", tmp_path).startswith(b"carried")


def device_content(image: Path) -> bytes:
    """What is on the medium of a loop device."""
    run("sync", image)
    return image.read_bytes()


def opened(command: Command) -> Home:
    """The home in this process, with the profile of the commands."""
    from volcrypt.cli.access import open_home
    from volcrypt.cli.session import Session

    return open_home(Session(home_path=command.home))
