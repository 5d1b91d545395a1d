"""Bugs in what keeps others' names, paths, requests and documents where they belong, and secrets
and new files to themselves (`scripts/mutant_list.py`)."""

from typing import Final

from scripts.mutant import mutant

NAMES, DURABLE = (f"volcrypt/{n}.py" for n in ("names", "durable"))
SIGNATURE, NEW_FILES = "volcrypt/wire/signature.py", "volcrypt/operations/new_files.py"
T_SIGNATURE, T_NEW_FILES = "tests/wire/test_signature.py", "tests/operations/test_new_files.py"

HOSTILE: Final = [
    mutant(
        "a name may go on with a path",
        NAMES,
        ["tests/test_names.py"],
        ("_NAME.fullmatch(text) is None", "_NAME.match(text) is None"),
    ),
    mutant(
        "a store lists names that lead elsewhere",
        "volcrypt/snapshot/local.py",
        ["tests/snapshot/test_local.py"],
        ("            if not _NAME.fullmatch(name):", "            if not name:"),
    ),
    mutant(
        "a link of another user leads to a mount point",
        DURABLE,
        ["tests/e2e/test_link_races.py::test_whose_links_lead_to_a_mount_point"],
        ("if status.st_uid not in (0, os.geteuid()):", "if status.st_uid < 0:"),
    ),
    mutant(
        "paths that are made one are signed alike",
        SIGNATURE,
        [T_SIGNATURE],
        (
            'if any(part in (".", "..") for part in path.split("/")) or "//" in path:',
            "if not path:",
        ),
    ),
    mutant(
        "a new file that is being written is taken for one that a kill left",
        NEW_FILES,
        [T_NEW_FILES],
        ("not locked_within(descriptor, fcntl.LOCK_EX, 0):", "not descriptor:"),
    ),
    mutant(
        "a library may log what it sends and gets",
        "volcrypt/wire/remote.py",
        ["tests/e2e/test_secrets_said.py"],
        ('logging.getLogger("botocore").setLevel(logging.INFO)\n', ""),
    ),
    mutant(
        "what is deleted stays in free pages of the catalogue",
        "volcrypt/kms/database.py",
        ["tests/kms/test_catalog.py"],
        ("PRAGMA secure_delete = ON", "PRAGMA secure_delete = OFF"),
    ),
]
