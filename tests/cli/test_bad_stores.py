"""A bucket that fails in every way, as who types commands sees it: one line that says what is wrong
with which bucket, an exit code that says whether to try again, and no snapshot that is none."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.command import Command, disposable_home
from tests.faulty_proxy import Answer, Fault, FaultyProxy, Request, failure, stalled
from tests.forked import IMPATIENT
from tests.s3_server import BUCKET, S3Server

CHUNKS = 4
SIZE = CHUNKS * 2**19
PREFIX = "bad/stores"
URL = f"s3://{BUCKET}/{PREFIX}"


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as running:
        yield running


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: S3Server,
    proxy: FaultyProxy,
) -> Iterator[Command]:
    """A home with a volume, a snapshot of it in the bucket, and one here."""
    root = tmp_path_factory.mktemp("bad")
    (root / "image").write_bytes(os.urandom(SIZE))
    with pytest.MonkeyPatch.context() as patch, disposable_home(root / "home") as command:
        set_environment(patch, s3_server)
        command.run("init")
        command.run("volume", "import", root / "image", "--name", "data", "--unencrypted")
        command.run("snapshot", "create", "--wait", "data", "--name", "here")
        command.run("store", "create", "far", "--url", URL, "--endpoint", proxy.endpoint)
        command.run("snapshot", "create", "--wait", "data", "--name", "kept", "--store", "far")
        yield command
        assert command.json("snapshot", "verify", "--store", "far")["Damages"] == []
        left = {name.partition("/")[0] for name in s3_server.objects(PREFIX).list("")}
        assert left <= {"store", "certificates", "manifests", "tombstones", "pages", "chunks"}


@pytest.fixture
def command(
    made: Command, proxy: FaultyProxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """The home; afterwards the bucket is well, and holds what it held."""
    set_environment(monkeypatch, s3_server)
    monkeypatch.setenv(IMPATIENT, "1")
    yield made
    proxy.fault = None
    assert listed(made) == {"here": "completed", "kept": "completed"}
    assert list(s3_server.objects(PREFIX).list("pins/")) == []


def set_environment(patch: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_"):
            patch.setenv(name, value)


def rows(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.json("snapshot", "list")["Snapshots"]
    return found


def listed(command: Command) -> dict[str, str]:
    """State by name."""
    return {row["Name"]: row["State"] for row in rows(command)}


# ---------------------------------------------------------------- a bucket that fails


def everywhere(answer: Answer | None) -> Fault:
    return lambda _request, _forward: answer


def on_writes(answer: Answer | None) -> Fault:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer | None:
        return answer if request.method in ("PUT", "DELETE") else forward()

    return fault


def broken_off(request: Request, forward: Callable[[], Answer]) -> Answer:
    answer = forward()
    if request.method == "GET" and answer.body:
        answer.length, answer.body = len(answer.body), answer.body[: len(answer.body) // 2]
    return answer


class Trouble(NamedTuple):
    fault: Fault
    code: int
    says: str
    hint: str = ""


TROUBLES = {
    "missing": Trouble(
        everywhere(failure(404, "NoSuchBucket")), 3, f"bucket {BUCKET} does not", "make the bucket"
    ),
    "fails": Trouble(everywhere(failure(500, "InternalError")), 7, "fails with InternalError"),
    "slow down": Trouble(everywhere(failure(503, "SlowDown")), 7, "SlowDown (503)"),
    "throttles": Trouble(everywhere(failure(429, "TooManyRequests")), 7, "(429)", "--rate"),
    "hangs up": Trouble(everywhere(None), 7, URL),
    "breaks off": Trouble(broken_off, 7, URL),
    "stalls": Trouble(stalled(3), 7, "no answer in time"),
    "unknown key": Trouble(everywhere(failure(403, "InvalidAccessKeyId")), 5, "access key", "aws"),
    "expired": Trouble(everywhere(failure(400, "ExpiredToken")), 5, "has expired", "aws command"),
    "clock": Trouble(everywhere(failure(403, "RequestTimeTooSkewed")), 7, "clock", "NTP"),
    "junk": Trouble(everywhere(Answer(200, {"ETag": '"1"'}, b"<html>")), 6, "not a volcrypt"),
}
READS = {
    "check": ("store", "check", "far"),
    "list": ("snapshot", "list", "--store", "far"),
    "verify": ("snapshot", "verify", "--store", "far"),
    "volume": ("volume", "create", "--snapshot-id", "kept", "--name", "new"),
}
WRITES = {
    "create": ("snapshot", "create", "data", "--store", "far"),
    "create --wait": ("snapshot", "create", "--wait", "data", "--store", "far"),
    "copy there": ("snapshot", "copy", "here", "--store", "far", "--wait"),
    "delete": ("snapshot", "delete", "kept"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_every_command_says_what_is_wrong_with_the_bucket(
    command: Command, proxy: FaultyProxy, name: str
) -> None:
    trouble = TROUBLES[name]
    # Each command meets each trouble in the engine's tests; here a few stand for all.
    commands = READS | WRITES if name in ("fails", "unknown key") else {"check": READS["check"]}
    for arguments in (*commands.values(), WRITES["create"]):
        proxy.fault = trouble.fault
        said = command.fails(trouble.code, *arguments)
        assert trouble.says in said
        assert URL in said or f"bucket {BUCKET}" in said
        assert trouble.hint in said
    if name != "junk":  # there it is no store yet
        other = f"s3://{BUCKET}/bad/other"
        place = ("--url", other, "--endpoint", proxy.endpoint)
        said = command.fails(trouble.code, "store", "create", "other", *place)
        assert other in said or f"bucket {BUCKET}" in said


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (failure(403, "AccessDenied"), 5, "is denied"),
        (failure(507, "InsufficientStorage"), 1, "no more room"),
    ],
    ids=["read-only", "full"],
)
def test_a_bucket_that_takes_nothing_can_be_read(
    command: Command, proxy: FaultyProxy, answer: Answer, code: int, says: str
) -> None:
    proxy.fault = on_writes(answer)
    for name in ("list", "verify"):
        command.run(*READS[name])
    for arguments in (READS["check"], *WRITES.values()):
        said = command.fails(code, *arguments)
        assert says in said
        assert URL in said
    assert listed(command) == {"here": "completed", "kept": "completed"}


# ---------------------------------------------------------------- a bucket that lies


def not_stored(part: str) -> Fault:
    """Said to be stored, and is not."""

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        is_lie = request.method == "PUT" and f"/{part}" in request.path
        return Answer(200, {"ETag": '"1"'}, b"") if is_lie else forward()

    return fault


def change(command: Command) -> None:
    """The next snapshot has something to store."""
    point = command.home.parent / "mnt"
    point.mkdir(exist_ok=True)
    command.run("mount", "data", point)
    with open(point / "volume", "r+b") as file:
        file.write(os.urandom(4096))
    command.run("unmount", "data")


@pytest.mark.parametrize(
    ("part", "code"), [("chunks/", 6), ("pages/", 6), ("manifests/", 6), ("pins/", 7)]
)
def test_no_snapshot_is_completed_of_which_something_was_not_stored(
    command: Command, proxy: FaultyProxy, part: str, code: int
) -> None:
    change(command)
    proxy.fault = not_stored(part)
    said = command.fails(code, *WRITES["create --wait"])
    assert (f"said that it stored object {part}" in said) or part == "pins/"
    # In the background the reason is kept.
    begun = command.run(*WRITES["create"])
    assert "was not completed" in command.fails(1, "snapshot", "wait", begun)
    row = command.json("snapshot", "show", begun)
    assert row["State"] == "error"
    assert (f"stored object {part}" in row["StateReason"]) or part == "pins/"
    proxy.fault = None
    command.run("snapshot", "delete", begun)


def test_a_put_that_failed_and_was_stored_is_a_snapshot(
    command: Command, proxy: FaultyProxy
) -> None:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return failure(500, "InternalError") if request.method == "PUT" else answer

    change(command)
    proxy.fault = fault
    # Nothing that has to be there first can be put without an error.
    command.fails(7, *WRITES["create --wait"])
    proxy.fault = lambda request, forward: (
        fault(request, forward) if "/manifests/" in request.path else forward()
    )
    snapshot = command.run(*WRITES["create --wait"])
    proxy.fault = None
    assert command.json("snapshot", "show", snapshot)["State"] == "completed"
    command.run("snapshot", "delete", snapshot)


def test_a_service_that_ignores_conditions_is_found_by_the_check(
    command: Command, proxy: FaultyProxy, s3_server: S3Server
) -> None:
    client = s3_server.client()

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "PUT":
            bucket, _, key = request.path.removeprefix("/").partition("/")
            client.delete_object(Bucket=bucket, Key=key)
        return forward()

    proxy.fault = fault
    said = command.fails(1, "store", "check", "far")
    assert f"{URL} cannot hold snapshots: the service overwrites objects" in said
    other = ("store", "create", "o", "--url", f"{URL}-2", "--endpoint", proxy.endpoint)
    assert "overwrites objects" in command.fails(1, *other)


def swapped(proxy: FaultyProxy) -> Fault:
    """One chunk for all."""
    seen: list[Answer] = []

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "GET" and "/chunks/" in request.path:
            seen.append(forward())
            return seen[0]
        return forward()

    return fault


def cut(request: Request, forward: Callable[[], Answer]) -> Answer:
    answer = forward()
    if request.method == "GET" and "/chunks/" in request.path:
        answer.body = answer.body[:-1]
    return answer


@pytest.mark.parametrize("kind", ["swapped", "cut"])
def test_nothing_wrong_is_served_copied_or_called_sound(
    command: Command, proxy: FaultyProxy, tmp_path: Path, kind: str
) -> None:
    proxy.fault = swapped(proxy) if kind == "swapped" else cut
    found = command.try_run("--json", "snapshot", "verify", "kept")
    assert found.returncode == 6
    assert found.stdout.count("/chunks/") + found.stdout.count('"chunks/') >= CHUNKS - 1
    assert "damaged" in command.fails(6, "snapshot", "copy", "kept", "--store", "local", "--wait")
    (begun,) = [row for row in rows(command) if row["State"] == "error"]
    command.run("snapshot", "delete", begun["SnapshotId"])  # it would be continued
    volume = command.run("volume", "create", "--snapshot-id", "kept", "--name", "new")
    assert "damaged" in command.fails(6, "volume", "export", "--yes", volume, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    proxy.fault = None
    command.run("volume", "export", "--yes", volume, tmp_path / "out")
    assert (tmp_path / "out").read_bytes()[4096:] == (command.home.parent / "image").read_bytes()[
        4096:
    ]
    command.run("volume", "delete", volume)


def test_a_listing_that_is_old_is_a_rollback(command: Command, proxy: FaultyProxy) -> None:
    change(command)
    old: dict[str, Answer] = {}

    def remember(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if "list-type" in request.path:
            old[request.path] = answer
        return answer

    proxy.fault = remember
    command.run("snapshot", "verify", "--store", "far")
    command.run("store", "check", "far")
    proxy.fault = None
    newer = command.run(*WRITES["create --wait"])
    proxy.fault = lambda request, forward: old.get(request.path) or forward()
    for arguments in (WRITES["create --wait"], WRITES["delete"]):
        said = command.fails(6, *arguments)
        assert URL in said
        assert "snapshot verify" in said
    assert command.try_run(*READS["verify"]).returncode == 6
    assert URL in command.fails(6, *READS["check"])
    proxy.fault = None
    command.run("snapshot", "delete", newer)


@pytest.mark.parametrize(
    ("status", "code"), [(405, "MethodNotAllowed"), (403, "AccessDenied"), (500, "InternalError")]
)
def test_a_bucket_that_does_not_list_breaks_nothing_else(
    command: Command, proxy: FaultyProxy, status: int, code: str
) -> None:
    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        return failure(status, code) if "list-type" in request.path else forward()

    proxy.fault = fault
    snapshot = command.run("snapshot", "create", "--wait", "data", "--name", "another")
    done = command.try_run("snapshot", "list")
    assert (done.returncode, snapshot in done.stdout, URL in done.stderr) == (0, True, True)
    command.run("status")
    copy = command.run("snapshot", "copy", "another", "--wait", "--name", "copied")
    command.run("snapshot", "verify", "another")
    for each in (copy, "another"):
        command.run("snapshot", "delete", each)
