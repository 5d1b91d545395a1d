"""`encrypt` as a user types it: the plan, the report, and what goes not together."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "data")
        yield made


def test_the_plan_comes_first_and_the_report_last(command: Command) -> None:
    text = command.run("encrypt", "data", "--dry-run")
    for part in ("1. take a snapshot", "space at the peak", "destroy", "discarded and unlinked"):
        assert part in text
    planned = command.json("encrypt", "data", "--dry-run", "--delete-plain-snapshots")
    assert planned["Steps"][0]["Step"] == "snapshot"
    assert planned["DeletesPlainSnapshots"] is True
    for option in ("--pause", "--resume", "--abort"):
        assert "no unfinished encryption" in command.fails(3, "encrypt", "data", option)
    assert "exclude each other" in command.fails(2, "encrypt", "data", "--resume", "--dry-run")
    command.fails(2, "encrypt", "data", "--rate", "fast")
    assert str(command.home / "stores/local") in text
    assert command.json("volume", "show", "data")["VolumeId"] == planned["VolumeId"], "the control"
    done = command.try_run("encrypt", "data", "--rate", "100MiB")
    assert done.returncode == 0
    assert "expected time" in done.stderr
    for part in ("content digest", "data key", "discarded and unlinked"):
        assert part in done.stdout
    assert "encrypted already" in command.fails(2, "encrypt", "data", "--dry-run")
