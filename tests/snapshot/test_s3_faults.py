"""What a service may answer besides the usual, and what becomes of it: no error that is not ours,
no call that lasts longer than it is said to, no put that is believed and was none."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from botocore.exceptions import CredentialRetrievalError

from tests.faulty_proxy import Answer, Fault, FaultyProxy, Request, failure
from tests.s3_server import IMPATIENT, S3Server
from tests.snapshot.test_s3 import CALLS, always, at_first, every_call
from volcrypt.errors import (
    ConfigurationError,
    NoSpaceError,
    ObjectLostError,
    ObjectStoreError,
    StoreAccessError,
    StoreAccessNowError,
)
from volcrypt.snapshot.probe import check_objects
from volcrypt.snapshot.s3 import AwsCredential, Bucket, BucketEncryption, Patience, S3Objects

STORED = Answer(200, {"ETag": '"1"'}, b"")


def pretending(part: str) -> Fault:
    """Puts of names with `part` are said to be stored, and are not."""

    def pretend(request: Request, forward: Callable[[], Answer]) -> Answer:
        return STORED if request.method == "PUT" and part in request.path else forward()

    return pretend


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("answer", "kind", "says", "hint"),
    [
        (failure(403, "RequestTimeTooSkewed"), StoreAccessNowError, "clock of this host", "NTP"),
        (failure(400, "ExpiredToken"), StoreAccessError, "token has expired", "aws command"),
        (failure(403, "AccessDenied"), StoreAccessError, "access to .*a.* is denied", "delete"),
        (
            failure(400, "KMS.NotFoundException"),
            StoreAccessError,
            "cannot use the key .*KMS.NotFoundException",
            "--sse",
        ),
        (failure(507, "XMinioStorageFull"), NoSpaceError, "no more room", "free some space"),
        (failure(403, "QuotaExceeded"), NoSpaceError, "no more room", "free some space"),
        (failure(501, "NotImplemented"), ConfigurationError, "does not know this request", None),
        (failure(405, "MethodNotAllowed"), ConfigurationError, "refuses", None),
        (failure(429, "TooManyRequests"), ObjectStoreError, "TooManyRequests", "--rate"),
        (failure(503, "SlowDown"), ObjectStoreError, r"fails with SlowDown \(503\)", None),
        (failure(409, "OperationAborted"), ObjectStoreError, "OperationAborted", None),
        (failure(400, "RequestTimeout"), ObjectStoreError, "RequestTimeout", None),
        (Answer(502, {}, b"<html>"), ObjectStoreError, r"fails with \(502\)", None),
        (Answer(304, {}, b""), ObjectStoreError, "fails with", None),
    ],
)
def test_what_a_refusal_means(
    objects: S3Objects,
    proxy: FaultyProxy,
    answer: Answer,
    kind: type[Exception],
    says: str,
    hint: str | None,
) -> None:
    proxy.fault = always(answer)
    calls = CALLS
    if b"OperationAborted" in answer.body or b"RequestTimeout" in answer.body:
        calls = {name: CALLS[name] for name in ("put_if_absent", "get")}  # they are repeated
    for name, call in calls.items():
        if answer.status == 304 and name == "put_if_absent":
            continue  # it means that there is such an object
        with pytest.raises(kind, match=says) as caught:
            call(objects)
        assert objects.location in str(caught.value)
        if hint is not None:
            assert hint in str(getattr(caught.value, "hint", None))


@pytest.mark.parametrize("call", ["list", "put_if_absent", "replace"])
def test_something_else_than_s3_is_told(objects: S3Objects, proxy: FaultyProxy, call: str) -> None:
    proxy.fault = always(Answer(404, {}, b"<html>not here</html>"))
    with pytest.raises(ConfigurationError, match=r"nothing that speaks S3|does not exist"):
        CALLS[call](objects)


@every_call
def test_what_passes_in_a_moment_is_asked_again(
    objects: S3Objects, proxy: FaultyProxy, call: Callable[[S3Objects], object]
) -> None:
    for answer in (
        failure(409, "OperationAborted"),
        failure(400, "RequestTimeout"),
        failure(429, "TooManyRequests"),
    ):
        proxy.fault = at_first(1, answer)
        if call is CALLS["list"] and answer.status != 429:
            continue
        call(objects)


def test_a_conflict_is_not_taken_for_an_object(objects: S3Objects, proxy: FaultyProxy) -> None:
    proxy.fault = at_first(3, failure(409, "OperationAborted"))
    assert objects.put_if_absent("b", b"1")
    assert objects.get("b") == b"1"


def test_credentials_that_cannot_be_had(s3_server: S3Server, prefix: str) -> None:
    def provide() -> AwsCredential:
        raise CredentialRetrievalError(provider="sso", error_msg="the session is over")

    bucket = Bucket(name="b", prefix=prefix, region="us-east-1", endpoint=s3_server.endpoint)
    with pytest.raises(StoreAccessNowError, match=r"no credentials now: .*the session is over"):
        S3Objects(bucket, provide, patience=IMPATIENT).get("a")


# ---------------------------------------------------------------- deadlines


def test_an_answer_that_trickles_is_given_up_in_time(
    s3_server: S3Server, proxy: FaultyProxy, prefix: str
) -> None:
    patience = Patience(request_seconds=0.5, retry_seconds=0.5, retries=2)
    objects = s3_server.objects(prefix, endpoint=proxy.endpoint, patience=patience)
    objects.replace("a", bytes(1000))
    proxy.trickle = 0.05
    begun = time.monotonic()
    for call in (lambda: objects.get("a"), lambda: objects.get_into("a", bytearray(1000))):
        with pytest.raises(ObjectStoreError, match="no answer in time"):
            call()
    assert time.monotonic() - begun < 2 * (0.5 + 0.5 + 5)
    proxy.trickle = None
    assert objects.get("a") == bytes(1000)


def test_a_list_without_an_end_ends(objects: S3Objects, proxy: FaultyProxy) -> None:
    for number in range(3):
        objects.put_if_absent(f"b/{number}", b"")

    pages: list[Answer] = []

    def repeat(_request: Request, forward: Callable[[], Answer]) -> Answer:
        if not pages:
            pages.append(forward())
            more = b"<NextContinuationToken>x</NextContinuationToken><IsTruncated>true"
            pages[0].body = pages[0].body.replace(b"<IsTruncated>false", more)
        return pages[0]

    proxy.fault = repeat
    with pytest.raises(ConfigurationError, match="lists the same over and over"):
        list(objects.list("b/"))


@every_call
def test_ctrl_c_does_not_wait_for_an_answer(
    objects: S3Objects, proxy: FaultyProxy, call: Callable[[S3Objects], object]
) -> None:
    answered, first = threading.Event(), threading.Lock()

    def interrupt(_request: Request, _forward: Callable[[], Answer]) -> None:
        # Once: what is abandoned goes on, and asks again when nobody waits for it any more.
        if first.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)  # as a terminal does: the main thread has it
        answered.wait(30)

    proxy.fault = interrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            call(objects)
        assert len(proxy.requests) == 2  # nothing was asked again, nor answered
    finally:
        answered.set()


# ---------------------------------------------------------------- puts that were none


def test_a_put_that_was_none_is_found_by_the_next_sync(
    objects: S3Objects, proxy: FaultyProxy
) -> None:
    assert objects.put_if_absent("chunks/1", b"1", batched=True)
    objects.sync()
    proxy.fault = pretending("chunks/2")
    for number in (1, 2, 3):
        objects.put_if_absent(f"chunks/{number}", b"1", batched=True)
    # It is said again: what failed once has not become durable by asking once more.
    for _ in range(2):
        with pytest.raises(ObjectLostError, match="stored object chunks/2, and there is none"):
            objects.sync()
    proxy.fault = None
    assert objects.put_if_absent("chunks/2", b"1", batched=True)
    objects.sync()


def test_a_put_of_which_less_is_there_is_found(
    objects: S3Objects, proxy: FaultyProxy, s3_server: S3Server, prefix: str
) -> None:
    objects.replace("pages/1", b"12345", batched=True)
    s3_server.objects(prefix).replace("pages/1", b"123")
    with pytest.raises(ObjectLostError, match="pages/1, and it has 3 bytes"):
        objects.sync()
    objects.delete("pages/1")
    objects.sync()


def test_each_batched_object_is_asked_for_once(objects: S3Objects, proxy: FaultyProxy) -> None:
    for number in range(20):
        objects.put_if_absent(f"chunks/{number}", b"1", batched=True)
    objects.put_if_absent("chunks/0", b"1", batched=True)
    for _ in range(2):
        objects.sync()
    assert proxy.count("HEAD") == 20


def test_a_service_that_fails_while_it_is_asked_is_no_liar(
    objects: S3Objects, proxy: FaultyProxy
) -> None:
    objects.put_if_absent("chunks/1", b"1", batched=True)
    proxy.fault = always(failure(503, "SlowDown"))
    with pytest.raises(ObjectStoreError):
        objects.sync()
    proxy.fault = None
    objects.sync()
    assert proxy.count("HEAD") >= 2


# ---------------------------------------------------------------- what a place must be able to do


def older_versions() -> Fault:
    """What was read once is read again."""
    seen: dict[str, Answer] = {}

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "GET" and "list-type" not in request.path:
            return seen.setdefault(request.path, forward())
        return forward()

    return fault


def undeleted(request: Request, forward: Callable[[], Answer]) -> Answer:
    return Answer(204, {}, b"") if request.method == "DELETE" else forward()


def unlisted(request: Request, forward: Callable[[], Answer]) -> Answer:
    answer = forward()
    if "list-type" in request.path:
        answer.body = answer.body.replace(b"<Contents>", b"<Hidden>").replace(
            b"</Contents>", b"</Hidden>"
        )
    return answer


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (pretending("probes/"), "does not keep what it is given"),
        (always(failure(501, "NotImplemented")), "does not know this request"),
        (older_versions(), "older versions of an object"),
        (undeleted, "a deleted object is not gone at once"),
        (unlisted, "a new object is not listed at once"),
    ],
    ids=["forgets", "unknown", "older", "undeleted", "unlisted"],
)
def test_a_place_that_cannot_hold_a_store(
    objects: S3Objects, proxy: FaultyProxy, fault: Fault, says: str
) -> None:
    proxy.fault = fault
    with pytest.raises(ConfigurationError, match=says):
        check_objects(objects)


def test_the_environment_has_no_say_in_what_matters(
    s3_server: S3Server, proxy: FaultyProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(s3_server.port) as other:
        for name, value in {
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_UNSIGNED_PAYLOAD": "true",
            "AWS_CONDITIONAL_PUT": "disabled",
            "AWS_ENDPOINT": other.endpoint,
            "AWS_ENDPOINT_URL": other.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-west-1",
        }.items():
            monkeypatch.setenv(name, value)
        objects = s3_server.objects(prefix, endpoint=proxy.endpoint, patience=IMPATIENT)
        assert objects.put_if_absent("a", b"1")
        assert not objects.put_if_absent("a", b"2")
        assert objects.get("a") == b"1"
        put = proxy.requests[0].headers
        assert put["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD"
        # AWS itself is meant, and a customer key goes nowhere else.
        away = s3_server.objects(
            prefix,
            endpoint=None,
            region="no-such-region",
            patience=IMPATIENT,
            encryption=BucketEncryption(algorithm="sse-c", customer_key=bytes(32)),
        )
        with pytest.raises(ObjectStoreError):
            away.replace("a", b"1")
        assert other.requests == []
