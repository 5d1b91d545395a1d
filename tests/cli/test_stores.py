"""Snapshots in a bucket of a real S3 server, as users at several hosts type it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home
from tests.faulty_proxy import Answer, FaultyProxy, Request, failure
from tests.s3_server import BUCKET, READER_KEY, READER_SECRET, S3Server

SIZE = 8 * 2**20
CHUNKS = SIZE // 2**19


@pytest.fixture(autouse=True)
def aws(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials where the aws command looks for them, and none of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as running:
        yield running


@pytest.fixture
def url(prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Command]:
    """A home with an encrypted volume `data` and an unencrypted one `plain`."""
    (tmp_path / "image").write_bytes(os.urandom(SIZE))
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "import", tmp_path / "image", "--name", "data")
        command.run("volume", "import", tmp_path / "image", "--name", "plain", "--unencrypted")
        yield command


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home that nothing is made in."""
    with disposable_home(tmp_path_factory.mktemp("bare") / "home") as command:
        command.run("init")
        yield command


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Command]:
    """A home on another host."""
    with disposable_home(tmp_path / "other") as command:
        command.run("init")
        yield command


@pytest.fixture
def shared(home: Command, proxy: FaultyProxy, url: str) -> Command:
    """The home, with a store `shared` in the bucket behind the proxy."""
    home.run("store", "create", "shared", "--url", url, "--endpoint", proxy.endpoint)
    return home


def change(command: Command, tmp_path: Path, volume: str, offset: int) -> None:
    point = tmp_path / "mnt"
    point.mkdir(exist_ok=True)
    command.run("mount", volume, point)
    with open(point / "volume", "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(4096))
        os.fsync(file.fileno())
    command.run("unmount", volume)


def content(command: Command, tmp_path: Path, volume: str) -> bytes:
    target = tmp_path / "content"
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    return target.read_bytes()


def restored(command: Command, tmp_path: Path, snapshot: str) -> bytes:
    volume = command.run("volume", "create", "--snapshot-id", snapshot)
    try:
        return content(command, tmp_path, volume)
    finally:
        command.run("volume", "delete", volume)


def names(s3_server: S3Server, prefix: str, kind: str) -> list[str]:
    return list(s3_server.objects(prefix).list(kind))


def test_a_life_in_a_bucket(
    shared: Command, tmp_path: Path, s3_server: S3Server, prefix: str, url: str
) -> None:
    stores = {each["StoreName"]: each for each in shared.json("store", "list")["Stores"]}
    assert list(stores) == ["local", "shared"]
    assert stores["shared"]["Url"] == url
    shown = shared.json("store", "show", "shared")
    assert (shown["MadeHere"], shown["MayWrite"], shown["Digest"]) == (True, True, "blake3")
    assert "put again refused" in shared.json("store", "check", "shared")["Checks"]["writing"]
    assert shared.run("store", "public-key", "shared") == shown["PublicKey"]

    first = shared.json(
        "snapshot", "create", "--wait", "data", "--name", "first", "--store", "shared"
    )
    assert (first["StoreName"], first["StoredChunks"]) == ("shared", CHUNKS)
    change(shared, tmp_path, "data", 3 * 2**20)
    second = shared.json(
        "snapshot", "create", "--wait", "data", "--name", "second", "--store", "shared"
    )
    assert (second["ParentSnapshotId"], second["StoredChunks"]) == (first["SnapshotId"], 1)
    assert restored(shared, tmp_path, "second") == content(shared, tmp_path, "data")
    assert restored(shared, tmp_path, first["SnapshotId"]) == (tmp_path / "image").read_bytes()

    local = shared.json("snapshot", "create", "--wait", "plain", "--name", "here")
    listed = shared.json("snapshot", "list")
    assert [each["StoreName"] for each in listed["Snapshots"]] == ["shared", "shared", "local"]
    assert listed["StoresNotRead"] == {}
    assert shared.json("snapshot", "list", "--store", "local")["Snapshots"] == [local]
    assert shared.json("snapshot", "show", "first")["SnapshotId"] == first["SnapshotId"]
    assert "exists already" in shared.fails(
        4, "snapshot", "create", "--wait", "plain", "--name", "first"
    )
    found = shared.json("snapshot", "verify", "second")
    assert sorted(found["Snapshots"]) == sorted([first["SnapshotId"], second["SnapshotId"]])
    assert (found["Damages"], found["FreshnessChecked"]) == ([], True)

    assert len(names(s3_server, prefix, "chunks/")) == CHUNKS + 1
    shared.run("snapshot", "delete", "first")
    assert len(names(s3_server, prefix, "chunks/")) == CHUNKS
    assert restored(shared, tmp_path, "second") == content(shared, tmp_path, "data")
    shared.run("snapshot", "delete", "second")
    left = {name.partition("/")[0] for name in names(s3_server, prefix, "")}
    assert left == {"store", "certificates", "tombstones"}
    assert shared.json("snapshot", "verify", "--store", "shared")["Damages"] == []


def test_two_homes_share_a_bucket(
    home: Command, other: Command, tmp_path: Path, s3_server: S3Server, url: str
) -> None:
    place = ("--url", url, "--endpoint", s3_server.endpoint)
    home.run("store", "create", "shared", *place)
    plain = home.run(
        "snapshot", "create", "--wait", "plain", "--name", "plain", "--store", "shared"
    )
    secret = home.run(
        "snapshot", "create", "--wait", "data", "--name", "secret", "--store", "shared"
    )
    key = home.run("store", "public-key", "shared")

    assert "--public-key is needed" in other.fails(2, "store", "trust", "theirs", *place)
    wrong = other.run("store", "public-key", "local")
    refused = other.fails(2, "store", "trust", "theirs", *place, "--public-key", wrong)
    assert f"has another public key: {key}" in refused
    other.run("store", "trust", "theirs", *place, "--public-key", key)
    other.fails(4, "store", "trust", "theirs", *place, "--public-key", key)
    assert "is snapshot store theirs already" in other.fails(
        2, "store", "trust", "again", *place, "--public-key", key
    )
    assert other.json("store", "show", "theirs")["MayWrite"] is False

    # Reading needs no more: what is not encrypted is restored, what is has its key elsewhere.
    assert restored(other, tmp_path, "plain") == (tmp_path / "image").read_bytes()
    assert "does not exist" in other.fails(5, "volume", "create", "--snapshot-id", secret)
    found = other.json("snapshot", "verify", "--store", "theirs")
    assert (found["Damages"], found["FreshnessChecked"]) == ([], False)
    assert other.json("snapshot", "verify", "--store", "theirs")["FreshnessChecked"] is True
    other.run("volume", "create", "--size", "1MiB", "--name", "small", "--unencrypted")
    for command in (
        ("snapshot", "create", "--wait", "small", "--store", "theirs"),
        ("snapshot", "delete", plain),
    ):
        assert "may read snapshot store theirs and not write" in other.fails(5, *command)

    signer = other.run("store", "public-key", "theirs", "--signer")
    assert "was made by another home" in other.fails(
        5, "store", "trust", "theirs", "--signer", signer
    )
    home.run("store", "trust", "shared", "--signer", signer)
    theirs = other.run(
        "snapshot", "create", "--wait", "small", "--name", "plain-2", "--store", "theirs"
    )
    assert {each["SnapshotId"] for each in home.json("snapshot", "list")["Snapshots"]} == {
        plain,
        secret,
        theirs,
    }
    other.run("snapshot", "delete", plain)
    assert restored(home, tmp_path, "secret") == (tmp_path / "image").read_bytes()
    assert home.json("snapshot", "verify", "--store", "shared")["Damages"] == []
    assert other.json("snapshot", "verify", "--store", "theirs")["Damages"] == []


def test_anybody_can_verify_with_the_public_key_alone(
    home: Command, tmp_path: Path, s3_server: S3Server, prefix: str, url: str
) -> None:
    home.run("store", "create", "shared", "--url", url, "--endpoint", s3_server.endpoint)
    snapshot = home.run(
        "snapshot", "create", "--wait", "data", "--name", "one", "--store", "shared"
    )
    key = home.run("store", "public-key", "shared")
    anybody = Command(tmp_path / "no-home")
    look = ("snapshot", "verify", "--store-url", url, "--endpoint", s3_server.endpoint)
    found = anybody.json(*look, "--public-key", key)
    assert (found["Snapshots"], found["ChunksRead"], found["Damages"]) == ([snapshot], CHUNKS, [])
    assert found["FreshnessChecked"] is False
    assert "freshness not checkable" in anybody.run(*look, "--public-key", key)
    head = found["Heads"][0]
    again = anybody.json(*look, "--public-key", key, "one", "--expect-head", head)
    assert again["FreshnessChecked"] is True
    assert not anybody.home.exists()

    anybody.fails(6, *look, "--public-key", "00" * 32)
    anybody.fails(2, *look, "--public-key", "00")
    anybody.fails(2, *look)
    anybody.fails(2, *look, "--public-key", key, "--expect-head", "junk")
    anybody.fails(3, *look, "--public-key", key, "two")

    later = head.replace(":1:", ":2:")
    done = anybody.try_run(*look, "--public-key", key, "--expect-head", later)
    assert done.returncode == 6
    assert "rolled back: entry 2 of the log" in done.stdout
    objects = s3_server.objects(prefix)
    chunk = next(objects.list("chunks/"))
    objects.replace(chunk, b"")
    done = anybody.try_run(*look, "--public-key", key)
    assert done.returncode == 6
    assert f"of snapshot {snapshot} ({chunk})" in done.stdout


def chunk_requests(proxy: FaultyProxy, method: str) -> int:
    return proxy.count(method, "/chunks/")


def test_a_copy_under_the_same_key_moves_what_is_not_there(
    shared: Command, tmp_path: Path, proxy: FaultyProxy
) -> None:
    shared.run("snapshot", "create", "--wait", "data", "--name", "first")
    copied = shared.json(
        "snapshot", "copy", "--wait", "first", "--store", "shared", "--name", "away"
    )
    assert (copied["StoreName"], copied["StoredChunks"]) == ("shared", CHUNKS)
    assert chunk_requests(proxy, "PUT") == CHUNKS
    change(shared, tmp_path, "data", 3 * 2**20)
    second = shared.json("snapshot", "create", "--wait", "data", "--name", "second")
    assert second["StoredChunks"] == 1
    proxy.requests.clear()
    copied = shared.json(
        "snapshot", "copy", "--wait", "second", "--store", "shared", "--name", "away-2"
    )
    assert copied["StoredChunks"] == 1
    assert (chunk_requests(proxy, "PUT"), chunk_requests(proxy, "GET")) == (1, 0)
    assert copied["DataEncryptionKeyId"] == second["DataEncryptionKeyId"]
    for name in ("first", "second"):
        shared.run("snapshot", "delete", name)
    assert restored(shared, tmp_path, "away-2") == content(shared, tmp_path, "data")
    back = shared.json("snapshot", "copy", "--wait", "away", "--store", "local", "--name", "back")
    assert (back["StoreName"], back["StoredChunks"]) == ("local", CHUNKS)
    assert restored(shared, tmp_path, "back") == (tmp_path / "image").read_bytes()


def test_a_copy_under_another_key_is_encrypted_anew(
    shared: Command, tmp_path: Path, s3_server: S3Server, prefix: str
) -> None:
    shared.run("snapshot", "create", "--wait", "plain", "--name", "first", "--store", "shared")
    before = set(names(s3_server, prefix, "chunks/"))
    key = shared.run("kms", "create-key")
    copied = shared.json(
        "snapshot", "copy", "--wait", "first", "--kms-key-id", key, "--name", "sealed"
    )
    assert (copied["StoreName"], copied["Encrypted"]) == ("shared", True)
    assert copied["StoredChunks"] == CHUNKS
    assert len(set(names(s3_server, prefix, "chunks/")) - before) == CHUNKS
    assert restored(shared, tmp_path, "sealed") == (tmp_path / "image").read_bytes()


def test_a_copy_that_was_broken_off_goes_on(
    shared: Command, tmp_path: Path, proxy: FaultyProxy
) -> None:
    shared.run("snapshot", "create", "--wait", "data", "--name", "first")
    puts: list[str] = []

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "PUT" and "/chunks/" in request.path:
            puts.append(request.path)
            if len(puts) > CHUNKS // 2:
                return failure(403, "AccessDenied")
        return forward()

    proxy.fault = fault
    assert "is denied" in shared.fails(
        5, "snapshot", "copy", "--wait", "first", "--store", "shared"
    )
    (broken_off,) = shared.json("snapshot", "list", "--store", "shared")["Snapshots"]
    assert (broken_off["State"], "is denied" in broken_off["StateReason"]) == ("error", True)
    proxy.fault = None
    proxy.requests.clear()
    copied = shared.run(
        "snapshot", "copy", "--wait", "first", "--store", "shared", "--name", "away"
    )
    assert copied == broken_off["SnapshotId"]
    assert chunk_requests(proxy, "PUT") < CHUNKS
    assert restored(shared, tmp_path, copied) == (tmp_path / "image").read_bytes()
    assert list((shared.home / "work").iterdir()) == []


def test_a_store_that_is_away_breaks_nothing_else(
    home: Command, tmp_path: Path, s3_server: S3Server, url: str
) -> None:
    with FaultyProxy(s3_server.port) as proxy:
        home.run("store", "create", "far", "--url", url, "--endpoint", proxy.endpoint)
        away = home.run("snapshot", "create", "--wait", "data", "--name", "away", "--store", "far")
    here = home.run("snapshot", "create", "--wait", "data", "--name", "here")
    done = home.try_run("--json", "snapshot", "list")
    assert (done.returncode, here in done.stdout, away in done.stdout) == (0, True, False)
    assert f"warning: snapshot store {url}: no connection" in done.stderr
    assert restored(home, tmp_path, "here") == (tmp_path / "image").read_bytes()
    home.run("snapshot", "verify")
    home.run("status")
    assert [each["StoreName"] for each in home.json("store", "list")["Stores"]] == ["local", "far"]
    complaint = home.fails(7, "snapshot", "show", "away")
    assert f"snapshot store {url}: no connection to its endpoint" in complaint
    assert "snapshot away is in no other store" in complaint
    assert "no connection" in home.fails(7, "store", "check", "far")
    home.run("snapshot", "delete", here)


def test_a_directory_is_shared_as_a_bucket_is(
    home: Command, other: Command, tmp_path: Path
) -> None:
    url = (tmp_path / "exported").as_uri()
    home.run("store", "create", "nfs", "--url", url, "--digest", "sha256")
    first = home.json("snapshot", "create", "--wait", "plain", "--name", "first", "--store", "nfs")
    assert home.json("store", "show", "nfs")["Digest"] == "sha256"
    # Another digest: the same bytes have other names, and are named anew.
    copied = home.json("snapshot", "copy", "--wait", "first", "--store", "local", "--unencrypted")
    assert copied["StoredChunks"] == CHUNKS
    assert copied["Root"] != first["Root"]
    key = home.run("store", "public-key", "nfs")
    other.run("store", "trust", "nfs", "--url", url, "--public-key", key)
    assert restored(other, tmp_path, "first") == (tmp_path / "image").read_bytes()
    home.run("snapshot", "delete", "first")
    assert not any((tmp_path / "exported" / "chunks").rglob("*/*"))


def test_regions_are_kept_apart(home: Command, tmp_path: Path, s3_server: S3Server) -> None:
    url = (tmp_path / "far").as_uri()
    home.run("store", "create", "far", "--url", url, "--region", "eu-west-1")
    for volume in ("data", "plain"):
        assert "in a store of its region" in home.fails(
            2, "snapshot", "create", "--wait", volume, "--store", "far"
        )
    home.run("snapshot", "create", "--wait", "data", "--name", "secret")
    home.run("snapshot", "create", "--wait", "plain", "--name", "open")
    complaint = home.fails(2, "snapshot", "copy", "secret", "--region", "eu-west-1")
    assert "is encrypted under a key of region eu-west-1" in complaint
    copied = home.json(
        "snapshot", "copy", "--wait", "open", "--region", "eu-west-1", "--unencrypted"
    )
    assert (copied["StoreName"], copied["Region"]) == ("far", "eu-west-1")
    assert "is in region eu-west-1, not in mars" in home.fails(
        2,
        "snapshot",
        "copy",
        "--wait",
        "open",
        "--store",
        "far",
        "--region",
        "mars",
        "--unencrypted",
    )
    home.fails(2, "snapshot", "copy", "open", "--region", "mars", "--unencrypted")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("code", "options", "says"),
    [
        (3, ["--url", "s3://no-such-bucket/x"], "bucket no-such-bucket does not exist"),
        (2, ["--url", "ftp://host/x"], "not the URL of a snapshot store"),
        (2, ["--url", "s3://"], "not the URL of a snapshot store"),
        (2, ["--url", "s3://user:secret@bucket/x"], "not the URL of a snapshot store"),
        (2, ["--url", "file://relative"], "names no directory"),
        (2, ["--url", "s3://b/x", "--endpoint", "http://example.com"], "plain HTTP goes no"),
        (2, ["--url", "s3://b/x", "--endpoint", "example"], "not the URL of an S3 service"),
        (2, ["--url", "s3://b/x", "--sse", "rot13"], "is no encryption by the service"),
        (2, ["--url", "s3://b/x", "--sse", "kms:"], "is no encryption by the service"),
        (2, ["--url", "s3://b/x", "--sse", "customer:/dev/null"], "over TLS only"),
        (2, ["--url", "file:///tmp/x", "--sse", "s3"], "no encryption of its own"),
    ],
)
def test_places_that_are_no_places(
    bare: Command, s3_server: S3Server, code: int, options: list[str], says: str
) -> None:
    if "--endpoint" not in options and options[1].startswith("s3://"):
        options = [*options, "--endpoint", s3_server.endpoint]
    assert says in bare.fails(code, "store", "create", "bad", *options)
    assert [each["StoreName"] for each in bare.json("store", "list")["Stores"]] == ["local"]


def test_credentials_that_do_not_do(
    home: Command, s3_server: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--url", url, "--endpoint", s3_server.endpoint)
    home.run("store", "create", "good", *place)
    home.run("snapshot", "create", "--wait", "plain", "--name", "first", "--store", "good")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    assert home.json("snapshot", "show", "first")["StoreName"] == "good"
    assert "is denied" in home.fails(5, "store", "check", "good")
    assert "is denied" in home.fails(5, "snapshot", "create", "--wait", "plain", "--store", "good")
    assert "is denied" in home.fails(5, "snapshot", "delete", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "does not fit the access key" in home.fails(5, "store", "check", "good")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "there are no AWS credentials" in home.fails(1, "store", "check", "good")
    home.run("snapshot", "list")


def test_what_lies_there_already(
    home: Command, other: Command, s3_server: S3Server, prefix: str, url: str
) -> None:
    place = ("--url", url, "--endpoint", s3_server.endpoint)
    home.run("store", "create", "shared", *place)
    home.fails(4, "store", "create", "shared", "--url", "s3://b/x")
    home.fails(2, "store", "create", "local", "--url", "s3://b/x")
    home.run("store", "create", "local")
    home.fails(4, "store", "create", "local")
    assert "is snapshot store shared already" in home.fails(2, "store", "create", "two", *place)
    assert "holds another snapshot store" in other.fails(2, "store", "create", "mine", *place)
    objects = s3_server.objects(prefix)
    document = objects.get("store")
    objects.replace("store", document.replace(b"store 1\n", b"store 7\n"))
    complaint = home.fails(6, "store", "check", "shared")
    assert "version 7 is not supported, this release knows 1" in complaint
    objects.replace("store", document.replace(b"us-east-1", b"us-west-1"))
    home.fails(6, "store", "check", "shared")
    objects.delete("store")
    home.fails(3, "store", "check", "shared")
    objects.replace("store", document)
    home.run("store", "check", "shared")
    objects.delete(next(objects.list("certificates/")))
    assert "not write to it" in home.fails(
        5, "snapshot", "create", "--wait", "plain", "--store", "shared"
    )


def test_an_edited_place_is_refused(home: Command, s3_server: S3Server, url: str) -> None:
    home.run("store", "create", "shared", "--url", url, "--endpoint", s3_server.endpoint)
    path = home.home / "stores" / "shared.place"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"us-east-1"', b'"eu-west-1"'))
    home.fails(6, "store", "check", "shared")
    path.unlink()
    home.fails(6, "store", "check", "shared")
    done: Any = home.try_run("snapshot", "list")
    assert (done.returncode, "place of snapshot store shared" in done.stderr) == (0, True)
    path.write_bytes(good)
    home.run("store", "check", "shared")
