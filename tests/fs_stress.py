"""File system stressor: random operations on a tree of files against a model, after the `fsstress`
of xfstests, which no Debian package has and which compares nothing.

Several of them, each in a directory of its own, keep a file system busy with names, links,
attributes, holes and data at once. What each tree must hold is known: `check` compares all of it,
after a run as well as after the file system was taken down and put up again.
"""

import ctypes
import os
import random
import stat
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

MOST_BYTES: Final = 192 * 1024
MOST_FILES: Final = 60
_PUNCH: Final = 3  # and the size stays (linux/falloc.h)
_libc: Final = ctypes.CDLL(None, use_errno=True)
Thing = TypeVar("Thing")


@dataclass(eq=False)
class _File:
    """One inode: what several names may share."""

    content: bytearray = field(default_factory=bytearray)
    attributes: dict[str, bytes] = field(default_factory=dict)
    mode: int = 0o644


class Stressor:
    """`directory` is made, and nobody else's."""

    def __init__(self, directory: Path, seed: int) -> None:
        directory.mkdir()
        self.counts: Counter[str] = Counter()
        self._root = directory
        self._dice = random.Random(seed)
        self._noise = self._dice.randbytes(2 * MOST_BYTES)
        self._files: dict[str, _File] = {}
        self._links: dict[str, str] = {}
        self._directories = [""]
        self._number = 0

    def run(self, operations: int) -> None:
        table: dict[Callable[[], None], int] = {
            self._create: 6,
            self._write: 14,
            self._append: 4,
            self._truncate: 3,
            self._punch: 3,
            self._sync: 2,
            self._read: 4,
            self._rename: 5,
            self._link: 3,
            self._symlink: 2,
            self._unlink: 5,
            self._make_directory: 2,
            self._remove_directory: 1,
            self._attribute: 2,
            self._change_mode: 1,
        }
        works, weights = list(table), list(table.values())
        for _ in range(operations):
            (work,) = self._dice.choices(works, weights)
            work()
            self.counts[work.__name__] += 1

    # ---------------------------------------------------------------- operations

    def _new_name(self) -> str:
        self._number += 1
        length = self._dice.choice((1, 1, 20, 180))
        return os.path.join(self._some(self._directories), f"{self._number}".rjust(length, "n"))

    def _some(self, things: Sequence[Thing]) -> Thing:
        return things[self._dice.randrange(len(things))]

    def _some_file(self) -> str:
        if not self._files:
            self._create()
        return self._some(list(self._files))

    def _piece(self, longest: int) -> bytes:
        start, length = self._dice.randrange(MOST_BYTES), self._dice.randint(1, longest)
        return self._noise[start : start + length]

    def _create(self) -> None:
        if len(self._files) >= MOST_FILES:
            self._unlink()
            return
        name = self._new_name()
        os.close(os.open(self._root / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        self._files[name] = _File()

    def _write(self, offset: int | None = None) -> None:
        name = self._some_file()
        content = self._files[name].content
        piece = self._piece(32 * 1024)
        if offset is None:
            offset = self._dice.randrange(MOST_BYTES - len(piece))
        descriptor = os.open(self._root / name, os.O_WRONLY)
        try:
            assert os.pwrite(descriptor, piece, offset) == len(piece)
        finally:
            os.close(descriptor)
        content.extend(bytes(max(0, offset + len(piece) - len(content))))
        content[offset : offset + len(piece)] = piece

    def _append(self) -> None:
        name = self._some_file()
        piece = self._piece(5000)
        if len(self._files[name].content) + len(piece) > MOST_BYTES:
            self._truncate()
            return
        with open(self._root / name, "ab", buffering=0) as file:
            assert file.write(piece) == len(piece)
        self._files[name].content += piece

    def _truncate(self) -> None:
        name = self._some_file()
        content, size = self._files[name].content, self._dice.randrange(MOST_BYTES)
        os.truncate(self._root / name, size)
        del content[size:]
        content.extend(bytes(size - len(content)))

    def _punch(self) -> None:
        name = self._some_file()
        content = self._files[name].content
        if not content:
            return
        start = self._dice.randrange(len(content))
        length = self._dice.randint(1, len(content) - start)
        descriptor = os.open(self._root / name, os.O_WRONLY)
        try:
            where = ctypes.c_int64(start), ctypes.c_int64(length)
            assert _libc.fallocate(descriptor, _PUNCH, *where) == 0, ctypes.get_errno()
        finally:
            os.close(descriptor)
        content[start : start + length] = bytes(length)

    def _sync(self) -> None:
        descriptor = os.open(self._root / self._some_file(), os.O_RDONLY)
        try:
            self._some((os.fsync, os.fdatasync))(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> None:
        self._check_file(self._some_file())

    def _rename(self) -> None:
        """Also over another file, which is gone then."""
        old = self._some_file()
        new = self._some_file() if self._dice.random() < 0.3 else self._new_name()
        os.rename(self._root / old, self._root / new)
        if old == new or self._files[old] is self._files.get(new):
            return  # two names of one file: both stay
        self._files[new] = self._files.pop(old)

    def _link(self) -> None:
        old, new = self._some_file(), self._new_name()
        os.link(self._root / old, self._root / new)
        self._files[new] = self._files[old]

    def _symlink(self) -> None:
        if len(self._links) >= MOST_FILES:
            name = self._some(list(self._links))
            os.unlink(self._root / name)
            del self._links[name]
        name = self._new_name()
        self._links[name] = "n" * self._some((1, 59, 60, 1000))
        os.symlink(self._links[name], self._root / name)

    def _unlink(self) -> None:
        name = self._some_file()
        os.unlink(self._root / name)
        del self._files[name]

    def _make_directory(self) -> None:
        name = self._new_name()
        if name.count("/") < 8 and len(self._directories) < MOST_FILES:
            os.mkdir(self._root / name)
            self._directories.append(name)

    def _remove_directory(self) -> None:
        name = self._some(self._directories)
        names = (*self._files, *self._links, *self._directories)
        if name and not any(each.startswith(f"{name}/") for each in names):
            os.rmdir(self._root / name)
            self._directories.remove(name)

    def _attribute(self) -> None:
        name, key = self._some_file(), f"user.{self._dice.randrange(5)}"
        value = self._piece(self._some((10, 150)))  # five fit a block of 1 KiB, as ext4 wants it
        os.setxattr(self._root / name, key, value)
        self._files[name].attributes[key] = value

    def _change_mode(self) -> None:
        name, mode = self._some_file(), self._some((0o600, 0o644, 0o755))
        os.chmod(self._root / name, mode)
        self._files[name].mode = mode

    # ---------------------------------------------------------------- comparing

    def _check_file(self, name: str) -> None:
        path, file = self._root / name, self._files[name]
        assert path.read_bytes() == file.content, f"{path} reads wrong"

    def check(self) -> None:
        """Names, contents, links, attributes and modes: all of them, and no others."""
        found = {
            os.path.relpath(os.path.join(where, name), self._root)
            for where, directories, files in os.walk(self._root)
            for name in (*directories, *files)
        }
        assert found == {*self._files, *self._links, *self._directories} - {""}
        for name, file in self._files.items():
            self._check_file(name)
            path = self._root / name
            status = path.stat()
            assert stat.S_IMODE(status.st_mode) == file.mode, path
            assert status.st_nlink == sum(each is file for each in self._files.values()), path
            attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            assert attributes == file.attributes, path
        for name, target in self._links.items():
            assert os.readlink(self._root / name) == target


def stress(directory: Path, *, seed: int, workers: int, operations: int) -> list[Stressor]:
    """That many at once; each raises what it finds wrong, also at the end."""
    stressors = [Stressor(directory / f"tree-{n}", 1000 * seed + n) for n in range(workers)]
    problems: list[BaseException] = []

    def work(stressor: Stressor) -> None:
        try:
            stressor.run(operations)
            stressor.check()
        except BaseException as error:
            error.add_note(f"fs_stress: seed {seed}")
            problems.append(error)

    threads = [threading.Thread(target=work, args=[each]) for each in stressors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return stressors
