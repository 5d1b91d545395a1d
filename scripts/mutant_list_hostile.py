"""Bugs in what keeps others' names, paths, requests and documents where they belong, and secrets
and new files to themselves (`scripts/mutant_list.py`)."""

from typing import Final

from scripts.mutant import mutant

NAMES, DURABLE = (f"volcrypt/{n}.py" for n in ("names", "durable"))
SIGNATURE, NEW_FILES = "volcrypt/wire/signature.py", "volcrypt/operations/new_files.py"
CREDENTIALS, T_APP = "volcrypt/wire/credentials.py", "tests/wire/test_app.py"
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
    mutant(
        "the beginning of a signature is enough",
        SIGNATURE,
        [T_SIGNATURE],
        (
            'hmac.compare_digest(expected.encode(), claim.signature.encode(errors="replace"))',
            "expected.startswith(claim.signature)",
        ),
    ),
    mutant(
        "a query is signed up to its fragment",
        SIGNATURE,
        [T_SIGNATURE],
        (" and _QUERY.fullmatch(query)", ""),
    ),
    mutant(
        "headers that are not there count as signed",
        SIGNATURE,
        [T_SIGNATURE],
        ("if len(signed) != len(claim.signed_headers):", "if False:"),
    ),
    mutant(
        "an unsigned date goes before the signed one",
        "volcrypt/wire/claim.py",
        [T_SIGNATURE],
        (
            "    if text is not None:\n        if not _TIME",
            '    if text is not None and request.header("date") is None:\n        if not _TIME',
        ),
    ),
    mutant(
        "an access key that was made anew is the old one",
        CREDENTIALS,
        [T_APP],
        ("        access_key.created_at,\n", ""),
    ),
    mutant(
        "an access key that was made anew waits for another day",
        CREDENTIALS,
        [T_APP],
        ("if not may_look_up() or await", "if True or await"),
    ),
    mutant(
        "one check is for all who ask at once",
        "volcrypt/wire/engine.py",
        [T_APP],
        ("who = id(job.subject)", "who = 0"),
    ),
    mutant(
        "STS answers who may call no more",
        "volcrypt/wire/app.py",
        [T_APP],
        (
            "await self._engine.submit(lambda: self._credentials.check_current(known))",
            "pass",
        ),
    ),
    mutant(
        "what others can read along is secure",
        "volcrypt/wire/app.py",
        [T_APP],
        ('scope.get("scheme") == "https" or not scope.get("client")', "True"),
    ),
    mutant(
        "the group of a peer is taken for its user",
        "volcrypt/wire/home_socket.py",
        ["tests/wire/test_home_socket.py"],
        ("_, user, _ = _PEER", "_, _, user = _PEER"),
    ),
    mutant(
        "a name is of this host when one of its addresses is",
        "volcrypt/wire/listener.py",
        ["tests/wire/test_listener.py"],
        ("not all(_is_loopback", "not any(_is_loopback"),
    ),
    mutant(
        "all policies that anybody proposes are remembered",
        "volcrypt/kms/policy_document.py",
        ["tests/kms/test_policy_document.py"],
        ("lru_cache(maxsize=8)", "lru_cache(maxsize=1024)"),
    ),
    mutant(
        "a condition on the window of a deletion asks nothing",
        "volcrypt/kms/facts.py",
        ["tests/kms/test_facts.py"],
        ('        "pending_window_in_days": "kms:ScheduleKeyDeletionPendingWindowInDays",\n', ""),
    ),
]
