"""New files on every kind of file system: whole, durable and never in another's place."""

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.syncs import recorded_syncs
from volcrypt.errors import InvalidArgumentError, NameTakenError
from volcrypt.operations import new_files
from volcrypt.operations.new_files import new_file, new_image

Patch = Callable[[pytest.MonkeyPatch], None]


def has_all(_: pytest.MonkeyPatch) -> None:
    """ext4, XFS, btrfs, tmpfs."""


def has_no_unnamed_files(patch: pytest.MonkeyPatch) -> None:
    """What vfat and exFAT have, too: no links, but a rename that replaces nothing."""
    patch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    patch.setattr(os, "link", refuses_links)


def has_plain_renames(patch: pytest.MonkeyPatch) -> None:
    """NFS."""
    patch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    patch.setattr(new_files, "_libc", OldLibrary())


def has_nothing(patch: pytest.MonkeyPatch) -> None:
    """Some that are served through FUSE."""
    has_plain_renames(patch)
    patch.setattr(os, "link", refuses_links)


def refuses_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class OldLibrary:
    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1


@pytest.fixture(params=[has_all, has_no_unnamed_files, has_plain_renames, has_nothing])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Patch:
    request.param(monkeypatch)
    patch: Patch = request.param
    return patch


def make(target: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    with new_file(target) as descriptor:
        os.write(descriptor, b"content")
        assert not target.exists()
        meanwhile()


@pytest.mark.usefixtures("file_system")
def test_it_is_durable_with_its_name(tmp_path: Path) -> None:
    with recorded_syncs() as synced:
        make(tmp_path / "new")
    assert synced[0].parent == tmp_path
    assert synced[1:] == [tmp_path]


@pytest.mark.usefixtures("file_system")
def test_it_appears_whole(tmp_path: Path) -> None:
    make(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("file_system")
def test_what_somebody_made_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with pytest.raises(NameTakenError):
        make(target, lambda: target.write_bytes(b"another's"))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert target.read_bytes() == b"another's"


@pytest.mark.usefixtures("file_system")
def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "new", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_at_most_what_the_next_one_replaces(
    tmp_path: Path, file_system: Patch
) -> None:
    target = tmp_path / "new"
    child = os.fork()
    if child == 0:
        make(target, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = [] if file_system is has_all else [".new.new"]
    assert [path.name for path in tmp_path.iterdir()] == left
    make(target)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_image_that_is_too_large_for_the_file_system(tmp_path: Path) -> None:
    """As vfat has a limit, so has this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with (
            pytest.raises(InvalidArgumentError, match="takes no file of that size"),
            new_image(tmp_path / "new", 2**21),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
