"""Audit events: what is recorded of a request, and of what the KMS does of its own accord."""

import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from volcrypt.errors import AccessDeniedError, KmsError, KmsInternalError, VolcryptError
from volcrypt.formats.audit_record import AuditEvent, Resource, UserIdentity
from volcrypt.kms.attempt import Attempt
from volcrypt.kms.model import Caller, volume_service
from volcrypt.kms.protocol import READ_ONLY_OPERATIONS

_SERVICE: Final = "kms.amazonaws.com"
_DENIED_IN_CLOUDTRAIL: Final = "AccessDenied"
_MAX_AGENT_LENGTH: Final = 1024
_USER_PREFIX: Final = "user/"


def request_event(attempt: Attempt, error: VolcryptError | None, *, now: float) -> AuditEvent:
    """The event of a request that was allowed, or ended with `error`."""
    caller = attempt.caller
    return AuditEvent(
        user_identity=_identity(caller, attempt.region),
        event_time=_time(int(now)),
        event_source=attempt.event_source,
        event_name=attempt.operation,
        aws_region=attempt.region,
        source_ip_address=_text(caller.source_address),
        user_agent=_text(caller.user_agent[:_MAX_AGENT_LENGTH]),
        error_code=None if error is None else _code_of(error),
        error_message=None if error is None else _text(str(error)),
        request_parameters=attempt.parameters,
        response_elements=None if error is not None else attempt.response_elements,
        request_id=attempt.request_id,
        event_id=new_id(),
        read_only=attempt.operation in READ_ONLY_OPERATIONS,
        resources=list(attempt.resources),
        recipient_account_id=attempt.account,
    )


def service_event(
    operation: str,
    details: dict[str, Any],
    *,
    account: str,
    region: str,
    resources: list[Resource],
    now: float,
) -> AuditEvent:
    """The event of something that the KMS does of its own accord."""
    return AuditEvent(
        user_identity=UserIdentity(type="AWSService", account_id=account, invoked_by=_SERVICE),
        event_time=_time(int(now)),
        event_name=operation,
        aws_region=region,
        source_ip_address=_SERVICE,
        user_agent=_SERVICE,
        request_parameters=None,
        response_elements=None,
        request_id=new_id(),
        event_id=new_id(),
        read_only=False,
        resources=resources,
        event_type="AwsServiceEvent",
        recipient_account_id=account,
        service_event_details=details,
    )


def new_id() -> str:
    """A random UUID (RFC 9562, version 4), at a tenth of what the standard library's costs."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@lru_cache(maxsize=1024)
def _identity(caller: Caller, region: str) -> UserIdentity:
    _, is_user, user = caller.arn.partition(f":{_USER_PREFIX}")
    return UserIdentity(
        type="Root" if caller.is_root else "AssumedRole" if caller.is_host else "IAMUser",
        arn=caller.arn,
        account_id=caller.account,
        access_key_id=caller.access_key_id,
        user_name=user.rpartition("/")[2] if is_user else None,
        invoked_by=volume_service(region) if caller.via_service else None,
    )


@lru_cache(maxsize=2)
def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _code_of(error: VolcryptError) -> str:
    """The name of an error as CloudTrail has it: a denied request is not called as on the wire."""
    if isinstance(error, AccessDeniedError):
        return _DENIED_IN_CLOUDTRAIL
    return error.code if isinstance(error, KmsError) else KmsInternalError.code


def _text(text: str) -> str:
    """Without what has no UTF-8 form."""
    return text if text.isascii() else text.encode(errors="replace").decode()
