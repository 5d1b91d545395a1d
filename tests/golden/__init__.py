"""Bytes as each version of each format wrote them; see tests/README.md, "Golden files"."""

from pathlib import Path
from typing import Final

GOLDEN: Final = Path(__file__).parent


def golden_bytes(version: str, name: str) -> bytes:
    """The content of tests/golden/VERSION/NAME."""
    return (GOLDEN / version / name).read_bytes()
