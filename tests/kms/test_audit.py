"""The audit log: durable, chained, and honest about what it finds."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.formats.test_audit_record import EVENT
from tests.syncs import recorded_syncs
from volcrypt.errors import AuditChainError, InvalidArgumentError
from volcrypt.formats.audit_record import (
    AuditEvent,
    AuditHead,
    AuditPoint,
    Resource,
    UserIdentity,
    parse_point,
)
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.record_filter import RecordFilter


def recovery(record_count: int, byte_count: int) -> AuditEvent:
    return event("RecoverAuditLog", details={"records": record_count, "bytes": byte_count})


def event(
    name: str,
    *,
    key: str = "k",
    principal: str = "arn:aws:iam::0:root",
    code: str | None = None,
    time: str = "2026-01-02T03:04:05Z",
    parameters: dict[str, Any] | None = None,
    details: dict[str, int] | None = None,
) -> AuditEvent:
    return AuditEvent(
        user_identity=UserIdentity(type="Root", arn=principal, account_id="0"),
        event_time=time,
        event_name=name,
        aws_region="us-east-1",
        source_ip_address="localhost",
        user_agent="volcrypt",
        error_code=code,
        request_parameters=parameters,
        response_elements=None,
        request_id="r",
        event_id="e",
        read_only=True,
        resources=[Resource(arn=f"arn:aws:kms:us-east-1:0:key/{key}", account_id="0")],
        recipient_account_id="0",
        service_event_details=details,
    )


def append(log: AuditLog, head: AuditHead, *names: str) -> AuditHead:
    return log.append(
        head, [event(name) for name in names], recovery=recovery, seal=lambda head: None
    )


def names(directory: Path) -> list[str]:
    return [record.event_name for record in AuditLog(directory).read_records()]


def file_of(directory: Path, number: int = 1) -> Path:
    return directory / f"audit-{number:06}.jsonl"


def test_records_follow_each_other(memory_path: Path) -> None:
    log = AuditLog(memory_path)
    head = append(log, AuditHead(), "A", "B")
    head = append(AuditLog(memory_path), head, "C")
    assert names(memory_path) == ["A", "B", "C"]
    assert (head.sequence, head.end) == (3, file_of(memory_path).stat().st_size)
    assert log.verify(head) == 0
    assert file_of(memory_path).stat().st_mode & 0o777 == 0o600


def test_an_empty_log_is_whole(memory_path: Path) -> None:
    assert AuditLog(memory_path).verify(AuditHead()) == 0
    assert names(memory_path) == []


def test_a_full_file_is_continued_in_the_next(memory_path: Path) -> None:
    log = AuditLog(memory_path, max_file_bytes=1000)
    head = AuditHead()
    for number in range(7):
        head = append(log, head, f"E{number}")
    assert names(memory_path) == [f"E{number}" for number in range(7)]
    assert head.file > 2
    assert log.verify(head) == 0


def test_the_name_of_a_new_file_is_durable_with_its_first_record(memory_path: Path) -> None:
    log = AuditLog(memory_path, max_file_bytes=1)
    with recorded_syncs() as synced:
        head = append(log, AuditHead(), "A")
        append(log, head, "B")
    assert synced == [memory_path, file_of(memory_path), memory_path, file_of(memory_path, 2)]


@pytest.mark.parametrize("torn", [b"{", b'{"formatVersion":1,"seq', b"\0" * 4096, b"\xff\n"])
def test_a_torn_tail_is_cut_off_and_that_is_said(memory_path: Path, torn: bytes) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A")
    with file_of(memory_path).open("ab") as file:
        file.write(torn)
    head = append(AuditLog(memory_path), head, "B")
    assert names(memory_path) == ["A", "RecoverAuditLog", "B"]
    (record,) = AuditLog(memory_path).read_records(RecordFilter(operation="RecoverAuditLog"))
    assert record.service_event_details == {"records": 0, "bytes": len(torn)}
    assert AuditLog(memory_path).verify(head) == 0


def test_every_torn_length_of_a_record_is_recovered(memory_path: Path) -> None:
    sealed = append(AuditLog(memory_path), AuditHead(), "A")
    append(AuditLog(memory_path), sealed, "B")
    whole = file_of(memory_path).read_bytes()
    for size in range(sealed.end + 1, len(whole), 17):
        file_of(memory_path).write_bytes(whole[:size])
        head = append(AuditLog(memory_path), sealed, "C")
        assert names(memory_path) == ["A", "RecoverAuditLog", "C"]
        assert AuditLog(memory_path).verify(head) == 0


def test_unsealed_records_are_taken_over_and_that_is_said(memory_path: Path) -> None:
    sealed = append(AuditLog(memory_path), AuditHead(), "A")
    append(AuditLog(memory_path), sealed, "B", "C")
    assert AuditLog(memory_path).verify(sealed) == 2
    head = append(AuditLog(memory_path), sealed, "D")
    assert names(memory_path) == ["A", "B", "C", "RecoverAuditLog", "D"]
    assert AuditLog(memory_path).verify(head) == 0


def test_a_process_takes_over_its_own_record_without_a_word(memory_path: Path) -> None:
    log = AuditLog(memory_path)
    sealed = append(log, AuditHead(), "A")
    append(log, sealed, "B")  # the change it belongs to fails, so the head stays
    append(log, sealed, "failed")
    assert names(memory_path) == ["A", "B", "failed"]


def test_a_cut_log_stops_everything(memory_path: Path) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A", "B")
    whole = file_of(memory_path).read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    file_of(memory_path).write_bytes(first)
    with pytest.raises(AuditChainError, match="was cut"):
        append(AuditLog(memory_path), head, "C")
    with pytest.raises(AuditChainError, match="ends at record 1, the last one was 2"):
        AuditLog(memory_path).verify(head)
    file_of(memory_path).unlink()
    with pytest.raises(AuditChainError, match="is missing"):
        append(AuditLog(memory_path), head, "C")
    assert not file_of(memory_path).exists()


def test_edits_and_forged_logs_are_found(memory_path: Path) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A", "B", "C")
    whole = file_of(memory_path).read_bytes()
    file_of(memory_path).write_bytes(whole.replace(b'"A"', b'"X"'))
    with pytest.raises(AuditChainError, match="record 1 was changed"):
        AuditLog(memory_path).verify(head)
    with pytest.raises(AuditChainError, match="record 1 was changed"):
        names(memory_path)
    # A chain made anew from the edit on holds by itself, and does not end in the sealed head.
    file_of(memory_path).unlink()
    append(AuditLog(memory_path), AuditHead(), "X", "B", "C")
    assert names(memory_path) == ["X", "B", "C"]
    with pytest.raises(AuditChainError, match="record 3 or one before it"):
        AuditLog(memory_path).verify(head)


def test_the_first_append_looks_at_the_last_record(memory_path: Path) -> None:
    """An edit of it, of the same length, is found at once; one further up by `verify`."""
    head = append(AuditLog(memory_path), AuditHead(), "A", "B")
    whole = file_of(memory_path).read_bytes()
    file_of(memory_path).write_bytes(whole.replace(b'"B"', b'"X"'))
    with pytest.raises(AuditChainError, match="record 2 or one before it was changed"):
        append(AuditLog(memory_path), head, "C")
    assert file_of(memory_path).read_bytes() == whole.replace(b'"B"', b'"X"')
    file_of(memory_path).write_bytes(whole.replace(b'"A"', b'"X"'))
    head = append(AuditLog(memory_path), head, "C")
    with pytest.raises(AuditChainError, match="record 1 was changed"):
        AuditLog(memory_path).verify(head)


def test_a_last_record_of_any_length_is_looked_at(memory_path: Path) -> None:
    head = AuditHead()
    for size in (10, 20_000, 90_000):
        parameters = {"description": "x" * size}
        log = AuditLog(memory_path)
        head = log.append(
            head, [event("A", parameters=parameters)], recovery=recovery, seal=lambda head: None
        )
    append(AuditLog(memory_path), head, "B")
    assert names(memory_path) == ["A", "A", "A", "B"]


def test_a_log_that_was_removed_while_it_is_open_is_missed(memory_path: Path) -> None:
    log = AuditLog(memory_path)
    head = append(log, AuditHead(), "A")
    file_of(memory_path).unlink()
    with pytest.raises(AuditChainError, match="is missing"):
        append(log, head, "B")


def test_a_head_that_somebody_kept_is_looked_for(memory_path: Path) -> None:
    log = AuditLog(memory_path)
    first = append(log, AuditHead(), "A", "B")
    head = append(log, first, "C")
    for point in (AuditHead().point, first.point, head.point):
        assert log.verify(head, expected=parse_point(str(point))) == 0
    with pytest.raises(AuditChainError, match="ends at record 2, record 3 is expected"):
        log.verify(first, expected=head.point)
    with pytest.raises(AuditChainError, match="record 2 or one before it was changed"):
        log.verify(head, expected=AuditPoint(2, "0" * 64))


@pytest.mark.parametrize(
    "text", ["", "1", "1:", f"01:{'a' * 64}", f"-1:{'a' * 64}", "1:" + "A" * 64]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="SEQUENCE:HASH"):
        parse_point(text)


def test_an_unfinished_line_is_left_out_when_listing(memory_path: Path) -> None:
    append(AuditLog(memory_path), AuditHead(), "A")
    with file_of(memory_path).open("ab") as file:
        file.write(b'{"formatVersion"')
    assert names(memory_path) == ["A"]


def test_filters(memory_path: Path) -> None:
    log = AuditLog(memory_path)
    log.append(
        AuditHead(),
        [
            event("Encrypt", key="one"),
            event("Decrypt", key="two", code="AccessDenied"),
            event("Decrypt", key="one", principal="alice", time="2026-02-01T00:00:00Z"),
            event("Encrypt", parameters={"encryptionContext": {"volcrypt:volume-id": "vol-1"}}),
            event(
                "ReEncrypt",
                parameters={
                    "sourceEncryptionContext": {"volcrypt:volume-id": "vol-1", "other": "vol-2"},
                    "destinationEncryptionContext": {"volcrypt:snapshot-id": "snap-1"},
                },
            ),
            event(
                "CreateGrant",
                parameters={
                    "constraints": {"encryptionContextSubset": {"volcrypt:volume-id": "vol-3"}}
                },
            ),
        ],
        recovery=recovery,
        seal=lambda head: None,
    )

    def found(record_filter: RecordFilter) -> list[int]:
        return [record.sequence for record in log.read_records(record_filter)]

    assert found(RecordFilter()) == [1, 2, 3, 4, 5, 6]
    assert found(RecordFilter(key="one")) == [1, 3]
    assert found(RecordFilter(key="arn:aws:kms:us-east-1:0:key/two")) == [2]
    assert found(RecordFilter(operation="Decrypt")) == [2, 3]
    assert found(RecordFilter(principal="alice")) == [3]
    assert found(RecordFilter(outcome="allowed")) == [1, 3, 4, 5, 6]
    assert found(RecordFilter(outcome="failed")) == [2]
    assert found(RecordFilter(outcome="AccessDenied")) == [2]
    assert found(RecordFilter(outcome="AccessDeniedException")) == [2]
    assert found(RecordFilter(outcome="NotFoundException")) == []
    assert found(RecordFilter(volume="vol-1")) == [4, 5]
    assert found(RecordFilter(volume="snap-1")) == [5]
    assert found(RecordFilter(volume="vol-2")) == []
    assert found(RecordFilter(volume="vol-3")) == [6]
    assert found(RecordFilter(until="2026-01-31T00:00:00Z", key="one")) == [1]
    assert found(RecordFilter(until="2026-02-01T00:00:00Z", key="one")) == [1, 3]
    assert found(RecordFilter(since="2026-02-01T00:00:00Z")) == [3]
    assert found(RecordFilter(key="one", operation="Decrypt")) == [3]


def test_the_example_event_is_one(memory_path: Path) -> None:
    AuditLog(memory_path).append(AuditHead(), [EVENT], recovery=recovery, seal=lambda head: None)
    assert names(memory_path) == ["Decrypt"]


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_log_that_is_moved_aside_while_it_is_open_is_missed(
    memory_path: Path, is_copied: bool
) -> None:
    log = AuditLog(memory_path)
    head = append(log, AuditHead(), "A")
    moved = file_of(memory_path).rename(memory_path / "elsewhere")
    if is_copied:
        shutil.copy(moved, file_of(memory_path))
    for _ in range(2):
        with pytest.raises(AuditChainError, match="was replaced" if is_copied else "is missing"):
            append(log, head, "B")
    assert moved.stat().st_size == head.end


@pytest.mark.parametrize("is_pipe", [False, True])
def test_what_is_no_regular_file_is_no_log(memory_path: Path, is_pipe: bool) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A")
    moved = file_of(memory_path).rename(memory_path / "elsewhere")
    if is_pipe:
        os.mkfifo(file_of(memory_path))
    else:
        file_of(memory_path).symlink_to(moved)
    with pytest.raises(AuditChainError, match="no regular file"):
        append(AuditLog(memory_path), head, "B")
    with pytest.raises(AuditChainError, match="no regular file"):
        AuditLog(memory_path).verify(head)


def test_a_record_that_does_not_parse_is_named(memory_path: Path) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A", "B")
    path = file_of(memory_path)
    path.write_bytes(path.read_bytes().replace(b'"B"', b'"B'))
    with pytest.raises(AuditChainError, match=r"audit-000001\.jsonl, line 2: it does not parse"):
        AuditLog(memory_path).verify(head)


def test_a_stray_file_is_named(memory_path: Path) -> None:
    head = append(AuditLog(memory_path), AuditHead(), "A")
    shutil.copy(file_of(memory_path), memory_path / "audit-old.jsonl")
    with pytest.raises(AuditChainError, match=r"audit-old\.jsonl is no file of the audit log"):
        AuditLog(memory_path).verify(head)
