"""What an operator breaks, one thing at a time, and what `doctor` says: line, mend, exit code.

What a test cannot take from this machine is in `operations/test_doctor.py`."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Command, disposable_home

NOBODY = 65534


@dataclass(frozen=True)
class Scene:
    """A home with a volume of its own, one whose data is in `away`, and a snapshot; `key` is that
    of the first volume."""

    command: Command
    away: Path
    key: str

    @property
    def home(self) -> Path:
        return self.command.home

    def look(self, *, prefix: tuple[str, ...] = ()) -> tuple[int, list[dict[str, str]]]:
        done = self.command.try_run("--json", "doctor", prefix=prefix)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)["Findings"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    away = tmp_path_factory.mktemp("away")
    with disposable_home(tmp_path_factory.mktemp("doctor") / "home") as command:
        command.run("init")
        key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
        command.run("volume", "create", "--size", "1MiB", "--name", "a", "--kms-key-id", key)
        command.run("volume", "create", "--size", "1MiB", "--name", "b", "--data", away / "data")
        command.run("snapshot", "create", "a", "--wait")
        scene = Scene(command, away, key)
        assert scene.look()[0] == 0, "the control"
        yield scene


@pytest.fixture
def scene(original: Scene, tmp_path: Path) -> Iterator[Scene]:
    """Comes back as it was."""
    places = (original.home, original.away)
    for place in places:
        subprocess.run(["cp", "-a", place, tmp_path / place.name], check=True)
    yield original
    for place in places:
        shutil.rmtree(place)
        subprocess.run(["cp", "-a", tmp_path / place.name, place], check=True)


def cut_the_audit_log(scene: Scene) -> None:
    log = next((scene.home / "kms/audit").glob("audit-*.jsonl"))
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-3]))


def open_the_settings(scene: Scene) -> None:
    (scene.home / "config.toml").touch()
    (scene.home / "config.toml").chmod(0o666)


def fill_a_store_document(scene: Scene) -> None:
    next((scene.home / "stores/local").glob("store*")).write_bytes(b"junk")


def disable(scene: Scene) -> None:
    scene.command.run("kms", "disable-key", "--key-id", scene.key)


def condemn(scene: Scene) -> None:
    scene.command.run("kms", "schedule-key-deletion", "--key-id", scene.key, "--yes")


def remove(path: str) -> Callable[[Scene], object]:
    return lambda scene: (scene.home / path).rename(scene.home.parent / "gone")


BREAKS: dict[str, tuple[Callable[[Scene], object], str, str, str]] = {
    # what: (how, check, part of the text, part of the mend)
    "an open directory": (
        lambda scene: (scene.home / "volumes").chmod(0o755),
        *("home", "open to other users", "chmod go-rwx "),
    ),
    "a directory of another user": (
        lambda scene: os.chown(scene.home / "stores", NOBODY, -1),
        *("home", f"belongs to user {NOBODY}", "run volcrypt as"),
    ),
    "no volumes": (remove("volumes"), "home", "is missing", "from a backup"),
    "settings that are no TOML": (
        lambda scene: (scene.home / "config.toml").write_text("[kms\n"),
        *("configuration", "line 1", "edit "),
    ),
    "settings of everybody": (
        open_the_settings,
        *("home", "can be changed by others", "chmod go-w "),
    ),
    "no token": (remove("kms/token"), "hsm", "token", "from a backup"),
    "a wrong PIN": (
        lambda scene: (scene.home / "kms/pin").write_bytes(b"654321"),
        *("kms", "the PIN", "'volcrypt init' was given"),
    ),
    "no catalogue": (remove("kms/catalog.sqlite3"), "kms", "catalog", "backup"),
    "a cut audit log": (cut_the_audit_log, "kms", "the audit log was cut", "backup"),
    "a disabled key": (disable, "keys", "is in state Disabled", "kms enable-key --key-id "),
    "a condemned key": (
        condemn,
        *("keys", "is in state PendingDeletion until 20", "kms cancel-key-deletion --key-id "),
    ),
    "no data": (
        lambda scene: (scene.away / "data").unlink(),
        *("volumes", "No such file", "volcrypt volume check "),
    ),
    "no store": (remove("stores/local"), "store", "local", "volcrypt "),
    "a forged store": (fill_a_store_document, "store", "local", "volcrypt store check local"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_named_with_its_mend(scene: Scene, what: str) -> None:
    how, check, text, mend = BREAKS[what]
    how(scene)
    code, found = scene.look()
    assert code == 8
    grave = [each for each in found if each["State"] == "problem"]
    assert grave[0]["Check"] == check, grave
    assert text in grave[0]["Text"]
    assert mend in (grave[0]["Mend"] or "nothing"), grave
    shutil.rmtree(scene.home.parent / "gone", ignore_errors=True)
    (scene.home.parent / "gone").unlink(missing_ok=True)


def test_limits_that_are_too_low(scene: Scene) -> None:
    code, found = scene.look(prefix=("prlimit", "--nofile=256:256"))
    (grave,) = [each for each in found if each["State"] == "problem"]
    assert (code, grave["Check"]) == (8, "limits")
    assert "LimitNOFILE=" in grave["Mend"]


def test_a_link_is_worth_a_note(scene: Scene) -> None:
    """An administrator may have one right below the home, and should know of every one."""
    (scene.home / "volumes").rename(scene.away / "elsewhere")
    (scene.home / "volumes").symlink_to(scene.away / "elsewhere")
    code, found = scene.look()
    noted = [each["Text"] for each in found if each["Check"] == "home" and each["State"] == "note"]
    link = f"{scene.home / 'volumes'} is a link, to {scene.away / 'elsewhere'}"
    assert (code, noted) == (0, [link])


def test_a_second_copy_that_is_gone_is_worth_a_note(scene: Scene) -> None:
    (scene.away / "data.volcrypt").unlink()
    code, found = scene.look()
    noted = [each for each in found if each["Check"] == "volumes" and each["State"] == "note"]
    assert (code, len(noted)) == (0, 1)
    assert str(scene.away / "data.volcrypt") in noted[0]["Text"]
