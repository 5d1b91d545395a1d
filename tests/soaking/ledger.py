"""What every unit of a volume must read as: its own number, and that of the write that was last."""

from typing import Final

import numpy as np
import numpy.typing as npt

UNIT_BYTES: Final = 4096
_WORDS: Final = UNIT_BYTES // 16

Numbers = npt.NDArray[np.uint64]


class Ledger:
    """Writes have numbers from 1; 0 is what was never written, or was discarded: zeros."""

    def __init__(self, units: int, *, tag: int) -> None:
        self.last: Numbers = np.zeros(units, dtype=np.uint64)
        self._tag = np.uint64(tag << 40)
        self._number = 0

    @property
    def units(self) -> int:
        return len(self.last)

    def grow(self, units: int) -> None:
        self.last = np.concatenate([self.last, np.zeros(units - self.units, dtype=np.uint64)])

    def write(self, first: int, count: int) -> bytes:
        """The bytes of the next write to these units, which counts from now."""
        self._number += 1
        self.last[first : first + count] = self._number
        return self.content(first, count)

    def discard(self, first: int, count: int) -> None:
        self.last[first : first + count] = 0

    def copy(self) -> Numbers:
        return self.last.copy()

    def content(self, first: int, count: int, *, last: Numbers | None = None) -> bytes:
        """What the units hold, as of `last`."""
        numbers = (self.last if last is None else last)[first : first + count]
        content = np.empty((count, _WORDS, 2), dtype="<u8")
        content[:, :, 0] = numbers[:, None]
        content[:, :, 1] = (np.arange(first, first + count, dtype=np.uint64) | self._tag)[:, None]
        content[numbers == 0] = 0
        return content.tobytes()

    def check(self, data: bytes, first: int = 0, *, last: Numbers | None = None) -> None:
        """Fail, saying which unit it is, unless these are the units from `first` on."""
        count = len(data) // UNIT_BYTES
        expected = self.content(first, count, last=last)
        if data == expected:
            return
        for unit in range(count):
            place = slice(unit * UNIT_BYTES, (unit + 1) * UNIT_BYTES)
            if data[place] != expected[place]:
                found = np.frombuffer(data[place], dtype="<u8")[:2]
                wanted = np.frombuffer(expected[place], dtype="<u8")[:2]
                raise AssertionError(f"unit {first + unit} has {found}, not {wanted}")
        raise AssertionError(f"{len(data)} bytes at unit {first}")
