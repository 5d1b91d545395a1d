"""File system exerciser: random operations on one file against a model, after the `fsx` of Apple
and of xfstests, which no package index offers.

    python -m tests.fsx --seed 7 --operations 10000 FILE      --help lists the rest

One operation after the other, drawn from a seed: reads, writes, the same through a mapping, sync,
closing and opening again (buffered or O_DIRECT), dropping the page cache; on a file that may change
its size also truncation; punching and zeroing as well, unless its size is fixed and nobody asks for
them. Whatever is read is compared with the model at once, and the whole file at the end. The first
difference ends the run: the log of all operations, with those marked that touched the byte, and the
contents that were expected are left beside each other.

A file of a fixed size (a block device, the file of a mounted volume) is never extended; that other
sizes are refused is tested by `refused_truncate`.
"""

import argparse
import ctypes
import mmap
import os
import random
import stat
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PAGE: Final = mmap.PAGESIZE
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # linux/falloc.h

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`alignment` is that of offsets and lengths of direct transfers; buffered ones have none."""

    seed: int = 1
    operations: int = 1000
    size_bytes: int = 256 * 1024
    longest_bytes: int = 64 * 1024
    fixed_size: bool = False
    direct: bool = True
    """Whether some of the openings are O_DIRECT."""
    alignment: int = 512
    deallocates: bool = False
    """Whether holes are punched also where the size is fixed; at multiples of `alignment` then."""
    map_write: bool = True
    """Off where the file system has no shared mappings of this file."""


class MismatchError(AssertionError):
    """What was read is not what was written."""


@dataclass(slots=True)
class _Entry:
    name: str
    offset: int
    length: int
    note: str = ""

    def line(self, number: int, byte: int) -> str:
        touched = self.offset <= byte < self.offset + self.length
        mark = f"\t***{self.name.upper()}***" if touched else ""
        span = f"{self.offset:#x} thru {self.offset + self.length - 1:#x} ({self.length:#x} bytes)"
        return f"{number}: {self.name} {span} {self.note}{mark}"


class Exerciser:
    """One run over one file. `directory` is where a failed run leaves its log."""

    def __init__(self, path: Path, options: Options, *, directory: Path = Path()) -> None:
        self.path = path
        self.options = options
        self.counts: Counter[str] = Counter()
        self._directory = directory
        self._dice = random.Random(options.seed)
        noise = np.frombuffer(self._dice.randbytes(options.size_bytes), np.uint8)
        self._noise = noise * (np.arange(options.size_bytes) % 2).astype(np.uint8)
        self._good = np.zeros(options.size_bytes, dtype=np.uint8)
        self._size = 0
        self._log: list[_Entry] = []
        self._buffer = mmap.mmap(-1, options.longest_bytes)
        self._descriptor = -1
        self._direct = False

    @property
    def expected(self) -> bytes:
        """What the file should hold now."""
        return self._good[: self._size].tobytes()

    def run(self) -> Counter[str]:
        """How often each operation ran. Raises MismatchError, and OSError as the kernel says."""
        options = self.options
        self._open()
        try:
            self._begin()
            table = self._operations()
            names, weights = list(table), [weight for weight, _ in table.values()]
            for _ in range(options.operations):
                (name,) = self._dice.choices(names, weights)
                table[name][1]()
                self._check_size()
            self._finish()
        except BaseException as error:
            error.add_note(f"fsx: seed {options.seed}, operation {len(self._log)}, {self.path}")
            raise
        finally:
            os.close(self._descriptor)
            self._buffer.close()
        return self.counts

    def _operations(self) -> dict[str, tuple[int, Callable[[], None]]]:
        table: dict[str, tuple[int, Callable[[], None]]] = {
            "read": (10, self._read),
            "write": (14, self._write),
            "mapread": (5, self._map_read),
            "sync": (2, self._sync),
            "reopen": (1, self._reopen),
            "forget": (1, self._forget),
        }
        if self.options.map_write:
            table["mapwrite"] = (6, self._map_write)
        if self.options.fixed_size:
            table["refused_truncate"] = (1, self._refused_truncate)
        else:
            table["truncate"] = (5, self._truncate)
        if self.options.deallocates or not self.options.fixed_size:
            table["punch"] = (3, lambda: self._deallocate("punch", PUNCH_HOLE | KEEP_SIZE))
            table["zero"] = (2, lambda: self._deallocate("zero", ZERO_RANGE | KEEP_SIZE))
        return table

    def _begin(self) -> None:
        if not self.options.fixed_size:
            os.ftruncate(self._descriptor, 0)
            return
        self._size = self.options.size_bytes
        self._check_size()
        # What was there before is read, and believed.
        for offset in range(0, self._size, self.options.longest_bytes):
            length = min(self.options.longest_bytes, self._size - offset)
            self._good[offset : offset + length] = self._transfer_in(offset, length)

    def _finish(self) -> None:
        for direct in {False, self.options.direct}:
            self._reopen(direct=direct)
            self._note("verify", 0, self._size)
            unit = self.options.alignment if direct else 1
            end = self._size // unit * unit
            for offset in range(0, end, self.options.longest_bytes):
                length = min(self.options.longest_bytes, end - offset)
                self._compare(offset, self._transfer_in(offset, length))

    # ------------------------------------------------------------ operations

    def _read(self) -> None:
        offset, length = self._extent(self._size)
        if length:
            self._note("read", offset, length)
            self._compare(offset, self._transfer_in(offset, length))

    def _write(self) -> None:
        limit = self._size if self.options.fixed_size else self.options.size_bytes
        offset, length = self._extent(limit)
        if not length:
            return
        self._note("write", offset, length)
        self._put(offset, self._pattern(offset, length))
        view = memoryview(self._buffer)[:length]
        view[:] = self._good[offset : offset + length].tobytes()
        written = os.pwritev(self._descriptor, [view], offset)
        if written != length:
            raise MismatchError(f"short write: {written:#x} of {length:#x} bytes at {offset:#x}")

    def _map_read(self) -> None:
        offset, length = self._extent(self._size, unit=1)
        if not length:
            return
        self._note("mapread", offset, length)
        start = offset // PAGE * PAGE
        with self._mapped(start, offset + length - start, write=False) as mapped:
            self._compare(offset, np.frombuffer(mapped[offset - start :][:length], dtype=np.uint8))
            self._check_behind_the_end(start, mapped)

    def _map_write(self) -> None:
        limit = self._size if self.options.fixed_size else self.options.size_bytes
        offset, length = self._extent(limit, unit=1)
        if not length:
            return
        self._note("mapwrite", offset, length)
        if offset + length > self._size:
            os.ftruncate(self._descriptor, offset + length)
        self._put(offset, self._pattern(offset, length))
        start = offset // PAGE * PAGE
        with self._mapped(start, offset + length - start, write=True) as mapped:
            mapped[offset - start : offset - start + length] = self._good[
                offset : offset + length
            ].tobytes()
            mapped.flush()
            self._check_behind_the_end(start, mapped)

    def _truncate(self) -> None:
        size = self._dice.randrange(self.options.size_bytes + 1)
        low, high = sorted((size, self._size))
        self._note("truncate", low, high - low, "up" if size > self._size else "down")
        os.ftruncate(self._descriptor, size)
        self._good[low:high] = 0
        self._size = size

    def _refused_truncate(self) -> None:
        """The kernel or the file system refuses, and nothing changes; its own size is no change."""
        if stat.S_ISBLK(os.fstat(self._descriptor).st_mode):
            return
        size = self._dice.choice([0, self._size - 1, self._size // 2, self._size + PAGE])
        self._note("refused_truncate", 0, 0, f"to {size:#x}")
        try:
            os.ftruncate(self._descriptor, size)
        except PermissionError:
            os.ftruncate(self._descriptor, self._size)
        else:
            raise MismatchError(f"truncated to {size:#x}")

    def _deallocate(self, name: str, mode: int) -> None:
        unit = self.options.alignment if self.options.fixed_size else 1
        offset, length = self._extent(self._size, unit=unit)
        if not length:
            return
        self._note(name, offset, length)
        done = _libc.fallocate(
            self._descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)
        )
        if done:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self.path))
        self._good[offset : offset + length] = 0

    def _sync(self) -> None:
        data_only = self._dice.random() < 0.5
        self._note("sync", 0, 0, "data" if data_only else "")
        (os.fdatasync if data_only else os.fsync)(self._descriptor)

    def _reopen(self, *, direct: bool | None = None) -> None:
        os.close(self._descriptor)
        self._open(direct=direct)
        self._note("reopen", 0, 0, "direct" if self._direct else "")

    def _forget(self) -> None:
        """What is in the page cache goes, so that it is read again."""
        self._note("forget", 0, 0)
        os.fdatasync(self._descriptor)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    # ------------------------------------------------------------ parts

    def _open(self, *, direct: bool | None = None) -> None:
        if direct is None:
            direct = self.options.direct and self._dice.random() < 0.5
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        if not self.options.fixed_size:
            flags |= os.O_CREAT
        self._descriptor = os.open(self.path, flags, 0o600)
        self._direct = direct

    def _extent(self, limit: int, unit: int | None = None) -> tuple[int, int]:
        """A range below `limit`, aligned when the transfer needs it; its length may be 0."""
        if unit is None:
            unit = self.options.alignment if self._direct else 1
        if limit < unit:
            return 0, 0
        offset = self._dice.randrange(limit) // unit * unit
        # Short ones as often as long ones.
        longest = self.options.longest_bytes >> self._dice.choice([0, 2, 4, 6])
        length = self._dice.randint(1, max(longest, 1))
        length = min(max(unit, length // unit * unit), limit - offset)
        return offset, length // unit * unit

    def _pattern(self, offset: int, length: int) -> Bytes:
        """Even bytes name the operation, odd ones the place too."""
        number = np.uint8(len(self._log) % 256)
        return self._noise[offset : offset + length] + number

    def _put(self, offset: int, data: Bytes) -> None:
        self._good[offset : offset + len(data)] = data
        self._size = max(self._size, offset + len(data))

    def _transfer_in(self, offset: int, length: int) -> Bytes:
        view = memoryview(self._buffer)[:length]
        view[:] = b"\xa5" * length
        count = os.preadv(self._descriptor, [view], offset)
        if count != length:
            raise MismatchError(f"short read: {count:#x} of {length:#x} bytes at {offset:#x}")
        return np.frombuffer(bytes(view), dtype=np.uint8)

    def _mapped(self, start: int, length: int, *, write: bool) -> mmap.mmap:
        if write:
            return mmap.mmap(self._descriptor, length, mmap.MAP_SHARED, offset=start)
        return mmap.mmap(self._descriptor, length, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start)

    def _check_behind_the_end(self, start: int, mapped: mmap.mmap) -> None:
        """The rest of the last page of a file is zeros, whatever was in the page before."""
        if start + len(mapped) != self._size or self._size % PAGE == 0:
            return
        # Past what Python shows of the mapping, but not past its last page.
        address = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
        if any(ctypes.string_at(address + len(mapped), -len(mapped) % PAGE)):
            self._fail(self._size, f"data behind the end of the file at {self._size:#x}")

    def _check_size(self) -> None:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        if size != self._size:
            self._fail(min(size, self._size), f"size is {size:#x}, should be {self._size:#x}")

    def _compare(self, offset: int, found: Bytes) -> None:
        expected = self._good[offset : offset + len(found)]
        if np.array_equal(found, expected):
            return
        wrong = np.flatnonzero(found != expected)
        at = int(wrong[0])
        self._fail(
            offset + at,
            f"{len(wrong):#x} bytes differ, the first at {offset + at:#x}: "
            f"{found[at]:#04x} instead of {expected[at]:#04x}",
        )

    def _fail(self, byte: int, reason: str) -> None:
        lines = [entry.line(number, byte) for number, entry in enumerate(self._log, start=1)]
        log, good = self._directory / "fsx.log", self._directory / "fsx.expected"
        log.write_text("\n".join([reason, *lines, ""]))
        good.write_bytes(self.expected)
        recent = "\n".join(line for line in lines[-4000:] if "***" in line)
        raise MismatchError(f"{reason}\nwhat touched it:\n{recent}\nall of it: {log}, {good}")

    def _note(self, name: str, offset: int, length: int, note: str = "") -> None:
        self.counts[name] += 1
        self._log.append(_Entry(name, offset, length, note or ("direct" if self._direct else "")))


def main() -> int:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.fsx", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--size", type=int, help="of a file that may grow, in bytes")
    parser.add_argument("--longest", type=int, default=defaults.longest_bytes)
    parser.add_argument("--fixed-size", action="store_true", help="a device, a volume")
    parser.add_argument("--discard", action="store_true", help="also where the size is fixed")
    parser.add_argument("--buffered", action="store_true", help="never O_DIRECT")
    parser.add_argument("--alignment", type=int, default=defaults.alignment)
    parser.add_argument("--no-shared-mapping", action="store_true")
    arguments = parser.parse_args()
    size_bytes = arguments.size or defaults.size_bytes
    if arguments.fixed_size:
        with arguments.file.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
    options = Options(
        seed=arguments.seed,
        operations=arguments.operations,
        size_bytes=size_bytes,
        longest_bytes=min(arguments.longest, size_bytes),
        fixed_size=arguments.fixed_size,
        deallocates=arguments.discard,
        direct=not arguments.buffered,
        alignment=arguments.alignment,
        map_write=not arguments.no_shared_mapping,
    )
    try:
        counts = Exerciser(arguments.file, options).run()
    except (MismatchError, OSError) as error:
        print(error, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 1
    done = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"seed {arguments.seed}: {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
