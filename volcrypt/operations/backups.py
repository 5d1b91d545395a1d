"""Backup: the key management state of a home, and what opens its volumes, in one encrypted file.

    home, config.toml           which home this is, and its settings
    kms/...                     token image, PIN (where the home keeps it), audit log, its head,
                                and the catalogue with keys, grants, principals and the register
    volumes/ID/record...        without it the register's entry opens nothing; the data is not in it
    stores/NAME.place           where the stores are that the register names; no snapshots
    work/...                    cursors of unfinished work, which the register knows too
    written/...                 how much was encrypted under each data key

All of it is of one moment: the writer lock is held, so nobody changes catalogue or audit log, until
everything but the audit log is read; of that the part that was there at the lock. The request for
the backup is on the audit log, in the file too, before anything is written.
"""

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from volcrypt.errors import InvalidArgumentError, TryAgainError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.formats.backup import (
    SALT_BYTES,
    SECRET_BYTES,
    BackupHeader,
    KmsDataKey,
    PassphraseKey,
    chunk_key,
    encode_files,
    encode_header,
    seal_chunks,
    stretch_passphrase,
)
from volcrypt.kms.clock import host_time
from volcrypt.kms.lock import SERVING, WriterLock
from volcrypt.kms.messages.data import GenerateDataKeyRequest
from volcrypt.operations.home import Home
from volcrypt.operations.new_files import check_new_file, new_file

ACTION: Final = "volcrypt:Backup"
LOG_N: Final = 17
"""scrypt of a passphrase takes 128 MiB and about half a second."""
CATALOG: Final = "catalog.sqlite3"
_NOT_STATE: Final = frozenset({"lock", SERVING})
_READ_BYTES: Final = 2**20
_PATIENCE_SECONDS: Final = 10.0

Member = tuple[str, int, Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """What was written. `has_pin`: whoever opens the file has the keys."""

    path: Path
    size_bytes: int
    file_count: int
    audit_head: AuditHead
    has_pin: bool


def back_up(
    home: Home,
    target: Path,
    *,
    passphrase: bytearray | None,
    kms_key: str | None,
    log_n: int = LOG_N,
) -> BackupReport:
    """Write the backup to the new file `target`, which appears whole and durable, or not at all.

    It opens with the passphrase, or with a key of the profile's other KMS. Raises
    AccessDeniedError for who may not do `volcrypt:Backup`, NameTakenError,
    InvalidArgumentError, NoSpaceError.
    """
    check_new_file(target)
    if kms_key is not None and home.access.other_kms is None:
        raise InvalidArgumentError(
            "a key of this home would be in its own backup, and could not open it",
            hint="use a profile of another KMS (--profile), or a passphrase",
        )
    home.vault.authorise(home.caller, ACTION)
    header, secret = _new_secret(home, passphrase=passphrase, kms_key=kms_key, log_n=log_n)
    key = chunk_key(secret, header)
    with (
        new_file(target) as descriptor,
        _Moment(home) as moment,
        os.fdopen(descriptor, "wb", closefd=False) as file,
    ):
        head, members = moment.members()
        count = _Counter(members)
        file.write(header)
        for chunk in seal_chunks(key, encode_files(count)):
            file.write(chunk)
        file.flush()
        size = file.tell()
    return BackupReport(
        path=target,
        size_bytes=size,
        file_count=count.done,
        audit_head=head,
        has_pin=(home.path / "kms" / "pin").exists(),
    )


def _new_secret(
    home: Home, *, passphrase: bytearray | None, kms_key: str | None, log_n: int
) -> tuple[bytes, bytes | bytearray]:
    """The bytes of a new header, and the secret that goes with it."""
    parameters: PassphraseKey | None = None
    data_key: KmsDataKey | None = None
    secret: bytes | bytearray
    if kms_key is not None:
        context = {"volcrypt:backup-of": home.home_id}
        response = home.kms.perform(
            home.caller,
            GenerateDataKeyRequest(
                key_id=kms_key, number_of_bytes=SECRET_BYTES, encryption_context=context
            ),
        )
        secret = response.plaintext
        data_key = KmsDataKey(
            key_arn=response.key_id,
            ciphertext=response.ciphertext_blob,
            encryption_context=context,
        )
    else:
        assert passphrase is not None, "internal error: neither passphrase nor key"
        parameters = PassphraseKey(log_n=log_n, salt=secrets.token_bytes(SALT_BYTES))
        secret = stretch_passphrase(passphrase, parameters)
    header = BackupHeader(
        home_id=home.home_id,
        account=home.account,
        region=home.region,
        created_at=int(host_time()),
        passphrase=parameters,
        kms=data_key,
    )
    return encode_header(header), secret


class _Counter:
    """Counts what passes."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = members
        self.done = 0

    def __iter__(self) -> Iterator[Member]:
        for member in self._members:
            self.done += 1
            yield member


class _Moment:
    """A home held still: files that may grow are opened, with their sizes, under the writer lock;
    the lock is given back as soon as only such files are left to be read."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def members(self) -> tuple[AuditHead, Iterator[Member]]:
        """The audit head, and all files; to be read in their order."""
        lock = WriterLock(self._home.path / "kms" / "lock")
        self._stack.callback(lock.close)
        held = self._stack.enter_context(ExitStack())
        head = self._hold(lock, held)
        whole, growing = self._files()
        opened = [(name, self._open(name)) for name in growing]
        sizes = [os.fstat(file.fileno()).st_size for _, file in opened]

        def found() -> Iterator[Member]:
            for name in whole:
                with suppress(FileNotFoundError), self._open(name) as file:
                    size = os.fstat(file.fileno()).st_size
                    yield name, size, _pieces(file, size)
            held.close()
            for (name, file), size in zip(opened, sizes, strict=True):
                yield name, size, _pieces(file, size)

        return head, found()

    def _hold(self, lock: WriterLock, held: ExitStack) -> AuditHead:
        """Take the writer lock while the catalogue's file is a whole one: a process that was
        killed in the middle of a change leaves a journal that the next reader undoes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            head = self._home.vault.audit_head()
            held.enter_context(lock.held())
            # What was recorded between the two lines is in the log, behind the head that we name.
            if not _has_hot_journal(self._home.path / "kms" / CATALOG):
                return head
            held.close()
            if time.monotonic() > deadline:
                raise TryAgainError("the key catalogue does not come to rest")

    def _files(self) -> tuple[list[str], list[str]]:
        """Names of the files that do not change under the lock, and of those that only grow."""
        home = self._home.path
        kms = [
            path
            for path in sorted((home / "kms").rglob("*"))
            if path.is_file() and not path.is_symlink() and _is_state(path)
        ]
        growing = [path for path in kms if path.suffix == ".jsonl"]
        records = sorted((home / "volumes").glob("vol-*/record*"))
        places = sorted((home / "stores").glob("*.place"))
        work = sorted(path for path in (home / "work").iterdir() if path.is_file())
        counts = sorted(path for path in (home / "written").glob("dk-*") if path.is_file())
        single = [home / "home", home / "config.toml"]
        whole = [
            *single,
            *(path for path in kms if path not in growing),
            *records,
            *places,
            *work,
            *counts,
        ]
        return (
            [os.fspath(path.relative_to(home)) for path in whole],
            [os.fspath(path.relative_to(home)) for path in growing],
        )

    def _open(self, name: str) -> BinaryIO:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        return self._stack.enter_context(os.fdopen(os.open(self._home.path / name, flags), "rb"))


def _is_state(path: Path) -> bool:
    return path.name not in _NOT_STATE and not (
        path.name.startswith(".") or path.name.endswith((".new", "-journal", "-wal", "-shm"))
    )


def _has_hot_journal(catalog: Path) -> bool:
    """Whether a change of the catalogue is unfinished: SQLite clears a journal's first bytes when
    the change is done."""
    try:
        with catalog.with_name(f"{catalog.name}-journal").open("rb") as file:
            return any(file.read(8))
    except FileNotFoundError:
        return False


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, _READ_BYTES))
        if not piece:
            raise TryAgainError(f"{file.name} became shorter while it was read")
        size -= len(piece)
        yield piece
