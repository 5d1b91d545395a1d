"""Verification against botocore's signer, against published vectors, and against changes."""

import hmac
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.signing import ACCESS_KEY, BODY, JSON_TYPE, NOW, SECRET, TARGET, signed
from volcrypt.errors import (
    IncompleteSignatureError,
    InvalidSignatureError,
    KmsError,
    MissingAuthenticationError,
    UnrecognizedClientError,
)
from volcrypt.wire.claim import HttpRequest, check_claim, read_claim
from volcrypt.wire.signature import check_signature, derive_signing_key

HEADERS = {"Content-Type": JSON_TYPE, "X-Amz-Target": TARGET}


def verify(
    request: HttpRequest,
    *,
    now: float = NOW,
    service: str = "kms",
    secret: str = SECRET,
) -> str:
    """The access key that a request is from, by the whole sequence of checks."""
    claim = read_claim(request)
    if claim.access_key_id not in (ACCESS_KEY, "AKIDEXAMPLE"):
        raise UnrecognizedClientError("another access key has another secret")
    check_claim(claim, service=service, now=now)
    key = derive_signing_key(
        secret.encode(), date=claim.date, region=claim.region, service=claim.service
    )
    check_signature(request, claim, key)
    return claim.access_key_id


def with_header(request: HttpRequest, name: str, value: str | None) -> HttpRequest:
    """The request with another value of a header, or without it."""
    headers = [(n, v if n != name else value) for n, v in request.headers]
    return replace(request, headers=[(n, v) for n, v in headers if v is not None])


def authorization(request: HttpRequest, old: str, new: str) -> HttpRequest:
    text = request.header("authorization")
    assert text is not None
    assert old in text
    return with_header(request, "authorization", text.replace(old, new))


@pytest.mark.parametrize("target", ["/", "/?b=2&a=1", "/?a=%20x&a=~"])
@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256))])
def test_what_botocore_signs_is_accepted(target: str, body: bytes) -> None:
    assert verify(signed(target=target, body=body)) == ACCESS_KEY


def test_folded_white_space_and_many_headers() -> None:
    headers = {"X-Amz-Target": "a   b", "My-Header": "  c \t d  ", "X-Amz-Zero": ""}
    assert verify(signed(headers=headers)) == ACCESS_KEY


def test_a_date_header_does_as_well() -> None:
    request = signed(headers={"Date": "now", "X-Amz-Target": "t"})
    assert request.header("x-amz-date") is None
    assert verify(request) == ACCESS_KEY


def test_of_two_dates_the_one_of_amazon_counts() -> None:
    """The other may have been added by anybody."""
    request = signed()
    dated = replace(request, headers=[*request.headers, ("date", "Thu, 14 Jan 2027 08:00:00 GMT")])
    assert verify(dated) == ACCESS_KEY


def shortened_signature(request: HttpRequest, length: int) -> HttpRequest:
    head, mark, signature = (request.header("authorization") or "").partition("Signature=")
    return with_header(request, "authorization", head + mark + signature[:length])


@pytest.mark.parametrize(
    "change",
    [
        lambda request: replace(request, method="post"),
        lambda request: replace(request, query="a=1#b"),
        lambda request: replace(request, query="a=1\t"),
        lambda request: with_header(request, "x-amz-target", f"{TARGET}\N{NO-BREAK SPACE}"),
        lambda request: authorization(request, "SignedHeaders=", "SignedHeaders=x-absent;"),
        lambda request: authorization(request, "SignedHeaders=", "SignedHeaders=host;"),
        lambda request: shortened_signature(request, 63),
        lambda request: shortened_signature(request, 1),
    ],
)
def test_what_only_looks_signed_is_refused(change: Callable[[HttpRequest], HttpRequest]) -> None:
    """Canonicalisation would lose the difference, or the claim is of more than there is."""
    request = signed(target="/?a=1")
    verify(request)
    with pytest.raises(InvalidSignatureError, match="does not match the signature you provided"):
        verify(change(request))


def test_the_secret_is_wiped_behind_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hmac.digest
    keys: list[bytes | bytearray] = []

    def kept(key: bytes | bytearray, message: bytes, name: str) -> bytes:
        keys.append(key)
        return digest(key, message, name)

    monkeypatch.setattr(hmac, "digest", kept)
    derive_signing_key(b"secret", date="20270115", region="us-east-1", service="kms")
    assert keys[0] == bytes(len("AWS4secret"))


def test_a_stated_body_hash_must_be_the_bodys() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert verify(signed(headers={"X-Amz-Content-SHA256": empty}, body=b"")) == ACCESS_KEY
    for stated in (empty, "UNSIGNED-PAYLOAD"):
        with pytest.raises(InvalidSignatureError, match="x-amz-content-sha256"):
            verify(signed(headers={"X-Amz-Content-SHA256": stated}, body=b"{}"))


PUBLISHED = {
    # AWS's Signature Version 4 test suite: name, method, target, headers, body, signature.
    "get-vanilla": (
        ("GET", "/", {}, b""),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "get-vanilla-query-order-key-case": (
        ("GET", "/?Param2=value2&Param1=value1", {}, b""),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla": (
        ("POST", "/", {}, b""),
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-x-www-form-urlencoded": (
        (
            "POST",
            "/",
            {"content-type": "application/x-www-form-urlencoded"},
            b"Param1=value1",
        ),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_vectors(name: str) -> None:
    (method, target, headers, body), signature = PUBLISHED[name]
    path, _, query = target.partition("?")
    given = {**headers, "host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    credential = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
    names = ";".join(sorted(given))
    claim = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}"
    request = HttpRequest(
        method=method,
        path=path,
        query=query,
        headers=[
            *given.items(),
            ("authorization", f"{claim}, Signature={signature}"),
        ],
        body=body,
    )
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    assert verify(request, now=1_440_938_160, service="service", secret=secret) == "AKIDEXAMPLE"
    with pytest.raises(InvalidSignatureError):
        verify(request, now=1_440_938_160, service="service", secret=secret + "x")


@settings(deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    """Of method, path, query, signed headers, body and authorization."""
    request = signed(target="/?a=1&b=2")
    part = data.draw(st.sampled_from(["method", "path", "query", "body", "header"]))
    if part == "header":
        signed_names = {"authorization", "content-type", "host", "x-amz-date", "x-amz-target"}
        index = data.draw(
            st.sampled_from([i for i, h in enumerate(request.headers) if h[0] in signed_names])
        )
        name, value = request.headers[index]
        changed = _changed(data, value)
        if changed.split(" ") != changed.split() and name != "authorization":
            return  # white space at an end is no part of a value
        if name == "authorization" and changed.replace(" ", "") == value.replace(" ", ""):
            return
        headers = list(request.headers)
        headers[index] = (name, changed)
        request = replace(request, headers=headers)
    elif part == "body":
        at = data.draw(st.integers(0, len(request.body) - 1))
        body = bytearray(request.body)
        body[at] ^= data.draw(st.integers(1, 255))
        request = replace(request, body=bytes(body))
    else:
        text = {"method": request.method, "path": request.path, "query": request.query}[part]
        changed = _changed(data, text)
        request = HttpRequest(
            method=changed if part == "method" else request.method,
            path=changed if part == "path" else request.path,
            query=changed if part == "query" else request.query,
            headers=request.headers,
            body=request.body,
        )
    with pytest.raises(KmsError):
        verify(request)


def _changed(data: st.DataObject, text: str) -> str:
    """The text with one character that is another."""
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(max_codepoint=255).filter(lambda c: c != text[at]))
    return text[:at] + new + text[at + 1 :]


@pytest.mark.parametrize("path", ["//", "/.", "/./", "/../", "/#x", "/x/..", "/\t", "", "\\"])
def test_paths_that_canonicalisation_would_make_one(path: str) -> None:
    request = replace(signed(), path=path)
    with pytest.raises(InvalidSignatureError):
        verify(request)


def test_another_secret_service_or_region() -> None:
    with pytest.raises(InvalidSignatureError, match="does not match the signature you provided"):
        verify(signed(secret="another"))
    with pytest.raises(InvalidSignatureError, match="correct service: 'kms'"):
        verify(signed(service="sts"))
    for region in ("nowhere", "us-east-1x", "xus-east-1"):
        with pytest.raises(InvalidSignatureError, match="valid region"):
            verify(signed(region=region))
    replayed = authorization(signed(), "/us-east-1/", "/eu-west-1/")
    with pytest.raises(InvalidSignatureError, match="does not match the signature you provided"):
        verify(replayed)


def test_the_clock_may_be_five_minutes_off() -> None:
    request = signed()
    for skew in (-300, 0, 300):
        assert verify(request, now=NOW + skew) == ACCESS_KEY
    with pytest.raises(InvalidSignatureError) as expired:
        verify(request, now=NOW + 301)
    assert str(expired.value) == (
        "Signature expired: 20270115T080000Z is now earlier than 20270115T080001Z "
        "(20270115T080501Z - 5 min.)"
    )
    with pytest.raises(InvalidSignatureError) as early:
        verify(request, now=NOW - 301)
    assert str(early.value) == (
        "Signature not yet current: 20270115T080000Z is still later than 20270115T075959Z "
        "(20270115T075459Z + 5 min.)"
    )


def test_the_date_of_the_scope_is_the_requests() -> None:
    request = authorization(signed(), "/20270115/", "/20270114/")
    with pytest.raises(InvalidSignatureError, match="'20270114' != '20270115', from '20270115T0"):
        verify(request)
    request = with_header(signed(), "x-amz-date", "20271315T080000Z")
    with pytest.raises(KmsError):
        verify(request)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("Signature=", "Sign=", "Authorization header requires 'Signature' parameter."),
        ("SignedHeaders=", "Headers=", "Authorization header requires 'SignedHeaders' parameter."),
        ("Credential=", "Cred=", "Authorization header requires 'Credential' parameter."),
        ("AWS4-HMAC-SHA256", "Basic", "Unsupported AWS 'algorithm': 'Basic'"),
        ("Signature=", "Signature", "missing equal-sign"),
        ("Signature=", "Signature=x, Signature=", "more than once"),
        ("/kms/aws4_request", "", "exactly 5 slash-delimited elements"),
    ],
)
def test_incomplete_authorization(old: str, new: str, text: str) -> None:
    with pytest.raises(IncompleteSignatureError, match=text):
        verify(authorization(signed(), old, new))


def test_what_is_missing() -> None:
    with pytest.raises(MissingAuthenticationError) as missing:
        verify(with_header(signed(), "authorization", None))
    assert str(missing.value) == "Missing Authentication Token"
    with pytest.raises(IncompleteSignatureError, match="'X-Amz-Date' or a 'Date' header"):
        verify(with_header(signed(), "x-amz-date", None))
    for text in ("yesterday", "20270115T080000Zx", "x20270115T080000Z"):
        with pytest.raises(IncompleteSignatureError, match="basic format"):
            verify(with_header(signed(), "x-amz-date", text))
    with pytest.raises(InvalidSignatureError, match="valid terminator"):
        verify(authorization(signed(), "aws4_request", "aws5_request"))


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "content-type",
        "date",
        "host",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-target",
    ],
)
def test_nothing_that_matters_stands_twice(name: str) -> None:
    request = signed(headers={**HEADERS, "X-Amz-Content-SHA256": sha256(BODY).hexdigest()})
    if name == "date":
        request = signed(headers={**HEADERS, "Date": "now"})
    value = request.header(name)
    assert value is not None
    doubled = replace(request, headers=[*request.headers, (name, value)])
    with pytest.raises(IncompleteSignatureError, match=f"'{name}' stands more than once"):
        verify(doubled)


def test_unsigned_headers_of_amazon_are_refused() -> None:
    request = signed(headers={})
    added = replace(request, headers=[*request.headers, ("x-amz-target", "TrentService.Decrypt")])
    with pytest.raises(InvalidSignatureError, match="were not signed: x-amz-target"):
        verify(added)
    unsigned_host = authorization(request, "SignedHeaders=host;", "SignedHeaders=")
    with pytest.raises(InvalidSignatureError, match="must be a 'SignedHeader'"):
        verify(unsigned_host)


def test_there_are_no_sessions() -> None:
    with pytest.raises(UnrecognizedClientError, match=r"security token .* is invalid"):
        verify(signed(headers={"X-Amz-Security-Token": "token"}))


def test_presigned_requests_are_refused() -> None:
    request = AWSRequest("POST", "http://kms.example/", data=b"")
    SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "kms", "us-east-1").add_auth(request)
    query = request.url.partition("?")[2]
    received = HttpRequest(
        method="POST", path="/", query=query, headers=[("host", "kms.example")], body=b""
    )
    with pytest.raises(IncompleteSignatureError, match="query string"):
        verify(received)
    for part in (query, *(each for each in query.split("&") if "Algorithm" in each)):
        with pytest.raises(IncompleteSignatureError, match="query string"):
            verify(signed(target=f"/?{part}"))
