"""Signature Version 4 of AWS, the verifying side. Pure.

`claim` says who a request claims to be from, `check_signature` whether it is true. Canonical
request and string to sign are botocore's, over the headers that the *request* lists as signed; a
signing key (`derive_signing_key`) is good for one day, region and service.

More is asked than that the signature fits: what we read of a request must be signed (host, every
`x-amz-` header), nothing that matters may stand twice, and whatever canonicalisation would make
equal (`/./` and `/`, a no-break space and a space) is refused.
"""

import hashlib
import hmac
import re
from types import SimpleNamespace
from typing import Any, Final

from botocore.auth import SigV4Auth

from volcrypt.errors import InvalidSignatureError
from volcrypt.wire.claim import TERMINATOR, Claim, HttpRequest, shortened

MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)
_PATH: Final = re.compile(r"/(?:[!\"$->@-~]*)")
_QUERY: Final = re.compile(r"[!\"$-~]*")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")


def derive_signing_key(secret: bytes | bytearray, *, date: str, region: str, service: str) -> bytes:
    """The key that signs for one access key on one day, in one region, to one service."""
    first = bytearray(b"AWS4") + secret
    key = hmac.digest(first, date.encode(), "sha256")
    first[:] = bytes(len(first))
    for part in (region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def check_signature(request: HttpRequest, claim: Claim, signing_key: bytes) -> None:
    """Raises InvalidSignatureError unless the signature covers what was received."""
    if "host" not in claim.signed_headers:
        raise InvalidSignatureError(
            "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."
        )
    unsigned = {name for name, _ in request.headers if name.startswith("x-amz-")}
    unsigned.difference_update(claim.signed_headers)
    if unsigned:
        raise InvalidSignatureError(
            "There were headers present in the request which were not signed: "
            f"{shortened(', '.join(sorted(unsigned)))}"
        )
    body_hash = hashlib.sha256(request.body).hexdigest()
    if (request.header("x-amz-content-sha256") or body_hash) != body_hash:
        raise InvalidSignatureError(
            "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    signed = _SignedHeaders()
    for name, value in request.headers:
        if name in claim.signed_headers:
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidSignatureError(MISMATCH)
            signed.setdefault(name, []).append(value)
    if len(signed) != len(claim.signed_headers):  # one is missing, or listed twice
        raise InvalidSignatureError(MISMATCH)
    expected = _Verifier(claim).signature_of(request, signed, body_hash, signing_key)
    if not hmac.compare_digest(expected.encode(), claim.signature.encode(errors="replace")):
        raise InvalidSignatureError(MISMATCH)


class _SignedHeaders(dict[str, list[str]]):
    """What botocore asks of the headers that are signed; an email.Message costs five times more."""

    def get_all(self, name: str) -> list[str]:
        return self[name]


class _Verifier(SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signer, told which headers to sign instead of choosing them."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(None, claim.service, claim.region)
        self._timestamp = claim.timestamp

    def headers_to_sign(self, request: Any) -> _SignedHeaders:
        signed: _SignedHeaders = request.signed
        return signed

    def payload(self, request: Any) -> str:
        body_hash: str = request.body_hash
        return body_hash

    def signature_of(
        self, request: HttpRequest, signed: _SignedHeaders, body_hash: str, signing_key: bytes
    ) -> str:
        """Raises InvalidSignatureError for a target that canonicalisation would make another."""
        path, query = request.path, request.query
        if not (_PATH.fullmatch(path) and _QUERY.fullmatch(query) and request.method.isupper()):
            raise InvalidSignatureError(MISMATCH)
        if any(part in (".", "..") for part in path.split("/")) or "//" in path:
            raise InvalidSignatureError(MISMATCH)
        view = SimpleNamespace(
            method=request.method,
            url=f"http://host{path}?{query}",
            params=None,
            headers=(),
            signed=signed,
            body_hash=body_hash,
            context={"timestamp": self._timestamp},
        )
        string_to_sign: str = self.string_to_sign(view, self.canonical_request(view))
        # Not hmac.digest: that lets go of the interpreter lock, which costs more than the digest.
        return hmac.new(signing_key, string_to_sign.encode(), hashlib.sha256).hexdigest()
