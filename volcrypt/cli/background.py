"""Snapshots that go on when their command has ended."""

from collections.abc import Sequence

import msgspec

from volcrypt.cli.access import open_home
from volcrypt.cli.session import Session
from volcrypt.formats.job import JobRecord
from volcrypt.operations.background import Starter, in_background
from volcrypt.operations.job_progress import log_path
from volcrypt.operations.progress import SILENT
from volcrypt.operations.snapshot_creation import SnapshotRequest, create_snapshots


class _Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What the command is told by the process that makes the snapshots."""

    jobs: Sequence[JobRecord]


def begin_snapshots(session: Session, request: SnapshotRequest) -> Sequence[JobRecord]:
    """Return when the point in time of the snapshots is fixed; a process of its own goes on.

    Raises what `create_snapshots` raises until then. To be called before the session's home was
    opened: a child must not share what is open in there.
    """
    session.home_path = session.home_path.absolute()  # the process will leave its directory

    def work(starter: Starter) -> None:
        with open_home(session) as home:
            home.check_own_region()

            def begun(jobs: Sequence[JobRecord]) -> None:
                starter.go_on(_Begun(jobs=jobs), log=log_path(home, jobs[0].snapshot_id))

            create_snapshots(home, request, progress=SILENT, begun=begun)

    return msgspec.json.decode(in_background(work), type=_Begun).jobs
