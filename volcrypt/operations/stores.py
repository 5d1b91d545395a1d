"""Snapshot stores of this home, and what makes this home a signer in them.

The default store `local` is a directory of the home, made at its first use. The register pins each
store's root public key, and the head of this home's log in it. The private keys are derived by the
KMS when they are needed, so there is no key file to lose or to steal:

    root of a store made here   derive_home_key("volcrypt store root", store id)
    this home's signing key     derive_home_key("volcrypt snapshot signer"): one for each token
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.durable import make_directory_durably
from volcrypt.errors import RollbackError, StoreNotFoundError
from volcrypt.formats.certificate import SignerId
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import StoreId, make_store_id
from volcrypt.operations.home import Home
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.log import SignerLog
from volcrypt.snapshot.signer import LogHead, Signer
from volcrypt.snapshot.store import SnapshotStore, read_store_document

LOCAL_STORE: Final = "local"
KIND: Final = "store"
HEAD_KIND: Final = "log-head"


def open_local_store(home: Home) -> SnapshotStore:
    """The default store; made, with this home as its first signer, when there is none yet.

    Raises StoreNotFoundError, IntegrityError and FormatError when it is not what was pinned.
    """
    path = home.stores_path / LOCAL_STORE
    entry = home.register.find(KIND, LOCAL_STORE)
    if entry is None:
        with home.exclusive():
            entry = home.register.find(KIND, LOCAL_STORE) or _make_local_store(home)
    objects = home.closing(LocalObjects(path))
    # The register's digest of a store is its root public key: 32 bytes, and all that is trusted.
    return SnapshotStore.open(objects, root_public_key=entry.digest)


def _make_local_store(home: Home) -> RegisterEntry:
    path = home.stores_path / LOCAL_STORE
    make_directory_durably(path)
    with closing(LocalObjects(path)) as objects:
        try:
            # Killed before the register knew of it, an earlier attempt left its document.
            store_id = read_store_document(objects).store_id
        except StoreNotFoundError:
            store_id = make_store_id(home.random_id_bytes())
        root_key = _root_key(home, store_id)
        root_public_key = root_key.public_key().public_bytes_raw()
        SnapshotStore.create(
            objects,
            store_id=store_id,
            region=home.region,
            digest=DigestAlgorithm.BLAKE3,
            root_key=root_key,
        )
        store = SnapshotStore.open(objects, root_public_key=root_public_key)
        store.certify(home_signer(home).public_key, root_key)
    entry = RegisterEntry(
        kind=KIND, id=store_id, name=LOCAL_STORE, counter=1, digest=root_public_key
    )
    home.register.apply(put=[entry], expect={(KIND, store_id): None})
    return entry


def _root_key(home: Home, store_id: StoreId) -> Ed25519PrivateKey:
    seed = home.vault.derive_home_key(b"volcrypt store root\0" + store_id.encode())
    return Ed25519PrivateKey.from_private_bytes(seed)


def home_signer(home: Home) -> Signer:
    """This home's signing key."""
    seed = home.vault.derive_home_key(b"volcrypt snapshot signer")
    return Signer(Ed25519PrivateKey.from_private_bytes(seed))


def store_in_use(home: Home) -> AbstractContextManager[None]:
    """While a snapshot is being made: any number at a time, and no sweep."""
    return home.locked(f"stores/{LOCAL_STORE}.use", shared=True)


def store_alone(home: Home) -> AbstractContextManager[None]:
    """For a sweep: nobody is making a snapshot. Raises TryAgainError after half a minute."""
    return home.locked(f"stores/{LOCAL_STORE}.use")


@contextmanager
def store_log(home: Home, store: SnapshotStore) -> Iterator["StoreLog"]:
    """This home's log in a store, for one change at a time among its processes."""
    with home.locked(f"stores/{LOCAL_STORE}.lock"):
        yield StoreLog(home, store)


class StoreLog:
    """The head of this home's log: loaded from the register, saved there after each entry."""

    def __init__(self, home: Home, store: SnapshotStore) -> None:
        self._home = home
        self.signer = home_signer(home)
        self._id = f"{store.store_id}/{self.signer.id}"

    @property
    def head(self) -> LogHead | None:
        """None before the first entry."""
        entry = self._home.register.get(HEAD_KIND, self._id)
        if entry is None:
            return None
        return LogHead(SignerId(self.signer.id), entry.counter, entry.digest)

    def save(self, head: LogHead) -> None:
        """Whoever shows this home a store whose log ends before `head` shows it an old one."""
        if head.sequence == 0 or head == self.head:
            return
        self._home.register.apply(
            put=[
                RegisterEntry(
                    kind=HEAD_KIND,
                    id=self._id,
                    name=None,
                    counter=head.sequence,
                    digest=head.digest,
                )
            ]
        )


def check_log_is_whole(home: Home, store: SnapshotStore) -> None:
    """Raises RollbackError when entries of this home's log are gone from the store: what is listed
    may then be what was deleted, and what is needed may not be listed."""
    log = StoreLog(home, store)
    if log.head is not None and SignerLog(store, log.signer.id).missing(log.head):
        raise RollbackError(
            f"snapshot store {store.objects.location}",
            hint="'volcrypt snapshot verify' names what is missing; snapshots can be used by id",
        )
