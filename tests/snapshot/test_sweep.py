"""Garbage goes, everything else stays: alone, and beside others at every interleaving."""

from collections.abc import Iterator

import pytest
from typing_extensions import Buffer

from tests.fakes.chunks import MemoryChunks
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
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    ObjectStoreError,
    SweepBlockedError,
    TryAgainError,
)
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot import layout
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.sweep_mark import PIN_LIFETIME_SECONDS
from volcrypt.snapshot.verify import verify

SIZE = 2048 * CHUNK_BYTES


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def host(objects: MemoryObjects) -> Host:
    return Host(create_store(objects))


@pytest.fixture
def other(objects: MemoryObjects, host: Host) -> Host:
    return Host(open_store(objects), OTHER_SIGNER)


def volume_of(*seeds: int) -> MemoryChunks:
    volume = MemoryChunks(SIZE)
    for index, seed in enumerate(seeds):
        volume.fill(index * 300, seed)
    return volume


def stored(objects: MemoryObjects) -> int:
    return sum(name.startswith(("chunks/", "pages/")) for name in objects.objects)


async def test_what_another_snapshot_has_too_survives(objects: MemoryObjects, host: Host) -> None:
    volume = volume_of(1, 2, 3)
    parent = await host.snapshot(1, volume)
    volume.fill(0, 9)
    child = await host.snapshot(2, volume, parent=parent.point, changed={0})
    assert sweep(host.store).object_count == 0
    host.delete(1)
    assert sweep(host.store).object_count == 3  # its chunk, its page, its table
    assert await restore(host.store, child) == volume.image()
    assert verify(host.store).damages == []
    host.delete(2)
    sweep(host.store)
    assert stored(objects) == 0


async def test_much_garbage_goes_and_a_failure_is_heard_of(
    objects: MemoryObjects, host: Host
) -> None:
    """More than is deleted at once, by several threads."""
    volume = MemoryChunks(SIZE)
    for index in range(150):
        volume.fill(index, index + 1)
    await host.snapshot(1, volume)
    host.delete(1)
    objects.writes_until_failure = 40
    with pytest.raises(ObjectStoreError):
        sweep(host.store)
    left = stored(objects)
    assert 0 < left < 152, "the control"
    objects.writes_until_failure = None
    assert sweep(host.store).object_count == left
    assert stored(objects) == 0


async def test_what_a_killed_snapshot_left_goes(objects: MemoryObjects, host: Host) -> None:
    await host.store_volume(1, volume_of(1, 2, 3))
    sweep(host.store)
    assert stored(objects) == 0
    assert list(objects.list("pins/")) == []


async def test_a_sweep_that_is_killed_at_any_write_is_run_again(host: Host) -> None:
    for allowed in range(100):
        objects = MemoryObjects()
        host = Host(create_store(objects))
        keep = volume_of(1, 2)
        await host.snapshot(1, volume_of(1, 5, 6, 7))
        kept = await host.snapshot(2, keep)
        host.delete(1)
        objects.writes_until_failure = allowed
        try:
            sweep(host.store)
        except ObjectStoreError:
            objects.writes_until_failure = None
            assert await restore(host.store, kept) == keep.image()
            sweep(host.store)
        else:
            assert allowed > 4
            return
        assert stored(objects) == 4
    raise AssertionError("it never succeeded")


@pytest.mark.parametrize("place", ["manifests/", "pages/"])
async def test_what_cannot_be_read_stops_a_sweep(
    objects: MemoryObjects, host: Host, place: str
) -> None:
    await host.snapshot(1, volume_of(1))
    await host.store_volume(2, volume_of(8))
    for name in list(objects.list(place)):
        objects.objects[name] = objects.objects[name][:-9] + b"x" * 9
    before = set(objects.objects)
    with pytest.raises((IntegrityError, FormatError)):
        sweep(host.store)
    assert {n for n in before if n.startswith("chunks/")} <= set(objects.objects)


async def test_a_manifest_that_is_only_gone_is_not_taken_for_deleted(
    objects: MemoryObjects, host: Host
) -> None:
    """A service that lists what it cannot give: what that referred to is not known."""
    await host.snapshot(1, volume_of(1))
    (name,) = objects.list("manifests/")
    lost = objects.objects[name]

    class Listing(MemoryObjects):
        def list(self, prefix: str) -> Iterator[str]:
            yield from {*super().list(prefix), *([name] if name.startswith(prefix) else [])}

    listing = Listing()
    listing.objects = {each: data for each, data in objects.objects.items() if each != name}
    host.store.objects = listing
    with pytest.raises(SweepBlockedError):
        sweep(host.store)
    listing.objects[name] = lost
    assert sweep(host.store).object_count == 0


def test_a_false_tombstone_does_not_let_a_sweep_delete(objects: MemoryObjects, host: Host) -> None:
    pin = host.pin(1, SIZE)
    pin.hold()
    name = f"tombstones/{snapshot_id(1)}.0000000002.{SIGNER.id}.0000000001.{SIGNER.id}"
    objects.objects[name] = b"volcrypt tombstone 1\n{}\n00\n"
    objects.objects[f"manifests/{snapshot_id(1)}.0000000001.{SIGNER.id}"] = b""
    with pytest.raises(Exception, match="tombstone of snapshot"):
        sweep(host.store)


async def test_foreign_files_in_the_store_are_left_alone(
    objects: MemoryObjects, host: Host
) -> None:
    await host.store_volume(1, volume_of(1))
    for name in ("chunks/00/readme", "chunks/zz/00", "lost+found/x"):
        objects.objects[name] = b""
    sweep(host.store)
    assert {"chunks/00/readme", "chunks/zz/00", "lost+found/x"} <= set(objects.objects)


# ---------------------------------------------------------------- several hosts


async def test_two_phases_delete_what_stayed_garbage(objects: MemoryObjects, host: Host) -> None:
    await host.snapshot(1, volume_of(1, 2))
    host.delete(1)
    assert host.condemn() == 4
    assert stored(objects) == 4
    assert host.delete_condemned().object_count == 4
    assert stored(objects) == 0
    assert list(objects.list("condemned/")) + list(objects.list("sweeping")) == []


async def test_found_by_a_maker_swept_by_another_host_then_committed(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    volume = volume_of(1, 2)
    await host.snapshot(1, volume)
    host.delete(1)
    host.condemn()
    # "Exists" is answered for every chunk; none of them is referred to by a manifest.
    draft, pin = await other.store_volume(2, volume)
    with pytest.raises(TryAgainError, match=r"snapshot snap-.* is being made"):
        host.delete_condemned()
    manifest = other.commit(draft, pin)
    assert host.delete_condemned().object_count == 0
    assert await restore(host.store, manifest) == volume.image()
    assert verify(host.store).damages == []
    assert list(objects.list("sweeping")) == []


async def test_a_maker_who_comes_during_the_deletions_has_to_wait(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    volume = volume_of(1, 2, 3)
    await host.snapshot(1, volume)
    host.delete(1)
    host.condemn()
    refused = 0
    delete = objects.delete

    def delete_beside_a_maker(name: str) -> None:
        nonlocal refused
        if name.startswith("chunks/"):
            with pytest.raises(TryAgainError, match="is being swept"):
                other.pin(2, SIZE).hold()
            refused += 1
        delete(name)

    objects.delete = delete_beside_a_maker  # type: ignore[method-assign]
    host.delete_condemned()
    assert refused == 3
    assert list(objects.list("pins/")) == []
    manifest = await other.snapshot(2, volume)
    assert await restore(host.store, manifest) == volume.image()


@pytest.mark.parametrize("phases", [1, 2])
async def test_a_pin_that_a_power_cut_left_unreadable_is_dead(
    objects: MemoryObjects, host: Host, other: Host, phases: int
) -> None:
    draft, pin = await host.store_volume(1, volume_of(1))
    objects.objects[layout.pin_name(pin.snapshot_id)] = b""
    if phases == 1:
        sweep(other.store, resumable=[pin.snapshot_id])
    else:
        other.condemn()
        other.delete_condemned()
    assert stored(objects) == 0
    with pytest.raises(TryAgainError, match="lost its hold"):
        host.commit(draft, pin)


def test_a_pin_that_is_released_does_not_outlive_its_hold(
    objects: MemoryObjects, host: Host
) -> None:
    """A pin may last, and would keep what it names for ever."""
    pin = host.pin(1, SIZE)
    pin.hold()
    objects.writes_until_failure = 1
    with pytest.raises(ObjectStoreError):
        pin.release()
    objects.writes_until_failure = None
    assert list(objects.list(layout.PINS)) == [layout.hold_name(snapshot_id(1))]


def test_a_hold_that_was_swept_is_not_taken_for_held() -> None:
    """The put arrived, its answer did not, and who puts again is told that it is there."""

    class Repeats(MemoryObjects):
        def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
            super().put_if_absent(name, data, batched=batched)
            return super().put_if_absent(name, data, batched=batched)

    objects = Repeats()
    host = Host(create_store(objects))
    assert not host.pin(1, SIZE).hold()
    assert host.pin(1, SIZE).hold()
    objects.delete(layout.hold_name(snapshot_id(1)))
    assert not host.pin(1, SIZE).hold()


async def test_a_pin_that_was_not_renewed_is_dead_and_its_commit_fails(
    host: Host, other: Host
) -> None:
    volume = volume_of(1, 2)
    draft, pin = await other.store_volume(2, volume)
    host.condemn()
    assert host.delete_condemned(later=PIN_LIFETIME_SECONDS).object_count == 4
    with pytest.raises(TryAgainError, match="lost its hold"):
        other.commit(draft, pin)
    assert host.store.snapshot_ids() == []


async def test_a_renewed_pin_lives(host: Host, other: Host) -> None:
    _, pin = await other.store_volume(2, volume_of(1))
    other.now += PIN_LIFETIME_SECONDS
    pin.renew()
    host.condemn()
    with pytest.raises(TryAgainError):
        host.delete_condemned(later=PIN_LIFETIME_SECONDS)


async def test_the_mark_of_a_dead_sweep_is_removed_and_the_sweep_notices(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    await host.snapshot(1, volume_of(1, 2, 3))
    host.delete(1)
    host.condemn()
    other.now += PIN_LIFETIME_SECONDS
    get = objects.get

    def get_after_sleep(name: str) -> bytes:
        if name == layout.SWEEPING and objects.count("delete", "chunks/") == 0:
            objects.get = get  # type: ignore[method-assign]
            other.pin(2, SIZE).hold()
        return get(name)

    objects.get = get_after_sleep  # type: ignore[method-assign]
    with pytest.raises(TryAgainError, match="given up"):
        host.delete_condemned()
    assert objects.count("delete", "chunks/") == 0


async def test_two_sweeps_do_not_run_beside_each_other(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    host.condemn()
    objects.writes_until_failure = 1
    with pytest.raises(ObjectStoreError):
        host.delete_condemned()
    objects.writes_until_failure = None
    with pytest.raises(TryAgainError, match="another sweep"):
        other.delete_condemned()
    # Whoever holds the store alone ends it.
    sweep(host.store)
    assert list(objects.list("sweeping")) == []


async def test_a_pin_keeps_what_its_parent_had(host: Host, other: Host) -> None:
    volume = volume_of(1, 2, 3)
    parent = await host.snapshot(1, volume)
    volume.fill(0, 9)
    draft, pin = await other.store_volume(2, volume, parent=parent.point, changed={0})
    host.delete(1)
    sweep(host.store, resumable=[snapshot_id(2)])
    # What was put since is not named by the pin; the caller held the store alone, so it is gone.
    resumed = await other.store_volume(2, volume, parent=parent.point, changed={0})
    manifest = other.commit(*resumed)
    assert manifest.root == draft.root
    assert await restore(host.store, manifest) == volume.image()
    assert pin.snapshot_id == manifest.snapshot_id
