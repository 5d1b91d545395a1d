"""How values look to a person or in JSON."""

from datetime import UTC, datetime


def iso_time(seconds: float) -> str:
    """`2026-01-31T12:00:00Z`, as AWS writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_time(seconds: float) -> str:
    """`2026-01-31 12:00:00 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_iso_time(text: str) -> str:
    """As `format_time`, for one that was written by `iso_time` or by the audit log."""
    return format_time(datetime.fromisoformat(text).timestamp())
