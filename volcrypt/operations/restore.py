"""Volumes from snapshots: made at once and filled while in use, or filled before they exist.

`volume create --snapshot-id` makes a lazy volume (`operations.lazy_volumes`), which every chunk
comes into when it is touched, or in its turn. What must be whole when it is made, as a step of an
encryption is, is filled by `fill_from_snapshot`. Either way each chunk is checked, and re-encrypted
if the key is another.
"""

from functools import partial

import trio
from typing_extensions import Buffer

from volcrypt.errors import InvalidArgumentError
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.geometry import CHUNK_BYTES, check_volume_size, chunk_range, format_size
from volcrypt.names import make_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_encryption,
    check_source_key,
    choose_key,
    data_key_id,
    default_choice,
    is_under_customer_key,
    rebind_key,
    volume_context,
)
from volcrypt.operations.lazy_volumes import can_pin, make_present_map, pinned, source_of
from volcrypt.operations.mount_grants import check_may_open
from volcrypt.operations.placement import THIN, Placement, check_placement
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.records import data_path
from volcrypt.operations.recryption import recryption
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.stores import store_in_use, store_of
from volcrypt.operations.volumes import check_name_is_free, new_volume
from volcrypt.operations.write_budget import note_written
from volcrypt.snapshot.transfer import chunk_table, restore_chunks
from volcrypt.volume.datafile import DataFile


def volume_from_snapshot(
    home: Home,
    snapshot: str,
    *,
    size_bytes: int | None,
    name: str | None,
    choice: KeyChoice | None,
    progress: Progress,
    placement: Placement = THIN,
    fill_rate: int | None = None,
) -> VolumeRecord:
    """A volume with the content of a snapshot and zeros behind it. It is lazy, unless it comes from
    a store that this home may only read, or from under a customer-provided key to under another
    key. `fill_rate`: see `LazySource`.

    Without a `choice`, or with one that names the customer-provided key that the snapshot is under,
    it shares the snapshot's data key, or is as unencrypted as the snapshot; under the default key
    where encryption by default is on.
    Raises InvalidArgumentError when it would be smaller, or turn encryption off, or be unencrypted
    where encryption by default is on.
    """
    manifest = load_snapshot(home, snapshot)
    size_bytes = check_volume_size(size_bytes or manifest.size_bytes)
    check_placement(home, placement, size_bytes)
    if size_bytes < manifest.size_bytes:
        raise InvalidArgumentError(
            f"the snapshot needs a volume of at least {format_size(manifest.size_bytes)}"
        )
    if choice is None and not manifest.is_encrypted:
        choice = default_choice(home)
    if choice is not None and not choice.encrypted and manifest.is_encrypted:
        raise InvalidArgumentError("a volume from an encrypted snapshot is always encrypted")
    if choice is not None:
        check_encryption(home, choice)
    check_source_key(home, manifest.wrapped_key, f"snapshot {snapshot}", choice=choice)
    check_name_is_free(home, name)
    store = store_of(home, manifest.store_id)
    with store.reading(manifest.snapshot_id):
        chunk_table(store, manifest)  # is there, and sound: said now, and not by the first read
    volume_id = make_volume_id(home.random_id_bytes())
    context = volume_context(volume_id)
    wrapped: WrappedDataKey | None = None
    if (
        choice is not None
        and choice.encrypted
        and not choice.is_customer_key_of(manifest.wrapped_key)
    ):
        wrapped = choose_key(home, choice, context)
    elif manifest.wrapped_key is not None:
        wrapped = rebind_key(home, manifest.wrapped_key, context)
    source_key = manifest.wrapped_key
    recrypts = source_key is not None and data_key_id(source_key) != data_key_id(wrapped)
    # A customer-provided key is here now, and would have to be given at every mount.
    is_lazy = can_pin(home, store) and not (recrypts and is_under_customer_key(source_key))
    if recrypts and is_lazy and source_key is not None:
        check_may_open(home, source_key)
    make = partial(
        new_volume,
        home,
        size_bytes=size_bytes,
        name=name,
        wrapped_key=wrapped,
        volume_id=volume_id,
        snapshot_id=manifest.snapshot_id,
        placement=placement,
        progress=progress,
    )
    if manifest.data_chunks == 0:
        with make() as record:
            begin_count(home, manifest, wrapped)
            return record
    if not is_lazy:
        with make() as record, DataFile.open(data_path(home, record), size_bytes) as data:
            fill_from_snapshot(home, manifest, data, wrapped_key=wrapped, progress=progress)
        return record
    source = source_of(manifest, fill_rate=fill_rate)
    begin_count(home, manifest, wrapped)
    with (
        store_in_use(home, store),
        pinned(home, store, manifest, volume_id),
        make(source=source) as record,
    ):
        make_present_map(home, volume_id, source)
    return record


def fill_from_snapshot(
    home: Home,
    manifest: Manifest,
    data: DataFile,
    *,
    wrapped_key: WrappedDataKey | None,
    progress: Progress,
) -> None:
    """Write the chunks of a snapshot under the data key `wrapped_key`, durable on return; those
    that are right already are only read."""
    progress.begin(f"restoring {manifest.snapshot_id}", manifest.data_chunks * CHUNK_BYTES)

    store = store_of(home, manifest.store_id)
    with (
        store_in_use(home, store),
        store.reading(manifest.snapshot_id),
        recryption(home, manifest.wrapped_key, wrapped_key) as step,
    ):
        table = chunk_table(store, manifest)
        trio.run(
            partial(restore_chunks, table, _Sink(data), step=step, progress=ChunkCounter(progress))
        )
    begin_count(home, manifest, wrapped_key)


def begin_count(home: Home, manifest: Manifest, wrapped_key: WrappedDataKey | None) -> None:
    """Count what was encrypted for a volume that is made of a snapshot, before the volume exists:
    under the snapshot's data key what that says, under another one all that was re-encrypted."""
    if data_key_id(wrapped_key) == data_key_id(manifest.wrapped_key):
        note_written(home, wrapped_key, manifest.written_bytes)
    else:
        note_written(home, wrapped_key, manifest.data_chunks * CHUNK_BYTES)


class _Sink:
    """A data file that is not written where it is right already."""

    def __init__(self, data: DataFile) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return self._data.size_bytes

    def write_chunk(self, index: int, data: Buffer) -> None:
        # The last chunk of the snapshot may be shorter than that of the volume.
        offset = chunk_range(index, self._data.size_bytes).offset
        length = memoryview(data).nbytes
        # A hole is not right: chunks of zeros are not written at all.
        if self._data.next_data(offset, offset + length) < offset + length:
            present = bytearray(length)
            self._data.read_into(offset, present)
            if present == data:
                return
        self._data.write(offset, data)
        self._data.begin_write_back(offset, length)

    def sync(self) -> None:
        self._data.sync()
