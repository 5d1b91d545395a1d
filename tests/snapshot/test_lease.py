"""Leases against stale lists, foreign hands and stores that forget."""

from collections.abc import Callable, Iterator

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import Buffer

from tests.fakes.leases import ALPHA, BETA, lease_of
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import OTHER_SIGNER, SIGNER, STORE_ID, VOLUME_ID, create_store
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    ObjectStoreError,
    RollbackError,
    TryAgainError,
    VolumeInUseError,
)
from volcrypt.formats.lease import (
    MAX_EPOCH,
    Lease,
    LeaseRelease,
    decode_lease,
    encode_lease,
    encode_lease_release,
)
from volcrypt.names import StoreId, VolumeId
from volcrypt.snapshot.layout import lease_name, lease_release_name, parse_lease_name
from volcrypt.snapshot.lease import Host
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore

STRANGER = Signer(Ed25519PrivateKey.from_private_bytes(b"stranger".ljust(32, b"\0")))


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def store(objects: MemoryObjects) -> SnapshotStore:
    return create_store(objects)


def a_lease(epoch: int, signer: Signer) -> Lease:
    return Lease(
        store_id=STORE_ID,
        signer=signer.id,
        volume_id=VOLUME_ID,
        epoch=epoch,
        home_id=BETA.home_id,
        machine_id=BETA.machine_id,
        host_name=BETA.host_name,
        taken_over=False,
        taken_at=0,
    )


class Hooked(MemoryObjects):
    """Something else happens after a listing of leases, or before the next put."""

    def __init__(self) -> None:
        super().__init__()
        self.after_list: Callable[[], None] | None = None
        self.before_put: Callable[[], None] | None = None

    def list(self, prefix: str) -> Iterator[str]:
        found = list(super().list(prefix))
        hook, self.after_list = self.after_list, None
        if hook is not None:
            hook()
        return iter(found)

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        hook, self.before_put = self.before_put, None
        if hook is not None:
            hook()
        return super().put_if_absent(name, data, batched=batched)


def test_who_listed_long_ago_does_not_get_an_old_number() -> None:
    """Between our list and our put others have had and given back the lease so often that the
    number is free again."""
    objects = Hooked()
    store = create_store(objects)
    lease_of(store).take()
    lease_of(store).release(1)

    def others() -> None:
        for _ in range(4):
            taken, _before = lease_of(store, BETA).take()
            lease_of(store, BETA).release(taken.epoch)
        assert lease_name(VOLUME_ID, 2) not in objects.objects
        lease_of(store, BETA).take()

    objects.before_put = others
    with pytest.raises(TryAgainError, match="somebody else took the lease of volume orders"):
        lease_of(store).take()
    holder = lease_of(store).look().holder
    assert holder is not None
    assert (holder.epoch, holder.host_name) == (6, "beta")


def test_what_vanishes_while_it_is_read_is_looked_for_again() -> None:
    objects = Hooked()
    store = create_store(objects)
    lease_of(store).take()

    def others() -> None:
        for _ in range(3):
            lease_of(store).take()

    objects.after_list = others
    assert lease_of(store, BETA).look().epoch == 4


def test_a_number_that_was_put_in_our_place_is_not_ours() -> None:
    """Two that read the same list: the store lets one of them have the number."""
    objects = Hooked()
    store = create_store(objects)

    def other() -> None:
        lease_of(store, BETA).take()

    objects.before_put = other
    with pytest.raises(TryAgainError):
        lease_of(store).take()
    holder = lease_of(store).look().holder
    assert holder is not None
    assert (holder.epoch, holder.host_name) == (1, "beta")


def test_the_same_home_on_another_machine_is_another_host(store: SnapshotStore) -> None:
    """As after a backup was restored there, or with a home on shared storage."""
    lease_of(store).take()
    moved = Host(home_id=ALPHA.home_id, machine_id="machine-c", host_name="gamma")
    with pytest.raises(VolumeInUseError, match="host alpha"):
        lease_of(store, moved).take()


def test_another_home_on_the_same_machine_is_another_host(store: SnapshotStore) -> None:
    lease_of(store).take()
    beside = Host(home_id="home-b", machine_id=ALPHA.machine_id, host_name="alpha")
    with pytest.raises(VolumeInUseError, match="in use by home home-a on this host") as caught:
        lease_of(store, beside).take()
    assert caught.value.hint is not None
    assert "volcrypt attach orders --take-over" in caught.value.hint


def test_what_nobody_signed_who_may_is_told_and_not_believed(
    objects: MemoryObjects, store: SnapshotStore
) -> None:
    lease_of(store).take()
    forged = encode_lease(a_lease(2, STRANGER), STRANGER.seal)
    for junk in (forged, b"junk", b""):
        objects.objects[lease_name(VOLUME_ID, 2)] = junk
        for host in (ALPHA, BETA):
            with pytest.raises((IntegrityError, FormatError), match=r"lease 2|signer"):
                lease_of(store, host).take(take_over=True)
    del objects.objects[lease_name(VOLUME_ID, 2)]
    assert lease_of(store).look().epoch == 1


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(a_lease(2, OTHER_SIGNER), epoch=3),
        msgspec.structs.replace(
            a_lease(2, OTHER_SIGNER), volume_id=VolumeId("vol-0123456789abcdef0")
        ),
        msgspec.structs.replace(a_lease(2, OTHER_SIGNER), store_id=StoreId("store-1")),
    ],
    ids=["epoch", "volume", "store"],
)
def test_a_lease_of_something_else_is_refused(
    objects: MemoryObjects, store: SnapshotStore, other: Lease
) -> None:
    objects.objects[lease_name(VOLUME_ID, 2)] = encode_lease(other, OTHER_SIGNER.seal)
    with pytest.raises(IntegrityError, match="another one was put in its place"):
        lease_of(store).look()


def test_nobody_else_can_release_a_lease(objects: MemoryObjects, store: SnapshotStore) -> None:
    lease_of(store).take()
    release = LeaseRelease(
        store_id=STORE_ID, signer=OTHER_SIGNER.id, volume_id=VOLUME_ID, epoch=1, released_at=0
    )
    name = lease_release_name(VOLUME_ID, 1)
    objects.objects[name] = encode_lease_release(release, OTHER_SIGNER.seal)
    with pytest.raises(IntegrityError, match=r"release of lease 1 .*: it is not its holder's"):
        lease_of(store, BETA).take()
    objects.objects[name] = b"volcrypt lease-release 1\n"
    with pytest.raises(FormatError):
        lease_of(store, BETA).take()


@pytest.mark.parametrize("member", ["epoch", "volume_id", "store_id"])
def test_a_release_of_something_else_is_refused(
    objects: MemoryObjects, store: SnapshotStore, member: str
) -> None:
    taken, _before = lease_of(store).take()
    others = {"epoch": 2, "volume_id": VolumeId("vol-0123456789abcdef0"), "store_id": "store-1"}
    release = LeaseRelease(
        store_id=STORE_ID, signer=taken.signer, volume_id=VOLUME_ID, epoch=1, released_at=0
    )
    other = msgspec.structs.replace(release, **{member: others[member]})
    name = lease_release_name(VOLUME_ID, 1)
    objects.objects[name] = encode_lease_release(other, SIGNER.seal)
    with pytest.raises(IntegrityError, match="another one was put in its place"):
        lease_of(store).look()


def test_who_has_the_lease_no_more_does_not_release_it(store: SnapshotStore) -> None:
    lease_of(store).take()
    taken, _before = lease_of(store, BETA).take(take_over=True)
    lease_of(store).release(taken.epoch)
    assert lease_of(store, BETA).look().holder == taken


def test_a_host_that_saw_a_later_lease_notices_that_it_is_gone(
    objects: MemoryObjects, store: SnapshotStore
) -> None:
    kept = dict(objects.objects)
    taken, _before = lease_of(store).take()
    objects.objects = kept
    with pytest.raises(RollbackError, match="lease of volume orders"):
        lease_of(store).take(known_epoch=taken.epoch)
    assert lease_of(store).take(known_epoch=0)[0].epoch == 1


def test_numbers_end(objects: MemoryObjects, store: SnapshotStore) -> None:
    last = encode_lease(a_lease(MAX_EPOCH, OTHER_SIGNER), OTHER_SIGNER.seal)
    objects.objects[lease_name(VOLUME_ID, MAX_EPOCH)] = last
    with pytest.raises(IntegrityError, match="its numbers are used up"):
        lease_of(store).take(take_over=True)


@pytest.mark.parametrize("epoch", [0, -1, MAX_EPOCH + 1])
def test_numbers_that_no_lease_has(epoch: int, store: SnapshotStore) -> None:
    data = encode_lease(a_lease(epoch, OTHER_SIGNER), OTHER_SIGNER.seal)
    with pytest.raises(FormatError, match="its values contradict each other"):
        decode_lease(data, store.verifier_of, what="lease")


@pytest.mark.parametrize(
    "name",
    [
        "leases/x",
        "leases/{v}/1",
        "leases/{v}/" + "1" * 5000,
        "leases/{v}/00000001.x",
        "leases/{v}/0000000x",
        "leases/{v}/",
    ],
)
def test_names_that_no_lease_has(name: str) -> None:
    assert parse_lease_name(VOLUME_ID, name.format(v=VOLUME_ID)) is None
    whole = lease_release_name(VOLUME_ID, 12)
    found = parse_lease_name(VOLUME_ID, whole)
    assert found is not None
    assert (found.epoch, found.is_release) == (12, True)


def test_a_store_that_fails_changes_nothing_of_who_has_it(
    objects: MemoryObjects, store: SnapshotStore
) -> None:
    lease_of(store).take()
    lease_of(store).release(1)
    objects.writes_until_failure = 0
    with pytest.raises(ObjectStoreError):
        lease_of(store, BETA).take()
    objects.writes_until_failure = None
    assert lease_of(store).look().holder is None


def test_an_answer_that_was_lost_is_no_other_holder() -> None:
    """The first put arrived and its answer did not: the second one is told that it is there."""

    class Repeats(MemoryObjects):
        def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
            super().put_if_absent(name, data, batched=batched)
            return super().put_if_absent(name, data, batched=batched)

    taken, _before = lease_of(create_store(Repeats())).take()
    assert (taken.epoch, taken.host_name) == (1, "alpha")
