"""A clock of the host that jumps by years, forward and back, between all that a home does.

Nothing is lost or ended by a date that nobody waited for, nothing is refused, and nothing waits for
years because the clock was wrong once.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import disposable_home
from tests.snapshots import create_snapshot
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.operations.audit import list_audit, verify_audit
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.mounts import mount_volume, unmount_volume
from volcrypt.operations.progress import SILENT
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.snapshot_lookup import list_snapshots
from volcrypt.operations.vault import call
from volcrypt.operations.verification import verify_snapshots
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root
from volcrypt.volume.launch import spawn_daemon

YEAR = 365 * DAY_SECONDS
JUMPS = [0, 30 * YEAR, -10 * YEAR, 0]


class Clock:
    """What the host says, and by how much it is wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.offset)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with disposable_home(tmp_path / "home") as command:
        account = {"account": DEFAULT_ACCOUNT, "region": DEFAULT_REGION}
        init_home(command.home, runtime_root(), **account, pin=None)
        yield command.home


def test_a_home_under_a_clock_that_jumps(path: Path, clock: Clock, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with Home(path, runtime_root()) as home:
        key = call(home.kms, home.caller, "CreateKey", {})["KeyMetadata"]["KeyId"]
        doomed = call(home.kms, home.caller, "CreateKey", {})["KeyMetadata"]["KeyId"]
        window = {"KeyId": doomed, "PendingWindowInDays": 7}
        call(home.kms, home.caller, "ScheduleKeyDeletion", window)
        create_volume(home, size_bytes=2**20, name="data", choice=KeyChoice())
    for number, offset in enumerate(JUMPS):
        clock.offset = offset
        with Home(path, runtime_root()) as home:
            mount_volume(home, "data", point, read_only=False, launch=spawn_daemon)
            with open(point / "volume", "r+b", buffering=0) as file:
                file.write(b"%07d\n" % number)
                os.fsync(file.fileno())
                create_snapshot(home, "data", name=f"s{number}", store=None, progress=SILENT)
            clock.offset = JUMPS[number - 1]
            copy_snapshot(
                home,
                f"s{number}",
                choice=KeyChoice(kms_key=key),
                name=f"c{number}",
                store=None,
                region=None,
                progress=SILENT,
            )
            unmount_volume(home, "data")
            if number:
                delete_snapshot(home, f"s{number - 1}")
            # Made before and after, by this clock; it is there, and its key is as well.
            names = {each.name for each in list_snapshots(home).manifests}
            assert names == {f"s{number}", *(f"c{each}" for each in range(number + 1))}
            state = call(home.kms, home.caller, "DescribeKey", {"KeyId": doomed})
            assert state["KeyMetadata"]["KeyState"] == "PendingDeletion"
            assert verify_snapshots(home, None, store=None, heads=[]).damages == []
            assert verify_audit(home).unsealed == 0
    with Home(path, runtime_root()) as home:
        call(home.kms, home.caller, "CancelKeyDeletion", {"KeyId": doomed})
        call(home.kms, home.caller, "EnableKey", {"KeyId": doomed})
        dates = [record.event_time for record in list_audit(home)]
        # The control: the jumps were seen.
        assert dates != sorted(dates)
