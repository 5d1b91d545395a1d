"""Planted secrets, looked for in all that processes say: at the most talkative level of every
logger, to the journal, when they crash, in figures and documents, and to an S3 server, in its files
and its log. What they keep in files of their own is in `test_secrets.py`."""

import json
import os
import secrets
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT
from tests.e2e.test_key_memory import key_of
from tests.loud import BODIES, LoudCommand, contents, forms, found, listening, loud_home
from tests.metrics_page import UnixConnection, ask
from tests.s3_server import BUCKET, SECRET_KEY, S3Server

PLAINTEXT = bytes(range(1, 129)) * 32
EVERYTHING = {
    "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}],
    "Version": "2012-10-17",
}


@contextmanager
def serving(command: LoudCommand, metrics: Path) -> Iterator[str]:
    """`kms serve` of the home; its URL."""
    process = subprocess.Popen(
        [
            *(*command.listener.prefix, VOLCRYPT, "--home", command.home, "--json"),
            *("kms", "serve", "--listen", "127.0.0.1:0", "--metrics", metrics),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["Urls"][0]
    finally:
        process.terminate()
        out, complaints = process.communicate(timeout=60)
        command.output += (out + complaints).encode()


def word(directory: Path, name: str) -> bytes:
    """A secret that a user keeps in a file."""
    secret = secrets.token_urlsafe(32).encode()
    (directory / name).write_bytes(secret + b"\n")
    (directory / name).chmod(0o600)
    return secret


def test_nothing_that_is_said_tells_a_secret(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home whose keys are in the KMS of another, and whose snapshots are in a bucket."""
    given = tmp_path / "given"
    given.mkdir()
    planted = {name: word(given, name) for name in ("PIN", "passphrase")}
    planted["customer key"] = os.urandom(32)
    (given / "customer").write_bytes(planted["customer key"])
    planted |= {"plaintext": PLAINTEXT, "key of the store": SECRET_KEY.encode()}
    (given / "image").write_bytes(PLAINTEXT * 256)
    point = tmp_path / "point"
    point.mkdir()
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(given / "credentials"))
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")

    with (
        listening(tmp_path / "listener") as listener,
        loud_home(tmp_path / "keys", listener) as keys,
        loud_home(tmp_path / "home", listener) as home,
    ):
        (given / "policy").write_text(json.dumps(EVERYTHING))
        keys.run("init", "--pin-file", given / "PIN")
        (keys.home / "config.toml").write_text(f'[kms]\npin_file = "{given / "PIN"}"\n')
        keys.run("principal", "create", "app")
        keys.run("principal", "put-policy", "app", given / "policy")
        access_key = keys.json("principal", "create-access-key", "app")["AccessKey"]
        assert found(keys.output, {"it": access_key["SecretAccessKey"].encode()}), "once"
        planted["secret access key"] = access_key["SecretAccessKey"].encode()
        keys.output = b""
        (given / "credentials").write_text(
            f"[keys]\naws_access_key_id = {access_key['AccessKeyId']}\n"
            f"aws_secret_access_key = {access_key['SecretAccessKey']}\n"
        )
        with serving(keys, tmp_path / "keys.sock") as url:
            home.run("init")
            profile = f"[profiles.default]\nkms = '{url}'\nregion = 'us-east-1'\n"
            profile += "credentials = 'keys'\n"
            (home.home / "config.toml").write_text(profile)
            key = home.json("kms", "create-key")["KeyMetadata"]["Arn"]
            (home.home / "config.toml").write_text(f"{profile}default_kms_key = '{key}'\n")
            bucket = f"s3://{BUCKET}/said"
            home.run("store", "create", "far", "--url", bucket, "--endpoint", s3_server.endpoint)
            volume = home.json("volume", "import", given / "image", "--name", "data")["VolumeId"]
            customer = ("--customer-key-file", given / "customer")
            home.run("volume", "create", "--size", "1MiB", "--name", "mine", *customer)
            planted["data key"] = key_of(home.home, "data", tmp_path)

            home.run("mount", "data", point)
            (pid,) = home.processes()
            with (listener.root / str(point)[1:] / "volume").open("r+b", buffering=0) as file:
                assert file.read(len(PLAINTEXT)) == PLAINTEXT
                file.write(PLAINTEXT)
                os.fsync(file.fileno())
            home.run("snapshot", "create", "data", "--name", "one", "--store", "far", "--wait")
            home.run("status")
            documents = [home.run("--json", *words).encode() for words in SHOWN]
            documents.append(home.run("status", "--metrics", "-").encode())
            documents.append(ask(UnixConnection(tmp_path / "keys.sock"))[2].encode())
            backup = ("--passphrase-file", given / "passphrase")
            keys.run("backup", tmp_path / "backup", *backup)
            home.fails(5, "volume", "export", "--yes", "mine", tmp_path / "o", *wrong(given))
            crash(pid)
            home.run("unmount", "data")
            quiet = listener.said()

            # The control: one of the libraries would tell the data key.
            done = home.try_run("volume", "check", "data", prefix=("env", f"{BODIES}=1"))
            assert done.returncode == 0
            assert found(listener.said()[len(quiet) :], planted) >= {"data key"}
        server = dict(contents([s3_server.directory]))
        own = dict(contents([listener.root / "run", keys.home, home.home]))

    places = {
        "logs": (quiet, b"Fatal Python error: Aborted"),
        "journal": (b"\n".join(listener.journal), b"data is served at"),
        "output": (keys.output + home.output, volume.encode()),
        "documents": (b"".join(documents), b"volcrypt_volume_info"),
        "files of the server": (b"".join(server.values()), b"said/manifests"),
        "log of the server": (server[s3_server.directory / "log"], b"said/chunks"),
        "own files": (b"".join(own.values()), volume.encode()),
    }
    # The server is started with the key of the store.
    own_key = server.pop(s3_server.directory / "identities.json")
    assert found(own_key, planted) == {"key of the store"}
    for name, (content, known) in places.items():
        assert known in content, f"{name}: the control"
        content = content.replace(own_key, b"")
        assert found(content, planted) == set(), name
    for name, secret in planted.items():
        for form in forms(secret):
            assert found(b"x" + form + b"y", planted) == {name}


SHOWN = (
    ("status",),
    ("volume", "show", "data"),
    ("snapshot", "list"),
    ("store", "show", "far"),
    ("config", "show"),
    ("report", "encryption"),
    ("doctor",),
)


def crash(pid: int) -> None:
    """As by a bug of a library."""
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGABRT)
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)


def wrong(directory: Path) -> tuple[str | Path, ...]:
    (directory / "wrong").write_bytes(os.urandom(32))
    return "--customer-key-file", directory / "wrong"
