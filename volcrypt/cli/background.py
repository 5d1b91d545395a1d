"""Snapshots and copies that go on when their command has ended."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from volcrypt.cli.access import open_home
from volcrypt.cli.session import JsonValue, Session
from volcrypt.cli.snapshot_view import (
    begun_document,
    begun_fields,
    snapshot_document,
    snapshot_fields,
)
from volcrypt.daemons.journal import fields_of_jobs, log_to_journal
from volcrypt.formats.job import JobRecord
from volcrypt.formats.manifest import Manifest
from volcrypt.operations.background import Starter, in_background
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import log_path
from volcrypt.operations.progress import SILENT
from volcrypt.operations.snapshot_creation import SnapshotRequest, create_snapshots
from volcrypt.operations.stores import store_names

_log: Final = logging.getLogger(__name__)


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
                _tell_journal(jobs)

            create_snapshots(home, request, progress=SILENT, begun=begun)
            _log.info("completed")

    return msgspec.json.decode(in_background(work), type=_Begun).jobs


def _tell_journal(jobs: Sequence[JobRecord]) -> None:
    """In a service, from when the command has ended, messages of this process go there."""
    journal = log_to_journal("volcrypt-snapshot")
    if journal is not None:
        journal.several = fields_of_jobs(jobs)
    _log.info("%s: the data is on its way", ", ".join(job.snapshot_id for job in jobs))


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the command is told by the process that makes a copy, as it is to be shown."""

    snapshot_id: str
    document: dict[str, JsonValue]
    fields: dict[str, str]


def begin_copy(
    session: Session, make: Callable[[Home, Callable[[JobRecord], None]], Manifest]
) -> Shown:
    """Return when a copy that `make` makes has all that it needs, and is pending; a process of its
    own goes on. One that has no data to move is completed on return.

    Raises what `make` raises until then. Customer-provided keys are read by `make`, so they are
    only ever in the memory of the process that uses them; they are wiped when the copy goes on. To
    be called before the session's home was opened.
    """
    session.home_path = session.home_path.absolute()  # the process will leave its directory

    def work(starter: Starter) -> None:
        with open_home(session) as home:
            home.check_own_region()

            def begun(record: JobRecord) -> None:
                home.wipe_customer_keys()
                shown = Shown(
                    snapshot_id=record.snapshot_id,
                    document=begun_document(record),
                    fields=begun_fields(record),
                )
                starter.go_on(shown, log=log_path(home, record.snapshot_id))
                _tell_journal([record])

            made = make(home, begun)
            _log.info("completed")
            if starter.is_waiting:
                names = store_names(home)
                starter.finish(
                    Shown(
                        snapshot_id=made.snapshot_id,
                        document=snapshot_document(made, names),
                        fields=snapshot_fields(made, names),
                    )
                )

    return msgspec.json.decode(in_background(work), type=Shown)
