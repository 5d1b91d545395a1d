"""The last one that thaws: when it does, and when it leaves alone what is another's."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.file_system import DisposableFileSystem, run
from tests.frozen import is_frozen, opened, wait_until_thawed
from volcrypt.volume.thaw_guard import ThawGuard


@contextmanager
def guarded(
    ext4: DisposableFileSystem, seconds: float
) -> Iterator[tuple[ThawGuard, subprocess.Popen[bytes]]]:
    """By a freezer that does nothing. At the end the guard has let go of the file system."""
    with subprocess.Popen(["sleep", "600"]) as freezer, opened(ext4.directory) as directory:
        pair = os.dup(directory), os.pidfd_open(freezer.pid)
        names = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in pair]
        try:
            yield ThawGuard(*pair, seconds), freezer
        finally:
            freezer.kill()

        def has(descriptor: int, name: str) -> bool:
            try:
                return os.readlink(f"/proc/self/fd/{descriptor}") == name
            except FileNotFoundError:
                return False

        while any(map(has, pair, names)):
            time.sleep(0.01)


def test_the_deadline_thaws_though_the_freezer_is_there(ext4: DisposableFileSystem) -> None:
    with guarded(ext4, 0.1):
        run("fsfreeze", "--freeze", ext4.directory)
        wait_until_thawed(ext4.directory)


def test_the_end_of_both_thaws_and_not_that_of_one(ext4: DisposableFileSystem) -> None:
    with guarded(ext4, 600) as (guard, freezer):
        run("fsfreeze", "--freeze", ext4.directory)
        guard.abandon()
        time.sleep(0.2)
        assert is_frozen(ext4.directory)
        freezer.kill()
        wait_until_thawed(ext4.directory)


def test_one_that_was_released_leaves_the_freezes_of_others_alone(
    ext4: DisposableFileSystem,
) -> None:
    with guarded(ext4, 0.1) as (guard, _):
        guard.release()
        run("fsfreeze", "--freeze", ext4.directory)
        time.sleep(0.3)
        assert is_frozen(ext4.directory)
        run("fsfreeze", "--unfreeze", ext4.directory)
