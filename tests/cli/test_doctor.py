"""`volcrypt doctor` as an operator runs it, on homes and stores that something is wrong with."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.faulty_proxy import FaultyProxy, failure
from tests.forked import IMPATIENT
from tests.s3_server import BUCKET

NOBODY = 65534


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        yield made


def problems(command: Command, *options: str) -> list[dict[str, Any]]:
    """What `doctor` calls a problem; its exit code says whether there is one."""
    done = command.try_run("--json", *options, "doctor")
    document = json.loads(done.stdout)
    found = [each for each in document["Findings"] if each["State"] == "problem"]
    assert document["Version"] == 1
    assert document["Problems"] == len(found)
    assert done.returncode == (8 if found else 0), done.stderr
    return found


def states(command: Command, check: str) -> list[str]:
    found = json.loads(command.try_run("--json", "doctor").stdout)["Findings"]
    return [each["State"] for each in found if each["Check"] == check]


def test_a_host_without_a_home(command: Command) -> None:
    assert problems(command) == []
    text = command.run("doctor")
    mend = f"volcrypt --home {command.home} init"
    assert f"note     home: there is none at {command.home}\n         mend: {mend}\n" in text
    assert not command.home.exists()
    assert list(command.runtime.parent.glob(f"{command.runtime.name}*")) == []


def test_a_home_in_good_order(command: Command) -> None:
    command.run("init")
    assert problems(command) == []
    assert states(command, "kms") == ["ok"]
    assert states(command, "store") == ["ok"]
    assert not (command.home / "stores/local").exists()
    command.run("volume", "create", "--size", "1MiB", "--name", "a")
    command.run("snapshot", "create", "a", "--wait")
    everything = command.run("doctor", "--all")
    assert "ok       store: local at " in everything
    assert ": 1 snapshots, its log is whole" in everything
    assert "ok       volumes: 1 are there, with their records" in everything
    assert "ok  " not in command.run("doctor")


def test_a_broken_home(command: Command) -> None:
    command.run("init")
    (command.home / "home").write_bytes(b"junk")
    (found,) = problems(command)
    assert (found["Check"], "damaged" in found["Text"]) == ("home", True)


def test_half_a_home(command: Command) -> None:
    command.run("init")
    (command.home / "home").unlink()
    (found,) = problems(command)
    assert found["Check"] == "home"
    assert f"'volcrypt --home {command.home} init' makes one there" in found["Mend"]


def test_a_catalogue_that_is_gone(command: Command) -> None:
    command.run("init")
    (command.home / "kms/catalog.sqlite3").unlink()
    (found,) = problems(command)
    assert found["Check"] == "kms"


def test_damage_to_volumes_and_to_the_local_store(command: Command) -> None:
    command.run("init")
    volume = command.run("volume", "create", "--size", "1MiB", "--name", "a")
    command.run("snapshot", "create", "a", "--wait")
    assert problems(command) == []
    data = command.home / "volumes" / volume / "data"
    data.rename(data.with_name("away"))
    (found,) = problems(command)
    assert (found["Check"], found["Mend"]) == ("volumes", f"volcrypt volume check {volume}")
    data.write_bytes(b"short")
    assert "shorter" in problems(command)[0]["Text"]
    data.with_name("away").rename(data)
    (certificate,) = (command.home / "stores/local/certificates").iterdir()
    certificate.rename(command.home / "away")
    (found,) = problems(command)
    assert found["Text"].startswith("local at ")
    (command.home / "away").rename(certificate)
    assert problems(command) == []


def test_while_the_kms_is_served(command: Command) -> None:
    command.run("init", "--pin-file", "-", stdin=b"482916")
    (command.home.parent / "pin").write_text("482916")
    (command.home.parent / "pin").chmod(0o600)
    configuration = command.home / "config.toml"
    configuration.write_text(f"[kms]\npin_file = '{command.home.parent / 'pin'}'\n")
    served = command.start("kms", "serve", "--listen", "127.0.0.1:0")
    try:
        wait_until((command.runtime / "kms.sock").exists)
        configuration.unlink()
        assert problems(command) == []
        assert "ok       kms: 'kms serve' answers" in command.run("doctor", "--all")
    finally:
        served.kill()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_misspelt_configuration(command: Command) -> None:
    command.run("init")
    (command.home / "config.toml").write_text("[kms]\npinfile = 'x'\n")
    found = problems(command)
    assert found[0]["Check"] == "configuration"
    assert "pinfile" in found[0]["Text"]


def test_a_profile_that_is_not_there(command: Command) -> None:
    command.run("init")
    (found,) = problems(command, "--profile", "nobodys")
    assert "no profile 'nobodys'" in found["Text"]


def test_a_kms_that_does_not_answer(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command.run("init")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    (command.home / "config.toml").write_text(
        "[profiles.cloud]\nkms = 'http://127.0.0.1:9'\nregion = 'us-east-1'\n"
    )
    (found,) = problems(command, "--profile", "cloud")
    assert found["Check"] == "kms"
    assert "127.0.0.1:9" in found["Text"]
    assert problems(command) == []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (command.home / "config.toml").write_text(
            f"[profiles.cloud]\nkms = '{url}'\nregion = 'us-east-1'\n"
        )
        (found,) = problems(command, "--profile", "cloud")
    assert found["Text"] == f"the KMS at {url} does not answer: nothing came within 2 s"


def test_without_the_pin_it_says_what_it_did_not_see(command: Command, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("482916\n")
    (tmp_path / "pin").chmod(0o600)
    command.run("init", "--pin-file", tmp_path / "pin")
    assert problems(command) == []
    assert states(command, "kms") == ["note"]
    assert states(command, "store") == []
    assert "has the token" in command.run("doctor", "--all")
    (command.home / "config.toml").write_text(f"[kms]\npin_file = '{tmp_path / 'pin'}'\n")
    assert states(command, "kms") == ["ok"]
    (tmp_path / "pin").write_text("654321\n")
    assert [each["Check"] for each in problems(command)] == ["kms"]


def test_a_log_from_the_future(command: Command) -> None:
    command.run("init")
    command.run("kms", "list-keys")
    log = next((command.home / "kms/audit").glob("audit-*.jsonl"))
    first = json.loads(log.read_bytes().splitlines()[-1])["eventTime"]
    log.write_bytes(log.read_bytes().replace(first.encode(), b"2099" + first[4:].encode()))
    found = problems(command)
    assert found[0]["Check"] == "clock"
    assert "2099" in found[0]["Text"]


def test_a_dead_mount(command: Command, tmp_path: Path) -> None:
    command.run("init")
    command.run("volume", "create", "--size", "1MiB", "--name", "a")
    (tmp_path / "point").mkdir()
    command.run("mount", "a", tmp_path / "point")
    assert problems(command) == []
    command.kill_processes()
    (found,) = problems(command)
    assert found["Check"] == "leftovers"
    assert found["Mend"] == f"volcrypt unmount {tmp_path / 'point'}"
    command.run("unmount", tmp_path / "point")
    assert problems(command) == []


def test_a_dead_attachment(command: Command) -> None:
    command.run("init")
    command.run("volume", "create", "--size", "1MiB", "--name", "doctors")
    command.run("attach", "doctors")
    command.kill_processes()
    (found,) = problems(command)
    assert found["Check"] == "leftovers"
    # It may say that the last data is lost.
    assert command.try_run(*found["Mend"].removeprefix("volcrypt ").split()).returncode in (0, 1)
    assert problems(command) == []


def test_a_store_that_fails(
    command: Command, s3_proxy: FaultyProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMPATIENT, "1")
    command.run("init")
    url = f"s3://{BUCKET}/{prefix}"
    command.run("store", "create", "far", "--url", url, "--endpoint", s3_proxy.endpoint)
    s3_proxy.requests.clear()
    assert problems(command) == []
    assert {each.method for each in s3_proxy.requests} <= {"GET", "HEAD"}, "doctor changes no store"
    s3_proxy.fault = lambda _request, _forward: failure(403, "InvalidAccessKeyId")
    (found,) = problems(command)
    assert found["Check"] == "store"
    assert found["Text"].startswith("far: ")
    assert found["Mend"]
    s3_proxy.fault = lambda _request, _forward: failure(503, "SlowDown")
    assert [each["Check"] for each in problems(command)] == ["store"]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user gets into: pytest closes its own again whenever it starts."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_user_who_is_not_root(open_directory: Path) -> None:
    """In a directory of his own, with nothing of root's."""
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)

    def look(**environment: str) -> tuple[int, dict[str, list[str]]]:
        done = subprocess.run(
            [
                *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
                *("prlimit", "--memlock=65536:65536", VOLCRYPT, "--json", "doctor"),
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(own), **environment},
            check=False,
            capture_output=True,
            text=True,
            cwd=own,
        )
        found: dict[str, list[str]] = {}
        for each in json.loads(done.stdout)["Findings"]:
            found.setdefault(each["Check"], []).append(each["State"])
        return done.returncode, found

    code, found = look()
    assert code == 8
    assert found["runtime"] == ["problem"]
    assert found["memory lock"] == ["problem"]
    assert found["loop"] == ["note"]
    assert found["home"] == ["note"]
    code, found = look(VOLCRYPT_HOME=str(open_directory / "roots"))
    assert found["home"] == ["note"]
    roots = open_directory / "roots"
    roots.mkdir(mode=0o700)
    code, found = look(VOLCRYPT_HOME=str(roots))
    assert (code, found["home"]) == (8, ["problem"])
