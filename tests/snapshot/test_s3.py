"""A bucket that is missing, closed, slow, broken, throttling or lying; and what is asked of it."""

import os
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from hashlib import md5

import pytest
import trio

from tests.fakes.chunks import MemoryChunks
from tests.fakes.snapshots import Host, create_store, open_store, snapshot_id
from tests.faulty_proxy import Answer, Fault, FaultyProxy, Request, failure, stalled
from tests.s3_server import (
    IMPATIENT,
    READER_KEY,
    READER_SECRET,
    S3Server,
)
from volcrypt.errors import (
    BucketNotFoundError,
    ConfigurationError,
    MalformedError,
    ObjectStoreError,
    StoreAccessError,
    StoreAccessNowError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.damage import DamageKind
from volcrypt.snapshot.probe import check_objects
from volcrypt.snapshot.s3 import BucketEncryption, Patience, S3Objects
from volcrypt.snapshot.signer import LogHead
from volcrypt.snapshot.verify import verify

CALLS: dict[str, Callable[[S3Objects], object]] = {
    "put_if_absent": lambda objects: objects.put_if_absent("a", b"1"),
    "replace": lambda objects: objects.replace("a", b"1"),
    "get": lambda objects: objects.get("a"),
    "get_into": lambda objects: objects.get_into("a", bytearray(1)),
    "list": lambda objects: list(objects.list("a")),
    "delete": lambda objects: objects.delete("a"),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def always(answer: Answer | None) -> Fault:
    return lambda _request, _forward: answer


def at_first(count: int, answer: Answer | None) -> Fault:
    """The first requests go wrong, all others well."""
    left = [count]

    def fault(_request: Request, forward: Callable[[], Answer]) -> Answer | None:
        left[0] -= 1
        return answer if left[0] >= 0 else forward()

    return fault


# ---------------------------------------------------------------- refusals


@every_call
def test_a_missing_bucket_is_named(
    s3_server: S3Server, prefix: str, call: Callable[[S3Objects], object]
) -> None:
    objects = s3_server.objects(prefix, name="no-such-bucket", patience=IMPATIENT)
    with pytest.raises(BucketNotFoundError, match="bucket no-such-bucket does not exist") as caught:
        call(objects)
    assert caught.value.hint is not None


@every_call
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"access_key": "UNKNOWN"}, "the access key is not known"),
        ({"secret_key": "wrong"}, "the secret key does not fit"),
    ],
)
def test_wrong_credentials_are_told_apart(
    s3_server: S3Server,
    prefix: str,
    call: Callable[[S3Objects], object],
    keys: dict[str, str],
    says: str,
) -> None:
    with pytest.raises(StoreAccessError, match=says):
        call(s3_server.objects(prefix, patience=IMPATIENT, **keys))


def test_who_may_only_read_reads_and_is_refused_the_rest(s3_server: S3Server, prefix: str) -> None:
    s3_server.objects(prefix).put_if_absent("a", b"0")
    reader = s3_server.objects(
        prefix, access_key=READER_KEY, secret_key=READER_SECRET, patience=IMPATIENT
    )
    assert reader.get("a") == b"0"
    assert list(reader.list("")) == ["a"]
    for call in ("put_if_absent", "replace", "delete"):
        with pytest.raises(StoreAccessError, match="access to object a is denied"):
            CALLS[call](reader)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (failure(403, "RequestTimeTooSkewed"), StoreAccessNowError, "the clock of this host"),
        (failure(403, "ExpiredToken"), StoreAccessError, "token has expired"),
        (failure(400, "AuthorizationHeaderMalformed"), ConfigurationError, "not in region"),
        (failure(301, "PermanentRedirect"), ConfigurationError, "not in region us-east-1"),
        (failure(400, "InvalidRequest"), ConfigurationError, "refuses .*a.*: InvalidRequest"),
        (failure(500, "InternalError"), ObjectStoreError, r"fails with InternalError \(500\)"),
        (failure(503, "SlowDown"), ObjectStoreError, r"fails with SlowDown \(503\)"),
        (failure(429, "TooManyRequests"), ObjectStoreError, "TooManyRequests"),
        (Answer(200, {}, b"<html>"), ObjectStoreError, "snapshot store"),
        (None, ObjectStoreError, "snapshot store"),
    ],
)
def test_every_refusal_is_one_of_our_errors(
    objects: S3Objects, proxy: FaultyProxy, answer: Answer | None, kind: type[Exception], says: str
) -> None:
    proxy.fault = always(answer)
    calls = ["list"] if answer is not None and answer.status == 200 else list(CALLS)
    for call in calls:
        with pytest.raises(kind, match=says):
            CALLS[call](objects)


def test_what_does_not_listen_is_told_soon(s3_server: S3Server, prefix: str) -> None:
    objects = s3_server.objects(prefix, endpoint="http://127.0.0.1:9", patience=IMPATIENT)
    with pytest.raises(ObjectStoreError, match="no connection to its endpoint"):
        objects.get("a")
    objects = s3_server.objects(prefix, endpoint="https://no-such-host.invalid", patience=IMPATIENT)
    with pytest.raises(ObjectStoreError, match=r"not known|no connection"):
        objects.get("a")


# ---------------------------------------------------------------- patience


@every_call
def test_a_service_that_fails_or_throttles_for_a_moment_is_asked_again(
    objects: S3Objects, proxy: FaultyProxy, call: Callable[[S3Objects], object]
) -> None:
    for answer in (failure(503, "SlowDown"), failure(500, "InternalError"), None):
        proxy.fault = at_first(1, answer)
        call(objects)


@every_call
def test_a_service_that_is_too_slow_is_given_up(
    s3_server: S3Server, proxy: FaultyProxy, prefix: str, call: Callable[[S3Objects], object]
) -> None:
    patience = Patience(request_seconds=0.2, retry_seconds=1, retries=1)
    objects = s3_server.objects(prefix, endpoint=proxy.endpoint, patience=patience)
    proxy.fault = stalled(1)
    with pytest.raises(ObjectStoreError, match="no answer in time"):
        call(objects)


def test_a_put_whose_answer_was_lost_finds_itself(objects: S3Objects, proxy: FaultyProxy) -> None:
    lost: list[int] = []

    def lose(request: Request, forward: Callable[[], Answer]) -> Answer | None:
        answer = forward()
        if request.method == "PUT" and not lost:
            lost.append(answer.status)
            return None
        return answer

    proxy.fault = lose
    assert not objects.put_if_absent("b", b"mine")
    assert lost == [200]
    assert objects.get("b") == b"mine"


def test_a_put_that_collides_comes_again(objects: S3Objects, proxy: FaultyProxy) -> None:
    proxy.fault = at_first(2, failure(409, "ConditionalRequestConflict"))
    assert objects.put_if_absent("b", b"1")
    proxy.fault = always(failure(409, "ConditionalRequestConflict"))
    with pytest.raises(ObjectStoreError, match=r"fails with ConditionalRequestConflict \(409\)"):
        objects.put_if_absent("c", b"1")


def test_an_answer_that_breaks_off_is_asked_for_again(
    objects: S3Objects, proxy: FaultyProxy
) -> None:
    objects.replace("a", b"0123456789")
    half = Answer(200, {"Last-Modified": "Sun, 22 Nov 2026 04:00:00 GMT", "ETag": '"x"'}, b"01234")
    half.length = 10
    proxy.fault = at_first(2, half)
    assert objects.get("a") == b"0123456789"
    proxy.fault = always(half)
    with pytest.raises(ObjectStoreError, match="snapshot store"):
        objects.get("a")
    with pytest.raises(ObjectStoreError):
        objects.get_into("a", bytearray(10))


def test_no_more_is_read_than_there_is_room(objects: S3Objects, proxy: FaultyProxy) -> None:
    objects.replace("a", bytes(MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(MalformedError, match="too long"):
        objects.get("a")


# ---------------------------------------------------------------- lies


def ignoring_conditions(s3_server: S3Server) -> Fault:
    """Each put is done, whatever was there."""
    client = s3_server.client()

    def overwrite(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "PUT":
            bucket, _, key = request.path.removeprefix("/").partition("/")
            client.delete_object(Bucket=bucket, Key=key)
        return forward()

    return overwrite


def test_a_service_without_conditional_puts_is_found_out(
    objects: S3Objects, proxy: FaultyProxy, s3_server: S3Server
) -> None:
    check_objects(objects)
    assert list(objects.list("")) == ["a"]
    proxy.fault = ignoring_conditions(s3_server)
    with pytest.raises(ConfigurationError, match="overwrites objects"):
        check_objects(objects)
    assert list(objects.list("")) == ["a"]


def truncated(answer: Answer, _others: list[Answer]) -> Answer:
    return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])


def emptied(answer: Answer, _others: list[Answer]) -> Answer:
    return Answer(answer.status, answer.headers, b"")


def swapped(answer: Answer, others: list[Answer]) -> Answer:
    return next((other for other in others if other.body != answer.body), answer)


def hidden(_answer: Answer, _others: list[Answer]) -> Answer:
    return failure(404, "NoSuchKey")


LIES_PREFIX = "lies"


@pytest.fixture(scope="module")
def lied_about(s3_server: S3Server) -> LogHead | None:
    """A sound store with two snapshots in the bucket; answers the head of its log."""
    host = Host(create_store(s3_server.objects(LIES_PREFIX)))
    volume = MemoryChunks(3 * CHUNK_BYTES)
    for number in (1, 2):
        volume.fill(number, number)
        trio.run(partial(host.snapshot, number, volume))
    return host.head


@pytest.mark.parametrize(
    ("where", "lie"),
    [
        (where, lie)
        for where in ("manifests/", "chunks/", "pages/", "certificates/")
        for lie in (truncated, emptied, swapped, hidden)
        if (where, lie) != ("certificates/", swapped)  # the other signer's is never asked for
    ],
)
def test_a_lie_about_any_object_is_found_and_named(
    s3_server: S3Server,
    lied_about: LogHead | None,
    proxy: FaultyProxy,
    where: str,
    lie: Callable[[Answer, list[Answer]], Answer],
) -> None:
    objects = s3_server.objects(LIES_PREFIX, endpoint=proxy.endpoint, patience=IMPATIENT)
    assert verify(open_store(objects), expected_head=lied_about).damages == []
    seen: dict[str, Answer] = {}

    def fault(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.method == "GET" and f"/{where}" in request.path:
            seen[request.path] = answer
            return lie(answer, list(seen.values()))
        return answer

    proxy.fault = fault
    found = verify(open_store(objects), expected_head=lied_about)
    assert found.damages
    assert all(where in damage.name for damage in found.damages if damage.name)
    if lie is hidden and where != "certificates/":
        assert {damage.kind for damage in found.damages} == {DamageKind.MISSING}


async def test_a_store_shown_as_it_was_before_is_a_rollback(
    s3_server: S3Server, proxy: FaultyProxy, prefix: str
) -> None:
    store = create_store(s3_server.objects(prefix, endpoint=proxy.endpoint, patience=IMPATIENT))
    host = Host(store)
    volume = MemoryChunks(CHUNK_BYTES)
    volume.fill(0, 1)
    await host.snapshot(1, volume)
    old: dict[str, Answer] = {}

    def remember(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.method == "GET" and "list-type" in request.path:
            old[request.path] = answer
        return answer

    proxy.fault = remember
    verify(store)
    proxy.fault = None
    await host.snapshot(2, volume)
    # Listings as they were, and all objects that are asked for by name.
    proxy.fault = lambda request, forward: old.get(request.path) or forward()
    found = verify(store, expected_head=host.head)
    assert {damage.kind for damage in found.damages} == {DamageKind.ROLLED_BACK}
    assert found.snapshots == [snapshot_id(1)]


# ---------------------------------------------------------------- encryption by the service


@pytest.mark.parametrize(
    ("encryption", "headers"),
    [
        (BucketEncryption(algorithm="AES256"), {"x-amz-server-side-encryption": "AES256"}),
        (
            BucketEncryption(algorithm="aws:kms", kms_key_id="alias/store"),
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/store",
            },
        ),
        (
            BucketEncryption(algorithm="sse-c", customer_key=bytes(range(32))),
            {
                "x-amz-server-side-encryption-customer-algorithm": "AES256",
                "x-amz-server-side-encryption-customer-key": b64encode(bytes(range(32))).decode(),
                "x-amz-server-side-encryption-customer-key-MD5": b64encode(
                    md5(bytes(range(32)), usedforsecurity=False).digest()
                ).decode(),
            },
        ),
    ],
    ids=["s3", "kms", "customer"],
)
def test_each_request_has_the_encryption_that_it_needs_and_no_more(
    s3_server: S3Server,
    proxy: FaultyProxy,
    prefix: str,
    encryption: BucketEncryption,
    headers: dict[str, str],
) -> None:
    objects = s3_server.objects(
        prefix, endpoint=proxy.endpoint, patience=IMPATIENT, encryption=encryption
    )

    def pretend(request: Request, forward: Callable[[], Answer]) -> Answer:
        if "list-type" in request.path:
            return forward()
        described = {"ETag": '"1"', "Last-Modified": "Sun, 22 Nov 2026 04:00:00 GMT"}
        return Answer(200, described, b"1")

    proxy.fault = pretend
    for call in CALLS.values():
        call(objects)
    objects.put_if_absent("b", b"1", batched=True)
    objects.sync()
    wanted = {name.lower(): value for name, value in headers.items()}
    seen = set()
    for request in proxy.requests:
        sent = {
            name.lower(): value
            for name, value in request.headers.items()
            if "server-side-encryption" in name.lower()
        }
        # S3 refuses what it is not asked to encrypt, and a customer key that it has no use for.
        reads_object = request.method in ("GET", "HEAD") and "list-type" not in request.path
        is_needed = request.method == "PUT" or (reads_object and encryption.customer_key)
        assert sent == (wanted if is_needed else {}), request
        seen.add(("LIST" if "list-type" in request.path else request.method, bool(is_needed)))
    assert {method for method, _ in seen} == {"PUT", "GET", "HEAD", "DELETE", "LIST"}
    assert proxy.count("PUT") == 3


def test_what_the_service_encrypts_reads_back(s3_server: S3Server, prefix: str) -> None:
    encryption = BucketEncryption(algorithm="AES256")
    objects = s3_server.objects(prefix, encryption=encryption)
    data = os.urandom(CHUNK_BYTES)
    assert objects.put_if_absent("a", data)
    assert not objects.put_if_absent("a", data)
    assert objects.get("a") == data
    head = s3_server.client().head_object(Bucket="volcrypt-tests", Key=f"{prefix}/a")
    assert head["ServerSideEncryption"] == "AES256"
