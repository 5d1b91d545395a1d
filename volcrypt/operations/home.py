"""The home directory: where all state lies, and the opening of its parts when they are needed.

    HOME/home           what this home is: format version, id, account, region (JSON document)
    HOME/lock           flock: one change of the home's structure at a time
    HOME/kms/           key management state (volcrypt.kms)
    HOME/volumes/       records, change maps and, unless placed elsewhere, data (volcrypt.volume)
    HOME/stores/NAME/   snapshot stores on this host (volcrypt.snapshot)
    HOME/work/          cursors of workflows that were begun

    RUNTIME/            on tmpfs: token copies, live change maps, control sockets, mount points

`init` writes HOME/home last, so a home that was killed while it was made is not one yet, and the
next `init` goes on.
"""

import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import msgspec

from volcrypt.durable import make_directory_durably, no_space_named, read_file, write_durably
from volcrypt.errors import (
    ConfigurationError,
    HomeNotInitialisedError,
    InvalidArgumentError,
    MalformedError,
    ObjectStoreError,
    RecordMissingError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.formats.document import MacSeal
from volcrypt.kms.home import create_kms, has_kms, keeps_pin, open_kms
from volcrypt.kms.model import Caller
from volcrypt.kms.register import Register
from volcrypt.kms.service import KmsService
from volcrypt.names import ID_RANDOM_BYTES, VolumeId
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.directory import VolumeDirectory

VERSION: Final = 1
LOCK_PATIENCE_SECONDS: Final = 30


class SupportsClose(Protocol):
    def close(self) -> None: ...


Closable = TypeVar("Closable", bound=SupportsClose)


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
    return runtime_root / hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def init_home(
    path: Path, runtime_root: Path, *, account: str, region: str, pin: bytearray | None
) -> bool:
    """Make a home at `path`; False when a complete one is there already.

    Killed at any step, the next call finishes. Raises InvalidArgumentError when `path` holds
    something else.
    """
    if (path / "home").exists():
        _read_home_document(path)
        return False
    if path.exists() and not path.is_dir():
        raise InvalidArgumentError(f"{path} is not a directory")
    if path.is_dir() and any(entry.name not in _OURS for entry in path.iterdir()):
        raise InvalidArgumentError(f"{path} is not empty and holds no volcrypt home")
    with no_space_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_directory_durably(path)
    for part in ("volumes", "stores", "work"):
        make_directory_durably(path / part)
    runtime = runtime_directory(path, runtime_root)
    make_runtime_directory(runtime)
    with _locked(path / "lock", what=f"home {path}"):
        create_kms(path / "kms", runtime, account=account, region=region, pin=pin)
        document = HomeDocument(home_id=secrets.token_hex(8), account=account, region=region)
        write_durably(path / "home", msgspec.json.encode(document) + b"\n")
    return True


_OURS: Final = {"home", ".home.new", "lock", "kms", "volumes", "stores", "work", "config.toml"}


def make_runtime_directory(runtime: Path) -> None:
    """Make the private directory on tmpfs; refuses one that another user prepared for us."""
    runtime.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    runtime.mkdir(mode=0o700, exist_ok=True)
    found = runtime.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{runtime} is not a private directory of this user")


def _read_home_document(path: Path) -> HomeDocument:
    what = f"{path / 'home'}"
    try:
        data = read_file(path / "home", limit_bytes=2**16)
    except (FileNotFoundError, NotADirectoryError):
        raise HomeNotInitialisedError(str(path)) from None
    except PermissionError as error:
        raise ConfigurationError(f"no permission to read {what}") from error
    try:
        document = msgspec.json.decode(data, type=HomeDocument)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(what, "truncated or damaged") from error
    if document.version != VERSION:
        raise UnsupportedVersionError(what, document.version, VERSION)
    return document


@contextmanager
def _locked(path: Path, *, what: str, shared: bool = False) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TryAgainError(f"{what} is busy with another command") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


class Home:
    """An initialised home. A context manager; what was opened is closed when it ends.

    The KMS, and with it the token, is opened at first use and not before: `--help` and a failing
    argument never wait for an HSM.
    """

    def __init__(
        self,
        path: Path,
        runtime_root: Path,
        *,
        region: str | None = None,
        ask_pin: Callable[[], bytearray] | None = None,
    ) -> None:
        """`ask_pin` gives the token's PIN where the home does not keep it.

        Raises HomeNotInitialisedError, and FormatError when HOME/home is damaged.
        """
        document = _read_home_document(path)
        if region is not None and region != document.region:
            raise InvalidArgumentError(
                f"this home belongs to region {document.region}, not to {region}"
            )
        self.path = path.resolve()
        self.runtime = runtime_directory(path, runtime_root)
        self.account = document.account
        self.region = document.region
        self.volumes = VolumeDirectory(self.path / "volumes")
        self.stores_path = self.path / "stores"
        self.work_path = self.path / "work"
        self.open_stores: dict[str, SnapshotStore | ObjectStoreError] = {}
        self._ask_pin = ask_pin
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def kms(self) -> KmsService:
        make_runtime_directory(self.runtime)
        directory = self.path / "kms"
        if not has_kms(directory):
            raise RecordMissingError(f"the key catalogue of home {self.path}")
        pin = self._ask_pin() if self._ask_pin is not None and not keeps_pin(directory) else None
        return self._stack.enter_context(
            open_kms(directory, self.runtime, account=self.account, region=self.region, pin=pin)
        )

    @property
    def register(self) -> Register:
        return self.kms.register

    @cached_property
    def caller(self) -> Caller:
        """The principal of the profile, here the account root, asking by itself."""
        return Caller(
            arn=f"arn:aws:iam::{self.account}:root", account=self.account, via_service=False
        )

    @cached_property
    def volume_service(self) -> Caller:
        """The same principal, asking through volcrypt's volume service (`kms:ViaService`)."""
        return Caller(
            arn=f"arn:aws:iam::{self.account}:root", account=self.account, via_service=True
        )

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the home while its structure changes; raises TryAgainError after half a minute."""
        return self.locked("lock")

    def locked(self, name: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold one lock file of the home; raises TryAgainError after half a minute."""
        return _locked(self.path / name, what=f"home {self.path}", shared=shared)

    def closing(self, thing: Closable) -> Closable:
        """Close `thing` when the home is closed."""
        self._stack.callback(thing.close)
        return thing

    def record_seal(self, volume_id: VolumeId) -> MacSeal:
        """Seals the record of one volume."""
        return MacSeal(self.kms.derive_home_key(b"volcrypt volume record\0" + volume_id.encode()))

    def change_map_key(self, volume_id: VolumeId) -> bytearray:
        """Seals the clean change map of one volume; the process that serves it is given this."""
        return self.kms.derive_home_key(b"volcrypt change map\0" + volume_id.encode())

    def random_id_bytes(self) -> bytes:
        return secrets.token_bytes(ID_RANDOM_BYTES)
