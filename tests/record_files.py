"""The files of a volume's record: one that is damaged is put back from the other, so both have to
be for it to matter."""

from collections.abc import Callable
from pathlib import Path


def record_and_spare(record: Path) -> tuple[Path, Path]:
    return record, record.with_name("record.spare")


def damage_both(record: Path, damage: Callable[[Path], object]) -> None:
    for path in record_and_spare(record):
        damage(path)


def write_both(record: Path, data: bytes) -> None:
    damage_both(record, lambda path: path.write_bytes(data))
