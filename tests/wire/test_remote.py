"""The client of another KMS, against a daemon of ours and against moto's server."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kms import ROOT
from tests.wire.served import Served, served
from tests.wire.signing import ACCESS_KEY, SECRET
from tests.wire.test_daemon import make_certificate
from volcrypt.cli.exits import Exit, exit_code_of
from volcrypt.errors import (
    AccessDeniedError,
    ConfigurationError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidSignatureError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsInternalError,
    SignatureTimeError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.kms.messages.aliases import CreateAliasRequest, ListAliasesRequest
from volcrypt.kms.messages.data import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from volcrypt.kms.messages.keys import CreateKeyRequest, DescribeKeyRequest, DisableKeyRequest
from volcrypt.wire.home_client import response_type
from volcrypt.wire.remote import RemoteEndpoint, RemoteKms, decode_response

CONTEXT = {"volcrypt:volume-id": "vol-1"}


@pytest.fixture
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["volcrypt", "moto"])
def url(request: pytest.FixtureRequest, daemon: Served) -> str:
    found: str = daemon.url
    return found if request.param == "volcrypt" else request.getfixturevalue("moto_url")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only ours, whatever the machine has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def remote(url: str | None, **options: Any) -> RemoteKms:
    return RemoteKms(RemoteEndpoint(region="us-east-1", url=url, **options))


def test_what_volumes_need(url: str) -> None:
    kms = remote(url)
    key = kms.perform(ROOT, CreateKeyRequest(description="remote")).key_metadata
    assert key.description == "remote"
    assert kms.perform(ROOT, DescribeKeyRequest(key_id=key.arn)).key_metadata == key
    request = GenerateDataKeyWithoutPlaintextRequest(
        key_id=key.key_id, number_of_bytes=64, encryption_context=CONTEXT
    )
    made = kms.perform(ROOT, request)
    assert made.key_id == key.arn
    opened = kms.perform(
        ROOT,
        DecryptRequest(ciphertext_blob=made.ciphertext_blob, encryption_context=CONTEXT),
    )
    assert isinstance(opened.plaintext, bytearray)
    assert len(opened.plaintext) == 64
    moved = kms.perform(
        ROOT,
        ReEncryptRequest(
            ciphertext_blob=made.ciphertext_blob,
            source_encryption_context=CONTEXT,
            destination_key_id=key.key_id,
        ),
    )
    again = kms.perform(ROOT, DecryptRequest(ciphertext_blob=moved.ciphertext_blob))
    assert again.plaintext == opened.plaintext


def test_aliases(url: str) -> None:
    kms = remote(url)
    key = kms.perform(ROOT, CreateKeyRequest()).key_metadata
    kms.perform(ROOT, CreateAliasRequest(alias_name="alias/remote", target_key_id=key.key_id))
    listed = kms.perform(ROOT, ListAliasesRequest()).aliases
    assert [a.target_key_id for a in listed if a.alias_name == "alias/remote"] == [key.key_id]


def test_errors_are_those_of_the_kms(url: str) -> None:
    kms = remote(url)
    with pytest.raises(KeyNotFoundError):
        kms.perform(ROOT, DescribeKeyRequest(key_id="alias/nothing"))
    key = kms.perform(ROOT, CreateKeyRequest()).key_metadata
    sealed = kms.perform(ROOT, EncryptRequest(key_id=key.key_id, plaintext=bytearray(b"x")))
    with pytest.raises((InvalidCiphertextError, AccessDeniedError)):
        kms.perform(ROOT, DecryptRequest(ciphertext_blob=sealed.ciphertext_blob[:-1]))
    with pytest.raises(InvalidCiphertextError):
        kms.perform(
            ROOT,
            DecryptRequest(ciphertext_blob=sealed.ciphertext_blob, encryption_context=CONTEXT),
        )


def test_errors_that_only_ours_has(daemon: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    kms = remote(daemon.url)
    key, other = (kms.perform(ROOT, CreateKeyRequest()).key_metadata for _ in range(2))
    made = kms.perform(ROOT, GenerateDataKeyRequest(key_id=key.key_id, number_of_bytes=32))
    with pytest.raises(IncorrectKeyError):
        kms.perform(ROOT, DecryptRequest(ciphertext_blob=made.ciphertext_blob, key_id=other.key_id))
    kms.perform(ROOT, DisableKeyRequest(key_id=key.key_id))
    with pytest.raises(KeyDisabledError, match="is disabled"):
        kms.perform(ROOT, EncryptRequest(key_id=key.key_id, plaintext=bytearray(b"x")))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InvalidSignatureError):
        remote(daemon.url).perform(ROOT, DescribeKeyRequest(key_id=key.key_id))


@pytest.mark.parametrize("year", [2001, 2101])
def test_a_wrong_clock_is_no_wrong_secret(
    daemon: Served, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    signed_at = datetime(year, 1, 1, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: signed_at)
    with pytest.raises(SignatureTimeError, match=r"Signature (expired|not yet current)") as found:
        remote(daemon.url).perform(ROOT, DescribeKeyRequest(key_id="x"))
    assert exit_code_of(found.value) == Exit.TRY_AGAIN


def test_who_cannot_be_reached_may_be_later(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(TryAgainError, match="does not answer"):
            remote(f"http://127.0.0.1:{port}").perform(ROOT, DescribeKeyRequest(key_id="x"))


def test_a_certificate_that_nobody_vouches_for_is_said_to_be_one(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    options = {"tls_certificate": str(certificate), "tls_key": str(key)}
    with (
        served(tmp_path, **options) as tls,
        pytest.raises(TryAgainError, match="TLS: certificate verify failed: self") as told,
    ):
        remote(tls.url).perform(ROOT, DescribeKeyRequest(key_id="x"))
    assert "AWS_CA_BUNDLE" in str(told.value.hint)


def test_who_says_nothing_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TryAgainError, match=r"does not answer: nothing came within 0\.2 s$"):
            remote(url, patience_seconds=0.2).perform(ROOT, DescribeKeyRequest(key_id="x"))


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, daemon: Served) -> None:
    with pytest.raises(ConfigurationError, match="could not be found"):
        remote(daemon.url, credentials_profile="nobody").perform(
            ROOT, DescribeKeyRequest(key_id="x")
        )
    with pytest.raises(ConfigurationError):
        remote("nonsense").perform(ROOT, DescribeKeyRequest(key_id="x"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigurationError, match="no credentials"):
        remote(daemon.url).perform(ROOT, DescribeKeyRequest(key_id="x"))


def test_a_named_profile(daemon: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(
        f"[volumes]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    kms = remote(daemon.url, credentials_profile="volumes")
    assert kms.perform(ROOT, CreateKeyRequest()).key_metadata.enabled


def test_every_failure_is_one_of_ours(daemon: Served) -> None:
    with pytest.raises(VolcryptError):
        remote(daemon.url).perform(ROOT, DescribeKeyRequest(key_id=""))


@pytest.mark.parametrize("inner", ['{"a":' * 500 + "1" + "}" * 500, '{"\\ud800": 1}'])
def test_an_answer_that_is_no_answer(inner: str) -> None:
    members = json.loads(f'{{"KeyMetadata": {inner}}}')
    with pytest.raises(KmsInternalError, match="strange answer"):
        decode_response(members, response_type(DescribeKeyRequest))
