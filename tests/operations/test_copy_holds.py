"""What a copy holds while it is made, what it builds on, and what a killed one leaves."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.operations.copying import Begun, Place, data_key, place
from volcrypt.crypto.digest import ZERO_DIGEST, DigestAlgorithm
from volcrypt.errors import (
    ChunkMissingError,
    NoSpaceError,
    SealError,
    SnapshotNotFoundError,
    VolcryptError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.names import SnapshotId
from volcrypt.operations.copies import copy_into
from volcrypt.operations.copy_bases import changed_since, newest_under_key, previous_copy
from volcrypt.operations.copy_cursors import cursor_file
from volcrypt.operations.grow import grow_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.stores import open_store, store_alone, store_of
from volcrypt.operations.workflows import copy_cursor_path, resumable_copies
from volcrypt.snapshot.cursor import CursorFile
from volcrypt.snapshot.layout import CHUNKS, PINS
from volcrypt.snapshot.pin import release_pin, unfinished_pins
from volcrypt.snapshot.verify import verify

__all__ = ["place"]

STORES = ("local", "away")


class Looking(Begun):
    """Looks when a copy has all that it needs, and then each time that it has done something."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self.done: list[int] = []

    def begin(self, step: str, total_bytes: int | None) -> None:
        super().begin(step, total_bytes)
        self._look()

    def advance(self, done_bytes: int) -> None:
        self.done.append(done_bytes // CHUNK_BYTES)


class Killed(Begun):
    def __init__(self, after: int) -> None:
        self._after = after

    def advance(self, done_bytes: int) -> None:
        if done_bytes >= self._after * CHUNK_BYTES:
            raise KeyboardInterrupt


def pinned(place: Place) -> list[list[bytes]]:
    """What the pins of both stores name."""
    stores = [open_store(place.home, name) for name in STORES]
    return [pin.roots for store in stores for _, pin in unfinished_pins(store)]


def killed(place: Place, snapshot: str, *, after: int = 5, **options: Any) -> SnapshotId:
    """The id of a copy that is left unfinished."""
    before = resumable_copies(place.home)
    with pytest.raises(KeyboardInterrupt):
        place.copy(snapshot, progress=Killed(after), **options)
    (made,) = set(resumable_copies(place.home)) - set(before)
    return made


def new_key(place: Place) -> str:
    return place.home.kms.perform(place.home.caller, CreateKeyRequest()).key_metadata.arn


@pytest.mark.parametrize("store", STORES)
def test_source_and_base_are_held_while_they_are_read(
    place: Place, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source by its pin where the copy goes to its own store; by another host's sweep it may go
    otherwise, which the copy notices."""
    monday = place.snapshot("monday")
    seen: list[list[list[bytes]]] = []
    looking = Looking(lambda: seen.append(pinned(place)))
    first = place.copy("monday", store=store, progress=looking)
    source = [monday.root] if store == "local" else []
    assert seen == [[source]]
    place.write(1)
    tuesday = place.snapshot("tuesday")
    real = importing("grown_table")

    def grown_table(*arguments: Any) -> Any:
        assert pinned(place) == [[first.root]], "the base is looked at before it is held"
        return real(*arguments)

    monkeypatch.setattr("volcrypt.operations.copies.grown_table", grown_table)
    second = place.copy("tuesday", store=store, progress=looking)
    source = [tuesday.root] if store == "local" else []
    assert seen[1:] == [[[*source, first.root]]]
    assert second.parent == first.point
    # What is done holds nothing any more, and leaves that to no sweep.
    stores = [open_store(place.home, name) for name in STORES]
    assert [name for store in stores for name in store.objects.list(PINS)] == []
    assert resumable_copies(place.home) == []


def importing(name: str) -> Any:
    from volcrypt.operations import copies

    return getattr(copies, name)


def test_no_sweep_of_this_home_runs_beside_a_copy(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.snapshot("monday")
    monkeypatch.setattr("volcrypt.operations.home_directory.LOCK_PATIENCE_SECONDS", 0)
    held: list[str] = []

    def look() -> None:
        for name in STORES:
            try:
                with store_alone(place.home, open_store(place.home, name)):
                    pass
            except VolcryptError:
                held.append(name)

    place.copy("monday", progress=Looking(look))
    assert held == ["local", "away"]
    look()
    assert held == ["local", "away"]


def test_a_source_that_goes_before_it_is_held_is_not_copied(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.snapshot("monday")
    real = importing("_hold")

    def hold(*arguments: Any) -> Any:
        delete_snapshot(place.home, "monday")
        return real(*arguments)

    monkeypatch.setattr("volcrypt.operations.copies._hold", hold)
    with pytest.raises(SnapshotNotFoundError):
        place.copy("monday")
    assert pinned(place) == []
    assert resumable_copies(place.home) == []


def test_a_copy_that_fails_before_it_has_a_cursor_holds_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        assert len(pinned(place)) == 1
        raise NoSpaceError("no space left for the cursor")

    place.snapshot("monday")
    monkeypatch.setattr(CursorFile, "write", write)
    with pytest.raises(NoSpaceError):
        place.copy("monday")
    assert pinned(place) == []
    assert resumable_copies(place.home) == []


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_source_that_another_host_sweeps_away_is_not_damaged(
    place: Place, is_deleted: bool
) -> None:
    """What is missing of one that is there is; a copy of that can go on when it is put back."""
    monday = place.snapshot("monday")

    def sweep_elsewhere() -> None:
        store = store_of(place.home, monday.store_id)
        if is_deleted:
            delete_snapshot(place.home, "monday")
        for name in list(store.objects.list(CHUNKS)):
            store.objects.delete(name)

    with pytest.raises(SnapshotNotFoundError if is_deleted else ChunkMissingError):
        place.copy("monday", progress=Looking(sweep_elsewhere))
    left = 0 if is_deleted else 1
    assert len(pinned(place)) == left
    assert len(resumable_copies(place.home)) == left


@pytest.mark.parametrize("has_base", [False, True])
def test_a_killed_copy_keeps_what_its_cursor_stands_on(place: Place, has_base: bool) -> None:
    if has_base:
        place.snapshot("sunday")
        place.copy("sunday")
    place.write(*range(100, 160))
    place.snapshot("monday")
    made = killed(place, "monday", after=30)
    cursor = cursor_file(place.home, made).read()
    assert cursor is not None
    (before,) = pinned(place)
    assert cursor.root != ZERO_DIGEST
    assert cursor.root in before
    seen: list[list[list[bytes]]] = []
    looking = Looking(lambda: seen.append(pinned(place)))
    done = place.copy("monday", progress=looking)
    assert seen == [[before]]
    assert done.snapshot_id == made
    # A bar begins where the copy does.
    total = 60 if has_base else 65
    assert 25 <= looking.done[0] <= 35
    assert total - 1 <= looking.done[-1] <= total  # the last chunk is short
    assert done.stored_chunks == total
    assert place.content(done) == place.image


def test_a_cursor_whose_pin_was_swept_is_worth_nothing(place: Place) -> None:
    """Also when the sweep was killed: the pages that the cursor names may still be there."""
    place.write(*range(100, 160))
    place.snapshot("monday")
    made = killed(place, "monday", after=30)
    release_pin(place.away, made)
    for name in list(place.away.objects.list(CHUNKS)):
        place.away.objects.delete(name)
    done = place.copy("monday")
    assert done.snapshot_id == made
    assert verify(place.away).damages == []
    assert place.content(done) == place.image


def test_what_is_encrypted_under_a_data_key_is_counted(place: Place) -> None:
    monday = place.snapshot("monday")
    first = place.copy("monday")
    assert first.written_bytes == 5 * CHUNK_BYTES
    place.write(1)
    tuesday = place.snapshot("tuesday")
    second = place.copy("tuesday")
    assert second.written_bytes == first.written_bytes + second.stored_bytes
    assert second.stored_bytes > 0
    # Under the key of the source nothing more is encrypted; the volume was written to meanwhile.
    place.write(2)
    again = place.copy("tuesday", choice=KeyChoice())
    assert data_key(again) == data_key(tuesday) == data_key(monday)
    assert again.written_bytes == tuesday.written_bytes + 4096


def test_a_copy_that_is_there_is_not_made_again(place: Place) -> None:
    source = place.snapshot("monday")
    made = place.copy("monday")
    found = copy_into(
        place.home,
        source,
        snapshot_id=made.snapshot_id,
        name="another",
        wrapped_key=made.wrapped_key,
        progress=Looking(lambda: pytest.fail("it is made again")),
        target=place.away,
    )
    assert found == made


# ---------------------------------------------------------------- what it builds on


def test_the_nearest_copy_before_is_continued_and_none_that_is_larger(place: Place) -> None:
    place.snapshot("monday")
    place.write(5)
    tuesday = dict(place.image)
    place.snapshot("tuesday")
    grow_volume(place.home, "data", size_bytes=1200 * CHUNK_BYTES, resize_fs=False)
    place.write(1150)
    place.snapshot("wednesday")
    wednesday = place.copy("wednesday")
    second = place.copy("tuesday")
    # Nothing of wednesday's fits into a volume that is smaller.
    assert data_key(second) != data_key(wednesday)
    assert place.content(second) == tuesday


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    manifests: Sequence[Manifest],
    choose: Callable[[], Manifest | None],
) -> Manifest | None:
    monkeypatch.setattr("volcrypt.operations.copy_bases.manifests_of", lambda *_: manifests)
    return choose()


def test_which_copy_is_continued(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its order, the better ones last; and none that is not one of ours under the key."""
    source = place.snapshot("monday")
    copy = place.copy("monday")

    def like(**members: Any) -> Manifest:
        return msgspec.structs.replace(copy, **members)

    at = source.captured_at
    ordered = [
        like(captured_at=at + 1),
        like(captured_at=at + 2),
        like(captured_at=at - 2, completed_at=at + 9),
        like(captured_at=at - 1, completed_at=at + 1, sequence=9),
        like(captured_at=at - 1, completed_at=at + 2, sequence=1),
        like(captured_at=at - 1, completed_at=at + 2, sequence=2),
        like(captured_at=at, completed_at=at, size_bytes=copy.size_bytes - CHUNK_BYTES),
    ]
    unfit = [
        like(captured_at=at, completed_at=at + 99, **members)
        for members in (
            {"origin": None},
            {"signer": "somebody else"},
            {"size_bytes": source.size_bytes + 1},
            {"wrapped_key": None},
            {"wrapped_key": source.wrapped_key},
        )
    ]

    def choose(manifests: Sequence[Manifest]) -> Manifest | None:
        def is_under(key: Any) -> bool:
            return key is not None and key.kms_key_arn == place.key

        return chosen(
            monkeypatch,
            manifests,
            lambda: previous_copy(place.home, source, place.away, is_under),
        )

    for count in range(1, len(ordered) + 1):
        some = [*ordered[:count], *unfit]
        assert choose(some) is choose(some[::-1]) is ordered[count - 1]
    assert choose(unfit) is None


def test_which_snapshot_spares_putting_chunks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place.snapshot("monday")
    copy = place.copy("monday")

    def like(**members: Any) -> Manifest:
        return msgspec.structs.replace(copy, **members)

    older, newer = like(captured_at=1), like(captured_at=2)
    unfit = [
        like(captured_at=3, size_bytes=source.size_bytes + 1),
        like(captured_at=3, digest=DigestAlgorithm.BLAKE3),
        like(captured_at=3, wrapped_key=source.wrapped_key),
        like(captured_at=3, wrapped_key=None),
    ]

    def choose(manifests: Sequence[Manifest]) -> Manifest | None:
        return chosen(
            monkeypatch,
            manifests,
            lambda: newest_under_key(place.away, source, data_key(copy)),
        )

    assert choose([older, newer, *unfit]) is newer
    assert choose([*unfit, newer, older]) is newer
    assert choose(unfit) is None


def test_what_changed_is_only_told_of_the_very_original(place: Place) -> None:
    source = place.snapshot("monday")
    copy = place.copy("monday")
    changed = changed_since(place.home, source, copy)
    assert changed is not None
    assert len(changed) == 0
    assert copy.origin is not None
    other = msgspec.structs.replace(copy.origin, root=bytes(32))
    replace = msgspec.structs.replace
    for newer, previous in (
        (source, replace(copy, origin=None)),
        (source, replace(copy, origin=other)),
        (source, replace(copy, size_bytes=copy.size_bytes - CHUNK_BYTES)),
        (replace(source, digest=DigestAlgorithm.SHA256), copy),
        (replace(source, wrapped_key=copy.wrapped_key), copy),
    ):
        assert changed_since(place.home, newer, previous) is None


# ---------------------------------------------------------------- what a killed one leaves


def test_only_the_same_copy_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(*range(100, 120))
    place.snapshot("monday")
    place.write(1)
    place.snapshot("tuesday")
    other = new_key(place)
    left = killed(place, "monday", name="mine")
    for snapshot, options in (
        ("tuesday", {}),
        ("monday", {"store": "local"}),
        ("monday", {"choice": KeyChoice(kms_key=other)}),
    ):
        made = place.copy(snapshot, **options)
        assert made.snapshot_id != left
    assert resumable_copies(place.home) == [left]
    with monkeypatch.context() as patch:
        # One of a workflow is the workflow's.
        patch.setattr("volcrypt.operations.copy_creation.copies_of_workflows", lambda _: {left})
        assert place.copy("monday").snapshot_id != left
    with pytest.raises(KeyboardInterrupt):
        place.copy("monday", progress=Killed(5), name="yours")
    # One that fits goes on, whatever its name was to be.
    assert resumable_copies(place.home) == [left]
    assert place.copy("monday", name="mine").snapshot_id == left
    assert resumable_copies(place.home) == []


def test_a_copy_that_a_process_is_at_work_on_is_left_to_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(*range(100, 120))
    place.snapshot("monday")
    left = killed(place, "monday")
    at_work = SimpleNamespace(is_pending=True, record=None)
    with monkeypatch.context() as patch:
        patch.setattr("volcrypt.operations.copy_creation.find_job", lambda *_: at_work)
        assert place.copy("monday").snapshot_id != left
    assert place.copy("monday").snapshot_id == left


def test_of_two_the_one_with_the_name_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(*range(100, 120))
    place.snapshot("monday")
    first = killed(place, "monday", name="one")
    with monkeypatch.context() as patch:
        patch.setattr("volcrypt.operations.copy_creation.copies_of_workflows", lambda _: {first})
        second = killed(place, "monday", name="two")
    assert place.copy("monday", name="two").snapshot_id == second
    assert place.copy("monday", name="one").snapshot_id == first


def test_a_cursor_of_what_is_done_is_forgotten(place: Place) -> None:
    place.write(*range(100, 120))
    place.snapshot("monday")
    left = killed(place, "monday")
    path = copy_cursor_path(place.home, left)
    cursor = path.read_bytes()
    assert place.copy("monday").snapshot_id == left
    path.write_bytes(cursor)  # as a kill before the last step leaves it
    assert place.copy("monday").snapshot_id != left
    assert not path.exists()


def test_a_cursor_is_of_one_copy(place: Place) -> None:
    place.write(*range(100, 120))
    place.snapshot("monday")
    left = killed(place, "monday")
    other = SnapshotId("snap-0123456789abcdef0")
    copy_cursor_path(place.home, left).rename(copy_cursor_path(place.home, other))
    with pytest.raises(SealError):
        cursor_file(place.home, other).read()


def test_copies_of_what_was_deleted_are_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(*range(100, 120))
    for name in ("monday", "tuesday", "wednesday"):
        place.snapshot(name)
    of_monday = killed(place, "monday")
    of_tuesday = killed(place, "tuesday")
    delete_snapshot(place.home, "wednesday")
    assert set(resumable_copies(place.home)) == {of_monday, of_tuesday}
    with monkeypatch.context() as patch:
        patch.setattr("volcrypt.operations.copy_cursors.copies_of_workflows", lambda _: {of_monday})
        delete_snapshot(place.home, "monday")
        assert set(resumable_copies(place.home)) == {of_monday, of_tuesday}
    delete_snapshot(place.home, "tuesday")
    assert resumable_copies(place.home) == []
    assert pinned(place) == []
