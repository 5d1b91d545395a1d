"""The figures of a volume, made of what the process that serves it says."""

from typing import Any

import pytest

from tests.metrics_page import Page, names, parsed, value
from volcrypt.daemons.openmetrics import render
from volcrypt.daemons.volume_metrics import volume_families
from volcrypt.names import DataKeyId, VolumeId
from volcrypt.operations.metrics import HomeFigures, VolumeFigures
from volcrypt.volume.control_messages import MigrationState, Phase, StatusAnswer

VOLUME = VolumeId("vol-0123456789abcdef0")


def page(**status: Any) -> Page:
    answer = StatusAnswer(
        volume_id=VOLUME,
        name="orders",
        pid=7,
        size_bytes=2**20,
        mount_directory="/nowhere",
        read_only=False,
        encrypted=True,
        memory_locked=True,
        capture_running=False,
        parent=None,
        **status,
    )
    found = VolumeFigures(status=answer, metrics=None)
    home = HomeFigures(volumes=[found], silent=0, jobs=[], free_bytes=1)
    return parsed(render(volume_families(home))[0].decode())


def migration(phase: Phase, *, paused: bool = False, problem: str | None = None) -> MigrationState:
    return MigrationState(
        migration=bytes(16),
        phase=phase,
        source_key_id=None,
        target_key_id=DataKeyId("dk-0123456789abcdef0"),
        chunks=200,
        cursor=150,
        durable=140,
        verified=30,
        to_repeat=0,
        copied_bytes=1,
        busy_seconds=1.0,
        rate_bytes=None,
        paused=paused,
        problem=problem,
        writes=1,
        p50_us=1,
        p99_us=2,
        worst_us=74_000,
    )


def test_how_far_a_migration_is() -> None:
    found = page(migration=migration("verify", paused=True))
    for name, wanted in (
        ("chunks", 200),
        ("copied_chunks", 150),
        ("verified_chunks", 30),
        ("paused", 1),
        ("problem", 0),
        ("longest_write_seconds", 0.074),
    ):
        assert value(found, f"volcrypt_volume_migration_{name}", volume=VOLUME) == wanted, name
    for phase in ("copy", "verify", "prepared"):
        at = value(found, "volcrypt_volume_migration_phase", volume=VOLUME, phase=phase)
        assert at == (phase == "verify")
    failed = page(migration=migration("copy", problem="no space left"))
    assert value(failed, "volcrypt_volume_migration_problem", volume=VOLUME) == 1


def test_without_a_migration_there_is_nothing_of_one() -> None:
    assert not [name for name in names(page()) if "migration" in name]


@pytest.mark.parametrize("kept", [True, False])
def test_whether_a_crash_keeps_the_mount(kept: bool) -> None:
    assert value(page(kept=kept), "volcrypt_volume_kept", volume=VOLUME) == kept
