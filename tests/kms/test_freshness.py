"""Old files in the place of new ones: what a crash can leave is taken, everything else is found."""

import os
import shutil
from pathlib import Path

import pytest

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import ROOT, MemoryKms, memory_kms
from volcrypt.errors import (
    AuditChainError,
    FormatError,
    IntegrityError,
    KeyDisabledError,
    NoSpaceError,
    RollbackError,
)
from volcrypt.formats.audit_head import SealedHead
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.freshness import current_audit_head
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.messages.data import EncryptRequest
from volcrypt.kms.messages.keys import DescribeKeyRequest, DisableKeyRequest
from volcrypt.kms.performer import Performer
from volcrypt.kms.register import RegisterEntry
from volcrypt.kms.sealing import Seal

KEYSTORE = MemoryKeyStore()


def seal(counter: int, sequence: int, hash_: str = "a") -> Seal:
    return Seal(counter=counter, roots={}, audit=AuditHead(sequence=sequence, hash=hash_))


def head(counter: int, sequence: int, hash_: str = "a") -> SealedHead:
    audit = AuditHead(sequence=sequence, hash=hash_)
    return SealedHead(number=0, audit=audit, catalogue=counter)


@pytest.mark.parametrize(
    ("catalogue", "log", "expected"),
    [
        (seal(5, 9), head(5, 9), 9),  # nothing since the last change of rows
        (seal(5, 9), head(5, 12), 12),  # requests without rows since then
        (seal(6, 13), head(5, 12), 13),  # killed between commit and head
        (seal(6, 12), head(5, 12), 12),  # the same, for a change that is not in the log
    ],
)
def test_what_a_crash_can_leave(catalogue: Seal, log: SealedHead, expected: int) -> None:
    assert current_audit_head(catalogue, log, catalogue="c").sequence == expected


@pytest.mark.parametrize(
    ("catalogue", "log", "whose"),
    [
        (seal(4, 9), head(5, 9), "catalogue c: it is not the current"),
        (seal(4, 99), head(5, 9), "catalogue c: it is not the current"),
        (seal(7, 13), head(5, 12), "audit log that goes with catalogue c"),
        (seal(6, 11), head(5, 12), "audit log"),  # another home's
        (seal(5, 12), head(5, 11), "audit log"),
        (seal(5, 12, "b"), head(5, 12, "a"), "audit log"),
    ],
)
def test_what_no_crash_leaves(catalogue: Seal, log: SealedHead, whose: str) -> None:
    with pytest.raises(RollbackError, match=whose):
        current_audit_head(catalogue, log, catalogue="catalogue c")


def disable(kms: MemoryKms, key_id: str) -> None:
    kms.service.perform(ROOT, DisableKeyRequest(key_id=key_id))


def look(kms: MemoryKms, key_id: str) -> None:
    kms.service.perform(ROOT, DescribeKeyRequest(key_id=key_id))


def encrypt(kms: MemoryKms, key_id: str) -> None:
    kms.service.perform(ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(b"x")))


@pytest.fixture
def home(memory_path: Path) -> Path:
    with memory_kms(memory_path / "kms", KEYSTORE) as kms:
        kms.new_key()
    return memory_path / "kms"


def copy_catalogue(source: Path, target: Path) -> None:
    for path in source.glob("catalog.sqlite3*"):
        shutil.copy(path, target / path.name)


def test_the_catalogue_alone_cannot_be_rolled_back(home: Path, memory_path: Path) -> None:
    """Also by one single change, which was the last thing that happened."""
    with memory_kms(home, KEYSTORE) as kms:
        key_id = kms.new_key()
        copy_catalogue(home, memory_path)
        disable(kms, key_id)
        with pytest.raises(KeyDisabledError):
            encrypt(kms, key_id)
    now = memory_path / "now"
    now.mkdir()
    copy_catalogue(home, now)
    copy_catalogue(memory_path, home)
    with (
        pytest.raises(RollbackError, match=r"catalogue .* is not the current version"),
        memory_kms(home, KEYSTORE),
    ):
        pass
    copy_catalogue(now, home)
    with memory_kms(home, KEYSTORE) as kms, pytest.raises(KeyDisabledError):
        encrypt(kms, key_id)


def test_a_rollback_under_a_process_that_has_it_open_is_found(
    home: Path, memory_path: Path
) -> None:
    copy_catalogue(home, memory_path)
    with memory_kms(home, KEYSTORE) as kms:
        key_id = kms.new_key()
        # In place, as whoever has only write access to the file would do it.
        (home / "catalog.sqlite3").write_bytes((memory_path / "catalog.sqlite3").read_bytes())
        with pytest.raises((IntegrityError, FormatError)):
            look(kms, key_id)


def test_the_register_is_covered_too(home: Path, memory_path: Path) -> None:
    copy_catalogue(home, memory_path)
    with memory_kms(home, KEYSTORE) as kms:
        entry = RegisterEntry(kind="volume", id="v", name=None, counter=1, digest=bytes(32))
        kms.service.register.apply(put=[entry])
    copy_catalogue(memory_path, home)
    with pytest.raises(RollbackError), memory_kms(home, KEYSTORE):
        pass


def test_the_log_alone_cannot_be_rolled_back_behind_a_change(home: Path, memory_path: Path) -> None:
    shutil.copytree(home / "audit", memory_path / "old")
    with memory_kms(home, KEYSTORE) as kms:
        kms.new_key()
        kms.new_key()
    shutil.rmtree(home / "audit")
    shutil.copytree(memory_path / "old", home / "audit")
    with pytest.raises(RollbackError, match="audit log"), memory_kms(home, KEYSTORE):
        pass


def test_an_old_head_alone_adopts_what_follows_it_and_says_so(
    home: Path, memory_path: Path
) -> None:
    shutil.copy(home / "audit/head", memory_path / "head")
    with memory_kms(home, KEYSTORE) as kms:
        look(kms, kms.records()[0].resources[0].arn)
    shutil.copy(memory_path / "head", home / "audit/head")
    with memory_kms(home, KEYSTORE) as kms:
        kms.new_key()
        names = [record.event_name for record in kms.records()]
    assert names == ["CreateKey", "DescribeKey", "RecoverAuditLog", "CreateKey"]


def put_back(home: Path, kept: Path) -> None:
    """Catalogue and head as they were; the log stays."""
    copy_catalogue(kept, home)
    shutil.copy(kept / "head", home / "audit/head")


def test_an_old_catalogue_with_its_head_does_not_fit_the_log(home: Path, memory_path: Path) -> None:
    with memory_kms(home, KEYSTORE) as kms:
        key_id = kms.new_key()
        copy_catalogue(home, memory_path)
        shutil.copy(home / "audit/head", memory_path / "head")
        disable(kms, key_id)
        kms.new_key()
    put_back(home, memory_path)
    log = (home / "audit/audit-000001.jsonl").read_bytes()
    with memory_kms(home, KEYSTORE) as kms:
        for _ in range(2):
            with pytest.raises(AuditChainError, match="more than a crash leaves"):
                encrypt(kms, key_id)
    assert (home / "audit/audit-000001.jsonl").read_bytes() == log


def test_an_old_head_does_not_take_over_a_long_tail(home: Path, memory_path: Path) -> None:
    shutil.copy(home / "audit/head", memory_path / "head")
    with memory_kms(home, KEYSTORE) as kms:
        key_id = kms.records()[0].resources[0].arn
        for _ in range(129):
            look(kms, key_id)
    shutil.copy(memory_path / "head", home / "audit/head")
    with memory_kms(home, KEYSTORE) as kms, pytest.raises(AuditChainError, match="than a crash"):
        look(kms, key_id)


def test_kills_in_a_row_are_no_alarm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each before its commit, then each before it has sealed what the one before it left."""

    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    for target in (Catalog, HeadFile):
        with monkeypatch.context() as patch:
            patch.setattr(target, "_commit" if target is Catalog else "write", killed)
            for _ in range(3):
                with memory_kms(home, KEYSTORE) as kms, pytest.raises(KilledError):
                    kms.new_key()
    with memory_kms(home, KEYSTORE) as kms:
        kms.new_key()
        names = [record.event_name for record in kms.records()]
    assert names.count("CreateKey") == 5
    assert names.count("RecoverAuditLog") == 6


def test_kills_in_a_row_between_commit_and_head_are_no_alarm(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has the catalogue's counter before that is changed again."""

    class KilledError(BaseException):
        pass

    write = HeadFile.write

    def killed(heads: HeadFile, audit: AuditHead, *, catalogue: int) -> None:
        if catalogue > before[-1]:
            raise KilledError
        write(heads, audit, catalogue=catalogue)

    before: list[int] = []
    for _ in range(2):
        with memory_kms(home, KEYSTORE) as kms:
            with kms.catalog.reading() as view:
                before.append(view.counter)
            with monkeypatch.context() as patch:
                patch.setattr(HeadFile, "write", killed)
                with pytest.raises(KilledError):
                    kms.new_key()
    with memory_kms(home, KEYSTORE) as kms:
        assert len(kms.records()) == 3


def test_changes_that_fail_in_a_row_are_no_alarm(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpaceError("no space left")

    with memory_kms(home, KEYSTORE) as kms:
        monkeypatch.setattr(kms.catalog, "_commit", full)
        monkeypatch.setattr(Performer, "_record_failures", lambda *_: None)
        for _ in range(3):
            with pytest.raises(NoSpaceError):
                kms.new_key()
    with memory_kms(home, KEYSTORE) as kms:
        kms.new_key()


def test_another_homes_catalogue_is_refused(home: Path, memory_path: Path) -> None:
    """Two copies of one home go on by themselves; then one gets the other's catalogue."""
    other = memory_path / "other"
    shutil.copytree(home, other)
    for directory in (home, other):
        with memory_kms(directory, KEYSTORE) as kms:
            kms.new_key()
    copy_catalogue(other, home)
    with pytest.raises(RollbackError), memory_kms(home, KEYSTORE):
        pass


def test_a_rollback_of_all_is_found_by_a_head_kept_elsewhere(home: Path, memory_path: Path) -> None:
    shutil.copytree(home, memory_path / "old")
    with memory_kms(home, KEYSTORE) as kms:
        kms.new_key()
        kept = kms.service.audit_head().point
        assert kms.audit.verify(kms.service.audit_head(), expected=kept) == 0
    with memory_kms(memory_path / "old", KEYSTORE) as kms:
        assert kms.audit.verify(kms.service.audit_head()) == 0
        with pytest.raises(AuditChainError, match="ends at record 1, record 2 is expected"):
            kms.audit.verify(kms.service.audit_head(), expected=kept)


@pytest.mark.parametrize("content", [b"", b"x" * 8192, bytes(8192), None])
def test_a_damaged_or_missing_head_stops_everything(home: Path, content: bytes | None) -> None:
    if content is None:
        (home / "audit/head").unlink()
    else:
        (home / "audit/head").write_bytes(content)
    with pytest.raises((FormatError, IntegrityError), match="head"), memory_kms(home, KEYSTORE):
        pass


def test_a_pipe_in_the_place_of_the_head_is_refused(home: Path) -> None:
    (home / "audit/head").unlink()
    os.mkfifo(home / "audit/head")
    with pytest.raises(FormatError, match="not a regular file"), memory_kms(home, KEYSTORE):
        pass


@pytest.mark.parametrize("commits", [0, 1, 2, 5])
def test_writers_that_go_on_while_somebody_reads_are_no_alarm(
    home: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """So many changes by another process between the reader's look at the head and at the rows."""
    with memory_kms(home, KEYSTORE) as kms, memory_kms(home, KEYSTORE) as other:
        read, to_come = kms.heads.read, [commits]

        def read_early() -> SealedHead:
            found = read()
            for _ in range(to_come.pop() if to_come else 0):
                other.new_key()
            return found

        monkeypatch.setattr(kms.heads, "read", read_early)
        with kms.catalog.reading() as view:
            assert view.count("key") == 1 + commits
            assert view.audit_head.sequence == view.count("key")


@pytest.mark.parametrize("name", ["catalog.sqlite3", "catalog.sqlite3-journal"])
@pytest.mark.parametrize("is_pipe", [False, True])
def test_what_is_no_regular_file_is_no_catalogue(home: Path, name: str, is_pipe: bool) -> None:
    moved = (home / name).rename(home / "elsewhere")
    if is_pipe:
        os.mkfifo(home / name)
    else:
        (home / name).symlink_to(moved)
    with (
        pytest.raises(IntegrityError, match=f"{name} is not a regular"),
        memory_kms(home, KEYSTORE),
    ):
        pass
