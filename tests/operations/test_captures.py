"""Captures of volumes of a home: mounted ones, others, and several at one point."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.planes import data_plane
from tests.volume.place import point
from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import MountError, TryAgainError, VolumeInUseError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.captures import CapturedVolume, Target, capture_volumes
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.mounts import mount_volume, served_volumes, unmount_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.volume.launch import spawn_daemon
from volcrypt.volume.owner import hold_volume

CHUNKS = 4


@pytest.fixture
def volumes(home: Home, tmp_path: Path) -> Iterator[list[VolumeRecord]]:
    """Three volumes, of which the last is not mounted."""
    made = []
    for name in ("one", "two", "three"):
        choice = KeyChoice(encrypted=False)
        made.append(create_volume(home, size_bytes=CHUNKS * CHUNK_BYTES, name=name, choice=choice))
        if name != "three":
            (tmp_path / name).mkdir()
            mount_volume(
                home,
                name,
                tmp_path / name,
                read_only=False,
                launch=spawn_daemon,
                data_plane=data_plane(),
            )
    yield made
    for status in served_volumes(home):
        with suppress(MountError):  # it is ending by itself
            unmount_volume(home, status.volume_id)


def write(tmp_path: Path, name: str, chunk: int, data: bytes) -> None:
    with (tmp_path / name / "volume").open("r+b", buffering=0) as file:
        file.seek(chunk * CHUNK_BYTES)
        file.write(data)


def read(volume: CapturedVolume, chunk: int) -> bytes:
    buffer = bytearray(CHUNK_BYTES)
    volume.read_chunk(chunk, buffer)
    volume.release(range(chunk, chunk + 1))
    return bytes(buffer[:4])


@contextmanager
def capture_volume(home: Home, record: VolumeRecord) -> Iterator[CapturedVolume]:
    with capture_volumes(home, [Target(record=record)]) as (captured,):
        yield captured


def test_a_mounted_volume_is_read_as_it_was(
    home: Home, volumes: list[VolumeRecord], tmp_path: Path
) -> None:
    write(tmp_path, "one", 1, b"old.")
    with capture_volume(home, volumes[0]) as captured:
        assert (captured.parent, captured.changed) == (None, None)
        assert captured.size_bytes == CHUNKS * CHUNK_BYTES
        assert 0 < captured.barrier_us < 10**6
        write(tmp_path, "one", 1, b"new.")
        write(tmp_path, "one", 2, b"new.")
        assert read(captured, 1) == b"old."
        assert read(captured, 2) == bytes(4)
        assert 1 in captured.candidate_chunks()
        with pytest.raises(TryAgainError), capture_volume(home, volumes[0]):
            pass
        captured.commit(point(1))
    with capture_volume(home, volumes[0]) as captured:
        assert captured.parent == point(1)
        assert captured.changed is not None
        assert list(captured.changed) == [1, 2]
        captured.want(ChunkSet(CHUNKS, [1]))
        write(tmp_path, "one", 1, b"last")
        write(tmp_path, "one", 2, b"last")
        assert read(captured, 1) == b"new."
        assert read(captured, 2) == b"last"


def test_one_that_was_given_up_counts_its_changes_again(
    home: Home, volumes: list[VolumeRecord], tmp_path: Path
) -> None:
    for record in (volumes[0], volumes[2]):
        with capture_volume(home, record) as captured:
            captured.commit(point(1))
    write(tmp_path, "one", 3, b"x")
    for _ in range(2):
        with capture_volume(home, volumes[0]) as captured:
            assert captured.changed is not None
            assert list(captured.changed) == [3]
    with capture_volume(home, volumes[2]) as captured:
        assert captured.parent == point(1)
        assert captured.changed is not None
        assert not list(captured.changed)
        captured.want(captured.changed)
        assert read(captured, 0) == bytes(4)


def test_the_end_of_the_process_that_serves_is_no_error_of_a_stored_snapshot(
    home: Home, volumes: list[VolumeRecord]
) -> None:
    """It is complete; only the next one will be counted from an older one."""
    with capture_volume(home, volumes[0]) as captured:
        captured.release(range(CHUNKS))
        (status,) = [s for s in served_volumes(home) if s.volume_id == volumes[0].volume_id]

        os.kill(status.pid, signal.SIGTERM)
        captured.commit(point(1))


def test_several_at_one_point(home: Home, volumes: list[VolumeRecord], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, name, 0, b"old.")
    order = [volumes[2], volumes[1], volumes[0]]
    with capture_volumes(home, [Target(record=each) for each in order]) as captured:
        assert [volume.size_bytes for volume in captured] == [CHUNKS * CHUNK_BYTES] * 3
        for name in ("one", "two"):
            write(tmp_path, name, 0, name.encode())
        assert [read(volume, 0) for volume in captured] == [bytes(4), b"old.", b"old."]
        with pytest.raises(VolumeInUseError):
            hold_volume(home.volumes.path_of(volumes[2].volume_id), purpose="test")
    with capture_volume(home, volumes[2]):
        pass


def test_one_that_cannot_be_captured_ends_all(
    home: Home, volumes: list[VolumeRecord], tmp_path: Path
) -> None:
    with capture_volume(home, volumes[1]):
        with (
            pytest.raises(TryAgainError, match="another snapshot"),
            capture_volumes(home, [Target(record=each) for each in volumes]),
        ):
            pass
        write(tmp_path, "one", 0, b"goes on")
    with capture_volumes(home, [Target(record=each) for each in volumes]) as captured:
        assert len(captured) == 3
