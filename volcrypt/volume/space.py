"""When a file system under thin volumes is full soon. Knows free blocks, and nothing of data."""

import os
from pathlib import Path
from typing import Final

from volcrypt.geometry import format_size

LOW_FRACTION: Final = 0.05
"""Below this part of free space there is a warning in any case."""
WATERMARK_FRACTION: Final = 0.20
"""Below this one when the thin volumes there may still take more than is free."""


def space_warning(directory: Path, wanted_bytes: int) -> str | None:
    """What to tell people about the file system under `directory`, whose thin volumes may still
    take `wanted_bytes`; None when there is room."""
    space = os.statvfs(directory)
    free_bytes = space.f_bavail * space.f_frsize
    if space.f_bavail < space.f_blocks * LOW_FRACTION:
        return f"less than 5 % of the file system under {directory} is free"
    if space.f_bavail < space.f_blocks * WATERMARK_FRACTION and wanted_bytes > free_bytes:
        return (
            f"the file system under {directory} has {format_size(free_bytes)} free, and its thin "
            f"volumes may still take {format_size(wanted_bytes)}"
        )
    return None
