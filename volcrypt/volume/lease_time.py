"""How long a lease is trusted, and by which clock. No trio here: commands use it too."""

import time
from fractions import Fraction
from typing import Final

TRUST_SECONDS: Final = 60.0
"""So long after a lease was seen to be held it is written under it."""


def boot_seconds() -> float:
    """Seconds since the machine started, also those in which it slept; alike in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def whole_nanoseconds(boot_seconds: float) -> int:
    """The last whole nanosecond that is not later; 0 before the start."""
    return int(Fraction(boot_seconds) * 10**9) if boot_seconds > 0 else 0
