"""Owners of chunks: the table, and what follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.volume.ownership import LEGAL_CHANGES, ChunkOwnership, Owner

TAKERS = [owner for owner in Owner if owner is not Owner.ENGINE]

# owner: (Python path may read, may write)
ALLOWED = {
    Owner.ENGINE: (True, True),
    Owner.PLANE: (False, False),
    Owner.CAPTURE: (True, False),
    Owner.FETCH: (False, False),
    Owner.MIGRATION: (True, False),
}


def test_all_belong_to_the_engine_at_first() -> None:
    ownership = ChunkOwnership(5)
    assert [ownership.owner_of(chunk) for chunk in range(5)] == [Owner.ENGINE] * 5
    assert ownership.may_read(range(5))
    assert ownership.may_write(range(5))


@pytest.mark.parametrize("owner", TAKERS)
def test_what_the_engine_may_do_with_a_chunk(owner: Owner) -> None:
    ownership = ChunkOwnership(5)
    ownership.take(range(2, 3), owner)
    assert (ownership.may_read(range(2, 3)), ownership.may_write(range(2, 3))) == ALLOWED[owner]
    assert (ownership.may_read(range(1, 4)), ownership.may_write(range(1, 4))) == ALLOWED[owner]
    assert ownership.may_write(range(2))
    assert ownership.may_write(range(3, 5))
    ownership.give_back(range(2, 3))
    assert ownership.may_write(range(5))


@pytest.mark.parametrize("holder", Owner)
@pytest.mark.parametrize("taker", Owner)
def test_taking_follows_the_table_and_is_all_or_nothing(holder: Owner, taker: Owner) -> None:
    ownership = ChunkOwnership(3)
    if holder is not Owner.ENGINE:
        ownership.take(range(1, 2), holder)
    if taker is Owner.ENGINE or holder is not Owner.ENGINE:
        with pytest.raises(RuntimeError, match="internal error"):
            ownership.take_all(taker)
        assert ownership.owner_of(0) is Owner.ENGINE
        assert ownership.owner_of(1) is holder
    else:
        ownership.take_all(taker)
        assert {ownership.owner_of(chunk) for chunk in range(3)} == {taker}


def test_every_change_is_between_the_engine_and_a_taker() -> None:
    assert {before for before, _ in LEGAL_CHANGES} == set(Owner)
    assert all(
        (before is Owner.ENGINE) != (after is Owner.ENGINE) for before, after in LEGAL_CHANGES
    )


def test_giving_back_twice_is_giving_back() -> None:
    ownership = ChunkOwnership(4)
    ownership.take_all(Owner.CAPTURE)
    ownership.give_back(range(1, 3))
    ownership.give_back(range(3))
    assert ownership.may_write(range(3))
    assert not ownership.may_write(range(4))


def test_giving_back_what_one_owner_holds_leaves_the_others() -> None:
    ownership = ChunkOwnership(4)
    ownership.take(range(2), Owner.CAPTURE)
    ownership.take(range(2, 3), Owner.PLANE)
    ownership.give_back_all(Owner.CAPTURE)
    owners = [ownership.owner_of(chunk) for chunk in range(4)]
    assert owners == [Owner.ENGINE, Owner.ENGINE, Owner.PLANE, Owner.ENGINE]


@pytest.mark.parametrize("chunks", [range(-1, 1), range(3, 6), range(0, 4, 2)])
def test_chunks_that_are_not_there(chunks: range) -> None:
    ownership = ChunkOwnership(5)
    with pytest.raises(AssertionError, match="internal error"):
        ownership.take(chunks, Owner.CAPTURE)
    with pytest.raises(AssertionError, match="internal error"):
        ownership.give_back(chunks)


def test_no_chunks_may_be_served() -> None:
    ownership = ChunkOwnership(1)
    ownership.take_all(Owner.FETCH)
    assert ownership.may_read(range(0))
    assert ownership.may_write(range(0))


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from(Owner))))
def test_equals_a_list(steps: list[tuple[int, int, Owner]]) -> None:
    ownership = ChunkOwnership(8)
    model = [Owner.ENGINE] * 8
    for start, stop, owner in steps:
        chunks = range(min(start, stop), max(start, stop))
        if owner is Owner.ENGINE:
            ownership.give_back(chunks)
        elif all(model[chunk] is Owner.ENGINE for chunk in chunks):
            ownership.take(chunks, owner)
        else:
            with pytest.raises(RuntimeError):
                ownership.take(chunks, owner)
            continue
        model[chunks.start : chunks.stop] = [owner] * len(chunks)
    assert [ownership.owner_of(chunk) for chunk in range(8)] == model
