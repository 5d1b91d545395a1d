"""Restore: a home made from a backup, in a place where none is.

    RESTORING          made first, removed last: what lies beside it is unfinished
    everything else    as in the backup
    home               last but one: a home is complete when it is there

Killed at any step, the next call starts over. The volumes' data and the snapshot stores are not in
a backup: they are put in their places by hand, and only then their volumes open. Stores elsewhere,
in a bucket say, are where they were, and the backup knows where.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.durable import (
    make_directory_durably,
    no_space_named,
    remove_durably,
    sync_directory,
    write_durably,
)
from volcrypt.errors import IntegrityError, InvalidArgumentError
from volcrypt.formats.backup import (
    MAX_HEADER_BYTES,
    SECRET_BYTES,
    BackupHeader,
    FileEntry,
    KmsDataKey,
    chunk_key,
    decode_files,
    open_chunks,
    split_header,
)
from volcrypt.kms.messages.data import DecryptRequest
from volcrypt.kms.model import Caller
from volcrypt.operations.vault import Kms

MARKER: Final = "RESTORING"
_KEPT: Final = b"with the configuration that was there\n"
"""What the marker says where a configuration lay already."""
_CONFIG: Final = "config.toml"
_HOME: Final = "home"
_PLACES: Final = frozenset({"kms", "volumes", "stores", "work", "written"})
_MAX_HOME_BYTES: Final = 2**16
_NEEDED: Final = frozenset({_HOME, "kms/catalog.sqlite3", "kms/token/master"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What was made."""

    path: Path
    header: BackupHeader
    file_count: int


def unwrap_secret(kms: Kms, key: KmsDataKey) -> bytearray:
    """What opens a backup that was made under a key of another KMS. Raises KmsError."""
    nobody = Caller(arn="", account="")  # the other KMS knows us by our credentials
    request = DecryptRequest(
        key_id=key.key_arn,
        ciphertext_blob=key.ciphertext,
        encryption_context=key.encryption_context,
    )
    secret = kms.perform(nobody, request).plaintext
    if len(secret) != SECRET_BYTES:
        raise IntegrityError(f"the KMS returned {len(secret)} bytes for a key of {SECRET_BYTES}")
    return secret


def read_header(source: Path) -> tuple[BackupHeader, bytes]:
    """The header of a backup, and its bytes. Raises FormatError, OSError."""
    with source.open("rb") as file:
        return split_header(file.read(MAX_HEADER_BYTES), what=f"backup {source}")


def check_empty(path: Path) -> None:
    """Raises InvalidArgumentError unless a home can be made at `path`: nothing is there, or what
    an earlier restore did not finish, or a configuration file (which is kept)."""
    if path.exists() and not path.is_dir():
        raise InvalidArgumentError(f"{path} is not a directory")
    if (path / MARKER).exists() or not path.exists():
        return
    if any(entry.name != _CONFIG for entry in path.iterdir()):
        raise InvalidArgumentError(
            f"{path} is not empty", hint="a backup is restored to a new home: --home NEW"
        )


def restore_home(
    source: Path, path: Path, *, secret: Callable[[BackupHeader], bytes | bytearray]
) -> RestoreReport:
    """Make the home at `path` from a backup; `secret` gives what opens it.

    Raises InvalidArgumentError when something is at `path`, WrongPassphraseError,
    IntegrityError for a damaged file, and what `secret` raises; nothing is left of what failed.
    """
    check_empty(path)
    header, header_bytes = read_header(source)
    key = chunk_key(secret(header), header_bytes)
    if (path / _HOME).exists():
        # Complete: an earlier call was killed before its last step.
        remove_durably(path / MARKER, follow=True)
        return RestoreReport(path=path, header=header, file_count=0)
    made = [each for each in (path, *path.absolute().parents) if not each.exists()]
    try:
        with no_space_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            make_directory_durably(path)
            if not (path / MARKER).exists():
                kept = _KEPT if (path / _CONFIG).exists() else b""
                write_durably(path / MARKER, kept, follow=True)
            _clear(path)
            count = _extract(
                source, path, header_bytes, key, is_by_passphrase=header.passphrase is not None
            )
    except BaseException:
        _clear(path)
        (path / MARKER).unlink(missing_ok=True)
        with suppress(OSError):  # somebody may have put something into it
            for directory in made:
                directory.rmdir()
        raise
    remove_durably(path / MARKER, follow=True)
    return RestoreReport(path=path, header=header, file_count=count)


def _clear(path: Path) -> None:
    """Remove all that a restore makes, but for its marker; a configuration that was there before
    stays."""
    marker = path / MARKER
    kept = {MARKER}
    if not marker.exists() or marker.read_bytes() == _KEPT:
        kept.add(_CONFIG)
    for entry in list(path.iterdir()) if path.is_dir() else []:
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _extract(source: Path, path: Path, header: bytes, key: bytes, *, is_by_passphrase: bool) -> int:
    what = f"backup {source}"
    for part in ("kms", "volumes", "stores", "work", "written"):
        make_directory_durably(path / part)
    names: set[str] = set()
    document = b""
    with source.open("rb") as file:
        file.seek(len(header))
        chunks = open_chunks(key, file.read, what=what, is_by_passphrase=is_by_passphrase)
        for entry in decode_files(chunks, what=what):
            if entry.name == _HOME:
                document = _document(entry, what)
            elif entry.name != _CONFIG or not (path / _CONFIG).exists():
                _write(path, entry, what)
            names.add(entry.name)
    if not names >= _NEEDED:
        raise IntegrityError(f"{what}: {', '.join(sorted(_NEEDED - names))} is not in it")
    for directory, _, _ in os.walk(path):
        sync_directory(Path(directory))
    write_durably(path / _HOME, document, follow=True)
    return len(names)


def _document(entry: FileEntry, what: str) -> bytes:
    if entry.size_bytes > _MAX_HOME_BYTES:
        raise IntegrityError(f"{what}: its file {_HOME} is too large")
    return b"".join(entry.content)


def _write(path: Path, entry: FileEntry, what: str) -> None:
    place = entry.name.split("/", 1)[0]
    if entry.name != _CONFIG and (place not in _PLACES or place == entry.name):
        raise IntegrityError(f"{what}: {entry.name} does not belong into a home")
    target = path / entry.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        for piece in entry.content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
