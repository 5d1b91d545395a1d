"""CallCounts: how often each operation was asked for, how that was answered, and how long it took.

Not for two threads at once. Names that a caller chose are not kept: what is no operation counts as
`Unknown`.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from volcrypt.errors import KmsError, VolcryptError
from volcrypt.kms.protocol import HOME_OPERATIONS, OPERATIONS

LATENCY_BOUNDS: Final = (
    *(250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000),
    *(100_000_000, 250_000_000, 1_000_000_000, 10_000_000_000),
)
"""Nanoseconds."""
DONE: Final = "ok"
UNKNOWN: Final = "Unknown"


class CallCounts:
    """`answers` by operation and answer, which is `DONE` or an error code; `latencies` and
    `nanoseconds` by operation: how many kept each of `LATENCY_BOUNDS` and none before, and at last
    those that kept none, and the sum."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.latencies: dict[str, list[int]] = {}
        self.nanoseconds: Counter[str] = Counter()

    def note(self, operation: str, error: BaseException | None, taken_ns: int) -> None:
        """A request was answered, with an error if there is one."""
        if operation not in OPERATIONS and operation not in HOME_OPERATIONS:
            operation = UNKNOWN
        self.answers[operation, DONE if error is None else code_of(error)] += 1
        latencies = self.latencies.setdefault(operation, [0] * (len(LATENCY_BOUNDS) + 1))
        latencies[bisect_left(LATENCY_BOUNDS, taken_ns)] += 1
        self.nanoseconds[operation] += taken_ns


def code_of(error: BaseException) -> str:
    """What an error is called: as the AWS KMS does, where it has a name for it."""
    if isinstance(error, KmsError):
        return error.code
    return type(error).__name__ if isinstance(error, VolcryptError) else "InternalError"
