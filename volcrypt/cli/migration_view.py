"""What `status` says of a volume that is encrypted in use, or gets another data key."""

from typing import TYPE_CHECKING

from volcrypt.cli.session import JsonValue
from volcrypt.cli.snapshot_view import format_duration
from volcrypt.geometry import CHUNK_BYTES, format_size

if TYPE_CHECKING:
    from volcrypt.volume.control_messages import MigrationState

_STEPS = {
    "copy": "copying",
    "verify": "comparing",
    "prepared": "switching",
    "switched": "switching",
}


def migration_document(state: "MigrationState") -> JsonValue:
    """`BytesPerSecond` and `SecondsLeft` are of the copying alone, null in other phases."""
    rate = _copy_rate(state)
    return {
        "Phase": state.phase,
        "Rekeys": state.source_key_id is not None,
        "Chunks": state.chunks,
        "CopiedChunks": state.cursor,
        "VerifiedChunks": state.verified,
        "BytesPerSecond": None if rate is None else int(rate),
        "SecondsLeft": _seconds_left(state, rate),
        "BytesPerSecondLimit": state.rate_bytes,
        "Paused": state.paused,
        "Problem": state.problem,
    }


def percent(state: "MigrationState") -> int:
    """Of the step that it is at."""
    return state.step_chunks * 100 // state.chunks


def step_text(state: "MigrationState") -> str:
    if state.problem is not None:
        return f"has to begin anew: {state.problem}"
    return "paused" if state.paused else _STEPS[state.phase]


def rate_fields(state: "MigrationState", rate: float | None = None) -> dict[str, str]:
    """Rate and time left of the step that it is at, where they are known; `rate` in bytes a second
    is what somebody measured."""
    rate = rate or _copy_rate(state)
    if rate is None or state.paused or state.problem is not None:
        return {}
    left = format_duration(_seconds_left(state, rate))
    return {"rate": f"{format_size(int(rate))}/s", "time left": left}


def progress_text(state: "MigrationState") -> str:
    """`copying 37%, 120 MiB/s, 40 s left`."""
    fields = rate_fields(state)
    figures = [fields["rate"], f"{fields['time left']} left"] if fields else []
    return ", ".join([f"{step_text(state)} {percent(state)}%", *figures])


def _copy_rate(state: "MigrationState") -> float | None:
    if state.phase != "copy" or not state.copied_bytes or not state.busy_seconds:
        return None
    return state.copied_bytes / state.busy_seconds


def _seconds_left(state: "MigrationState", rate: float | None) -> int | None:
    """What was never written takes none, so it is at most that."""
    if not rate:
        return None
    return round((state.chunks - state.step_chunks) * CHUNK_BYTES / rate)
