"""Copies of snapshots: the same chunks again under the same data key, or every chunk re-encrypted.

A copy that was killed is continued: its cursor, sealed by the KMS, lies in HOME/work under the id
of the snapshot to be, and its pin in the store keeps what was stored. Plaintext is only ever in the
buffer of a worker, between one cipher and the next.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import trio

from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.crypto.xts import XtsKernel
from volcrypt.errors import InvalidArgumentError, SnapshotNotFoundError, VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.document import MacSeal
from volcrypt.formats.manifest import Manifest, Origin
from volcrypt.formats.volume_record import KeySource, WrappedDataKey
from volcrypt.geometry import CHUNK_BYTES, UNITS_PER_CHUNK
from volcrypt.names import SnapshotId, make_snapshot_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    generate_key,
    rebind_key,
    resolve_key,
    snapshot_context,
    unwrap_key,
)
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.snapshots import (
    check_snapshot_name,
    commit_snapshot,
    load_snapshot,
    now,
)
from volcrypt.operations.stores import home_signer, open_local_store, store_in_use
from volcrypt.operations.workflows import (
    copy_cursor_path,
    load_workflows,
    resumable_copies,
)
from volcrypt.snapshot.cursor import CursorFile
from volcrypt.snapshot.draft import SnapshotDraft, StoredTable
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.transfer import Step, chunk_table, copy_chunks


def copy_snapshot(
    home: Home, snapshot: str, *, choice: KeyChoice, name: str | None, progress: Progress
) -> Manifest:
    """A copy under the key that `choice` names; continues an unfinished one of the same kind.

    Raises InvalidArgumentError when it would turn encryption off.
    """
    with home.exclusive():
        remove_leftovers(home)
    source = load_snapshot(home, snapshot)
    check_snapshot_name(home, name)
    if not choice.encrypted and source.is_encrypted:
        raise InvalidArgumentError("a copy of an encrypted snapshot is always encrypted")
    arn = resolve_key(home, choice.kms_key) if choice.encrypted else None
    begun = _begun_copy(home, source, arn)
    if begun is not None:
        snapshot_id, wrapped = begun.target_snapshot_id, begun.wrapped_key
    else:
        snapshot_id = make_snapshot_id(home.random_id_bytes())
        wrapped = _copy_key(home, source, arn, snapshot_id)
    return copy_into(
        home, source, snapshot_id=snapshot_id, name=name, wrapped_key=wrapped, progress=progress
    )


def _copy_key(
    home: Home, source: Manifest, arn: str | None, snapshot_id: SnapshotId
) -> WrappedDataKey | None:
    if arn is None:
        return None
    if source.wrapped_key is not None and source.wrapped_key.kms_key_arn == arn:
        return rebind_key(home, source.wrapped_key, snapshot_context(snapshot_id))
    return generate_key(home, arn, snapshot_context(snapshot_id))


def copy_into(
    home: Home,
    source: Manifest,
    *,
    snapshot_id: SnapshotId,
    name: str | None,
    wrapped_key: WrappedDataKey | None,
    progress: Progress,
) -> Manifest:
    """Copy under an id and a key that were chosen before; what is there already is kept."""
    store = open_local_store(home)
    with suppress(SnapshotNotFoundError):
        return store.manifest(snapshot_id)
    # The keys first: who may not decrypt leaves neither pin nor cursor.
    with store_in_use(home), recryption(home, source.wrapped_key, wrapped_key) as step:
        pin = Pin(
            store,
            snapshot_id=snapshot_id,
            size_bytes=source.size_bytes,
            signer=home_signer(home),
            clock=now,
        )
        was_held = pin.hold([source.root])
        store.manifest(source.snapshot_id)  # a sweep may have been faster than the pin
        if step is None:
            stored = StoredTable(
                root=source.root, data_chunks=source.data_chunks, stored_chunks=0, stored_bytes=0
            )
        else:
            stored = _copy_chunks(
                home, store, pin, source, wrapped_key, step, resume=was_held, progress=progress
            )
        manifest = commit_snapshot(
            home,
            store,
            SnapshotDraft(
                snapshot_id=snapshot_id,
                name=name,
                volume_id=source.volume_id,
                size_bytes=source.size_bytes,
                parent=None,
                root=stored.root,
                data_chunks=stored.data_chunks,
                stored_chunks=stored.stored_chunks,
                stored_bytes=stored.stored_bytes,
                key_source=KeySource.KMS if wrapped_key else KeySource.NONE,
                wrapped_key=wrapped_key,
                account=home.account,
                consistency=source.consistency,
                captured_at=source.captured_at,
                completed_at=now(),
                origin=Origin(store_id=store.store_id, snapshot_id=source.snapshot_id),
            ),
        )
        pin.release()
        _cursor_file(home, snapshot_id).remove()
        return manifest


def _key_id(wrapped_key: WrappedDataKey | None) -> str | None:
    return wrapped_key.data_key_id if wrapped_key is not None else None


def _copy_chunks(
    home: Home,
    store: SnapshotStore,
    pin: Pin,
    source: Manifest,
    wrapped_key: WrappedDataKey | None,
    step: Step,
    *,
    resume: bool,
    progress: Progress,
) -> StoredTable:
    file = _cursor_file(home, pin.snapshot_id)
    cursor = file.read() if resume else None
    if cursor is None:
        cursor = CopyCursor(
            source_store_id=store.store_id,
            source_snapshot_id=source.snapshot_id,
            source_root=source.root,
            target_store_id=store.store_id,
            target_snapshot_id=pin.snapshot_id,
            wrapped_key=wrapped_key,
            next_chunk=0,
            root=ZERO_DIGEST,
            data_chunks=0,
            stored_chunks=0,
            stored_bytes=0,
        )
        file.write(cursor)
    progress.begin(f"copying {source.snapshot_id}", source.data_chunks * CHUNK_BYTES)

    counter = ChunkCounter(progress, done_bytes=cursor.data_chunks * CHUNK_BYTES)
    return trio.run(
        partial(
            copy_chunks,
            chunk_table(store, source),
            pin,
            cursor,
            file.write,
            data_chunks=source.data_chunks,
            step=step,
            progress=counter,
        )
    )


@contextmanager
def recryption(
    home: Home, old: WrappedDataKey | None, new: WrappedDataKey | None
) -> Iterator[Step | None]:
    """What turns a chunk of ciphertext under `old` into one under `new`, in place; None when that
    is nothing. Both data keys are wiped at the end. Never towards plaintext."""
    if _key_id(old) == _key_id(new):
        yield None
        return
    assert new is not None, "internal error: encrypted never becomes unencrypted"
    with ExitStack() as keys:
        old_key = keys.enter_context(unwrap_key(home, old)) if old is not None else None
        new_key = keys.enter_context(unwrap_key(home, new))
        kernels = _KernelPairs(old_key, new_key)
        keys.callback(kernels.wipe)

        def step(index: int, chunk: memoryview) -> None:
            first_unit = index * UNITS_PER_CHUNK
            decrypt, encrypt = kernels.of_this_thread()
            if decrypt is not None:
                decrypt.decrypt_sparse_units(first_unit, chunk, chunk)
            encrypt.encrypt_units(first_unit, chunk, chunk)

        yield step


class _KernelPairs:
    """Kernels for each thread: their contexts are not reentrant."""

    def __init__(self, old: DataKey | None, new: DataKey) -> None:
        self._old = old
        self._new = new
        self._local = threading.local()
        self._made: list[XtsKernel] = []

    def of_this_thread(self) -> tuple[XtsKernel | None, XtsKernel]:
        pair: tuple[XtsKernel | None, XtsKernel] | None = getattr(self._local, "pair", None)
        if pair is None:
            pair = (self._old.kernel() if self._old is not None else None, self._new.kernel())
            self._made += [kernel for kernel in pair if kernel is not None]
            self._local.pair = pair
        return pair

    def wipe(self) -> None:
        for kernel in self._made:
            kernel.wipe()


def _cursor_file(home: Home, snapshot_id: SnapshotId) -> CursorFile:
    seal = MacSeal(home.vault.derive_home_key(b"volcrypt copy cursor\0" + snapshot_id.encode()))
    return CursorFile(copy_cursor_path(home, snapshot_id), seal)


def _begun_copy(home: Home, source: Manifest, arn: str | None) -> CopyCursor | None:
    """The cursor of an unfinished copy of this snapshot under this key that no workflow owns."""
    owned = {workflow.copy_snapshot_id for workflow in load_workflows(home)}
    for snapshot_id in resumable_copies(home):
        with suppress(VolcryptError):
            cursor = _cursor_file(home, snapshot_id).read()
            if (
                cursor is not None
                and snapshot_id not in owned
                and cursor.target_snapshot_id == snapshot_id
                and cursor.source_snapshot_id == source.snapshot_id
                and cursor.source_root == source.root
                and (cursor.wrapped_key.kms_key_arn if cursor.wrapped_key else None) == arn
            ):
                return cursor
    return None
