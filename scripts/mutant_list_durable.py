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
    mutant(
        "an object of a store is not durable",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        (
            "        os.fsync(descriptor)\n\n    def _sync_file_system",
            "        pass\n\n    def _sync_file_system",
        ),
    ),
    mutant(
        "the name of an object is not durable",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        (
            ("        if durable:\n            sync_directory(Path(parent))\n        return True"),
            "        return True",
        ),
    ),
    mutant(
        "the name of a staged object is not durable",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        (
            (
                "            os.unlink(staged)\n"
                "        if durable:\n"
                "            sync_directory(Path(target).parent)"
            ),
            "            os.unlink(staged)",
        ),
    ),
    mutant(
        "the name of a replaced object is not durable",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        (
            (
                "            if not batched:\n"
                "                sync_directory(Path(target).parent)\n"
                "\n"
                "    def get"
            ),
            "\n    def get",
        ),
    ),
    mutant(
        "an object that somebody else put is not durable",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        (
            (
                "        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)\n"
                "        try:\n"
                "            self._sync_file(descriptor)\n"
                "        finally:\n"
                "            os.close(descriptor)\n"
                "        sync_directory(Path(path).parent)"
            ),
            "        pass",
        ),
    ),
    mutant(
        "a lock file that was replaced is taken for the same",
        "volcrypt/file_lock.py",
        ["tests/test_file_lock.py"],
        (
            "        return os.path.samestat(path.lstat(), os.fstat(descriptor))",
            "        return bool(path.lstat())",
        ),
    ),
]
