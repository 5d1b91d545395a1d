"""The log of an import: a golden file, every damage is in the chain, no digest stands in it."""

import blake3
import pytest

from tests.golden import golden_bytes
from volcrypt.errors import MalformedError
from volcrypt.formats.import_log import (
    EMPTY_CHAIN,
    ENTRY_BYTES,
    ContentDigest,
    ImportChain,
    read_entries,
)

KEY = bytes(range(32))
CHUNKS = [(0, b"first"), (7, b"second"), (2**27 - 1, b"the last of 64 TiB")]


def entries_of(log: bytes) -> list[bytes]:
    return [log[at : at + ENTRY_BYTES] for at in range(0, len(log), ENTRY_BYTES)]


def digest(content: bytes) -> bytes:
    return blake3.blake3(content).digest()


def write() -> tuple[bytes, bytes]:
    chain = ImportChain(KEY)
    return b"".join(chain.entry(index, digest(content)) for index, content in CHUNKS), chain.chain


def read(log: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    chain = ImportChain(KEY)
    return list(read_entries(chain, entries_of(log), chunks=2**27, what="log")), chain.chain


def test_golden_file() -> None:
    log, chain = write()
    assert log + chain == golden_bytes("v1", "import-log")
    assert read(log) == ([(index, digest(content)) for index, content in CHUNKS], chain)


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    log, chain = write()
    for length in range(len(log)):
        if length % ENTRY_BYTES:
            with pytest.raises(MalformedError, match="cut short"):
                read(log[:length])
        else:
            assert read(log[:length])[1] != chain
    for position in range(len(log)):
        for bit in range(8):
            damaged = bytearray(log)
            damaged[position] ^= 1 << bit
            try:
                found = read(bytes(damaged))[1]
            except MalformedError:
                continue
            assert found != chain


def test_entries_in_disorder() -> None:
    log, _ = write()
    first, second, third = entries_of(log)
    for wrong in (second + first + third, first + first, third + second):
        with pytest.raises(MalformedError, match="disorder"):
            read(wrong)


def test_entries_behind_the_end() -> None:
    log, _ = write()
    found = read_entries(ImportChain(KEY), entries_of(log), chunks=2**27 - 1, what="log")
    with pytest.raises(MalformedError, match="disorder"):
        list(found)


def test_goes_on_in_the_middle() -> None:
    log, chain = write()
    first = ImportChain(KEY)
    head = first.entry(0, digest(b"first"))
    rest = ImportChain(KEY, chain=first.chain)
    tail = b"".join(rest.entry(index, digest(content)) for index, content in CHUNKS[1:])
    assert (head + tail, rest.chain) == (log, chain)


def test_a_digest_is_not_to_be_found() -> None:
    log, chain = write()
    for _, content in CHUNKS:
        assert digest(content) not in log + chain
    # The control: under the key it is there.
    assert digest(b"second") == read(log)[0][1][1]
    other = ImportChain(bytes(32))
    found = [each for _, each in read_entries(other, entries_of(log), chunks=2**27, what="log")]
    assert digest(b"second") not in found


def test_one_digest_of_the_content() -> None:
    def content(size: int, *chunks: tuple[int, bytes]) -> str:
        made = ContentDigest(size)
        for index, each in chunks:
            made.add(index, digest(each))
        return made.hex()

    found = {
        content(8192),
        content(4096),
        content(8192, (0, b"a")),
        content(8192, (1, b"a")),
        content(8192, (0, b"a"), (1, b"b")),
        content(8192, (0, b"b"), (1, b"a")),
    }
    assert len(found) == 6
    assert content(8192, (0, b"a")) == content(8192, (0, b"a"))
    assert bytes(32) == EMPTY_CHAIN
