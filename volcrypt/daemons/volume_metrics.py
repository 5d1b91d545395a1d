"""The figures of volumes and snapshots, as a monitoring system reads them."""

from typing import Final

from volcrypt.daemons.openmetrics import Families, Figures
from volcrypt.formats.job import JobKind
from volcrypt.operations.metrics import HomeFigures, VolumeFigures
from volcrypt.volume.control_messages import MigrationState, Phase, StatusAnswer
from volcrypt.volume.request_stats import LATENCY_BOUNDS
from volcrypt.volume.write_counter import BUDGET_BYTES

_PHASES: Final[tuple[Phase, ...]] = ("copy", "verify", "prepared")


def volume_families(found: HomeFigures) -> Families:
    figures = Figures()
    figures.gauge("volcrypt_home_free_bytes", "Room under the home.", found.free_bytes)
    figures.gauge(
        "volcrypt_volumes_silent",
        "Processes of volumes that gave no answer: killed, or hanging.",
        found.silent,
    )
    for kind in JobKind:
        jobs = [job for job in found.jobs if job.record is not None and job.record.kind is kind]
        pending = [job for job in jobs if job.is_pending]
        progress = [job.progress for job in pending if job.progress is not None]
        figures.gauge(
            "volcrypt_snapshots_in_flight",
            "Snapshots that are being made.",
            len(pending),
            kind=kind.value,
        )
        figures.gauge(
            "volcrypt_snapshots_left_bytes",
            "What they still have to look at.",
            sum(max(0, (each.total_bytes or 0) - each.done_bytes) for each in progress),
            kind=kind.value,
        )
        figures.gauge(
            "volcrypt_snapshots_failed",
            "Snapshots that were not completed, and are still listed.",
            len(jobs) - len(pending),
            kind=kind.value,
        )
    for volume in found.volumes:
        _volume(figures, volume)
    return figures.families()


def _volume(figures: Figures, volume: VolumeFigures) -> None:
    status, metrics = volume.status, volume.metrics
    label = status.snapshot_id or status.volume_id
    figures.info(
        "volcrypt_volume",
        "A volume, or mounted snapshot, that is served.",
        {
            "name": status.name or "",
            "data_plane": status.data_plane,
            "encrypted": _yes(status.encrypted),
            "read_only": _yes(status.read_only),
        },
        volume=label,
    )
    figures.gauge("volcrypt_volume_size_bytes", "Its size.", status.size_bytes, volume=label)
    for name, help_, value in _states(status):
        figures.gauge(f"volcrypt_volume_{name}", help_, value, volume=label)
    for check in status.checks:
        figures.gauge(
            "volcrypt_volume_check_unanswered",
            "1 while nobody can tell whether it keeps its key or lease.",
            check.unanswered_since is not None,
            volume=label,
            check=check.check,
        )
    if status.lazy is not None:
        figures.gauge(
            "volcrypt_volume_lazy_chunks",
            "Chunks of 512 KiB of its snapshot.",
            status.lazy.total_chunks,
            volume=label,
        )
        figures.gauge(
            "volcrypt_volume_lazy_present_chunks",
            "Those that are here.",
            status.lazy.present_chunks,
            volume=label,
        )
        figures.gauge(
            "volcrypt_volume_lazy_problem",
            "1 while some of them cannot be had.",
            status.lazy.problem is not None,
            volume=label,
        )
    if status.migration is not None:
        _migration(figures, label, status.migration)
    if metrics is None:
        return
    if metrics.free_bytes is not None:
        figures.gauge(
            "volcrypt_volume_free_bytes",
            "Room in the file system under its data.",
            metrics.free_bytes,
            volume=label,
        )
    if metrics.encrypted_bytes is not None:
        figures.gauge(
            "volcrypt_volume_encrypted_bytes",
            "What was encrypted under its data key, at most.",
            metrics.encrypted_bytes,
            volume=label,
        )
        figures.gauge(
            "volcrypt_volume_encrypted_limit_bytes",
            "What one data key should encrypt.",
            BUDGET_BYTES,
            volume=label,
        )
    for counts in metrics.requests:
        labels = {
            "volume": label,
            "operation": counts.operation,
            "data_plane": counts.data_plane,
        }
        figures.times(
            "volcrypt_volume_request_seconds",
            "Requests, and how long they took.",
            LATENCY_BOUNDS,
            counts.latencies,
            counts.nanoseconds,
            **labels,
        )
        figures.count(
            "volcrypt_volume_moved_bytes",
            "What was read, written and discarded.",
            counts.moved_bytes,
            **labels,
        )
        figures.count(
            "volcrypt_volume_request_errors",
            "Requests that got an error.",
            counts.errors,
            **labels,
        )


def _migration(figures: Figures, label: str, state: MigrationState) -> None:
    """Of `encrypt --online` and `rekey`, from their begin to the switch."""
    for phase in _PHASES:
        figures.gauge(
            "volcrypt_volume_migration_phase",
            "1 for what its encryption or change of data keys is at.",
            state.phase == phase,
            volume=label,
            phase=phase,
        )
    for name, help_, value in (
        ("chunks", "Chunks of 512 KiB that it goes through.", state.chunks),
        ("copied_chunks", "Those that are under the new key, too.", state.cursor),
        ("verified_chunks", "Those that were compared in this session.", state.verified),
        ("paused", "1 while it is paused.", state.paused),
        ("problem", "1 when it was given up: the command says why.", state.problem is not None),
        ("longest_write_seconds", "The longest that a write took meanwhile.", state.worst_us / 1e6),
    ):
        figures.gauge(f"volcrypt_volume_migration_{name}", help_, value, volume=label)


def _states(status: StatusAnswer) -> list[tuple[str, str, float]]:
    return [
        ("fenced", "1 when it was fenced: its key or lease is lost.", status.fenced is not None),
        ("sync_failed", "1 when writes were lost, and none are taken.", status.sync_failed),
        ("writes_wait", "1 while writes wait for its lease.", status.writes_wait),
        ("kept", "1 when it stays mounted through a crash of its process.", status.kept),
        ("memory_locked", "1 when its key cannot go to swap.", status.memory_locked),
        ("snapshot_running", "1 while a snapshot of it is being taken.", status.capture_running),
        (
            "snapshot_longest_wait_seconds",
            "The longest that a write waited for a snapshot.",
            status.preserve_longest_us / 1e6,
        ),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
