"""What S3, or the way to it, says when it refuses or fails, as one of our errors. Pure.

obstore has a few classes of errors, and the code and status of the service in their text only.
"""

import re
from typing import Final

from volcrypt.errors import (
    BucketNotFoundError,
    ConfigurationError,
    NoSpaceError,
    ObjectNotFoundError,
    ObjectStoreError,
    StoreAccessError,
    StoreAccessNowError,
    VolcryptError,
)

_CODE = re.compile(r"<Code>([\w.]+)</Code>|\(code: ([\w.]+)\)")
_STATUS = re.compile(r"status code: (\d{3})")
_DEBUG: Final = "\n\nDebug source"
_CREDENTIALS_HINT: Final = (
    "credentials come from where the aws command takes them: environment, ~/.aws, instance role"
)
_PERMISSION_HINT: Final = (
    "they are needed to list the bucket, and to read, write and delete objects; "
) + _CREDENTIALS_HINT
_CLOCK_HINT: Final = "set the clock of this host right, or have NTP do it"
_BUSY_HINT: Final = "the service limits requests; 'snapshot create --rate' sends fewer"
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
    "TokenRefreshRequired": "the session token has expired",
}
_CLOCK_CODES: Final = {"RequestTimeTooSkewed", "RequestExpired"}
_NO_CREDENTIALS: Final = "lacked valid authentication credentials"
_FULL_CODES: Final = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
_BUSY_CODES: Final = {"SlowDown", "TooManyRequests", "Throttling", "ThrottlingException"}
_PASSING_CODES: Final = {"RequestTimeout"}
"""Answered with a status of those who did something wrong, and yet no fault of ours."""
_TRANSPORT: Final = (
    # A word of the cause, and what it means; the first that is found.
    ("TimedOut", "no answer in time"),
    ("operation timed out", "no answer in time"),
    ("dns error", "the host of its endpoint is not known"),
    ("InvalidCertificate", "the certificate of its endpoint is not trusted"),
    ("kind: Connect", "no connection to its endpoint"),
)


def translated(
    error: Exception, what: str, *, name: str | None, bucket: str, region: str, url: str
) -> VolcryptError:
    """What the service or the way to it says of a request for `what`, as one of our errors; `name`
    is that of the object that may be missing. Codes come before the class: obstore takes a missing
    bucket for a missing object."""
    code, status = error_code(error), _status(error)
    where = f"snapshot store {url}"
    said = " ".join(filter(None, (code, f"({status})" if status is not None else "")))
    if code == "NoSuchBucket":
        return BucketNotFoundError(bucket)
    if code in _REGION_CODES or _BARE_REDIRECT in str(error):
        return ConfigurationError(
            f"{where}: the bucket is not in region {region}",
            hint="give the region of the bucket with --region",
        )
    if code in _FULL_CODES or status == 507:
        return NoSpaceError(f"{where}: the service has no more room: {said}")
    if (refusal := _refusal(error, what, code, status, where)) is not None:
        return refusal
    if isinstance(error, FileNotFoundError) and name is not None:
        return ObjectNotFoundError(name)
    if status == 404:
        return ConfigurationError(
            f"{where}: nothing that speaks S3 answers at its endpoint: {said}"
        )
    if code == "NotImplemented" or status == 501:
        return ConfigurationError(f"{where}: the service does not know this request: {said}")
    if _is_passing(error):
        hint = _BUSY_HINT if code in _BUSY_CODES or status == 429 else None
        return ObjectStoreError(f"{where}: the service fails with {said}", hint=hint)
    if status is not None and 400 <= status < 500:
        return ConfigurationError(f"{where}: the service refuses {what}: {said}")
    if said:
        return ObjectStoreError(f"{where}: the service fails with {said}")
    causes = (meaning for word, meaning in _TRANSPORT if word in str(error))
    return ObjectStoreError(f"{where}: {next(causes, None) or brief(error)}")


def _refusal(
    error: Exception, what: str, code: str | None, status: int | None, where: str
) -> StoreAccessError | None:
    """Who may not do this, as far as the service can tell."""
    if code is not None and code.startswith("KMS."):
        return StoreAccessError(
            f"{where}: the service cannot use the key that it is to encrypt {what} with: {code}",
            hint="that key is the one of 'store create --sse'",
        )
    if code in _CREDENTIAL_CODES:
        return StoreAccessError(f"{where}: {_CREDENTIAL_CODES[code]}", hint=_CREDENTIALS_HINT)
    if code in _CLOCK_CODES:
        return StoreAccessNowError(
            f"{where}: the clock of this host differs too much from the service's",
            hint=_CLOCK_HINT,
        )
    if _NO_CREDENTIALS in str(error) and status is None:
        # Whoever was to say which they are could not.
        reason = brief(error).rpartition("credential provider: ")[2]
        return StoreAccessNowError(
            f"{where}: there are no credentials now: {reason}", hint=_CREDENTIALS_HINT
        )
    if status in (401, 403) or code == "AccessDenied":
        return StoreAccessError(f"{where}: access to {what} is denied", hint=_PERMISSION_HINT)
    return None


def is_to_be_repeated(error: Exception) -> bool:
    """Whether the service says that the same request may do in a moment, and obstore, which repeats
    the others, does not know: two writers who met, a line that is too slow."""
    return error_code(error) in _PASSING_CODES or _status(error) in (409, 425)


def _is_passing(error: Exception) -> bool:
    return is_to_be_repeated(error) or _status(error) in (408, 429)


def is_there_already(error: Exception) -> bool:
    """Whether a conditional put was refused since there is such an object: a conflict (409) says
    no more than that somebody else is putting it too."""
    return _status(error) != 409


def error_code(error: Exception) -> str | None:
    found = _CODE.search(str(error).partition(_DEBUG)[0])
    return (found[1] or found[2]) if found else None


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error).partition(_DEBUG)[0])
    return int(found[1]) if found else None


def brief(error: Exception) -> str:
    """The first line of what obstore says; the rest is for its own authors."""
    return str(error).partition("\n")[0]
