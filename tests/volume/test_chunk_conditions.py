"""Conditions of chunks, and tables of bits, against lists."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import MalformedError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.volume.chunk_conditions import ChunkConditions
from volcrypt.volume.control_messages import pack_bits, unpack_bits

CHUNKS = 21
SIZE = CHUNKS * CHUNK_BYTES - 4096


class TestTablesOfBits:
    @given(st.lists(st.tuples(st.integers(0, CHUNKS), st.integers(0, CHUNKS))))
    def test_equal_a_list(self, runs: list[tuple[int, int]]) -> None:
        bits = ChunkSet(CHUNKS)
        model = [False] * CHUNKS
        for first, second in runs:
            chunks = range(min(first, second), max(first, second))
            bits.add_run(chunks)
            model[chunks.start : chunks.stop] = [True] * len(chunks)
        assert [chunk in bits for chunk in range(CHUNKS)] == model

    @pytest.mark.parametrize("chunks", [range(-1, 1), range(20, 22), range(0, 4, 2)])
    def test_chunks_that_are_not_there(self, chunks: range) -> None:
        with pytest.raises(AssertionError, match="internal error"):
            ChunkSet(CHUNKS).add_run(chunks)

    def test_a_large_table_in_steps(self) -> None:
        chunks = 3 * 2**23 + 5
        bits = ChunkSet(chunks)
        bits.add_run(range(7, 9))
        others = bytearray(b"\xff" * (chunks // 8 + 1))
        others[0] = 0b11110111
        others[-1] = 0b11101111
        steps = sum(1 for _ in bits.add_others(bytes(others)))
        assert steps == 4
        found = [chunk for chunk in (*range(20), 2**23, chunks - 1) if chunk in bits]
        assert found == [3, 7, 8, chunks - 1]

    def test_bits_of_another_volume(self) -> None:
        with pytest.raises(AssertionError, match="of another volume"):
            next(ChunkSet(CHUNKS).add_others(bytes(2)))

    @pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
    def test_survive_packing(self, count: int) -> None:
        bits = Random(count).randbytes(-(-count // 8))
        packed = pack_bits(bits)
        assert unpack_bits(packed, count * CHUNK_BYTES) == bits
        for other in (count + 8, max(count - 8, 0)):
            if -(-other // 8) != -(-count // 8):
                with pytest.raises(MalformedError):
                    unpack_bits(packed, other * CHUNK_BYTES)
        with pytest.raises(MalformedError):
            unpack_bits(b"junk", count * CHUNK_BYTES)


class TestChunkConditions:
    def test_there_are_none_at_first(self) -> None:
        conditions = ChunkConditions()
        assert conditions.is_free
        assert conditions.may_write(range(5))
        conditions.release(range(5))
        assert list(conditions.release_unwanted(bytes(3))) == []
        conditions.end_capture()
        assert conditions.is_free

    def test_a_captured_chunk_is_not_written_until_it_is_released(self) -> None:
        conditions = ChunkConditions()
        conditions.begin_capture(SIZE, hold=False)
        assert not conditions.is_free
        assert all(map(conditions.is_captured, range(CHUNKS)))
        conditions.release(range(3, 5))
        assert conditions.may_write(range(3, 5))
        assert conditions.may_write(range(0))
        assert not conditions.may_write(range(2, 5))
        assert not conditions.may_write(range(3, 6))
        assert not conditions.may_write(range(CHUNKS - 1, CHUNKS))
        conditions.end_capture()
        assert conditions.may_write(range(CHUNKS))

    def test_the_next_capture_has_all_again(self) -> None:
        conditions = ChunkConditions()
        conditions.begin_capture(SIZE, hold=False)
        with pytest.raises(AssertionError, match="a capture is running"):
            conditions.begin_capture(SIZE, hold=False)
        conditions.release(range(CHUNKS))
        conditions.end_capture()
        conditions.begin_capture(SIZE, hold=False)
        assert all(map(conditions.is_captured, range(CHUNKS)))

    def test_what_a_growth_brought_is_not_captured(self) -> None:
        conditions = ChunkConditions()
        conditions.begin_capture(SIZE, hold=False)
        assert conditions.may_write(range(CHUNKS, CHUNKS + 5))
        assert not conditions.may_write(range(CHUNKS - 1, CHUNKS + 1))

    def test_hold_keeps_all_waiting_whatever_is_released(self) -> None:
        conditions = ChunkConditions()
        conditions.begin_capture(SIZE, hold=True)
        conditions.release(range(CHUNKS))
        assert conditions.is_held
        assert not conditions.may_write(range(1))
        conditions.resume()
        assert conditions.may_write(range(1))
        conditions.end_capture()
        conditions.begin_capture(SIZE, hold=True)
        conditions.end_capture()
        assert conditions.is_free
        assert not conditions.is_held

    def test_what_is_not_wanted_is_released(self) -> None:
        conditions = ChunkConditions()
        conditions.begin_capture(SIZE, hold=False)
        conditions.release(range(1, 2))
        for _ in conditions.release_unwanted(bytes([0b10, 0, 0b10000])):
            pass
        assert [c for c in range(CHUNKS) if conditions.is_captured(c)] == [20]
