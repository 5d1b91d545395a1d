"""S3Objects: an object store in a bucket of S3, or of what speaks its protocol, below a prefix.

A put is conditional on the absence of the name (`If-None-Match: *`), which the service decides, so
that of any number of hosts one wins. A service that ignores the condition is found out by
`snapshot.probe` before a store is made there. What the service answers is not believed: callers
check digests and signatures, and `sync` asks, by a HEAD, for each batched object that the service
said it stored since the last one, and is not content with another length.

Requests are bounded in time and repeated a few times when the service is busy or the network fails
(`Patience`); what remains is one of our errors (`s3_errors`). A put whose first answer was lost is
repeated and finds itself: False means that there is such an object, not whose it is.

obstore is used by its synchronous half, from worker threads: its asynchronous one wants asyncio. It
reads options from variables of the environment that no other program knows; those that decide where
requests go, and whether they are signed and conditional, are given here, which counts more.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store
from typing_extensions import Buffer

from volcrypt.errors import (
    ConfigurationError,
    MalformedError,
    ObjectNotFoundError,
    ObjectStoreError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.snapshot.acknowledged import Acknowledged
from volcrypt.snapshot.interruptible import interruptibly
from volcrypt.snapshot.objects import ObjectStore
from volcrypt.snapshot.s3_errors import brief, is_there_already, is_to_be_repeated, translated

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, S3Config, S3CredentialProvider

IN_FLIGHT: Final = 16
"""Requests at once that hide the latency of a service some tens of milliseconds away."""
LONGEST_PAUSE_SECONDS: Final = 5
_LIST_NAMES: Final = 1000
_PAUSES: Final = (0.05, 0.1, 0.2, 0.4)
"""Seconds between the tries of a request that the service wants to see again."""
_BROKEN_TRIES: Final = 3
_NAME_CHARACTERS: Final = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

Result = TypeVar("Result")


class AwsCredential(TypedDict):
    """What requests are signed with; `expires_at` None for one that does not expire."""

    access_key_id: str
    secret_access_key: str
    token: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketEncryption:
    """The encryption that the service is asked to add to ours (`server side encryption`)."""

    algorithm: str
    """`AES256` (SSE-S3), `aws:kms` (SSE-KMS) or `sse-c` (SSE-C), as obstore calls them."""
    kms_key_id: str | None = None
    customer_key: bytes | None = field(default=None, repr=False)
    """The 32 bytes of SSE-C: sent with each request, so over TLS only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a service, and how often to ask again, before giving up: a call ends
    after `retry_seconds`, `request_seconds` and `LONGEST_PAUSE_SECONDS` at the latest."""

    connect_seconds: float = 5
    request_seconds: float = 60
    """For one whole request: a chunk of 512 KiB over a slow line."""
    retry_seconds: float = 60
    """No request is repeated later than this after its first try."""
    retries: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where objects lie, and how to get there."""

    name: str
    prefix: str
    region: str
    endpoint: str | None = None
    """None: AWS itself."""
    encryption: BucketEncryption | None = None
    ca_certificates: bytes | None = None
    """PEM of authorities that are trusted besides those of the system."""

    @property
    def url(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


class S3Objects:
    """Objects in a bucket. Nothing is asked of the service before the first call."""

    in_flight = IN_FLIGHT

    def __init__(
        self,
        bucket: Bucket,
        credentials: Callable[[], AwsCredential],
        *,
        patience: Patience | None = None,
    ) -> None:
        self.location = bucket.url
        self._bucket = bucket
        self._acknowledged = Acknowledged(bucket.url)
        patience = patience or Patience()
        self._retry_seconds = patience.retry_seconds
        endpoint = bucket.endpoint or f"https://s3.{bucket.region}.amazonaws.com"
        config: S3Config = {
            "region": bucket.region,
            "disable_bulk_delete": True,
            "aws_endpoint_url_s3": endpoint,
            "skip_signature": False,
            "unsigned_payload": False,
            "conditional_put": "etag",
        }
        if (encryption := bucket.encryption) is not None:
            config["server_side_encryption"] = encryption.algorithm
            if encryption.kms_key_id is not None:
                config["sse_kms_key_id"] = encryption.kms_key_id
            if encryption.customer_key is not None:
                config["sse_customer_key_base64"] = b64encode(encryption.customer_key).decode()
        client: ClientConfig = {
            # Where plain HTTP is allowed at all is decided where the URL comes from.
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=patience.connect_seconds),
            "timeout": timedelta(seconds=patience.request_seconds),
        }
        if bucket.ca_certificates is not None:
            client["root_certificate"] = bucket.ca_certificates
        try:
            self._store = S3Store(
                bucket.name,
                prefix=bucket.prefix or None,
                config=config,
                client_options=client,
                retry_config={
                    "max_retries": patience.retries,
                    "retry_timeout": timedelta(seconds=patience.retry_seconds),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.2),
                        "max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS),
                        "base": 2,
                    },
                },
                credential_provider=cast("S3CredentialProvider", credentials),
            )
        except (BaseError, ValueError) as error:
            raise ConfigurationError(f"snapshot store {bucket.url}: {brief(error)}") from error

    def close(self) -> None:
        """Nothing is held open that has to be given back."""

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        view = memoryview(data)

        def put() -> bool:
            try:
                obstore.put(self._store, name, view, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                # Two puts at once may both be told to come again: then none of them has won yet.
                if is_there_already(error):
                    return False
                raise
            return True

        is_new = self._put(name, put)
        if is_new and batched:
            self._acknowledged.add(name, view.nbytes)
        return is_new

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        view = memoryview(data)
        self._put(name, lambda: obstore.put(self._store, name, view, use_multipart=False))
        if batched:
            self._acknowledged.add(name, view.nbytes)

    def get(self, name: str) -> bytes:
        pieces, length = self._read(name, MAX_DOCUMENT_BYTES)
        if length > MAX_DOCUMENT_BYTES:
            raise MalformedError(f"object {name}", "too long")
        return pieces

    def get_into(self, name: str, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data, length = self._read(name, view.nbytes)
        view[: len(data)] = data
        return length

    def list(self, prefix: str) -> Iterator[str]:
        directory, _, begun = prefix.rpartition("/")
        seen: set[str] = set()
        with self._errors_translated(f"the list of {prefix}*"):
            batches = obstore.list(
                self._store,
                directory or None,
                offset=_just_before(prefix) if begun else None,
                chunk_size=_LIST_NAMES,
            )
            while batch := interruptibly(partial(next, batches, None)):
                # Its first name, of a list that goes round in circles.
                if batch[0]["path"] in seen:
                    raise ConfigurationError(
                        f"snapshot store {self.location}: the service lists the same over and over"
                    )
                seen.add(batch[0]["path"])
                for entry in batch:
                    name = entry["path"]
                    if name.startswith(prefix):
                        yield name
                    elif begun and name > prefix:
                        return  # S3 lists in order

    def delete(self, name: str) -> None:
        self._acknowledged.forget(name)
        with suppress(ObjectNotFoundError):
            self._ask(name, lambda: obstore.delete(self._store, name))

    def sync(self) -> None:
        """What S3 acknowledged is durable, where it is there. Raises ObjectLostError."""
        self._acknowledged.check(self._length)

    # ------------------------------------------------------------ requests

    def _read(self, name: str, limit: int) -> tuple[bytes, int]:
        """The first `limit` bytes of an object, and the length that the service says it has."""
        give_up_at = time.monotonic() + self._retry_seconds
        for rest in reversed(range(_BROKEN_TRIES)):
            response = self._ask(name, lambda: obstore.get(self._store, name))
            length = response.meta["size"]
            # obstore repeats requests that fail, and not all of those whose answer breaks off.
            try:
                with self._errors_translated(f"object {name}", name):
                    data = interruptibly(partial(_first_bytes, response, min(limit, length)))
            except ObjectStoreError:
                if rest == 0 or time.monotonic() > give_up_at:
                    raise
            else:
                return data, length
        raise AssertionError("internal error: the last try returns or raises")

    def _length(self, name: str) -> int | None:
        """Of an object, None when it is not there."""
        try:
            return self._ask(name, lambda: obstore.head(self._store, name)["size"])
        except ObjectNotFoundError:
            return None

    def _ask(self, name: str, request: Callable[[], Result]) -> Result:
        """The answer to a request for an object that is there, or raises ObjectNotFoundError."""
        with self._errors_translated(f"object {name}", name):
            return self._repeated(request)

    def _put(self, name: str, request: Callable[[], Result]) -> Result:
        """The answer to a request for which no object need be there."""
        with self._errors_translated(f"object {name}"):
            return self._repeated(request)

    def _repeated(self, request: Callable[[], Result]) -> Result:
        for pause in _PAUSES:
            try:
                return interruptibly(request)
            except BaseError as error:
                if not is_to_be_repeated(error):
                    raise
            time.sleep(pause)
        return interruptibly(request)

    @contextmanager
    def _errors_translated(self, what: str, name: str | None = None) -> Iterator[None]:
        """`name`: of the object that may be missing."""
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError, OSError) as error:
            raise translated(
                error,
                what,
                name=name,
                bucket=self._bucket.name,
                region=self._bucket.region,
                url=self.location,
            ) from error


def _first_bytes(response: "GetResult", count: int) -> bytes:
    """No more of a body is read than is asked for: the length of an object is anybody's."""
    data = bytearray()
    for piece in response.stream(min_chunk_size=min(max(count, 1), 2**20)):
        data += piece[: count - len(data)]
        if len(data) >= count:
            break
    if len(data) < count:
        raise OSError("the answer was cut short")
    return bytes(data)


def _just_before(prefix: str) -> str | None:
    """A name that stands before all that start with `prefix`, and behind most of the others; None
    to begin at the beginning. Listings start after it."""
    lower = _NAME_CHARACTERS.partition(prefix[-1])[0]
    return f"{prefix[:-1]}{lower[-1]}zzzzzzzz" if lower else None


if TYPE_CHECKING:

    def _conforms(objects: S3Objects) -> ObjectStore:
        return objects
