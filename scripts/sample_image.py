"""A real ext4 image with thousands of real files of this machine's /usr, and what must be in it."""

import hashlib
import os
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LARGEST_FILE_BYTES: Final = 8 * 2**20
FILLED: Final = 0.65
"""Of the image; the rest is for ext4 itself, and for files that are written later."""


@dataclass(frozen=True, slots=True)
class RealFile:
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a directory must hold: SHA-256 by path below it."""

    digests: dict[str, bytes]
    total_bytes: int


def select_files(source: Path, budget_bytes: int) -> list[RealFile]:
    """Regular files below `source` for about `budget_bytes` of disk, in an order that mixes all
    kinds of files and is the same on every run.
    """
    found = sorted(_regular_files(source), key=lambda file: zlib.crc32(os.fsencode(file.path)))
    selected, used_bytes = [], 0
    for file in found:
        # What it takes on a disk of 4096-byte blocks, and its inode.
        cost = -(-file.size_bytes // 4096) * 4096 + 512
        if used_bytes + cost <= budget_bytes:
            selected.append(file)
            used_bytes += cost
    return selected


def copy_files(files: list[RealFile], source: Path, target: Path) -> Tree:
    """Copy `files` from below `source` to the same place below `target`."""
    digests, total_bytes = {}, 0
    for file in files:
        content = file.path.read_bytes()
        name = str(file.path.relative_to(source))
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        digests[name] = hashlib.sha256(content).digest()
        total_bytes += len(content)
    return Tree(digests=digests, total_bytes=total_bytes)


def make_ext4(image: Path, content: Path, size_bytes: int) -> None:
    """An ext4 image that holds what is below `content`."""
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(content), str(image)]
    command.append(f"{size_bytes // 1024}k")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mke2fs failed: {done.stderr.strip()}")


def read_tree(directory: Path) -> Tree:
    """The files that are below `directory`, but for ext4's lost+found."""
    digests, total_bytes = {}, 0
    for file in _regular_files(directory, largest_bytes=None):
        name = str(file.path.relative_to(directory))
        with file.path.open("rb") as content:
            digests[name] = hashlib.file_digest(content, "sha256").digest()
        total_bytes += file.size_bytes
    return Tree(digests=digests, total_bytes=total_bytes)


def differences(expected: Tree, found: Tree) -> list[str]:
    """One line for each file that is missing, added or changed."""
    names = sorted(expected.digests.keys() | found.digests.keys())
    lines = []
    for name in names:
        if name not in found.digests:
            lines.append(f"{name} is missing")
        elif name not in expected.digests:
            lines.append(f"{name} is not one of ours")
        elif expected.digests[name] != found.digests[name]:
            lines.append(f"{name} has other content")
    return lines


def _regular_files(
    directory: Path, *, largest_bytes: int | None = LARGEST_FILE_BYTES
) -> Iterator[RealFile]:
    for place, directories, _ in os.walk(directory):
        if "lost+found" in directories:
            directories.remove("lost+found")
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    size_bytes = entry.stat(follow_symlinks=False).st_size
                    if largest_bytes is None or size_bytes <= largest_bytes:
                        yield RealFile(Path(entry.path), size_bytes)
