"""A file system whose reads and writes do a part of what they were asked for, under a home."""

import json
import os
from pathlib import Path

from tests.command import disposable_home
from tests.crash.logged_home import Work, check
from tests.partial_file_system import partial_file_system

READ = {"home", "kms", "volumes", "stores", "work", "written"}
WRITTEN = {".home.new", "kms", "volumes", "stores", "work", "written", "jobs"}


def test_a_home_where_no_call_does_all(tmp_path: Path) -> None:
    """Volumes on a mount, snapshots, copies, an import, an encryption, keys and the audit log."""
    point, notes = tmp_path / "point", tmp_path / "notes"
    point.mkdir()
    with (
        partial_file_system(tmp_path) as partial,
        disposable_home(partial.directory / "home") as command,
    ):
        Work(command.home, point, notes).run()
        known = [json.loads(line) for line in notes.read_text().splitlines()]
        check(command.home, known, tmp_path / "scratch")
    counts = partial.cut_short()
    assert {name for name in READ if f"read/home/{name}" not in counts} == set(), counts
    assert {name for name in WRITTEN if f"write/home/{name}" not in counts} == set(), counts


def test_control_a_call_does_a_part(tmp_path: Path) -> None:
    with partial_file_system(tmp_path) as partial:
        path = partial.directory / "file"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            written = [os.pwrite(descriptor, b"x" * 8192, 0) for _ in range(20)]
            assert min(written) < max(written) == 8192
            read = [len(os.pread(descriptor, 8192, 0)) for _ in range(20)]
            assert min(read) < max(read) == 8192
        finally:
            os.close(descriptor)
    counts = partial.cut_short()
    assert counts["write/file"] == sum(length < 8192 for length in written)
    assert counts["read/file"] == sum(length < 8192 for length in read)
