"""Encryption offline: the plan before it, the report after it, and data that is elsewhere: in
another file, and on a device, which is overwritten."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.file_system import run
from volcrypt.errors import (
    InvalidArgumentError,
    NoSpaceError,
    RecordMissingError,
    StoreNotFoundError,
    VerificationError,
    VolcryptError,
    WorkNotFoundError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.formats.workflow import Step
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations import encrypt_plan
from volcrypt.operations.destruction import DISCARDED, KEPT, OVERWRITTEN, discard_file
from volcrypt.operations.encrypt import (
    EncryptionReport,
    abort_encryption,
    encrypt_volume,
    plan_of_encryption,
)
from volcrypt.operations.encrypt_plan import EncryptionPlan
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.migration_orders import pause_migration
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.stores import LOCAL_STORE, open_local_store
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.workflows import load_workflows

SIZE = 9 * CHUNK_BYTES + 4096
MARK = b"plaintext here! "


class StoppedError(Exception):
    """The end of a command before its time."""


class Stops:
    """Progress that ends the work in a step, when something of it was done."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._is_there = False

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._is_there = step.startswith(self._step)
        if self._is_there and total_bytes is None:
            raise StoppedError

    def advance(self, done_bytes: int) -> None:
        if self._is_there and done_bytes >= 2 * CHUNK_BYTES:
            raise StoppedError


def content() -> bytes:
    """Data, holes, data, and the short end."""
    image = bytearray(SIZE)
    image[: 3 * CHUNK_BYTES] = (MARK + os.urandom(16)) * (3 * CHUNK_BYTES // 32)
    image[5 * CHUNK_BYTES : 5 * CHUNK_BYTES + 4096] = os.urandom(4096)
    image[-4096:] = MARK * 256
    return bytes(image)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device that nobody uses."""
    image = tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, SIZE + 4096)
    with ExitStack() as stack:
        found = Path(run("losetup", "--find", "--show", image).strip())
        stack.callback(lambda: subprocess.run(["losetup", "-d", found], check=True))
        yield found


def make(home: Home, placement: Placement | None = None) -> VolumeRecord:
    """An unencrypted volume `data` that holds `content`."""
    record = create_volume(
        home,
        size_bytes=SIZE,
        name="data",
        choice=KeyChoice(encrypted=False),
        placement=placement or Placement(),
    )
    image = content()
    with open(data_path(home, record), "r+b") as file:
        for start in (0, 5 * CHUNK_BYTES, SIZE - 4096):
            file.seek(start)
            file.write(image[start : start + (3 * CHUNK_BYTES if start == 0 else 4096)])
        os.fsync(file.fileno())
    return record


def encrypt(
    home: Home,
    progress: Progress = SILENT,
    *,
    keep_old: bool = False,
    announce: Callable[[EncryptionPlan], None] = lambda _: None,
) -> EncryptionReport:
    return encrypt_volume(
        home,
        "data",
        choice=KeyChoice(),
        keep_old=keep_old,
        delete_plain_snapshots=False,
        progress=progress,
        announce=announce,
    )


def plan(home: Home, *, keep_old: bool = False) -> EncryptionPlan:
    return plan_of_encryption(
        home, "data", choice=KeyChoice(), keep_old=keep_old, delete_plain_snapshots=False
    )


def plaintext(home: Home, path: Path) -> bytes:
    path.unlink(missing_ok=True)
    export_volume(home, "data", path, progress=SILENT)
    return path.read_bytes()


def on_disk(path: Path) -> bytes:
    """What a device, or a file, has, and no cache."""
    if path.is_block_device():
        run("blockdev", "--flushbufs", path)
    return path.read_bytes()


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def test_the_plan_says_what_will_be_done_and_makes_nothing(home: Home) -> None:
    record = make(home)
    before = files(home.work_path), files(home.volumes.path)
    made = plan(home)
    assert (files(home.work_path), files(home.volumes.path)) == before
    assert load_workflows(home) == []
    assert made.data_bytes == 4 * CHUNK_BYTES + 4096
    assert not made.is_bound
    assert [Step(each.step) for each in made.steps] == [
        Step.SNAPSHOT,
        Step.COPY,
        Step.RESTORE,
        Step.VERIFY,
        Step.SWAP,
        Step.DESTROY,
    ]
    assert [(room.path, room.needed_bytes) for room in made.rooms] == [
        (home.path, 3 * made.data_bytes)
    ]
    assert made.read_rate is not None
    assert made.seconds > 0
    assert [(each.path, each.method) for each in made.destroyed] == [
        (data_path(home, record), DISCARDED),
        (home.stores_path / "local", "unlinked"),
    ]
    assert plan(home, keep_old=True).destroyed[0].method == KEPT


def test_the_plan_is_told_before_anything_is_made_and_can_be_refused(home: Home) -> None:
    make(home)

    def refuse(_plan: EncryptionPlan) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        encrypt(home, announce=refuse)
    assert load_workflows(home) == []


def test_without_room_nothing_is_begun(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home)
    full = encrypt_plan.Room(path=home.path, needed_bytes=2**20, free_bytes=2**20 - 1)
    monkeypatch.setattr(encrypt_plan, "_room", lambda *_: full)
    with pytest.raises(NoSpaceError, match="1 MiB at once below"):
        encrypt(home)
    assert load_workflows(home) == []


def test_the_report_says_what_was_converted_and_what_became_of_it(
    home: Home, tmp_path: Path
) -> None:
    old = make(home)
    with open(data_path(home, old), "rb", buffering=0) as still_open:
        image = still_open.read(SIZE)
        assert MARK in image, "the control"
        report = encrypt(home)
        still_open.seek(0)
        assert still_open.read(SIZE) == bytes(SIZE), "who had it open has nothing of it"
    assert (report.data_bytes, report.size_bytes) == (4 * CHUNK_BYTES + 4096, SIZE)
    assert set(report.step_seconds) == {
        "snapshot",
        "copy",
        "restore",
        "verify",
        "swap",
        "destroy",
    }
    assert report.old_data[0].path == data_path(home, old)
    assert report.old_data[0].method == DISCARDED
    exported = export_volume(home, "data", tmp_path / "out", progress=SILENT)
    assert (tmp_path / "out").read_bytes() == image
    assert exported.content_digest == report.content_digest
    record = load_record(home, "data")
    assert record.wrapped_key is not None
    assert report.data_key_id == record.wrapped_key.data_key_id
    assert not any(MARK in path.read_bytes() for path in files(home.path))


@pytest.mark.parametrize("step", ["restoring", "removing"])
def test_a_file_elsewhere_stays_on_its_file_system(home: Home, tmp_path: Path, step: str) -> None:
    place = tmp_path / "elsewhere" / "disk.img"
    place.parent.mkdir()
    old = make(home, Placement(data=place))
    image = place.read_bytes()
    assert plan(home).target == place.parent
    with pytest.raises(StoppedError):
        encrypt(home, Stops(step))
    encrypt(home)
    record = load_record(home, "data")
    new = Path(record.data_path or "")
    assert new == place.with_name(f"disk.img.{record.volume_id}")
    assert {path.name for path in place.parent.iterdir()} == {new.name, f"{new.name}.volcrypt"}
    assert MARK not in new.read_bytes()
    assert plaintext(home, tmp_path / "out") == image
    assert not home.volumes.path_of(old.volume_id).exists()


def test_a_file_elsewhere_is_as_it_was_after_giving_up(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "disk.img"
    place.parent.mkdir()
    make(home, Placement(data=place))
    image = place.read_bytes()
    with pytest.raises(StoppedError):
        encrypt(home, Stops("comparing with"))
    assert len(list(place.parent.iterdir())) == 2, "the control"
    abort_encryption(home, "data")
    assert list(place.parent.iterdir()) == [place]
    assert place.read_bytes() == image
    encrypt(home, keep_old=True)
    assert place.read_bytes() == image
    assert load_record(home, "data-unencrypted").data_path == str(place)


@pytest.mark.parametrize("step", ["comparing the", "restoring", "comparing with"])
def test_a_device_is_overwritten_and_used_again(
    home: Home, device: Path, tmp_path: Path, step: str
) -> None:
    old = make(home, Placement(data=device))
    image = on_disk(device)
    assert MARK in image, "the control"
    made = plan(home)
    assert made.is_bound
    assert (made.target, made.destroyed[0].method) == (device, OVERWRITTEN)
    with pytest.raises(StoppedError):
        encrypt(home, Stops(step))
    if step == "comparing the":
        assert on_disk(device) == image, "nothing is written before all is compared"
    report = encrypt(home)
    assert report.data_path == device
    assert report.old_data[0].method == OVERWRITTEN
    assert MARK not in on_disk(device)
    assert plaintext(home, tmp_path / "out") == image[:SIZE]
    record = load_record(home, "data")
    assert (record.device, record.data_path) == (old.device, old.data_path)
    assert not any(MARK in path.read_bytes() for path in files(home.path))


def test_what_is_on_a_device_cannot_be_kept(home: Home, device: Path) -> None:
    make(home, Placement(data=device))
    with pytest.raises(InvalidArgumentError, match="the encrypted volume needs"):
        encrypt(home, keep_old=True)
    assert load_workflows(home) == []


def test_a_device_is_given_up_until_it_is_overwritten(
    home: Home, device: Path, tmp_path: Path
) -> None:
    make(home, Placement(data=device))
    image = on_disk(device)
    with pytest.raises(StoppedError):
        encrypt(home, Stops("comparing the"))
    abort_encryption(home, "data")
    assert on_disk(device) == image
    with pytest.raises(StoppedError):
        encrypt(home, Stops("restoring"))
    with pytest.raises(InvalidArgumentError, match="can only be finished"):
        abort_encryption(home, "data")
    encrypt(home)
    assert plaintext(home, tmp_path / "out") == image[:SIZE]


@pytest.mark.parametrize("offset", [0, 4 * CHUNK_BYTES])
def test_a_device_that_is_not_what_was_stored_is_not_overwritten(
    home: Home, device: Path, offset: int
) -> None:
    """Somebody wrote to it: to what was data, or a hole."""
    make(home, Placement(data=device))
    with pytest.raises(StoppedError):
        encrypt(home, Stops("copying"))
    with open(device, "r+b") as file:
        file.seek(offset)
        file.write(b"another")
    run("blockdev", "--flushbufs", device)
    changed = on_disk(device)
    with pytest.raises(VerificationError, match="differs from it between bytes"):
        encrypt(home)
    assert on_disk(device) == changed
    abort_encryption(home, "data")


def test_only_what_was_begun_is_resumed(home: Home) -> None:
    make(home)
    with pytest.raises(WorkNotFoundError, match="no unfinished encryption"):
        encrypt_volume(
            home,
            "data",
            choice=KeyChoice(),
            keep_old=False,
            delete_plain_snapshots=False,
            progress=SILENT,
            only_resume=True,
        )
    with pytest.raises(StoppedError):
        encrypt(home, Stops("copying"))
    left = plan(home)
    assert left.resumes_at == Step.COPY.value
    with pytest.raises(InvalidArgumentError, match="begun without --online"):
        pause_migration(home, "data")
    assert Step.SNAPSHOT.value not in [each.step for each in left.steps]


def test_nothing_is_begun_without_the_local_store(home: Home) -> None:
    """As in a home that was restored from a backup."""
    make(home)
    before = plaintext(home, home.path / "out")
    open_local_store(home)
    shutil.rmtree(home.stores_path / LOCAL_STORE)
    with pytest.raises(StoreNotFoundError):
        encrypt(home)
    assert load_workflows(home) == []
    assert plaintext(home, home.path / "out") == before, "it can be read still"


def test_a_plan_counts_with_the_rate(home: Home) -> None:
    make(home)
    free = plan(home)
    held = free.held_to(CHUNK_BYTES)
    seconds = {each.step: each.seconds for each in held.steps}
    assert seconds[Step.COPY.value] >= free.data_bytes / CHUNK_BYTES
    assert seconds[Step.SWAP.value] < 1
    assert free.held_to(None) == free == free.held_to(2**60)


def test_a_file_that_is_gone_is_discarded(tmp_path: Path) -> None:
    assert discard_file(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"somebody else's")
    with pytest.raises(VolcryptError, match="is a link"):
        discard_file(tmp_path / "link")
    assert (tmp_path / "other").read_bytes() == b"somebody else's"


def test_a_volume_without_data_is_planned_too(home: Home) -> None:
    create_volume(home, size_bytes=SIZE, name="data", choice=KeyChoice(encrypted=False))
    made = plan(home)
    assert (made.data_bytes, made.read_rate, made.write_rate) == (0, None, None)
    os.unlink(data_path(home, made.record))
    with pytest.raises(RecordMissingError):
        plan(home)
