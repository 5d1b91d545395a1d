"""The SoftHSM token's files: a synced master copy in the home, and private copies to work on.

SoftHSM is not crash safe: every login truncates and rewrites a file of the token in place, without
fsync, and a kill in between destroys the token. So SoftHSM never sees the master. Each process
works on its own copy on tmpfs, which dies with it; what a login does there is never written back.
A token that must change is changed in a private copy, and that copy becomes the master by a durable
rename (`save_master`) before anything relies on the change.

    HOME/kms/token/master            token image (`formats.token_image`)
    RUNTIME/token.lock               held while a copy is made or leftovers are removed
    RUNTIME/token-XXXXXXXX/          a private copy; its directory is flock'd by its process
        softhsm2.conf
        tokens/                      the files of the image

The lock on a copy's directory goes when its process goes, also by kill -9: the next process that
makes a copy removes every copy that it can lock.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.durable import (
    make_directory_durably,
    no_space_named,
    overwrite_descriptor,
    read_file,
    write_durably,
)
from volcrypt.errors import ConfigurationError, FormatError, RecordMissingError, SealError
from volcrypt.formats.token_image import TokenImage, decode_token_image, encode_token_image

MASTER: Final = "master"
_PREFIX: Final = "token-"
_CONFIGURATION: Final = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def save_master(directory: Path, copy: Path) -> None:
    """Make the private copy the master, durably; all that uses the token must be closed.

    Raises NoSpaceError.
    """
    tokens = copy / "tokens"
    files = {
        os.fspath(path.relative_to(tokens)): path.read_bytes()
        for path in sorted(tokens.rglob("*"))
        if path.is_file()
    }
    make_directory_durably(directory)
    with _overwritten_when_replaced(directory / MASTER):
        write_durably(directory / MASTER, encode_token_image(TokenImage(files=files)))


def master_identity(directory: Path) -> tuple[int, ...] | None:
    """Another value whenever the master is another one; None while it cannot be looked at."""
    try:
        status = (directory / MASTER).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def private_copy(runtime: Path, *, master: Path | None) -> Iterator[Path]:
    """A directory of this process alone with `softhsm2.conf` and the token's files.

    `master` is the directory of the master, or None for a copy without a token. Raises FormatError
    and SealError for a damaged master, RecordMissingError for a missing one, NoSpaceError.
    """
    image = TokenImage(files={}) if master is None else _read_master(master)
    _make_runtime(runtime)
    copy, descriptor = _claim(runtime)
    try:
        with no_space_named(copy):
            _fill(copy, image)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        os.close(descriptor)


def configuration_of(copy: Path) -> Path:
    return copy / "softhsm2.conf"


def _read_master(directory: Path) -> TokenImage:
    path = directory / MASTER
    while True:
        identity = master_identity(directory)
        try:
            data = read_file(path, limit_bytes=2**26)
            return decode_token_image(data, what=f"token {path}")
        except FileNotFoundError as error:
            raise RecordMissingError(f"token {path}") from error
        except (FormatError, SealError):
            # Another process may have replaced it, and overwritten what was being read here.
            if identity == master_identity(directory):
                raise


@contextmanager
def _overwritten_when_replaced(path: Path) -> Iterator[None]:
    """Overwrite what `path` is now once the block has put another file in its place.

    Best effort: a file system that copies on write, or a disk that moves sectors, keeps what it
    wants; what lies there is encrypted under the PIN.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield
        return
    try:
        yield
        with suppress(OSError):
            overwrite_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _make_runtime(runtime: Path) -> None:
    """Make the directory for private copies, and check that it is ours alone."""
    with no_space_named(runtime):
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = runtime.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(
            f"{runtime} must belong to the user that runs volcrypt, and to nobody else",
            hint=f"chown it and 'chmod 700 {runtime}', or remove it",
        )


def _claim(runtime: Path) -> tuple[Path, int]:
    """A new directory for a copy, and the descriptor that keeps it locked."""
    lock = os.open(runtime / "token.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in runtime.glob(f"{_PREFIX}*"):
            _remove_if_dead(leftover)
        with no_space_named(runtime):
            copy = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=runtime))
        descriptor = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return copy, descriptor
    finally:
        os.close(lock)


def _remove_if_dead(copy: Path) -> None:
    try:
        descriptor = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # its process has just ended in good order
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(copy, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _fill(copy: Path, image: TokenImage) -> None:
    tokens = copy / "tokens"
    tokens.mkdir(mode=0o700)
    for name, content in image.files.items():
        path = tokens / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    configuration_of(copy).write_text(_CONFIGURATION.format(tokens=tokens))
