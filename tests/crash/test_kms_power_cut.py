"""The KMS when the power goes, or a disk fails, at every step of its requests.

A child process works on a small ext4, and says what was acknowledged. A first run lists the system
calls that change something; in each further one strace kills the child as it enters one of them,
and then the file system loses all that was not synced. What was acknowledged must be there, nothing
may be half there, and no alarm may be raised. The HSM is memory: the token is not part of this.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import ROOT, MemoryKms, memory_kms
from tests.file_system import DisposableFileSystem, disposable_file_system
from volcrypt.errors import KeyDisabledError, KmsInternalError, VolcryptError
from volcrypt.kms.messages.data import EncryptRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DisableKeyRequest, ListKeysRequest
from volcrypt.kms.register import RegisterEntry

CALLS: Final = "write,pwrite64,fdatasync,fsync,ftruncate,rename,renameat,unlink,unlinkat,openat"


def work(home: Path, old_key: str, *, synced: bool = True) -> Iterator[str]:
    """Every kind of request there is for storage; yields what is acknowledged."""
    if not synced:
        os.fdatasync = lambda descriptor: None  # type: ignore[assignment]
    with memory_kms(home) as kms:
        yield "opened"
        kms.service.perform(ROOT, EncryptRequest(key_id=old_key, plaintext=bytearray(1)))
        yield "encrypted"
        made = kms.service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id
        yield f"made {made}"
        kms.service.perform(ROOT, DisableKeyRequest(key_id=old_key))
        yield "disabled"
        entry = RegisterEntry(kind="volume", id="v", name="n", counter=1, digest=bytes(32))
        kms.service.register.apply(put=[entry])
        yield "registered"
        kms.service.perform(ROOT, EncryptRequest(key_id=made, plaintext=bytearray(1)))
        yield "encrypted again"


@dataclass
class Outcome:
    """What a child acknowledged, and the errors that it met instead."""

    acknowledged: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def child(home: Path, old_key: str, *, synced: bool = True) -> Iterator[tuple[int, int, int]]:
    """A process that begins to work when it is told: its id, the pipe that tells it, its answers.

    Forked, so that what strace counts in it begins with the work."""
    begin_read, begin_write = os.pipe()
    answers_read, answers_write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(begin_write)
            os.read(begin_read, 1)
            try:
                for answer in work(home, old_key, synced=synced):
                    os.write(answers_write, f"{answer}\n".encode())
            except VolcryptError as error:
                os.write(answers_write, f"error {type(error).__name__}\n".encode())
        finally:
            os._exit(0)
    os.close(begin_read)
    os.close(answers_write)
    try:
        yield process, begin_write, answers_read
    finally:
        for descriptor in (begin_write, answers_read):
            with suppress(OSError):
                os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(process, 0)


def run(home: Path, old_key: str, *options: str, log: Path, synced: bool = True) -> Outcome:
    """Let a child work under strace with these options."""
    with child(home, old_key, synced=synced) as (process, begin, answers):
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-o", log, f"--trace={CALLS}", *options, "-p", str(process)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        os.write(begin, b"x")
        with os.fdopen(os.dup(answers), "r") as file:
            lines = file.read().splitlines()
        os.waitpid(process, 0)
        tracer.stderr.close()
        tracer.wait()
    outcome = Outcome()
    for line in lines:
        kind, _, rest = line.partition(" ")
        (outcome.errors if kind == "error" else outcome.acknowledged).append(
            rest if kind == "error" else line
        )
    return outcome


def steps(log: Path, home: Path) -> list[tuple[str, int]]:
    """The calls on the home's files: name and number, as strace counts them."""
    counts: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    journal_writes = 0
    for line in log.read_text().splitlines():
        name = re.match(r"^(?:\d+ +)?(\w+)\(", line)
        if name is None:
            continue
        counts[name[1]] += 1
        is_journal_write = name[1] == "pwrite64" and "-journal>" in line
        journal_writes += is_journal_write
        # The file is only opened, or it is one of many writes to a journal that do not count yet,
        # or SQLite syncs the journal's name, which is there already, and ignores how that ends.
        if (name[1] == "openat" and "O_CREAT" not in line) or f"<{home}>)" in line:
            continue
        if f"{home}/" in line and (not is_journal_write or journal_writes % 3 == 0):
            found.append((name[1], counts[name[1]]))
    return found


@pytest.fixture
def disk() -> Iterator[DisposableFileSystem]:
    """An ext4 whose device is in memory, so that its syncs do not wait for other work."""
    with (
        TemporaryDirectory(dir="/dev/shm") as directory,
        disposable_file_system(Path(directory)) as made,
    ):
        yield made


@pytest.fixture
def template() -> Iterator[tuple[Path, str]]:
    """A home with a key that was used, elsewhere."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        home = Path(directory) / "home"
        with memory_kms(home) as kms:
            old_key = kms.new_key()
            kms.service.perform(ROOT, EncryptRequest(key_id=old_key, plaintext=bytearray(1)))
        yield home, old_key


def fresh(template: Path, disk: DisposableFileSystem) -> Path:
    """The template, durably, on the disk."""
    home = disk.directory / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(template, home)
    subprocess.run(["sync", "-f", home], check=True)
    return home


def check(home: Path, old_key: str, acknowledged: list[str]) -> list[str]:
    """All that was acknowledged is there, and nothing by halves; the names of all records."""
    with memory_kms(home) as kms:
        keys = {key.key_id for key in kms.service.perform(ROOT, ListKeysRequest()).keys}
        made = [line.split()[1] for line in acknowledged if line.startswith("made")]
        assert keys >= {old_key, *made}
        # A key that nobody was told of may be there, and is a whole one then.
        assert len(keys) <= 2
        for key_id in keys - {old_key}:
            encrypt(kms, key_id)
        if "disabled" in acknowledged:
            with pytest.raises(KeyDisabledError):
                encrypt(kms, old_key)
        if "registered" in acknowledged:
            assert kms.service.register.get("volume", "v") is not None
        records = kms.records()
        names = [record.event_name for record in records if record.error_code is None]
        assert names.count("CreateKey") >= len(keys)
        assert names.count("Encrypt") >= 1 + ("encrypted" in acknowledged)
    return [record.event_name for record in records]


def encrypt(kms: MemoryKms, key_id: str) -> None:
    kms.service.perform(ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(1)))


def test_a_power_cut_at_every_step(
    disk: DisposableFileSystem, template: tuple[Path, str], tmp_path: Path
) -> None:
    source, old_key = template
    log = tmp_path / "strace"
    home = fresh(source, disk)
    whole = run(home, old_key, log=log)
    assert whole.acknowledged[-1] == "encrypted again"
    points = steps(log, home)
    # Eight syncs at least: two a request without rows, more for each with some.
    assert len([name for name, _ in points if name == "fdatasync"]) > 8
    reached: Counter[int] = Counter()
    for name, number in points:
        home = fresh(source, disk)
        outcome = run(home, old_key, f"--inject={name}:signal=KILL:when={number}", log=log)
        assert outcome.errors == []
        disk.cut_power()
        check(home, old_key, outcome.acknowledged)
        reached[len(outcome.acknowledged)] += 1
    # The cuts lay before, between and in all of them.
    assert set(reached) >= set(range(1, 6))
    home = fresh(source, disk)
    outcome = run(home, old_key, log=log)
    disk.cut_power()
    names = check(home, old_key, outcome.acknowledged)
    assert "RecoverAuditLog" not in names
    assert len(outcome.acknowledged) == len(whole.acknowledged)


def test_without_syncs_a_power_cut_is_noticed(
    disk: DisposableFileSystem, template: tuple[Path, str], tmp_path: Path
) -> None:
    """The control: log and head not synced, what was acknowledged is lost."""
    source, old_key = template
    home = fresh(source, disk)
    outcome = run(home, old_key, log=tmp_path / "strace", synced=False)
    assert outcome.acknowledged[-1] == "encrypted again"
    disk.cut_power()
    with pytest.raises((VolcryptError, AssertionError)):
        check(home, old_key, outcome.acknowledged)


def test_a_failing_sync_stops_everything_until_it_is_opened_again(
    template: tuple[Path, str], tmp_path: Path
) -> None:
    """EIO from each fdatasync: the request fails, nothing more happens, and all is well after."""
    source, old_key = template
    log = tmp_path / "strace"

    def home_of(number: int) -> Path:
        home = source.parent / f"home-{number}"
        shutil.copytree(source, home)
        return home

    home = home_of(0)
    assert run(home, old_key, log=log).errors == []
    syncs = [number for name, number in steps(log, home) if name == "fdatasync"]
    failed: Counter[str] = Counter()
    for number in syncs:
        home = home_of(number)
        outcome = run(home, old_key, f"--inject=fdatasync:error=EIO:when={number}", log=log)
        assert len(outcome.errors) == 1, (number, outcome)
        failed[outcome.errors[0]] += 1
        check(home, old_key, outcome.acknowledged)
    assert set(failed) == {"KmsInternalError"}


def test_after_a_failed_sync_no_request_is_carried_out(
    template: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, old_key = template
    real = os.fdatasync
    for fails_at in (1, 2):
        with memory_kms(source, MemoryKeyStore()) as kms:
            encrypt(kms, kms.new_key())
            calls = iter(range(1, 100))

            def fail(descriptor: int, calls: Iterator[int] = calls, at: int = fails_at) -> None:
                if next(calls) == at:
                    raise OSError(5, "Input/output error")
                real(descriptor)

            encryptions = kms.keystore.encryptions
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fail)
                for _ in range(2):
                    with pytest.raises(KmsInternalError):
                        encrypt(kms, old_key)
            for _ in range(2):
                with pytest.raises(KmsInternalError, match="open it again"):
                    encrypt(kms, old_key)
            assert kms.keystore.encryptions == encryptions
        with memory_kms(source, MemoryKeyStore()) as kms:
            encrypt(kms, old_key)
            assert kms.records()[-1].event_name == "Encrypt"
