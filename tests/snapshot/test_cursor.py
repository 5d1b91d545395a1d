"""The cursor of a copy on disk."""

from pathlib import Path

import pytest

from tests.formats.samples import CURSOR, CURSOR_SEAL
from volcrypt.errors import BadMagicError, MalformedError, SealError, VolcryptError
from volcrypt.formats.document import MacSeal
from volcrypt.snapshot.cursor import CursorFile


def test_a_cursor_is_read_back_until_it_is_removed(tmp_path: Path) -> None:
    file = CursorFile(tmp_path / "cursor", CURSOR_SEAL)
    assert file.read() is None
    file.write(CURSOR)
    assert file.read() == CURSOR
    assert (tmp_path / "cursor").stat().st_mode & 0o777 == 0o600
    file.remove()
    assert file.read() is None
    file.remove()


@pytest.mark.parametrize(
    ("action", "error"),
    [("flip", SealError), ("truncate", MalformedError), ("empty", BadMagicError)],
)
def test_damage_of_a_cursor(tmp_path: Path, action: str, error: type[VolcryptError]) -> None:
    file = CursorFile(tmp_path / "cursor", CURSOR_SEAL)
    file.write(CURSOR)
    data = (tmp_path / "cursor").read_bytes()
    damaged = {
        "flip": data.replace(b'"next_chunk":2', b'"next_chunk":3'),
        "truncate": data[:-10],
        "empty": b"",
    }[action]
    assert damaged != data
    (tmp_path / "cursor").write_bytes(damaged)
    with pytest.raises(error, match="cursor cursor"):
        file.read()


def test_a_cursor_under_another_key_is_refused(tmp_path: Path) -> None:
    CursorFile(tmp_path / "cursor", CURSOR_SEAL).write(CURSOR)
    with pytest.raises(SealError):
        CursorFile(tmp_path / "cursor", MacSeal(bytes(32))).read()
