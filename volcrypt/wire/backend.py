# ruff: noqa: SLF001
"""The home's KMS as the wire needs it: several requests at once, events, upkeep.

Everything here is called in the engine's thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from volcrypt.errors import VolcryptError
from volcrypt.kms.messages.base import Request, Response
from volcrypt.kms.model import Caller
from volcrypt.kms.scope import Parts
from volcrypt.kms.service import KmsService


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to one account and region; `check` is asked first, and raises when the caller
    may not call any more."""

    service: KmsService
    caller: Caller
    request: Request[Any]
    request_id: str
    check: Callable[[], None]


class Backend:
    """What serves all accounts and regions of one home."""

    def __init__(self, service: KmsService, *, account: str, region: str) -> None:
        self.service = service
        self._home = (account, region)
        self._scopes: dict[tuple[str, str], KmsService] = {(account, region): service}

    def scope(self, account: str, region: str) -> KmsService:
        """The service of another account and region."""
        found = self._scopes.get((account, region))
        if found is None:
            home = self.service
            parts = Parts(
                catalog=home._catalog,
                keystore=home._keystore,
                audit=home.audit_log,
                account=account,
                region=region,
                clock=home._clock,
            )
            found = self._scopes[account, region] = KmsService(parts)
        return found

    def perform_all(self, calls: Sequence[Call]) -> list[Response | VolcryptError]:
        """In their order, with one sync of the audit log; errors are returned."""
        results: list[Response | VolcryptError] = []
        for call in calls:
            try:
                results.append(call.service.perform(call.caller, call.request))
            except VolcryptError as error:
                results.append(error)
        return results

    def refuse(
        self,
        service: KmsService,
        caller: Caller,
        operation: str,
        request_id: str,
        error: VolcryptError,
    ) -> None:
        """Record a request that could not be read."""
        try:
            service._refuse(caller, operation, error)
        except VolcryptError as raised:
            if raised is not error:
                raise

    def record(self, event_name: str, details: dict[str, Any]) -> None:
        """Record an event of the service itself."""
        performer = self.service._performer
        with self.service._catalog.changing() as change:
            event = performer._service_event(event_name, details, resources=[])
            performer._append(change, event)

    def maintain(self) -> None:
        """Do what is due: deletions, expiries, rotations."""

    def has_principal(self, arn: str) -> bool:
        with self.service._catalog.reading() as view:
            return view.get("principal", arn) is not None

    def authorise(self, service: KmsService, caller: Caller, action: str) -> None:
        """Check and record that the caller may do something to the home as a whole."""
        authorise: Callable[[Caller, str], None] = service.authorise  # type: ignore[attr-defined]
        authorise(caller, action)
