"""What `status --watch` draws: one screen of a home's state. Draws, and knows no terminal."""

from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from volcrypt.cli.migration_view import percent, rate_fields, step_text
from volcrypt.cli.snapshot_view import original_of, progress_fields
from volcrypt.cli.status_view import place_text, use_warnings
from volcrypt.cli.volume_view import filled_text, key_text
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import format_size
from volcrypt.operations.live_status import LiveStatus, Rate, use_id
from volcrypt.operations.uses import InUse

_OLD_SECONDS: Final = 90.0
_HEADING: Final = "bold"
_LEAST_ROOM: Final = 3
"""For a table with one line."""
_FLEXIBLE: Final = ("VOLUME", "MOUNTED ON", "SNAPSHOT", "FILLED", "ENCRYPTED", "STEP")
"""Columns that are cut first when a window is narrow: rich takes from those that may wrap, and what
is in them says that it does not."""


def frame(live: LiveStatus, *, height: int, now: float) -> RenderableType:
    """At most `height` lines; `now` in seconds since 1970. What does not fit is counted."""
    status = live.status
    warnings = [*status.warnings, *use_warnings(status)]
    if live.problem is not None or live.age_seconds > _OLD_SECONDS:
        why = f": {live.problem}" if live.problem else ""
        warnings.insert(0, f"keys and stores were last looked at {live.age_seconds:.0f} s ago{why}")
    parts: list[RenderableType] = [_title(live, now), _summary(live)]
    room = height - len(parts)
    if room < _LEAST_ROOM:
        return Group(*parts[:height])
    most = room // 3
    # An empty line and a heading; notes have none.
    jobs = min(len(status.pending) + 2, most) if status.pending and most >= _LEAST_ROOM else 0
    notes = min(len(warnings) + 1, most) if warnings and most > 1 else 0
    moving = [use for use in status.in_use if use.migration is not None]
    most = (room - jobs - notes) // 2
    migrations = min(len(moving) + 2, most) if moving and most >= _LEAST_ROOM else 0
    parts += _volumes(live, room - jobs - notes - migrations)
    if migrations:
        parts += _migrations(live, moving, migrations)
    if jobs:
        parts += _snapshots(live, jobs)
    if notes:
        parts += [Text(), *_lines(warnings, notes - 1)]
    return Group(*parts)


def _title(live: LiveStatus, now: float) -> Text:
    time = datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S UTC")
    text = Text(
        f"volcrypt  {live.status.home}  ", style=_HEADING, no_wrap=True, overflow="ellipsis"
    )
    return text.append(f"{live.status.region}  {time}  q ends", style="not bold dim")


def _summary(live: LiveStatus) -> Text:
    status = live.status
    keys = "-" if status.keys is None else str(status.keys)
    return Text(
        f"volumes {status.volumes}, {status.volumes_in_use} in use, "
        f"{status.unencrypted_volumes} not encrypted  snapshots {status.snapshots}  keys {keys}  "
        f"free {format_size(status.free_bytes)}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_HEADING)
    for name in columns:
        table.add_column(
            name,
            no_wrap=name not in _FLEXIBLE,
            overflow="ellipsis",
            justify="right" if name in right else "left",
        )
    return table


def _volumes(live: LiveStatus, lines: int) -> list[RenderableType]:
    """What is in use first; names are shown as they are, whatever is in them."""
    used = {use_id(use): use for use in live.status.in_use}
    by_id: dict[str, VolumeRecord] = {record.volume_id: record for record in live.records}
    idle = [record for key, record in by_id.items() if key not in used]
    rows = [_row(by_id.get(key), use, live.rates.get(key)) for key, use in used.items()]
    rows += [_row(record, None, None) for record in sorted(idle, key=lambda each: each.name or "")]
    room = lines - 2
    table = _table(
        "VOLUME", "SIZE", "KEY", "IN USE BY", "MOUNTED ON", "READ/S", "WRITE/S", "FILLED",
        right=("SIZE", "READ/S", "WRITE/S"),
    )  # fmt: skip
    shown = rows if len(rows) <= room else rows[: room - 1]
    for row in shown:
        table.add_row(*row)
    more = len(rows) - len(shown)
    return [Text(), table, *([_more(more)] if more else [])]


def _row(record: VolumeRecord | None, use: InUse | None, rate: Rate | None) -> list[Text]:
    name = (record.name or record.volume_id) if record is not None else ""
    if use is not None and not name:
        name = use.name or use_id(use)
    idle = "dim" if use is None else ""
    place = place_text(use) or use.device or "" if use is not None else ""
    return [
        _flexible(name, style=idle),
        Text(format_size(record.size_bytes) if record is not None else "-", style=idle),
        _key(record, use),
        Text("" if use is None else f"{use.purpose} {use.pid}"),
        _flexible(place),
        Text(_rate(use, None if rate is None else rate.read)),
        Text(_rate(use, None if rate is None else rate.written)),
        _flexible("" if use is None or use.lazy is None else filled_text(use.lazy)),
    ]


def _flexible(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _key(record: VolumeRecord | None, use: InUse | None) -> Text:
    if use is not None and use.fenced is not None:
        return Text("FENCED", style="bold red")
    if use is not None and any(each.unanswered_since is not None for each in use.checks):
        return Text("no answer", style="yellow")
    if record is None:
        return Text("-")
    if not record.is_encrypted:
        return Text("none", style="yellow")
    return Text(key_text(record).rpartition("/")[2][:13])


def _rate(use: InUse | None, rate: float | None) -> str:
    if use is None or use.purpose != "mount":
        return ""
    return "-" if rate is None else format_size(int(rate))


def _snapshots(live: LiveStatus, lines: int) -> list[RenderableType]:
    pending = live.status.pending
    room = lines - 2
    shown = pending if len(pending) <= room else pending[: room - 1]
    table = _table("SNAPSHOT", "OF", "", "DONE", "RATE", "TIME LEFT", right=("DONE", "RATE"))
    for job in shown:
        fields = progress_fields(job)
        name = job.record.name if job.record is not None else None
        table.add_row(
            _flexible(name or job.snapshot_id),
            Text(original_of(job)),
            ProgressBar(total=100, completed=job.percent, width=20),
            Text(fields["progress"]),
            Text(fields.get("rate", "")),
            Text(fields.get("time left", "")),
        )
    more = len(pending) - len(shown)
    return [Text(), table, *([_more(more)] if more else [])]


def _migrations(live: LiveStatus, moving: list[InUse], lines: int) -> list[RenderableType]:
    """Volumes that are encrypted in use, or get another data key."""
    room = lines - 2
    shown = moving if len(moving) <= room else moving[: room - 1]
    table = _table("ENCRYPTED", "STEP", "", "DONE", "RATE", "TIME LEFT", right=("DONE", "RATE"))
    for use in shown:
        state, rate = use.migration, live.rates.get(use_id(use))
        assert state is not None
        fields = rate_fields(state, None if rate is None else rate.migrated)
        table.add_row(
            _flexible(use.name or use_id(use)),
            _flexible(step_text(state)),
            ProgressBar(total=100, completed=percent(state), width=20),
            Text(f"{percent(state)}%"),
            Text(fields.get("rate", "")),
            Text(fields.get("time left", "")),
        )
    more = len(moving) - len(shown)
    return [Text(), table, *([_more(more)] if more else [])]


def _lines(warnings: list[str], room: int) -> list[RenderableType]:
    shown = warnings if len(warnings) <= room else warnings[: room - 1]
    lines: list[RenderableType] = [
        Text(f"note: {each}", style="yellow", no_wrap=True, overflow="ellipsis") for each in shown
    ]
    more = len(warnings) - len(shown)
    if more:
        lines.append(_more(more, ": volcrypt status"))
    return lines


def _more(count: int, where: str = "") -> Text:
    return Text(f"and {count} more{where}", style="dim", no_wrap=True, overflow="ellipsis")
