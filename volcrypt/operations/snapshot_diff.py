"""What differs between two snapshots: told by digests, without any data key."""

from contextlib import ExitStack
from dataclasses import dataclass

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import InvalidArgumentError
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import chunk_count
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.stores import store_of
from volcrypt.snapshot.diff import changed_chunks
from volcrypt.snapshot.transfer import chunk_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The chunks of the larger of two snapshots that differ; where only one of them is, those
    that hold data."""

    first: Manifest
    second: Manifest
    size_bytes: int
    changed: ChunkSet


def diff_snapshots(home: Home, first: str, second: str) -> Difference:
    """Raises InvalidArgumentError for two that cannot be compared, SnapshotNotFoundError,
    FormatError and IntegrityError."""
    older, newer = load_snapshot(home, first), load_snapshot(home, second)
    if data_key_id(older.wrapped_key) != data_key_id(newer.wrapped_key):
        raise InvalidArgumentError(
            f"snapshots {first} and {second} are under different data keys, so that everything in "
            "them differs",
            hint="compare snapshots of one volume with each other, or their copies under one key",
        )
    if older.digest is not newer.digest:
        raise InvalidArgumentError(
            f"snapshots {first} and {second} are in stores of different digests: "
            f"{older.digest.value} and {newer.digest.value}",
            hint="copy one to the store of the other and compare the copy",
        )
    size_bytes = max(older.size_bytes, newer.size_bytes)
    stores = {each.store_id: store_of(home, each.store_id) for each in (older, newer)}
    with ExitStack() as reading:
        for each in (older, newer):
            reading.enter_context(stores[each.store_id].reading(each.snapshot_id))
        tables = [
            chunk_table(stores[each.store_id], each, grown_to=size_bytes) for each in (older, newer)
        ]
        changed = ChunkSet(chunk_count(size_bytes), changed_chunks(*tables))
    return Difference(first=older, second=newer, size_bytes=size_bytes, changed=changed)
