"""A lease has one holder, whatever store it lies in: the fake, a directory, an S3 server."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.leases import ALPHA, BETA, lease_of
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import create_store, open_store
from tests.s3_server import S3Server
from volcrypt.errors import TryAgainError, VolumeInUseError
from volcrypt.snapshot.lease import Host
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.store import SnapshotStore


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotStore]:
    if request.param == "memory":
        yield create_store(MemoryObjects())
    elif request.param == "local":
        with LocalObjects.create(tmp_path / "store") as local:
            yield create_store(local)
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        yield create_store(server.objects(request.getfixturevalue("prefix")))


def test_its_life(store: SnapshotStore) -> None:
    alpha, beta = lease_of(store), lease_of(open_store(store.objects), BETA)
    assert alpha.look().holder is None
    first, before = alpha.take()
    assert (first.epoch, first.taken_over, before.lease) == (1, False, None)
    assert beta.look().holder == first
    with pytest.raises(VolumeInUseError, match=r"orders is in use by host alpha, by its lease 1$"):
        beta.take()
    assert not beta.is_released(1)
    alpha.release(1)
    alpha.release(1)
    assert beta.is_released(1)
    second, before = beta.take()
    assert (second.epoch, second.taken_over, before.holder) == (2, False, None)
    third, before = alpha.take(take_over=True)
    assert (third.epoch, third.taken_over, before.holder) == (3, True, second)
    assert beta.look().holder == third
    beta.release(2)  # late, and of no effect on who has it
    assert beta.look().holder == third


def test_a_hosts_own_lease_of_a_dead_process_is_no_hindrance(store: SnapshotStore) -> None:
    alpha = lease_of(store)
    alpha.take()
    taken, before = lease_of(store).take()
    assert (taken.epoch, taken.taken_over) == (2, False)
    assert before.holder is not None
    assert alpha.is_ours(before.holder)


def test_of_many_who_take_it_at_once_one_has_it(store: SnapshotStore) -> None:
    hosts = [Host(home_id=f"b{n}", machine_id=f"m{n}", host_name=f"h{n}") for n in range(6)]
    barrier = threading.Barrier(len(hosts))
    won: list[Host] = []

    def take(host: Host) -> None:
        lease = lease_of(open_store(store.objects), host)
        barrier.wait()
        try:
            lease.take()
        except (VolumeInUseError, TryAgainError):
            return
        won.append(host)

    for expected in (1, 2):
        won.clear()
        threads = [threading.Thread(target=take, args=(host,)) for host in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        state = lease_of(store, won[0]).look()
        assert state.lease is not None
        assert (state.epoch, state.lease.home_id) == (expected, won[0].home_id)
        lease_of(store, won[0]).release(expected)


def test_only_the_last_two_are_kept(store: SnapshotStore) -> None:
    for _ in range(4):
        taken, _before = lease_of(store, ALPHA).take()
        lease_of(store, ALPHA).release(taken.epoch)
    names = sorted(store.objects.list("leases/"))
    assert [name.rpartition("/")[2] for name in names] == [
        "00000003",
        "00000003.released",
        "00000004",
        "00000004.released",
    ]
