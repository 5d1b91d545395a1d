"""What to read, how often to stop for a cursor, and what is garbage."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import DATA_KEY_ID, VOLUME_ID, snapshot_id
from tests.formats.samples import MANIFEST, SIZE
from volcrypt.chunk_set import ChunkSet
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.formats.volume_record import KeySource
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import make_data_key_id, make_volume_id
from volcrypt.snapshot.plan import (
    MAX_BATCH_CHUNKS,
    LiveDigests,
    is_parent,
    mark_grown,
    plan_store,
    unsaved_chunks,
)

OURS: dict[str, Any] = {
    "point": MANIFEST.point,
    "volume_id": VOLUME_ID,
    "size_bytes": SIZE,
    "data_key_id": DATA_KEY_ID,
}


def test_the_parent_is_the_snapshot_that_changes_were_recorded_since() -> None:
    assert is_parent(MANIFEST, **OURS)


@pytest.mark.parametrize(
    "other",
    [
        {"point": SnapshotPoint(snapshot_id=snapshot_id(7), root=MANIFEST.root)},
        {"point": SnapshotPoint(snapshot_id=MANIFEST.snapshot_id, root=bytes(32))},
        {"volume_id": make_volume_id(bytes(9))},
        {"size_bytes": SIZE - 4096},  # volumes only grow
        {"data_key_id": make_data_key_id(bytes(9))},  # chunks under another key are noise here
        {"data_key_id": None},
    ],
)
def test_any_other_snapshot_is_no_parent(other: dict[str, Any]) -> None:
    assert not is_parent(MANIFEST, **(OURS | other))


def test_the_parent_may_be_of_before_the_volume_grew() -> None:
    assert is_parent(MANIFEST, **(OURS | {"size_bytes": SIZE + 4096}))


@pytest.mark.parametrize(
    ("parent_bytes", "marked"),
    [
        (2 * CHUNK_BYTES, {0, 2, 4}),  # the first new chunk is looked at, whatever is in it
        (2 * CHUNK_BYTES + 4096, {0, 2, 4}),
        (CHUNK_BYTES + 4096, {0, 1, 4}),
    ],
)
def test_what_a_smaller_parent_cannot_have_is_looked_at(
    parent_bytes: int, marked: set[int]
) -> None:
    """Chunk 3 was marked, and holds nothing; chunk 4 was not, and holds something."""
    changed = ChunkSet(5, [0, 3])
    mark_grown(changed, parent_bytes, lambda first: range(max(first, 4), 5))
    assert set(changed) == marked


def test_an_unencrypted_parent_is_one_of_an_unencrypted_volume_only() -> None:
    plain = msgspec.structs.replace(MANIFEST, key_source=KeySource.NONE, wrapped_key=None)
    assert is_parent(plain, **(OURS | {"data_key_id": None}))
    assert not is_parent(plain, **OURS)


def test_changed_chunks_are_read_when_parent_and_changes_are_known() -> None:
    changed = ChunkSet(3, [0, 2])
    plan = plan_store(size_bytes=SIZE, parent=MANIFEST, changed=changed, candidates=[0, 1])
    assert (list(plan.chunks), plan.base, plan.incremental) == ([0, 2], MANIFEST, True)


@pytest.mark.parametrize(
    ("has_parent", "changed"),
    [
        (False, ChunkSet(3, [0, 2])),
        (True, None),
        (True, ChunkSet(2, [0])),
        (True, ChunkSet(4, [0, 2, 3])),
    ],
)
def test_any_doubt_means_that_all_candidates_are_read(
    changed: ChunkSet | None, *, has_parent: bool
) -> None:
    parent = MANIFEST if has_parent else None
    plan = plan_store(size_bytes=SIZE, parent=parent, changed=changed, candidates=[0, 1])
    assert (list(plan.chunks), plan.base, plan.incremental) == ([0, 1], parent, False)


@given(st.integers(0, 2**27))
def test_what_a_kill_costs_a_copy_is_two_percent_and_bounded(total: int) -> None:
    unsaved = unsaved_chunks(total)
    assert 1 <= unsaved <= MAX_BATCH_CHUNKS
    assert unsaved == 1 or unsaved <= 0.02 * total


def test_two_percent_are_whole_chunks() -> None:
    assert [unsaved_chunks(total) for total in (0, 100, 149, 150, 50 * 2**20)] == [
        1,
        2,
        2,
        3,
        MAX_BATCH_CHUNKS,
    ]


def test_what_refers_is_merged_when_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveDigests, "_PENDING_LIMIT", 4)
    live = LiveDigests()
    digests = [bytes([number]) * 32 for number in range(20)]
    for first in range(0, 20, 2):
        live.add(b"".join(digests[first : first + 2]))
        pending = sum(len(words) for words in live._pending)
        assert pending == live._pending_count <= 4
        assert pending == (first + 2) % 6  # what is just at the limit waits
        assert len(live._sorted) + pending == first + 2
    assert set(live.garbage([*digests, bytes([30]) * 32])) == {bytes([30]) * 32}


def test_digests_that_differ_in_one_bit_are_two() -> None:
    live = LiveDigests()
    live.add(b"\x01" + b"\xff" * 31)
    other = b"\x00" + b"\xff" * 31
    assert list(live.garbage([other])) == [other]


@given(
    st.sets(st.binary(min_size=32, max_size=32)),
    st.sets(st.binary(min_size=32, max_size=32)),
    st.integers(1, 5),
)
def test_garbage_is_what_nothing_refers_to(live: set[bytes], dead: set[bytes], pieces: int) -> None:
    digests = LiveDigests()
    ordered = sorted(live)
    for first in range(pieces):
        digests.add(b"".join(ordered[first::pieces]))
    garbage = set(digests.garbage(sorted(live | dead)))
    assert not garbage & live
    # Two digests that share their first 64 bits keep each other alive; nothing else may.
    words = {digest[:8] for digest in live}
    assert garbage == {digest for digest in dead - live if digest[:8] not in words}
