"""Look for the blocks of a plaintext image in files that should hold only ciphertext.

    python scripts/plaintext_search.py IMAGE PATH...

Every distinct 4096-byte block of IMAGE that is not all zero is looked for at every 512-byte offset
of every file below each PATH. Exit code 0: none was found; 1: some were; 2: it could not be done.

Why it cannot miss one. The fingerprint of 4096 bytes is a sum, modulo 2^64, of their 512 words
times fixed factors: a function of those bytes alone, computed exactly. So equal blocks have equal
fingerprints, and each place whose fingerprint belongs to a block of the image is then compared by
SHA-256. Unequal blocks that share a fingerprint cost time there, and nothing else. The sum over a
sector is made once and serves the eight blocks that the sector is part of, which makes a search at
every sector as cheap as one at every block. Holes and what follows the end of a file are zeros
here as for every reader; only places where all 4096 bytes are a hole are passed over, and these
are equal to no block that is looked for.
"""

import argparse
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

SECTOR_BYTES: Final = 512
BLOCK_BYTES: Final = 4096
SECTORS_PER_BLOCK: Final = BLOCK_BYTES // SECTOR_BYTES
WINDOW_BYTES: Final = 16 * 2**20

Words = npt.NDArray[np.uint64]

_FACTORS: Final[Words] = np.random.default_rng(4096).integers(
    0, 2**64 - 1, size=(SECTORS_PER_BLOCK, SECTOR_BYTES // 8), dtype=np.uint64, endpoint=True
) | np.uint64(1)


@dataclass(frozen=True, slots=True, order=True)
class Match:
    """A block of the image lies at `offset` of `path`."""

    path: Path
    offset: int


class PlaintextBlocks:
    """The distinct non-zero blocks of plaintext, to be looked for."""

    def __init__(self) -> None:
        self.digests: set[bytes] = set()
        self._fingerprints: Words = np.zeros(0, dtype=np.uint64)
        """Sorted, but for what is still in `_added`."""
        self._added: list[Words] = []

    def __len__(self) -> int:
        return len(self.digests)

    def add_file(self, path: Path) -> None:
        """Add each 4096-byte block of a file; a last part block is filled up with zeros."""
        for _, window in _windows(path):
            is_data = np.frombuffer(window, dtype="<u8").reshape(-1, BLOCK_BYTES // 8).any(axis=1)
            for index in np.flatnonzero(is_data).tolist():
                block = window[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
                self.digests.add(hashlib.sha256(block).digest())
            self._added.append(block_fingerprints(window)[::SECTORS_PER_BLOCK][is_data])

    def find_in(self, window: memoryview) -> Iterator[tuple[int, bytes]]:
        """`(offset, digest)` of each block of the image in `window`, at any 512-byte offset."""
        if self._added:
            self._fingerprints = np.unique(np.concatenate([self._fingerprints, *self._added]))
            self._added.clear()
        if not len(self._fingerprints):
            return
        fingerprints = block_fingerprints(window)
        nearest = np.searchsorted(self._fingerprints, fingerprints)
        nearest[nearest == len(self._fingerprints)] = 0
        for sector in np.flatnonzero(self._fingerprints[nearest] == fingerprints).tolist():
            offset = sector * SECTOR_BYTES
            digest = hashlib.sha256(window[offset : offset + BLOCK_BYTES]).digest()
            if digest in self.digests:
                yield offset, digest


@dataclass(slots=True)
class SearchResult:
    """What was searched, and what was found; `found` are digests of distinct blocks."""

    files: int = 0
    searched_bytes: int = 0
    found: set[bytes] = field(default_factory=set)
    matches: set[Match] = field(default_factory=set)


def block_fingerprints(data: bytes | memoryview) -> Words:
    """The fingerprint of the 4096 bytes from each 512-byte offset at which that many follow."""
    words = np.frombuffer(data, dtype="<u8").reshape(-1, SECTOR_BYTES // 8)
    count = len(words) - SECTORS_PER_BLOCK + 1
    fingerprints = np.zeros(max(count, 0), dtype=np.uint64)
    if count > 0:
        # Column j: the part of a block's sum that a sector gives as the block's j-th sector.
        parts = words @ _FACTORS.T
        for sector in range(SECTORS_PER_BLOCK):
            fingerprints += parts[sector : sector + count, sector]
    return fingerprints


def search_file(path: Path, blocks: PlaintextBlocks, result: SearchResult) -> None:
    """Look for `blocks` at every 512-byte offset of one file, and add to `result`."""
    result.files += 1
    for start, window in _windows(path):
        result.searched_bytes += len(window)
        for offset, digest in blocks.find_in(window):
            result.found.add(digest)
            result.matches.add(Match(path, start + offset))


def search_paths(paths: Sequence[Path], blocks: PlaintextBlocks) -> SearchResult:
    """Search every regular file at or below `paths`; symbolic links are not followed."""
    result = SearchResult()
    for path in paths:
        for file in _files_below(path):
            search_file(file, blocks, result)
    return result


def _files_below(path: Path) -> Iterator[Path]:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for entry in sorted(path.iterdir()):
            yield from _files_below(entry)
    elif stat.S_ISREG(mode):
        yield path


def _windows(path: Path) -> Iterator[tuple[int, memoryview]]:
    """`(offset, bytes)` of a file, both multiples of 4096, so that every block that is not a hole
    lies whole in one of them: neighbours overlap by all but a sector of a block.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for start, end in _data_extents(file.fileno(), size):
            while start < end:
                length = min(WINDOW_BYTES, end - start)
                buffer = bytearray(length)
                _read_fully(file.fileno(), start, memoryview(buffer))
                yield start, memoryview(buffer)
                # Blocks that begin in the last 4096 bytes need what follows: take these twice.
                start += length if start + length == end else length - BLOCK_BYTES


def _data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges that are no holes, wide enough for a block that lies partly in a hole, rounded to
    4096, merged, and in order.
    """
    extent_start, extent_end = 0, 0
    data = 0
    while data < size:
        try:
            data = os.lseek(descriptor, data, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        start = max(0, data // BLOCK_BYTES - 1) * BLOCK_BYTES
        end = (-(-hole // BLOCK_BYTES) + 1) * BLOCK_BYTES
        if start > extent_end:
            yield extent_start, extent_end
            extent_start = start
        extent_end = end
        data = hole
    yield extent_start, extent_end


def _read_fully(descriptor: int, offset: int, buffer: memoryview) -> None:
    """Fill `buffer`; what follows the end of the file stays zero."""
    while len(buffer):
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            return
        offset += count
        buffer = buffer[count:]


def main() -> int:
    parser = argparse.ArgumentParser(description="look for blocks of an image in other files")
    parser.add_argument("image", type=Path)
    parser.add_argument("paths", type=Path, nargs="+", metavar="path")
    arguments = parser.parse_args()
    try:
        blocks = PlaintextBlocks()
        blocks.add_file(arguments.image)
        result = search_paths(arguments.paths, blocks)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for match in sorted(result.matches)[:20]:
        print(f"{match.path}: offset {match.offset}")
    print(
        f"{len(result.found)} of {len(blocks)} distinct blocks found in {result.files} files,"
        f" {result.searched_bytes} bytes that are no holes"
    )
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
