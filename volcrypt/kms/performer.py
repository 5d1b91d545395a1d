"""Check, log, act: how every request is carried out, whichever operation it is.

    1  one transaction on the catalogue, under the writer lock of the home:
           decide      find the key, evaluate policy and state; changes nothing
           record      the decision, durable in the audit log; also a refusal
           change      the rows that the operation changes, if any
           commit      rows and audit head together
    2  act             what needs the HSM alone (encrypt, decrypt), outside of the transaction

No effect without a record: a record that cannot be written ends the request. An effect that fails
after its record gets a second record with the same request id.

Requests that read, or change nothing but a counter of calls, go through step 1 together: their
records are one append and one sync, whatever their number. What each of them changes is decided
with it, before the records; so a call that is one too many is recorded as refused. A request that
changes rows has the transaction for itself. The order of the requests is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final, TypeVar

from volcrypt.errors import DryRunSucceededError, KmsInternalError, VolcryptError
from volcrypt.formats.audit_record import AuditEvent, Resource
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.audit import MAX_BATCH, RECOVERY, AuditLog
from volcrypt.kms.audit_events import new_id, request_event, service_event
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.messages.base import Request
from volcrypt.kms.model import Caller
from volcrypt.kms.protocol import audit_parameters, check_limits
from volcrypt.kms.view import Change, View

T = TypeVar("T")
_DRY_RUN: Final = "The request would have succeeded, but the DryRun option is set."


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request, and what decides it; `request` is None where it could not be read.

    `changes_rows` is False where it shares a transaction with others: then `decide` must not rely
    on what the others change, and its change must be possible to leave out. `request_id` stands in
    its records; one is made where there is none. `parameters` are what they show where there is no
    request.
    """

    caller: Caller
    operation: str
    account: str
    region: str
    request: Request[Any] | None
    decide: Callable[[Attempt], Effect[Any]]
    changes_rows: bool
    request_id: str | None = None
    parameters: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class _Step:
    """A decided job: exactly one of `effect` and `error` is there."""

    attempt: Attempt
    effect: Effect[Any] | None = None
    error: VolcryptError | None = None


class Performer:
    """Carries out requests for all accounts and regions of a home. Safe for several threads."""

    def __init__(
        self,
        catalog: Catalog,
        audit: AuditLog,
        *,
        account: str,
        region: str,
        clock: Callable[[], float],
    ) -> None:
        """`account` and `region` are the home's own, for what concerns the log itself."""
        self._catalog = catalog
        self._audit = audit
        self._account = account
        self._region = region
        self._clock = clock

    def perform_all(self, jobs: Sequence[Job]) -> list[Any]:
        """For each job what its effect gives, or the VolcryptError that ended it: what `decide`
        and the effect raise, and when no record can be written NoSpaceError, AuditChainError,
        KmsInternalError or TryAgainError."""
        results: list[Any] = []
        for changes_rows, alike in groupby(jobs, key=lambda job: job.changes_rows):
            for batch in _batches(alike, 1 if changes_rows else MAX_BATCH):
                results += self._perform_batch(batch)
        return results

    def perform_by_service(
        self,
        operation: str,
        key: Resource | None,
        effect: Callable[[Change], None],
        *,
        is_due: Callable[[View], bool],
        account: str | None = None,
        region: str | None = None,
    ) -> None:
        """What the KMS does of its own accord, as an event of the service; nothing, and no event,
        if it is not due any more. `account` and `region` are the key's, the home's without one."""
        with self._catalog.changing() as change:
            if is_due(change):
                event = service_event(
                    operation,
                    {} if key is None else {"keyId": key.arn},
                    account=account or self._account,
                    region=region or self._region,
                    resources=[] if key is None else [key],
                    now=self._clock(),
                )
                self._append(change, [event])
                effect(change)

    def record_event(self, name: str, details: dict[str, Any]) -> None:
        """An event of the home's service that is about no key."""
        event = self._home_event(name, details)
        with self._catalog.changing() as change:
            self._append(change, [event])

    def _perform_batch(self, jobs: Sequence[Job]) -> list[Any]:
        steps: list[_Step] = []
        _, error = _attempted(lambda: self._record_and_change(jobs, steps))
        if error is None:
            return self._act(steps)
        allowed = [step.attempt for step in steps if step.effect is not None]
        if allowed and allowed[0].change.has_new_audit_head:
            # Their records say that it was to happen, and nothing of the transaction did.
            self._record_failures([(attempt, error) for attempt in allowed])
        return [error] * len(jobs)

    def _record_and_change(self, jobs: Sequence[Job], steps: list[_Step]) -> None:
        with self._catalog.changing() as change:
            steps += [self._decide(job, change) for job in jobs]
            now = self._clock()
            self._append(change, [request_event(s.attempt, s.error, now=now) for s in steps])
            for job, step in zip(jobs, steps, strict=True):
                if job.changes_rows:
                    _change(step.effect, change)

    def _decide(self, job: Job, change: Change) -> _Step:
        """What the job's effect is, or why it is refused."""
        attempt = Attempt(
            caller=job.caller,
            operation=job.operation,
            account=job.account,
            region=job.region,
            change=change,
            request=job.request,
            now=self._clock(),
            parameters=job.parameters if job.request is None else audit_parameters(job.request),
            request_id=job.request_id or new_id(),
        )

        def decide() -> Effect[Any]:
            if job.request is not None:
                check_limits(job.request)
            effect = job.decide(attempt)
            if getattr(job.request, "dry_run", False):
                raise DryRunSucceededError(_DRY_RUN)
            if not job.changes_rows:
                _change(effect, change)
            return effect

        effect, error = _attempted(decide)
        return _Step(attempt=attempt, effect=effect, error=error)

    def _act(self, steps: Sequence[_Step]) -> list[Any]:
        results: list[Any] = []
        failures: list[tuple[Attempt, VolcryptError]] = []
        for step in steps:
            if step.effect is None:
                results.append(step.error)
                continue
            result, error = _attempted(step.effect.act)
            if error is not None:
                failures.append((step.attempt, error))
            results.append(result if error is None else error)
        self._record_failures(failures)
        return results

    def _record_failures(self, failures: Sequence[tuple[Attempt, VolcryptError]]) -> None:
        """The second records. That they cannot be written must not hide why the requests failed."""
        if failures:
            now = self._clock()
            events = [request_event(attempt, error, now=now) for attempt, error in failures]
            with suppress(VolcryptError), self._catalog.changing() as change:
                self._append(change, events)

    def _append(self, change: Change, events: Sequence[AuditEvent]) -> None:
        head = self._audit.append(
            change.audit_head,
            events,
            recovery=self._recovery_event,
            seal=change.seal_audit_head,
        )
        change.set_audit_head(head)

    def _recovery_event(self, record_count: int, byte_count: int) -> AuditEvent:
        details = {
            "unsealedRecordsTakenOver": record_count,
            "unfinishedBytesCutOff": byte_count,
        }
        return self._home_event(RECOVERY, details)

    def _home_event(self, name: str, details: dict[str, Any]) -> AuditEvent:
        return service_event(
            name,
            details,
            account=self._account,
            region=self._region,
            resources=[],
            now=self._clock(),
        )


def _change(effect: Effect[Any] | None, change: Change) -> None:
    if effect is not None and effect.change is not None:
        effect.change(change)


def _attempted(function: Callable[[], T]) -> tuple[T | None, VolcryptError | None]:
    """What it gives, or why it failed. A bug is an answer too: it must not take the other requests
    with it, and what it did is recorded like any other failure."""
    try:
        return function(), None
    except VolcryptError as error:
        return None, error
    except Exception as bug:
        fault = KmsInternalError(f"internal error: {type(bug).__name__}")
        fault.__cause__ = bug
        return None, fault


def _batches(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    while batch := list(islice(jobs, size)):
        yield batch
