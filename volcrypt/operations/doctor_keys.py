"""Checks of `volcrypt doctor` that need the home's KMS: that it opens, the KMS of the profile, and
the stores, whose places only it vouches for. Nothing is written to a store."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from volcrypt.errors import (
    AccessDeniedError,
    RollbackError,
    StoreAccessError,
    VolcryptError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.clock import host_time
from volcrypt.kms.lock import SERVING, is_served
from volcrypt.kms.messages.keys import ListKeysRequest
from volcrypt.operations.attachments import device_name
from volcrypt.operations.findings import Finding, note, ok, problem, problem_of
from volcrypt.operations.home import Home
from volcrypt.operations.key_states import NOT_FOUND, troubled_keys
from volcrypt.operations.record_copies import copy_file
from volcrypt.operations.records import data_path, load_records, nominal_data_path
from volcrypt.operations.space import space_warnings
from volcrypt.operations.stores import (
    LOCAL_STORE,
    check_log_is_whole,
    check_may_sign,
    known_stores,
    open_store,
)

_REQUEST_SECONDS: Final = 8.0
_MENDS: Final = {
    "Disabled": "volcrypt kms enable-key --key-id {}",
    "PendingDeletion": "volcrypt kms cancel-key-deletion --key-id {}",
    "PendingImport": "volcrypt kms import-key-material --key-id {}",
    NOT_FOUND: "volcrypt restore, from a backup of the KMS that had it",
}


def check_kms(home: Home) -> Iterator[Finding]:
    """The home's own KMS, which every command needs, and then the one of the profile. Raises
    VolcryptError where the first cannot be used."""
    how = "'kms serve' answers" if is_served(home.path / "kms" / SERVING) else "the token opens"
    home.vault.audit_head()
    yield ok("kms", f"{how}, catalogue and audit log fit")
    name = home.access.kms_name
    try:
        home.kms.perform(home.caller, ListKeysRequest(limit=1))
    except AccessDeniedError:
        yield ok("kms", f"{name} answers, and lets this principal list no keys")
    except VolcryptError as error:
        if home.access.other_kms is None:
            raise
        yield problem_of("kms", error, error.hint or "the profile in config.toml, and credentials")
    else:
        if home.access.other_kms is not None:
            yield ok("kms", f"{name} answers")


def check_keys(home: Home) -> Iterator[Finding]:
    """Keys that volumes have lost, or are about to lose."""
    records = [each for each in load_records(home).values() if isinstance(each, VolumeRecord)]
    found = troubled_keys(home, records, now=host_time())
    for key in found:
        until = (
            "" if key.until is None else f" until {datetime.fromtimestamp(key.until, UTC):%Y-%m-%d}"
        )
        key_id = key.key_arn.rpartition("/")[2]
        yield problem(
            "keys",
            f"key {key_id} is in state {key.state}{until}, and is the key of "
            f"{', '.join(key.volumes)}",
            _MENDS.get(key.state, "volcrypt kms describe-key --key-id {}").format(key_id),
        )
    if not found:
        yield ok("keys", "those of volumes are enabled")


def check_volumes(home: Home) -> Iterator[Finding]:
    """Records that cannot be read, data that is not there, and file systems that thin volumes will
    fill."""
    found = load_records(home)
    records = [each for each in found.values() if isinstance(each, VolumeRecord)]
    damaged = [
        (volume_id, error)
        for volume_id, each in found.items()
        if (error := each if isinstance(each, VolcryptError) else _problem_of(home, each))
    ]
    for volume_id, error in damaged:
        text = str(error) if volume_id in str(error) else f"{volume_id}: {error}"
        yield problem("volumes", text, f"volcrypt volume check {volume_id}")
    warnings = space_warnings(home, records)
    for warning in warnings:
        yield problem("space", warning, "free some, or move volumes to another ('--data')")
    if not warnings:
        yield ok("space", "what volumes may still take is there")
    for record in records:
        copy = copy_file(home, record)
        if copy is not None and not copy.exists():
            yield note(
                "volumes",
                f"{device_name(record)}: the second copy of its record is not there: {copy}",
                "the next mount writes it",
            )
    if not damaged:
        yield ok("volumes", f"{len(records)} are there, with their records")


def _problem_of(home: Home, record: VolumeRecord) -> VolcryptError | str | None:
    try:
        if not home.volumes.has_spare(record.volume_id):
            return "its spare record cannot be written"
        path = data_path(home, record)
        status = path.stat()
    except VolcryptError as error:
        return error
    except OSError as error:
        return f"{nominal_data_path(home, record)}: {error.strerror}"
    if stat.S_ISREG(status.st_mode) and status.st_size < record.size_bytes:
        return f"{path} is shorter than the volume"
    return None


def check_stores(home: Home) -> Iterator[Finding]:
    """Whether each store is reached, is the one that is trusted, and has what it had; less than
    `store check` does, and without a put."""
    names = known_stores(home)
    for name in names:
        yield _store(home, name)
    if not names:
        yield ok("store", "there is none yet; 'local' is made by the first snapshot")


def _store(home: Home, name: str) -> Finding:
    from volcrypt.snapshot.s3 import Patience

    patience = Patience(
        connect_seconds=4, request_seconds=_REQUEST_SECONDS, retry_seconds=4, retries=1
    )
    mend = f"volcrypt store check {name}"
    try:
        store = open_store(home, name, patience=None if name == LOCAL_STORE else patience)
        count = len(store.snapshot_ids())
        check_log_is_whole(home, store)
    except RollbackError as error:
        return problem("store", f"{name}: {error}", error.hint or "volcrypt snapshot verify")
    except (VolcryptError, OSError) as error:
        return problem("store", f"{name}: {error}", getattr(error, "hint", None) or mend)
    what = f"{name} at {store.objects.location}: {count} snapshots"
    try:
        check_may_sign(home, store)
    except StoreAccessError as error:
        if name == LOCAL_STORE:
            return problem("store", f"{what}; {error}", "restore its 'certificates' from a backup")
        return note("store", f"{what}; this home may only read it", error.hint)
    return ok("store", f"{what}, its log is whole")
