"""Chunks into a store, between stores and out again; what I/O that costs."""

import tracemalloc

import numpy as np
import pytest
import trio

from tests.fakes.chunks import MemoryChunks, chunk_bytes
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import (
    OTHER_SIGNER,
    SIGNER,
    Host,
    create_store,
    open_store,
    restore,
    snapshot_id,
)
from volcrypt.crypto.digest import ZERO_DIGEST, DigestAlgorithm
from volcrypt.errors import ChunkCorruptError, ObjectStoreError
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot import layout
from volcrypt.snapshot.plan import StorePlan
from volcrypt.snapshot.transfer import (
    chunk_table,
    restore_chunks,
    store_chunks,
)
from volcrypt.snapshot.verify import verify

TIB = 2**40
SIZE = 3000 * CHUNK_BYTES - CHUNK_BYTES // 2


def volume_of(seeds: dict[int, int], size_bytes: int = SIZE) -> MemoryChunks:
    volume = MemoryChunks(size_bytes)
    for index, seed in seeds.items():
        volume.fill(index, seed)
    return volume


@pytest.fixture(params=list(DigestAlgorithm))
def host(request: pytest.FixtureRequest) -> Host:
    return Host(create_store(MemoryObjects(), digest=request.param))


def memory(host: Host) -> MemoryObjects:
    assert isinstance(host.store.objects, MemoryObjects)
    return host.store.objects


async def test_a_snapshot_restores_what_it_was_made_of(host: Host) -> None:
    volume = volume_of({0: 1, 1: 1, 1023: 2, 1024: 3, 2999: 4, 7: 0})
    manifest = await host.snapshot(1, volume)
    assert await restore(host.store, manifest) == volume.image()
    assert (manifest.data_chunks, manifest.stored_chunks) == (5, 4)
    assert manifest.stored_bytes == 3 * CHUNK_BYTES + CHUNK_BYTES // 2
    assert verify(host.store).damages == []


async def test_what_is_all_holes_stores_nothing(host: Host) -> None:
    manifest = await host.snapshot(1, volume_of({3: 0}))
    assert (manifest.root, manifest.data_chunks) == (ZERO_DIGEST, 0)
    assert memory(host).count("put_if_absent", "chunks/") == 0
    assert memory(host).count("put_if_absent", "pages/") == 0
    assert await restore(host.store, manifest) == {}


async def test_an_increment_reads_and_puts_what_changed_and_shares_the_rest(host: Host) -> None:
    volume = volume_of({index: index + 1 for index in range(0, 3000, 100)})
    parent = await host.snapshot(1, volume)
    volume.fill(100, 5000)
    volume.fill(200, 0)
    volume.reads.clear()
    objects = memory(host)
    objects.calls.clear()
    manifest = await host.snapshot(2, volume, parent=parent.point, changed={100, 200})
    assert sorted(volume.reads) == [100, 200]
    assert objects.count("put_if_absent", "chunks/") == 1
    assert objects.count("put_if_absent", "pages/") == 2  # one page and the table
    assert objects.count("put_if_absent", "manifests/") == 1
    assert (manifest.stored_chunks, manifest.data_chunks) == (1, 29)
    assert manifest.parent == parent.point
    assert await restore(host.store, manifest) == volume.image()
    pages = [chunk_table(host.store, m).page_digests for m in (parent, manifest)]
    assert pages[0][32:] == pages[1][32:]


async def test_an_increment_without_change_puts_only_its_manifest(host: Host) -> None:
    volume = volume_of({0: 1, 2000: 2})
    parent = await host.snapshot(1, volume)
    objects = memory(host)
    objects.calls.clear()
    manifest = await host.snapshot(2, volume, parent=parent.point, changed=set())
    assert manifest.root == parent.root
    assert objects.count("put_if_absent", "chunks/") + objects.count("put_if_absent", "pages/") == 0


async def test_a_full_scan_puts_nothing_again_that_the_parent_has(host: Host) -> None:
    volume = volume_of({index: index + 1 for index in range(50)})
    parent = await host.snapshot(1, volume)
    volume.fill(7, 99)
    objects = memory(host)
    objects.calls.clear()
    manifest = await host.snapshot(2, volume, parent=parent.point)
    assert objects.count("put_if_absent", "chunks/") == 1
    assert objects.count("get", "chunks/") == 0
    assert await restore(host.store, manifest) == volume.image()


@pytest.mark.parametrize("damage", ["no parent", "another root", "lost table", "lost page"])
async def test_a_parent_in_doubt_means_a_full_scan(host: Host, damage: str) -> None:
    volume = volume_of({0: 1, 5: 2, 2000: 3})
    parent = await host.snapshot(1, volume)
    point = parent.point
    objects = memory(host)
    if damage == "no parent":
        host.delete(1)
    elif damage == "another root":
        volume.fill(5, 3)
        point = (await host.snapshot(3, volume)).point
        point = type(point)(snapshot_id=parent.snapshot_id, root=point.root)
    elif damage == "lost table":
        del objects.objects[layout.page_name(parent.root)]
    else:
        page = chunk_table(host.store, parent).page_digest(0)
        del objects.objects[layout.page_name(page)]
    volume.fill(5, 77)
    volume.reads.clear()
    manifest = await host.snapshot(2, volume, parent=point, changed={5})
    assert sorted(volume.reads) == [0, 5, 2000]
    assert await restore(host.store, manifest) == volume.image()


async def test_cost_follows_what_changed_not_the_size() -> None:
    host = Host(create_store(MemoryObjects()))
    volume = volume_of({0: 1, 5_000_000: 2, 33_554_431: 3}, 16 * TIB)
    tracemalloc.start()
    parent = await host.snapshot(1, volume)
    volume.fill(20_000_000, 4)
    objects = memory(host)
    objects.calls.clear()
    volume.reads.clear()
    manifest = await host.snapshot(2, volume, parent=parent.point, changed={20_000_000})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.reads == [20_000_000]
    puts = [name for call, name in objects.calls if call == "put_if_absent"]
    assert sorted(name.partition("/")[0] for name in puts) == [
        "chunks",
        "manifests",
        "pages",
        "pages",
        "pins",
        "pins",
    ]
    assert objects.count("get") <= 12
    # The change map of the test itself is 32 MiB.
    assert peak < 64 * 2**20
    assert await restore(host.store, manifest) == volume.image()


async def test_incremental_roots_equal_full_roots_for_random_histories() -> None:
    random = np.random.default_rng(7)
    for _ in range(10):
        host = Host(create_store(MemoryObjects()))
        volume = MemoryChunks(SIZE)
        parent: Manifest | None = None
        for number in range(1, 8):
            changed = set(random.choice(3000, size=int(random.integers(0, 12))).tolist())
            for index in changed:
                volume.fill(index, int(random.integers(0, 4)))
            point = None if parent is None else parent.point
            incremental = await host.snapshot(
                number, volume, parent=point, changed=changed if parent else None
            )
            full, _ = await host.store_volume(number + 100, volume)
            assert incremental.root == full.root
            assert incremental.data_chunks == full.data_chunks == len(volume.image())
            parent = incremental


async def test_pages_that_finish_together_are_all_counted() -> None:
    size_bytes = 64 * PAGE_CHUNKS * CHUNK_BYTES
    for _ in range(10):
        host = Host(create_store(MemoryObjects()))
        volume = MemoryChunks(size_bytes)
        volume.chunks = {page * PAGE_CHUNKS: chunk_bytes(1, CHUNK_BYTES) for page in range(64)}
        manifest = await host.snapshot(1, volume)
        assert manifest.data_chunks == 64


@pytest.mark.parametrize("fail_at", [0, 1500, 2999])
async def test_the_first_failure_ends_all_and_nothing_is_visible(fail_at: int) -> None:
    host = Host(create_store(MemoryObjects()))
    volume = volume_of({index: index + 1 for index in (*range(40), 1500, 2999)})
    volume.fail_at = fail_at
    with pytest.raises(OSError, match="the disk failed"):
        await host.snapshot(1, volume)
    assert host.store.snapshot_ids() == []
    volume.fail_at = None
    manifest = await host.snapshot(1, volume)
    assert await restore(host.store, manifest) == volume.image()


async def test_every_failing_write_leaves_no_snapshot_and_the_next_try_works() -> None:
    for allowed in range(200):
        host = Host(create_store(MemoryObjects()))
        volume = volume_of({0: 1, 1: 2, 1024: 3})
        memory(host).writes_until_failure = allowed
        try:
            await host.snapshot(1, volume)
        except ObjectStoreError:
            visible = host.store.snapshot_ids()
            memory(host).writes_until_failure = None
            # Only a failure after the commit may leave it there, complete.
            assert visible in ([], [snapshot_id(1)])
            manifest = (
                host.store.manifest(snapshot_id(1)) if visible else await host.snapshot(2, volume)
            )
            assert await restore(host.store, manifest) == volume.image()
            assert verify(host.store).damages == []
        else:
            assert allowed > 5
            return
    raise AssertionError("it never succeeded")


async def test_a_cancelled_transfer_is_cancelled() -> None:
    host = Host(create_store(MemoryObjects()))
    volume = volume_of({index: index + 1 for index in range(300)})
    pin = host.pin(1, SIZE)
    pin.hold()
    with trio.CancelScope() as scope:
        await store_chunks(
            volume,
            pin,
            StorePlan(chunks=volume.candidate_chunks(), base=None, incremental=False),
            progress=lambda index, _: scope.cancel() if index > 20 else None,
        )
    assert scope.cancelled_caught
    assert 20 < len(volume.reads) < 100


async def test_progress_names_every_chunk(host: Host) -> None:
    volume = volume_of({0: 1, 5: 2, 2999: 3})
    seen: list[tuple[int, int]] = []
    manifest = await host.snapshot(1, volume)
    await restore_chunks(
        chunk_table(host.store, manifest),
        MemoryChunks(SIZE),
        progress=lambda index, length: seen.append((index, length)),
    )
    assert sorted(seen) == [(0, CHUNK_BYTES), (5, CHUNK_BYTES), (2999, CHUNK_BYTES // 2)]


async def test_no_byte_is_written_before_it_was_checked(host: Host) -> None:
    manifest = await host.snapshot(1, volume_of({3: 1}))
    name = layout.chunk_name(chunk_table(host.store, manifest).digest(3))
    damaged = bytearray(memory(host).objects[name])
    damaged[-1] ^= 1
    memory(host).objects[name] = bytes(damaged)
    volume = MemoryChunks(SIZE)
    with pytest.raises(ChunkCorruptError, match=r"chunk 3 of snapshot snap-.* is damaged"):
        await restore_chunks(chunk_table(host.store, manifest), volume)
    assert volume.chunks == {}


@pytest.mark.parametrize("content", [b"", b"short", None])
async def test_a_bad_object_under_a_final_name_is_replaced_and_reported(
    host: Host, content: bytes | None
) -> None:
    volume = volume_of({0: 1, 1: 2})
    objects = memory(host)
    draft, _ = await host.store_volume(1, volume)
    chunk = layout.chunk_name(host.store.digest.digest(volume.chunks[0]))
    table = layout.page_name(draft.root)
    objects.objects[chunk] = chunk_bytes(9, CHUNK_BYTES) if content is None else content
    objects.objects[table] = b"junk" if content is None else content
    pin = host.pin(2, SIZE)
    pin.hold()
    plan = StorePlan(chunks=volume.candidate_chunks(), base=None, incremental=False)
    stored = await store_chunks(volume, pin, plan)
    assert len(stored.repaired) == 2
    assert stored.stored_chunks == 0
    manifest = host.commit(host.draft(2, SIZE, stored), pin)
    assert await restore(host.store, manifest) == volume.image()


async def test_two_signers_interleave_in_one_store() -> None:
    objects = MemoryObjects()
    one = Host(create_store(objects), SIGNER)
    two = Host(open_store(objects), OTHER_SIGNER)
    volume = volume_of({0: 1, PAGE_CHUNKS: 2})
    for number in range(1, 9):
        volume.fill(number, number)
        await (one if number % 2 else two).snapshot(number, volume)
    one.delete(2)
    two.delete(1)
    two.delete(4)
    await one.snapshot(9, volume)
    await two.snapshot(10, volume)
    assert one.head is not None
    assert two.head is not None
    assert (one.head.sequence, two.head.sequence) == (6, 7)
    for expected in (one.head, two.head):
        assert verify(open_store(objects), expected_head=expected).damages == []
