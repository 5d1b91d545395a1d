"""The figures of a real KMS daemon."""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.metrics_page import UnixConnection, ask, parsed, total, value
from tests.wire.served import served
from tests.wire.test_connections import read_answer
from volcrypt.errors import InvalidArgumentError, KeyDisabledError
from volcrypt.wire.call_counts import LATENCY_BOUNDS, CallCounts


def test_requests_answers_keys_and_the_log(tmp_path: Path) -> None:
    socket = tmp_path / "metrics.sock"
    with served(tmp_path, metrics=str(socket)) as daemon:
        client = daemon.client()
        key_id = client.create_key()["KeyMetadata"]["KeyId"]
        client.create_key()
        client.disable_key(KeyId=key_id)
        for _ in range(3):
            with pytest.raises(ClientError, match="disabled"):
                client.encrypt(KeyId=key_id, Plaintext=b"x")
        with pytest.raises(ClientError):
            daemon.client(aws_secret_access_key="another").list_keys()
        status, _, body = ask(UnixConnection(socket))
        assert status == 200
        page = parsed(body)
        assert value(page, "volcrypt_kms_requests_total", operation="CreateKey", answer="ok") == 2
        refused = {"operation": "Encrypt", "answer": "DisabledException"}
        assert value(page, "volcrypt_kms_requests_total", **refused) == 3
        assert value(page, "volcrypt_kms_request_seconds_count", operation="Encrypt") == 3
        assert total(page, "volcrypt_kms_unauthenticated_requests_total") == 1
        assert value(page, "volcrypt_kms_keys", state="Enabled") == 1
        assert value(page, "volcrypt_kms_keys", state="Disabled") == 1
        assert value(page, "volcrypt_kms_hsm_up") == 1
        records = value(page, "volcrypt_kms_audit_records_total")
        assert records >= 6
        # A scrape is no use of a key.
        again = parsed(ask(UnixConnection(socket))[2])
        assert value(again, "volcrypt_kms_audit_records_total") == records
        # Nothing of the KMS is answered there, and nothing of the figures by the KMS.
        assert ask(UnixConnection(socket), "/", method="POST")[0] == 405
        with daemon.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"volcrypt_kms" not in read_answer(connection)
        assert daemon.stop() == ""
    assert not socket.exists()


def test_on_a_loopback_port(tmp_path: Path) -> None:
    with served(tmp_path, metrics="127.0.0.1:0"):
        pass  # the port is nobody's to know; that it starts and stops is enough


def test_what_a_caller_chose_is_no_label() -> None:
    counts = CallCounts()
    counts.note("Anything\n", None, 1)
    counts.note("Encrypt", KeyDisabledError("x"), 250_001)
    counts.note("Encrypt", InvalidArgumentError("x"), 10**12)
    counts.note("Encrypt", ValueError("x"), 0)
    assert dict(counts.answers) == {
        ("Unknown", "ok"): 1,
        ("Encrypt", "DisabledException"): 1,
        ("Encrypt", "InvalidArgumentError"): 1,
        ("Encrypt", "InternalError"): 1,
    }
    assert counts.latencies["Encrypt"] == [1, 1, *[0] * (len(LATENCY_BOUNDS) - 2), 1]
    assert counts.nanoseconds["Encrypt"] == 10**12 + 250_001


def test_connections_are_few(tmp_path: Path) -> None:
    """Who opens many keeps out no scraper."""
    socket = tmp_path / "metrics.sock"
    with served(tmp_path, metrics=str(socket)):
        crowd = [UnixConnection(socket) for _ in range(40)]
        try:
            for connection in crowd:
                connection.connect()
            status, _, _ = ask(UnixConnection(socket))
            assert status == 200
        finally:
            for connection in crowd:
                connection.close()
