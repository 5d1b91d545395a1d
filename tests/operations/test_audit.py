"""Listing the audit log by what a user knows, and checking it against a head kept elsewhere."""

import pytest

from volcrypt.errors import AuditChainError, InvalidArgumentError, VolumeNotFoundError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.audit import list_audit, verify_audit
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.volumes import create_volume


def test_records_of_a_volume_by_name_and_of_a_time(home: Home) -> None:
    made = create_volume(home, size_bytes=CHUNK_BYTES, name="data", choice=KeyChoice())
    found = list_audit(home, volume="data")
    assert found == list_audit(home, volume=made.volume_id)
    assert {record.event_name for record in found} == {"GenerateDataKeyWithoutPlaintext"}
    assert list_audit(home, volume="vol-00000000000000000") == []
    with pytest.raises(VolumeNotFoundError):
        list_audit(home, volume="another")
    everything = list_audit(home)
    assert list_audit(home, until="2000-01-01T00:00:00Z") == []
    assert list_audit(home, since="2000-01-01T00:00:00Z") == everything
    assert list_audit(home, principal=home.caller.arn, last=1) == found[-1:]
    assert list_audit(home, outcome="failed") == []


def test_a_head_kept_elsewhere(home: Home) -> None:
    create_volume(home, size_bytes=CHUNK_BYTES, name="data", choice=KeyChoice())
    report = verify_audit(home)
    assert report.records == len(list_audit(home))
    assert report.unsealed == 0
    assert verify_audit(home, expected=report.head) == report
    create_volume(home, size_bytes=CHUNK_BYTES, name="more", choice=KeyChoice())
    later = verify_audit(home, expected=report.head)
    assert later.records > report.records
    with pytest.raises(AuditChainError, match="is expected"):
        verify_audit(home, expected=f"{later.records + 1}:{'0' * 64}")
    with pytest.raises(InvalidArgumentError):
        verify_audit(home, expected="x")
