"""Records of volumes: staged, promoted, read by digest, removed; at any power cut."""

import errno
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.file_system import DisposableFileSystem
from tests.syncs import recorded_syncs
from volcrypt.durable import read_file
from volcrypt.errors import IntegrityError, NoSpaceError, RecordMissingError, RollbackError
from volcrypt.names import VolumeId
from volcrypt.volume import directory
from volcrypt.volume.directory import KEEP_DATA_FILE, VolumeDirectory
from volcrypt.volume.owner import OWNER_FILE, hold_volume

A = VolumeId("vol-0000000000000000a")
B = VolumeId("vol-0000000000000000b")
OLD, NEW = b"old record", b"new record"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeDirectory:
    (tmp_path / "volumes").mkdir()
    return VolumeDirectory(tmp_path / "volumes")


def put(volumes: VolumeDirectory, volume_id: VolumeId, record: bytes) -> None:
    volumes.stage_record(volume_id, record)
    volumes.promote_record(volume_id, record)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_staged_record_is_nothing_until_its_digest_is_asked_for(volumes: VolumeDirectory) -> None:
    put(volumes, A, OLD)
    volumes.stage_record(A, NEW)
    assert volumes.read_record(A, digest=sha256(OLD)) == OLD
    assert names(volumes.path_of(A)) == ["record", "record.next", "record.spare"]


def test_staged_record_that_the_register_names_is_promoted_by_its_reader(
    volumes: VolumeDirectory,
) -> None:
    put(volumes, A, OLD)
    volumes.stage_record(A, NEW)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW
    assert names(volumes.path_of(A)) == ["record", "record.spare"]
    assert (volumes.path_of(A) / "record").read_bytes() == NEW
    volumes.promote_record(A, NEW)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW


def test_what_is_promoted_and_what_is_removed_is_durable(volumes: VolumeDirectory) -> None:
    volumes.stage_record(A, OLD)
    (volumes.path_of(A) / "data").touch()
    with recorded_syncs() as synced:
        volumes.promote_record(A, OLD)
        spare = volumes.path_of(A) / ".record.spare.new"
        assert synced == [volumes.path_of(A), spare, volumes.path_of(A)]
        synced.clear()
        volumes.remove(A)
    # The data's name goes for good before the record does.
    assert synced == [volumes.path_of(A), volumes.path]


@pytest.mark.parametrize("what", ["stage", "promote", "read"])
def test_who_works_on_a_record_takes_turns(volumes: VolumeDirectory, what: str) -> None:
    put(volumes, A, OLD)
    works: dict[str, Callable[[], object]] = {
        "stage": lambda: volumes.stage_record(A, NEW),
        "promote": lambda: volumes.promote_record(A, NEW),
        "read": lambda: volumes.read_record(A, digest=sha256(OLD)),
    }
    descriptor = os.open(volumes.path_of(A), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        waits = re.compile(rf"-> FLOCK .*:{os.fstat(descriptor).st_ino} ")
        thread = threading.Thread(target=works[what])
        thread.start()
        while thread.is_alive() and not waits.search(Path("/proc/locks").read_text()):
            pass
        assert thread.is_alive()
    finally:
        os.close(descriptor)
    thread.join()


def test_what_says_to_keep_data_goes_after_the_record(
    volumes: VolumeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record without it would have somebody remove what is another home's as well."""
    put(volumes, A, OLD)
    files = names(volumes.path_of(A))
    for name in (KEEP_DATA_FILE, OWNER_FILE):
        (volumes.path_of(A) / name).touch()
    unlink, gone = os.unlink, []

    def noted(name: str, **options: int) -> None:
        gone.append(name)
        unlink(name, **options)

    monkeypatch.setattr(os, "unlink", noted)
    # A directory has its names in any order.
    monkeypatch.setattr(os, "listdir", lambda _: [OWNER_FILE, KEEP_DATA_FILE, *files])
    volumes.remove(A)
    assert gone == ["data", *files, KEEP_DATA_FILE, OWNER_FILE]


def test_first_record_of_a_volume(volumes: VolumeDirectory) -> None:
    volumes.stage_record(A, OLD)
    assert volumes.path_of(A).stat().st_mode & 0o777 == 0o700
    assert volumes.read_record(A, digest=sha256(OLD)) == OLD


def test_older_record_is_refused(volumes: VolumeDirectory) -> None:
    put(volumes, A, OLD)
    with pytest.raises(RollbackError, match=f"the record of {A}: it is not the current version"):
        volumes.read_record(A, digest=sha256(NEW))
    volumes.stage_record(A, b"yet another")
    with pytest.raises(RollbackError):
        volumes.read_record(A, digest=sha256(NEW))


def test_missing_record(volumes: VolumeDirectory) -> None:
    with pytest.raises(RecordMissingError, match=f"volume {A} is registered, and missing on disk"):
        volumes.read_record(A, digest=sha256(OLD))
    with pytest.raises(RecordMissingError):
        volumes.promote_record(A, NEW)
    volumes.make(A)
    with pytest.raises(RecordMissingError, match=f"the record of {A} is registered"):
        volumes.read_record(A, digest=sha256(OLD))
    with pytest.raises(RecordMissingError):
        volumes.promote_record(A, NEW)


@pytest.fixture
def told(volumes: VolumeDirectory) -> list[str]:
    """What `volumes` warns of."""
    said: list[str] = []
    volumes._warn = said.append
    return said


def spoiled(path: Path, how: str) -> None:
    """Another thing in the place of a file of ours."""
    path.unlink()
    match how:
        case "cut":
            path.write_bytes(NEW[:-1])
        case "older":
            path.write_bytes(OLD)
        case "link":
            path.with_name("elsewhere").write_bytes(NEW)
            path.symlink_to("elsewhere")
        case "pipe":
            os.mkfifo(path)
        case "large":
            path.touch()
            os.truncate(path, 2**30)


DAMAGE = ("missing", "cut", "older", "link", "pipe", "large")


class TestSpare:
    def place(self, volumes: VolumeDirectory) -> Path:
        put(volumes, A, OLD)
        put(volumes, A, NEW)
        return volumes.path_of(A)

    @pytest.mark.parametrize("how", DAMAGE)
    def test_what_is_damaged_is_put_back_from_the_other(
        self, volumes: VolumeDirectory, told: list[str], how: str
    ) -> None:
        place = self.place(volumes)
        for name, says in (
            ("record", "was missing, damaged or old, and was put back"),
            ("record.spare", "the spare record"),
        ):
            spoiled(place / name, how)
            assert not volumes.has_spare(A)
            assert volumes.read_record(A, digest=sha256(NEW)) == NEW
            assert {
                (place / each).read_bytes()
                for each in ("record", "record.spare")
                if not (place / each).is_symlink()
            } == {NEW}
            assert volumes.has_spare(A)
            is_silent = (name, how) == ("record.spare", "missing")  # as in homes of before
            assert [says in line for line in told] == [True] * (not is_silent)
            told.clear()
        assert volumes.read_record(A, digest=sha256(NEW)) == NEW
        assert told == []

    def test_an_older_spare_is_no_record(self, volumes: VolumeDirectory, told: list[str]) -> None:
        place = self.place(volumes)
        for name in ("record", "record.spare"):
            (place / name).write_bytes(OLD)
        with pytest.raises(RollbackError):
            volumes.read_record(A, digest=sha256(NEW))
        (place / "record").unlink()
        with pytest.raises(RecordMissingError):
            volumes.read_record(A, digest=sha256(NEW))
        assert (names(place), told) == (["record.spare"], [])

    def test_what_is_staged_stays(self, volumes: VolumeDirectory) -> None:
        """Whoever stages may be past the register's transaction."""
        place = self.place(volumes)
        volumes.stage_record(A, b"newer")
        (place / "record").unlink()
        assert volumes.read_record(A, digest=sha256(NEW)) == NEW
        assert volumes.read_record(A, digest=sha256(b"newer")) == b"newer"
        assert (place / "record.spare").read_bytes() == b"newer"

    def test_who_promotes_late_leaves_the_spare(self, volumes: VolumeDirectory) -> None:
        place = self.place(volumes)
        volumes.promote_record(A, OLD)
        assert (place / "record.spare").read_bytes() == NEW

    def test_a_sector_that_is_lost(
        self, volumes: VolumeDirectory, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, lost = self.place(volumes), {"record", "record.spare"}

        def read(path: Path, *, limit_bytes: int) -> bytes:
            if path.name in lost:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return read_file(path, limit_bytes=limit_bytes)

        monkeypatch.setattr(directory, "read_file", read)
        with pytest.raises(IntegrityError, match="record cannot be read: Input/output error"):
            volumes.read_record(A, digest=sha256(NEW))
        lost.remove("record.spare")
        inode = (place / "record").stat().st_ino
        assert volumes.read_record(A, digest=sha256(NEW)) == NEW
        assert (place / "record").stat().st_ino != inode
        assert "was put back" in told[0]

    def test_a_spare_that_another_user_wrote(
        self, volumes: VolumeDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Root, say, who had a look at the home; whoever owns the directory replaces it."""
        place = self.place(volumes)
        others = {(place / "record.spare").stat().st_ino}

        def read(path: Path, *, limit_bytes: int) -> bytes:
            if path.exists() and path.stat().st_ino in others:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return read_file(path, limit_bytes=limit_bytes)

        monkeypatch.setattr(directory, "read_file", read)
        assert volumes.read_record(A, digest=sha256(NEW)) == NEW
        assert volumes.has_spare(A)
        others |= {(place / name).stat().st_ino for name in ("record", "record.spare")}
        with pytest.raises(PermissionError, match="/record'"):
            volumes.read_record(A, digest=sha256(NEW))

    def test_what_cannot_be_put_back_is_used(
        self, volumes: VolumeDirectory, told: list[str]
    ) -> None:
        place = self.place(volumes)
        (place / "record").unlink()
        (place / "record").mkdir()
        assert volumes.read_record(A, digest=sha256(NEW)) == NEW
        assert "is missing, damaged or old; a copy is used, which cannot be put back" in told[0]
        assert not volumes.has_spare(A)
        (place / "record").rmdir()

    def test_nothing_is_put_back_into_what_is_removed(self, volumes: VolumeDirectory) -> None:
        """A reader that knows the register's row of before comes after each call of the remover."""
        place = self.place(volumes)
        (place / "data").touch()
        readers: list[Thread] = []

        def read() -> None:
            with suppress(RecordMissingError):
                volumes.read_record(A, digest=sha256(NEW))

        def unlink(name: str, *, dir_fd: int) -> None:
            os_unlink(name, dir_fd=dir_fd)
            readers.append(Thread(target=read))
            readers[-1].start()
            # As soon as it is let, or after the removal.
            readers[-1].join(timeout=0.1)

        os_unlink = os.unlink
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            volumes.remove(A)
        for reader in readers:
            reader.join()
        assert len(readers) == 3
        assert not place.exists()


def test_ids_are_directories_that_are_named_like_volumes(volumes: VolumeDirectory) -> None:
    volumes.make(B)
    volumes.make(A)
    volumes.make(A)
    (volumes.path / "lost+found").mkdir()
    (volumes.path / "vol-0000000000000000c").write_bytes(b"")
    (volumes.path / "vol-0000000000000000d").symlink_to(volumes.path_of(A))
    assert volumes.ids() == [A, B]


def test_remove(volumes: VolumeDirectory) -> None:
    put(volumes, A, OLD)
    put(volumes, B, OLD)
    (volumes.path_of(A) / "data").write_bytes(b"ciphertext")
    (volumes.path_of(A) / ".record.next.new").write_bytes(b"left by a kill")
    with hold_volume(volumes.path_of(A), purpose="delete"):
        volumes.remove(A)
    volumes.remove(A)
    assert volumes.ids() == [B]
    assert volumes.read_record(B, digest=sha256(OLD)) == OLD


def test_remove_takes_the_data_first(volumes: VolumeDirectory) -> None:
    """Stopped half way, a volume whose data is gone is never left looking whole."""
    put(volumes, A, OLD)
    (volumes.path_of(A) / "data").write_bytes(b"ciphertext")
    (volumes.path_of(A) / "in-the-way").mkdir()
    with pytest.raises(OSError, match="in-the-way"):
        volumes.remove(A)
    assert not (volumes.path_of(A) / "data").exists()
    (volumes.path_of(A) / "in-the-way").rmdir()
    volumes.remove(A)
    assert volumes.ids() == []


def test_leftovers_are_neither_registered_nor_held(volumes: VolumeDirectory) -> None:
    volumes.make(A)
    volumes.make(B)
    assert volumes.leftovers({A}) == [B]
    with hold_volume(volumes.path_of(B), purpose="create"):
        assert volumes.leftovers({A}) == []
    (volumes.path_of(B) / "owner").write_bytes(b"junk that nobody understands")
    assert volumes.leftovers({A}) == []


def test_what_returned_survives_a_power_cut(file_system: DisposableFileSystem) -> None:
    volumes = VolumeDirectory(file_system.directory)
    put(volumes, A, OLD)
    volumes.stage_record(A, NEW)
    volumes.stage_record(B, OLD)
    file_system.cut_power()
    assert volumes.read_record(A, digest=sha256(OLD)) == OLD
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW
    assert volumes.read_record(B, digest=sha256(OLD)) == OLD
    file_system.cut_power()
    assert names(volumes.path_of(A)) == names(volumes.path_of(B)) == ["record", "record.spare"]
    put(volumes, A, OLD)
    (volumes.path_of(B) / "record").unlink()
    file_system.cut_power()
    assert (volumes.path_of(A) / "record.spare").read_bytes() == OLD
    assert volumes.read_record(B, digest=sha256(OLD)) == OLD
    file_system.cut_power()
    assert names(volumes.path_of(B)) == ["record", "record.spare"]
    volumes.remove(B)
    file_system.cut_power()
    assert volumes.ids() == [A]


def test_full_disk_leaves_the_record_as_it_was(ext4: DisposableFileSystem) -> None:
    volumes = VolumeDirectory(ext4.directory)
    put(volumes, A, OLD)
    ext4.fill()
    with pytest.raises(NoSpaceError):
        volumes.stage_record(A, NEW * 1000)
    assert volumes.read_record(A, digest=sha256(OLD)) == OLD
    assert names(volumes.path_of(A)) == ["record", "record.spare"]
    (ext4.directory / "ballast").unlink()
    put(volumes, A, NEW)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW
