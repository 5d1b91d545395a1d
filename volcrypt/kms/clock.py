"""Observed time: how much time has passed for sure, however the clock of the host is set.

    clock    id = clock    body = Clock

What cannot be undone (deleting a key, destroying expired material) must not happen because
somebody set the clock a year forward, or a broken one came up with another date. So the KMS keeps a
clock of its own in the catalogue, which runs as the host's does, with two exceptions: from one look
to the next it advances by a day at most, and when the host's clock went back it does not advance.
Two looks that are a year apart count as one day.

A *deadline* is over when the date has come by the host's clock and the time until it has been
observed. So a clock that jumps forward brings nothing about; a home that nobody opened for a while
destroys late, never early; and a clock that goes back delays by at most what it went back. Against
somebody who sets the clock again and again, a day at a time, this is no protection; but who can do
that on the host can also delete the home.

Looks are recorded at most once an hour (`RECORD_SECONDS`), and only while there is a deadline to
look out for; in between observed time is computed and not kept. A process that is killed loses less
than an hour of it.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.kms.model import DAY_SECONDS, Deadline
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

CLOCKS: Final = "clock"
_CLOCK_ID: Final = "clock"
LARGEST_STEP_SECONDS: Final = DAY_SECONDS
RECORD_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """`observed` is in seconds, from an arbitrary beginning; `seen` what the host's clock said
    then, in seconds since 1970-01-01 UTC."""

    observed: float
    seen: float


def observed_time(view: View, now: float) -> float:
    """The observed time at `now` by the host's clock."""
    return _advanced(_recorded(view, now), now).observed


def observe(change: Change, now: float) -> float:
    """The same, and recorded."""
    clock = _advanced(_recorded(change, now), now)
    change.put(Item(kind=CLOCKS, id=_CLOCK_ID, body=msgspec.json.encode(clock)))
    return clock.observed


def is_to_be_recorded(view: View, now: float) -> bool:
    """Whether it is time to record a look."""
    return not 0 <= now - _recorded(view, now).seen < RECORD_SECONDS


def deadline(change: Change, *, date: float, now: float) -> Deadline:
    """The deadline at `date`, which is not before `now`."""
    return Deadline(date=date, observed_until=observe(change, now) + (date - now))


def is_over(deadline: Deadline, *, now: float, observed: float) -> bool:
    return now >= deadline.date and observed >= deadline.observed_until


def _recorded(view: View, now: float) -> Clock:
    item = view.get(CLOCKS, _CLOCK_ID)
    if item is None:
        return Clock(observed=0.0, seen=now)
    return item.decoded(Clock)


def _advanced(clock: Clock, now: float) -> Clock:
    step = min(max(now - clock.seen, 0.0), float(LARGEST_STEP_SECONDS))
    return Clock(observed=clock.observed + step, seen=now)
