"""Bugs in what keeps the records of volumes: their spares, and who may put one back."""

from typing import Final

from scripts.mutant import mutant

DIRECTORY: Final = "volcrypt/volume/directory.py"
T_DIRECTORY: Final = "tests/volume/test_directory.py"

RECORDS: Final = [
    mutant(
        "the spare of a record is not written with it",
        DIRECTORY,
        [T_DIRECTORY],
        ("                    _write_spare(directory, record)\n", "                    pass\n"),
    ),
    mutant(
        "a spare is believed whatever the register says",
        DIRECTORY,
        [T_DIRECTORY],
        (
            "hashlib.sha256(data).digest() == digest",
            "(name == _SPARE or hashlib.sha256(data).digest() == digest)",
        ),
    ),
    mutant(
        "a record is put back where its volume is being removed",
        DIRECTORY,
        [T_DIRECTORY],
        ("                fcntl.flock(directory, fcntl.LOCK_EX)\n", ""),
    ),
]
