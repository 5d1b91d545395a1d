"""Reading the clean copy of a change map, which is believed only when nobody wrote since."""

import os
from pathlib import Path
from typing import Final

from volcrypt.durable import read_file
from volcrypt.errors import FormatError, IntegrityError
from volcrypt.formats.change_map import ParentPoint, bitmap_length, decode_change_map
from volcrypt.formats.document import MacSeal
from volcrypt.names import VolumeId

_LONGEST_DOCUMENT: Final = 4096

# The bitmap of the largest volume has 16 MiB, and stands in the document as text.
_CLEAN_LIMIT_BYTES: Final = 64 * 2**20


def read_clean(
    clean_path: Path,
    volume_id: VolumeId,
    size_bytes: int,
    seal: MacSeal,
    data: os.stat_result,
) -> tuple[ParentPoint, bytes] | None:
    """Parent and bitmap of the clean copy, when it is there, sealed, and nobody wrote since."""
    try:
        if clean_path.stat().st_size > bitmap_length(size_bytes) + _LONGEST_DOCUMENT:
            return None
        body, bitmap = decode_change_map(
            read_file(clean_path, limit_bytes=_CLEAN_LIMIT_BYTES), seal, what=str(clean_path)
        )
    except (OSError, FormatError, IntegrityError):
        return None
    if (
        body.volume_id != volume_id
        or body.size_bytes != size_bytes
        or body.data_bytes != data.st_size
        or body.data_mtime_ns != data.st_mtime_ns
    ):
        return None
    return body.parent, bitmap
