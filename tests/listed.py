"""Snapshots as the command lists them, and the moment in which none can be added."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.command import Command
from volcrypt.file_lock import locked_within


def rows(command: Command) -> dict[str, dict[str, Any]]:
    """What `snapshot list` shows, by id."""
    return {row["SnapshotId"]: row for row in command.json("snapshot", "list")["Snapshots"]}


@contextmanager
def log_of_the_local_store_held(command: Command) -> Iterator[None]:
    """Nothing can be committed while this lasts; no longer than the half minute that they wait."""
    command.run("snapshot", "list")  # makes what lies beside the locks
    store = next((command.home / "stores").glob("*.use"))
    descriptor = os.open(store.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        assert locked_within(descriptor, fcntl.LOCK_EX, 10)
        yield
    finally:
        os.close(descriptor)
