"""Signature Version 4 of AWS, the verifying side. Pure: the clock is an argument.

`read_claim` says who a request claims to be from, `check_claim` whether it is meant for this
service and this hour, `check_signature` whether it is true. Canonical request and string to sign
are botocore's, over the headers that the *request* lists as signed; a signing key
(`derive_signing_key`) is good for one day, region and service.

More is asked than that the signature fits: what we read of a request must be signed (host, every
`x-amz-` header), nothing that matters may stand twice, and whatever canonicalisation would make
equal (`/./` and `/`, a no-break space and a space) is refused.
"""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any, Final

from botocore.auth import SigV4Auth

from volcrypt.errors import (
    IncompleteSignatureError,
    InvalidSignatureError,
    KmsError,
    MissingAuthenticationError,
    UnrecognizedClientError,
)

ALGORITHM: Final = "AWS4-HMAC-SHA256"
CLOCK_SKEW: Final = timedelta(minutes=5)
UNKNOWN_KEY: Final = "The security token included in the request is invalid."
MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)
_TERMINATOR: Final = "aws4_request"
_TIMESTAMP: Final = "%Y%m%dT%H%M%SZ"
_TIMESTAMP_PATTERN: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]{1,16}){1,3}-[0-9]{1,2}")
_PATH: Final = re.compile(r"/(?:[!\"$->@-~]*)")
_QUERY: Final = re.compile(r"[!\"$-~]*")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
_ONCE: Final = frozenset(
    {
        "authorization",
        "content-type",
        "date",
        "host",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-target",
    }
)
_SHOWN_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came: names of headers in lower case, nothing decoded. `is_secure` is False
    where others can read along: on TCP without TLS."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    is_secure: bool = False
    by_name: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", dict(self.headers))

    def header(self, name: str) -> str | None:
        """The last header of that name."""
        return self.by_name.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who a request says it is from. `date` is YYYYMMDD, `timestamp` YYYYMMDDTHHMMSSZ, UTC."""

    access_key_id: str
    date: str
    region: str
    service: str
    timestamp: str
    signed_headers: tuple[str, ...]
    signature: str


def derive_signing_key(secret: bytes | bytearray, *, date: str, region: str, service: str) -> bytes:
    """The key that signs for one access key on one day, in one region, to one service."""
    first = bytearray(b"AWS4") + secret
    key = hmac.digest(first, date.encode(), "sha256")
    first[:] = bytes(len(first))
    for part in (region, service, _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def read_claim(request: HttpRequest) -> Claim:
    """Raises MissingAuthenticationError, IncompleteSignatureError, and UnrecognizedClientError for
    credentials of a session, of which there are none."""
    if len(request.by_name) < len(request.headers):
        counts = Counter(name for name, _ in request.headers)
        for name in sorted(_ONCE):
            if counts[name] > 1:
                raise IncompleteSignatureError(f"The header '{name}' stands more than once.")
    if "X-Amz-Signature" in request.query or "X-Amz-Algorithm" in request.query:
        raise IncompleteSignatureError(
            "Requests are signed by the Authorization header, not in the query string."
        )
    authorization = request.header("authorization")
    if not authorization:
        raise MissingAuthenticationError("Missing Authentication Token")
    parts = _parts(authorization)
    if request.header("x-amz-security-token") is not None:
        raise UnrecognizedClientError(UNKNOWN_KEY)
    timestamp = _timestamp(request)
    missing = [
        f"Authorization header requires '{name}' parameter."
        for name in ("Credential", "Signature", "SignedHeaders")
        if not parts.get(name)
    ]
    if timestamp is None:
        missing.append(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    if missing or timestamp is None:
        raise IncompleteSignatureError(f"{' '.join(missing)} Authorization={_cut(authorization)}")
    scope = parts["Credential"].split("/")
    if len(scope) != 5:
        raise IncompleteSignatureError(
            "Credential must have exactly 5 slash-delimited elements, e.g. "
            f"keyid/date/region/service/term, got '{_cut(parts['Credential'])}'"
        )
    if scope[4] != _TERMINATOR:
        raise InvalidSignatureError(
            f"Credential should be scoped with a valid terminator: '{_TERMINATOR}', "
            f"not '{_cut(scope[4])}'."
        )
    return Claim(
        access_key_id=scope[0],
        date=scope[1],
        region=scope[2],
        service=scope[3],
        timestamp=timestamp,
        signed_headers=tuple(parts["SignedHeaders"].split(";")),
        signature=parts["Signature"],
    )


def check_claim(
    claim: Claim, *, service: str, now: float, regions: frozenset[str] = frozenset()
) -> None:
    """Raises InvalidSignatureError unless it is for this service, one of these regions (any that
    there can be, when empty), and now (seconds since 1970-01-01 UTC), give or take `CLOCK_SKEW`."""
    if claim.service != service:
        raise InvalidSignatureError(
            f"Credential should be scoped to correct service: '{service}'. "
        )
    if not _REGION.fullmatch(claim.region) or (regions and claim.region not in regions):
        raise InvalidSignatureError("Credential should be scoped to a valid region. ")
    if claim.date != claim.timestamp[:8]:
        raise InvalidSignatureError(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from "
            f"HTTP: '{_cut(claim.date)}' != '{claim.timestamp[:8]}', from '{claim.timestamp}'."
        )
    signed_at = _moment(claim.timestamp)
    clock = datetime.fromtimestamp(now, UTC)
    if signed_at < clock - CLOCK_SKEW:
        raise InvalidSignatureError(
            f"Signature expired: {claim.timestamp} is now earlier than "
            f"{_format(clock - CLOCK_SKEW)} ({_format(clock)} - 5 min.)"
        )
    if signed_at > clock + CLOCK_SKEW:
        raise InvalidSignatureError(
            f"Signature not yet current: {claim.timestamp} is still later than "
            f"{_format(clock + CLOCK_SKEW)} ({_format(clock)} + 5 min.)"
        )


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
            f"{_cut(', '.join(sorted(unsigned)))}"
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


def _parts(authorization: str) -> dict[str, str]:
    """`AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...` in its parts."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignatureError(f"Unsupported AWS 'algorithm': '{_cut(algorithm)}'.")
    parts: dict[str, str] = {}
    for text in rest.split(","):
        name, equals, value = text.strip().partition("=")
        if not equals:
            raise IncompleteSignatureError(
                f"'{_cut(text.strip())}' not a valid key=value pair (missing equal-sign) in "
                f"Authorization header: '{_cut(authorization)}'."
            )
        if name in parts:
            raise IncompleteSignatureError(
                f"Authorization header has '{_cut(name)}' parameter more than once."
            )
        parts[name] = value
    return parts


def _timestamp(request: HttpRequest) -> str | None:
    text = request.header("x-amz-date")
    if text is not None:
        if not _TIMESTAMP_PATTERN.fullmatch(text):
            raise _bad_date(text)
        return text
    text = request.header("date")
    if text is None or _TIMESTAMP_PATTERN.fullmatch(text):
        return text
    try:
        return _format(parsedate_to_datetime(text).astimezone(UTC))
    except (ValueError, OverflowError):
        raise _bad_date(text) from None


def _moment(timestamp: str) -> datetime:
    """What strptime gives, at a tenth of its cost."""
    numbers = (timestamp[:4], timestamp[4:6], timestamp[6:8], timestamp[9:11], timestamp[11:13])
    try:
        return datetime(*map(int, numbers), int(timestamp[13:15]), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        raise _bad_date(timestamp) from None


def _bad_date(text: str) -> KmsError:
    return IncompleteSignatureError(
        f"Date must be in ISO-8601 'basic format'. Got '{_cut(text)}'. "
        "See http://en.wikipedia.org/wiki/ISO_8601"
    )


def _format(moment: datetime) -> str:
    return moment.strftime(_TIMESTAMP)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
