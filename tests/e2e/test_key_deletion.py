"""A KMS key is deleted: what dies with it is said before, is unreadable after, and all of it comes
back when the deletion is cancelled in time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.passing_days import let_days_pass

SIZE = 2**20
WINDOW = ("--yes", "--pending-window-in-days", "7")


class Doomed:
    """A home with a volume, its snapshot and a copy in another store under one key; beside it one
    of another key that still fetches from the snapshot, and one that has nothing to do with it."""

    def __init__(self, command: Command, root: Path) -> None:
        self.command = command
        self.content = os.urandom(SIZE)
        self.point = root / "mnt"
        self.point.mkdir()
        self._out = root / "out"
        (root / "image").write_bytes(self.content)
        run = command.run
        run("init")
        self.key = run("kms", "create-key")
        run("kms", "create-alias", "--alias-name", "alias/doomed", "--target-key-id", self.key)
        run("volume", "import", root / "image", "--name", "data", "--kms-key-id", self.key)
        run("volume", "import", root / "image", "--name", "other")
        run("snapshot", "create", "--wait", "data", "--name", "first")
        run("store", "create", "away", "--url", (root / "away").as_uri())
        copy = ("snapshot", "copy", "--wait", "first", "--name", "copied", "--store", "away")
        run(*copy, "--kms-key-id", self.key)
        run("snapshot", "copy", "--wait", "first", "--name", "saved")
        default = ("--kms-key-id", "alias/volcrypt/ebs")
        run("volume", "create", "--snapshot-id", "first", "--name", "lazy", *default)

    def check_readable(self) -> None:
        self._check_others()
        self.command.run("mount", "data", self.point)
        assert (self.point / "volume").read_bytes() == self.content
        self.command.run("unmount", "data")
        for snapshot in ("first", "copied"):
            assert self._export(snapshot) == self.content

    def check_unreadable(self, reason: str) -> None:
        """Volume, snapshot and copy are refused."""
        assert reason in self.command.fails(5, "mount", "data", self.point)
        assert list(self.point.iterdir()) == []
        for snapshot in ("first", "copied"):
            assert reason in self.command.fails(
                5, "snapshot", "export", "--yes", snapshot, self._out
            )
        assert not self._out.exists()

    def check_every_way(self, reason: str) -> None:
        """There is no other way to the data either; and everything else is as it was."""
        self.check_unreadable(reason)
        assert reason in self.command.fails(5, "mount", "lazy", self.point)
        assert reason in self.command.fails(5, "volume", "export", "data", self._out, "--yes")
        assert reason in self.command.fails(5, "mount", "copied", self.point)
        for snapshot in ("first", "copied"):
            again = ("volume", "create", "--snapshot-id", snapshot)
            assert reason in self.command.fails(5, *again)
        self._check_others()

    def _check_others(self) -> None:
        """The control: what is under another key, also a copy that was made of it before."""
        self.command.run("volume", "export", "other", self._out, "--yes")
        assert self._out.read_bytes() == self.content
        self._out.unlink()
        assert self._export("saved") == self.content

    def _export(self, snapshot: str) -> bytes:
        self.command.run("snapshot", "export", "--yes", snapshot, self._out)
        content = self._out.read_bytes()
        self._out.unlink()
        return content

    def schedule(self) -> str:
        done = self.command.try_run("kms", "schedule-key-deletion", "--key-id", self.key, *WINDOW)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def dying(self) -> set[tuple[str, str, str | None]]:
        report = self.command.json("report", "key", self.key)
        return {(each["Kind"], each["Name"], each["Store"]) for each in report["Dependents"]}


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Doomed]:
    with disposable_home(tmp_path / "home") as command:
        yield Doomed(command, tmp_path)


ALL = {
    ("volume", "data", None),
    ("unfetched", "lazy", "local"),
    ("snapshot", "first", "local"),
    ("copy", "copied", "away"),
}


def test_what_dies_with_a_key(doomed: Doomed) -> None:
    doomed.check_readable()
    assert doomed.dying() == ALL
    said = doomed.schedule()
    for words in (
        "data dies with the key",
        "first dies with the key (store local)",
        "copied dies with the key (store away)",
        "unfetched chunks of volume",
    ):
        assert words in said

    # In time: nothing was lost.
    let_days_pass(doomed.command.home, 6)
    doomed.check_unreadable("is pending deletion")
    doomed.command.run("kms", "cancel-key-deletion", "--key-id", doomed.key)
    doomed.command.run("kms", "enable-key", "--key-id", doomed.key)
    doomed.check_readable()

    # Too late.
    doomed.schedule()
    let_days_pass(doomed.command.home, 9)
    doomed.command.fails(3, "kms", "cancel-key-deletion", "--key-id", doomed.key)
    doomed.check_every_way(doomed.key)

    # What is left of it is known by id, and by the name that it had.
    assert doomed.dying() == ALL
    report = doomed.command.json("report", "key", "alias/doomed")
    assert report["KeyState"] == "NotFound"
    assert report["Usage"]["DeletedAt"] is not None
    assert report["Usage"]["Uses"] > 0
    assert (
        f"key {report['KeyArn']} is not known"
        in doomed.command.try_run("report", "encryption").stdout
    )
