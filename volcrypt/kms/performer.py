"""Check, log, act: how every request is carried out, whichever operation it is.

    1  one transaction on the catalogue, under the writer lock of the home:
           decide      find the key, evaluate policy and state; changes nothing
           record      the decision, durable in the audit log; also a refusal
           change      the rows that the operation changes, if any
           commit      rows and audit head together
    2  act             what needs the HSM alone (encrypt, decrypt), outside of the transaction

No effect without a record: a record that cannot be written ends the request. An effect that fails
after its record gets a second record with the same request id.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec

from volcrypt.errors import (
    DryRunSucceededError,
    KmsError,
    KmsInternalError,
    VolcryptError,
)
from volcrypt.formats.audit_record import AuditEvent, Resource, UserIdentity
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.messages.base import Request
from volcrypt.kms.model import Caller, volume_service
from volcrypt.kms.protocol import READ_ONLY_OPERATIONS, audit_parameters, check_limits
from volcrypt.kms.view import Change, View

T = TypeVar("T")
_DRY_RUN: Final = "The request would have succeeded, but the DryRun option is set."
_SERVICE: Final = "kms.amazonaws.com"
MAX_PARAMETER_BYTES: Final = 64 * 1024


class Performer:
    """Carries out requests for one account and region. Safe for several threads."""

    def __init__(
        self,
        catalog: Catalog,
        audit: AuditLog,
        *,
        account: str,
        region: str,
        clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._audit = audit
        self._account = account
        self._region = region
        self._clock = clock

    def perform(
        self,
        caller: Caller,
        operation: str,
        request: Request[Any] | None,
        decide: Callable[[Attempt], Effect[T]],
    ) -> T:
        """Raises what `decide` and the effect raise, and when no record can be written
        NoSpaceError, AuditChainError, KmsInternalError or TryAgainError."""
        attempt: Attempt | None = None
        try:
            with self._catalog.changing() as change:
                attempt = Attempt(
                    caller=caller,
                    operation=operation,
                    account=self._account,
                    region=self._region,
                    change=change,
                    now=self._clock(),
                    parameters=_recordable_parameters(request),
                    request_id=str(uuid4()),
                )
                effect, refusal = _decide(attempt, request, decide)
                self._record(attempt, refusal)
                if effect is not None and effect.change is not None:
                    effect.change(change)
        except VolcryptError as error:
            if attempt is not None and attempt.change.has_new_audit_head:
                # Its record says that it was to happen, and nothing of the transaction did.
                self._record_failure(attempt, error)
            raise
        if effect is None:
            assert refusal is not None, "internal error: neither effect nor refusal"
            raise refusal
        try:
            return effect.act()
        except VolcryptError as error:
            self._record_failure(attempt, error)
            raise

    def perform_by_service(
        self,
        operation: str,
        key: Resource,
        effect: Callable[[Change], None],
        *,
        account: str,
        region: str,
        is_due: Callable[[View], bool],
    ) -> None:
        """What the KMS does of its own accord, as an event of the service; nothing, and no event,
        if it is not due any more."""
        with self._catalog.changing() as change:
            if is_due(change):
                details = {"keyId": key.arn}
                event = self._service_event(
                    operation, details, account=account, region=region, resources=[key]
                )
                self._append(change, event)
                effect(change)

    def _record_failure(self, attempt: Attempt, error: VolcryptError) -> None:
        """The second record. That it cannot be written must not hide why the request failed."""
        with suppress(VolcryptError), self._catalog.changing() as attempt.change:
            self._record(attempt, error)

    def _record(self, attempt: Attempt, error: VolcryptError | None) -> None:
        caller = attempt.caller
        event = AuditEvent(
            user_identity=UserIdentity(
                type="Root" if caller.is_root else "IAMUser",
                arn=caller.arn,
                account_id=caller.account,
                invoked_by=volume_service(self._region) if caller.via_service else None,
            ),
            event_time=self._now(),
            event_name=attempt.operation,
            aws_region=self._region,
            source_ip_address=caller.source_address,
            user_agent=caller.user_agent,
            error_code=None if error is None else _code_of(error),
            error_message=None if error is None else _utf8(str(error)),
            request_parameters=attempt.parameters,
            response_elements=None if error is not None else attempt.response_elements,
            request_id=attempt.request_id,
            event_id=str(uuid4()),
            read_only=attempt.operation in READ_ONLY_OPERATIONS,
            resources=list(attempt.resources),
            recipient_account_id=self._account,
        )
        self._append(attempt.change, event)

    def _append(self, change: Change, event: AuditEvent) -> None:
        head = self._audit.append(change.audit_head, [event], recovery=self._recovery_event)
        change.set_audit_head(head)

    def _recovery_event(self, record_count: int, byte_count: int) -> AuditEvent:
        details = {
            "unsealedRecordsTakenOver": record_count,
            "unfinishedBytesCutOff": byte_count,
        }
        return self._service_event(
            "RecoverAuditLog", details, account=self._account, region=self._region, resources=[]
        )

    def _service_event(
        self,
        operation: str,
        details: dict[str, Any],
        *,
        account: str,
        region: str,
        resources: list[Resource],
    ) -> AuditEvent:
        return AuditEvent(
            user_identity=UserIdentity(type="AWSService", account_id=account, invoked_by=_SERVICE),
            event_time=self._now(),
            event_name=operation,
            aws_region=region,
            source_ip_address=_SERVICE,
            user_agent=_SERVICE,
            request_parameters=None,
            response_elements=None,
            request_id=str(uuid4()),
            event_id=str(uuid4()),
            read_only=False,
            resources=resources,
            event_type="AwsServiceEvent",
            recipient_account_id=account,
            service_event_details=details,
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decide(
    attempt: Attempt, request: Request[Any] | None, decide: Callable[[Attempt], Effect[T]]
) -> tuple[Effect[T] | None, VolcryptError | None]:
    """What `decide` says, or why it refuses."""
    try:
        if request is not None:
            check_limits(request)
        effect = decide(attempt)
    except VolcryptError as error:
        return None, error
    if getattr(request, "dry_run", False):
        return None, DryRunSucceededError(_DRY_RUN)
    return effect, None


def _recordable_parameters(request: Request[Any] | None) -> dict[str, Any] | None:
    """None for what is too long or no valid text; such a request is refused."""
    if request is None:
        return None
    parameters = audit_parameters(request)
    try:
        size = len(msgspec.json.encode(parameters))
    except UnicodeEncodeError:
        return None
    return parameters if size <= MAX_PARAMETER_BYTES else None


def _code_of(error: VolcryptError) -> str:
    return error.code if isinstance(error, KmsError) else KmsInternalError.code


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()
