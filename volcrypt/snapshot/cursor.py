"""CursorFile: the cursor of a copy on disk, replaced durably and sealed by its caller's seal."""

from pathlib import Path
from typing import Protocol

from volcrypt.durable import read_file, remove_durably, write_durably
from volcrypt.formats.copy_cursor import CopyCursor, decode_copy_cursor, encode_copy_cursor
from volcrypt.formats.document import MAX_DOCUMENT_BYTES, Sealer, Verifier


class Seal(Sealer, Verifier, Protocol):
    """Seals and verifies, as MacSeal does."""


class CursorFile:
    """One file for one copy; one process at a time."""

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path = path
        self._seal = seal

    def read(self) -> CopyCursor | None:
        """None when there is none. Raises FormatError and SealError."""
        try:
            data = read_file(self._path, limit_bytes=MAX_DOCUMENT_BYTES)
        except FileNotFoundError:
            return None
        return decode_copy_cursor(data, self._seal, what=f"cursor {self._path.name}")

    def write(self, cursor: CopyCursor) -> None:
        """Durable on return. Raises NoSpaceError."""
        write_durably(self._path, encode_copy_cursor(cursor, self._seal))

    def remove(self) -> None:
        remove_durably(self._path)
