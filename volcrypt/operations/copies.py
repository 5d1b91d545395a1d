"""Copies of snapshots: the same chunks again under the same data key, or re-encrypted: all of them,
or, where the store has a copy of an earlier snapshot under the same KMS key, what changed since.

A copy that was killed is continued: its cursor, sealed by the KMS, lies in HOME/work under the id
of the snapshot to be, and its pin in the store keeps what was stored.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import msgspec
import trio

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    SnapshotNotFoundError,
    VolcryptError,
)
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Manifest, Origin, SnapshotPoint
from volcrypt.formats.volume_record import WrappedDataKey, key_source_of
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId
from volcrypt.operations.copy_bases import changed_since, newest_under_key
from volcrypt.operations.copy_cursors import cursor_file
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.recryption import recryption
from volcrypt.operations.snapshots import commit_snapshot, now
from volcrypt.operations.stores import home_signer, open_local_store, store_in_use, store_of
from volcrypt.operations.workflows import copy_cursor_path
from volcrypt.operations.write_budget import written_bytes
from volcrypt.snapshot.copying import CopyBase, copy_chunks, grown_table, restarted
from volcrypt.snapshot.draft import SnapshotDraft, StoredTable
from volcrypt.snapshot.mover import Step
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable
from volcrypt.snapshot.transfer import chunk_table


def copy_into(
    home: Home,
    source: Manifest,
    *,
    snapshot_id: SnapshotId,
    name: str | None,
    wrapped_key: WrappedDataKey | None,
    progress: Progress,
    target: SnapshotStore | None = None,
    previous: Manifest | None = None,
    begun: Callable[[], None] | None = None,
) -> Manifest:
    """Copy, into the local store when `target` is None, under an id and a key that were chosen
    before; what is there already is kept. `previous`: the copy whose data key it is. `begun` is
    called when data begins to move: the keys have been opened, and the cursor is durable."""
    store = target or open_local_store(home)
    with suppress(SnapshotNotFoundError):
        return store.manifest(snapshot_id)
    origin = store if source.store_id == store.store_id else store_of(home, source.store_id)
    with (
        store_in_use(home, origin),
        store_in_use(home, store),
        # The keys before the pin: who may not decrypt leaves neither pin nor cursor.
        recryption(home, source.wrapped_key, wrapped_key) as step,
        _pin_of_a_copy(home, store, snapshot_id, source.size_bytes) as pin,
    ):
        base = None
        if step is not None or origin is not store:
            base = previous or newest_under_key(store, source, data_key_id(wrapped_key))
        try:
            with origin.reading(source.snapshot_id):
                stored, continued = _put_copy(
                    home, origin, pin, source, wrapped_key, base, step, progress, begun
                )
        except SnapshotNotFoundError:
            # Nobody will go on with a copy of what was deleted.
            pin.release()
            cursor_file(home, snapshot_id).remove()
            raise
        manifest = commit_snapshot(
            home,
            store,
            SnapshotDraft(
                snapshot_id=snapshot_id,
                name=name,
                volume_id=source.volume_id,
                size_bytes=source.size_bytes,
                parent=continued,
                root=stored.root,
                data_chunks=stored.data_chunks,
                stored_chunks=stored.stored_chunks,
                stored_bytes=stored.stored_bytes,
                key_source=key_source_of(wrapped_key),
                wrapped_key=wrapped_key,
                account=home.account,
                consistency=source.consistency,
                captured_at=source.captured_at,
                completed_at=now(),
                origin=Origin(
                    store_id=origin.store_id, snapshot_id=source.snapshot_id, root=source.root
                ),
                written_bytes=_written_bytes(home, source, stored, previous, step),
            ),
        )
        pin.release()
        cursor_file(home, snapshot_id).remove()
        return manifest


def _written_bytes(
    home: Home, source: Manifest, stored: StoredTable, previous: Manifest | None, step: Step | None
) -> int:
    """How much is encrypted under the data key of the copy: what the source says; or what the copy
    that it is shared with says, and what is new; or all of a copy that has a key of its own."""
    if step is None:
        return max(source.written_bytes, written_bytes(home, source.wrapped_key))
    if previous is not None:
        known = max(previous.written_bytes, written_bytes(home, previous.wrapped_key))
        return known + stored.stored_bytes
    return stored.data_chunks * CHUNK_BYTES


def _put_copy(
    home: Home,
    origin: SnapshotStore,
    pin: Pin,
    source: Manifest,
    wrapped_key: WrappedDataKey | None,
    base: Manifest | None,
    step: Step | None,
    progress: Progress,
    begun: Callable[[], None] | None,
) -> tuple[StoredTable, SnapshotPoint | None]:
    """What was put under the pin, and the copy that it continues, if it does. Raises
    SnapshotNotFoundError when a sweep may have been faster than the pin."""
    was_held, base_table = _hold(pin, origin, source, base)
    origin.manifest(source.snapshot_id)
    if step is None and origin is pin.store:
        stored = StoredTable(
            root=source.root, data_chunks=source.data_chunks, stored_chunks=0, stored_bytes=0
        )
        return stored, None
    return _copy_chunks(
        home,
        origin,
        pin,
        source,
        wrapped_key,
        None if base_table is None else base,
        base_table,
        step,
        resume=was_held,
        progress=progress,
        begun=begun,
    )


@contextmanager
def _pin_of_a_copy(
    home: Home, store: SnapshotStore, snapshot_id: SnapshotId, size_bytes: int
) -> Iterator[Pin]:
    """A pin that is not held yet. When the block fails it stays for the cursor, if there is one."""
    signer = home_signer(home)
    pin = Pin(store, snapshot_id=snapshot_id, size_bytes=size_bytes, signer=signer, clock=now)
    try:
        yield pin
    except BaseException:
        if not copy_cursor_path(home, snapshot_id).exists():
            with suppress(VolcryptError, OSError):
                pin.release()
        raise


def _hold(
    pin: Pin, origin: SnapshotStore, source: Manifest, base: Manifest | None
) -> tuple[bool, ChunkTable | None]:
    """Take hold of what the copy stands on; whether it was held before, and the table of its base,
    as large as the copy will be, when that is still there and sound."""
    roots = [source.root] if origin is pin.store else []
    if base is None:
        return pin.hold(roots), None
    was_held = pin.hold([base.root], size_bytes=base.size_bytes)
    table: ChunkTable | None = None
    try:
        pin.store.manifest(base.snapshot_id)
        table = grown_table(pin.store, base, source.size_bytes)
        roots.append(table.root)
    except (SnapshotNotFoundError, FormatError, IntegrityError):
        table = None
    if not was_held or pin.size_bytes != source.size_bytes:
        # Else it names what a cursor stands on, which must not be lost by another kill.
        pin.renew(roots, size_bytes=source.size_bytes)
    return was_held, table


def _copy_chunks(
    home: Home,
    origin: SnapshotStore,
    pin: Pin,
    source: Manifest,
    wrapped_key: WrappedDataKey | None,
    base: Manifest | None,
    base_table: ChunkTable | None,
    step: Step | None,
    *,
    resume: bool,
    progress: Progress,
    begun: Callable[[], None] | None,
) -> tuple[StoredTable, SnapshotPoint | None]:
    """What was put, and the copy that it continues, if it does."""
    file = cursor_file(home, pin.snapshot_id)
    cursor = file.read() if resume else None
    changed = None
    if base is not None and step is not None and (cursor is None or cursor.base == base.point):
        changed = changed_since(home, source, base)
    continued = base.point if base is not None and changed is not None else None
    if cursor is None:
        cursor = CopyCursor(
            source_store_id=origin.store_id,
            source_snapshot_id=source.snapshot_id,
            source_root=source.root,
            target_store_id=pin.store.store_id,
            target_snapshot_id=pin.snapshot_id,
            wrapped_key=wrapped_key,
            next_chunk=0,
            root=ZERO_DIGEST,
            data_chunks=0,
            stored_chunks=0,
            stored_bytes=0,
            base=continued,
        )
        file.write(cursor)
    elif cursor.base != continued:
        # What it continued is gone, and what was unchanged with it.
        cursor = msgspec.structs.replace(restarted(cursor), base=continued)
    total = source.data_chunks if changed is None else len(changed)
    if changed is None:
        done = cursor.data_chunks
    else:
        done = total - sum(1 for _ in changed.starting_at(cursor.next_chunk))
    if begun is not None:
        begun()
    progress.begin(f"copying {source.snapshot_id}", total * CHUNK_BYTES)
    progress.advance(done * CHUNK_BYTES)
    home.rest()
    counter = ChunkCounter(progress, done_bytes=done * CHUNK_BYTES)
    stored = trio.run(
        partial(
            copy_chunks,
            chunk_table(origin, source),
            pin,
            cursor,
            file.write,
            data_chunks=source.data_chunks,
            base=None
            if base is None or base_table is None
            else CopyBase(table=base_table, data_chunks=base.data_chunks, changed=changed),
            step=step,
            progress=counter,
        )
    )
    return stored, continued
