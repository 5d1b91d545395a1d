"""The process that serves a volume thaws when all who were to do it are killed or stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.frozen import frozen_by_another, is_frozen, wait_until_thawed


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


def test_a_kill_of_command_and_freezer_leaves_nothing_frozen(
    command: Command, tmp_path: Path
) -> None:
    made = command.json("volume", "create", "--size", "64MiB", "--name", "disk")
    guard = command.runtime / f"{made['VolumeId']}.sock"
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    command.run("attach", "disk", "--mkfs", "ext4", "--mount", mounted)
    with frozen_by_another(mounted, guard=guard):
        assert is_frozen(mounted)
    wait_until_thawed(mounted)  # by no command: nobody ran one
    (mounted / "after").write_bytes(b"written")

    with frozen_by_another(mounted, guard=guard, seconds=1):
        wait_until_thawed(mounted)  # at the deadline: the two are there, and stopped

    created = command.json("snapshot", "create", "disk", "--freeze", mounted, "--wait")
    assert created["Consistency"] == "file-system-consistent"
    # Nobody has the mount open any more.
    command.run("detach", "disk")
