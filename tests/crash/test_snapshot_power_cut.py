"""A power cut under a store on a real ext4 and XFS: what was committed survives it.

The control is the same store without its syncs, and must lose something: else the test would see
nothing.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import UnsyncedObjects
from tests.fakes.snapshots import Host, create_store, open_store, restore, snapshot_id
from tests.file_system import DisposableFileSystem, disposable_file_system
from volcrypt.errors import VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.document import MacSeal
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.copying import copy_chunks
from volcrypt.snapshot.cursor import CursorFile
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.snapshot.verify import verify

SIZE = 1100 * CHUNK_BYTES


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DisposableFileSystem]:
    with disposable_file_system(tmp_path, kind=request.param, size_bytes=2**26) as made:
        yield made


def volume_of(seed: int) -> MemoryChunks:
    volume = MemoryChunks(SIZE)
    for index in (*range(20), 1050):
        volume.fill(index, seed + index)
    return volume


def test_a_committed_snapshot_survives_a_power_cut(disk: DisposableFileSystem) -> None:
    path = disk.directory / "store"
    volume = volume_of(1)
    with LocalObjects.create(path) as objects:
        host = Host(create_store(objects))
        parent = trio.run(host.snapshot, 1, volume)
        objects.put_if_absent("chunks/00/not-synced", bytes(CHUNK_BYTES), batched=True)
    disk.cut_power()
    with LocalObjects(path) as objects:
        host.store = open_store(objects)
        assert verify(host.store, expected_head=host.head).damages == []
        assert trio.run(restore, host.store, parent) == volume.image()
        volume.fill(7, 99)
        child = trio.run(lambda: host.snapshot(2, volume, parent=parent.point, changed={7}))
        host.delete(1)
    disk.cut_power()
    with LocalObjects(path) as objects:
        host.store = open_store(objects)
        assert host.store.snapshot_ids() == [snapshot_id(2)]
        assert verify(host.store, expected_head=host.head).damages == []
        assert trio.run(restore, host.store, child) == volume.image()


def test_without_syncs_a_power_cut_loses_it(disk: DisposableFileSystem) -> None:
    """The control."""
    path = disk.directory / "store"
    with UnsyncedObjects.create(path) as objects:
        host = Host(create_store(objects))
        trio.run(host.snapshot, 1, volume_of(1))
    disk.cut_power()
    lost = False
    try:
        with LocalObjects(path) as objects:
            lost = verify(open_store(objects), expected_head=host.head).damages != []
    except VolcryptError:
        lost = True
    assert lost


def test_a_snapshot_that_was_cut_is_made_anew_over_what_is_left(disk: DisposableFileSystem) -> None:
    """Chunks under final names with wrong bytes are replaced, and the result is sound."""
    path = disk.directory / "store"
    volume = volume_of(1)
    with LocalObjects.create(path) as objects:
        host = Host(create_store(objects))
    with UnsyncedObjects(path) as objects:
        host.store.objects = objects
        trio.run(host.store_volume, 1, volume)
        # The names become durable and the data does not, as ext4 does within its commit interval.
        for file in sorted(path.glob("chunks/*/*"))[:5]:
            file.write_bytes(b"")
        for file in sorted(path.glob("pages/*/*"))[:1]:
            file.write_bytes(b"torn")
        subprocess.run(["sync", "-f", path], check=True)
    disk.cut_power()
    with LocalObjects(path) as objects:
        host.store = open_store(objects)
        draft, pin = trio.run(host.store_volume, 2, volume)
        manifest = host.commit(draft, pin)
        assert trio.run(restore, host.store, manifest) == volume.image()
        assert verify(host.store).damages == []


def copy_until(host: Host, source: Manifest, file: CursorFile, *, cursors: int) -> Manifest | None:
    """Copy from where the cursor stands; None when it was killed after some more cursors."""
    pin = host.pin(2, SIZE)
    pin.hold([source.root])
    cursor = file.read()
    assert cursor is not None
    saved = 0

    def save(cursor: CopyCursor) -> None:
        nonlocal saved
        file.write(cursor)
        saved += 1
        if saved == cursors:
            raise KeyboardInterrupt

    async def copy() -> StoredTable:
        table = chunk_table(host.store, source)
        return await copy_chunks(table, pin, cursor, save, data_chunks=source.data_chunks)

    try:
        stored = trio.run(copy)
    except KeyboardInterrupt:
        return None
    return host.commit(host.draft(2, SIZE, stored), pin)


def test_a_copy_resumes_after_power_cuts(disk: DisposableFileSystem) -> None:
    path = disk.directory / "store"
    volume = volume_of(1)
    with LocalObjects.create(path) as objects:
        host = Host(create_store(objects))
        source = trio.run(host.snapshot, 1, volume)
    file = CursorFile(disk.directory / "cursor", MacSeal(bytes(32)))
    file.write(host.cursor(source, 2))
    attempts = 0
    copied = None
    while copied is None:
        attempts += 1
        with LocalObjects(path) as objects:
            host.store = open_store(objects)
            copied = copy_until(host, source, file, cursors=8)
        disk.cut_power()
    # 21 chunks, a cursor for each: 8, 8, and the rest.
    assert attempts == 3
    with LocalObjects(path) as objects:
        host.store = open_store(objects)
        assert verify(host.store, expected_head=host.head).damages == []
        assert trio.run(restore, host.store, copied) == volume.image()
