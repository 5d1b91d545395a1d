"""What a home is on disk: made by `init`, told by its document, locked while it changes.

`init` writes HOME/home last, so a home that was killed while it was made is not one yet, and the
next `init` goes on.
"""

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import (
    make_directory_durably,
    no_space_named,
    open_regular,
    read_file,
    write_durably,
)
from volcrypt.errors import (
    ConfigurationError,
    HomeAccessError,
    HomeNotInitialisedError,
    InvalidArgumentError,
    MalformedError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.file_lock import locked_within
from volcrypt.kms.home import create_kms

VERSION: Final = 1
HOME_LINK: Final = "home"
LOCK_PATIENCE_SECONDS: Final = 30


class HomeDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HOME/home. Not secret and not sealed: it only says which home this is; every account and
    region that matters is also in what the KMS seals."""

    format: str = "volcrypt home"
    version: int = VERSION
    home_id: str
    account: str
    region: str


def runtime_directory(home: Path, runtime_root: Path) -> Path:
    """A home's own directory on tmpfs; two homes never share one."""
    return runtime_root / _runtime_name(home.resolve())


def _runtime_name(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def init_home(
    path: Path, runtime_root: Path, *, account: str, region: str, pin: bytearray | None
) -> bool:
    """Make a home at `path`; False when a complete one is there already.

    Killed at any step, the next call finishes. Raises InvalidArgumentError when `path` holds
    something else.
    """
    if (path / "home").exists():
        read_home_document(path)
        return False
    if path.exists() and not path.is_dir():
        raise InvalidArgumentError(f"{path} is not a directory")
    if path.is_dir() and any(entry.name not in _OURS for entry in path.iterdir()):
        raise InvalidArgumentError(f"{path} is not empty and holds no volcrypt home")
    with no_space_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_directory_durably(path)
    for part in ("volumes", "stores", "work", "written"):
        make_directory_durably(path / part)
    runtime = runtime_directory(path, runtime_root)
    make_runtime_directory(runtime, home=path)
    with locked_file(path / "lock", what=f"home {path}"):
        create_kms(path / "kms", runtime, account=account, region=region, pin=pin)
        document = HomeDocument(home_id=secrets.token_hex(8), account=account, region=region)
        write_durably(path / "home", msgspec.json.encode(document) + b"\n", follow=True)
    return True


_OURS: Final = {
    "home",
    ".home.new",
    "lock",
    "kms",
    "volumes",
    "stores",
    "work",
    "written",
    "jobs",
    "scratch",
    "config.toml",
}


def make_runtime_directory(runtime: Path, *, home: Path) -> None:
    """Make the private directory on tmpfs, with a link to its home for people and
    `abandoned_directories`; refuses one that another user prepared for us, or could exchange, as he
    could below a directory of his own in /dev/shm."""
    runtime.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    above = runtime.parent.stat()
    makers = {above.st_uid, runtime.parent.lstat().st_uid}
    if not makers <= {0, os.geteuid()} or above.st_mode & 0o022:
        raise ConfigurationError(
            f"{runtime.parent} is another user's, or can be written by others",
            hint="look who made it, and remove it",
        )
    runtime.mkdir(mode=0o700, exist_ok=True)
    found = runtime.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{runtime} is not a private directory of this user")
    link = runtime / HOME_LINK
    with suppress(OSError):  # nothing depends on it
        if not link.is_symlink():
            link.symlink_to(home.resolve())


def abandoned_directories(runtime_root: Path) -> Iterator[tuple[Path, Path]]:
    """Directories of this user below `runtime_root`, and their homes, which are not there any more.
    What a link says counts only where the directory has its name by that; none is followed."""
    try:
        directories = sorted(runtime_root.iterdir())
    except OSError:
        return
    for directory in directories:
        with suppress(OSError):
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            home = Path(os.readlink(directory / HOME_LINK))
            if _runtime_name(home) == directory.name and _is_gone(home):
                yield directory, home


def _is_gone(path: Path) -> bool:
    """Raises OSErrors where that cannot be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def read_home_document(path: Path) -> HomeDocument:
    """Raises HomeNotInitialisedError, HomeAccessError for one of another user's, and
    FormatError."""
    what = f"{path / 'home'}"
    try:
        data = read_file(path / "home", limit_bytes=2**16, follow=True)
    except (FileNotFoundError, NotADirectoryError):
        raise HomeNotInitialisedError(str(path)) from None
    except PermissionError as error:
        raise HomeAccessError(what) from error
    try:
        document = msgspec.json.decode(data, type=HomeDocument)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "truncated or damaged") from error
    if document.version != VERSION:
        raise UnsupportedVersionError(what, document.version, VERSION)
    return document


@contextmanager
def locked_file(path: Path, *, what: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, which is made where there is none. Raises TryAgainError after half a
    minute."""
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, follow=True)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if not locked_within(descriptor, kind, LOCK_PATIENCE_SECONDS):
            raise TryAgainError(f"{what} is busy with another command")
        yield
    finally:
        os.close(descriptor)
