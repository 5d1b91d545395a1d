"""What a lazy volume holds in a store stays there, whoever sweeps, and holds nobody up."""

import pytest

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import OTHER_SIGNER, Host, create_store, open_store, restore
from volcrypt.errors import ObjectLostError, SealError, TryAgainError
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import VolumeId
from volcrypt.operations.lazy_volumes import source_of
from volcrypt.snapshot import layout
from volcrypt.snapshot.pin import (
    hold_lastingly,
    is_held_lastingly,
    lasting_pins,
    release_lasting,
)
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.sweep_mark import PIN_LIFETIME_SECONDS

LAZY = VolumeId("vol-0123456789abcdef0")
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


async def snapshot(host: Host, number: int, *seeds: int) -> tuple[Manifest, MemoryChunks]:
    volume = MemoryChunks(SIZE)
    for index, seed in enumerate(seeds):
        volume.fill(index * 1100, seed)
    return await host.snapshot(number, volume), volume


def hold(host: Host, manifest: Manifest) -> None:
    hold_lastingly(host.store, LAZY, manifest, signer=host.signer, now=host.now)


def stored(objects: MemoryObjects) -> int:
    return sum(name.startswith(("chunks/", "pages/")) for name in objects.objects)


async def test_alone_the_holder_keeps_what_was_deleted(objects: MemoryObjects, host: Host) -> None:
    kept, volume = await snapshot(host, 1, 1, 2)
    await snapshot(host, 2, 3)
    hold(host, kept)
    host.delete(1)
    host.delete(2)
    assert sweep(host.store, lazy={LAZY}).object_count == 3
    assert await restore(host.store, kept) == volume.image()
    release_lasting(host.store, LAZY)
    release_lasting(host.store, LAZY)
    sweep(host.store, lazy={LAZY})
    assert stored(objects) == 0


async def test_it_holds_what_it_names_and_nothing_else(host: Host) -> None:
    one, _ = await snapshot(host, 1, 1)
    two, _ = await snapshot(host, 2, 2)
    hold(host, one)
    assert is_held_lastingly(host.store, LAZY, source_of(one, fill_rate=None))
    assert not is_held_lastingly(host.store, LAZY, source_of(two, fill_rate=None))
    release_lasting(host.store, LAZY)
    assert not is_held_lastingly(host.store, LAZY, source_of(one, fill_rate=None))


async def test_alone_a_pin_whose_holder_is_gone_goes(objects: MemoryObjects, host: Host) -> None:
    manifest, _ = await snapshot(host, 1, 1)
    hold(host, manifest)
    host.delete(1)
    sweep(host.store)
    assert stored(objects) == 0
    assert list(lasting_pins(host.store)) == []


async def test_others_sweep_beside_it_for_ever(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    kept, volume = await snapshot(host, 1, 1, 2)
    hold(host, kept)
    host.delete(1)
    garbage = MemoryChunks(SIZE)
    garbage.fill(5, 9)
    _, pin = await host.store_volume(3, garbage)
    pin.release()
    for later in (0, 10 * PIN_LIFETIME_SECONDS):
        other.condemn()
        swept = other.delete_condemned(later=later)
        assert swept.object_count == (3 if later == 0 else 0)
    assert await restore(host.store, kept) == volume.image()
    assert [volume_id for volume_id, _ in lasting_pins(host.store)] == [LAZY]
    release_lasting(host.store, LAZY)
    other.condemn()
    other.delete_condemned()
    assert stored(objects) == 0


async def test_what_was_condemned_before_the_pin_is_not_deleted_after_it(
    host: Host, other: Host
) -> None:
    """The snapshot was deleted, and looked at just before: the pin comes between the phases."""
    kept, volume = await snapshot(host, 1, 1)
    host.delete(1)
    assert other.condemn() == 3
    hold(host, kept)
    assert other.delete_condemned().object_count == 0
    assert await restore(host.store, kept) == volume.image()


async def test_it_gives_way_to_a_sweep_that_deletes(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    kept, _ = await snapshot(host, 1, 1)
    await snapshot(host, 2, 2)
    host.delete(2)
    other.condemn()
    met = False

    class Watching(MemoryObjects):
        """Tries to take hold when the first object is deleted."""

        def delete(self, name: str) -> None:
            nonlocal met
            if name.startswith("chunks/"):
                met = True
                with pytest.raises(TryAgainError, match="is being swept"):
                    hold(host, kept)
            super().delete(name)

    watching = Watching()
    watching.objects = objects.objects
    other.store.objects = watching
    other.delete_condemned()
    assert met
    assert list(lasting_pins(host.store)) == []
    hold(host, kept)


async def test_a_forged_pin_stops_sweeps_of_others_and_holds_nothing(
    objects: MemoryObjects, host: Host, other: Host
) -> None:
    manifest, _ = await snapshot(host, 1, 1)
    hold(host, manifest)
    name = layout.lasting_pin_name(LAZY)
    objects.objects[name] = objects.objects[name].replace(b'"lasting":true', b'"lasting":false')
    with pytest.raises(SealError, match="pin of volume vol-0123456789abcdef0"):
        other.condemn()
    host.delete(1)
    sweep(host.store)
    assert stored(objects) == 0


def test_names_of_pins() -> None:
    name = layout.lasting_pin_name(LAZY)
    assert layout.pinning_volume(name) == LAZY
    assert layout.pinning_volume("pins/snap-0123456789abcdef0") is None


@pytest.mark.parametrize("instead", [None, b"", b"an older one"])
async def test_a_pin_that_was_not_stored_is_none(
    objects: MemoryObjects, host: Host, monkeypatch: pytest.MonkeyPatch, instead: bytes | None
) -> None:
    """Nobody would miss it until the chunks of a volume were swept."""
    manifest, _ = await snapshot(host, 1, 1)

    def pretend(_self: MemoryObjects, name: str, _data: bytes, *, batched: bool = False) -> None:
        if instead is not None:
            objects.objects[name] = instead

    monkeypatch.setattr(MemoryObjects, "replace", pretend)
    with pytest.raises(ObjectLostError, match=rf"stored object pins/{LAZY}"):
        hold(host, manifest)
