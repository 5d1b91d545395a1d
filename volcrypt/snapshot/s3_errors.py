"""What S3, or the way to it, says when it refuses or fails, as one of our errors. Pure.

obstore has a few classes of errors, and the code and status of the service in their text only.
"""

import re
from typing import Final

from volcrypt.errors import (
    BucketNotFoundError,
    ConfigurationError,
    ObjectNotFoundError,
    ObjectStoreError,
    StoreAccessError,
    VolcryptError,
)

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
    ("InvalidCertificate", "the certificate of its endpoint is not trusted"),
    ("kind: Connect", "no connection to its endpoint"),
)


def translated(error: Exception, name: str, *, bucket: str, region: str, url: str) -> VolcryptError:
    """What the service or the way to it says, as one of our errors. Codes come before the class:
    obstore takes a missing bucket for a missing object."""
    code, status = error_code(error), _status(error)
    where = f"snapshot store {url}"
    if code == "NoSuchBucket":
        return BucketNotFoundError(bucket)
    if code in _REGION_CODES or _BARE_REDIRECT in str(error):
        return ConfigurationError(
            f"{where}: the bucket is not in region {region}",
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
    return ObjectStoreError(f"{where}: {next(causes, None) or brief(error)}")


def error_code(error: Exception) -> str | None:
    found = _CODE.search(str(error).partition(_DEBUG)[0])
    return (found[1] or found[2]) if found else None


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error).partition(_DEBUG)[0])
    return int(found[1]) if found else None


def brief(error: Exception) -> str:
    """The first line of what obstore says; the rest is for its own authors."""
    return str(error).partition("\n")[0]
