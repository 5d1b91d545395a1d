"""Damage of every kind at every place: what verify names, and the error of whoever uses it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import (
    OTHER_SIGNER,
    ROOT_KEY,
    SIGNER,
    Host,
    create_store,
    open_store,
    restore,
    snapshot_id,
)
from volcrypt.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    IntegrityError,
    InvalidArgumentError,
    MalformedError,
    SealError,
    SnapshotNotFoundError,
    StoreNotFoundError,
    SweepBlockedError,
    UnsupportedVersionError,
    VolcryptError,
)
from volcrypt.formats.certificate import SignerCertificate, SignerId, encode_certificate
from volcrypt.formats.document import SigningSeal
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import make_store_id
from volcrypt.snapshot import layout
from volcrypt.snapshot.damage import DamageKind
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.signer import LogHead
from volcrypt.snapshot.store import SnapshotStore, read_store_document
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.snapshot.verify import verify

SIZE = 2048 * CHUNK_BYTES

Action = Callable[[bytes], bytes | None]


def flip_bit(data: bytes) -> bytes:
    """Near the end: in the seal of a document, in the last digest or bytes of anything else."""
    position = len(data) - 3
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def truncate(data: bytes) -> bytes:
    return data[: len(data) * 3 // 4]


def empty(_: bytes) -> bytes:
    return b""


def lose(_: bytes) -> None:
    return None


ACTIONS: dict[str, Action] = {
    "flip": flip_bit,
    "truncate": truncate,
    "empty": empty,
    "lose": lose,
}


@dataclass
class Scene:
    """Snapshot 1, its child 2, and snapshot 3, which was deleted."""

    objects: MemoryObjects
    host: Host
    volume: MemoryChunks
    places: dict[str, str]
    others: dict[str, str]

    def apply(self, place: str, action: str) -> None:
        name = self.places[place]
        if action == "swap":
            self.objects.objects[name] = self.objects.objects[self.others[place]]
            return
        changed = ACTIONS[action](self.objects.objects[name])
        if changed is None:
            del self.objects.objects[name]
        else:
            assert changed != self.objects.objects[name]
            self.objects.objects[name] = changed


@pytest.fixture
def scene() -> Scene:
    return trio.run(make_scene)


async def make_scene() -> Scene:
    objects = MemoryObjects()
    host = Host(create_store(objects))
    volume = MemoryChunks(SIZE)
    for index in (0, 1, 1500):
        volume.fill(index, index + 1)
    parent = await host.snapshot(1, volume)
    await host.snapshot(3, volume)
    host.delete(3)
    volume.fill(1, 99)
    child = await host.snapshot(2, volume, parent=parent.point, changed={1})
    table, parent_table = chunk_table(host.store, child), chunk_table(host.store, parent)
    manifests = {name.snapshot_id: name.text for name in host.store.manifest_names()}
    (tombstone,) = host.store.tombstone_names()
    places = {
        "chunk": layout.chunk_name(table.digest(1)),
        "page": layout.page_name(table.page_digest(0)),
        "table": layout.page_name(child.root),
        "manifest": manifests[snapshot_id(2)],
        "tombstone": tombstone.text,
        "certificate": layout.certificate_name(SIGNER.id),
    }
    others = {
        "chunk": layout.chunk_name(table.digest(0)),
        "page": layout.page_name(parent_table.page_digest(0)),
        "table": layout.page_name(parent.root),
        "manifest": manifests[snapshot_id(1)],
        "tombstone": manifests[snapshot_id(1)],
        "certificate": f"{layout.certificate_name(SIGNER.id)[:-1]}x",
    }
    return Scene(objects, host, volume, places, others)


EXPECTED = {
    "flip": DamageKind.DAMAGED,
    "truncate": DamageKind.DAMAGED,
    "empty": DamageKind.DAMAGED,
    "lose": DamageKind.MISSING,
    "swap": DamageKind.SUBSTITUTED,
}


def test_a_sound_store_has_no_damage(scene: Scene) -> None:
    result = verify(open_store(scene.objects), expected_head=scene.host.head)
    assert result.damages == []
    assert result.snapshots == [snapshot_id(1), snapshot_id(2)]
    assert result.freshness_checked
    assert not verify(scene.host.store).freshness_checked


@pytest.mark.parametrize("place", ["chunk", "page", "table"])
@pytest.mark.parametrize("action", list(EXPECTED))
async def test_damage_of_content_is_named_and_nothing_else(
    scene: Scene, place: str, action: str
) -> None:
    scene.apply(place, action)
    store = open_store(scene.objects)
    (damage,) = verify(store, [snapshot_id(2)]).damages
    what = {"chunk": "chunk 1", "page": "page 0", "table": "table"}[place]
    assert damage.what == f"{what} of snapshot {snapshot_id(2)}"
    assert (damage.kind, damage.name) == (EXPECTED[action], scene.places[place])
    assert str(damage) == f"{EXPECTED[action].value}: {damage.what} ({damage.name})"
    error = ChunkMissingError if action == "lose" else ChunkCorruptError
    with pytest.raises(error, match=f"{what} of snapshot {snapshot_id(2)}"):
        await restore(store, store.manifest(snapshot_id(2)))
    # The parent shares none of it but through its own objects, and is untouched.
    assert verify(store, [snapshot_id(1)]).damages == []
    # The whole lineage finds the same.
    assert verify(store, [snapshot_id(2)], lineage=True).damages == [damage]


@pytest.mark.parametrize("action", list(EXPECTED))
def test_damage_of_a_manifest(scene: Scene, action: str) -> None:
    scene.apply("manifest", action)
    store = open_store(scene.objects)
    damages = verify(store, expected_head=scene.host.head).damages
    assert EXPECTED[action] in {damage.kind for damage in damages} or action == "lose"
    if action == "lose":
        # The last entry: without a head to compare with, it was never there.
        assert [damage.kind for damage in damages] == [DamageKind.ROLLED_BACK]
        assert verify(store).damages == []
        with pytest.raises(SnapshotNotFoundError):
            store.manifest(snapshot_id(2))
        return
    assert {damage.name for damage in damages} == {scene.places["manifest"]}
    error = {"flip": SealError, "swap": SealError}.get(action, VolcryptError)
    with pytest.raises(error, match=f"manifest of snapshot {snapshot_id(2)}"):
        store.manifest(snapshot_id(2))


async def test_a_manifest_that_is_missing_from_the_middle_is_a_gap(scene: Scene) -> None:
    scene.places["manifest"] = scene.others["manifest"]
    scene.apply("manifest", "lose")
    store = open_store(scene.objects)
    assert [str(damage) for damage in verify(store).damages] == [
        f"missing: entry 1 of the log of signer {SIGNER.id}"
    ]
    kinds = [str(damage) for damage in verify(store, [snapshot_id(2)], lineage=True).damages]
    assert kinds[0] == f"missing: manifest of snapshot {snapshot_id(1)}"
    # The child needs nothing of it.
    assert await restore(store, store.manifest(snapshot_id(2))) == scene.volume.image()


@pytest.mark.parametrize("action", list(EXPECTED))
def test_damage_of_a_tombstone(scene: Scene, action: str) -> None:
    scene.apply("tombstone", action)
    store = open_store(scene.objects)
    damages = verify(store, expected_head=scene.host.head).damages
    if action == "lose":
        # Both the entry that it was and the entry that it covered.
        assert [str(damage) for damage in damages] == [
            f"missing: entries 2 to 3 of the log of signer {SIGNER.id}"
        ]
        return
    assert {(damage.kind, damage.name) for damage in damages} == {
        (EXPECTED[action], scene.places["tombstone"])
    }
    with pytest.raises(VolcryptError, match=f"tombstone of snapshot {snapshot_id(3)}"):
        store.manifest(snapshot_id(3))


@pytest.mark.parametrize("action", ["flip", "truncate", "empty", "lose"])
def test_damage_of_a_certificate(scene: Scene, action: str) -> None:
    scene.apply("certificate", action)
    store = open_store(scene.objects)
    damages = verify(store).damages
    assert (EXPECTED[action], scene.places["certificate"]) in {
        (damage.kind, damage.name) for damage in damages
    }
    with pytest.raises(VolcryptError, match=f"signer {SIGNER.id}"):
        store.manifest(snapshot_id(2))
    # The root can certify again, over the damaged one.
    store.certify(SIGNER.public_key, ROOT_KEY)
    assert verify(open_store(scene.objects)).damages == []


@pytest.mark.parametrize(
    ("signer", "public_key", "number"),
    [
        (OTHER_SIGNER.id, OTHER_SIGNER.public_key, 1),  # of another signer
        (SIGNER.id, SIGNER.public_key, 2),  # of another store under the same root
        (SIGNER.id, OTHER_SIGNER.public_key, 1),  # of a key that is not the signer's
    ],
)
def test_a_certificate_in_the_place_of_another_certifies_nobody(
    scene: Scene, signer: SignerId, public_key: bytes, number: int
) -> None:
    other = SignerCertificate(
        store_id=make_store_id(bytes([number] * 9)), signer=signer, public_key=public_key
    )
    scene.objects.objects[scene.places["certificate"]] = encode_certificate(
        other, SigningSeal(ROOT_KEY)
    )
    with pytest.raises((SealError, MalformedError), match=f"certificate of signer {SIGNER.id}"):
        open_store(scene.objects).verifier_of(SIGNER.id)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("flip", SealError),
        ("truncate", MalformedError),
        ("empty", VolcryptError),
        ("lose", StoreNotFoundError),
    ],
)
def test_damage_of_the_store_document(
    scene: Scene, action: str, error: type[VolcryptError]
) -> None:
    scene.places["store"] = layout.STORE
    scene.apply("store", action)
    with pytest.raises(error, match="snapshot store memory"):
        open_store(scene.objects)


def test_another_root_is_another_store(scene: Scene) -> None:
    with pytest.raises(SealError, match="snapshot store memory"):
        SnapshotStore.open(scene.objects, root_public_key=bytes(32))
    assert read_store_document(scene.objects).region == "us-east-1"


def test_a_place_that_holds_another_store_is_not_taken_over(scene: Scene) -> None:
    create_store(scene.objects)  # the same one again is fine: after a kill it is made again
    with pytest.raises(InvalidArgumentError, match="holds another snapshot store"):
        SnapshotStore.create(
            scene.objects,
            store_id=make_store_id(bytes([7] * 9)),
            region="us-east-1",
            digest=scene.host.store.digest,
            root_key=ROOT_KEY,
        )


def test_a_manifest_of_a_later_version_is_refused_by_name(scene: Scene) -> None:
    name = scene.places["manifest"]
    scene.objects.objects[name] = scene.objects.objects[name].replace(b"manifest 1", b"manifest 2")
    with pytest.raises(UnsupportedVersionError, match="version 2 is not supported"):
        scene.host.store.manifest(snapshot_id(2))


def test_a_manifest_of_another_store_is_refused(scene: Scene) -> None:
    other = MemoryObjects()
    create_store(other, number=9)
    name = scene.places["manifest"]
    other.objects[name] = scene.objects.objects[name]
    with pytest.raises(SealError):
        open_store(other).manifest(snapshot_id(2))


def test_a_tombstone_of_another_store_deletes_nothing(scene: Scene) -> None:
    other = MemoryObjects()
    create_store(other, number=9)
    name = scene.places["tombstone"]
    other.objects[name] = scene.objects.objects[name]
    assert not open_store(other).is_deleted(snapshot_id(3))


def test_a_tombstone_of_another_snapshot_deletes_nothing(scene: Scene) -> None:
    name = scene.places["tombstone"].replace(snapshot_id(3), snapshot_id(1))
    scene.objects.objects[name] = scene.objects.objects[scene.places["tombstone"]]
    store = open_store(scene.objects)
    assert not store.is_deleted(snapshot_id(1))
    # It is still listed, so that somebody sees that something is wrong with it.
    assert store.snapshot_ids() == [snapshot_id(1), snapshot_id(2)]
    with pytest.raises(SealError, match=f"tombstone of snapshot {snapshot_id(1)}"):
        store.manifest(snapshot_id(1))


def test_a_store_rolled_back_as_a_whole_is_seen_with_a_head_only(scene: Scene) -> None:
    head = scene.host.head
    assert head is not None
    scene.apply("manifest", "lose")
    assert verify(scene.host.store).damages == []
    later = LogHead(head.signer, head.sequence, head.digest)
    (damage,) = verify(scene.host.store, expected_head=later).damages
    assert damage.kind is DamageKind.ROLLED_BACK


def test_a_lineage_goes_on_past_a_deleted_parent(scene: Scene) -> None:
    scene.host.delete(1)
    result = verify(scene.host.store, [snapshot_id(2)], lineage=True)
    assert result.damages == []
    assert result.snapshots == [snapshot_id(2)]


def commit_again(scene: Scene, number: int, **changes: Any) -> None:
    """Snapshot 1 under another number, but for these members of its manifest."""
    manifest = scene.host.store.manifest(snapshot_id(1))
    stored = StoredTable(
        root=manifest.root, data_chunks=manifest.data_chunks, stored_chunks=0, stored_bytes=0
    )
    pin = scene.host.pin(number, SIZE)
    pin.hold([manifest.root])
    scene.host.commit(replace(scene.host.draft(number, SIZE, stored), **changes), pin)


def test_a_manifest_that_counts_other_chunks_is_named(scene: Scene) -> None:
    commit_again(scene, 4, data_chunks=2)
    (damage,) = verify(scene.host.store).damages
    assert damage.kind is DamageKind.DAMAGED
    assert damage.what == f"count of the chunks of snapshot {snapshot_id(4)}"


@pytest.mark.parametrize("parent", [1, 3], ids=["there", "deleted"])
def test_another_one_in_the_place_of_a_parent_is_named(scene: Scene, parent: int) -> None:
    point = SnapshotPoint(snapshot_id=snapshot_id(parent), root=bytes([7] * 32))
    commit_again(scene, 4, parent=point)
    assert verify(scene.host.store, [snapshot_id(4)]).damages == []
    (damage,) = verify(scene.host.store, [snapshot_id(4)], lineage=True).damages
    assert damage.kind is DamageKind.SUBSTITUTED
    assert damage.what == f"snapshot {snapshot_id(parent)}"


def test_what_is_shared_is_read_once(scene: Scene) -> None:
    assert verify(scene.host.store, [snapshot_id(2)], lineage=True).chunk_count == 4
    assert verify(scene.host.store, [snapshot_id(2)]).chunk_count == 3


def test_an_unknown_snapshot_is_not_found(scene: Scene) -> None:
    with pytest.raises(SnapshotNotFoundError):
        verify(scene.host.store, [snapshot_id(77)])


# ---------------------------------------------------------------- giving up what is damaged


@pytest.mark.parametrize("action", ["flip", "truncate", "empty", "swap"])
@pytest.mark.parametrize("which", ["the last entry", "an earlier one"])
def test_a_snapshot_with_a_damaged_manifest_is_deleted_and_swept(
    scene: Scene, action: str, which: str
) -> None:
    if which == "an earlier one":
        scene.host.head = commit_another(scene)
    chunk = scene.places["chunk"]
    scene.apply("manifest", action)
    with pytest.raises(SweepBlockedError, match=f"while snapshot {snapshot_id(2)} is damaged"):
        sweep(scene.host.store)
    assert chunk in scene.objects.objects
    scene.host.delete(2)
    sweep(scene.host.store)
    assert scene.places["manifest"] not in scene.objects.objects
    assert (chunk in scene.objects.objects) == (which == "an earlier one")  # its child has it too
    store = open_store(scene.objects)
    assert verify(store, expected_head=scene.host.head).damages == []
    with pytest.raises(SnapshotNotFoundError):
        store.manifest(snapshot_id(2))
    # The log goes on behind it.
    scene.host.head = commit_another(scene, number=6)
    assert verify(open_store(scene.objects), expected_head=scene.host.head).damages == []


def commit_another(scene: Scene, number: int = 4) -> LogHead | None:
    trio.run(scene.host.snapshot, number, scene.volume)
    return scene.host.head


def test_snapshots_are_taken_behind_a_damaged_manifest(scene: Scene) -> None:
    """The head that was kept says what it was; the damage stays to be found."""
    scene.apply("manifest", "flip")
    commit_another(scene)
    damages = verify(open_store(scene.objects), expected_head=scene.host.head).damages
    assert [damage.name for damage in damages] == [scene.places["manifest"]]


def test_another_signer_deletes_a_damaged_manifest(scene: Scene) -> None:
    """He does not know what its digest was; its signer does, and goes on."""
    other = Host(open_store(scene.objects), OTHER_SIGNER)
    scene.apply("manifest", "empty")
    other.delete(2)
    assert verify(open_store(scene.objects), expected_head=scene.host.head).damages == []
    commit_another(scene)
    assert verify(open_store(scene.objects), expected_head=scene.host.head).damages == []


def test_the_end_of_a_log_that_nobody_knows_any_more(scene: Scene) -> None:
    """Its signer was killed before he kept the head, and the entry is damaged and deleted."""
    head = scene.host.head
    commit_another(scene)
    scene.host.head = head
    names = [name.text for name in scene.host.store.manifest_names(snapshot_id(4))]
    scene.objects.objects[names[0]] = b"?"
    with pytest.raises(VolcryptError, match="manifest of snapshot"):
        commit_another(scene, number=5)
    Host(open_store(scene.objects), OTHER_SIGNER).delete(4)
    commit_another(scene, number=5)
    assert verify(open_store(scene.objects), expected_head=scene.host.head).damages == []


def test_what_was_never_an_entry_gets_no_tombstone(scene: Scene) -> None:
    """A deletion on record would leave a hole in the log for ever."""
    forged = f"manifests/{snapshot_id(8)}.0000000099.{OTHER_SIGNER.id}"
    scene.objects.objects[forged] = b"volcrypt manifest 1\n{}\n00\n"
    with pytest.raises(IntegrityError, match="does not come so far") as raised:
        scene.host.delete(8)
    assert raised.value.hint is not None
    assert "remove that object" in raised.value.hint
    del scene.objects.objects[forged]
    assert verify(open_store(scene.objects), expected_head=scene.host.head).damages == []


def test_a_manifest_of_a_later_version_is_not_damaged(scene: Scene) -> None:
    name = scene.places["manifest"]
    later = scene.objects.objects[name].replace(b"manifest 1", b"manifest 2")
    scene.objects.objects[name] = later
    for attempt in (lambda: scene.host.delete(2), lambda: sweep(scene.host.store)):
        with pytest.raises(UnsupportedVersionError):
            attempt()
    assert scene.objects.objects[name] == later


def test_a_sound_tombstone_beside_a_damaged_one_is_enough(scene: Scene) -> None:
    tombstone = scene.places["tombstone"]
    forged = tombstone.replace(".0000000003.", ".0000000001.")
    assert forged != tombstone
    scene.objects.objects[forged] = b"?"
    with pytest.raises(SnapshotNotFoundError):
        open_store(scene.objects).manifest(snapshot_id(3))


async def test_damage_is_named_for_all_snapshots_that_have_it(scene: Scene) -> None:
    table = chunk_table(scene.host.store, scene.host.store.manifest(snapshot_id(2)))
    shared = layout.chunk_name(table.digest(1500))
    page = layout.page_name(table.page_digest(1))
    own = layout.chunk_name(table.digest(1))
    both = (snapshot_id(1), snapshot_id(2))
    for name, snapshots in ((shared, both), (page, both), (own, both[1:])):
        kept = scene.objects.objects.pop(name)
        for wanted in (None, [snapshot_id(2)]):
            (damage,) = verify(open_store(scene.objects), wanted, lineage=True).damages
            assert (damage.name, damage.snapshots) == (name, snapshots)
        scene.objects.objects[name] = kept
