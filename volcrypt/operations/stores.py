"""Snapshot stores of this home, and what makes this home a signer in them.

The default store `local` is a directory of the home, made at its first use, and the home's alone.
All others are shared with other homes: they lie where HOME/stores/NAME.place says
(`formats.store_place`), and are made and joined in `store_admin`. The register pins each store's
root public key, and the head of this home's log in it. The private keys are derived by the KMS when
they are needed, so there is no key file to lose or to steal:

    root of a store made here   derive_home_key("volcrypt store root", store id)
    this home's signing key     derive_home_key("volcrypt snapshot signer"): one for each token
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.durable import make_directory_durably, read_file, write_durably
from volcrypt.errors import (
    InvalidArgumentError,
    NameTakenError,
    NoSpaceError,
    ObjectStoreError,
    RecordMissingError,
    RollbackError,
    SealError,
    StoreAccessError,
    StoreNotFoundError,
    StoreReplacedError,
    VolcryptError,
)
from volcrypt.formats.certificate import SignerId
from volcrypt.formats.document import MAX_DOCUMENT_BYTES, MacSeal
from volcrypt.formats.store_place import StorePlace, decode_store_place, encode_store_place
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import StoreId, make_store_id
from volcrypt.operations.home import Home
from volcrypt.operations.store_places import open_objects
from volcrypt.snapshot import layout
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.log import SignerLog
from volcrypt.snapshot.objects import ObjectStore
from volcrypt.snapshot.signer import LogHead, Signer
from volcrypt.snapshot.store import SnapshotStore, read_store_document

if TYPE_CHECKING:
    from volcrypt.snapshot.s3 import Patience

LOCAL_STORE: Final = "local"
KIND: Final = "store"
HEAD_KIND: Final = "log-head"


# ---------------------------------------------------------------- opening


def open_store(home: Home, name: str, *, patience: "Patience | None" = None) -> SnapshotStore:
    """The store of that name; `patience` is with its service, else the usual one.

    Raises StoreNotFoundError, IntegrityError and FormatError when it is not what was pinned,
    ObjectStoreError and StoreAccessError when it cannot be reached."""
    if name == LOCAL_STORE:
        return open_local_store(home)
    store = home.open_stores.get(name)
    if store is None:
        entry = home.register.find(KIND, name)
        if entry is None:
            raise StoreNotFoundError(name)
        place = load_place(home, name)
        try:
            objects = home.closing(open_objects(place, patience=patience))
            store = _pinned(objects, entry)
        except StoreNotFoundError as error:
            if error.hint is None:
                error.hint = (
                    f"{place.url} is where store {name} was: mount what it lies on, or put it back"
                )
            raise
        except ObjectStoreError as error:
            store = error  # a command waits for a store that is away once, not at each look
        home.open_stores[name] = store
    if isinstance(store, ObjectStoreError):
        raise store
    return store


def open_stores(home: Home) -> Iterator[tuple[str, SnapshotStore | VolcryptError]]:
    """All stores by name, the local one first; for one that cannot be opened, why."""
    for name in store_names(home).values():
        try:
            yield name, open_store(home, name)
        except VolcryptError as error:
            yield name, error


def store_of(home: Home, store_id: StoreId) -> SnapshotStore:
    """The store of that id. Raises as `open_store`."""
    name = store_names(home).get(store_id)
    if name is None:
        raise StoreNotFoundError(store_id)
    return open_store(home, name)


def store_names(home: Home) -> dict[StoreId, str]:
    """Names of the stores that this home knows, the local one first."""
    if home.register.find(KIND, LOCAL_STORE) is None:
        with suppress(NoSpaceError):  # made at its first use; looking needs no room
            open_local_store(home)
    entries = sorted(
        home.register.entries(KIND), key=lambda entry: (entry.name != LOCAL_STORE, entry.name)
    )
    return {StoreId(entry.id): entry.name or entry.id for entry in entries}


def open_local_store(home: Home) -> SnapshotStore:
    """The default store; made, with this home as its first signer, when there is none yet.

    Raises StoreNotFoundError, IntegrityError and FormatError when it is not what was pinned.
    """
    entry = home.register.find(KIND, LOCAL_STORE)
    if entry is None:
        with home.exclusive():
            entry = home.register.find(KIND, LOCAL_STORE) or _make_local_store(home)
    return _open_local(home, entry)


def find_local_store(home: Home) -> SnapshotStore | None:
    """The default store if there is one: for who only looks, also on a full disk.

    Raises StoreNotFoundError, IntegrityError and FormatError when it is not what was pinned.
    """
    entry = home.register.find(KIND, LOCAL_STORE)
    return None if entry is None else _open_local(home, entry)


def _open_local(home: Home, entry: RegisterEntry) -> SnapshotStore:
    try:
        return _pinned(home.closing(LocalObjects(home.stores_path / LOCAL_STORE)), entry)
    except StoreNotFoundError as error:
        error.hint = (
            f"put it back to {home.stores_path / LOCAL_STORE}; when it is lost, 'volcrypt store "
            f"create {LOCAL_STORE}' makes a new one; --store NAME goes elsewhere"
        )
        raise


def renew_local_store(home: Home) -> RegisterEntry | None:
    """A new default store in place of one that is lost; what this home knew of that one, None when
    there was none. Nothing of it is needed but what is in it: should it be found, any home can join
    it. Killed on its way, the same call again finishes.

    Raises NameTakenError when the store is there, InvalidArgumentError when anything else is in its
    place.
    """
    path = home.stores_path / LOCAL_STORE
    with home.exclusive():
        entry = home.register.find(KIND, LOCAL_STORE)
        if entry is None:
            _make_local_store(home)
            return None
        if path.exists():
            with closing(LocalObjects(path)) as objects:
                _check_lost(home, objects, entry)
        heads = [
            (HEAD_KIND, each.id)
            for each in home.register.entries(HEAD_KIND)
            if each.id.startswith(f"{entry.id}/")
        ]
        _make_local_store(home, lost=entry, forget=heads)
        return entry


def _check_lost(home: Home, objects: LocalObjects, entry: RegisterEntry) -> None:
    """Raises NameTakenError and InvalidArgumentError, unless nothing is there, or what an earlier
    call made."""
    hint = f"move {objects.location} away: nothing that is in it is used"
    try:
        document = read_store_document(objects)
    except StoreNotFoundError:
        if next(iter(objects.list("")), None) is not None:
            raise InvalidArgumentError(
                f"{objects.location} holds what is left of a snapshot store", hint=hint
            ) from None
        return
    except VolcryptError as error:
        raise InvalidArgumentError(str(error), hint=hint) from error
    if document.store_id == entry.id:
        raise NameTakenError("snapshot store", LOCAL_STORE)
    own = root_key(home, document.store_id).public_key().public_bytes_raw()
    ours = {layout.STORE, layout.certificate_name(home_signer(home).id)}
    if document.root_public_key != own or not ours.issuperset(objects.list("")):
        raise InvalidArgumentError(
            f"{objects.location} holds another snapshot store",
            hint=f"move it away, and join it with 'volcrypt store trust NAME --url URL'; then "
            f"'volcrypt store create {LOCAL_STORE}' goes on",
        )


def known_stores(home: Home) -> list[str]:
    """As the values of `store_names`, for who only looks: none is made."""
    names = [entry.name or entry.id for entry in home.register.entries(KIND)]
    return sorted(names, key=lambda name: (name != LOCAL_STORE, name))


def is_shared(home: Home, store: SnapshotStore) -> bool:
    """Whether other homes may be at work in the store."""
    entry = home.register.get(KIND, store.store_id)
    return entry is None or entry.name != LOCAL_STORE


def _pinned(objects: ObjectStore, entry: RegisterEntry) -> SnapshotStore:
    # The register's digest of a store is its root public key: 32 bytes, and all that is trusted.
    document = read_store_document(objects)
    if document.store_id != entry.id:
        raise StoreReplacedError(objects.location, found=document.store_id, expected=entry.id)
    if document.root_public_key != entry.digest:
        raise SealError(f"snapshot store {objects.location}")
    return SnapshotStore(objects, document)


def _make_local_store(
    home: Home, *, lost: RegisterEntry | None = None, forget: Sequence[tuple[str, str]] = ()
) -> RegisterEntry:
    """In place of one that is `lost`; the register forgets that one, and what `forget` names."""
    path = home.stores_path / LOCAL_STORE
    make_directory_durably(path)
    with closing(LocalObjects(path)) as objects:
        try:
            # Killed before the register knew of it, an earlier attempt left its document.
            store_id = read_store_document(objects).store_id
        except StoreNotFoundError:
            store_id = make_store_id(home.random_id_bytes())
        key = root_key(home, store_id)
        root_public_key = key.public_key().public_bytes_raw()
        SnapshotStore.create(
            objects,
            store_id=store_id,
            region=home.region,
            digest=DigestAlgorithm.BLAKE3,
            root_key=key,
        )
        store = SnapshotStore.open(objects, root_public_key=root_public_key)
        store.certify(home_signer(home).public_key, key)
    entry = RegisterEntry(
        kind=KIND, id=store_id, name=LOCAL_STORE, counter=1, digest=root_public_key
    )
    expect: dict[tuple[str, str], int | None] = {(KIND, store_id): None}
    if lost is not None:
        forget = [(KIND, lost.id), *forget]
        expect[KIND, lost.id] = lost.counter
    home.register.apply(put=[entry], delete=forget, expect=expect)
    return entry


def root_key(home: Home, store_id: StoreId) -> Ed25519PrivateKey:
    """The root's private key, if this home made the store; useless otherwise."""
    seed = home.vault.derive_home_key(b"volcrypt store root\0" + store_id.encode())
    return Ed25519PrivateKey.from_private_bytes(seed)


# ---------------------------------------------------------------- places


def load_place(home: Home, name: str) -> StorePlace:
    """Where a store lies that is not the local one. Raises IntegrityError and FormatError."""
    what = f"place of snapshot store {name}"
    try:
        data = read_file(_place_path(home, name), limit_bytes=MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        raise RecordMissingError(what) from None
    return decode_store_place(data, _place_seal(home, name), what=what)


def save_place(home: Home, name: str, place: StorePlace) -> None:
    """Durable on return; the store is known only when the register has it."""
    write_durably(_place_path(home, name), encode_store_place(place, _place_seal(home, name)))


def _place_path(home: Home, name: str) -> Path:
    return home.stores_path / f"{name}.place"


def _place_seal(home: Home, name: str) -> MacSeal:
    return MacSeal(home.vault.derive_home_key(b"volcrypt store place\0" + name.encode()))


# ---------------------------------------------------------------- signing, locks, the log


def home_signer(home: Home) -> Signer:
    """This home's signing key."""
    seed = home.vault.derive_home_key(b"volcrypt snapshot signer")
    return Signer(Ed25519PrivateKey.from_private_bytes(seed))


def check_may_sign(home: Home, store: SnapshotStore) -> None:
    """Raises StoreAccessError when nobody would believe what this home signs there."""
    signer = home_signer(home)
    try:
        store.verifier_of(signer.id)
    except SealError as error:
        name = store_names(home).get(store.store_id, store.store_id)
        raise StoreAccessError(
            f"this home may read snapshot store {name} and not write to it",
            hint=f"on the home that made it: volcrypt store trust NAME "
            f"--signer {signer.public_key.hex()}",
        ) from error


def store_in_use(home: Home, store: SnapshotStore) -> AbstractContextManager[None]:
    """While a snapshot is being made: any number at a time, and no sweep by this home."""
    return home.locked(f"stores/{store.store_id}.use", shared=True)


def store_alone(home: Home, store: SnapshotStore) -> AbstractContextManager[None]:
    """For a sweep: nobody of this home is making a snapshot there. Raises TryAgainError after half
    a minute."""
    return home.locked(f"stores/{store.store_id}.use")


@contextmanager
def store_log(home: Home, store: SnapshotStore) -> Iterator["StoreLog"]:
    """This home's log in a store, for one change at a time among its processes."""
    with home.locked(f"stores/{store.store_id}.lock"):
        yield StoreLog(home, store)


class StoreLog:
    """The head of this home's log: loaded from the register, saved there after each entry."""

    def __init__(self, home: Home, store: SnapshotStore) -> None:
        self._home = home
        self.signer = home_signer(home)
        self._store_id = store.store_id

    @property
    def head(self) -> LogHead | None:
        """None before the first entry."""
        return load_head(self._home, self._store_id, self.signer.id)

    def save(self, head: LogHead) -> None:
        """Whoever shows this home a store whose log ends before `head` shows it an old one."""
        save_heads(self._home, self._store_id, [head])


def load_head(home: Home, store_id: StoreId, signer: SignerId) -> LogHead | None:
    """The head of a signer's log that this home saw last."""
    entry = home.register.get(HEAD_KIND, f"{store_id}/{signer}")
    return None if entry is None else LogHead(signer, entry.counter, entry.digest)


def load_heads(home: Home, store_id: StoreId) -> list[LogHead]:
    """The heads of all signers of a store that this home saw last."""
    return [
        LogHead(SignerId(entry.id.partition("/")[2]), entry.counter, entry.digest)
        for entry in home.register.entries(HEAD_KIND)
        if entry.id.startswith(f"{store_id}/")
    ]


def save_heads(home: Home, store_id: StoreId, heads: list[LogHead]) -> None:
    """Remember heads, those that are further than what is known."""
    known = {head.signer: head for head in load_heads(home, store_id)}
    newer = [
        RegisterEntry(
            kind=HEAD_KIND,
            id=f"{store_id}/{head.signer}",
            name=None,
            counter=head.sequence,
            digest=head.digest,
        )
        for head in heads
        if head.sequence > (known[head.signer].sequence if head.signer in known else 0)
    ]
    if newer:
        home.register.apply(put=newer)


def check_log_is_whole(home: Home, store: SnapshotStore) -> None:
    """Raises RollbackError when entries of a log that this home knows are gone from the store: what
    is listed may then be what was deleted, and what is needed may not be listed."""
    for head in load_heads(home, store.store_id):
        if SignerLog(store, head.signer).missing(head):
            raise RollbackError(
                f"snapshot store {store.objects.location}",
                hint="'volcrypt snapshot verify' names what is missing; put the newer one back",
            )


def note_garbage(home: Home, store_id: StoreId) -> None:
    """Write down that a sweep is due, for whoever finds nobody at work in the store."""
    with suppress(OSError):  # on a full disk: the next deletion sweeps as well
        unswept_path(home, store_id).touch(mode=0o600)


def unswept_path(home: Home, store_id: StoreId) -> Path:
    """Is there while a sweep is due."""
    return home.stores_path / f"{store_id}.unswept"
