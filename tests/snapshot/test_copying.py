"""Copies of snapshots: what moves, what a kill costs, what is shared with the copy before."""

import numpy as np
import pytest
import trio

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import OTHER_SIGNER, Host, create_store, restore, snapshot_id
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import RollbackError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot import layout
from volcrypt.snapshot.copying import copy_chunks, restarted
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.snapshot.verify import verify

SIZE = 3000 * CHUNK_BYTES - CHUNK_BYTES // 2


def volume_of(seeds: dict[int, int], size_bytes: int = SIZE) -> MemoryChunks:
    volume = MemoryChunks(size_bytes)
    for index, seed in seeds.items():
        volume.fill(index, seed)
    return volume


def memory(host: Host) -> MemoryObjects:
    assert isinstance(host.store.objects, MemoryObjects)
    return host.store.objects


@pytest.fixture
def host() -> Host:
    return Host(create_store(MemoryObjects()))


def flip(index: int, view: memoryview) -> None:
    """A step that, as a change of key does, depends on the place of the chunk."""
    array = np.frombuffer(view, dtype=np.uint8)
    np.bitwise_xor(array, (index % 255) + 1, out=array)


async def test_a_copy_to_another_store_needs_no_step_and_may_have_another_digest() -> None:
    one = Host(create_store(MemoryObjects()))
    two = Host(create_store(MemoryObjects(), digest=DigestAlgorithm.SHA256, number=2), OTHER_SIGNER)
    volume = volume_of({0: 1, 1023: 2, 1024: 3, 2999: 4})
    manifest = await one.snapshot(1, volume)
    copied = await two.copy(2, one.store, manifest)
    assert await restore(two.store, copied) == volume.image()
    assert copied.origin is not None
    assert (copied.data_chunks, copied.stored_chunks) == (4, 4)
    assert verify(two.store).damages == []


class CopyOfManyChunks:
    """A copy under a step of 320 chunks, of which each attempt may be killed."""

    def __init__(self) -> None:
        self.host = Host(create_store(MemoryObjects()))
        self.volume = volume_of({index * 8: index + 1 for index in range(320)})
        self.saved: list[CopyCursor] = []
        self.steps: list[int] = []
        self.manifest: Manifest
        self.fail_save_at: int | None = None
        """Killed in place of keeping the cursor that would be this many."""

    async def prepare(self) -> None:
        self.manifest = await self.host.snapshot(1, self.volume)

    async def run(self, *, kill_after: int | None = None) -> Manifest:
        host = self.host
        pin = host.pin(2, SIZE)
        was_held = pin.hold([self.manifest.root])
        cursor = self.saved[-1] if self.saved else host.cursor(self.manifest, 2)
        if not was_held:
            cursor = restarted(cursor)
        done = 0

        def step(index: int, view: memoryview) -> None:
            nonlocal done
            if done == kill_after:
                raise KeyboardInterrupt
            done += 1
            self.steps.append(index)
            flip(index, view)

        stored = await copy_chunks(
            chunk_table(host.store, self.manifest),
            pin,
            cursor,
            self.save,
            data_chunks=self.manifest.data_chunks,
            step=step,
            limiter=trio.CapacityLimiter(2),
        )
        return host.commit(host.draft(2, SIZE, stored), pin)

    def save(self, cursor: CopyCursor) -> None:
        if len(self.saved) == self.fail_save_at:
            self.fail_save_at = None
            raise KeyboardInterrupt
        self.saved.append(cursor)

    def expected(self) -> dict[int, bytes]:
        image = {}
        for index, data in self.volume.image().items():
            view = bytearray(data)
            flip(index, memoryview(view))
            image[index] = bytes(view)
        return image


async def test_a_copy_resumes_and_repeats_at_most_two_percent() -> None:
    copy = CopyOfManyChunks()
    await copy.prepare()
    for kill_after in (3, 50, 0, 120):
        with pytest.raises(KeyboardInterrupt):
            await copy.run(kill_after=kill_after)
        memory_objects = memory(copy.host)
        memory_objects.crash()
    before = len(copy.steps)
    manifest = await copy.run()
    assert await restore(copy.host.store, manifest) == copy.expected()
    assert len(copy.steps) - 320 <= 4 * 0.02 * 320
    assert len(copy.steps) - before < 320 - 120 - 40
    assert verify(copy.host.store).damages == []


async def test_a_resumed_copy_survives_a_sweep_and_the_deletion_of_its_source() -> None:
    copy = CopyOfManyChunks()
    await copy.prepare()
    with pytest.raises(KeyboardInterrupt):
        await copy.run(kill_after=150)
    copy.host.delete(1)
    sweep(copy.host.store, resumable=[snapshot_id(2)])
    before = len(copy.steps)
    manifest = await copy.run()
    assert await restore(copy.host.store, manifest) == copy.expected()
    assert len(copy.steps) - before < 180


async def test_a_copy_killed_between_pin_and_cursor_resumes_from_the_cursor_before() -> None:
    copy = CopyOfManyChunks()
    await copy.prepare()
    copy.fail_save_at = 30
    with pytest.raises(KeyboardInterrupt):
        await copy.run()
    sweep(copy.host.store, resumable=[snapshot_id(2)])
    before = len(copy.steps)
    manifest = await copy.run()
    # Of the chunks that the last cursor covers none is done again.
    covered = len([index for index in copy.volume.chunks if index < copy.saved[29].next_chunk])
    assert covered > 80
    assert len(copy.steps) - before == 320 - covered
    assert before - covered <= 0.02 * 320
    assert await restore(copy.host.store, manifest) == copy.expected()


async def test_a_copy_whose_pin_was_swept_starts_over() -> None:
    copy = CopyOfManyChunks()
    await copy.prepare()
    with pytest.raises(KeyboardInterrupt):
        await copy.run(kill_after=150)
    sweep(copy.host.store)
    before = len(copy.steps)
    manifest = await copy.run()
    assert len(copy.steps) - before == 320
    assert await restore(copy.host.store, manifest) == copy.expected()


async def test_a_copy_whose_done_part_is_damaged_starts_over() -> None:
    copy = CopyOfManyChunks()
    await copy.prepare()
    with pytest.raises(KeyboardInterrupt):
        await copy.run(kill_after=150)
    del memory(copy.host).objects[layout.page_name(copy.saved[-1].root)]
    manifest = await copy.run()
    assert await restore(copy.host.store, manifest) == copy.expected()


async def test_the_cursor_of_another_copy_is_refused(host: Host) -> None:
    manifest = await host.snapshot(1, volume_of({0: 1}))
    other = await host.snapshot(2, volume_of({0: 2}))
    pin = host.pin(3, SIZE)
    pin.hold()
    for cursor in (host.cursor(manifest, 2), host.cursor(other, 3)):
        with pytest.raises(RollbackError, match="cursor of the copy"):
            await copy_chunks(
                chunk_table(host.store, manifest), pin, cursor, lambda _: None, data_chunks=1
            )
