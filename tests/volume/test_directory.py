"""Records of volumes: staged, promoted, read by digest, removed; at any power cut."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem
from volcrypt.errors import NoSpaceError, RecordMissingError, RollbackError
from volcrypt.names import VolumeId
from volcrypt.volume.directory import VolumeDirectory
from volcrypt.volume.owner import hold_volume

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
    volumes.promote_record(volume_id)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_staged_record_is_nothing_until_its_digest_is_asked_for(volumes: VolumeDirectory) -> None:
    put(volumes, A, OLD)
    volumes.stage_record(A, NEW)
    assert volumes.read_record(A, digest=sha256(OLD)) == OLD
    assert names(volumes.path_of(A)) == ["record", "record.next"]


def test_staged_record_that_the_register_names_is_promoted_by_its_reader(
    volumes: VolumeDirectory,
) -> None:
    put(volumes, A, OLD)
    volumes.stage_record(A, NEW)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW
    assert names(volumes.path_of(A)) == ["record"]
    assert (volumes.path_of(A) / "record").read_bytes() == NEW
    volumes.promote_record(A)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW


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
        volumes.promote_record(A)
    volumes.make(A)
    with pytest.raises(RecordMissingError, match=f"the record of {A} is registered"):
        volumes.read_record(A, digest=sha256(OLD))
    with pytest.raises(RecordMissingError):
        volumes.promote_record(A)


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
    assert names(volumes.path_of(A)) == names(volumes.path_of(B)) == ["record"]
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
    assert names(volumes.path_of(A)) == ["record"]
    (ext4.directory / "ballast").unlink()
    put(volumes, A, NEW)
    assert volumes.read_record(A, digest=sha256(NEW)) == NEW
