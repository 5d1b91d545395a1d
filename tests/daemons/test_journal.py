"""Records in systemd's journal: what arrives at its socket, and what becomes of what it does not
take. `e2e/test_journal.py` has the real one."""

import array
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from volcrypt.daemons.journal import JournalHandler, is_journal, log_to_journal, now_under

KEY = "arn:aws:kms:us-east-1:000000000000:key/12345678-1234-1234-1234-123456789012"


class FakeJournal:
    """The socket, and the fields of each record that came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def next(self) -> dict[str, str]:
        data, ancillary, _, _ = self.socket.recvmsg(2**20, socket.CMSG_SPACE(4))
        for _level, _kind, content in ancillary:
            (descriptor,) = array.array("i", content)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        fields = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + size], data[9 + size :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    made = FakeJournal(tmp_path / "socket")
    yield made
    made.socket.close()


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """One of ours; loggers are afterwards as they were."""
    root, ours = logging.getLogger(), logging.getLogger("volcrypt")
    before, level = list(root.handlers), ours.level
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    yield logging.getLogger("volcrypt.something")
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)
        handler.close()
    ours.setLevel(level)


def begun(journal: FakeJournal) -> JournalHandler:
    handler = log_to_journal("volcrypt-volume", socket_path=journal.path)
    assert handler is not None
    return handler


def test_fields_of_a_message(
    journal: FakeJournal, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = begun(journal)
    handler.fields.update({"VOLCRYPT_VOLUME": "vol-0123456789abcdef0", "VOLCRYPT_KEY": "K"})
    logger.info("it %s", "begins")
    logger.error("two\nlines of %s", KEY)
    first, second = journal.next(), journal.next()
    assert first["MESSAGE"] == "it begins"
    assert second["MESSAGE"] == f"two\nlines of {KEY}"
    assert (first["PRIORITY"], second["PRIORITY"]) == ("6", "3")
    assert (first["VOLCRYPT_KEY"], second["VOLCRYPT_KEY"]) == ("K", KEY)
    for fields in (first, second):
        assert fields["VOLCRYPT_VOLUME"] == "vol-0123456789abcdef0"
        assert fields["SYSLOG_IDENTIFIER"] == "volcrypt-volume"
        assert fields["CODE_FILE"] == __file__
        assert fields["CODE_FUNC"] == "test_fields_of_a_message"
        assert int(fields["CODE_LINE"]) > 1
        assert set(fields) <= {
            *("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "CODE_FILE", "CODE_FUNC", "CODE_LINE"),
            *("VOLCRYPT_VOLUME", "VOLCRYPT_KEY"),
        }
    # Plain as well, since standard error is another stream; and only what is a complaint.
    plain = capsys.readouterr().err
    assert "begins" not in plain
    assert "two\nlines" in plain


def test_a_traceback_is_part_of_the_message(journal: FakeJournal, logger: logging.Logger) -> None:
    begun(journal)
    try:
        raise ValueError("unexpected")
    except ValueError:
        logger.exception("it failed")
    message = journal.next()["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: unexpected")


def test_a_message_of_any_size(journal: FakeJournal, logger: logging.Logger) -> None:
    begun(journal)
    logger.warning("x" * 2**20)
    assert journal.next()["MESSAGE"] == "x" * 2**20


def test_the_journal_is_not_waited_for(journal: FakeJournal, logger: logging.Logger) -> None:
    """It may write to the volume that logs."""
    begun(journal)
    count = 2000
    for number in range(count):
        logger.info("%d", number)
    taken = 0
    journal.socket.setblocking(False)
    try:
        while True:
            assert journal.next()["MESSAGE"] == str(taken)
            taken += 1
    except BlockingIOError:
        pass
    assert 0 < taken < count
    journal.socket.settimeout(30)
    logger.info("again")
    assert journal.next()["VOLCRYPT_LOST"] == str(count - taken)
    logger.info("and again")
    assert "VOLCRYPT_LOST" not in journal.next()


def test_a_journal_that_was_started_anew(
    journal: FakeJournal, logger: logging.Logger, tmp_path: Path
) -> None:
    begun(journal)
    journal.socket.close()
    journal.path.unlink()
    logger.info("lost")
    later = FakeJournal(journal.path)
    logger.info("found")
    fields = later.next()
    assert (fields["MESSAGE"], fields["VOLCRYPT_LOST"]) == ("found", "1")
    later.socket.close()


def test_outside_of_systemd_there_are_plain_lines(
    journal: FakeJournal,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert log_to_journal("volcrypt-kms", socket_path=tmp_path / "none") is None
    monkeypatch.delenv("JOURNAL_STREAM")
    assert log_to_journal("volcrypt-kms", socket_path=journal.path) is None
    logger.warning("something")
    logger.info("nothing")
    assert capsys.readouterr().err.count("WARNING something\n") == 2


def test_which_stream_is_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert is_journal(writer)
    assert not is_journal(2)
    monkeypatch.setenv("JOURNAL_STREAM", "rubbish")
    assert not is_journal(writer)
    os.close(reader)
    os.close(writer)


def test_several_snapshots_are_each_asked_for(journal: FakeJournal, logger: logging.Logger) -> None:
    """With fields of one name, as the journal has them."""
    begun(journal).several = [("VOLCRYPT_SNAPSHOT", "snap-1"), ("VOLCRYPT_SNAPSHOT", "snap-2")]
    logger.info("completed")
    journal.socket.settimeout(30)
    data = journal.socket.recv(2**16)
    assert data.count(b"VOLCRYPT_SNAPSHOT=snap-") == 2


def test_after_a_change_of_keys_it_is_the_new_one(
    journal: FakeJournal, logger: logging.Logger
) -> None:
    begun(journal).fields["VOLCRYPT_KEY"] = KEY
    logger.info("before")
    assert journal.next()["VOLCRYPT_KEY"] == KEY, "the control"
    now_under(KEY.replace("us-east-1", "eu-west-1"))
    logger.info("after")
    assert journal.next()["VOLCRYPT_KEY"] == KEY.replace("us-east-1", "eu-west-1")
    now_under(None)  # a key of the customer's
    logger.info("and then")
    assert "VOLCRYPT_KEY" not in journal.next()
