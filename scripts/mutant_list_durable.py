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
            "    return os.path.samestat(there, os.fstat(descriptor))",
            "    return bool(there)",
        ),
    ),
    mutant(
        "a new data file is not durable",
        "volcrypt/volume/datafile.py",
        ["tests/volume/test_datafile.py"],
        (
            "                os.fsync(descriptor)\n                sync_directory(path.parent)",
            "                sync_directory(path.parent)",
        ),
    ),
    mutant(
        "the name of a new data file is not durable",
        "volcrypt/volume/datafile.py",
        ["tests/volume/test_datafile.py"],
        (
            "                os.fsync(descriptor)\n                sync_directory(path.parent)",
            "                os.fsync(descriptor)",
        ),
    ),
    mutant(
        "the name of a new present map is not durable",
        "volcrypt/volume/present_file.py",
        ["tests/volume/test_present.py"],
        ("        sync_directory(path.parent)\n", "        pass\n"),
    ),
    mutant(
        "the name of a new owner file is not durable",
        "volcrypt/volume/owner.py",
        ["tests/volume/test_owner.py"],
        ("            sync_directory(directory)\n    except", "            pass\n    except"),
    ),
    mutant(
        "the lock of an owner file that was removed holds",
        "volcrypt/volume/owner.py",
        ["tests/volume/test_owner.py"],
        (
            "if is_locked and holder is None and is_at(path, descriptor):",
            "if is_locked and holder is None:",
        ),
    ),
    mutant(
        "counts of writes are changed at once",
        "volcrypt/volume/write_counter.py",
        ["tests/volume/test_write_counter.py"],
        ("        fcntl.flock(descriptor, fcntl.LOCK_EX)\n", ""),
    ),
    mutant(
        "records are staged and read at once",
        "volcrypt/volume/directory.py",
        ["tests/volume/test_directory.py"],
        ("        fcntl.flock(descriptor, fcntl.LOCK_EX)\n", ""),
    ),
    mutant(
        "a record goes before its data has gone for good",
        "volcrypt/volume/directory.py",
        ["tests/volume/test_directory.py"],
        (
            "os.unlink(DATA_FILE, dir_fd=directory)\n                os.fsync(directory)",
            "os.unlink(DATA_FILE, dir_fd=directory)",
        ),
    ),
    mutant(
        "what says to keep data goes before the record",
        "volcrypt/volume/directory.py",
        ["tests/volume/test_directory.py"],
        ("last = {KEEP_DATA_FILE: 1, OWNER_FILE: 2}", "last = {OWNER_FILE: 2}"),
    ),
    mutant(
        "a name that was changed by a killed one is not durable",
        "volcrypt/volume/migration_files.py",
        ["tests/volume/test_migration_files.py"],
        (
            (
                "        # Whoever did this may have been cut off before it was durable.\n"
                "        sync_directory(place)\n"
            ),
            "",
        ),
    ),
    mutant(
        "intents that were made void come back",
        "volcrypt/volume/migration_files.py",
        ["tests/volume/test_migration_files.py"],
        (
            "        (directory / INTENTS_FILE).unlink()\n    sync_directory(directory)",
            "        (directory / INTENTS_FILE).unlink()",
        ),
    ),
    mutant(
        "what a volume grows by is not durable",
        "volcrypt/volume/allocation.py",
        ["tests/volume/test_growth.py"],
        ("            os.fsync(descriptor)\n    except", "            pass\n    except"),
    ),
    mutant(
        "a backup leaves out where stores are",
        "volcrypt/operations/backups.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        ("            *places,\n", ""),
    ),
    mutant(
        "a backup leaves out unfinished work",
        "volcrypt/operations/backups.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        ("            *work,\n", ""),
    ),
    mutant(
        "a backup leaves out how much was written",
        "volcrypt/operations/backups.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        ("            *counts,\n", ""),
    ),
    mutant(
        "the name of a new image is not durable",
        "volcrypt/operations/new_files.py",
        ["tests/operations/test_new_files.py"],
        ("            os.fsync(directory)\n", ""),
    ),
    mutant(
        "what is restored is not durable",
        "volcrypt/operations/home_restore.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        ("        file.flush()\n        os.fsync(file.fileno())", "        file.flush()"),
    ),
    mutant(
        "names of what is restored are not durable",
        "volcrypt/operations/home_restore.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        (
            (
                "    for directory, _, _ in os.walk(path):\n"
                "        sync_directory(Path(directory))\n"
            ),
            "",
        ),
    ),
    mutant(
        "others may read what is restored",
        "volcrypt/operations/home_restore.py",
        [
            "tests/operations/test_backups.py::test_all_of_it_comes_back_and_is_durable_before_it_is_a_home"
        ],
        (
            'os.fdopen(os.open(target, flags, 0o600), "wb")',
            'os.fdopen(os.open(target, flags, 0o644), "wb")',
        ),
    ),
    mutant(
        "a backup puts files anywhere",
        "volcrypt/operations/home_restore.py",
        ["tests/operations/test_backups.py::test_what_is_no_home_is_not_restored"],
        (
            "    if entry.name != _CONFIG and (place not in _PLACES or place == entry.name):",
            "    if False:",
        ),
    ),
    mutant(
        "half a home is restored",
        "volcrypt/operations/home_restore.py",
        ["tests/operations/test_backups.py::test_what_is_no_home_is_not_restored"],
        ("    if not names >= _NEEDED:", "    if False:"),
    ),
]
