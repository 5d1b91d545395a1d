"""Locks on files that others may remove or replace."""

import fcntl
import os
from pathlib import Path

from volcrypt.file_lock import is_at, locked_within


def test_a_lock_file_is_known_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        assert is_at(path, descriptor)
        path.rename(tmp_path / "moved")
        assert not is_at(path, descriptor)
        path.touch()
        assert not is_at(path, descriptor)
        path.unlink()
        path.symlink_to(tmp_path / "moved")
        assert not is_at(path, descriptor)
    finally:
        os.close(descriptor)


def test_a_lock_that_is_held_is_tried_once_and_given_up(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert locked_within(one.fileno(), fcntl.LOCK_EX, 0)
        assert not locked_within(other.fileno(), fcntl.LOCK_SH, 0)
        fcntl.flock(one, fcntl.LOCK_UN)
        assert locked_within(other.fileno(), fcntl.LOCK_SH, 0)
