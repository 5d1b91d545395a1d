"""What a snapshot is while it is being made, and when whoever made it is gone."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.file_system import DisposableFileSystem
from tests.formats.test_job import COPY, JOB
from volcrypt.errors import (
    NameTakenError,
    NoSpaceError,
    SnapshotFailedError,
    SnapshotNotFoundError,
    SnapshotPendingError,
    TryAgainError,
)
from volcrypt.formats.job import JobRecord, encode_job
from volcrypt.names import SnapshotId, VolumeId, make_snapshot_id
from volcrypt.operations.held_jobs import hold_jobs
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import make_runtime_directory
from volcrypt.operations.job_progress import (
    JobProgress,
    JobReporter,
    progress_path,
    read_progress,
)
from volcrypt.operations.jobs import (
    Job,
    find_job,
    load_jobs,
    pending_job_of,
    remove_job,
    stop_job,
    wait_for_job,
)
from volcrypt.operations.leftovers import forget_jobs
from volcrypt.operations.workflows import copy_cursor_path
from volcrypt.settings import runtime_root
from volcrypt.volume.owner import boot_id

ID = SnapshotId("snap-0123456789abcdef0")


@pytest.fixture(autouse=True)
def runtime(home: Home) -> Path:
    make_runtime_directory(home.runtime, home=home.path)
    return home.runtime


def record(number: int = 0, **changes: object) -> JobRecord:
    members = {
        "snapshot_id": ID if number == 0 else make_snapshot_id(bytes([number] * 9)),
        "name": None,
        "together": (),
        "boot_id": boot_id(),
        "pid": os.getpid(),
    }
    return msgspec.structs.replace(JOB, **(members | changes))


def found(home: Home, snapshot: str = ID) -> Job:
    job = find_job(home, snapshot)
    assert job is not None
    return job


@contextmanager
def in_another_process(home: Home, body: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the job `ID` and then does `body`; it has said "ready" by then."""
    program = f"""
import sys, time
from pathlib import Path
from tests.operations.test_jobs import record
from volcrypt.operations.held_jobs import hold_jobs
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import JobReporter
from volcrypt.settings import runtime_root
home = Home(Path({str(home.path)!r}), runtime_root())
with hold_jobs(home, [record()]) as jobs:
    job = jobs[0]
    reporter = JobReporter(home, job.record.snapshot_id)
    print("ready", flush=True)
{body}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_job_that_is_held_is_pending_and_one_that_is_not_has_failed(home: Home) -> None:
    assert load_jobs(home) == []
    with hold_jobs(home, [record(name="nightly")]) as jobs:
        assert found(home).is_pending
        assert found(home, "nightly").snapshot_id == ID
        assert pending_job_of(home, JOB.volume_id) is not None
        with pytest.raises(SnapshotPendingError, match="still being made") as pending:
            raise found(home).error()
        assert pending.value.hint == f"volcrypt snapshot wait {ID}"
        jobs[0].update(captured_at=7)
        assert found(home).record == jobs[0].record
    job = found(home)
    assert job.reason == "its process was killed"
    assert pending_job_of(home, JOB.volume_id) is None
    with pytest.raises(SnapshotFailedError, match="its process was killed"):
        raise job.error()
    remove_job(home, ID)
    assert load_jobs(home) == []
    with pytest.raises(SnapshotNotFoundError):
        remove_job(home, ID)


def test_what_a_job_says_of_its_end(home: Home) -> None:
    with hold_jobs(home, [record()]) as jobs:
        jobs[0].fail("no space left for the store")
    assert found(home).reason == "no space left for the store"
    with hold_jobs(home, [record(1, boot_id="of another day")]):
        assert found(home, make_snapshot_id(bytes([1] * 9))).is_pending
    other = found(home, make_snapshot_id(bytes([1] * 9)))
    assert other.reason == "the host went down while it was being made"


def test_nobody_ever_sees_a_job_without_its_holder(home: Home) -> None:
    """It is replaced again and again while others look at it and begin jobs of their own."""
    wrong: list[Job | None] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            job = find_job(home, ID)
            if job is None or not job.is_pending or job.record is None:
                wrong.append(job)

    with hold_jobs(home, [record()]) as jobs:
        lookers = [threading.Thread(target=look) for _ in range(3)]
        for looker in lookers:
            looker.start()
        for number in range(60):
            jobs[0].update(captured_at=number)
        stop.set()
        for looker in lookers:
            looker.join()
    assert wrong == []


def test_names_and_volumes_of_pending_snapshots_are_taken(home: Home) -> None:
    other_volume = VolumeId("vol-11111111111111111")
    with hold_jobs(home, [record(name="nightly")]):
        with (
            pytest.raises(NameTakenError),
            hold_jobs(home, [record(1, name="nightly", volume_id=other_volume)]),
        ):
            pass
        with (
            pytest.raises(TryAgainError, match="still being made") as busy,
            hold_jobs(home, [record(1)]),
        ):
            pass
        assert busy.value.hint == f"volcrypt snapshot wait {ID}"
        # A set is announced as a whole or not at all.
        with (
            pytest.raises(NameTakenError),
            hold_jobs(
                home,
                [
                    record(2, volume_id=other_volume),
                    record(3, name="nightly", volume_id=VolumeId("vol-22222222222222222")),
                ],
            ),
        ):
            pass
        assert [job.snapshot_id for job in load_jobs(home)] == [ID]
        with hold_jobs(home, [record(4, volume_id=other_volume, name="other")]):
            assert len(load_jobs(home)) == 2
    # What failed keeps neither; a name means the one that is being made.
    with hold_jobs(home, [record(5, name="nightly")]):
        assert found(home, "nightly").is_pending


def test_what_a_kill_left_of_the_first_record_goes_with_the_next_job(home: Home) -> None:
    """That of a job that is there is its holder's business: it may be about to be put in place."""
    with hold_jobs(home, [record()]):
        replaced = home.jobs_path / f".{ID}.new"
        killed = home.jobs_path / f".{make_snapshot_id(bytes([9] * 9))}.new"
        for path in (replaced, killed):
            path.write_bytes(b"half a record")
        with hold_jobs(home, [record(1, volume_id=VolumeId("vol-11111111111111111"))]):
            assert not killed.exists()
            assert replaced.exists()
    with hold_jobs(home, [record(2, volume_id=VolumeId("vol-22222222222222222"))]):
        assert replaced.exists()


def copy_record(number: int = 0, **changes: object) -> JobRecord:
    return record(number, **({"origin": COPY.origin} | changes))


def test_a_copy_takes_its_id_and_its_name_and_no_volume(home: Home) -> None:
    with hold_jobs(home, [copy_record(name="away")]):
        assert found(home).is_pending
        assert pending_job_of(home, JOB.volume_id) is None
        with pytest.raises(SnapshotPendingError), hold_jobs(home, [copy_record()]):
            pass
        with pytest.raises(NameTakenError), hold_jobs(home, [copy_record(1, name="away")]):
            pass
        with hold_jobs(home, [copy_record(1)]), hold_jobs(home, [record(2)]):
            assert len(load_jobs(home)) == 3
            assert pending_job_of(home, JOB.volume_id) is not None
        with pytest.raises(SnapshotPendingError), hold_jobs(home, [copy_record(3), copy_record()]):
            pass
        assert find_job(home, make_snapshot_id(bytes([3] * 9))) is None
    assert not found(home).is_pending
    with hold_jobs(home, [copy_record(name="home")]):
        assert (found(home).is_pending, found(home, "home").snapshot_id) == (True, ID)


def test_a_copy_that_was_not_completed_says_how_it_goes_on(home: Home) -> None:
    with hold_jobs(home, [copy_record()]) as jobs:
        jobs[0].fail("no space left for the store")
    assert COPY.origin is not None
    for cursor, words in ((False, "removes what"), (True, f"copy {COPY.origin.snapshot_id} ...'")):
        if cursor:
            copy_cursor_path(home, ID).touch()
        assert words in (found(home).error().hint or "")
    # One that has no cursor was told to nobody.
    forget_jobs(home)
    assert found(home).reason == "no space left for the store"
    copy_cursor_path(home, ID).unlink()
    forget_jobs(home)
    assert find_job(home, ID) is None


def test_damaged_records_are_shown_and_can_be_removed(home: Home) -> None:
    with hold_jobs(home, [record()]):
        pass
    path = home.jobs_path / ID
    path.write_bytes(encode_job(record())[:50])
    job = found(home)
    assert job.record is None
    assert job.reason is not None
    assert "truncated or damaged" in job.reason
    remove_job(home, ID)
    os.mkfifo(path)
    assert "not a regular file" in (found(home).reason or "")
    path.unlink()
    (home.jobs_path / "else").write_bytes(b"")
    assert load_jobs(home) == []


def test_a_failure_is_told_when_the_disk_is_full(home: Home, ext4: DisposableFileSystem) -> None:
    shutil.copytree(home.path, ext4.directory / "home")
    with Home(ext4.directory / "home", runtime_root()) as small:
        make_runtime_directory(small.runtime, home=small.path)
        with hold_jobs(small, [record()]) as jobs:
            ext4.fill()
            with pytest.raises(NoSpaceError):
                jobs[0].update(captured_at=7)
            assert found(small).is_pending
            jobs[0].fail("no space left for the store")
        assert found(small).reason == "no space left for the store"
        (ext4.directory / "ballast").unlink()
        remove_job(small, ID)
        assert not list(small.runtime.glob(f"*{ID}*"))
        shutil.rmtree(small.runtime)


def test_waiting_ends_when_the_holder_does(home: Home) -> None:
    with in_another_process(home, "    sys.stdin.readline()\n    job.remove()") as process:
        looks = wait_for_job(home, ID, deadline=None)
        assert next(looks).is_pending
        process.communicate("end\n")
        assert all(job.is_pending for job in looks)
    assert find_job(home, ID) is None


def test_waiting_ends_when_the_time_is_over(home: Home) -> None:
    with hold_jobs(home, [record()]), pytest.raises(SnapshotPendingError):
        list(wait_for_job(home, ID, deadline=0))


@pytest.mark.parametrize(
    "body",
    [
        "    time.sleep(600)",
        "    import signal\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(600)",
    ],
)
def test_a_job_is_stopped_whether_its_process_listens_or_not(home: Home, body: str) -> None:
    with in_another_process(home, body) as process:
        stop_job(home, ID, patience_seconds=0.5)
        assert process.wait(10) in (-signal.SIGTERM, -signal.SIGKILL)
    assert found(home).reason == "its process was killed"
    stop_job(home, ID)  # it is stopped


def test_only_the_process_that_makes_the_snapshot_is_stopped(home: Home) -> None:
    """Its number may belong to another one by now; and who writes to storage has no say in it."""
    with subprocess.Popen(["sleep", "600"]) as innocent:
        with hold_jobs(home, [record(pid=innocent.pid)]) as jobs:
            with pytest.raises(TryAgainError, match="just beginning"):
                stop_job(home, ID)
            report = JobProgress.own(pid=innocent.pid)  # with the start of another process
            report.write(progress_path(home, ID))
            with pytest.raises(TryAgainError, match="does not end"):
                stop_job(home, ID, patience_seconds=0.2)
            assert innocent.poll() is None
            jobs[0].remove()
        innocent.kill()


def test_progress_is_told_about_once_a_second(home: Home) -> None:
    now = [100.0]
    reporter = JobReporter(home, ID, clock=lambda: now[0])
    first = read_progress(home, ID)
    assert first is not None
    assert (first.pid, first.total_bytes, first.seconds_left) == (os.getpid(), None, None)
    reporter.begin("storing", 1000)
    for step in range(1, 11):
        now[0] += 0.3
        reporter.advance(step * 30)
    told = read_progress(home, ID)
    assert told is not None
    # The first step at once, then at 1.5 and 2.7 seconds.
    assert (told.total_bytes, told.done_bytes, told.bytes_per_second) == (1000, 270, 100)
    assert told.seconds_left == 7
    job = Job(snapshot_id=ID, record=None, reason=None, progress=told)
    assert job.percent == 27
    done = msgspec.structs.replace(told, done_bytes=1000)
    assert Job(snapshot_id=ID, record=None, reason=None, progress=done).percent == 99


def test_without_what_is_on_tmpfs_a_job_is_still_one(home: Home) -> None:
    with hold_jobs(home, [record()]) as jobs:
        JobReporter(home, ID)
        progress_path(home, ID).unlink()
        assert (found(home).is_pending, found(home).percent) == (True, 0)
        jobs[0].remove()
    assert find_job(home, ID) is None
