"""How long a lease is trusted, and by which clock. No trio here: commands use it too."""

import time
from typing import Final

TRUST_SECONDS: Final = 60.0
"""So long after a lease was seen to be held it is written under it."""


def boot_seconds() -> float:
    """Seconds since the machine started, also those in which it slept; alike in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
