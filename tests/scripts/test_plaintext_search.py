"""The search that proves that no plaintext is stored must find what is there."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import plaintext_search
from scripts.plaintext_search import (
    BLOCK_BYTES,
    WINDOW_BYTES,
    Match,
    PlaintextBlocks,
    SearchResult,
    search_paths,
)

MIB = 2**20


def make_block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK_BYTES)


def nearly_empty(position: int) -> bytes:
    """A block with one byte that is not zero."""
    block = bytearray(BLOCK_BYTES)
    block[position] = 1
    return bytes(block)


# Data as it is: random, text with much repetition, and blocks that are almost all zero.
BLOCKS = [
    *(make_block(number) for number in range(60)),
    b"plain text " * 372 + b"....",
    b"\xff" * BLOCK_BYTES,
    *(nearly_empty(position) for position in (0, 7, 511, 512, 4095)),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"".join([*BLOCKS, bytes(BLOCK_BYTES), *BLOCKS[:20]]))
    return path


@pytest.fixture
def blocks(image: Path) -> PlaintextBlocks:
    made = PlaintextBlocks()
    made.add_file(image)
    return made


def search(path: Path, blocks: PlaintextBlocks) -> SearchResult:
    return search_paths([path], blocks)


def test_blocks_are_distinct_and_not_zero(blocks: PlaintextBlocks) -> None:
    assert len(blocks) == len(BLOCKS)


def test_the_control_finds_all_of_the_original(image: Path, blocks: PlaintextBlocks) -> None:
    result = search(image, blocks)
    assert result.found == blocks.digests
    assert result.files == 1
    assert result.searched_bytes >= image.stat().st_size


@pytest.mark.parametrize("offset", [0, 512, 1024, 3584, 4096, 4608, 100 * 512, 12345 * 512])
@pytest.mark.parametrize("number", [0, 60, 61, 62, 66])
def test_a_block_is_found_at_every_sector(
    tmp_path: Path, blocks: PlaintextBlocks, offset: int, number: int
) -> None:
    kept = tmp_path / "kept"
    noise = random.Random(1009).randbytes(offset + 3 * BLOCK_BYTES)
    kept.write_bytes(noise[:offset] + BLOCKS[number] + noise[offset + BLOCK_BYTES :])
    result = search(kept, blocks)
    assert Match(kept, offset) in result.matches
    assert len(result.found) == 1


def test_every_sector_around_the_edge_of_a_window(tmp_path: Path, blocks: PlaintextBlocks) -> None:
    kept = tmp_path / "kept"
    with kept.open("wb") as file:
        file.write(b"\x55" * (WINDOW_BYTES + MIB))
    for sectors in range(-17, 18):
        offset = WINDOW_BYTES + sectors * 512
        with kept.open("r+b") as file:
            file.seek(offset)
            file.write(BLOCKS[3])
        assert search(kept, blocks).matches == {Match(kept, offset)}
        with kept.open("r+b") as file:
            file.seek(offset)
            file.write(b"\x55" * BLOCK_BYTES)


@pytest.mark.parametrize("offset", [0, 512, 4096 - 512, MIB + 512, 5 * MIB - 512, 40 * MIB])
def test_sparse_files(tmp_path: Path, blocks: PlaintextBlocks, offset: int) -> None:
    kept = tmp_path / "kept"
    with kept.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(offset)
        file.write(BLOCKS[5])
    assert kept.stat().st_blocks * 512 < MIB
    result = search(kept, blocks)
    assert result.matches == {Match(kept, offset)}
    assert result.searched_bytes < MIB


def test_blocks_that_lie_partly_in_a_hole(tmp_path: Path) -> None:
    """One sector of data, and the rest of the block is a hole before or behind it."""
    image, kept = tmp_path / "image", tmp_path / "kept"
    first, last = b"\x11" * 512 + bytes(3584), bytes(3584) + b"\x22" * 512
    image.write_bytes(first + last)
    blocks = PlaintextBlocks()
    blocks.add_file(image)
    with kept.open("wb") as file:
        file.truncate(32 * MIB)
        # At the end of one 4096-byte page, so that the block goes on into the hole; and the like.
        os.pwrite(file.fileno(), b"\x11" * 512, 4 * MIB - 512)
        os.pwrite(file.fileno(), b"\x22" * 512, 8 * MIB)
    result = search(kept, blocks)
    assert result.found == blocks.digests
    assert result.matches == {Match(kept, 4 * MIB - 512), Match(kept, 8 * MIB - 3584)}


def test_a_block_cut_off_by_the_end_of_the_file(tmp_path: Path) -> None:
    image, kept = tmp_path / "image", tmp_path / "kept"
    image.write_bytes(b"x" * 700 + bytes(BLOCK_BYTES - 700))
    kept.write_bytes(bytes(512) + b"x" * 700)
    blocks = PlaintextBlocks()
    blocks.add_file(image)
    assert search(kept, blocks).matches == {Match(kept, 512)}


def test_almost_a_block_is_not_one(tmp_path: Path, blocks: PlaintextBlocks) -> None:
    kept = tmp_path / "kept"
    changed = []
    for number, position in enumerate([0, 1, 511, 512, 2048, 4095]):
        block = bytearray(BLOCKS[number])
        block[position] ^= 0x80
        changed.append(bytes(block))
    # Shifted by bytes it is not found either: ciphertext keeps to sectors, and so does the search.
    kept.write_bytes(b"".join(changed) + b"?" + BLOCKS[0])
    assert search(kept, blocks).matches == set()


def test_equal_fingerprints_are_compared_in_full(tmp_path: Path) -> None:
    """The top bits of two words cancel out in the sum: only the digest tells them apart."""
    image, kept = tmp_path / "image", tmp_path / "kept"
    block = bytearray(make_block(1))
    image.write_bytes(block)
    block[7] ^= 0x80
    block[15] ^= 0x80
    kept.write_bytes(block)
    fingerprints = [plaintext_search.block_fingerprints(p.read_bytes()) for p in (image, kept)]
    assert fingerprints[0] == fingerprints[1]
    blocks = PlaintextBlocks()
    blocks.add_file(image)
    assert search(kept, blocks).matches == set()


def test_a_tree(tmp_path: Path, blocks: PlaintextBlocks) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "hit").write_bytes(bytes(512) + BLOCKS[7])
    (tree / "a" / "small").write_bytes(b"small")
    (tree / "empty").touch()
    (tree / "link").symlink_to(tmp_path / "image")
    os.mkfifo(tree / "pipe")
    result = search(tree, blocks)
    assert result.matches == {Match(tree / "a" / "b" / "hit", 512)}
    assert result.files == 3


def test_nothing_to_look_for(tmp_path: Path, image: Path) -> None:
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(MIB))
    blocks = PlaintextBlocks()
    blocks.add_file(zeros)
    assert len(blocks) == 0
    assert search(image, blocks).found == set()


def test_the_program(tmp_path: Path, image: Path) -> None:
    clean = tmp_path / "clean"
    clean.write_bytes(random.Random(1003).randbytes(MIB))

    def run(*arguments: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, plaintext_search.__file__, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    count = len(BLOCKS)
    done = run(image, clean)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"0 of {count} distinct blocks found in 1 files")
    done = run(image, clean, image)
    assert done.returncode == 1
    assert f"{count} of {count} distinct blocks found in 2 files" in done.stdout
    done = run(image, tmp_path / "missing")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
