"""The origin of a lazy volume's chunks: what it reads, how often, and what it never gives out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import Host, create_store
from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    IntegrityError,
    KeyWipedError,
    ObjectStoreError,
    StoreNotFoundError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.formats.present_map import PresentHeader
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, UNITS_PER_CHUNK
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import origin as origin_module
from volcrypt.snapshot.checked_objects import CheckedObjects
from volcrypt.snapshot.layout import chunk_name
from volcrypt.snapshot.origin import SnapshotOrigin
from volcrypt.snapshot.recryptor import Recryptor
from volcrypt.volume.lazy import LazyChunks
from volcrypt.volume.present import open_present_map
from volcrypt.volume.present_file import create_present_map, is_complete

CHUNKS = 5 * PAGE_CHUNKS + 2
SIZE = (CHUNKS - 1) * CHUNK_BYTES + UNIT_BYTES
FILLED = [0, 1, PAGE_CHUNKS + 3, 4 * PAGE_CHUNKS, CHUNKS - 1]


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def host(objects: MemoryObjects) -> Host:
    return Host(create_store(objects))


@pytest.fixture
def volume() -> MemoryChunks:
    volume = MemoryChunks(SIZE)
    for index in FILLED:
        volume.fill(index, index + 1)
    return volume


def origin_of(host: Host, manifest: Manifest, **changes: object) -> SnapshotOrigin:
    arguments = {
        "snapshot_id": manifest.snapshot_id,
        "root": manifest.root,
        "size_bytes": manifest.size_bytes,
        "step": None,
    }
    return SnapshotOrigin(lambda: host.store, **(arguments | changes))  # type: ignore[arg-type]


def read(origin: SnapshotOrigin, index: int) -> bytes:
    buffer = bytearray(CHUNK_BYTES if index < CHUNKS - 1 else UNIT_BYTES)
    origin.read_chunk(index, memoryview(buffer))
    return bytes(buffer)


async def test_each_chunk_is_read_by_itself_and_tables_once(
    objects: MemoryObjects, host: Host, volume: MemoryChunks
) -> None:
    origin = origin_of(host, await host.snapshot(1, volume))
    objects.calls.clear()
    assert origin.hole_pages().tolist() == [False, False, True, True, False, False]
    assert objects.count("get") == 1
    for index in (0, PAGE_CHUNKS + 3, 1, CHUNKS - 1, 0):
        assert not origin.holes(index // PAGE_CHUNKS)[index % PAGE_CHUNKS]
        assert read(origin, index) == volume.chunks[index]
    assert objects.count("get", "pages/") == 4  # the table, and three pages
    assert objects.count("get", "chunks/") == 5
    holes = origin.holes(0)
    assert (len(holes), (~holes).nonzero()[0].tolist()) == (PAGE_CHUNKS, [0, 1])
    assert len(origin.holes(5)) == 2
    assert origin.holes(2).all()


async def test_pages_that_were_not_used_for_long_are_forgotten(
    objects: MemoryObjects, host: Host, volume: MemoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_module, "KEPT_PAGES", 2)
    origin = origin_of(host, await host.snapshot(1, volume))
    objects.calls.clear()
    for page in (0, 1, 0, 4, 0, 1):
        origin.holes(page)
    assert objects.count("get", "pages/") == 1 + 4  # the table; 0, 1, 4, and 1 again


async def test_an_empty_snapshot_is_nothing_but_holes(host: Host, objects: MemoryObjects) -> None:
    manifest = await host.snapshot(1, MemoryChunks(SIZE))
    assert manifest.root == ZERO_DIGEST
    objects.calls.clear()
    origin = origin_of(host, manifest)
    assert origin.hole_pages().all()
    assert origin.holes(5).tolist() == [True, True]
    assert objects.calls == []


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [_cut, _flip, lambda data: b"", lambda data: data + b"x"])
async def test_what_is_damaged_is_not_given_out(
    objects: MemoryObjects, host: Host, volume: MemoryChunks, damage: Callable[[bytes], bytes]
) -> None:
    manifest = await host.snapshot(1, volume)
    digest = host.store.digest.digest(volume.chunks[1])
    name = chunk_name(digest)
    whole = objects.objects[name]
    objects.objects[name] = damage(whole)
    origin = origin_of(host, manifest)
    with pytest.raises(ChunkCorruptError, match=f"chunk 1 of snapshot {manifest.snapshot_id}"):
        read(origin, 1)
    assert read(origin, 0) == volume.chunks[0]
    objects.objects[name] = whole
    assert read(origin, 1) == volume.chunks[1]
    del objects.objects[name]
    with pytest.raises(ChunkMissingError):
        read(origin, 1)
    for page in [name for name in objects.objects if name.startswith("pages/")]:
        objects.objects[page] = damage(objects.objects[page])
    with pytest.raises(IntegrityError, match="table of snapshot"):
        read(origin_of(host, manifest), 0)


async def test_swapped_chunks_are_not_given_out(
    objects: MemoryObjects, host: Host, volume: MemoryChunks
) -> None:
    manifest = await host.snapshot(1, volume)
    one, other = (chunk_name(host.store.digest.digest(volume.chunks[index])) for index in (0, 1))
    objects.objects[one], objects.objects[other] = objects.objects[other], objects.objects[one]
    for index in (0, 1):
        with pytest.raises(ChunkCorruptError):
            read(origin_of(host, manifest), index)


async def test_a_store_that_is_away_is_looked_for_again(host: Host, volume: MemoryChunks) -> None:
    manifest = await host.snapshot(1, volume)
    away = True
    opened = 0

    def open_store() -> CheckedObjects:
        nonlocal opened
        opened += 1
        if away:
            raise StoreNotFoundError("nowhere")
        return CheckedObjects(host.store.objects, host.store.digest)

    origin = SnapshotOrigin(
        open_store,
        snapshot_id=SnapshotId("snap-00000000000000001"),
        root=manifest.root,
        size_bytes=SIZE,
        step=None,
    )
    for _ in range(2):
        with pytest.raises(StoreNotFoundError):
            origin.hole_pages()
    away = False
    assert read(origin, 0) == volume.chunks[0]
    assert read(origin, 1) == volume.chunks[1]
    assert opened == 3


async def test_a_failing_store_is_an_error_of_that_call(
    objects: MemoryObjects, host: Host, volume: MemoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = origin_of(host, await host.snapshot(1, volume))
    get = objects.get

    def fail(name: str) -> bytes:
        raise ObjectStoreError("it is away")

    for step in (origin.hole_pages, lambda: origin.holes(0), lambda: read(origin, 0)):
        monkeypatch.setattr(objects, "get", fail)
        with pytest.raises(ObjectStoreError):
            step()
        monkeypatch.setattr(objects, "get", get)
        step()


def key(seed: int) -> DataKey:
    return DataKey(bytearray(range(seed, seed + 64)))


async def test_chunks_are_given_out_under_the_other_key(host: Host, volume: MemoryChunks) -> None:
    old, new = key(0), key(100)
    plain = bytes(range(256)) * (CHUNK_BYTES // 256)
    chunk = bytearray(plain)
    old.kernel().encrypt_units(3 * UNITS_PER_CHUNK, chunk, chunk)
    volume.chunks = {3: bytes(chunk)}
    recryptor = Recryptor(old, new)
    origin = origin_of(host, await host.snapshot(1, volume), step=recryptor)
    for _ in range(2):
        given = bytearray(read(origin, 3))
        assert given not in (plain, chunk)
        new.kernel().decrypt_sparse_units(3 * UNITS_PER_CHUNK, given, given)
        assert given == plain
    recryptor.wipe()
    recryptor.wipe()
    with pytest.raises(KeyWipedError):
        read(origin, 3)


def test_what_was_not_encrypted_is_afterwards() -> None:
    new = key(7)
    chunk = bytearray(b"plain".ljust(CHUNK_BYTES, b"."))
    recryptor = Recryptor(None, new)
    recryptor(5, memoryview(chunk))
    assert b"plain" not in chunk
    new.kernel().decrypt_sparse_units(5 * UNITS_PER_CHUNK, chunk, chunk)
    assert chunk.startswith(b"plain...")
    recryptor.wipe()


async def test_the_first_byte_of_16_tib_costs_as_much_as_that_of_little(
    objects: MemoryObjects, host: Host, tmp_path: Path
) -> None:
    size_bytes = 16 * 2**40
    count = size_bytes // CHUNK_BYTES
    volume = MemoryChunks(size_bytes)
    for index in (0, count // 2, count - 1):
        volume.fill(index, index + 1)
    manifest = await host.snapshot(1, volume)
    header = PresentHeader(
        volume_id=VolumeId("vol-0123456789abcdef0"), size_bytes=size_bytes, root=manifest.root
    )
    create_present_map(tmp_path / "present", header)
    objects.calls.clear()
    present = open_present_map(
        tmp_path / "present",
        volume_id=header.volume_id,
        size_bytes=size_bytes,
        root=manifest.root,
    )
    written: dict[int, bytes] = {}

    class Sparse:
        def write(self, offset: int, data: memoryview) -> None:
            written[offset // CHUNK_BYTES] = bytes(data)

    lazy = LazyChunks(
        origin_of(host, manifest),
        present,
        size_bytes=size_bytes,
        data=Sparse(),
        sync=lambda: None,
        in_flight=4,
    )
    await lazy.make_readable(range(count // 2, count // 2 + 1))
    assert written == {count // 2: volume.chunks[count // 2]}
    assert objects.count("get") == 3  # table, page, chunk
    # All pages of holes are known from the table: nothing is asked for empty space.
    await lazy.make_writable(range(count // 4, count // 4 + 2))
    assert objects.count("get") == 3
    await lazy.fetch_all(lambda done, total: None)
    assert written == volume.chunks
    assert objects.count("get") == 1 + 3 + 3
    await lazy.close()
    assert is_complete(tmp_path / "present", header.volume_id)
