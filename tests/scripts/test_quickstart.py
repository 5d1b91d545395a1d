"""The quickstart does the main job, and leaves nothing behind, however it ends."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", "-m", "scripts.quickstart", "--size", "64MiB"]
# Thousands of real files, as there are in /usr, and quicker to walk.
COMMAND += ["--source", sysconfig.get_path("purelib"), "--dir"]


def leftovers(directory: Path) -> list[str]:
    """Files, mounts, loop devices and processes that belong to a run in `directory`."""
    runtime = runtime_directory(directory / "home", runtime_root())
    roots = (f"{directory}/", f"{runtime}/")
    found = [str(path) for path in (directory, runtime) if path.exists()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if line.split(" ")[4].startswith(roots)]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if backing.read_text().startswith(roots):
            found.append(str(backing))
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # the process or its file is gone by now
        if target.startswith(roots):
            found.append(f"{descriptor} is {target}")
    return found


def test_the_main_job(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    done = subprocess.run(
        [*COMMAND, directory], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    last = done.stdout.splitlines()[-1]
    assert re.match(
        r"proved: [0-9,]+ files are byte-identical in the encrypted volume, and none of [0-9,]+ "
        r"plaintext blocks lies at any 512-byte offset of the [0-9,]+ files that volcrypt keeps "
        r"\(control: (100\.00|99\.[0-9]+)% found in the original\); [0-9]+ s$",
        last,
    )
    assert leftovers(directory) == []


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("volcrypt encrypt", signal.SIGINT),
        ("write new files through the mount", signal.SIGTERM),
    ],
)
def test_an_interruption_leaves_nothing(tmp_path: Path, step: str, number: signal.Signals) -> None:
    directory = tmp_path / "work"
    with subprocess.Popen(
        [*COMMAND, directory], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = ""
        # A step is announced when it begins; its line ends when it is done.
        while step not in seen:
            character = process.stdout.read(1)
            assert character, "it ended before that step"
            seen += character
        process.send_signal(number)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.strip() == "error: interrupted"
    assert leftovers(directory) == []


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*COMMAND, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "file").exists()
