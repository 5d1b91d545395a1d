"""Sets of chunks, against sets of numbers; and how little memory they take."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from volcrypt.chunk_set import ChunkSet


@st.composite
def chosen(draw: st.DrawFn) -> tuple[int, set[int]]:
    """How many chunks there are, and some of them; also where blocks of bits meet."""
    count = draw(st.one_of(st.integers(1, 40), st.integers(65_500, 65_600)))
    near = st.integers(0, count - 1) | st.integers(max(0, count - 70), count - 1)
    starts = draw(st.lists(near, max_size=8))
    length = draw(st.integers(1, 12))
    return count, {index for start in starts for index in range(start, start + length)} & set(
        range(count)
    )


@given(chosen())
def test_a_set_is_what_was_put_in(choice: tuple[int, set[int]]) -> None:
    count, members = choice
    chunks = ChunkSet(count, members)
    assert list(chunks) == sorted(members)
    assert len(chunks) == len(members)
    near = {index + step for index in members | {0} for step in range(-9, 10)} & set(range(count))
    assert all((index in chunks) == (index in members) for index in near)


@given(chosen())
def test_bits_say_the_same(choice: tuple[int, set[int]]) -> None:
    count, members = choice
    chunks = ChunkSet(count, members)
    assert set(chunks) == members
    assert chunks.chunk_count == count
    assert set(ChunkSet.of_packed(chunks.packed(), count)) == members


@given(chosen())
def test_runs_are_all_that_is_in_it(choice: tuple[int, set[int]]) -> None:
    count, members = choice
    runs = list(ChunkSet(count, members).runs())
    assert [index for run in runs for index in run] == sorted(members)
    assert all(before.stop < after.start for before, after in itertools.pairwise(runs))


@given(chosen(), st.sampled_from([8, 64, 1024]))
def test_groups_are_those_with_members(choice: tuple[int, set[int]], width: int) -> None:
    count, members = choice
    expected = sorted({index // width for index in members})
    assert list(ChunkSet(count, members).groups(width)) == expected


@given(chosen(), st.integers(0, 65_700))
def test_a_set_is_read_from_any_place_on(choice: tuple[int, set[int]], start: int) -> None:
    count, members = choice
    expected = sorted(index for index in members if index >= start)
    assert list(ChunkSet(count, members).starting_at(start)) == expected


@given(chosen(), st.integers(0, 65_600), st.integers(0, 60))
def test_a_run_is_added_as_its_chunks_are(
    choice: tuple[int, set[int]], start: int, length: int
) -> None:
    count, members = choice
    run = range(min(start, count), min(start + length, count))
    chunks = ChunkSet(count, members)
    chunks.add_run(run)
    assert set(chunks) == members | set(run)


@pytest.mark.parametrize("run", [range(0), range(11), range(3, 5), range(8, 11), range(11, 11)])
def test_runs_to_either_end(run: range) -> None:
    chunks = ChunkSet(11, [9])
    chunks.add_run(run)
    assert set(chunks) == {9, *run}


@pytest.mark.parametrize("run", [range(0, 8, 2), range(-1, 3), range(5, 12), range(5, 3)])
def test_what_is_no_run_of_the_chunks(run: range) -> None:
    with pytest.raises(AssertionError, match="internal error"):
        ChunkSet(11).add_run(run)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_what_is_clear_elsewhere_is_added(count: int, members: set[int], others: set[int]) -> None:
    everything = set(range(count))
    chunks = ChunkSet(count, members & everything)
    list(chunks.add_others(ChunkSet(count, others & everything).packed()))
    assert list(chunks) == sorted((members | (everything - others)) & everything)


def test_others_are_added_in_steps() -> None:
    """A MiB of bits each; what is there stays."""
    count = 2**24 + 5
    chunks = ChunkSet(count, [7])
    filled = ChunkSet(count)
    filled.add_run(range(count))
    filled.remove_from(count - 3)
    steps = chunks.add_others(filled.packed())
    next(steps)
    next(steps)
    assert list(chunks) == [7]
    next(steps)
    assert list(chunks) == [7, count - 3, count - 2, count - 1]
    assert next(steps, "over") == "over"
    with pytest.raises(AssertionError, match="another volume"):
        next(chunks.add_others(bytes(3)))


@given(chosen(), st.integers(0, 65_700))
@example((16, {3}), 16)  # nothing is behind the end
def test_what_is_behind_a_point_can_be_removed(choice: tuple[int, set[int]], first: int) -> None:
    count, members = choice
    chunks = ChunkSet(count, members)
    chunks.remove_from(first)
    assert set(chunks) == {index for index in members if index < first}


def test_bits_behind_the_last_chunk_do_not_matter() -> None:
    assert list(ChunkSet.of_packed(b"\xff\xff", 11)) == list(range(11))


@pytest.mark.parametrize(("packed", "count"), [(b"", 1), (b"\0", 9), (b"\0\0", 8)])
def test_a_bitmap_of_another_length_is_refused(packed: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="wrong length"):
        ChunkSet.of_packed(packed, count)


@pytest.mark.parametrize("index", [-1, 10])
def test_chunks_that_are_not_there(index: int) -> None:
    chunks = ChunkSet(10)
    with pytest.raises(IndexError, match="no chunk"):
        chunks.add(index)
    with pytest.raises(IndexError, match="no chunk"):
        assert index in chunks


def test_a_volume_of_16_tib_takes_a_bit_a_chunk() -> None:
    count = 2**25
    tracemalloc.start()
    try:
        chunks = ChunkSet(count, range(0, count, 2**15))
        assert sum(1 for _ in chunks) == sum(1 for _ in chunks.groups(1024)) == 1024
        assert sum(len(run) for run in chunks.runs()) == 1024
        assert len(chunks) == 1024
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * count // 8
