"""The PIN of a token while a process holds it: in memory of its own that is locked and wiped.

The one place where a PIN waits: a token that went away is logged in to again without asking. The
page is kept out of swap and of core files, as far as the limits of the process allow. A login needs
the PIN as text for a moment; that copy is the interpreter's, and is not wiped.
"""

import ctypes
import mmap
from collections.abc import Callable
from typing import Final, Self

from volcrypt.errors import InvalidArgumentError

MAX_BYTES: Final = 255
_MIN_BYTES: Final = 4
_libc = ctypes.CDLL(None, use_errno=True)


class HeldPin:
    """A copy of a PIN. Never printed, compared or serialised; use it as a context manager."""

    __slots__ = ("_length", "_page")

    def __init__(self, pin: bytearray) -> None:
        """Raises InvalidArgumentError for a PIN that no token takes."""
        check_pin(pin)
        self._length = len(pin)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._page.madvise(mmap.MADV_DONTDUMP)
        self._call_on_page(_libc.mlock)  # where the limits forbid it, it is held all the same
        self._page[: self._length] = bytes(pin)

    def __repr__(self) -> str:
        return "<HeldPin>"

    def __reduce__(self) -> tuple[()]:
        raise TypeError("a PIN is never serialised")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def text(self) -> str:
        """The PIN, for one login."""
        if self._page.closed:
            raise ValueError("the PIN was wiped")
        with memoryview(self._page) as page:
            return str(page[: self._length], "utf-8")

    def wipe(self) -> None:
        if not self._page.closed:
            self._page[:] = bytes(mmap.PAGESIZE)
            self._call_on_page(_libc.munlock)
            self._page.close()

    def _call_on_page(self, function: Callable[[ctypes.c_void_p, ctypes.c_size_t], object]) -> None:
        first = ctypes.c_char.from_buffer(self._page)
        function(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(mmap.PAGESIZE))


def check_pin(pin: bytearray) -> None:
    """Raises InvalidArgumentError for a PIN that no token would take."""
    try:
        pin.decode()
    except UnicodeDecodeError:
        # Not chained: the cause would show bytes of the PIN.
        raise InvalidArgumentError("the PIN is not valid UTF-8 text") from None
    if not _MIN_BYTES <= len(pin) <= MAX_BYTES or 0 in pin:
        raise InvalidArgumentError(f"the PIN must have {_MIN_BYTES} to {MAX_BYTES} bytes")
