"""Backup and restore: on another machine, killed anywhere, without permission, damaged."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.crash.kills import kill_at, points_of, spread
from tests.fakes.kms import ROOT, memory_kms
from tests.syncs import recorded_syncs
from volcrypt.errors import (
    AccessDeniedError,
    IntegrityError,
    NameTakenError,
    TryAgainError,
    WrongPassphraseError,
)
from volcrypt.formats.audit_record import AuditHead
from volcrypt.formats.backup import (
    SALT_BYTES,
    BackupHeader,
    PassphraseKey,
    chunk_key,
    encode_files,
    encode_header,
    seal_chunks,
    stretch_passphrase,
)
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.messages.base import A, Request
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.kms.model import Caller
from volcrypt.kms.service import KmsService
from volcrypt.operations.backups import Member, back_up
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.home_restore import read_header, restore_home, unwrap_secret
from volcrypt.operations.vault import Access, Vault
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root

PASSPHRASE = bytearray(b"correct horse")
LOG_N = 4
"""Quick: what scrypt is worth is not the question here."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        init_home(
            made.home, runtime_root(), account=DEFAULT_ACCOUNT, region=DEFAULT_REGION, pin=None
        )
        yield made


@contextmanager
def opened(command: Command, access: Access | None = None) -> Iterator[Home]:
    with Home(command.home, runtime_root(), access=access or Access()) as home:
        yield home


class _AsRoot:
    """A KMS that knows who asks by his credentials, whatever the request says."""

    def __init__(self, service: KmsService) -> None:
        self._service = service

    def perform(self, _caller: Caller, request: Request[A]) -> A:
        return self._service.perform(ROOT, request)


def secret_of(parameters: PassphraseKey | None, word: bytes | bytearray = PASSPHRASE) -> bytes:
    assert parameters is not None
    return stretch_passphrase(word, parameters)


def test_a_volume_opens_on_another_machine(command: Command, tmp_path: Path) -> None:
    plain = os.urandom(2**20)
    (tmp_path / "image").write_bytes(plain)
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    made = command.json("volume", "import", tmp_path / "image", "--kms-key-id", key, "--name", "a")
    (command.home / "config.toml").write_text("[kms]\nregions = ['eu-west-1']\n")
    (tmp_path / "word").write_text("correct horse\n")
    written = command.json("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    assert written["HasPin"] is True
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))
    data = (tmp_path / "file").read_bytes()
    assert b"correct horse" not in data
    assert (command.home / "kms" / "pin").read_bytes() not in data

    with disposable_home(tmp_path / "elsewhere" / "new") as other:
        assert other.runtime != command.runtime
        other.run("restore", tmp_path / "file", "--passphrase-file", "-", stdin=b"correct horse\n")
        data_file = Path("volumes") / made["VolumeId"] / "data"
        shutil.move(command.home / data_file, other.home / data_file)
        shutil.rmtree(command.home)
        other.run("volume", "check", "a")
        other.run("volume", "export", "--yes", "a", tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == plain
        # The log goes on where it was, and the request for the backup is on it.
        assert any(
            record["eventName"] == "Backup" for record in other.json("audit", "list")["Records"]
        )
        assert other.json("config", "show")["kms"]["regions"] == ["eu-west-1"]
        assert "not empty" in other.fails(
            2, "restore", tmp_path / "file", "--passphrase-file", tmp_path / "word"
        )


def test_all_of_it_comes_back_and_is_durable_before_it_is_a_home(
    command: Command, tmp_path: Path
) -> None:
    parts = {
        "config.toml": b"[kms]\n",
        "stores/other.place": b"where it is",
        "volumes/vol-0123456789abcdef0/record": b"a volume",
        "work/vol-0123456789abcdef0": b"what is unfinished",
        "written/dk-0123456789abcdef0": b"how much",
    }
    for name, content in parts.items():
        (command.home / name).parent.mkdir(exist_ok=True)
        (command.home / name).write_bytes(content)
    with opened(command) as home:
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    new = tmp_path / "new"
    with recorded_syncs() as synced:
        restore_home(tmp_path / "file", new, secret=lambda h: secret_of(h.passphrase))
    assert {name: (new / name).read_bytes() for name in parts} == parts
    made = {new, *new.rglob("*")} - {new / "home"}
    assert made <= set(synced[: synced.index(new / ".home.new")])
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["home", "kms/catalog.sqlite3"], "kms/token/master is not in it"),
        (["home", "elsewhere/file"], "elsewhere/file does not belong into a home"),
        (["home", "volumes"], "volumes does not belong into a home"),
    ],
)
def test_what_is_no_home_is_not_restored(tmp_path: Path, names: list[str], message: str) -> None:
    salt = PassphraseKey(log_n=LOG_N, salt=bytes(SALT_BYTES))
    header = encode_header(
        BackupHeader(home_id="", account="", region="", created_at=0, passphrase=salt)
    )
    payload = encode_files((name, 1, [b"x"]) for name in names)
    chunks = seal_chunks(chunk_key(secret_of(salt), header), payload)
    (tmp_path / "file").write_bytes(header + b"".join(chunks))
    with pytest.raises(IntegrityError, match=message):
        restore_home(tmp_path / "file", tmp_path / "new", secret=lambda h: secret_of(h.passphrase))
    assert not (tmp_path / "new").exists()


def test_snapshots_elsewhere_are_there_at_once(command: Command, tmp_path: Path) -> None:
    plain = os.urandom(2**20)
    (tmp_path / "image").write_bytes(plain)
    command.run("volume", "import", tmp_path / "image", "--name", "a")
    command.run("store", "create", "away", "--url", (tmp_path / "away").as_uri())
    made = command.run("snapshot", "create", "--wait", "a", "--name", "b", "--store", "away")
    (tmp_path / "word").write_text("correct horse\n")
    command.run("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    shutil.rmtree(command.home)
    with disposable_home(tmp_path / "new") as other:
        other.run("restore", tmp_path / "file", "--passphrase-file", tmp_path / "word")
        done = other.try_run("--json", "snapshot", "list")
        assert (done.returncode, made in done.stdout) == (0, True)
        assert "warning: snapshot store" in done.stderr
        assert "by their id" in other.fails(3, "volume", "create", "--snapshot-id", "b")
        other.run("volume", "create", "--snapshot-id", made, "--name", "c")
        other.run("volume", "export", "--yes", "c", tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == plain


def test_the_request_is_on_record_before_the_file_is(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_keywords: object) -> None:
        raise OSError(5, "no disk")

    monkeypatch.setattr("volcrypt.operations.backups.seal_chunks", fail)
    with opened(command) as home, pytest.raises(OSError, match="no disk"):
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    records = list(AuditLog(command.home / "kms" / "audit").read_records())
    assert records[-1].event_name == "Backup"


def test_who_may_not_gets_no_file(command: Command, tmp_path: Path) -> None:
    class Denying:
        def __init__(self, home: Home) -> None:
            self._home = home

        def __getattr__(self, name: str) -> object:
            return getattr(self._home.vault, name)

        def authorise(self, _caller: object, action: str) -> None:
            raise AccessDeniedError(f"not {action}")

    with opened(command) as home, opened(command) as denied:
        denied.__dict__["vault"] = Denying(home)
        with pytest.raises(AccessDeniedError, match="not volcrypt:Backup"):
            back_up(denied, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nothing_is_overwritten(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with opened(command) as home, pytest.raises(NameTakenError, match="exists"):
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    (tmp_path / "word").write_text("correct horse")
    command.fails(4, "backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_wrong_passphrase_and_damage_leave_nothing(command: Command, tmp_path: Path) -> None:
    with opened(command) as home:
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    new = tmp_path / "new"
    with pytest.raises(WrongPassphraseError, match="wrong passphrase"):
        restore_home(tmp_path / "file", new, secret=lambda h: secret_of(h.passphrase, b"wrong"))
    assert not new.exists()
    with disposable_home(new) as other:
        restore = ("restore", tmp_path / "file", "--passphrase-file", "-")
        assert "wrong passphrase" in other.fails(5, *restore, stdin=b"wrong horse\n")
    data = (tmp_path / "file").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-1])
    # Of a single chunk: then damage and a wrong passphrase look alike.
    with pytest.raises(WrongPassphraseError, match="damaged or cut"):
        restore_home(tmp_path / "cut", new, secret=lambda h: secret_of(h.passphrase))
    assert not new.exists()
    below = tmp_path / "there" / "not there" / "new"
    (tmp_path / "there").mkdir()
    with pytest.raises(WrongPassphraseError):
        restore_home(tmp_path / "cut", below, secret=lambda h: secret_of(h.passphrase))
    assert list((tmp_path / "there").iterdir()) == []
    restore_home(tmp_path / "file", new, secret=lambda h: secret_of(h.passphrase))


def test_a_backup_is_of_one_moment(command: Command, tmp_path: Path) -> None:
    """Somebody changes the home all the time; what is restored is whole, and its log holds."""
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    change = f"while true; do {VOLCRYPT} --home {command.home} kms create-key; done"
    writer = subprocess.Popen(["bash", "-c", change], stdout=subprocess.DEVNULL)
    heads = []
    try:
        with opened(command) as home:
            for number in range(6):
                file = tmp_path / f"file{number}"
                made = back_up(home, file, passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
                heads.append(made.audit_head.sequence)
                while home.vault.audit_head().sequence < heads[-1] + 2:
                    pass  # until the other has done something in between
    finally:
        writer.kill()
        writer.wait()
    assert heads == sorted(set(heads))
    for number, head in enumerate(heads):
        new = tmp_path / f"new{number}"
        restore_home(tmp_path / f"file{number}", new, secret=lambda h: secret_of(h.passphrase))
        with disposable_home(new) as restored, opened(restored) as found:
            AuditLog(new / "kms" / "audit").verify(found.vault.audit_head())
            assert found.vault.audit_head().sequence >= head
            found.kms.perform(found.caller, DescribeKeyRequest(key_id=key))


def test_nobody_changes_the_home_while_what_may_change_is_read(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.home / "work" / "unfinished").write_bytes(b"x")
    locked = {}

    def looked_at(members: Iterable[Member]) -> Iterator[bytes]:
        for member in members:
            other = WriterLock(command.home / "kms" / "lock")
            try:
                with other.held(patience_seconds=0):
                    locked[member[0]] = False
            except TryAgainError:
                locked[member[0]] = True
            other.close()
            yield from encode_files([member])

    monkeypatch.setattr("volcrypt.operations.backups.encode_files", looked_at)
    with opened(command) as home:
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    assert {"home", "kms/catalog.sqlite3", "kms/token/master", "work/unfinished"} <= locked.keys()
    # The audit log only grows: of that there is what was there at the lock, and nobody waits.
    assert {name for name, held in locked.items() if not held} == {
        name for name in locked if name.endswith(".jsonl")
    }
    assert not all(locked.values())


KILLED_IN_A_CHANGE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = PERSIST")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM item")
for number in range(50):
    values = ("key", 0, str(number), bytes(4000), b"")
    connection.execute("INSERT INTO item (kind, bucket, id, body, mac) VALUES (?,?,?,?,?)", values)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_change_that_a_killed_process_left_is_undone_before_the_catalogue_is_read(
    command: Command, tmp_path: Path
) -> None:
    """The file alone, without the journal beside it, would be neither the old nor the new one."""
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    catalog = command.home / "kms" / "catalog.sqlite3"
    journal = catalog.with_name(f"{catalog.name}-journal")

    class Interrupted:
        """Somebody is killed behind the first look at the head, and before the lock."""

        def __init__(self, vault: Vault) -> None:
            self._vault = vault
            self.kills = 0

        def __getattr__(self, name: str) -> object:
            return getattr(self._vault, name)

        def audit_head(self) -> AuditHead:
            head = self._vault.audit_head()
            if not self.kills:
                self.kills += 1
                subprocess.run([sys.executable, "-c", KILLED_IN_A_CHANGE, catalog], check=False)
                assert any(journal.read_bytes()[:8])
            return head

    with opened(command) as home:
        interrupted = Interrupted(home.vault)
        home.__dict__["vault"] = interrupted
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    assert interrupted.kills == 1
    restore_home(tmp_path / "file", tmp_path / "new", secret=lambda h: secret_of(h.passphrase))
    with disposable_home(tmp_path / "new") as restored, opened(restored) as found:
        found.kms.perform(found.caller, DescribeKeyRequest(key_id=key))


def test_a_catalogue_that_does_not_come_to_rest_is_not_backed_up(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volcrypt.operations.backups._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("volcrypt.operations.backups._has_hot_journal", lambda _: True)
    with opened(command) as home, pytest.raises(TryAgainError, match="does not come to rest"):
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    command.run("kms", "list-keys")  # the lock is free again


def test_under_a_key_of_another_kms(command: Command, tmp_path: Path) -> None:
    with memory_kms(tmp_path / "other") as other:
        key = other.new_key()
        access = Access(other_kms=lambda: _AsRoot(other.service), default_kms_key=key)
        with opened(command, access) as home:
            report = back_up(home, tmp_path / "file", passphrase=None, kms_key=key, log_n=LOG_N)
        assert report.file_count > 3
        header, _ = read_header(tmp_path / "file")
        assert header.kms is not None
        wrapped = header.kms
        restore_home(
            tmp_path / "file",
            tmp_path / "new",
            secret=lambda _: unwrap_secret(_AsRoot(other.service), wrapped),
        )
        with disposable_home(tmp_path / "new") as restored:
            restored.run("kms", "list-keys")
        record = next(
            record for record in other.records() if record.event_name == "GenerateDataKey"
        )
        assert record.request_parameters is not None
        assert set(record.request_parameters["encryptionContext"]) == {"volcrypt:backup-of"}


def test_a_key_of_the_home_itself_is_no_protection(command: Command, tmp_path: Path) -> None:
    command.fails(2, "backup", tmp_path / "file", "--kms-key-id", "alias/volcrypt/ebs")
    assert not (tmp_path / "file").exists()


def test_a_killed_restore_starts_over(command: Command, tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("correct horse")
    with opened(command) as home:
        back_up(home, tmp_path / "file", passphrase=PASSPHRASE, kms_key=None, log_n=LOG_N)
    arguments = ("restore", str(tmp_path / "file"), "--passphrase-file", str(word))
    with disposable_home(tmp_path / "new") as other:
        points = points_of(other, *arguments, log=tmp_path / "log")
        for point in spread(points, 6):
            shutil.rmtree(other.home)
            killed = kill_at(other, point, *arguments)
            done = other.try_run(*arguments)
            complete = not killed or "is not empty" in done.stderr
            assert done.returncode == (2 if complete else 0), (point, done.stderr)
            other.run("kms", "list-keys")
            assert not (other.home / "RESTORING").exists()


def test_a_killed_backup_leaves_no_file(command: Command, tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("correct horse")
    arguments = ("backup", str(tmp_path / "file"), "--passphrase-file", str(word))
    points = [
        point
        for point in points_of(command, *arguments, log=tmp_path / "log")
        if point.call in ("fsync", "link", "unlink", "linkat")
    ]
    whole = (tmp_path / "file").stat().st_size
    for point in spread(points, 3):
        (tmp_path / "file").unlink(missing_ok=True)
        kill_at(command, point, *arguments)
        if (tmp_path / "file").exists():
            assert (tmp_path / "file").stat().st_size >= whole
        (tmp_path / "file").unlink(missing_ok=True)
        command.run(*arguments)
