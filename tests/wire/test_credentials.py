"""What is kept of an access key: what verifies its signatures, and not its secret."""

from typing import cast

import pytest

from tests.fakes.access_keys import MemoryAccessKeys
from tests.wire.signing import ACCESS_KEY
from volcrypt.errors import UnrecognizedClientError
from volcrypt.wire.claim import Claim
from volcrypt.wire.credentials import Credentials
from volcrypt.wire.engine import Engine


class KeptSecrets(MemoryAccessKeys):
    def __init__(self) -> None:
        super().__init__()
        self.secrets: list[bytearray] = []

    def open_secret(self, access_key: object, /) -> bytearray:
        secret = super().open_secret(access_key)
        self.secrets.append(secret)
        return secret


def claim_of(access_key_id: str) -> Claim:
    return Claim(
        access_key_id=access_key_id,
        date="20260102",
        region="us-east-1",
        service="kms",
        timestamp="20260102T030405Z",
        signed_headers=("host",),
        signature="",
    )


def test_a_secret_is_wiped_when_the_signing_key_was_derived() -> None:
    keys = KeptSecrets()
    credentials = Credentials(keys, cast(Engine, None), clock=lambda: 0.0)
    known = credentials._look_up(claim_of(ACCESS_KEY))
    assert len(known.signing_key) == 32
    assert "redacted" in repr(known)
    (secret,) = keys.secrets
    assert secret
    assert not any(secret)
    with pytest.raises(UnrecognizedClientError):
        credentials._look_up(claim_of("AKIANOBODY"))
