"""The figures of a home's volumes and snapshots, for a monitoring system. Asks no KMS and no store:
a scrape leaves nothing on the audit log and needs no PIN."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.errors import MalformedError, MountError, PrivilegeError, TryAgainError
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import Job, load_jobs
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import MetricsAnswer, StatusAnswer

_CALLERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFigures:
    """What the process that serves it says; `metrics` is None of one that cannot."""

    status: StatusAnswer
    metrics: MetricsAnswer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeFigures:
    """`silent`: how many processes that should serve a volume give no answer. `jobs` are snapshots
    that are being made, or failed."""

    volumes: list[VolumeFigures]
    silent: int
    jobs: list[Job]
    free_bytes: int


def read_figures(home: Home) -> HomeFigures:
    """As of now. A process that does not answer within some seconds is passed over."""
    sockets = sorted(home.runtime.glob("vol-*.sock"))
    # Beside each other: of several that hang, each is waited for.
    with ThreadPoolExecutor(max_workers=_CALLERS) as callers:
        answers = list(zip(sockets, callers.map(_ask, sockets), strict=True))
    space = os.statvfs(home.path)
    return HomeFigures(
        volumes=[answer for _, answer in answers if answer is not None],
        # One that has just ended takes its socket with it.
        silent=sum(answer is None and path.exists() for path, answer in answers),
        jobs=load_jobs(home),
        free_bytes=space.f_bavail * space.f_frsize,
    )


def _ask(path: Path) -> VolumeFigures | None:
    try:
        with ControlClient(path, volume=path.stem) as control:
            status = control.status()
            try:
                metrics = control.metrics()
            except MalformedError:
                metrics = None  # a process from before an upgrade does not know the question
    except (MountError, TryAgainError, PrivilegeError, MalformedError):
        return None
    return VolumeFigures(status=status, metrics=metrics)
