"""The log of a signer: continued after kills, and refused when it is not what was seen of it."""

import dataclasses

import pytest
from typing_extensions import Buffer

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import (
    NOW,
    OTHER_SIGNER,
    ROOT_KEY,
    SIGNER,
    Host,
    create_store,
    open_store,
    restore,
    snapshot_id,
)
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    InvalidArgumentError,
    ObjectLostError,
    ObjectStoreError,
    RollbackError,
    SealError,
    SnapshotNotFoundError,
    TryAgainError,
)
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot import log
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.log import SignerLog
from volcrypt.snapshot.signer import LogHead
from volcrypt.snapshot.verify import verify

SIZE = 4 * CHUNK_BYTES
EMPTY = StoredTable(root=ZERO_DIGEST, data_chunks=0, stored_chunks=0, stored_bytes=0)


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def host(objects: MemoryObjects) -> Host:
    return Host(create_store(objects))


def commit_empty(host: Host, number: int) -> None:
    pin = host.pin(number, SIZE)
    pin.hold()
    host.commit(host.draft(number, SIZE, EMPTY), pin)


def name_of(objects: MemoryObjects, prefix: str, number: int) -> str:
    (name,) = objects.list(f"{prefix}/{snapshot_id(number)}.")
    return name


def test_entries_are_numbered_and_chained(host: Host) -> None:
    commit_empty(host, 1)
    first = host.head
    commit_empty(host, 2)
    host.delete(1)
    assert first is not None
    assert first.sequence == 1
    assert host.head is not None
    assert host.head.sequence == 3
    second = host.store.manifest(snapshot_id(2))
    assert (second.sequence, second.previous) == (2, first.digest)
    assert verify(host.store, expected_head=host.head).damages == []


@pytest.mark.parametrize("known", [0, 1, 2])
def test_after_a_kill_the_log_is_continued_from_the_head_that_was_kept(
    host: Host, known: int
) -> None:
    heads: list[LogHead | None] = [None]
    for number in (1, 2, 3):
        commit_empty(host, number)
        heads.append(host.head)
    host.head = heads[known]
    commit_empty(host, 4)
    assert host.head is not None
    assert host.head.sequence == 4
    host.head = heads[known]
    host.delete(1)
    assert host.head is not None
    assert host.head.sequence == 5
    assert verify(host.store).damages == []


def test_the_same_commit_again_finds_its_manifest(host: Host) -> None:
    pin = host.pin(1, SIZE)
    pin.hold()
    draft = host.draft(1, SIZE, EMPTY)
    before = host.head
    manifest, head = log.commit(host.store, draft, SIGNER, before)
    again, head_again = log.commit(host.store, draft, SIGNER, before)
    assert (again, head_again) == (manifest, head)
    with pytest.raises(InvalidArgumentError, match="exists already"):
        log.commit(host.store, dataclasses.replace(draft, root=bytes([1] * 32)), SIGNER, head)


def test_what_was_deleted_is_not_committed_again(host: Host) -> None:
    pin = host.pin(1, SIZE)
    pin.hold()
    draft = host.draft(1, SIZE, EMPTY)
    host.commit(draft, pin)
    host.delete(1)
    pin.hold()
    with pytest.raises(InvalidArgumentError, match="was deleted"):
        log.commit(host.store, draft, SIGNER, host.head)


def test_who_has_no_certificate_commits_nothing(objects: MemoryObjects, host: Host) -> None:
    pin = host.pin(1, SIZE)
    pin.hold()
    del objects.objects[f"certificates/{SIGNER.id}"]
    store = open_store(objects)
    with pytest.raises(SealError, match="no certificate"):
        log.commit(store, host.draft(1, SIZE, EMPTY), SIGNER, None)
    assert store.snapshot_ids() == []


def test_a_commit_without_its_pin_is_refused(host: Host) -> None:
    with pytest.raises(TryAgainError, match="lost its hold"):
        log.commit(host.store, host.draft(1, SIZE, EMPTY), SIGNER, None)
    assert host.store.snapshot_ids() == []


@pytest.mark.parametrize("lost", [1, 2])
def test_a_store_that_is_older_than_the_head_is_refused(
    objects: MemoryObjects, host: Host, lost: int
) -> None:
    older: list[dict[str, bytes]] = []
    for number in (1, 2, 3):
        commit_empty(host, number)
        older.append(dict(objects.objects))
    objects.objects = older[2 - lost]
    with pytest.raises(RollbackError, match="log of signer"):
        commit_empty(host, 4)
    assert host.head is not None
    with pytest.raises(RollbackError):
        host.delete(1)
    assert [str(d.kind.value) for d in verify(host.store, expected_head=host.head).damages] == [
        "rolled back"
    ] * lost


def test_a_log_that_took_another_turn_is_refused(objects: MemoryObjects, host: Host) -> None:
    commit_empty(host, 1)
    before = dict(objects.objects)
    fork = Host(host.store, head=host.head)
    commit_empty(host, 2)
    objects.objects = before
    commit_empty(fork, 3)
    with pytest.raises(RollbackError):
        commit_empty(host, 4)
    kinds = {d.kind.value for d in verify(host.store, expected_head=host.head).damages}
    assert kinds == {"rolled back"}


def test_two_entries_with_one_number_are_refused(objects: MemoryObjects, host: Host) -> None:
    fork = Host(create_store(MemoryObjects()))
    commit_empty(host, 1)
    commit_empty(fork, 1)
    commit_empty(host, 2)
    fork.delete(1)
    assert isinstance(fork.store.objects, MemoryObjects)
    name = name_of(fork.store.objects, "tombstones", 1)
    objects.objects[name] = fork.store.objects.objects[name]
    host.head = None
    with pytest.raises(RollbackError):
        commit_empty(host, 3)
    assert [d.kind.value for d in verify(host.store).damages] == ["substituted"]


def test_an_entry_of_our_own_that_continues_another_log_is_refused(
    objects: MemoryObjects, host: Host
) -> None:
    fork_objects = MemoryObjects()
    fork = Host(create_store(fork_objects))
    commit_empty(host, 1)
    commit_empty(fork, 9)
    commit_empty(fork, 2)
    name = name_of(fork_objects, "manifests", 2)
    objects.objects[name] = fork_objects.objects[name]
    with pytest.raises(RollbackError):
        commit_empty(host, 3)
    assert [str(damage) for damage in verify(host.store).damages] == [
        f"substituted: entry 2 of the log of signer {SIGNER.id} ({name})"
    ]


def test_a_hole_after_the_head_is_refused(objects: MemoryObjects, host: Host) -> None:
    commit_empty(host, 1)
    kept = host.head
    commit_empty(host, 2)
    commit_empty(host, 3)
    del objects.objects[name_of(objects, "manifests", 2)]
    host.head = kept
    with pytest.raises(RollbackError):
        commit_empty(host, 4)


def test_a_foreign_entry_under_our_name_is_refused(objects: MemoryObjects, host: Host) -> None:
    commit_empty(host, 1)
    other = Host(open_store(objects), OTHER_SIGNER)
    commit_empty(other, 2)
    theirs = objects.objects[name_of(objects, "manifests", 2)]
    objects.objects[f"manifests/{snapshot_id(3)}.0000000002.{SIGNER.id}"] = theirs
    with pytest.raises(SealError):
        commit_empty(host, 4)


def test_a_deletion_by_another_signer_is_known_to_the_log(
    objects: MemoryObjects, host: Host
) -> None:
    other = Host(open_store(objects), OTHER_SIGNER)
    commit_empty(host, 1)
    kept = host.head
    commit_empty(host, 2)
    other.delete(1)
    other.delete(2)
    # The head that was kept names a deleted entry, and the one after it was deleted too.
    host.head = kept
    commit_empty(host, 3)
    assert host.store.manifest(snapshot_id(3)).sequence == 3
    assert verify(open_store(objects), expected_head=host.head).damages == []


def test_a_manifest_deleted_while_the_log_is_read_is_no_rollback(
    objects: MemoryObjects, host: Host
) -> None:
    commit_empty(host, 1)
    signer_log = SignerLog(host.store, SIGNER.id)
    Host(open_store(objects), OTHER_SIGNER).delete(1)
    assert signer_log.continue_from(host.head) == host.head


def test_the_head_of_another_signer_is_refused(host: Host) -> None:
    with pytest.raises(InvalidArgumentError, match="another signer's"):
        SignerLog(host.store, SIGNER.id).continue_from(LogHead(OTHER_SIGNER.id, 1, bytes(32)))


def test_a_signer_without_certificate_is_nobody(objects: MemoryObjects, host: Host) -> None:
    commit_empty(host, 1)
    del objects.objects[f"certificates/{SIGNER.id}"]
    with pytest.raises(SealError, match="no certificate"):
        open_store(objects).manifest(snapshot_id(1))
    open_store(objects).certify(SIGNER.public_key, ROOT_KEY)
    assert open_store(objects).manifest(snapshot_id(1)).sequence == 1


class WatchedObjects(MemoryObjects):
    """Somebody else deletes the first snapshot in the moment in which it is there."""

    is_watched = True

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        is_new = super().put_if_absent(name, data, batched=batched)
        if self.is_watched and name.startswith("manifests/"):
            self.is_watched = False
            Host(open_store(self), OTHER_SIGNER).delete(1)
        return is_new


def test_what_another_host_deletes_at_once_was_stored() -> None:
    objects = WatchedObjects()
    host = Host(create_store(objects))
    commit_empty(host, 1)
    assert host.store.snapshot_ids() == []
    commit_empty(host, 2)
    assert host.store.manifest(snapshot_id(2)).sequence == 2
    assert verify(open_store(objects), expected_head=host.head).damages == []


# ---------------------------------------------------------------- deletion


async def test_a_deletion_that_was_killed_at_any_write_is_finished_by_the_next() -> None:
    for allowed in range(10):
        objects = MemoryObjects()
        host = Host(create_store(objects))
        volume = MemoryChunks(SIZE)
        volume.fill(0, 1)
        await host.snapshot(1, volume)
        survivor = await host.snapshot(2, volume)
        objects.writes_until_failure = allowed
        try:
            host.delete(1)
        except ObjectStoreError:
            objects.writes_until_failure = None
            visible = host.store.snapshot_ids()
            assert visible == [snapshot_id(n) for n in ((1, 2) if allowed == 0 else (2,))]
            host.delete(1)
        objects.writes_until_failure = None
        with pytest.raises(SnapshotNotFoundError):
            host.store.manifest(snapshot_id(1))
        assert list(objects.list(f"manifests/{snapshot_id(1)}")) == []
        assert await restore(host.store, survivor) == volume.image()
        assert verify(host.store).damages == []
        with pytest.raises(SnapshotNotFoundError, match="does not exist"):
            host.delete(1)
        if allowed == 2:
            return


def test_what_was_never_there_cannot_be_deleted(host: Host) -> None:
    with pytest.raises(SnapshotNotFoundError):
        host.delete(7)


def test_a_false_tombstone_hides_nothing_unseen(objects: MemoryObjects, host: Host) -> None:
    commit_empty(host, 1)
    name = f"tombstones/{snapshot_id(1)}.0000000002.{SIGNER.id}.0000000001.{SIGNER.id}"
    objects.objects[name] = objects.objects[name_of(objects, "manifests", 1)]
    with pytest.raises(Exception, match="tombstone of snapshot"):
        host.store.manifest(snapshot_id(1))
    assert {d.name for d in verify(host.store).damages} == {name}


def test_tombstones_say_when_and_what(host: Host) -> None:
    commit_empty(host, 1)
    host.delete(1)
    tombstone = host.store.tombstone(snapshot_id(1))
    assert tombstone is not None
    assert (tombstone.deleted_at, tombstone.deleted_sequence) == (NOW, 1)


class DoubtfulObjects(MemoryObjects):
    """Of entries of the log, the put stores or not, and answers or not, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = self.answers = self.is_there = self.stays = True

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        if not name.startswith(("manifests/", "tombstones/")):
            return super().put_if_absent(name, data, batched=batched)
        is_new = not self.stores or super().put_if_absent(name, data, batched=batched)
        self.is_there = self.stays
        if not self.answers:
            raise ObjectStoreError("the store fails")
        return is_new

    def get(self, name: str) -> bytes:
        if name.startswith(("manifests/", "tombstones/")) and not self.is_there:
            raise ObjectStoreError("the store is away")
        return super().get(name)


def test_an_entry_is_read_back_before_it_is_believed() -> None:
    objects = DoubtfulObjects()
    host = Host(create_store(objects))
    objects.stores = False
    with pytest.raises(
        ObjectLostError, match=r"stored object manifests/snap-.*, and there is none"
    ):
        commit_empty(host, 1)
    objects.answers = False
    with pytest.raises(ObjectStoreError, match="the store fails"):
        commit_empty(host, 1)
    # An error, and yet it is there: both halves of a deletion too.
    objects.stores = True
    commit_empty(host, 1)
    assert host.store.snapshot_ids() == [snapshot_id(1)]
    host.delete(1)
    assert host.store.snapshot_ids() == []
    assert host.head is not None
    assert host.head.sequence == 2
    objects.stores, objects.answers = False, True
    with pytest.raises(ObjectLostError):
        commit_empty(host, 2)
    # Not even that can be asked: the next operation finds it.
    objects.stores, objects.stays = True, False
    with pytest.raises(ObjectStoreError, match=r"whether manifests/snap-.* is stored is not known"):
        commit_empty(host, 2)
    objects.is_there = objects.stays = True
    commit_empty(host, 2)
    assert verify(host.store, expected_head=host.head).damages == []
