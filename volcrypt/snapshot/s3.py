"""S3Objects: an object store in a bucket of S3, or of what speaks its protocol, below a prefix.

A put that S3 answered is durable, so `sync` has nothing to do; a put is conditional on the absence
of the name (`If-None-Match: *`), which the service decides, so that of any number of hosts one
wins. A service that ignores the condition is found out by `check_conditional_puts` before a store
is made there. What the service answers is not believed: callers check digests and signatures.

Requests are bounded in time and repeated a few times when the service is busy or the network fails;
what remains is one of our errors, from the table below. A put whose first answer was lost is
repeated and finds itself: False means that there is such an object, not whose it is.

obstore is used by its synchronous half, from worker threads: its asynchronous one wants asyncio.
"""

import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypedDict, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store
from typing_extensions import Buffer

from volcrypt.errors import (
    BucketNotFoundError,
    ConfigurationError,
    MalformedError,
    ObjectNotFoundError,
    ObjectStoreError,
    StoreAccessError,
    VolcryptError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.snapshot.objects import ObjectStore

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, S3Config, S3CredentialProvider

IN_FLIGHT: Final = 16
"""Requests at once that hide the latency of a service some tens of milliseconds away."""
PROBES: Final = "probes/"
_LIST_NAMES: Final = 1000
_CONFLICT_TRIES: Final = 5
_BROKEN_TRIES: Final = 3
_NAME_CHARACTERS: Final = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"


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
    """How long to wait for a service, and how often to ask again, before giving up."""

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
    """None: AWS itself, or what AWS_ENDPOINT_URL_S3 says."""
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
        patience = patience or Patience()
        config: S3Config = {"region": bucket.region, "disable_bulk_delete": True}
        if bucket.endpoint is not None:
            config["aws_endpoint_url_s3"] = bucket.endpoint
        if (encryption := bucket.encryption) is not None:
            config["server_side_encryption"] = encryption.algorithm
            if encryption.kms_key_id is not None:
                config["sse_kms_key_id"] = encryption.kms_key_id
            if encryption.customer_key is not None:
                config["sse_customer_key_base64"] = b64encode(encryption.customer_key).decode()
        client: ClientConfig = {
            # Where plain HTTP is allowed at all is decided where the URL comes from.
            "allow_http": bucket.endpoint is not None and bucket.endpoint.startswith("http:"),
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
                        "max_backoff": timedelta(seconds=5),
                        "base": 2,
                    },
                },
                credential_provider=cast("S3CredentialProvider", credentials),
            )
        except (BaseError, ValueError) as error:
            raise ConfigurationError(f"snapshot store {bucket.url}: {_brief(error)}") from error

    def close(self) -> None:
        """Nothing is held open that has to be given back."""

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        for _ in range(_CONFLICT_TRIES):
            try:
                with self._errors_translated(name):
                    obstore.put(
                        self._store, name, memoryview(data), mode="create", use_multipart=False
                    )
            except AlreadyExistsError as error:
                # Two puts at once may both be told to come again: then none of them has won yet.
                if _code(error) != "ConditionalRequestConflict":
                    return False
            else:
                return True
        raise ObjectStoreError(f"object {name} in {self.location}: others keep writing it")

    def replace(self, name: str, data: Buffer) -> None:
        with self._errors_translated(name):
            obstore.put(self._store, name, memoryview(data), use_multipart=False)

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
        with self._errors_translated(prefix):
            batches = obstore.list(
                self._store,
                directory or None,
                offset=_just_before(prefix) if begun else None,
                chunk_size=_LIST_NAMES,
            )
            for batch in batches:
                for entry in batch:
                    name = entry["path"]
                    if name.startswith(prefix):
                        yield name
                    elif begun and name > prefix:
                        return  # S3 lists in order

    def delete(self, name: str) -> None:
        with suppress(ObjectNotFoundError), self._errors_translated(name):
            obstore.delete(self._store, name)

    def sync(self) -> None:
        """What S3 acknowledged is durable."""

    # ------------------------------------------------------------ beyond the port

    def check_conditional_puts(self) -> None:
        """Raises ConfigurationError when a second put of one name is not refused here."""
        name = f"{PROBES}{secrets.token_hex(8)}"
        try:
            if self.put_if_absent(name, b"1") and not self.put_if_absent(name, b"2"):
                return
            raise ConfigurationError(
                f"{self.location} cannot hold snapshots: the service overwrites objects that it "
                "was asked not to (If-None-Match)"
            )
        finally:
            with suppress(VolcryptError):
                self.delete(name)

    # ------------------------------------------------------------ requests

    def _read(self, name: str, limit: int) -> tuple[bytes, int]:
        """The first `limit` bytes of an object, and the length that the service says it has."""
        for rest in reversed(range(_BROKEN_TRIES)):
            with self._errors_translated(name):
                response = obstore.get(self._store, name)
                length = response.meta["size"]
            # obstore repeats requests that fail, and not those whose answer breaks off.
            try:
                with self._errors_translated(name):
                    data = _first_bytes(response, min(limit, length))
            except ObjectStoreError:
                if rest == 0:
                    raise
            else:
                return data, length
        raise AssertionError("internal error: the last try returns or raises")

    @contextmanager
    def _errors_translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError, ValueError, OSError) as error:
            raise _translated(error, name, self._bucket) from error


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


# ---------------------------------------------------------------- errors

_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_STATUS = re.compile(r"status code: (\d{3})")
_DEBUG: Final = "\n\nDebug source"
_CREDENTIALS_HINT: Final = (
    "credentials come from where the aws command takes them: environment, ~/.aws, instance role"
)
_REGION_CODES: Final = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_BARE_REDIRECT: Final = "redirect without LOCATION"
_CREDENTIAL_CODES: Final = {
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clock of this host differs too much from the service's",
}
_TRANSPORT: Final = (
    # A word of the cause, and what it means; the first that is found.
    ("TimedOut", "no answer in time"),
    ("operation timed out", "no answer in time"),
    ("dns error", "the host of its endpoint is not known"),
    ("certificate", "the certificate of its endpoint is not trusted"),
    ("kind: Connect", "no connection to its endpoint"),
)


def _translated(error: Exception, name: str, bucket: Bucket) -> VolcryptError:
    """What the service or the way to it says, as one of our errors. Codes come before the class:
    obstore takes a missing bucket for a missing object."""
    code, status = _code(error), _status(error)
    where = f"snapshot store {bucket.url}"
    if code == "NoSuchBucket":
        return BucketNotFoundError(bucket.name)
    if code in _REGION_CODES or _BARE_REDIRECT in str(error):
        return ConfigurationError(
            f"{where}: the bucket is not in region {bucket.region}",
            hint="give the region of the bucket with --region",
        )
    if status in (401, 403) or code in ("AccessDenied", *_CREDENTIAL_CODES):
        reason = _CREDENTIAL_CODES.get(code or "", f"access to object {name} is denied")
        return StoreAccessError(f"{where}: {reason}", hint=_CREDENTIALS_HINT)
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError(name)
    if status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429):
        return ConfigurationError(f"{where}: the service refuses object {name}: {code or status}")
    if code is not None or status is not None:
        return ObjectStoreError(f"{where}: the service fails with {code or ''} ({status or '?'})")
    causes = (meaning for word, meaning in _TRANSPORT if word in str(error))
    return ObjectStoreError(f"{where}: {next(causes, None) or _brief(error)}")


def _code(error: Exception) -> str | None:
    found = _CODE.search(str(error).partition(_DEBUG)[0])
    return (found[1] or found[2]) if found else None


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error).partition(_DEBUG)[0])
    return int(found[1]) if found else None


def _brief(error: Exception) -> str:
    """The first line of what obstore says; the rest is for its own authors."""
    return str(error).partition("\n")[0]


if TYPE_CHECKING:

    def _conforms(objects: S3Objects) -> ObjectStore:
        return objects
