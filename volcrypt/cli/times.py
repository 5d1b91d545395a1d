"""Times as people and scripts write them."""

from datetime import UTC, datetime

from volcrypt.errors import InvalidArgumentError


def read_time(text: str) -> float:
    """Seconds since 1970-01-01 UTC, from such a number or an ISO 8601 time; UTC where it does not
    say otherwise."""
    try:
        seconds = float(text) if text.isascii() and _is_number(text) else _from_iso(text)
        datetime.fromtimestamp(seconds, UTC)  # of a year that there is
        return seconds
    except (ValueError, OverflowError, OSError):  # the last from years that C does not know
        raise InvalidArgumentError(
            f"{text!r} is no time", hint="like 2026-01-31T12:00:00Z, or seconds since 1970"
        ) from None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _from_iso(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
