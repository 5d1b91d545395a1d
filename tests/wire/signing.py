"""Requests signed by botocore, for the verifier and the daemon under test."""

from datetime import UTC, datetime
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from volcrypt.wire.claim import HttpRequest

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOW = 1_800_000_000.0
TARGET = "TrentService.GenerateDataKey"
BODY = b'{"KeyId": "alias/a", "NumberOfBytes": 32}'
JSON_TYPE = "application/x-amz-json-1.1"


def signed(
    *,
    method: str = "POST",
    target: str = "/",
    headers: dict[str, str] | None = None,
    body: bytes = BODY,
    now: float = NOW,
    region: str = "us-east-1",
    service: str = "kms",
    access_key: str = ACCESS_KEY,
    secret: str = SECRET,
    host: str = "kms.example:8000",
) -> HttpRequest:
    """A request as a server receives it, signed by botocore's own signer."""
    given = {"Content-Type": JSON_TYPE, "X-Amz-Target": TARGET} if headers is None else headers
    request = AWSRequest(
        method, f"http://{host}{target}", headers={"Host": host, **given}, data=body
    )
    signer = SigV4Auth(Credentials(access_key, secret), service, region)
    with patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(now, UTC)):
        signer.add_auth(request)
    path, _, query = target.partition("?")
    return HttpRequest(
        method=method,
        path=path,
        query=query,
        headers=[(name.lower(), str(value)) for name, value in request.headers.items()],
        body=body,
    )
