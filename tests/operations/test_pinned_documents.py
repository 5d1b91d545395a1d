"""Documents of which the register names the current version: one of two files always has that."""

import hashlib
from pathlib import Path

import pytest

from volcrypt.errors import RecordMissingError, RollbackError
from volcrypt.kms.register import RegisterEntry
from volcrypt.operations.pinned_documents import read_pinned, stage_pinned


def entry_of(data: bytes) -> RegisterEntry:
    digest = hashlib.sha256(data).digest()
    return RegisterEntry(kind="kind", id="id", name=None, counter=1, digest=digest)


def test_the_current_one_is_read_wherever_it_is(tmp_path: Path) -> None:
    place, staged = tmp_path / "document", tmp_path / "document.next"
    with pytest.raises(RecordMissingError):
        read_pinned(entry_of(b"one"), place, staged, what="it")
    stage_pinned(None, place, staged, b"one")
    assert read_pinned(entry_of(b"one"), place, staged, what="it") == b"one"
    with pytest.raises(RollbackError):
        read_pinned(entry_of(b"two"), place, staged, what="it")


def test_staging_loses_nothing_that_a_kill_left_staged(tmp_path: Path) -> None:
    """Killed between the register's transaction and its place, and the next one before its own."""
    place, staged = tmp_path / "document", tmp_path / "document.next"
    place.write_bytes(b"one")
    stage_pinned(entry_of(b"one"), place, staged, b"two")
    current = entry_of(b"two")
    stage_pinned(current, place, staged, b"three")
    assert read_pinned(current, place, staged, what="it") == b"two"
    assert staged.read_bytes() == b"three"
