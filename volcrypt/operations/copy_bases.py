"""What a copy builds on: a snapshot in the target store that has most of its chunks already.

Under the same data key any snapshot of the volume there will do: chunks have the digests that they
have in the source. A re-encrypted copy shares chunks only with copies under its own data key. So it
takes over the data key of the *previous copy*: the one of an earlier snapshot of the same volume,
in that store, under the same key. What the two originals have in common is then neither read
nor encrypted again.

A previous copy has to be signed by this home. Its data key becomes that of the new copy, and its
chunks are taken for what its original held: who may sign in a shared store could else give us a
key that he knows, or chunks of his own.
"""

from collections.abc import Callable

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import VolcryptError
from volcrypt.formats.manifest import Manifest, SnapshotPoint
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id
from volcrypt.operations.snapshot_lookup import manifests_of
from volcrypt.operations.stores import home_signer, store_of
from volcrypt.snapshot.diff import changed_chunks
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.transfer import chunk_table


def previous_copy(
    home: Home,
    source: Manifest,
    target: SnapshotStore,
    is_under: Callable[[WrappedDataKey | None], bool],
) -> Manifest | None:
    """The copy that a re-encrypted copy of `source` continues, of those whose data key `is_under`
    the key that was chosen: of the nearest snapshot before it, else of the newest."""
    signer = home_signer(home).id
    return max(
        (
            manifest
            for manifest in manifests_of(target, source.volume_id)
            if manifest.origin is not None
            and manifest.signer == signer
            and manifest.size_bytes <= source.size_bytes
            and manifest.wrapped_key is not None
            and is_under(manifest.wrapped_key)
            and data_key_id(manifest.wrapped_key) != data_key_id(source.wrapped_key)
        ),
        key=lambda manifest: (
            manifest.captured_at <= source.captured_at,
            manifest.captured_at,
            manifest.completed_at,
            manifest.sequence,  # several may be of one second
        ),
        default=None,
    )


def copy_at(target: SnapshotStore, point: SnapshotPoint | None) -> Manifest | None:
    """The snapshot at a point, when it is still there."""
    if point is None:
        return None
    try:
        manifest = target.manifest(point.snapshot_id)
    except VolcryptError:
        return None
    return manifest if manifest.point == point else None


def changed_since(home: Home, source: Manifest, previous: Manifest) -> ChunkSet | None:
    """The chunks of `source` that are not those of the original of a previous copy; None when that
    cannot be told: the original is gone, or is not of the same data."""
    origin = previous.origin
    if origin is None:
        return None
    try:
        store = store_of(home, origin.store_id)
        original = store.manifest(origin.snapshot_id)
        if (
            original.root != origin.root
            or original.digest is not source.digest
            or original.size_bytes != previous.size_bytes
            or data_key_id(original.wrapped_key) != data_key_id(source.wrapped_key)
        ):
            return None
        newer = chunk_table(store_of(home, source.store_id), source)
        older = chunk_table(store, original, grown_to=source.size_bytes)
        changed = ChunkSet(chunk_count(source.size_bytes), changed_chunks(older, newer))
    except VolcryptError:
        return None
    if original.size_bytes < source.size_bytes:
        # The last chunk of the smaller one was short: the copy's is, too.
        changed.add(original.size_bytes // CHUNK_BYTES)
    return changed


def newest_under_key(store: SnapshotStore, source: Manifest, key_id: str | None) -> Manifest | None:
    """The newest snapshot in a store of the same volume under this data key: most chunks that are
    to be copied are likely to be its own. Whoever signed it: chunks are compared by digest."""
    return max(
        (
            manifest
            for manifest in manifests_of(store, source.volume_id)
            if manifest.size_bytes <= source.size_bytes
            and manifest.digest is store.digest
            and data_key_id(manifest.wrapped_key) == key_id
        ),
        key=lambda manifest: (manifest.captured_at, manifest.completed_at, manifest.sequence),
        default=None,
    )
