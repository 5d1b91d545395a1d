"""New files on every kind of file system: whole, durable and never in another's place."""

import ctypes
import errno
import os
import resource
import shutil
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


@pytest.mark.usefixtures("file_system")
def test_another_that_writes_it_is_not_cut_off(tmp_path: Path) -> None:
    """Nor does the first make a half of the second's the file."""
    target = tmp_path / "new"
    with new_file(target) as first:
        os.write(first, b"the first")
        try:
            with new_file(target) as second:
                os.write(second, b"the second")
        except NameTakenError:
            assert not target.exists(), "where it has a name already"
        else:
            target.unlink()
    assert target.read_bytes() == b"the first"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


NAMED = pytest.mark.parametrize(
    "file_system", [has_no_unnamed_files, has_plain_renames, has_nothing], indirect=True
)


@NAMED
@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("kind", ["file", "link", "directory", "nothing"])
def test_what_somebody_puts_in_its_place_stays(tmp_path: Path, kind: str) -> None:
    """While it is written, under the name that it has until then: it is not renamed, nor removed,
    nor followed. Where there are links, the file appears nevertheless."""
    target, temporary, outside = (tmp_path / name for name in ("new", ".new.new", "outside"))
    outside.write_bytes(b"another's")

    def exchange() -> None:
        temporary.unlink()
        match kind:
            case "file":
                temporary.write_bytes(b"another's")
            case "link":
                temporary.symlink_to(outside)
            case "directory":
                temporary.mkdir()

    with pytest.raises(OSError, match="No such file"):
        make(target, exchange)
    assert os.path.lexists(temporary) == (kind != "nothing")
    assert not os.path.lexists(target)
    assert outside.read_bytes() == b"another's"


@NAMED
@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_no_file_is_not_taken_for_one_that_a_kill_left(tmp_path: Path, kind: str) -> None:
    temporary = tmp_path / ".new.new"
    match kind:
        case "link":
            temporary.symlink_to(tmp_path / "outside")
        case "directory":
            temporary.mkdir()
        case "pipe":
            os.mkfifo(temporary)
    with pytest.raises(NameTakenError, match=r"\.new\.new"):
        make(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == [".new.new"]


@pytest.mark.usefixtures("file_system")
def test_it_appears_in_the_directory_that_was_named(tmp_path: Path) -> None:
    """Whoever puts a link in the place of that gets nothing elsewhere."""
    named, elsewhere, outside = (tmp_path / name for name in ("named", "elsewhere", "outside"))
    named.mkdir()
    outside.mkdir()

    def exchange() -> None:
        named.rename(elsewhere)
        named.symlink_to(outside)

    make(named / "new", exchange)
    assert list(outside.iterdir()) == []
    assert [path.name for path in elsewhere.iterdir()] == ["new"]


@pytest.mark.usefixtures("file_system")
def test_a_directory_that_is_removed_meanwhile(tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        make(named / "new", lambda: shutil.rmtree(named))
    assert raised.value.filename == str(named / "new")


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
