"""Durable replacement: after any crash the old content or the new, and after a return the new."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem
from tests.syncs import recorded_syncs
from volcrypt.durable import (
    OTHERS_LINK,
    canonical,
    make_directory_durably,
    no_space_named,
    overwrite,
    read_file,
    read_fully,
    remove_durably,
    sync_directory,
    write_durably,
)
from volcrypt.errors import MalformedError, NoSpaceError

OLD, NEW = b"old " * 2000, b"new " * 3000


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class TestWrite:
    def test_a_new_file(self, tmp_path: Path) -> None:
        write_durably(tmp_path / "record", NEW)
        assert (tmp_path / "record").read_bytes() == NEW
        assert names(tmp_path) == ["record"]

    def test_it_replaces(self, tmp_path: Path) -> None:
        write_durably(tmp_path / "record", OLD)
        with (tmp_path / "record").open("rb") as reader:
            write_durably(tmp_path / "record", NEW)
            assert reader.read() == OLD
        assert (tmp_path / "record").read_bytes() == NEW
        assert names(tmp_path) == ["record"]

    def test_its_mode(self, tmp_path: Path) -> None:
        write_durably(tmp_path / "secret", NEW)
        write_durably(tmp_path / "public", NEW, mode=0o644)
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644

    @pytest.mark.parametrize("leftover", ["file", "link"])
    def test_a_leftover_of_a_kill_does_not_matter(self, tmp_path: Path, leftover: str) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(OLD)
        if leftover == "file":
            (tmp_path / ".record.new").write_bytes(OLD * 2)
        else:
            (tmp_path / ".record.new").symlink_to(elsewhere)
        write_durably(tmp_path / "record", NEW)
        assert (tmp_path / "record").read_bytes() == NEW
        assert elsewhere.read_bytes() == OLD
        assert names(tmp_path) == ["elsewhere", "record"]

    def test_a_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_bytes(OLD)
        (tmp_path / "record").symlink_to(tmp_path / "target")
        write_durably(tmp_path / "record", NEW)
        assert not (tmp_path / "record").is_symlink()
        assert (tmp_path / "target").read_bytes() == OLD

    def test_an_error_has_the_whole_path(self, tmp_path: Path) -> None:
        (tmp_path / "record").mkdir()
        for call in (lambda path: write_durably(path, NEW), remove_durably):
            with pytest.raises(IsADirectoryError) as caught:
                call(tmp_path / "record")
            assert str(tmp_path) in caught.value.filename
        with pytest.raises(FileNotFoundError) as missing:
            read_file(tmp_path / "none", limit_bytes=1)
        assert missing.value.filename == str(tmp_path / "none")

    def test_a_full_disk_changes_nothing(self, ext4: DisposableFileSystem) -> None:
        record = ext4.directory / "record"
        write_durably(record, OLD)
        ext4.fill()
        with pytest.raises(NoSpaceError, match=f"no space left for {record}"):
            write_durably(record, NEW * 100)
        assert record.read_bytes() == OLD
        assert ".record.new" not in names(ext4.directory)

    def test_a_failed_rename_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "record").mkdir()
        with pytest.raises(IsADirectoryError):
            write_durably(tmp_path / "record", NEW)
        assert names(tmp_path) == ["record"]

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_durably(tmp_path / "missing" / "record", NEW)


class TestDirectories:
    def test_made_once(self, tmp_path: Path) -> None:
        make_directory_durably(tmp_path / "made")
        (tmp_path / "made" / "kept").touch()
        make_directory_durably(tmp_path / "made")
        assert names(tmp_path / "made") == ["kept"]
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            make_directory_durably(tmp_path / "file")

    def test_sync_takes_directories_only(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            sync_directory(tmp_path / "file")

    def test_remove(self, tmp_path: Path) -> None:
        (tmp_path / "record").touch()
        remove_durably(tmp_path / "record")
        remove_durably(tmp_path / "record")
        assert names(tmp_path) == []


class TestWhatOthersPutThere:
    def test_more_than_is_wanted(self, tmp_path: Path) -> None:
        (tmp_path / "record").write_bytes(OLD)
        assert read_file(tmp_path / "record", limit_bytes=len(OLD)) == OLD
        with pytest.raises(MalformedError, match=f"larger than {len(OLD) - 1} bytes"):
            read_file(tmp_path / "record", limit_bytes=len(OLD) - 1)

    def test_a_link_in_the_place_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "record").write_bytes(OLD)
        (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
        record = tmp_path / "home" / "record"
        with pytest.raises(MalformedError, match="in the place of a directory"):
            read_file(record, limit_bytes=2**20)
        with pytest.raises(MalformedError, match="in the place of a directory"):
            write_durably(record, NEW)
        with pytest.raises(MalformedError, match="in the place of a directory"):
            remove_durably(record)
        assert (tmp_path / "elsewhere" / "record").read_bytes() == OLD
        # Where a user chose the path it may lead anywhere.
        write_durably(record, NEW, follow=True)
        assert read_file(record, limit_bytes=2**20, follow=True) == NEW

    def test_a_link_of_another_user(self, tmp_path: Path) -> None:
        target = canonical(tmp_path) / "target"
        target.mkdir()
        (tmp_path / "link").symlink_to(target)
        assert canonical(tmp_path / "link" / ".." / "link") == target
        os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)
        with pytest.raises(PermissionError, match=OTHERS_LINK):
            canonical(tmp_path / "link")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_named(number: int) -> None:
    with pytest.raises(NoSpaceError, match="no space left for /x/y"), no_space_named(Path("/x/y")):
        raise OSError(number, os.strerror(number))


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError), no_space_named(Path("/x/y")):
        raise PermissionError(errno.EPERM, "no")


STEPS = ["open", "open", "fsync", "replace", "fsync"]
"""What `write_durably` does, in order: directory, file, ...; one renamed before it is synced may be
empty."""

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from volcrypt.durable import write_durably

path, content, kill_before = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
steps = []

def step(name, call):
    def counted(*arguments, **options):
        if len(steps) == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(name)
        return call(*arguments, **options)
    setattr(os, name, counted)

for name in ("open", "fsync", "replace"):
    step(name, getattr(os, name))
write_durably(path, content)
print(*steps)
"""


@pytest.mark.parametrize("kill_before", range(len(STEPS) + 1))
def test_a_kill_at_every_step(tmp_path: Path, kill_before: int) -> None:
    record = tmp_path / "record"
    write_durably(record, OLD)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, record, NEW.decode(), str(kill_before)],
        capture_output=True,
        text=True,
        check=False,
    )
    if kill_before == len(STEPS):
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == STEPS
    else:
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert record.read_bytes() == (NEW if kill_before > STEPS.index("replace") else OLD)
    write_durably(record, NEW)
    assert names(tmp_path) == ["record"]


def do_nothing(descriptor: int) -> None:
    """In the place of fsync: the control, without which a power-cut test may be blind."""


Change = Callable[[Path], None]


def replace_record(directory: Path) -> None:
    write_durably(directory / "record", NEW)


def make_record(directory: Path) -> None:
    write_durably(directory / "made", NEW)


def remove_record(directory: Path) -> None:
    remove_durably(directory / "record")


def make_directory(directory: Path) -> None:
    make_directory_durably(directory / "directory")


def state(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() if path.is_file() else b""
        for path in directory.iterdir()
        if path.name != "lost+found"
    }


@pytest.mark.parametrize("change", [replace_record, make_record, remove_record, make_directory])
def test_a_power_cut(
    file_system: DisposableFileSystem, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = file_system.directory
    write_durably(directory / "record", OLD)
    before = state(directory)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", do_nothing)
        change(directory)
    after = state(directory)
    assert after != before
    file_system.cut_power()
    assert state(directory) == before

    change(directory)
    file_system.cut_power()
    assert state(directory) == after


def test_removing_takes_what_a_killed_write_left_with_it(tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(b"current")
    (tmp_path / ".document.new").write_bytes(b"half")
    remove_durably(tmp_path / "document")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_leaves_the_size_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    overwrite(path)
    assert names(tmp_path) == []
    path.write_bytes(OLD * 150)  # more than is written at once
    inode = path.stat().st_ino
    with recorded_syncs() as synced:
        overwrite(path)
    assert synced == [path]
    assert path.read_bytes() == bytes(len(OLD) * 150)
    assert path.stat().st_ino == inode
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        overwrite(tmp_path / "link")


def test_a_short_read_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    content = bytes(range(200))
    path.write_bytes(content)
    real = os.pread
    descriptor = os.open(path, os.O_RDONLY)
    try:
        monkeypatch.setattr(os, "pread", lambda file, count, at: real(file, min(count, 7), at))
        for length, offset in ((0, 0), (1, 3), (7, 0), (100, 50), (200, 0), (300, 0), (9, 200)):
            assert read_fully(descriptor, length, offset) == content[offset : offset + length]
    finally:
        os.close(descriptor)
