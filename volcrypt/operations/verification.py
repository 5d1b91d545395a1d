"""Verification of snapshots: by a home that knows the store, or by anybody with its public key."""

from volcrypt.errors import InvalidArgumentError, SnapshotNotFoundError
from volcrypt.formats.certificate import PUBLIC_KEY_BYTES, SignerId
from volcrypt.formats.store_place import StorePlace
from volcrypt.names import SnapshotId, StoreId, is_snapshot_id
from volcrypt.operations.home import Home
from volcrypt.operations.snapshot_lookup import load_snapshot, store_holding
from volcrypt.operations.store_places import checked_place, open_objects
from volcrypt.operations.stores import (
    LOCAL_STORE,
    home_signer,
    is_shared,
    load_heads,
    open_store,
    save_heads,
)
from volcrypt.snapshot.damage import Verification
from volcrypt.snapshot.listing import read_manifests
from volcrypt.snapshot.signer import LogHead, empty_log
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.verify import verify


def verify_snapshots(
    home: Home, snapshot: str | None, *, store: str | None, heads: list[LogHead]
) -> Verification:
    """Check one snapshot with its lineage, or all of a store, and the logs; no data key is used.
    The logs are compared with `heads` and with those that this home saw last, which are kept.

    Raises SnapshotNotFoundError; what is wrong is in the answer.
    """
    wanted: list[SnapshotId] | None = None
    found_in = open_store(home, store or LOCAL_STORE)
    if snapshot is not None:
        if store is not None:
            wanted = [_id_in(found_in, snapshot)]
        elif is_snapshot_id(snapshot):
            wanted = [SnapshotId(snapshot)]
            if next(found_in.tombstone_names(wanted[0]), None) is None:
                found_in = store_holding(home, wanted[0])
        else:
            manifest = load_snapshot(home, snapshot)
            wanted, found_in = [manifest.snapshot_id], store_holding(home, manifest.snapshot_id)
    known = {head.signer: head for head in load_heads(home, found_in.store_id)}
    if not is_shared(home, found_in):
        # Nobody else writes to it: no entry yet is something to compare with too.
        own = home_signer(home).id
        known.setdefault(own, empty_log(own))
    known |= {head.signer: head for head in heads}
    found = verify(found_in, wanted, lineage=True, expected_heads=list(known.values()))
    if not found.damages:
        save_heads(home, found_in.store_id, found.heads)
    return found


def verify_by_public_key(
    place: StorePlace, public_key: bytes, snapshot: str | None, *, heads: list[LogHead]
) -> Verification:
    """As `verify_snapshots`, with nothing but the root's public key: no home, no KMS."""
    objects = open_objects(checked_place(place))
    try:
        store = SnapshotStore.open(objects, root_public_key=public_key)
        wanted = None if snapshot is None else [_id_in(store, snapshot)]
        return verify(store, wanted, lineage=True, expected_heads=heads)
    finally:
        objects.close()


def public_place(
    url: str, *, region: str, endpoint: str | None, encryption: str | None
) -> StorePlace:
    """A place that is only looked at: its store id is not known beforehand."""
    return StorePlace(
        store_id=StoreId(""), url=url, region=region, endpoint=endpoint, encryption=encryption
    )


def _id_in(store: SnapshotStore, snapshot: str) -> SnapshotId:
    if is_snapshot_id(snapshot):
        return SnapshotId(snapshot)
    named = [each.snapshot_id for each in read_manifests(store)[0] if each.name == snapshot]
    if not named:
        raise SnapshotNotFoundError(snapshot)
    if len(named) > 1:
        raise InvalidArgumentError(
            f"several snapshots are named {snapshot}: {', '.join(named)}",
            hint="name the one that is meant by its id",
        )
    return named[0]


def parse_public_key(text: str) -> bytes:
    """64 hexadecimal digits. Raises InvalidArgumentError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise InvalidArgumentError(f"{text!r} is no public key: it has 64 hexadecimal digits")
    return key


def parse_head(text: str) -> LogHead:
    """`SIGNER:NUMBER:DIGEST`, as `format_head` writes it. Raises InvalidArgumentError."""
    words = text.split(":")
    try:
        signer, sequence, digest = words[0], int(words[1]), bytes.fromhex(words[2])
    except (ValueError, IndexError):
        signer, sequence, digest = "", 0, b""
    if len(words) != 3 or len(digest) != 32 or sequence < 1 or not signer.isalnum():
        raise InvalidArgumentError(
            f"{text!r} is no head of a log", hint="'volcrypt snapshot verify' prints them"
        )
    return LogHead(SignerId(signer), sequence, digest)


def format_head(head: LogHead) -> str:
    return f"{head.signer}:{head.sequence}:{head.digest.hex()}"
