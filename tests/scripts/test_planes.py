"""Tests that mount are noted, so that they can be run again on the other data plane."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

from tests.command import on_data_plane
from tests.planes import data_plane


@pytest.fixture(scope="module")
def shared():
    data_plane()


@pytest.mark.parametrize("value", ["with space (odd)", "a"])
def test_first_user(shared, value):
    pass


def test_second_user(shared):
    pass


def test_of_nothing():
    on_data_plane("volume", "list")
    assert on_data_plane("mount", "x", "--data-plane", "python")[-1] == "python"


def test_by_command():
    assert on_data_plane("--json", "attach", "x")[-1] == PLANE


def test_that_fails_when_it_mounts():
    data_plane()
    raise ZeroDivisionError
"""
MOUNTING = """\
test_these.py::test_by_command
test_these.py::test_first_user[a]
test_these.py::test_first_user[with space (odd)]
test_these.py::test_second_user
test_these.py::test_that_fails_when_it_mounts
""".splitlines()


def pytest_in(
    directory: Path, *arguments: str, plane: str, notes: Path
) -> subprocess.CompletedProcess[str]:
    environment = {
        "VOLCRYPT_TEST_DATA_PLANE": plane,
        "VOLCRYPT_TEST_MOUNTS": str(notes),
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*command, f"--rootdir={directory}", *arguments],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_what_mounts_is_noted_and_can_be_run_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    for plane, expected in (("native", "1 failed, 5 passed"), ("python", "1 failed, 4 passed")):
        (tmp_path / "test_these.py").write_text(TESTS.replace("PLANE", repr(plane)))
        which = "test_these.py" if plane == "native" else f"@{notes}"
        said = pytest_in(tmp_path, which, plane=plane, notes=tmp_path / plane)
        assert expected in said.stdout
        noted = sorted(set((tmp_path / plane).read_text().splitlines()))
        assert noted == MOUNTING
        notes.write_text("\n".join(noted) + "\n")


def test_one_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """So none is lost by a misunderstood name."""
    (tmp_path / "test_these.py").write_text(TESTS)
    (tmp_path / "notes").write_text("test_these.py::test_of_nothing\ntest_these.py::test_gone\n")
    said = pytest_in(tmp_path, "@notes", plane="python", notes=tmp_path / "noted")
    assert "not found" in said.stderr
    assert said.returncode == pytest.ExitCode.USAGE_ERROR
