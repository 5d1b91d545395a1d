"""Checks of `volcrypt doctor` on the clock: signatures, expiries and audit records hang on it."""

import ctypes
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from volcrypt.operations.findings import Finding, note, ok, problem

EARLIEST: Final = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
"""Before there was this program: no clock of a host that has it is right then."""
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
TOLERANCE_SECONDS: Final = 2.0
_SET_IT: Final = "timedatectl set-ntp true, or set it with 'date --set'"


def check_clock(
    *, now: float, uptime: float, is_synchronised: bool | None, last_record: float | None
) -> Iterator[Finding]:
    """`now` in seconds since 1970, `uptime` since the boot (CLOCK_BOOTTIME), `is_synchronised`
    what the kernel says of NTP, None where it cannot be asked; `last_record` when the last audit
    record of the home was written, if there is one."""
    if not EARLIEST <= now <= LATEST:
        yield problem("clock", f"it says {_text(now)}, which cannot be", _SET_IT)
    elif now - uptime < 0:
        yield problem("clock", f"it says {_text(now)}, and the host runs for longer", _SET_IT)
    elif last_record is not None and now < last_record - TOLERANCE_SECONDS:
        yield problem(
            "clock",
            f"it says {_text(now)}, and the last audit record is of {_text(last_record)}: one of "
            "them is wrong",
            _SET_IT,
        )
    elif is_synchronised is False:
        yield note(
            "clock",
            f"it says {_text(now)}, and nobody keeps it: requests to a KMS or bucket are refused "
            "when it is 5 minutes wrong",
            "timedatectl set-ntp true",
        )
    else:
        yield ok("clock", f"{_text(now)}{', synchronised' if is_synchronised else ''}")


class _Timex(ctypes.Structure):
    """The start of `struct timex` (adjtimex(2)), with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_STA_UNSYNC: Final = 0x40


def clock_is_synchronised() -> bool | None:
    """What the kernel says; None where it may not be asked."""
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC


def _text(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} seconds since 1970"
