"""Kills at enumerated steps of init, login and create-key: afterwards everything opens.

A first run under strace lists the system calls that change something, or could; each further run is
killed (SIGKILL) as it enters one of them. What the killed process had acknowledged must be there.
Of calls that are alike every n-th is taken (`stride`): what SoftHSM does to its private copy, and
what SQLite does to a catalogue that has not got its name yet.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT
from tests.kms.crash_program import BEGIN
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.keys import CreateKeyRequest

CALLS: Final = (
    "write,pwrite64,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir,openat,"
    "ftruncate,mkdir,mkdirat,flock"
)
_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")


def run(step: str, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "strace",
            "-f",  # without --seccomp-bpf: with it, strace 6.1 injects no signal
            "-y",
            f"--output={home}/trace",
            *options,
            *(sys.executable, "-m", "tests.kms.crash_program", step, home),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def steps(step: str, home: Path) -> list[tuple[str, int]]:
    """The calls to kill in: name and number, as strace counts them, since the process began."""
    done = run(step, home, f"--trace={CALLS}")
    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    found: dict[int, list[tuple[str, int]]] = {}
    has_begun = False
    for line in (home / "trace").read_text().splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        name, rest = match[1], match[2]
        counts[name] += 1
        if has_begun:
            found.setdefault(stride(name, rest, home), []).append((name, counts[name]))
        has_begun = has_begun or BEGIN in rest
    return [call for each, calls in found.items() for call in calls[::each]]


def stride(name: str, rest: str, home: Path) -> int:
    if f"{home}/kms" not in rest:
        return 30
    if f"{home}/kms/catalog.sqlite3.new" in rest and name != "rename":
        return 10
    if name in ("openat", "pwrite64"):
        return 4
    return 1


def check(home: Path, acknowledged: list[str]) -> None:
    """All works without a manual step; the keys that were acknowledged are there and usable."""
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        for key_id in [*acknowledged, service.call(ROOT, "CreateKey", {})["KeyMetadata"]["KeyId"]]:
            sealed = service.perform(
                ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(b"text"))
            )
            opened = service.perform(ROOT, DecryptRequest(ciphertext_blob=sealed.ciphertext_blob))
            assert opened.plaintext == b"text"
        assert service.audit_log.verify(service.audit_head()) == 0
        created = {
            record.resources[0].arn.rpartition("/")[2]
            for record in service.audit_log.read_records()
            if record.event_name == "CreateKey"
        }
        assert created >= set(acknowledged)
    assert os.listdir(home / "run") == ["token.lock"]


@pytest.fixture
def template(memory_path: Path) -> Path:
    """A home with a key in it."""
    path = memory_path / "template"
    path.mkdir()
    create_kms(path / "kms", path / "run", account=ACCOUNT, region=REGION, pin=None)
    with open_kms(path / "kms", path / "run", account=ACCOUNT, region=REGION) as service:
        service.perform(ROOT, CreateKeyRequest())
    return path


@pytest.mark.parametrize("step", ["init", "login", "create-key"])
def test_a_kill_at_any_step_leaves_a_home_that_opens(
    memory_path: Path, template: Path, step: str
) -> None:
    def fresh(number: int) -> Path:
        home = memory_path / f"home-{number:03}"
        if step == "init":
            home.mkdir()
        else:
            shutil.copytree(template, home)
        return home

    kill_steps = steps(step, fresh(0))

    def kill(number: int) -> tuple[Path, subprocess.CompletedProcess[str]]:
        home = fresh(number + 1)
        name, count = kill_steps[number]
        return home, run(
            step, home, f"--trace={CALLS}", f"--inject={name}:signal=KILL:when={count}"
        )

    killed = 0
    with ThreadPoolExecutor(2) as pool:
        for home, done in pool.map(kill, range(len(kill_steps))):
            killed += done.returncode == -signal.SIGKILL
            if step == "init":
                create_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION, pin=None)
                check(home, [])
            else:
                check(home, done.stdout.split())
            shutil.rmtree(home)
    # SoftHSM's calls depend on the order of names that it draws: the last steps may not come.
    assert killed >= 0.9 * len(kill_steps)
