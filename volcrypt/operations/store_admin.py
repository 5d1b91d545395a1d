"""Stores are made, joined, shown and checked here.

Who makes a store has its root key, and certifies signers with it. Another home joins in two steps,
each on one side: it pins the root's public key (`trust_store`), which lets it read and verify; and
the home that made the store certifies its signing key (`certify_signer`), which lets it write.
"""

from collections.abc import Callable
from dataclasses import dataclass

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    InvalidArgumentError,
    NameTakenError,
    StoreAccessError,
    StoreNotFoundError,
)
from volcrypt.formats.store import StoreDocument
from volcrypt.formats.store_place import StorePlace
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import make_store_id, parse_name
from volcrypt.operations.home import Home
from volcrypt.operations.snapshot_deletion import make_up_for_sweep
from volcrypt.operations.store_places import checked_place, open_objects
from volcrypt.operations.stores import (
    KIND,
    LOCAL_STORE,
    check_log_is_whole,
    check_may_sign,
    home_signer,
    load_place,
    open_local_store,
    open_store,
    renew_local_store,
    root_key,
    save_place,
)
from volcrypt.operations.verification import public_place
from volcrypt.snapshot.probe import check_objects
from volcrypt.snapshot.store import SnapshotStore, read_store_document


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDescription:
    """A store as this home knows it. `made_here`: it has the root key."""

    name: str
    url: str
    place: StorePlace | None
    document: StoreDocument
    signer: str
    signer_public_key: bytes
    may_write: bool
    made_here: bool


def create_store(
    home: Home,
    name: str,
    *,
    url: str,
    region: str | None,
    endpoint: str | None,
    encryption: str | None,
    digest: DigestAlgorithm,
) -> StoreDescription:
    """Make a store where none is, with this home as its root and first signer. Killed on its way,
    the same call again finishes.

    Raises InvalidArgumentError when another home's store is there, NameTakenError,
    ConfigurationError for a service that cannot hold one.
    """
    _check_name(home, name)
    place = checked_place(
        public_place(url, region=region or home.region, endpoint=endpoint, encryption=encryption)
    )
    with home.exclusive():
        objects = home.closing(open_objects(place, make=True))
        try:
            # Killed before the register knew of it, an earlier attempt left its document.
            store_id = read_store_document(objects).store_id
        except StoreNotFoundError:
            check_objects(objects)
            store_id = make_store_id(home.random_id_bytes())
        _check_unknown(home, store_id)
        key = root_key(home, store_id)
        SnapshotStore.create(
            objects, store_id=store_id, region=place.region, digest=digest, root_key=key
        )
        root_public_key = key.public_key().public_bytes_raw()
        store = SnapshotStore.open(objects, root_public_key=root_public_key)
        store.certify(home_signer(home).public_key, key)
        _register(home, name, store, place)
    return describe_store(home, name)


def recreate_local_store(home: Home) -> tuple[StoreDescription, RegisterEntry | None]:
    """A new local store in place of one that is lost, and what was known of that one. Raises what
    `renew_local_store` does."""
    lost = renew_local_store(home)
    return describe_store(home, LOCAL_STORE), lost


def trust_store(
    home: Home,
    name: str,
    *,
    url: str,
    region: str | None,
    endpoint: str | None,
    encryption: str | None,
    confirm: Callable[[bytes], bool],
) -> StoreDescription:
    """Join a store that another home made: pin its root's public key, if `confirm` says so.

    Raises InvalidArgumentError when not, StoreNotFoundError, FormatError, SealError.
    """
    _check_name(home, name)
    place = checked_place(
        public_place(url, region=region or home.region, endpoint=endpoint, encryption=encryption)
    )
    objects = home.closing(open_objects(place))
    document = read_store_document(objects)
    if not confirm(document.root_public_key):
        raise InvalidArgumentError(
            f"the store at {place.url} has another public key: {document.root_public_key.hex()}",
            hint="'volcrypt store public-key' on the home that made the store prints the right one",
        )
    store = SnapshotStore.open(objects, root_public_key=document.root_public_key)
    with home.exclusive():
        _check_unknown(home, store.store_id)
        _register(home, name, store, place)
    return describe_store(home, name)


def certify_signer(home: Home, name: str, public_key: bytes) -> StoreDescription:
    """Let the home with this signing key write to a store that was made here.

    Raises StoreAccessError when this home has not the store's root key, InvalidArgumentError for
    the local store.
    """
    if name == LOCAL_STORE:
        raise InvalidArgumentError(
            f"snapshot store {LOCAL_STORE} is this home's alone, which sweeps it without asking",
            hint="make one that homes can share: volcrypt store create NAME --url URL",
        )
    store = open_store(home, name)
    key = root_key(home, store.store_id)
    if key.public_key().public_bytes_raw() != store.document.root_public_key:
        raise StoreAccessError(
            f"snapshot store {name} was made by another home, which says who may write to it"
        )
    store.certify(public_key, key)
    return describe_store(home, name)


def describe_store(home: Home, name: str) -> StoreDescription:
    """Opens the store, and raises what that raises."""
    store = open_store(home, name)
    signer = home_signer(home)
    try:
        check_may_sign(home, store)
        may_write = True
    except StoreAccessError:
        may_write = False
    made_here = root_key(home, store.store_id).public_key().public_bytes_raw()
    return StoreDescription(
        name=name,
        url=store_url(home, name),
        place=None if name == LOCAL_STORE else load_place(home, name),
        document=store.document,
        signer=signer.id,
        signer_public_key=signer.public_key,
        may_write=may_write,
        made_here=made_here == store.document.root_public_key,
    )


def public_keys(home: Home, name: str) -> tuple[bytes, bytes]:
    """The store's root key as it was pinned, and this home's signing key; the store is not asked.
    Raises StoreNotFoundError."""
    open_local_store(home)  # made at its first use
    entry = home.register.find(KIND, name)
    if entry is None:
        raise StoreNotFoundError(name)
    return entry.digest, home_signer(home).public_key


def store_url(home: Home, name: str) -> str:
    if name == LOCAL_STORE:
        return (home.stores_path / LOCAL_STORE).as_uri()
    return load_place(home, name).url


def check_store(home: Home, name: str) -> list[tuple[str, str]]:
    """What was tried on a store, and what came of it; the first failure is raised."""
    store = open_store(home, name)
    found = [
        ("reached", store.objects.location),
        ("its root key", "is the one that is trusted here"),
        ("snapshots", str(len(store.snapshot_ids()))),
    ]
    check_log_is_whole(home, store)
    found.append(("known entries of its logs", "all there"))
    try:
        check_may_sign(home, store)
    except StoreAccessError as error:
        found.append(("writing", f"not allowed: {error.hint}"))
    else:
        check_objects(store.objects)
        found.append(("writing", "put, put again refused, listed, read, deleted"))
        make_up_for_sweep(home, store)
    return found


def _check_name(home: Home, name: str) -> None:
    parse_name(name)
    if name == LOCAL_STORE or home.register.find(KIND, name) is not None:
        raise NameTakenError("snapshot store", name)


def _check_unknown(home: Home, store_id: str) -> None:
    entry = home.register.get(KIND, store_id)
    if entry is not None:
        raise InvalidArgumentError(f"that is snapshot store {entry.name} already")


def _register(home: Home, name: str, store: SnapshotStore, place: StorePlace) -> None:
    save_place(
        home,
        name,
        StorePlace(
            store_id=store.store_id,
            url=place.url,
            region=place.region,
            endpoint=place.endpoint,
            encryption=place.encryption,
        ),
    )
    entry = RegisterEntry(
        kind=KIND,
        id=store.store_id,
        name=name,
        counter=1,
        digest=store.document.root_public_key,
    )
    home.register.apply(put=[entry], expect={(KIND, store.store_id): None})
