"""The private directory on tmpfs, which lies where others may make directories, too."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from volcrypt.errors import ConfigurationError
from volcrypt.operations.home_directory import make_runtime_directory

NOBODY = 65534


def test_it_is_private_and_made_once(tmp_path: Path) -> None:
    runtime = tmp_path / "volcrypt" / "home"
    make_runtime_directory(runtime)
    make_runtime_directory(runtime)
    assert runtime.stat().st_mode & 0o777 == 0o700


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
    make_runtime_directory(above / "home")
    prepare(above)
    with pytest.raises(ConfigurationError):
        make_runtime_directory(above / "home")


def test_a_link_that_another_user_planted_above_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir(mode=0o755)
    (tmp_path / "volcrypt").symlink_to("roots")
    make_runtime_directory(tmp_path / "volcrypt" / "home")  # root's own link
    os.chown(tmp_path / "volcrypt", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigurationError):
        make_runtime_directory(tmp_path / "volcrypt" / "home")
