"""What a piece of work makes durable, by the calls of Python: for directories above all, which ext4
makes durable with the files in them, so that no power cut there tells whether somebody asked."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def recorded_syncs() -> Iterator[list[Path]]:
    """The files and directories that are synced in the block, in order."""
    synced: list[Path] = []

    def recorded(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            call(descriptor)

        return sync

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", recorded(os.fsync))
        patch.setattr(os, "fdatasync", recorded(os.fdatasync))
        yield synced
