"""The KMS of a home: making it, and opening it. Joins token, HSM, catalogue, audit log, service.

    HOME/kms/                    0700
        lock                     held by the process that changes something (`lock`)
        serving                  held by every process that has the KMS open (`lock`)
        pin                      0600; only where no PIN was given: whoever reads it and the token
                                 can use every key
        token/master             `token`
        audit/                   `audit`, and its head, `head_file`
        catalog.sqlite3          `catalog`; made last: where it is, all of it is

`create_kms` may be killed at any step: the next call starts over. It never replaces a token that
may have been used, because that would end every key under it: where the audit log has records and
the catalogue is missing, the catalogue was lost.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import make_directory_durably, read_file, remove_durably, write_durably
from volcrypt.errors import ConfigurationError, HomeNotInitialisedError, RecordMissingError
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.clock import host_time
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.home_token import open_home_token
from volcrypt.kms.key_stores import NO_CLUSTERS, KeyStores
from volcrypt.kms.lock import SERVING, WriterLock, held_home
from volcrypt.kms.pin import check_pin
from volcrypt.kms.pkcs11_session import make_token
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.scope import Parts
from volcrypt.kms.sealing import Item
from volcrypt.kms.service import KmsService
from volcrypt.kms.token import configuration_of, private_copy, save_master

_CATALOG: Final = "catalog.sqlite3"
_AUDIT: Final = "audit"
_HEAD: Final = "audit/head"
_PIN: Final = "pin"
_META: Final = "meta"
_META_ID: Final = "home"
_PIN_RANDOM_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meta:
    """What the catalogue says of itself."""

    account: str
    region: str
    created_at: float


def create_kms(
    directory: Path, runtime: Path, *, account: str, region: str, pin: bytearray | None
) -> None:
    """Make the KMS in `directory`; a complete one is checked and left as it is.

    Without a PIN one is drawn and kept in the file `pin`. Raises NoSpaceError, TryAgainError,
    InvalidArgumentError for a PIN that no token takes, ConfigurationError when a KMS is there that
    has another PIN, account or region, RecordMissingError when its catalogue was lost,
    ComponentMissingError.
    """
    if pin is not None:
        check_pin(pin)
    make_directory_durably(directory)
    lock = WriterLock(directory / "lock")
    try:
        with lock.held():
            if not has_kms(directory):
                _make(directory, runtime, account=account, region=region, pin=pin)
        # Whatever was there before: the same PIN, account and region open it.
        with open_kms(directory, runtime, account=account, region=region, pin=pin):
            pass
    finally:
        lock.close()


def has_kms(directory: Path) -> bool:
    """Whether the KMS in `directory` is complete."""
    return (directory / _CATALOG).exists()


def keeps_pin(directory: Path) -> bool:
    """Whether the PIN lies in `directory`, so that `open_kms` needs none."""
    return (directory / _PIN).exists()


@contextmanager
def open_kms(
    directory: Path,
    runtime: Path,
    *,
    account: str,
    region: str,
    pin: bytearray | None = None,
    clock: Callable[[], float] = host_time,
    exclusive: bool = False,
    clusters: Mapping[str, Cluster] = NO_CLUSTERS,
) -> Iterator[KmsService]:
    """The KMS in `directory`, logged in on a private copy of its token until the end of the block.

    `clusters` are the tokens that custom key stores can be made of, by CloudHSM cluster id.
    `account` and `region` are the home's own; the service that comes has others in its `scope`.
    One at a time in a process; any number of processes, or one that opens it `exclusive`, to serve
    it to all others. Raises HomeNotInitialisedError, TryAgainError while a server holds it,
    ConfigurationError for a missing or wrong PIN, FormatError and IntegrityError for what was
    damaged, changed or rolled back, HsmUnavailableError, NoSpaceError.
    """
    if not has_kms(directory):
        raise HomeNotInitialisedError(str(directory.parent))
    if pin is None:
        pin = _stored_pin(directory)
    with ExitStack() as stack:
        stack.enter_context(held_home(directory / SERVING, exclusive=exclusive))
        key_store = stack.enter_context(open_home_token(directory / "token", runtime, pin))
        key_stores = stack.enter_context(closing(KeyStores(clusters)))
        lock = stack.enter_context(closing(WriterLock(directory / "lock")))
        heads = stack.enter_context(closing(HeadFile(directory / _HEAD, macs=key_store)))
        audit = stack.enter_context(closing(AuditLog(directory / _AUDIT)))
        catalog = stack.enter_context(
            closing(Catalog(directory / _CATALOG, lock=lock, macs=key_store, heads=heads))
        )
        _check_meta(catalog, account=account, region=region)
        yield KmsService(
            Parts(
                catalog=catalog,
                keystore=key_store,
                audit=audit,
                account=account,
                region=region,
                clock=clock,
                key_stores=key_stores,
            )
        )


def _make(
    directory: Path, runtime: Path, *, account: str, region: str, pin: bytearray | None
) -> None:
    """All of it, the catalogue last; what an unfinished attempt left is not used."""
    if any((directory / _AUDIT).glob("*.jsonl")):
        raise RecordMissingError(f"catalogue {directory / _CATALOG}")
    remove_durably(directory / "pin")
    if pin is None:
        pin = bytearray(secrets.token_urlsafe(_PIN_RANDOM_BYTES).encode())
        write_durably(directory / "pin", bytes(pin))
    with private_copy(runtime, master=None) as copy:
        make_token(configuration_of(copy), pin)
        save_master(directory / "token", copy)
    AuditLog.create(directory / _AUDIT)
    with open_home_token(directory / "token", runtime, pin) as key_store:
        meta = _Meta(account=account, region=region, created_at=host_time())
        item = Item(kind=_META, id=_META_ID, body=msgspec.json.encode(meta))
        HeadFile.create(directory / _HEAD, macs=key_store, catalogue=FIRST_COUNTER)
        Catalog.create(directory / _CATALOG, macs=key_store, items=[item])


def _stored_pin(directory: Path) -> bytearray:
    path = directory / _PIN
    try:
        return bytearray(read_file(path, limit_bytes=2**12))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the PIN of the token is not kept in {path}", hint="give the PIN that 'init' was given"
        ) from error


def _check_meta(catalog: Catalog, *, account: str, region: str) -> None:
    with catalog.reading() as view:
        item = view.get(_META, _META_ID)
    assert item is not None, "internal error: a catalogue without its description"
    meta = msgspec.json.decode(item.body, type=_Meta)
    if (meta.account, meta.region) != (account, region):
        raise ConfigurationError(
            f"the KMS belongs to account {meta.account} in region {meta.region}, "
            f"not to account {account} in region {region}"
        )
