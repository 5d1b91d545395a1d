"""The change map: never fewer chunks than changed, whatever stops its process and wherever."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.file_system import DisposableFileSystem, run
from tests.volume.place import (
    SIZE,
    VOID,
    Place,
    begin_and_look,
    changed_of,
    mark,
    point,
    volume_place,
)
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with volume_place(tmp_path) as place:
        yield place


class TestGenerations:
    def test_new_map_is_void(self, place: Place) -> None:
        changes = place.open()
        assert changes.is_void
        assert changes.parent is None
        mark(changes, 1)
        capture = changes.begin_capture()
        assert (capture.parent, changes.changed_bits(capture)) == (None, None)
        changes.close()
        changes.close()

    def test_after_a_first_snapshot_changes_are_known(self, place: Place) -> None:
        changes = place.open()
        mark(changes, 1)
        capture = changes.begin_capture()
        mark(changes, 2, 9)
        changes.commit_capture(capture, point(1))
        mark(changes, 3)
        assert not changes.is_void
        assert changes.parent == point(1)
        capture = changes.begin_capture()
        assert (capture.parent, changed_of(changes, capture)) == (point(1), {2, 3, 9})
        changes.commit_capture(capture, point(2))
        assert begin_and_look(changes) == set()
        changes.close()

    def test_aborted_capture_gives_its_changes_back(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        mark(changes, 2)
        changes.abort_capture(capture)
        mark(changes, 3)
        capture = changes.begin_capture()
        assert (capture.parent, changed_of(changes, capture)) == (point(1), {1, 2, 3})
        changes.close()

    def test_aborted_capture_of_a_void_map(self, place: Place) -> None:
        changes = place.open()
        changes.abort_capture(changes.begin_capture())
        assert changes.is_void
        changes.close()

    def test_what_a_capture_was_given_does_not_change(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        mark(changes, 5)
        assert changed_of(changes, capture) == {1}
        mark(changes, 6)
        assert changed_of(changes, capture) == {1}
        changes.commit_capture(capture, point(2))
        with pytest.raises(AssertionError, match="not the capture"):
            changes.changed_bits(capture)
        changes.close()

    def test_writes_under_way_are_part_of_the_capture(self, place: Place) -> None:
        """They may mark either generation, before or after."""
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture([range(4, 6), range(8, 9)])
        mark(changes, 4)
        assert changed_of(changes, capture) == {1, 4, 5, 8}
        changes.commit_capture(capture, point(2))
        assert begin_and_look(changes) == {4}
        changes.close()

    @pytest.mark.parametrize("ends", ["commit", "abort", "kill"])
    def test_nothing_of_an_ended_capture_comes_back(self, place: Place, ends: str) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        if ends == "commit":
            changes.commit_capture(capture, point(2))
        elif ends == "abort":
            changes.abort_capture(capture)
        else:
            changes.close()
            changes = place.open()
        expected: set[int] = set() if ends == "commit" else {1}
        for number in (3, 4):
            capture = changes.begin_capture()
            assert changed_of(changes, capture) == expected
            changes.commit_capture(capture, point(number))
            expected = set()
        changes.close()

    def test_runs_of_chunks(self, place: Place) -> None:
        place.make_known()
        changes = place.open()
        changes.mark(range(0))
        changes.mark(range(2, 5))
        changes.mark(range(4, 6))
        assert begin_and_look(changes) == {2, 3, 4, 5}
        changes.close()

    def test_only_the_running_capture_can_end(self, place: Place) -> None:
        changes = place.open()
        capture = changes.begin_capture()
        with pytest.raises(AssertionError, match="a capture is running"):
            changes.begin_capture()
        changes.commit_capture(capture, point(1))
        with pytest.raises(AssertionError, match="not the capture"):
            changes.commit_capture(capture, point(1))
        with pytest.raises(AssertionError, match="not the capture"):
            changes.abort_capture(capture)
        changes.close()


class TestAfterAKill:
    """`close` without `save_clean` leaves what a kill leaves."""

    def test_marks_are_kept(self, place: Place) -> None:
        place.make_known(1, 9)
        assert place.state() == (point(1), {1, 9})

    def test_running_capture_is_aborted(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        changes.begin_capture()
        mark(changes, 2)
        changes.close()
        changes = place.open()
        mark(changes, 3)
        changes.close()
        assert place.state() == (point(1), {1, 2, 3})

    def test_clean_copy_is_gone_while_it_is_open(self, place: Place) -> None:
        place.detach(1)
        changes = place.open()
        assert not place.clean.exists()
        assert place.live.stat().st_mode & 0o777 == 0o600
        changes.close()


class TestCleanCopy:
    def test_takes_over(self, place: Place) -> None:
        place.detach(0, 9)
        assert place.clean.exists()
        assert not place.live.exists()
        assert place.state() == (point(1), {0, 9})

    def test_of_a_void_map_is_none(self, place: Place) -> None:
        changes = place.open()
        changes.save_clean()
        changes.close()
        assert not place.clean.exists()
        assert not place.live.exists()

    def test_while_a_capture_runs(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        changes.begin_capture()
        mark(changes, 2)
        changes.save_clean()
        changes.close()
        assert place.state() == (point(1), {1, 2})

    def test_data_written_since(self, place: Place) -> None:
        place.detach(1)
        status = place.data.stat()
        os.utime(place.data, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert place.state() == VOID

    def test_data_of_another_size(self, place: Place) -> None:
        place.detach(1)
        status = place.data.stat()
        os.truncate(place.data, SIZE + UNIT_BYTES)
        os.utime(place.data, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert place.state() == VOID

    def test_sealed_by_another(self, place: Place) -> None:
        place.detach(1)
        changes = place.open(seal=MacSeal(bytes([7] * 32)))
        assert changes.is_void
        changes.close()

    @pytest.mark.parametrize("other", [{"volume_id": "vol-" + "f" * 17}, {"size_bytes": SIZE // 2}])
    def test_of_another_volume(self, place: Place, other: dict[str, Any]) -> None:
        place.detach(1)
        changes = place.open(**other)
        assert changes.is_void
        changes.close()
        assert not place.clean.exists()

    @pytest.mark.parametrize("damage", ["truncate", "flip", "extend", "junk", "huge", "empty"])
    def test_damaged(self, place: Place, damage: str) -> None:
        place.detach(1)
        content = bytearray(place.clean.read_bytes())
        match damage:
            case "truncate":
                del content[-1]
            case "flip":
                content[-1] ^= 1
            case "extend":
                content += b"\0"
            case "junk":
                content = bytearray(os.urandom(200))
            case "huge":
                content += bytes(100_000)
            case _:
                content.clear()
        place.clean.write_bytes(content)
        assert place.state() == VOID
        assert not place.clean.exists()

    def test_cannot_be_written(self, place: Place, ext4: DisposableFileSystem) -> None:
        """The live map stays, which is as good until the next boot."""
        on_disk = Place(place.memory, ext4.directory)
        on_disk.data.write_bytes(b"")
        os.truncate(on_disk.data, SIZE)
        on_disk.make_known(1, 5)
        ext4.fill()
        changes = on_disk.open()
        changes.save_clean()
        changes.close()
        assert not on_disk.clean.exists()
        assert on_disk.state() == (point(1), {1, 5})

    def test_of_a_device_is_none(self, place: Place, tmp_path: Path) -> None:
        """It has no time that would tell of writes by others."""
        device = Path(run("losetup", "--find", "--show", place.data).strip())
        try:
            changes = place.open(data_path=device)
            changes.commit_capture(changes.begin_capture(), point(1))
            changes.close()
            changes = place.open(data_path=device)
            assert changes.parent == point(1)
            changes.save_clean()
            changes.close()
        finally:
            run("losetup", "--detach", device)
        assert not place.clean.exists()
        assert not place.live.exists()

    def test_of_data_that_cannot_be_synced_is_none(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was lost is not in the data, and would be missing in the next snapshot."""
        place.make_known(1, 5)
        changes = place.open()
        real, data = os.fsync, place.data.stat().st_ino

        def fsync(descriptor: int) -> None:
            if os.fstat(descriptor).st_ino == data:
                raise OSError(5, "Input/output error")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        changes.save_clean()
        changes.close()
        monkeypatch.undo()
        assert not place.clean.exists()
        assert place.state() == VOID

    def test_survives_a_power_cut(self, place: Place, file_system: DisposableFileSystem) -> None:
        on_disk = Place(place.memory, file_system.directory)
        on_disk.data.write_bytes(b"")
        os.truncate(on_disk.data, SIZE)
        on_disk.make_known()
        changes = on_disk.open()
        with on_disk.data.open("r+b") as file:
            mark(changes, 3)
            file.seek(3 * CHUNK_BYTES)
            file.write(b"changed")
        changes.save_clean()
        changes.close()
        file_system.cut_power()
        assert on_disk.state() == (point(1), {3})

    def test_removal_survives_a_power_cut(
        self, place: Place, file_system: DisposableFileSystem
    ) -> None:
        """Otherwise it would come back, and not know of what was written since."""
        on_disk = Place(place.memory, file_system.directory)
        on_disk.data.write_bytes(b"")
        os.truncate(on_disk.data, SIZE)
        on_disk.detach(1)
        changes = on_disk.open()
        changes.close()
        on_disk.live.unlink()
        file_system.cut_power()
        assert on_disk.state() == VOID


class TestDoubtAboutTheLiveMap:
    @pytest.mark.parametrize(
        ("offset", "value"),
        [(0, 1), (8, 9), (20, 1), (60, 1), (512, 0), (512, 0x54), (1024, 9), (2048, 9), (2090, 9)],
    )
    def test_damaged_header(self, place: Place, offset: int, value: int) -> None:
        place.make_known(1)
        place.make_known(1, number=2)
        content = bytearray(place.live.read_bytes())
        if content[offset] == value:
            value += 1
        content[offset] = value
        place.live.write_bytes(content)
        state = place.state()
        # One of the two parent slots is not in use.
        assert state == VOID or (offset in (1024, 2048, 2090) and state == (point(2), {1}))

    def test_damage_of_the_parent_in_use(self, place: Place) -> None:
        place.make_known(1)
        content = place.live.read_bytes()
        assert content.count(b"snap-") == 1
        place.live.write_bytes(content.replace(b"snap-0", b"snap-1"))
        assert place.state() == VOID

    @pytest.mark.parametrize("length", [0, 100, 4096])
    def test_cut(self, place: Place, length: int) -> None:
        place.make_known(1)
        os.truncate(place.live, length)
        assert place.state() == VOID

    def test_of_another_boot(self, place: Place) -> None:
        place.make_known(1)
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        content = place.live.read_bytes()
        assert content.count(boot_id) == 1
        place.live.write_bytes(content.replace(boot_id, b"0" * len(boot_id)))
        assert place.state() == VOID

    @pytest.mark.parametrize("ends", ["killed", "closed"])
    def test_of_the_data_that_it_followed(self, place: Place, ends: str) -> None:
        place.make_known(1)
        changes = place.open()
        mark(changes, 1, 2)
        shutil.copy(place.data, place.disk / "copy")
        os.replace(place.disk / "copy", place.data)
        changes.follow(place.data)
        assert changes.is_void
        changes.commit_capture(changes.begin_capture(), point(2))
        mark(changes, 3)
        if ends == "closed":
            changes.save_clean()
        changes.close()
        assert place.state() == (point(2), {3})

    def test_of_another_data_file(self, place: Place) -> None:
        place.make_known(1)
        shutil.copy(place.data, place.disk / "copy")
        os.replace(place.disk / "copy", place.data)
        assert place.state() == VOID

    @pytest.mark.parametrize("other", [{"volume_id": "vol-" + "f" * 17}, {"size_bytes": SIZE // 2}])
    def test_of_another_volume(self, place: Place, other: dict[str, Any]) -> None:
        place.make_known(1)
        changes = place.open(**other)
        assert changes.is_void
        changes.close()

    def test_on_a_disk(self, place: Place) -> None:
        """A crash of that disk's file system may have lost marks, and not the data."""
        on_disk = Place(place.disk, place.disk)
        on_disk.make_known(1)
        assert on_disk.state() == VOID

    def test_link_is_not_followed(self, place: Place) -> None:
        place.make_known(1)
        os.rename(place.live, place.memory / "elsewhere")
        place.live.symlink_to(place.memory / "elsewhere")
        assert place.state() == VOID
        assert not place.live.is_symlink()

    def test_clean_copy_that_was_not_used_before_a_kill(self, place: Place) -> None:
        """Killed between making the live map and removing the clean copy: both say the same."""
        place.detach(4)
        content = place.clean.read_bytes()
        changes = place.open()
        changes.close()
        place.clean.write_bytes(content)
        assert place.state() == (point(1), {4})
        assert not place.clean.exists()

    def test_no_room_in_memory(self, place: Place, tmp_path: Path) -> None:
        """Then a kill loses the map, and nothing else."""
        small = tmp_path / "small"
        small.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small)
        try:
            crowded = Place(small, place.disk)
            changes = crowded.open()
            capture = changes.begin_capture()
            mark(changes, 3)
            changes.commit_capture(capture, point(1))
            assert begin_and_look(changes) == {3}
            changes.close()
            assert list(small.iterdir()) == []
            assert crowded.state() == VOID
        finally:
            run("umount", small)


class TestLostWrites:
    def test_distrusted_map_is_void_until_it_is_opened_again(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        changes.distrust()
        assert changes.is_void
        capture = changes.begin_capture()
        assert changes.changed_bits(capture) is None
        changes.commit_capture(capture, point(2))
        assert changes.is_void
        changes.save_clean()
        changes.close()
        assert not place.clean.exists()
        assert place.state() == VOID

    def test_distrust_survives_a_kill(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        changes.distrust()
        changes.close()
        assert place.state() == VOID

    def test_distrust_while_a_capture_runs(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        changes.distrust()
        changes.commit_capture(capture, point(2))
        assert changes.is_void
        changes.close()

    def test_distrust_while_a_commit_syncs(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flush in another thread was told first of what the commit is not told any more."""
        changes = place.open()
        capture = changes.begin_capture()

        def sync_beside_a_failing_flush() -> bool:
            changes.distrust()
            return True

        monkeypatch.setattr(changes, "_sync_data", sync_beside_a_failing_flush)
        changes.commit_capture(capture, point(2))
        assert changes.is_void
        changes.close()
        assert place.state() == VOID

    def test_capture_of_data_that_cannot_be_synced(
        self, place: Place, ext4: DisposableFileSystem
    ) -> None:
        """The snapshot read the page cache; the medium may hold older chunks."""
        on_disk = Place(place.memory, ext4.directory)
        on_disk.data.write_bytes(b"")
        os.truncate(on_disk.data, SIZE)
        on_disk.make_known(1)
        changes = on_disk.open()
        capture = changes.begin_capture()
        with on_disk.data.open("r+b") as file:
            file.write(b"lost")
        ext4.shut_down()
        changes.commit_capture(capture, point(2))
        assert changes.is_void
        changes.save_clean()
        changes.close()
        ext4.come_back()
        assert on_disk.state() == VOID
