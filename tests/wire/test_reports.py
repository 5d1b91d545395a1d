"""What the daemon's own log says of faults that callers are told nothing of."""

from types import SimpleNamespace

import pytest

from tests.wire.in_process import Wire, request
from volcrypt.daemons import kms as daemon
from volcrypt.errors import (
    AuditChainError,
    ConfigurationError,
    HsmUnavailableError,
    IntegrityError,
    KmsInternalError,
    NoSpaceError,
    VolcryptError,
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its last entry is the time."""
    times = [1000.0]
    monkeypatch.setattr(daemon, "_LAST_REPORTS", {})
    monkeypatch.setattr("volcrypt.daemons.kms.time", SimpleNamespace(monotonic=lambda: times[-1]))
    return times


@pytest.mark.parametrize(
    "error",
    [
        NoSpaceError("the disk is full"),
        AuditChainError("line 7 of the log was changed"),
        IntegrityError("the catalogue was changed"),
        HsmUnavailableError("the token is gone"),
        KmsInternalError("internal error"),
    ],
)
def test_a_fault_that_a_caller_sees_as_500_is_reported_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, error: VolcryptError
) -> None:
    def fail(*_args: object) -> list[object]:
        raise error

    for place, name in ((wire.kms.service, "perform_all"), (wire.access_keys, "find")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            got = wire.send(request("ListKeys"))[0]
        assert got.status == 500
        assert str(error) not in got.json["message"]
        assert wire.bugs == [error]
        wire.bugs.clear()


@pytest.mark.parametrize("error", [NoSpaceError("full"), ConfigurationError("no such file")])
def test_a_fault_of_one_call_is_reported(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, error: VolcryptError
) -> None:
    monkeypatch.setattr(wire.kms.service, "perform_all", lambda calls: [error for _ in calls])
    assert wire.send(request("ListKeys"))[0].status == 500
    assert wire.bugs == [error]
    wire.bugs.clear()


def test_an_answer_is_no_fault(wire: Wire) -> None:
    assert wire.send(request("DescribeKey", {"KeyId": "x"}))[0].status == 400
    assert wire.bugs == []


def test_a_report_is_made_once_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        daemon.report_bug(NoSpaceError("/a is full"))
        daemon.report_bug(NoSpaceError("/b is\nfull"))
        daemon.report_bug(ValueError("a secret"))
    assert capsys.readouterr().err.splitlines() == [
        "volcrypt kms: NoSpaceError: /a is full",
        "volcrypt kms: NoSpaceError: /b is full",
        "volcrypt kms: ValueError: internal error",
    ]
    clock.append(clock[-1] + 60)
    daemon.report_bug(NoSpaceError("/a is full"))
    assert capsys.readouterr().err == "volcrypt kms: NoSpaceError: /a is full\n"


def test_reports_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1000):
        daemon.report_bug(NoSpaceError(f"{number} is full"))
    assert len(capsys.readouterr().err.splitlines()) == 100
