"""Where the data of a new volume goes, and how much room is taken for it at once."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`preallocate`: take all the room now, so that no write meets a full disk."""

    preallocate: bool = False


THIN: Final = Placement()
"""A sparse file in the volume's own directory."""
