"""The private directory on tmpfs, which lies where others may make directories, too."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from volcrypt.errors import ConfigurationError
from volcrypt.operations.doctor_home import check_abandoned
from volcrypt.operations.home_directory import (
    abandoned_directories,
    make_runtime_directory,
    runtime_directory,
)
from volcrypt.volume.mountpoint import Mount

NOBODY = 65534
HOME = Path("/var/lib/volcrypt")


def test_it_is_private_and_made_once(tmp_path: Path) -> None:
    runtime = tmp_path / "volcrypt" / "home"
    make_runtime_directory(runtime, home=HOME)
    make_runtime_directory(runtime, home=HOME)
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert (runtime / "home").readlink() == HOME.resolve()


@pytest.mark.parametrize(
    "prepare",
    [
        lambda above: os.chown(above, NOBODY, NOBODY),
        lambda above: above.chmod(0o777),
        lambda above: os.chown(above / "home", NOBODY, NOBODY),
        lambda above: (above / "home").chmod(0o750),
        lambda above: (
            (above / "home").rename(above / "real"),
            (above / "home").symlink_to("real"),
        ),
    ],
    ids=["above another's", "above open", "another's", "open", "link"],
)
def test_what_others_prepared_is_refused(tmp_path: Path, prepare: Callable[[Path], object]) -> None:
    above = tmp_path / "volcrypt"
    make_runtime_directory(above / "home", home=HOME)
    prepare(above)
    with pytest.raises(ConfigurationError):
        make_runtime_directory(above / "home", home=HOME)


def test_a_link_that_another_user_planted_above_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir(mode=0o755)
    (tmp_path / "volcrypt").symlink_to("roots")
    make_runtime_directory(tmp_path / "volcrypt" / "home", home=HOME)  # root's own link
    os.chown(tmp_path / "volcrypt", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigurationError):
        make_runtime_directory(tmp_path / "volcrypt" / "home", home=HOME)


def test_what_removed_homes_left_is_named(tmp_path: Path) -> None:
    root = tmp_path / "run dir"
    homes = [tmp_path / name for name in ("a home", "there", "mounted")]
    directories = [runtime_directory(home, root) for home in homes]
    for home, directory in zip(homes, directories, strict=True):
        make_runtime_directory(directory, home=home)
    homes[1].mkdir()
    (root / "0123456789abcdef").mkdir(mode=0o700)  # of a version that noted no home
    point = str(directories[2] / "vol-0.mnt")
    mount = Mount(
        mount_point=point, device="0:1", fs_type="fuse", source="volcrypt", options=frozenset()
    )
    (found,) = check_abandoned(root, [mount])
    assert found.text == f"{directories[0]} is of the home {homes[0]}, which is not there"
    mend = f"if that was removed for good: rm -r --one-file-system '{directories[0]}'"
    assert found.mend == mend
    assert list(check_abandoned(tmp_path / "none", [])) == []


def test_a_planted_link_names_nothing_to_be_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    directory = runtime_directory(gone, tmp_path)
    make_runtime_directory(directory, home=gone)
    assert list(abandoned_directories(tmp_path)) == [(directory, gone)], "the control"
    directory.rename(tmp_path / "etc")  # it has not the name that the link gives it
    assert list(abandoned_directories(tmp_path)) == []
    directory.symlink_to("etc")
    assert list(abandoned_directories(tmp_path)) == []
    directory.unlink()
    (tmp_path / "etc").rename(directory)
    os.chown(directory, NOBODY, NOBODY)
    assert list(abandoned_directories(tmp_path)) == []
