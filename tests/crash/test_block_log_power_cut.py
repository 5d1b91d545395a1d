"""A power cut at any write and any flush of the disk under a home.

Every write and flush of the disk is logged (`tests/block_log.py`) while a home on it is made, used,
and half of what it can do is asked of it (`logged_home.py`). Afterwards the log is replayed up to a
point, of what was not flushed there nothing or a part survives, and what is found is opened as
after a reboot: the file system's journal is all that repairs anything. In the control run no call
that syncs is made (strace answers in the kernel's place), and acknowledged things are lost.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.command import disposable_home
from tests.crash.kills import spread
from tests.crash.logged_home import check
from tests.logged_disk import Cut, LoggedDisk, Logger, logged_disk
from tests.strace import injection
from volcrypt.errors import VolcryptError

SYNCS = "fsync,fdatasync,syncfs,sync_file_range,sync,msync"
WITHOUT_SYNCS = [
    *("strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"),
    *(part for each in injection(SYNCS, "retval=0") for part in ("-e", each)),
]

Notes = list[dict[str, Any]]


def work(
    disk: LoggedDisk, directory: Path, *, prefix: Iterable[str] = (), scene: Iterable[str] = ()
) -> Notes:
    """Do the work while the disk is logged; what was acknowledged, and when."""
    point, notes = directory / "point", directory / "notes"
    point.mkdir()
    program = [sys.executable, "-m", "tests.crash.logged_home"]
    with disk.logged(), disposable_home(disk.directory / "home") as command:
        done = subprocess.run(
            [*prefix, *program, command.home, point, notes, disk.log, *scene],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in notes.read_text().splitlines()]


def look(cut: Cut, notes: Notes, point: int, directory: Path) -> None:
    """Look at a home after a power cut, as after a reboot."""
    with cut.mounted() as mounted, disposable_home(mounted / "home") as command:
        command.forget_runtime()
        check(command.home, [n for n in notes if n["at"] <= point], directory / "scratch")
    cut.check()


def cut_everywhere(disk: LoggedDisk, notes: Notes, directory: Path, *, quick: bool) -> None:
    """Right when something was acknowledged, and at each flush, with nothing that was not flushed;
    and in between, with some of that."""
    acknowledged = sorted({note["at"] for note in notes})
    assert disk.is_logged_whole()
    dice = random.Random(len(notes))
    at_once, between = spread(acknowledged, 4), 3
    if not quick:
        at_once, between = sorted({*acknowledged, *disk.flushes()}), 300
    for point, cut in disk.cuts(at_once, None):
        look(cut, notes, point, directory)
    torn = [dice.randrange(acknowledged[0], disk.entries() + 1) for _ in range(between)]
    for point, cut in disk.cuts(torn, dice):
        look(cut, notes, point, directory)
    print(f"{disk.kind} {disk.logger}: {len(at_once)} cuts, and {len(torn)} torn ones")


def test_what_was_acknowledged_survives_a_cut_at_any_write(tmp_path: Path) -> None:
    with logged_disk(tmp_path / "disk", size_bytes=64 * 2**20) as disk:
        notes = work(disk, tmp_path)
        cut_everywhere(disk, notes, tmp_path, quick=True)


def test_a_volume_in_use_is_encrypted_or_is_not(tmp_path: Path) -> None:
    """At the last flushes before the first was said to be done: the decision, the names, and the
    end of the old data are among them."""
    with logged_disk(tmp_path / "disk", size_bytes=64 * 2**20) as disk:
        notes = work(disk, tmp_path, scene=["online"])
        migrating, *_ = (note["at"] for note in notes if note["what"] == "migrating")
        migrated, *_ = (note["at"] for note in notes if note["what"] == "migrated")
        flushes = [at for at in disk.flushes() if migrating < at <= migrated]
        assert len(flushes) > 20
        for point, cut in disk.cuts([*spread(flushes[-12:], 3), migrated], None):
            look(cut, notes, point, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("scene", [[], ["online"]])
@pytest.mark.parametrize("logger", ["own", "qemu"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_cuts_everywhere(tmp_path: Path, kind: str, logger: Logger, scene: list[str]) -> None:
    """With QEMU's own log as well, which only `scripts/setup --bench` installs."""
    with logged_disk(tmp_path / "disk", kind=kind, logger=logger, size_bytes=64 * 2**20) as disk:
        notes = work(disk, tmp_path, scene=scene)
        cut_everywhere(disk, notes, tmp_path, quick=False)


@pytest.mark.parametrize("scene", [[], pytest.param(["online"], marks=pytest.mark.soak)])
def test_control_without_syncs_it_does_not(tmp_path: Path, scene: list[str]) -> None:
    with logged_disk(tmp_path / "disk", size_bytes=64 * 2**20) as disk:
        notes = work(disk, tmp_path, prefix=WITHOUT_SYNCS, scene=scene)
        last = notes[-1]["at"]
        for point, cut in disk.cuts([last], None):
            with pytest.raises((VolcryptError, AssertionError)):
                look(cut, notes, point, tmp_path)
