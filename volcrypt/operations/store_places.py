"""Places of snapshot stores: from a URL and options to open objects, and the rules for both.

Credentials are looked for by botocore where the aws command looks: environment, shared files,
single sign-on, container and instance roles. They are used and never kept.
"""

import ipaddress
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from volcrypt.durable import read_file
from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.formats.store_place import StorePlace
from volcrypt.snapshot.local import LocalObjects

if TYPE_CHECKING:
    from volcrypt.snapshot.s3 import AwsCredential, BucketEncryption, Patience, S3Objects

CUSTOMER_KEY_BYTES: Final = 32
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CREDENTIAL_LIFETIME = timedelta(minutes=5)
"""So often credentials are asked for again: botocore renews temporary ones in good time, and files
may have changed."""


def checked_place(place: StorePlace) -> StorePlace:
    """The place with everything decided that the environment may say. Raises
    InvalidArgumentError for one that is not acceptable."""
    url = urlsplit(place.url)
    if url.query or url.fragment:
        raise InvalidArgumentError(f"{place.url!r} is not the URL of a snapshot store")
    if url.scheme == "file":
        if url.netloc or not url.path.startswith("/"):
            raise InvalidArgumentError(
                f"{place.url!r} names no directory", hint="write it like file:///srv/snapshots"
            )
        if place.endpoint or place.encryption:
            raise InvalidArgumentError("a directory has no endpoint and no encryption of its own")
        return place
    if url.scheme != "s3" or not url.hostname or url.netloc != url.hostname:
        raise InvalidArgumentError(
            f"{place.url!r} is not the URL of a snapshot store",
            hint="write it like s3://bucket/prefix or file:///srv/snapshots",
        )
    named = (os.environ.get(variable) for variable in _ENDPOINT_VARIABLES)
    endpoint = place.endpoint or next(filter(None, named), None)
    if endpoint is not None:
        _check_endpoint(endpoint)
    encryption = place.encryption
    if encryption is not None:
        kind, _, value = encryption.partition(":")
        if kind == "customer":
            if endpoint is not None and not endpoint.startswith("https:"):
                raise InvalidArgumentError(
                    "a customer key is sent to the service with each request, so over TLS only"
                )
            encryption = f"customer:{Path(value).absolute()}"
        _encryption(encryption)
    return msgspec.structs.replace(place, endpoint=endpoint, encryption=encryption)


def _check_endpoint(endpoint: str) -> None:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidArgumentError(f"{endpoint!r} is not the URL of an S3 service")
    if url.scheme == "http" and not _is_loopback(url.hostname):
        raise InvalidArgumentError(
            f"{endpoint} is not on this host, and plain HTTP goes no further",
            hint="use https; the file that AWS_CA_BUNDLE names is trusted too",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_objects(
    place: StorePlace, *, make: bool = False, patience: "Patience | None" = None
) -> "LocalObjects | S3Objects":
    """The objects at a checked place; `make`: a directory that is not there is made; `patience`
    with a service, else the usual one.

    Raises StoreNotFoundError for a missing directory, ConfigurationError without credentials.
    """
    url = urlsplit(place.url)
    if url.scheme == "file":
        path = Path(url.path)
        return LocalObjects.create(path) if make else LocalObjects(path)
    # Loading obstore and botocore takes longer than most commands.
    from volcrypt.snapshot.s3 import Bucket, S3Objects

    assert url.hostname is not None, "internal error: the place was checked"
    bucket = Bucket(
        name=url.hostname,
        prefix=url.path.strip("/"),
        region=place.region,
        endpoint=place.endpoint,
        encryption=_encryption(place.encryption) if place.encryption else None,
        ca_certificates=_ca_certificates(),
    )
    return S3Objects(bucket, aws_credentials(), patience=patience)


def _encryption(text: str) -> "BucketEncryption":
    from volcrypt.snapshot.s3 import BucketEncryption

    kind, separator, value = text.partition(":")
    if text == "s3":
        return BucketEncryption(algorithm="AES256")
    if kind == "kms" and bool(separator) == bool(value):
        return BucketEncryption(algorithm="aws:kms", kms_key_id=value or None)
    if kind == "customer" and value:
        return BucketEncryption(algorithm="sse-c", customer_key=_customer_key(Path(value)))
    raise InvalidArgumentError(
        f"{text!r} is no encryption by the service",
        hint="it is one of s3, kms, kms:KEY and customer:FILE",
    )


def _customer_key(path: Path) -> bytes:
    key = _read(path, "the customer key of a bucket", limit_bytes=CUSTOMER_KEY_BYTES + 1)
    if len(key) != CUSTOMER_KEY_BYTES:
        raise InvalidArgumentError(f"{path} is no customer key: it has to be 32 random bytes")
    return key


def _ca_certificates() -> bytes | None:
    path = os.environ.get("AWS_CA_BUNDLE")
    return _read(Path(path), "AWS_CA_BUNDLE", limit_bytes=2**24) if path else None


def _read(path: Path, what: str, *, limit_bytes: int) -> bytes:
    try:
        return read_file(path, limit_bytes=limit_bytes)
    except OSError as error:
        raise ConfigurationError(f"cannot read {what}, {path}: {error.strerror}") from error


@cache
def aws_credentials() -> "Callable[[], AwsCredential]":
    """What answers with the present credentials. Raises ConfigurationError when there are none."""
    import botocore.session
    from botocore.credentials import RefreshableCredentials
    from botocore.exceptions import BotoCoreError

    from volcrypt.snapshot.s3 import AwsCredential

    # Below that, botocore logs answers whole, with the secrets of a role in them.
    logging.getLogger("botocore").setLevel(logging.INFO)

    def look() -> Any:
        return botocore.session.Session().get_credentials()

    try:
        found = look()
    except BotoCoreError as error:
        raise ConfigurationError(f"AWS credentials: {error}") from error
    if found is None:
        raise ConfigurationError(
            "there are no AWS credentials, which a store in S3 needs",
            hint="give them as for the aws command: AWS_ACCESS_KEY_ID, ~/.aws/credentials, a role",
        )
    looked_at = time.monotonic()

    def provide() -> AwsCredential:
        nonlocal found, looked_at
        is_old = time.monotonic() - looked_at >= _CREDENTIAL_LIFETIME.total_seconds()
        if is_old and not isinstance(found, RefreshableCredentials):
            # A process may serve a volume for months: somebody has put new ones into the file.
            with suppress(BotoCoreError):
                found = look() or found
            looked_at = time.monotonic()
        credentials = found.get_frozen_credentials()
        return AwsCredential(
            access_key_id=credentials.access_key,
            secret_access_key=credentials.secret_key,
            token=credentials.token,
            expires_at=datetime.now(UTC) + _CREDENTIAL_LIFETIME,
        )

    return provide
