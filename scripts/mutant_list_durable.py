"""Bugs in what becomes durable, and in what is believed of files that others can write."""

from typing import Final

from scripts.mutant import mutant

DURABLE = "volcrypt/durable.py"
T_DURABLE = "tests/test_durable.py"

DURABLE_FILES: Final = [
    mutant(
        "a link in the place of a directory is followed",
        DURABLE,
        [T_DURABLE],
        ("(0 if follow else os.O_NOFOLLOW)", "0"),
    ),
    mutant(
        "a file of any size is read",
        DURABLE,
        [T_DURABLE],
        ("        if os.fstat(descriptor).st_size > limit_bytes:", "        if False:"),
    ),
    mutant(
        "zeros over a secret are not durable",
        DURABLE,
        [T_DURABLE],
        (
            "written, offset + written\n    os.fsync(descriptor)",
            "written, offset + written",
        ),
    ),
    mutant(
        "a link of another user is followed",
        DURABLE,
        [T_DURABLE],
        ("            if status.st_uid not in (0, os.geteuid()):", "            if False:"),
    ),
]
